"""The rows of frames as parquet: a folder with a file for each clip, that an interrupted run can resume."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

from fervid.batch.frame_entry import FrameEntry, check_same_run
from fervid.batch.frame_formats import frame_schema, to_arrow_row
from fervid.batch.resume import ResumeEntry, file_stamp
from fervid.core.atomic_io import as_output_error, atomic_write, fsync_dir, hold_lock
from fervid.core.errors import OutputError
from fervid.core.frame_rows import FrameColumns, FrameRow
from fervid.core.packages import missing_extra
from fervid.core.records import ClipFeatures
from fervid.core.results import ClipResult, Status

_ROWS_PER_GROUP = 1000
_PART = re.compile(r"part-(\d{5,})\.parquet")
_ENTRY = b"fervid"
"""Key of the metadata of a part, whose value is a `FrameEntry` as JSON."""


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
        self._parts: dict[str, Path] = {}
        self.people: dict[str, Sequence[ClipFeatures]] = {}
        self.finished: dict[str, Status] = {}
        with as_output_error(folder), ExitStack() as resources:
            folder.mkdir(parents=True, exist_ok=True)
            resources.enter_context(hold_lock(folder / ".lock", folder))
            self._remove_unfinished()
            parts = {int(match[1]): path for path in folder.iterdir() if (match := _PART.fullmatch(path.name))}
            if parts and not (resume or force):
                raise OutputError(
                    f"{folder} has parts already; replace them with --force, continue them with --resume, or choose"
                    " another folder"
                )
            entries = {number: self._read_entry(path) for number, path in sorted(parts.items())}
            kept = {
                number: entry
                for number, entry in entries.items()
                if resume and entry.resume.is_current(run, self._stamps.get(entry.resume.path))
            }
            check_same_run(kept.values(), run, folder)
            for number in entries.keys() - kept.keys():
                parts[number].unlink()
            for number, entry in kept.items():
                clip = entry.resume.path
                self.finished[clip], self._parts[clip] = entry.resume.status, parts[number]
                self.people[clip], self._next_part = entry.people, number + 1
            fsync_dir(folder)
            self._resources = resources.pop_all()

    def __enter__(self) -> FrameParquetWriter:
        return self

    def __exit__(self, *error: object) -> None:
        with self._resources:
            self._remove_unfinished()

    def _remove_unfinished(self) -> None:
        for path in self._folder.glob("part-*.parquet.partial"):
            path.unlink()

    def write(self, result: ClipResult, rows: Iterable[FrameRow], people: Sequence[ClipFeatures] = ()) -> None:
        """Write the part of one clip.

        Raises:
            OutputError: It cannot be written.
        """
        resume = ResumeEntry(result.path, *self._stamps[result.path], self._run, result.status)
        schema = self._schema.with_metadata({_ENTRY: FrameEntry(resume, tuple(people)).encode()})
        part = self._folder / f"part-{self._next_part:05}.parquet"
        with atomic_write(part, force=True) as file, self._arrow.parquet.ParquetWriter(file, schema) as writer:
            values = (to_arrow_row(row, self._columns) for row in rows)
            while group := list(islice(values, _ROWS_PER_GROUP)):
                writer.write_table(self._arrow.Table.from_pylist(group, schema))
        self._next_part += 1
        self._parts[result.path], self.people[result.path] = part, people

    def fill_identities(self, names: Mapping[str, Sequence[str]]) -> None:
        """Write the identity of each person into the parts, which are all prepared before the first is replaced.

        Args:
            names: Name of each person in each clip, by path and `face_id`.

        Raises:
            OutputError: A part cannot be written.
        """
        with as_output_error(self._folder):
            prepared = [(self._fill_part(part, names[path]), part) for path, part in self._parts.items() if names[path]]
            for new, part in prepared:
                new.replace(part)
            fsync_dir(self._folder)

    def _fill_part(self, part: Path, names: Sequence[str]) -> Path:
        arrow, new = self._arrow, part.with_name(f"{part.name}.partial")
        with arrow.parquet.ParquetFile(part) as source, new.open("wb") as file:
            schema = source.schema_arrow
            column = schema.get_field_index("identity")
            with arrow.parquet.ParquetWriter(file, schema) as writer:
                for batch in source.iter_batches(_ROWS_PER_GROUP):
                    identities = [None if id is None else names[id] for id in batch["face_id"].to_pylist()]
                    writer.write_batch(batch.set_column(column, "identity", arrow.array(identities, arrow.string())))
            file.flush()
            os.fsync(file.fileno())
        return new

    def _read_entry(self, path: Path) -> FrameEntry:
        """Read the entry of a part.

        Raises:
            OutputError: It is not a part of frames.
        """
        try:
            metadata = self._arrow.parquet.read_schema(path).metadata or {}
            return FrameEntry.decode(metadata[_ENTRY])
        except (self._arrow.ArrowException, KeyError, ValueError) as error:
            raise OutputError(f"{path} was not written by fervid frames; choose another folder") from error
