"""Which results of an interrupted run are still current when it is resumed, for every resumable output."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from fervid import __version__
from fervid.analysis.pipeline import Classifier
from fervid.core.errors import OutputError
from fervid.core.records import ClipFeatures
from fervid.core.results import SCHEMA_VERSION, Status
from fervid.media import remote_files

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
        people: What each person is recognised by in other clips, empty unless the rows of frames have an identity; None
            for a record.
    """

    path: str
    size: int
    mtime_ns: int
    run: str
    status: Status
    record: str = ""
    people: tuple[ClipFeatures, ...] | None = None

    def __post_init__(self) -> None:
        values = (self.path, self.size, self.mtime_ns, self.run, self.status, self.record)
        if tuple(map(type, values)) != (str, int, int, str, str, str) or self.status not in get_args(Status):
            raise ValueError(f"invalid resume entry: {self}")

    def as_dict(self) -> dict[str, Any]:
        """Convert the entry to plain JSON types; that of a record has no `people`."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        people = plain.pop("people")
        return plain if people is None else plain | {"people": [features.as_dict() for features in people]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> ResumeEntry:
        """Restore an entry from `as_dict`.

        Raises:
            ValueError: It is not one.
        """
        try:
            people = tuple(map(ClipFeatures.from_dict, plain["people"])) if "people" in plain else None
            return cls(**{**plain, "people": people})
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not an entry of a clip: {error!r}") from error

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


def check_same_run(entries: Iterable[ResumeEntry], run: str, output: Path) -> None:
    """Check that the people of clips that are kept can be compared with those of a run.

    Args:
        entries: The clips.
        run: Fingerprint of the run.
        output: The output that has them.

    Raises:
        OutputError: People were recorded with other models or options.
    """
    if other := next((entry.path for entry in entries if entry.people and entry.run != run), None):
        raise OutputError(
            f"{output} has the people of {other} from another face model or other options, which cannot be compared;"
            " choose another name, or replace it with --force"
        )


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
