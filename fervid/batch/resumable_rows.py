"""CSV or JSON Lines output with several lines for each clip, that an interrupted run can resume."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fervid.batch.resumable_jsonl import ledger_path
from fervid.batch.resume import ResumeEntry, file_stamp
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
from fervid.core.frame_rows import FrameRow
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
        header: bytes,
        encode: Callable[[FrameRow], bytes],
        run: str,
        clips: Iterable[str],
        *,
        resume: bool,
        force: bool,
    ) -> None:
        """Open or create the output.

        Args:
            output: The file.
            header: Its first line, or nothing.
            encode: Converts a row to a line.
            run: Fingerprint of models, options and columns.
            clips: The inputs of this run.
            resume: Whether to continue the file.
            force: Whether an existing file may be replaced.

        Raises:
            OutputError: The file exists and neither `resume` nor `force` is given, it is not the file that the ledger
                lists or has other columns, another run writes it, or it cannot be written.
        """
        self._output, self._ledger_path = output, ledger_path(output)
        self._encode, self._run = encode, run
        self._stamps = {clip: file_stamp(clip) for clip in clips}
        current: list[_Block] = []
        with as_output_error(output), ExitStack() as resources:
            partial = resources.enter_context(lock_partial(output))
            if resume and output.exists():
                blocks = _find_blocks(output, self._ledger_path, header)
                current = [block for block in blocks if block.entry.is_current(run, self._stamps.get(block.entry.path))]
            else:
                check_overwrite(output, force=force, resumable=True)
                check_overwrite(self._ledger_path, force=force)
            self._rewrite(partial, header, current)
            self._rows = resources.enter_context(AtomicAppendFile(output, "ab"))
            self._ledger = resources.enter_context(AtomicAppendFile(self._ledger_path, "ab"))
            self._resources = resources.pop_all()
        self._complete_bytes = os.fstat(self._rows.fileno()).st_size
        self.answered: Mapping[str, Status] = {block.entry.path: block.entry.status for block in current}

    def __enter__(self) -> ResumableRowsWriter:
        return self

    def __exit__(self, *error: object) -> None:
        with self._resources, as_output_error(self._output):
            os.truncate(self._rows.fileno(), self._complete_bytes)
            os.fsync(self._ledger.fileno())

    def write(self, result: ClipResult, rows: Iterable[FrameRow]) -> None:
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
            record = digest.hexdigest()[:_DIGEST_LENGTH]
            entry = ResumeEntry(result.path, *self._stamps[result.path], self._run, result.status, record)
            self._ledger.write(_ledger_line(entry))
            self._complete_bytes = os.fstat(self._rows.fileno()).st_size
            check_not_moved(self._rows, self._output)
            check_not_moved(self._ledger, self._ledger_path)

    def _rewrite(self, partial: BinaryIO, header: bytes, blocks: Sequence[_Block]) -> None:
        """Keep only these rows. Between the renames the ledger lists removed rows, which is harmless."""
        partial.truncate(0)
        partial.write(header)
        if blocks:
            with self._output.open("rb") as source:
                for block in blocks:
                    _copy(source, block, partial)
        commit(partial, self._output)
        with atomic_write(self._ledger_path, force=True) as ledger:
            ledger.writelines(_ledger_line(block.entry) for block in blocks)


class _Block(NamedTuple):
    """The rows of one clip in a file.

    Attributes:
        entry: The entry of the ledger that lists them.
        start: Where they start, in bytes.
        end: Where they end.
    """

    entry: ResumeEntry
    start: int
    end: int


def _find_blocks(output: Path, ledger: Path, header: bytes) -> list[_Block]:
    """Find the rows that the ledger lists; those of a clip that was not completed may follow them.

    Raises:
        OutputError: The file has no ledger, other columns, or was edited.
    """
    if not ledger.exists():
        raise OutputError(f"{output} has no ledger beside it, so it cannot be resumed; --force replaces it")
    entries = {entry.record: entry for entry in _load_ledger(ledger)}
    blocks, running, start, end = [], hashlib.sha256(), len(header), len(header)
    with output.open("rb") as lines:
        if lines.read(len(header)) != header:
            raise OutputError(f"{output} has other columns; choose another name, or replace it with --force")
        for line in lines:
            end += len(line)
            running.update(line)
            if (digest := running.hexdigest()[:_DIGEST_LENGTH]) in entries:
                blocks.append(_Block(entries[digest], start, end))
                running, start = hashlib.sha256(), end
    if start < end and len(blocks) < len(entries):
        raise OutputError(
            f"{output} was edited: it has rows that {ledger.name} does not list; rename it and start a new output"
        )
    return blocks


def _load_ledger(path: Path) -> Iterator[ResumeEntry]:
    """Yield the entries of a ledger; incomplete lines are ignored."""
    for line in path.read_bytes().splitlines():
        try:
            yield ResumeEntry(**json.loads(line))
        except (ValueError, TypeError, RecursionError):
            continue


def _ledger_line(entry: ResumeEntry) -> bytes:
    return to_json_line(asdict(entry)) + b"\n"


def _copy(source: BinaryIO, block: _Block, target: BinaryIO) -> None:
    source.seek(block.start)
    for start in range(block.start, block.end, _COPY_BYTES):
        target.write(source.read(min(_COPY_BYTES, block.end - start)))
