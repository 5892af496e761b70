"""Clips to look at first: the least certain, and those unlike the training clips."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from fervid.cli import app
from fervid.core.errors import DatasetError, ModelIncompatible
from fervid.learn.dataset_layouts import Sample
from fervid.learn.feature_table import FeatureTable
from fervid.learn.suggestions import nearest_distances, suggest_clips
from fervid.media.inputs import read_list
from html_pages import clip, lines, report, windows

RUN = [clip("sure.mp4", sure=0.97), clip("unsure.mp4", sure=0.55), clip("none.mp4", "no_face"), clip("b.mp4", sure=0.1)]


def table(paths: list[str], *embeddings: tuple[float, float], face_model: str = "0" * 64) -> FeatureTable:
    return FeatureTable(
        tuple(Sample(Path(path), None) for path in paths),
        {"embedding.mean": np.array(embeddings, np.float32)},
        np.full(len(paths), 5),
        {"face": "main", "face_model": "toy", "face_model_sha256": face_model, "detector": "toy"},
    )


def suggest(*arguments: object) -> Result:
    return CliRunner().invoke(app.app, ["suggest", *map(str, arguments)])


def test_smallest_margin_comes_first() -> None:
    chosen = suggest_clips([one.as_dict() for one in RUN], 2)
    assert [(one.path, one.margin) for one in chosen] == [("unsure.mp4", 0.1), ("b.mp4", 0.8)]
    assert chosen[0].reason == "uncertain: calm 55 %, joy 45 %"
    assert [one.distance for one in chosen] == [None, None]


def test_single_label_has_the_full_margin() -> None:
    record = {**RUN[0].as_dict(), "probabilities": {"calm": 1.0}}
    assert suggest_clips([record], 5)[0].margin == 1.0


def test_unsure_and_unlike_clips_alternate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    distances = {str(tmp_path / name): value for name, value in (("sure.mp4", 0.9), ("b.mp4", 0.5), ("x.mp4", 1.0))}
    chosen = suggest_clips([one.as_dict() for one in RUN], 5, distances)
    assert [one.path for one in chosen] == ["unsure.mp4", "sure.mp4", "b.mp4"]
    assert chosen[1].reason == "unlike the training clips: distance 0.90 to the nearest"


def test_distance_is_to_the_nearest_training_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    training = table(["t", "u"], (1, 0), (0, 2))
    distances = nearest_distances(table(["a.mp4", "b.mp4"], (0, 5), (-1, -1)), training)
    assert distances[str(tmp_path / "a.mp4")] == pytest.approx(0, abs=1e-6)
    assert distances[str(tmp_path / "b.mp4")] == pytest.approx(1 + 2**-0.5)


def test_features_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ModelIncompatible, match="different face models"):
        nearest_distances(table(["a"], (0, 1)), table(["b"], (0, 1), face_model="1" * 64))
    with pytest.raises(DatasetError, match="embedding"):
        nearest_distances(table(["a"], ()), table(["b"], ()))


def test_list_has_reasons_and_can_be_read_again(tmp_path: Path) -> None:
    names = ["a b.mp4", "#c.mp4", '"d".mp4', " e.mp4", "'f'"]
    results = lines(tmp_path / "results.jsonl", [clip(name, sure=0.6) for name in names])
    printed = suggest(results, "-n", 9).stdout
    assert printed.startswith("# uncertain: calm 60 %, joy 40 %\na b.mp4\n")
    assert read_list(printed.encode()) == names


def test_json_and_csv(tmp_path: Path) -> None:
    results = lines(tmp_path / "results.jsonl", [clip("=a.mp4", sure=0.6)])
    (one,) = json.loads(suggest(results, "--format", "json").stdout)
    assert one == {
        "path": "=a.mp4",
        "reason": "uncertain: calm 60 %, joy 40 %",
        "label": "calm",
        "confidence": 0.6,
        "margin": 0.2,
        "distance": None,
    }
    (row,) = csv.DictReader(suggest(results, "--format", "csv").stdout.splitlines())
    assert (row["path"], row["margin"], row["distance"]) == ("'=a.mp4", "0.2", "")


def test_training_clips_are_not_suggested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    results = lines(tmp_path / "results.jsonl", RUN)
    table(["sure.mp4", "b.mp4"], (0, 1), (1, 1)).save(tmp_path / "clips.npz")
    table([str(tmp_path / "b.mp4")], (1, 0)).save(tmp_path / "training.npz")
    flags = ["--features", tmp_path / "clips.npz", "--training", tmp_path / "training.npz"]
    found = json.loads(suggest(results, *flags, "--format", "json").stdout)
    assert [(one["path"], one["distance"]) for one in found] == [("unsure.mp4", None), ("sure.mp4", pytest.approx(1))]
    refused = suggest(lines(tmp_path / "other.jsonl", RUN[1:]), *flags)
    assert refused.exit_code == 2
    assert "has no clip of" in refused.stderr


def test_wrong_use_is_refused(tmp_path: Path) -> None:
    results = lines(tmp_path / "results.jsonl", RUN)
    alone = suggest(results, "--features", "clips.npz")
    assert (alone.exit_code, "go together" in alone.stderr) == (2, True)
    for name, text in (("windows", windows("a", [0.5])), ("evaluation", [report()])):
        refused = suggest(lines(tmp_path / f"{name}.json", text))
        assert (refused.exit_code, "has no results of `fervid classify`" in refused.stderr) == (2, True)
