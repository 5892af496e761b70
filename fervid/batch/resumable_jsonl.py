"""A JSON Lines output that a run which was cut off can continue."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import BinaryIO, get_args

from fervid import __version__
from fervid.analysis.pipeline import Classifier
from fervid.batch.writers import to_json_line
from fervid.core.atomic_io import (
    AtomicAppendFile,
    as_output_error,
    atomic_write,
    check_not_moved,
    check_overwrite,
    commit,
    lock_partial,
)
from fervid.core.errors import OutputError
from fervid.core.records import SCHEMA_VERSION, ClipResult, Status
from fervid.media import remote_files

FINAL_STATUSES = ("ok", "no_face")


@dataclass(frozen=True, slots=True)
class ResumeEntry:
    """Which file, as it was, got the record of that digest in which run: a line of the ledger, or columns of a part."""

    path: str
    size: int
    mtime_ns: int
    run: str
    status: Status
    record: str = ""

    def __post_init__(self) -> None:
        kinds = (str, int, int, str, str, str)
        if tuple(type(value) for value in astuple(self)) != kinds or self.status not in get_args(Status):
            raise ValueError(f"this is no entry: {self}")

    def stands(self, run: str, stamp: tuple[int, int] | None) -> bool:
        """Whether a record stays, because its clip is not in this run, is gone, or is as it was.

        Args:
            run: The digest of this run.
            stamp: Of the clip as it is now; None if it is not in this run.
        """
        if stamp is None:
            return True
        current = stamp == remote_files.MISSING or (self.run == run and stamp == (self.size, self.mtime_ns))
        return current and self.status in FINAL_STATUSES


class ResumableJsonlWriter:
    """A JSON Lines output that can be continued, with `NAME.ledger` beside it.

    A record is on disk before the ledger names it, and counts only if the ledger does. The ledger itself is synced at
    the end: what a power failure takes of it is answered again. No two runs write one output.

    On resuming, what was torn is cut off, and the records of those clips of the new run are dropped that failed, have
    changed since, or were answered by other models or options, because they are answered again; all others stay. New
    records follow the old ones.
    """

    def __init__(
        self,
        output: Path,
        classifier: Classifier,
        clips: Iterable[str],
        *,
        resume: bool,
        force: bool,
        tell: Callable[[str], None] = lambda message: None,
    ) -> None:
        """Open or create the output.

        Args:
            output: The JSON Lines file.
            classifier: Whose answers they are.
            clips: The inputs of this run; as a mapping to the stamps of what is read, which may change as more come.
            resume: Whether to continue the file.
            force: Whether an existing file may be replaced.
            tell: Is told when lines are dropped that the ledger does not name.

        Raises:
            OutputError: It exists and neither `resume` nor `force` is given, its ledger does not fit it, another run
                writes it, or it cannot be written.
        """
        self._output, self._path = output, ledger_path(output)
        self._run = run_fingerprint(classifier)
        # Before they are read: a change meanwhile shows later.
        self._stamps: Mapping[str, tuple[int, int]] = (
            clips if isinstance(clips, Mapping) else {clip: file_stamp(clip) for clip in clips}
        )
        kept: dict[str, ResumeEntry] = {}
        with as_output_error(output), ExitStack() as opened:
            claim = opened.enter_context(lock_partial(output))
            if resume and output.exists():
                entries, unknown = _load_entries(output, self._path)
                if unknown:
                    tell(
                        f"{unknown} line(s) at the end of {output} that {self._path.name} does not name cannot be kept;"
                        " what a run lost there is answered again"
                    )
                kept = {e.record: e for e in entries if e.stands(self._run, self._stamps.get(e.path))}
            else:
                check_overwrite(output, force=force, resumable=True)
                check_overwrite(self._path, force=force)
            self._rewrite(claim, kept)
            self._records = opened.enter_context(AtomicAppendFile(output, "ab"))
            self._entries = opened.enter_context(AtomicAppendFile(self._path, "ab"))
            self._opened = opened.pop_all()
        self.answered: dict[str, Status] = {entry.path: entry.status for entry in kept.values()}

    def __enter__(self) -> ResumableJsonlWriter:
        return self

    def __exit__(self, *error: object) -> None:
        with self._opened, as_output_error(self._path):
            os.fsync(self._entries.fileno())

    def write(self, result: ClipResult) -> None:
        """Append one record.

        Raises:
            OutputError: The disk is full or the file is gone.
        """
        line = to_json_line(result.as_dict()) + b"\n"
        entry = ResumeEntry(result.path, *self._stamps[result.path], self._run, result.status, _digest(line))
        with as_output_error(self._output):
            self._records.write(line)
            os.fsync(self._records.fileno())
            self._entries.write(to_json_line(asdict(entry)) + b"\n")
            check_not_moved(self._records, self._output)
            check_not_moved(self._entries, self._path)

    def finish(self) -> None:
        """Every record is written already."""

    def _rewrite(self, claim: BinaryIO, kept: dict[str, ResumeEntry]) -> None:
        """Leave only these records. Between the two renames the ledger names more than there is, which is harmless."""
        claim.truncate(0)
        if kept:
            with self._output.open("rb") as records:
                claim.writelines(line for line in records if _digest(line) in kept)
        commit(claim, self._output)
        with atomic_write(self._path, force=True) as file:
            file.writelines(to_json_line(asdict(entry)) + b"\n" for entry in kept.values())


def ledger_path(output: Path) -> Path:
    """Where the ledger of an output lies: beside the file itself, if that is a link."""
    output = output.resolve()
    return output.with_name(output.name + ".ledger")


def run_fingerprint(classifier: Classifier) -> str:
    """What an answer depends on beside the clip: version, models and options, in one short string."""
    models = {role: asdict(identity) for role, identity in classifier.models.items()}
    run = [__version__, SCHEMA_VERSION, models, asdict(classifier.options)]
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:16]


def _load_entries(output: Path, ledger: Path) -> tuple[list[ResumeEntry], int]:
    """The entries whose records are in the output; what is torn in the ledger or at the end of it is left out.

    Returns:
        The entries, and how many whole lines follow that are none of theirs: those of which a power failure took the
        entry, or that somebody has added.

    Raises:
        OutputError: A record that the ledger does not name stands before one that it does: somebody edited the file.
    """
    if not ledger.exists():
        if not output.stat().st_size:  # killed between the first two renames
            return [], 0
        raise OutputError(f"{output} has no ledger beside it, so it cannot be resumed; --force writes it anew")
    entries = {}
    for line in ledger.read_bytes().splitlines(keepends=True):
        try:
            entry = ResumeEntry(**json.loads(line))
            entries[entry.record] = entry
        except (ValueError, TypeError, RecursionError):
            continue
    recorded: list[ResumeEntry] = []
    unknown = 0
    with output.open("rb") as records:
        for line in records:
            if (known := entries.get(_digest(line))) is None:
                unknown += line.endswith(b"\n")
            elif unknown:
                raise OutputError(
                    f"{output} was edited: it holds records that {ledger.name} does not name; keep it under another"
                    " name and start anew"
                )
            else:
                recorded.append(known)
    return recorded, unknown


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:32]


def file_stamp(path: str) -> tuple[int, int]:
    """Size in bytes and time of the last change in nanoseconds of a clip; `remote.GONE` of one that is not there."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return remote_files.file_stamp(path) if remote_files.is_url(path) else remote_files.MISSING
    return status.st_size, status.st_mtime_ns
