"""The shipped mean of probabilities is made by its command, byte for byte."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from fervid import models
from fervid.train import mean


def test_the_command_makes_the_shipped_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mean8.onnx"
    monkeypatch.setattr(sys, "argv", ["mean", "-o", str(path)])
    mean.main()
    assert len(path.read_bytes()) < 2000
    assert json.loads((tmp_path / "manifest.json").read_text())["models"] == {"mean8": models.manifest()["mean8"]}
    row = np.random.default_rng(0).random((3, 8), np.float32)
    (said,) = models.load("mean8", "classifier").session.run(["probabilities"], {"features": row})
    assert np.array_equal(said, row)
