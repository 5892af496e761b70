"""Make files that create a folder when they are unpickled."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

PARTS = (
    *("about", "samples", "count", "statistics", "1/count", "1/embedding.mean", "1/expression.mean"),
    *("crops", "votes", "first", "age", "gender", "ethnicity", "person"),
    *("lengths", "bytes", "counts", "boxes", "landmarks", "sure"),
)
"""Names of the arrays in all kinds of .npz files that fervid reads."""


class _Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


def files(mark: Path) -> dict[str, bytes]:
    """Make files of each kind that create the folder `mark` when they are unpickled.

    Raises:
        AssertionError: They do not.
    """
    plain = pickle.dumps(_Payload(mark), protocol=2)
    objects = np.array([_Payload(mark)], object)
    made = {
        "pickle": plain,
        "pickle 0": pickle.dumps(_Payload(mark), protocol=0),
        "pickle 5": pickle.dumps(_Payload(mark), protocol=5),
        "gzip": gzip.compress(plain),
        "torch": _zip({"archive/data.pkl": plain, "archive/version": b"3\n", "archive/byteorder": b"little"}),
        "torch of old": b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {})) + plain,
        "npy": _save(np.save, objects),
        "npz": _save(np.savez, **dict.fromkeys(PARTS, objects)),
        "zip of pickles": _zip({f"{name}.npy": plain for name in PARTS}),
    }
    for data in (plain, made["pickle 0"], made["pickle 5"]):
        pickle.loads(data)
        mark.rmdir()
    np.load(io.BytesIO(made["npz"]), allow_pickle=True)["about"]
    mark.rmdir()
    np.load(io.BytesIO(made["npy"]), allow_pickle=True)
    mark.rmdir()
    return made


KINDS: Sequence[str] = (
    *("pickle", "pickle 0", "pickle 5", "gzip", "torch", "torch of old", "npy", "npz", "zip of pickles"),
)


def _zip(parts: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return stream.getvalue()


def _save(save: object, *arrays: object, **named: object) -> bytes:
    stream = io.BytesIO()
    save(stream, *arrays, allow_pickle=True, **named)  # type: ignore[operator]
    return stream.getvalue()
