"""CSV or JSON Lines output with several lines for each clip, that an interrupted run can resume."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fervid.batch.frame_entry import FrameEntry, check_same_run
from fervid.batch.frame_formats import add_identities, make_encoder
from fervid.batch.resumable_jsonl import ledger_path
from fervid.batch.resume import ResumeEntry, file_stamp, load_ledger
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
from fervid.core.frame_rows import FrameColumns, FrameRow
from fervid.core.records import ClipFeatures
from fervid.core.results import ClipResult, Status

_ROWS_PER_WRITE = 1000
_COPY_BYTES = 1 << 20
_DIGEST_LENGTH = 32


class ResumableRowsWriter:
    """A file with the rows of one clip after another, with a ledger `NAME.ledger` beside it.

    The rows of a clip count only if the ledger lists them, and they are synced to disk before it does. Those of a clip
    that is not complete are removed when the writer is closed, or after a crash when the file is resumed, together with
    those of clips that failed, have changed, or were made with other models or options.
    """

    def __init__(
        self,
        output: Path,
        format: str,
        columns: FrameColumns,
        run: str,
        clips: Iterable[str],
        *,
        resume: bool,
        force: bool,
    ) -> None:
        """Open or create the output.

        Args:
            output: The file.
            format: `csv`, `excel` or `jsonl`, as for `make_encoder`.
            columns: The columns of the rows.
            run: Fingerprint of models, options and columns.
            clips: The inputs of this run.
            resume: Whether to continue the file.
            force: Whether an existing file may be replaced.

        Raises:
            OutputError: The file exists and neither `resume` nor `force` is given, it is not the file that the ledger
                lists or has other columns, another run writes it, or it cannot be written.
        """
        self._output, self._ledger_path = output, ledger_path(output)
        self._format, self._columns, self._run = format, columns, run
        self._header, self._encode = make_encoder(format, columns)
        self._stamps = {clip: file_stamp(clip) for clip in clips}
        kept: list[_Block] = []
        with as_output_error(output), ExitStack() as resources:
            partial = resources.enter_context(lock_partial(output))
            if resume and output.exists():
                kept = [
                    block
                    for block in _find_blocks(output, self._ledger_path, self._header)
                    if block.entry.resume.is_current(run, self._stamps.get(block.path))
                ]
                check_same_run((block.entry for block in kept), run, output)
            else:
                check_overwrite(output, force=force, resumable=True)
                check_overwrite(self._ledger_path, force=force)
            self._rewrite(partial, kept)
            self._rows = resources.enter_context(AtomicAppendFile(output, "ab"))
            self._ledger = resources.enter_context(AtomicAppendFile(self._ledger_path, "ab"))
            self._resources = resources.pop_all()
        self.finished: Mapping[str, Status] = {block.path: block.entry.resume.status for block in self._blocks}

    def __enter__(self) -> ResumableRowsWriter:
        return self

    def __exit__(self, *error: object) -> None:
        with self._resources, as_output_error(self._output):
            partial_path(self._output).unlink(missing_ok=True)
            if not self._rows.closed:
                os.truncate(self._rows.fileno(), self._complete_bytes)
            os.fsync(self._ledger.fileno())

    @property
    def people(self) -> Mapping[str, Sequence[ClipFeatures]]:
        """What the people of each clip in the file are recognised by."""
        return {block.path: block.entry.people for block in self._blocks}

    @property
    def _complete_bytes(self) -> int:
        return self._blocks[-1].end if self._blocks else len(self._header)

    def write(self, result: ClipResult, rows: Iterable[FrameRow], people: Sequence[ClipFeatures] = ()) -> None:
        """Append the rows of one clip.

        Raises:
            OutputError: The disk is full, or the file was moved, removed or replaced.
        """
        digest = hashlib.sha256()
        with as_output_error(self._output):
            lines = map(self._encode, rows)
            while some := b"".join(islice(lines, _ROWS_PER_WRITE)):
                digest.update(some)
                self._rows.write(some)
            os.fsync(self._rows.fileno())
            resume = ResumeEntry(result.path, *self._stamps[result.path], self._run, result.status, _record_of(digest))
            end = os.fstat(self._rows.fileno()).st_size
            block = _Block(FrameEntry(resume, tuple(people)), self._complete_bytes, end)
            self._ledger.write(block.ledger_line)
            self._blocks.append(block)
            self._check_not_moved()

    def fill_identities(self, names: Mapping[str, Sequence[str]]) -> None:
        """Write the identity of each person into the rows, all of them at once; nothing can be written afterwards.

        Args:
            names: Name of each person in each clip, by path and `face_id`.

        Raises:
            OutputError: The disk is full, or the file was moved, removed or replaced.
        """
        with as_output_error(self._output), partial_path(self._output).open("wb") as partial:
            partial.write(self._header)
            with self._output.open("rb") as source:
                for block in self._blocks:
                    digest = hashlib.sha256()
                    for line in self._name_people(block.lines(source), names[block.path]):
                        digest.update(line)
                        partial.write(line)
                    # The old rows are listed too until the run is resumed, in case that it is killed here.
                    self._ledger.write(block.with_record(_record_of(digest)).ledger_line)
            os.fsync(self._ledger.fileno())
            self._check_not_moved()
            self._rows.close()  # Windows replaces no open file
            commit(partial, self._output)

    def _name_people(self, lines: Iterator[bytes], names: Sequence[str]) -> Iterator[bytes]:
        return add_identities(self._format, self._columns, lines, names) if names else lines

    def _check_not_moved(self) -> None:
        check_not_moved(self._rows, self._output)
        check_not_moved(self._ledger, self._ledger_path)

    def _rewrite(self, partial: BinaryIO, blocks: Sequence[_Block]) -> None:
        """Keep only these rows. Between the renames the ledger lists removed rows, which is harmless."""
        partial.truncate(0)
        partial.write(self._header)
        self._blocks: list[_Block] = []
        if blocks:
            with self._output.open("rb") as source:
                for block in blocks:
                    start = partial.tell()
                    _copy(source, block, partial)
                    self._blocks.append(_Block(block.entry, start, partial.tell()))
        commit(partial, self._output)
        with atomic_write(self._ledger_path, force=True) as ledger:
            ledger.writelines(block.ledger_line for block in blocks)


class _Block(NamedTuple):
    """The rows of one clip in a file.

    Attributes:
        entry: The entry of the ledger that lists them.
        start: Where they start, in bytes.
        end: Where they end.
    """

    entry: FrameEntry
    start: int
    end: int

    @property
    def path(self) -> str:
        return self.entry.resume.path

    @property
    def ledger_line(self) -> bytes:
        return self.entry.encode() + b"\n"

    def with_record(self, record: str) -> _Block:
        """Return the block with another digest of its rows."""
        return self._replace(entry=replace(self.entry, resume=replace(self.entry.resume, record=record)))

    def lines(self, file: BinaryIO) -> Iterator[bytes]:
        """Read the rows as lines."""
        file.seek(self.start)
        while file.tell() < self.end and (line := file.readline()):
            yield line


def _find_blocks(output: Path, ledger: Path, header: bytes) -> list[_Block]:
    """Find the rows that the ledger lists; those of a clip that was not completed may follow them.

    Raises:
        OutputError: The file has no ledger, other columns, or was edited.
    """
    if not ledger.exists():
        raise OutputError(f"{output} has no ledger beside it, so it cannot be resumed; --force replaces it")
    entries = {entry.resume.record: entry for entry in load_ledger(ledger, FrameEntry.decode)}
    blocks, running, start, end = [], hashlib.sha256(), len(header), len(header)
    with output.open("rb") as lines:
        if lines.read(len(header)) != header:
            raise OutputError(f"{output} has other columns; choose another name, or replace it with --force")
        for line in lines:
            end += len(line)
            running.update(line)
            if (record := _record_of(running)) in entries:
                blocks.append(_Block(entries[record], start, end))
                running, start = hashlib.sha256(), end
    if start < end and len(blocks) < len(entries):
        raise OutputError(
            f"{output} was edited: it has rows that {ledger.name} does not list; rename it and start a new output"
        )
    return blocks


def _record_of(digest: hashlib._Hash) -> str:
    return digest.hexdigest()[:_DIGEST_LENGTH]


def _copy(source: BinaryIO, block: _Block, target: BinaryIO) -> None:
    source.seek(block.start)
    for start in range(block.start, block.end, _COPY_BYTES):
        target.write(source.read(min(_COPY_BYTES, block.end - start)))
