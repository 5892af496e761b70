"""Arrays that are kept are made once, and are whole whoever makes them at the same time."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

import pickle_payloads
from fervid.core.array_cache import Arrays, digest, load_or_compute, save
from fervid.core.errors import OutputError

VALUES = {"numbers": np.arange(100_000), "names": np.array(["a", "b"])}


def test_what_is_kept_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "values.npz"
    for _ in range(2):
        found = load_or_compute(path, lambda: VALUES)
        assert {name: array.tolist() for name, array in found.items()} == {n: a.tolist() for n, a in VALUES.items()}
    assert load_or_compute(path, dict).keys() == VALUES.keys()


def test_several_may_make_the_same_at_once(tmp_path: Path) -> None:
    barrier, path = Barrier(4), tmp_path / "values.npz"

    def make() -> Arrays:
        barrier.wait(30)
        return VALUES

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: load_or_compute(path, make), range(4)):
            assert digest(found) == digest(VALUES)
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OutputError, match="No space left on device"):
        save(tmp_path / "values.npz", VALUES)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", pickle_payloads.KINDS)
def test_what_is_damaged_is_made_anew_and_never_unpickled(kind: str, tmp_path: Path) -> None:
    mark, path = tmp_path / "it was run", tmp_path / "values.npz"
    path.write_bytes(pickle_payloads.files(mark)[kind])
    for _ in range(2):
        found = load_or_compute(path, lambda: VALUES)
    assert digest(found) == digest(VALUES)
    assert not mark.exists()


def test_the_digest_is_of_the_values() -> None:
    one = digest(VALUES)
    assert digest({name: array.copy() for name, array in VALUES.items()}) == one
    assert digest(VALUES | {"numbers": np.arange(100_000)[::-1]}) != one
