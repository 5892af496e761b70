"""Input is never unpickled: malicious pickles in place of every file that fervid reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.testing import CliRunner

import clips
import pickle_payloads
import published_models
import toy_models
from fervid.analysis.extractor import load_extractor
from fervid.analysis.options import Options
from fervid.cli import app
from fervid.core.errors import ChecksumMismatch, DatasetError, ModelIncompatible
from fervid.learn.dataset_layouts import Sample
from fervid.learn.feature_extraction import extract_features
from fervid.learn.feature_table import FeatureTable
from fervid.models import registry
from fervid.models.card import ModelKind


@pytest.fixture
def evil(tmp_path: Path) -> Iterator[bytes]:
    """The bytes of each kind of such file, one after the other, none of which may be run."""
    mark = tmp_path / "it was run"

    def each() -> Iterator[bytes]:
        for kind, data in pickle_payloads.files(mark).items():
            yield data
            assert not mark.exists(), kind

    return each()


@pytest.fixture(autouse=True)
def _manifest_is_read_again() -> Iterator[None]:
    yield
    registry.manifest.cache_clear()


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app.app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("kind", get_args(ModelKind))
def test_as_a_model(evil: Iterator[bytes], tmp_path: Path, kind: ModelKind) -> None:
    path = tmp_path / "mine.onnx"
    for data in evil:
        path.write_bytes(data)
        with pytest.raises(ModelIncompatible, match=r"mine\.onnx is no ONNX model"):
            registry.load_model(str(path), kind)


@pytest.mark.parametrize("pinned", [False, True])
def test_as_a_downloaded_model(
    evil: Iterator[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pinned: bool
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    path = tmp_path / "fervid" / "models" / "yunet.onnx"
    path.parent.mkdir(parents=True)
    for number, data in enumerate(evil):
        contents = {"yunet": data if pinned else b"", "hsemotion-b0": b""}
        shipped = published_models.manifest(tmp_path / f"shipped {number}", contents)
        monkeypatch.setattr(registry, "models_dir", lambda place=shipped: place)
        registry.manifest.cache_clear()
        path.write_bytes(data)
        with pytest.raises(ModelIncompatible if pinned else ChecksumMismatch, match=r"yunet\.onnx is no"):
            registry.load_model("yunet", "detector")


def test_as_a_shipped_model_with_changed_manifest(
    evil: Iterator[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "models_dir", lambda: tmp_path)
    for data in evil:
        entry = {"file": "evil.onnx", "sha256": hashlib.sha256(data).hexdigest(), "kind": "face_model"}
        (tmp_path / "manifest.json").write_text(json.dumps({"models": {"evil": entry}}))
        (tmp_path / "evil.onnx").write_bytes(data)
        registry.manifest.cache_clear()
        with pytest.raises(ModelIncompatible, match=r"evil\.onnx is no ONNX model"):
            registry.load_model("evil", "face_model")


def test_as_features(evil: Iterator[bytes], tmp_path: Path) -> None:
    path = tmp_path / "features.npz"
    for data in evil:
        path.write_bytes(data)
        with pytest.raises(DatasetError, match=r"features\.npz is no file of features"):
            FeatureTable.load(path)
        for command in (["train", path, "-o", tmp_path / "m.onnx"], ["compare", path]):
            assert run(*command).exit_code == 2


def test_as_features_in_cache(evil: Iterator[bytes], tmp_path: Path, family: dict[str, str]) -> None:
    options = Options(min_face=toy_models.FACE)
    extractor = load_extractor(face_model=family["face_model"], detector=family["detector"], options=options, threads=1)
    samples = [Sample(clips.write(tmp_path / "clip.mp4", [toy_models.picture(toy_models.FIRST)] * 2), None)]
    (whole,) = extract_features(samples, extractor, tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    good = kept.read_bytes()
    for data in evil:
        kept.write_bytes(data)
        (again,) = extract_features(samples, extractor, tmp_path / "cache")
        assert whole.error is again.error is None
        assert len(kept.read_bytes()) == len(good)  # it was looked at anew


@pytest.mark.parametrize("name", ["clips.csv", "clips.jsonl"])
def test_as_a_list_of_labelled_clips(evil: Iterator[bytes], tmp_path: Path, name: str) -> None:
    for data in evil:
        (tmp_path / name).write_bytes(data)
        assert run("compare", tmp_path / name).exit_code == 2


def test_as_a_list_of_clips(evil: Iterator[bytes], tmp_path: Path) -> None:
    for data in evil:
        (tmp_path / "list").write_bytes(data)
        assert run("classify", "--from-file", tmp_path / "list").exit_code in (1, 2, 3)


def test_as_a_clip(evil: Iterator[bytes], tmp_path: Path) -> None:
    for data in evil:
        (tmp_path / "clip.mp4").write_bytes(data)
        result = run("classify", tmp_path / "clip.mp4", "--format", "jsonl")
        assert (result.exit_code, json.loads(result.stdout)["status"]) == (1, "error")


@pytest.mark.parametrize("output", ["answers.jsonl", "parts"])
def test_as_records_to_continue(evil: Iterator[bytes], tmp_path: Path, smile: Path, output: str) -> None:
    path, form = tmp_path / output, ["--format", "parquet"] if output == "parts" else []
    if output == "parts":
        path.mkdir()
    for data in evil:
        (path / "part-00000.parquet" if output == "parts" else path).write_bytes(data)
        result = run("classify", smile, "-o", path, "--resume", *form)
        assert result.exit_code == 2, result.stderr
        assert isinstance(result.exception, SystemExit)


def test_as_a_manifest(evil: Iterator[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "models_dir", lambda: tmp_path)
    for data in evil:
        (tmp_path / "manifest.json").write_bytes(data)
        registry.manifest.cache_clear()
        with pytest.raises(ChecksumMismatch, match="is damaged"):
            registry.manifest()
