"""Nothing that the training is given is ever unpickled: malicious files as everything that it reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from google.protobuf.message import DecodeError

import malice
import miniature
from fervid.train import mobilenet, state
from fervid.train.centerface import CenterFace
from fervid.train.faces import _kept as kept_faces
from fervid.train.photographs import Photographs
from fervid.train.predict import _kept as kept_answers
from fervid.train.predict import load


@pytest.fixture(params=malice.KINDS)
def evil(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[bytes]:
    """The bytes of such a file; afterwards it must not have been run."""
    mark = tmp_path / "it was run"
    yield malice.files(mark)[request.param]
    assert not mark.exists()


def test_as_a_run_to_continue_or_to_learn_from(evil: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    path.write_bytes(evil)
    for read in (state.read, load, lambda path: state.restore(path, {}, {}, None)):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="is no state of a run"):
            read(path)


def test_as_starting_weights(evil: bytes, tmp_path: Path) -> None:
    path = tmp_path / "faceres.json"
    path.write_bytes(evil)
    with pytest.raises(ValueError, match=r"is no manifest of TensorFlow\.js weights"):
        mobilenet.read_tensorflowjs(path)


def test_as_the_teacher_of_the_detector(evil: bytes, tmp_path: Path) -> None:
    path = tmp_path / "centerface.onnx"
    path.write_bytes(evil)
    with pytest.raises((DecodeError, ValueError, LookupError)):
        CenterFace.read(path, (64,))


def test_as_faces_in_the_cache(evil: bytes, tmp_path: Path) -> None:
    kept_faces(tmp_path, "some", [("a.png", 1)], lambda: miniature.faces(2, 0, "votes"))
    (path,) = tmp_path.glob("*.npz")
    path.write_bytes(evil)
    with pytest.raises((ValueError, TypeError, EOFError, OSError)):
        kept_faces(tmp_path, "some", [("a.png", 1)], lambda: miniature.faces(2, 0, "votes"))


def test_as_answers_in_the_cache(evil: bytes, tmp_path: Path) -> None:
    path = tmp_path / "taught.npy"
    path.write_bytes(evil)
    try:
        found = kept_answers(path, lambda: np.zeros(1, np.float32))
    except (ValueError, EOFError, OSError):
        return
    assert found.dtype.kind in "OSU"  # an archive that was opened, and nothing in it read


def test_as_photographs_in_the_cache(evil: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = SimpleNamespace(sides=(64,))
    written = SimpleNamespace(_save=lambda path: path.write_bytes(evil))
    monkeypatch.setattr(Photographs, "_find", lambda *_: written)
    with pytest.raises((ValueError, TypeError, LookupError, EOFError, OSError)):
        Photographs.read([], teacher, None, tmp_path)  # type: ignore[arg-type]
