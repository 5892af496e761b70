"""Test that training unpickles none of its inputs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import pickle_payloads
from fervid.training import checkpoint, mobilenet
from fervid.training.predict import load_run


@pytest.fixture(params=pickle_payloads.KINDS)
def malicious(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[bytes]:
    """Return the bytes of a malicious file, and check afterwards that it was not run."""
    mark = tmp_path / "it was run"
    yield pickle_payloads.files(mark)[request.param]
    assert not mark.exists()


def test_checkpoint_is_not_unpickled(malicious: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    path.write_bytes(malicious)
    for read in (checkpoint.load, load_run, lambda path: checkpoint.restore(path, {}, {}, None)):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="is not a checkpoint"):
            read(path)


def test_initial_weights_are_not_unpickled(malicious: bytes, tmp_path: Path) -> None:
    path = tmp_path / "faceres.json"
    path.write_bytes(malicious)
    with pytest.raises(ValueError, match=r"is not a manifest of TensorFlow\.js weights"):
        mobilenet.read_tensorflowjs(path)
