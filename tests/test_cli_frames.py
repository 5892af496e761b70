"""The command `frames`: rows of clips, broken clips and crashes, and the record that they pool to."""

from __future__ import annotations

import codecs
import csv
import io
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from typer.testing import CliRunner, Result

import fervid
from fervid.analysis.frame_rows import frame_columns
from fervid.batch import frame_runner
from fervid.batch.runner import RunConfig
from fervid.cli import app
from fervid.core.worker_process import WorkerDied


def frames(*arguments: object) -> Result:
    return CliRunner().invoke(app.app, ["frames", "--progress", "none", *map(str, arguments)])


def lines(result: Result) -> list[dict]:
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def broken(tmp_path: Path, smile: Path, scenery: Path) -> Path:
    """A folder with a smile, a text, a clip that breaks off, and scenery."""
    place = tmp_path / "broken"
    place.mkdir()
    shutil.copy(smile, place / "a.mp4")
    (place / "b.mp4").write_text("not a video\n" * 20)
    (place / "c.mp4").write_bytes(smile.read_bytes()[:2000])
    shutil.copy(scenery, place / "d.mp4")
    return place


def test_every_clip_has_rows(broken: Path) -> None:
    result = frames(broken)
    assert (result.exit_code, frames(broken, "--exit-zero").exit_code) == (1, 0)
    rows = lines(result)
    found = {Path(row["path"]).name: [] for row in rows}
    for row in rows:
        found[Path(row["path"]).name].append((row["frame"], row["success"], row["error"] and row["error"]["code"]))
    assert found == {
        "a.mp4": [(5 * i, 1, None) for i in range(6)],
        "b.mp4": [(None, 0, "not_a_video")],
        "c.mp4": [(None, 0, "truncated")],
        "d.mp4": [(5 * i, 0, None) for i in range(4)],
    }


def test_csv_resumes(broken: Path, tmp_path: Path) -> None:
    output = tmp_path / "frames.csv"
    assert frames(broken / "a.mp4", "-o", output).exit_code == 0
    first = output.read_bytes()
    assert frames(broken, "-o", output).exit_code == 2
    assert frames(broken, "-o", output, "--resume").exit_code == 1
    assert output.read_bytes().startswith(first)
    rows = list(csv.DictReader(io.StringIO(output.read_text())))
    assert [row["path"] for row in rows].count(str(broken / "a.mp4")) == 6
    assert rows[6]["error.code"] == "not_a_video"


def test_csv_for_excel_starts_with_a_byte_order_mark(smile: Path, scenery: Path, tmp_path: Path) -> None:
    output = tmp_path / "frames.csv"
    plain = frames(smile, scenery, "--format", "csv").stdout_bytes
    assert frames(smile, scenery, "--format", "csv", "--excel").stdout_bytes == codecs.BOM_UTF8 + plain
    assert frames(smile, "-o", output, "--excel").exit_code == 0
    assert frames(smile, scenery, "-o", output, "--excel", "--resume").exit_code == 0
    assert output.read_bytes() == codecs.BOM_UTF8 + plain
    assert frames(smile, scenery, "-o", output, "--excel", "--identify", "--force").exit_code == 0
    assert output.read_bytes().count(codecs.BOM_UTF8) == 1
    assert next(csv.DictReader(output.read_text("utf-8-sig").splitlines()))["identity"] == "person-1"


def test_options_choose_the_frames_and_columns(smile: Path) -> None:
    every = lines(frames(smile, "--every-frame", "--start", "0.4", "--logits", "--attributes"))
    assert [row["frame"] for row in every] == list(range(10, 30))
    assert {"logits", "age", "male_probability", "ethnicity_probabilities"} <= every[0].keys()
    (row,) = lines(frames(smile, "--fps", "0.5"))
    assert (row["frame"], row["duration_s"]) == (0, pytest.approx(1.2))
    assert not {"logits", "age", "embedding"} & row.keys()


def test_parquet_pools_to_the_record(smile: Path, tmp_path: Path) -> None:
    output = tmp_path / "frames.parquet"
    assert frames(smile, "-o", output, "--embedding").exit_code == 0
    rows = pyarrow.parquet.read_table(output).to_pylist()
    classifier = fervid.load_classifier(classifier="affect3", threads=2)
    pooled, result = classifier.pool_frames(rows), classifier.classify(smile)
    assert pooled.probabilities == pytest.approx(result.probabilities, abs=1e-4)
    assert [person.seconds for person in pooled.people] == [person.seconds for person in result.people]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--embedding",),
        ("-o", "frames.xyz"),
        ("--every-frame", "--fps", "3"),
        ("--format", "parquet"),
        ("--resume",),
        ("--excel",),
    ],
)
def test_wrong_usage(smile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    monkeypatch.chdir(tmp_path)
    result = frames(smile, *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_output_does_not_replace_an_input(smile: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip.csv"
    shutil.copy(smile, path)
    assert frames(path, "-o", path, "--force").exit_code == 2
    assert path.read_bytes() == smile.read_bytes()


def test_workers_give_the_same_rows(
    classifier: fervid.Classifier, broken: Path, through_pickle: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_runner, "map_ordered", through_pickle)
    paths = sorted(map(str, broken.iterdir()))
    columns = frame_columns(classifier.extractor)
    here, there = (
        [[row.as_dict() for row in clip.rows()] for clip in frame_runner.record_all(classifier, paths, columns, config)]
        for config in (RunConfig(), RunConfig(2))
    )
    assert here == there


def test_crash_costs_one_row(classifier: fervid.Classifier, smile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(_work: object, items: Iterable[Any], _jobs: int, on_death: Callable[..., Any], _limits: object) -> Any:
        return (on_death(item, WorkerDied("SIGSEGV")) for item in items)

    monkeypatch.setattr(frame_runner, "map_ordered", crash)
    columns = frame_columns(classifier.extractor)
    found = [
        [(row.path, row.frame, row.error.code) for row in clip.rows()]
        for clip in frame_runner.record_all(classifier, [str(smile), "b.mp4"], columns, RunConfig(1))
    ]
    assert found == [[(str(smile), None, "crashed")], [("b.mp4", None, "crashed")]]
