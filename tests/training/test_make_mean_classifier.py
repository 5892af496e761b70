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
