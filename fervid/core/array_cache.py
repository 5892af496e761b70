"""Arrays that take long to make, each set in a file whose name says of what it is."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fervid.core.atomic_io import as_output_error

Arrays = Mapping[str, NDArray[Any]]
NPZ_READ_ERRORS = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError, TypeError),
    *(ValueError, zipfile.BadZipFile, zlib.error),
)
"""What reading an .npz file raises that is none, or not ours."""


def load_or_compute(path: Path, make: Callable[[], Arrays]) -> dict[str, NDArray[Any]]:
    """What a file holds; it is made if there is none yet, or a damaged one.

    Args:
        path: An `.npz` file.
        make: Gives arrays by name.

    Raises:
        OutputError: It cannot be written.
    """
    with suppress(*NPZ_READ_ERRORS), path.open("rb") as file, np.load(file) as stored:
        found = dict(stored)
        if all(isinstance(array, np.ndarray) for array in found.values()):
            return found
    made = make()
    save(path, made)
    return dict(made)


def save(path: Path, arrays: Arrays) -> None:
    """Write arrays to a file that appears whole or not at all, whoever else writes the same.

    Args:
        path: An `.npz` file; its folder is made.
        arrays: By name.

    Raises:
        OutputError: It cannot be written.
    """
    with as_output_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent, suffix=".partial") as folder:
            unfinished = Path(folder, path.name)
            np.savez(unfinished, **arrays)  # type: ignore[arg-type]
            unfinished.replace(path)


def dataclass_arrays(record: Any) -> Arrays:
    """The arrays of a data class by the names of its fields."""
    return {field.name: getattr(record, field.name) for field in fields(record)}


def digest(arrays: Arrays) -> str:
    """SHA-256 of their values, in the order of the arrays."""
    found = hashlib.sha256()
    for array in arrays.values():
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
