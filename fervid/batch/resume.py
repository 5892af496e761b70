"""Which results of an interrupted run are still current when it is resumed, for every resumable output."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import TypeVar, get_args

from fervid import __version__
from fervid.analysis.pipeline import Classifier
from fervid.core.errors import OutputError
from fervid.core.results import SCHEMA_VERSION, Status
from fervid.media import remote_files

Entry = TypeVar("Entry")

FINAL_STATUSES = ("ok", "no_face")
"""Statuses of records that a resumed run keeps."""


@dataclass(frozen=True, slots=True)
class ResumeEntry:
    """A result that was written: a line of a ledger, columns of a parquet row, or part of a line of observations.

    Attributes:
        path: The clip.
        size: Its size in bytes before it was read.
        mtime_ns: Its modification time before it was read, in nanoseconds.
        run: Fingerprint of the run that made the record.
        status: Status of the record.
        record: Digest of the record's line in a JSON Lines file, or of the lines of the clip's frames.
    """

    path: str
    size: int
    mtime_ns: int
    run: str
    status: Status
    record: str = ""

    def __post_init__(self) -> None:
        types = (str, int, int, str, str, str)
        if tuple(type(value) for value in astuple(self)) != types or self.status not in get_args(Status):
            raise ValueError(f"invalid resume entry: {self}")

    @classmethod
    def decode(cls, line: bytes) -> ResumeEntry:
        """Restore an entry from a line of JSON.

        Raises:
            ValueError: It is not one.
        """
        try:
            return cls(**json.loads(line))
        except (TypeError, RecursionError) as error:
            raise ValueError(f"not an entry of a record: {error!r}") from error

    def is_current(self, run: str, stamp: tuple[int, int] | None) -> bool:
        """Return whether to keep the record: its clip is not in this run, was deleted, or is unchanged.

        Args:
            run: Fingerprint of this run.
            stamp: Current size and modification time of the clip; None if it is not in this run.
        """
        if stamp is None:
            return True
        unchanged = stamp == remote_files.MISSING or (self.run == run and stamp == (self.size, self.mtime_ns))
        return unchanged and self.status in FINAL_STATUSES


def load_ledger(ledger: Path, decode: Callable[[bytes], Entry]) -> list[Entry]:
    """Load the entries of a ledger; damaged lines are ignored, unless all of them are.

    Args:
        ledger: The file.
        decode: Restores an entry from a line; raises ValueError for other lines.

    Raises:
        OutputError: No line can be decoded, because another command wrote the output.
    """
    lines = [line for line in ledger.read_bytes().splitlines(keepends=True) if line.endswith(b"\n") and line.strip()]
    entries = []
    for line in lines:
        with suppress(ValueError):
            entries.append(decode(line))
    if lines and not entries:
        raise OutputError(
            f"{ledger} was written by another command, so its output cannot be resumed; choose another name, or replace"
            " it with --force"
        )
    return entries


def run_fingerprint(classifier: Classifier) -> str:
    """Return a short digest of what a record depends on beside the clip: version, models and options."""
    models = {role: asdict(identity) for role, identity in classifier.models.items()}
    run = [__version__, SCHEMA_VERSION, models, asdict(classifier.options)]
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:16]


def file_stamp(path: str) -> tuple[int, int]:
    """Return the size in bytes and the modification time in nanoseconds of a clip; `remote_files.MISSING` if none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return remote_files.file_stamp(path) if remote_files.is_url(path) else remote_files.MISSING
    return status.st_size, status.st_mtime_ns
