"""JSON Lines output that an interrupted run can resume."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from fervid.analysis.pipeline import Classifier
from fervid.batch.resume import ResumeEntry, file_stamp, load_ledger, run_fingerprint
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
from fervid.core.results import ClipResult, Status


class ResumableJsonlWriter:
    """A JSON Lines file that can be resumed, with a ledger `NAME.ledger` beside it.

    A record counts only if the ledger lists it, and it is synced to disk before the ledger lists it. The ledger is
    synced at the end, so clips whose entries a power failure removes are classified again. A lock keeps other runs from
    writing the same output.

    On resuming, incomplete lines are removed. The records of clips of the new run that failed, have changed, or were
    made with other models or options are removed too, because these clips are classified again. All other records
    stay, and new records follow them.
    """

    def __init__(
        self,
        output: Path,
        classifier: Classifier,
        clips: Iterable[str],
        *,
        resume: bool,
        force: bool,
        on_message: Callable[[str], None] = lambda message: None,
    ) -> None:
        """Open or create the output.

        Args:
            output: The JSON Lines file.
            classifier: Makes the records.
            clips: The inputs of this run; a mapping gives their `file_stamp`s, and may grow and change during the run.
            resume: Whether to continue the file.
            force: Whether an existing file may be replaced.
            on_message: Called with a notice if lines that the ledger does not list are removed.

        Raises:
            OutputError: The file exists and neither `resume` nor `force` is given, its ledger does not match it,
                another run writes it, or it cannot be written.
        """
        self._output, self._ledger_path = output, ledger_path(output)
        self._run = run_fingerprint(classifier)
        # Taken before the clips are read, so that a change while they are read is noticed on resuming.
        self._stamps: Mapping[str, tuple[int, int]] = (
            clips if isinstance(clips, Mapping) else {clip: file_stamp(clip) for clip in clips}
        )
        current: dict[str, ResumeEntry] = {}
        with as_output_error(output), ExitStack() as resources:
            partial = resources.enter_context(lock_partial(output))
            if resume and output.exists():
                entries, n_unlisted = _load_entries(output, self._ledger_path)
                if n_unlisted:
                    on_message(
                        f"removed {n_unlisted} line(s) at the end of {output} that {self._ledger_path.name} does not"
                        " list; clips whose records were lost are classified again"
                    )
                current = {e.record: e for e in entries if e.is_current(self._run, self._stamps.get(e.path))}
            else:
                check_overwrite(output, force=force, resumable=True)
                check_overwrite(self._ledger_path, force=force)
            self._rewrite(partial, current)
            self._records = resources.enter_context(AtomicAppendFile(output, "ab"))
            self._ledger = resources.enter_context(AtomicAppendFile(self._ledger_path, "ab"))
            self._resources = resources.pop_all()
        self.finished: dict[str, Status] = {entry.path: entry.status for entry in current.values()}

    def __enter__(self) -> ResumableJsonlWriter:
        return self

    def __exit__(self, *error: object) -> None:
        with self._resources, as_output_error(self._ledger_path):
            os.fsync(self._ledger.fileno())

    def write(self, result: ClipResult) -> None:
        """Append one record.

        Raises:
            OutputError: The disk is full, or the file was moved, removed or replaced.
        """
        line = to_json_line(result.as_dict()) + b"\n"
        entry = ResumeEntry(result.path, *self._stamps[result.path], self._run, result.status, _digest(line))
        with as_output_error(self._output):
            self._records.write(line)
            os.fsync(self._records.fileno())
            self._ledger.write(to_json_line(asdict(entry)) + b"\n")
            check_not_moved(self._records, self._output)
            check_not_moved(self._ledger, self._ledger_path)

    def finish(self) -> None:
        """Do nothing, because every record is written at once."""

    def _rewrite(self, partial: BinaryIO, current: dict[str, ResumeEntry]) -> None:
        """Keep only these records. Between the renames the ledger lists removed records, which is harmless."""
        partial.truncate(0)
        if current:
            with self._output.open("rb") as records:
                partial.writelines(line for line in records if _digest(line) in current)
        commit(partial, self._output)
        with atomic_write(self._ledger_path, force=True) as file:
            file.writelines(to_json_line(asdict(entry)) + b"\n" for entry in current.values())


def ledger_path(output: Path) -> Path:
    """Return the path of an output's ledger, which is beside the target if the output is a link."""
    output = output.resolve()
    return output.with_name(output.name + ".ledger")


def _load_entries(output: Path, ledger: Path) -> tuple[list[ResumeEntry], int]:
    """Load the ledger entries whose records are in the output; incomplete lines are ignored.

    Returns:
        The entries, and the number of complete lines after them that the ledger does not list, because a power failure
        removed the entries or because somebody added the lines.

    Raises:
        OutputError: There is no ledger, or the file was edited: a line that the ledger lists follows one it does not.
    """
    if not ledger.exists():
        if not output.stat().st_size:  # killed between the first two renames
            return [], 0
        raise OutputError(f"{output} has no ledger beside it, so it cannot be resumed; --force replaces it")
    entries = {entry.record: entry for entry in load_ledger(ledger, ResumeEntry.decode)}
    recorded: list[ResumeEntry] = []
    n_unlisted = 0
    with output.open("rb") as records:
        for line in records:
            if (recorded_entry := entries.get(_digest(line))) is None:
                n_unlisted += line.endswith(b"\n")
            elif n_unlisted:
                raise OutputError(
                    f"{output} was edited: it contains records that {ledger.name} does not list; rename it and start a"
                    " new output"
                )
            else:
                recorded.append(recorded_entry)
    return recorded, n_unlisted


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:32]
