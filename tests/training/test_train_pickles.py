"""Training input is never unpickled: malicious pickles in place of every file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import pickle_payloads
from fervid.training import checkpoint, mobilenet
from fervid.training.predict import load_run


@pytest.fixture(params=pickle_payloads.KINDS)
def evil(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[bytes]:
    """The bytes of such a file; afterwards it must not have been run."""
    mark = tmp_path / "it was run"
    yield pickle_payloads.files(mark)[request.param]
    assert not mark.exists()


def test_as_a_run_to_continue_or_to_learn_from(evil: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    path.write_bytes(evil)
    for read in (checkpoint.load, load_run, lambda path: checkpoint.restore(path, {}, {}, None)):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="is not a checkpoint"):
            read(path)


def test_as_starting_weights(evil: bytes, tmp_path: Path) -> None:
    path = tmp_path / "faceres.json"
    path.write_bytes(evil)
    with pytest.raises(ValueError, match=r"is not a manifest of TensorFlow\.js weights"):
        mobilenet.read_tensorflowjs(path)
