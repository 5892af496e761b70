"""Test that the command makes the shipped mean of probabilities, byte for byte."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from fervid.models import registry
from fervid.training import make_mean_classifier


@pytest.mark.parametrize("count", [6, 8])
def test_command_makes_shipped_file(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"mean{count}"
    path = tmp_path / f"{name}.onnx"
    monkeypatch.setattr(sys, "argv", ["mean", "--classes", str(count), "-o", str(path)])
    make_mean_classifier.main()
    assert len(path.read_bytes()) < 2000
    assert json.loads((tmp_path / "manifest.json").read_text())["models"] == {name: registry.manifest()[name]}
    row = np.random.default_rng(0).random((3, count), np.float32)
    (said,) = registry.load_model(name, "classifier").session.run(["probabilities"], {"features": row})
    assert np.array_equal(said, row)


@pytest.mark.parametrize("content", ['{"name": "web app"}', "[1]", "not JSON"])
def test_other_manifest_is_kept(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "manifest.json"
    other.write_text(content)
    monkeypatch.setattr(sys, "argv", ["mean", "--classes", "8", "-o", str(tmp_path / "mean8.onnx")])
    make_mean_classifier.main()
    assert other.read_text() == content
    assert registry.load_model(str(tmp_path / "mean8.onnx"), "classifier").card["name"] == "mean8"
