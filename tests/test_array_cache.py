"""Cached arrays: computed once, written atomically."""

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


def test_computed_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "values.npz"
    for _ in range(2):
        arrays = load_or_compute(path, lambda: VALUES)
        assert {name: array.tolist() for name, array in arrays.items()} == {n: a.tolist() for n, a in VALUES.items()}
    assert load_or_compute(path, dict).keys() == VALUES.keys()


def test_concurrent_computation(tmp_path: Path) -> None:
    barrier, path = Barrier(4), tmp_path / "values.npz"

    def compute() -> Arrays:
        barrier.wait(30)
        return VALUES

    with ThreadPoolExecutor(4) as pool:
        for arrays in pool.map(lambda _: load_or_compute(path, compute), range(4)):
            assert digest(arrays) == digest(VALUES)
    assert list(tmp_path.iterdir()) == [path]


def test_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OutputError, match="No space left on device"):
        save(tmp_path / "values.npz", VALUES)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", pickle_payloads.KINDS)
def test_damaged_file_is_recomputed_without_unpickling(kind: str, tmp_path: Path) -> None:
    mark, path = tmp_path / "it was run", tmp_path / "values.npz"
    path.write_bytes(pickle_payloads.files(mark)[kind])
    for _ in range(2):
        arrays = load_or_compute(path, lambda: VALUES)
    assert digest(arrays) == digest(VALUES)
    assert not mark.exists()


def test_digest_depends_on_values() -> None:
    expected = digest(VALUES)
    assert digest({name: array.copy() for name, array in VALUES.items()}) == expected
    assert digest(VALUES | {"numbers": np.arange(100_000)[::-1]}) != expected
