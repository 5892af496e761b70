"""The rows of frames as lines that an interrupted run can resume."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fervid.batch.frame_formats import add_identities, make_encoder
from fervid.batch.resumable_lines import ResumableLinesWriter, encode_entry, write_lines
from fervid.core.atomic_io import as_output_error, commit, partial_path
from fervid.core.frame_rows import FrameColumns, FrameRow
from fervid.core.records import ClipFeatures
from fervid.core.results import ClipResult


class ResumableRowsWriter(ResumableLinesWriter):
    """A CSV or JSON Lines file with the rows of the frames of each clip."""

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

        Format and columns are those of `make_encoder`; other arguments and errors those of `ResumableLinesWriter`.
        """
        header, self._encode = make_encoder(format, columns)
        self._format, self._columns = format, columns
        super().__init__(output, run, clips, resume=resume, force=force, header=header)

    def write(self, result: ClipResult, rows: Iterable[FrameRow], people: Sequence[ClipFeatures] = ()) -> None:
        """Append the rows of one clip, and keep what its people are recognised by.

        Raises:
            OutputError: The disk is full, or the file was moved, removed or replaced.
        """
        self._append(result, map(self._encode, rows), tuple(people))

    def fill_identities(self, names: Mapping[str, Sequence[str]]) -> None:
        """Write the identity of each person into the rows, all of them at once; nothing can be written afterwards.

        Args:
            names: Name of each person in each clip, by path and `face_id`.

        Raises:
            OutputError: The disk is full, or the file was edited, moved, removed or replaced.
        """
        self._check_not_moved()
        with as_output_error(self._output), partial_path(self._output).open("wb") as partial:
            partial.write(self._header)
            with self._output.open("rb") as source:
                for block in self._find_blocks()[0]:
                    lines, people = block.lines(source), names[block.entry.path]
                    if people:
                        lines = add_identities(self._format, self._columns, lines, people)
                    digest = write_lines(lines, partial)
                    # The old rows are listed too until the run is resumed, in case that it is killed here.
                    self._ledger.write(encode_entry(replace(block.entry, record=digest)))
            os.fsync(self._ledger.fileno())
            self._check_not_moved()
            self._lines.close()  # Windows replaces no open file
            commit(partial, self._output)
