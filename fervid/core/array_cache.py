"""Cache of computed arrays in `.npz` files."""

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
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)
"""Errors that numpy raises when it reads a damaged or foreign `.npz` file."""


def load_or_compute(path: Path, compute: Callable[[], Arrays]) -> dict[str, NDArray[Any]]:
    """Load arrays from a file; compute and save them if it does not exist or is damaged.

    Args:
        path: An `.npz` file.
        compute: Computes the arrays by name.

    Raises:
        OutputError: The file cannot be written.
    """
    with suppress(*NPZ_READ_ERRORS), path.open("rb") as file, np.load(file) as stored:
        cached = dict(stored)
        if all(isinstance(array, np.ndarray) for array in cached.values()):
            return cached
    computed = compute()
    save(path, computed)
    return dict(computed)


def save(path: Path, arrays: Arrays) -> None:
    """Write arrays to a file atomically; several processes may write the same file.

    Args:
        path: An `.npz` file; its folder is created.
        arrays: The arrays by name.

    Raises:
        OutputError: The file cannot be written.
    """
    with as_output_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent, suffix=".partial") as folder:
            temporary = Path(folder, path.name)
            np.savez(temporary, **arrays)  # type: ignore[arg-type]
            temporary.replace(path)


def dataclass_arrays(record: Any) -> Arrays:
    """Return the arrays of a dataclass by the names of its fields."""
    return {field.name: getattr(record, field.name) for field in fields(record)}


def digest(arrays: Arrays) -> str:
    """Compute the SHA-256 of the values of all arrays, in their order."""
    sha256 = hashlib.sha256()
    for array in arrays.values():
        sha256.update(np.ascontiguousarray(array).data)
    return sha256.hexdigest()
