"""The rows of frames as parquet: a folder with a file for each clip, that an interrupted run can resume."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from fervid.batch.frame_formats import frame_schema, to_arrow_row
from fervid.batch.resume import ResumeEntry, file_stamp
from fervid.core.atomic_io import as_output_error, atomic_write, fsync_dir, hold_lock
from fervid.core.errors import OutputError
from fervid.core.frame_rows import FrameColumns, FrameRow
from fervid.core.packages import missing_extra
from fervid.core.results import ClipResult, Status

_ROWS_PER_GROUP = 1000
_PART = re.compile(r"part-(\d{5,})\.parquet")
_ENTRY = b"fervid"
"""Key of the metadata of a part, whose value is a `ResumeEntry` as JSON."""


class FrameParquetWriter:
    """A folder of `part-00000.parquet` and so on: one for each clip, each of which is complete or absent.

    A part names its clip, and what its rows depend on, in its metadata.
    """

    def __init__(
        self, folder: Path, columns: FrameColumns, run: str, clips: Iterable[str], *, resume: bool, force: bool
    ) -> None:
        """Open or create the folder.

        Args:
            folder: The folder.
            columns: The columns of the rows.
            run: Fingerprint of models, options and columns.
            clips: The inputs of this run.
            resume: Whether to keep the parts of unchanged clips.
            force: Whether existing parts may be replaced.

        Raises:
            UsageError: pyarrow is missing.
            OutputError: The folder has parts and neither `resume` nor `force` is given, another run writes it, or it
                cannot be written.
        """
        try:
            import pyarrow.parquet
        except ImportError:
            raise missing_extra("parquet", "parquet") from None
        self._arrow, self._folder, self._columns, self._run = pyarrow, folder, columns, run
        self._schema = frame_schema(pyarrow, columns)
        self._stamps = {clip: file_stamp(clip) for clip in clips}
        self._next_part = 0
        self.answered: dict[str, Status] = {}
        with as_output_error(folder), ExitStack() as resources:
            folder.mkdir(parents=True, exist_ok=True)
            resources.enter_context(hold_lock(folder / ".lock", folder))
            parts = {int(match[1]): path for path in folder.iterdir() if (match := _PART.fullmatch(path.name))}
            if parts and not (resume or force):
                raise OutputError(
                    f"{folder} has parts already; replace them with --force, continue them with --resume, or choose"
                    " another folder"
                )
            for number, path in sorted(parts.items()):
                self._load_part(number, path, resume=resume)
            fsync_dir(folder)
            self._resources = resources.pop_all()

    def __enter__(self) -> FrameParquetWriter:
        return self

    def __exit__(self, *error: object) -> None:
        with self._resources:
            for unfinished in self._folder.glob("part-*.parquet.partial"):
                unfinished.unlink()

    def write(self, result: ClipResult, rows: Iterable[FrameRow]) -> None:
        """Write the part of one clip.

        Raises:
            OutputError: It cannot be written.
        """
        entry = ResumeEntry(result.path, *self._stamps[result.path], self._run, result.status)
        schema = self._schema.with_metadata({_ENTRY: json.dumps(asdict(entry))})
        part = self._folder / f"part-{self._next_part:05}.parquet"
        with atomic_write(part, force=True) as file, self._arrow.parquet.ParquetWriter(file, schema) as writer:
            values = (to_arrow_row(row, self._columns) for row in rows)
            while group := list(islice(values, _ROWS_PER_GROUP)):
                writer.write_table(self._arrow.Table.from_pylist(group, schema))
        self._next_part += 1

    def _load_part(self, number: int, path: Path, *, resume: bool) -> None:
        """Keep the part of a clip that need not be analysed again, and remove others.

        Raises:
            OutputError: It is not a part of frames.
        """
        try:
            metadata = self._arrow.parquet.read_schema(path).metadata or {}
            entry = ResumeEntry(**json.loads(metadata[_ENTRY]))
        except (self._arrow.ArrowException, KeyError, TypeError, ValueError) as error:
            raise OutputError(f"{path} was not written by fervid frames; choose another folder") from error
        if resume and entry.is_current(self._run, self._stamps.get(entry.path)):
            self.answered[entry.path] = entry.status
            self._next_part = number + 1
        else:
            path.unlink()
