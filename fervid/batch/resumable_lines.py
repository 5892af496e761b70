"""Output of lines that an interrupted run can resume, and records as such lines."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from fervid.batch.resume import ResumeEntry, check_same_run, file_stamp
from fervid.batch.writers import to_json_line
from fervid.core.atomic_io import (
    AtomicAppendFile,
    as_output_error,
    atomic_write,
    check_not_moved,
    check_overwrite,
    commit,
    lock_partial,
    partial_path,
)
from fervid.core.errors import OutputError
from fervid.core.records import ClipFeatures
from fervid.core.results import ClipResult, Status

_LINES_PER_WRITE = 1000


class ResumableLinesWriter:
    """A file with the lines of one clip after another, with a ledger `NAME.ledger` beside it.

    The lines of a clip count only if the ledger lists them, and they are synced to disk before it does. The ledger is
    synced at the end, so clips whose entries a power failure removes are processed again. A lock keeps other runs from
    writing the same output.

    On resuming, incomplete lines, and those of a clip that is not complete, are removed. Those of clips of the new run
    that failed, have changed, or were made with other models or options are removed too, because these clips are
    processed again. All other lines stay, and new ones follow them.
    """

    _one_line_per_clip = False

    def __init__(
        self,
        output: Path,
        run: str,
        clips: Iterable[str],
        *,
        resume: bool,
        force: bool,
        header: bytes = b"",
        on_message: Callable[[str], None] = lambda message: None,
    ) -> None:
        """Open or create the output.

        Args:
            output: The file.
            run: Fingerprint of what the lines depend on beside the clips.
            clips: The inputs of this run; a mapping gives their `file_stamp`s, and may grow and change during the run.
            resume: Whether to continue the file.
            force: Whether an existing file may be replaced.
            header: The first line of the file, with its end.
            on_message: Called with a notice if records that the ledger does not list are removed.

        Raises:
            OutputError: The file exists and neither `resume` nor `force` is given, its ledger does not match it, it has
                another header, another run writes it, or it cannot be written.
        """
        self._output, self._ledger_path = output, ledger_path(output)
        self._run, self._header = run, header
        # Taken before the clips are read, so that a change while they are read is noticed on resuming.
        self._stamps: Mapping[str, tuple[int, int]] = (
            clips if isinstance(clips, Mapping) else {clip: file_stamp(clip) for clip in clips}
        )
        kept: list[_Block] = []
        with as_output_error(output), ExitStack() as resources:
            partial = resources.enter_context(lock_partial(output))
            if resume and output.exists():
                found, n_unlisted = self._find_blocks()
                if n_unlisted:
                    on_message(
                        f"removed {n_unlisted} line(s) at the end of {output} that {self._ledger_path.name} does not"
                        " list; clips whose records were lost are classified again"
                    )
                kept = [block for block in found if block.entry.is_current(run, self._stamps.get(block.entry.path))]
                check_same_run((block.entry for block in kept), run, output)
            else:
                check_overwrite(output, force=force, resumable=True)
                check_overwrite(self._ledger_path, force=force)
            self._rewrite(partial, kept)
            self._lines = resources.enter_context(AtomicAppendFile(output, "ab"))
            self._ledger = resources.enter_context(AtomicAppendFile(self._ledger_path, "ab"))
            self._resources = resources.pop_all()
        self.finished: Mapping[str, Status] = {block.entry.path: block.entry.status for block in kept}
        self.people = {block.entry.path: block.entry.people for block in kept if block.entry.people is not None}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with self._resources, as_output_error(self._ledger_path):
            partial_path(self._output).unlink(missing_ok=True)
            os.fsync(self._ledger.fileno())

    def _append(
        self, result: ClipResult, lines: Iterable[bytes], people: tuple[ClipFeatures, ...] | None = None
    ) -> None:
        """Append the lines of one clip; if they cannot be completed, they are removed.

        Args:
            result: The record of the clip.
            lines: The lines, each with its end.
            people: What the people of the clip are recognised by; None for a record.

        Raises:
            OutputError: The disk is full, or the file was moved, removed or replaced.
        """
        stamp = self._stamps[result.path]
        with as_output_error(self._output):
            end = os.fstat(self._lines.fileno()).st_size
            try:
                digest = write_lines(lines, self._lines)
                os.fsync(self._lines.fileno())
                entry = ResumeEntry(result.path, *stamp, self._run, result.status, digest, people)
                self._ledger.write(encode_entry(entry))
            except BaseException:
                os.truncate(self._lines.fileno(), end)
                raise
            self._check_not_moved()
        if people is not None:
            self.people[result.path] = people

    def _rewrite(self, partial: BinaryIO, blocks: Sequence[_Block]) -> None:
        """Keep only these blocks. Between the renames the ledger lists removed blocks, which is harmless."""
        partial.truncate(0)
        partial.write(self._header)
        if blocks:
            with self._output.open("rb") as source:
                for block in blocks:
                    partial.writelines(block.lines(source))
        commit(partial, self._output)
        with atomic_write(self._ledger_path, force=True) as ledger:
            ledger.writelines(encode_entry(block.entry) for block in blocks)

    def _find_blocks(self) -> tuple[list[_Block], int]:
        """Find the lines of each clip that the ledger lists.

        Returns:
            The blocks, and the number of records after them that the ledger does not list, because a power failure
            removed the entries or because somebody added the records.

        Raises:
            OutputError: There is no ledger, or it is that of another command; or the file has another header, or was
                edited: lines that the ledger lists follow lines that it does not list.
        """
        with self._output.open("rb") as file:
            header = file.read(len(self._header))
            if not self._ledger_path.exists():
                if header == self._header and not file.read(1):  # killed between the first two renames
                    return [], 0
                raise OutputError(
                    f"{self._output} has no ledger beside it, so it cannot be resumed; --force replaces it"
                )
            entries = self._load_ledger()
            if header != self._header:
                raise OutputError(f"{self._output} has other columns; choose another name, or replace it with --force")
            blocks, n_unlisted, edited = [], 0, False
            digest, start, end = hashlib.sha256(), len(header), len(header)
            for line in file:
                digest.update(line)
                end += len(line)
                if entry := entries.get(_shorten(digest)):
                    blocks.append(_Block(entry, start, end))
                    edited = edited or n_unlisted > 0
                elif self._one_line_per_clip:
                    n_unlisted += line.endswith(b"\n")
                else:
                    continue
                digest, start = hashlib.sha256(), end
        if edited or (start < end and len(blocks) < len(entries)):
            contents = "contains records" if self._one_line_per_clip else "has rows"
            raise OutputError(
                f"{self._output} was edited: it {contents} that {self._ledger_path.name} does not list; rename it and"
                " start a new output"
            )
        return blocks, n_unlisted

    def _load_ledger(self) -> dict[str, ResumeEntry]:
        """Load the entries of the ledger by digest; damaged lines are ignored, unless all of them are.

        Raises:
            OutputError: No line is an entry of this kind, because another command wrote the output.
        """
        entries, n_lines = {}, 0
        with self._ledger_path.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n") and line.strip():
                    n_lines += 1
                    with suppress(ValueError, RecursionError):
                        entry = ResumeEntry.from_dict(json.loads(line))
                        if (entry.people is None) == self._one_line_per_clip:
                            entries[entry.record] = entry
        if n_lines and not entries:
            raise OutputError(
                f"{self._ledger_path} was written by another command, so its output cannot be resumed; choose another"
                " name, or replace it with --force"
            )
        return entries

    def _check_not_moved(self) -> None:
        check_not_moved(self._lines, self._output)
        check_not_moved(self._ledger, self._ledger_path)


class ResumableJsonlWriter(ResumableLinesWriter):
    """A JSON Lines file with a record for each clip."""

    _one_line_per_clip = True

    def write(self, result: ClipResult) -> None:
        """Append one record.

        Raises:
            OutputError: The disk is full, or the file was moved, removed or replaced.
        """
        self._append(result, [to_json_line(result.as_dict()) + b"\n"])

    def finish(self) -> None:
        """Do nothing, because every record is written at once."""


class _Block(NamedTuple):
    """The lines of one clip in a file.

    Attributes:
        entry: The entry of the ledger that lists them.
        start: Where they start, in bytes.
        end: Where they end.
    """

    entry: ResumeEntry
    start: int
    end: int

    def lines(self, file: BinaryIO) -> Iterator[bytes]:
        """Read the lines."""
        file.seek(self.start)
        while file.tell() < self.end and (line := file.readline()):
            yield line


def ledger_path(output: Path) -> Path:
    """Return the path of an output's ledger, which is beside the target if the output is a link."""
    output = output.resolve()
    return output.with_name(output.name + ".ledger")


def encode_entry(entry: ResumeEntry) -> bytes:
    """Encode an entry as a line of the ledger."""
    return to_json_line(entry.as_dict()) + b"\n"


def write_lines(lines: Iterable[bytes], file: BinaryIO | AtomicAppendFile) -> str:
    """Write lines, many at once, and return their digest."""
    digest, lines = hashlib.sha256(), iter(lines)
    while some := b"".join(islice(lines, _LINES_PER_WRITE)):
        digest.update(some)
        file.write(some)
    return _shorten(digest)


def _shorten(digest: hashlib._Hash) -> str:
    return digest.hexdigest()[:32]
