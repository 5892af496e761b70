"""Parquet output that an interrupted run can resume: records, or the rows of frames, in parts."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from fervid.analysis.pipeline import Classifier
from fervid.batch.frame_formats import frame_schema, to_arrow_row
from fervid.batch.resume import ResumeEntry, check_same_run, file_stamp, run_fingerprint
from fervid.batch.tabular import arrow_schema, to_arrow_dict
from fervid.batch.writers import to_json_line
from fervid.core.atomic_io import as_output_error, atomic_write, fsync_dir, hold_lock
from fervid.core.errors import OutputError
from fervid.core.frame_rows import FrameColumns, FrameRow
from fervid.core.packages import missing_extra
from fervid.core.records import ClipFeatures
from fervid.core.results import ClipResult, Status
from fervid.core.text import to_valid_utf8
from fervid.media.remote_files import is_local, open_filesystem, wrap_fs_errors

ROWS_PER_PART = 1000
MAX_BUFFER_S = 60.0
"""Maximum seconds for which a record is buffered before its part is written."""
_ROWS_PER_GROUP = 1000
_PART = re.compile(r"part-(\d{5,})\.parquet")
_ENTRY = b"fervid"
"""Key of the metadata of a part with frames, whose value is a `ResumeEntry` as JSON."""


class ParquetDatasetWriter:
    """A folder of `part-00000.parquet` and so on, each of which is complete or absent.

    On local disks a part survives a power failure once it is written, and a lock keeps other runs out of the folder.

    After the columns of the record, a row has the clip's `size` and `mtime_ns`, and the fingerprint `run` of the run.
    On resuming, parts with records of clips that are classified again are rewritten without these records.
    """

    def __init__(self, output: str, classifier: Classifier, clips: Iterable[str], *, resume: bool, force: bool) -> None:
        """Open or create the folder.

        Args:
            output: A folder, or the URL of one.
            classifier: Makes the records.
            clips: The inputs of this run.
            resume: Whether to continue existing parts.
            force: Whether existing parts may be replaced.

        Raises:
            UsageError: The file system cannot be opened, or a package is missing.
            OutputError: The folder has parts and neither `resume` nor `force` is given, another run writes it, or it
                cannot be written.
        """
        self._arrow, self._output = _import_parquet(), output
        self._files, self._folder = open_filesystem(output)
        self._local = is_local(self._files)
        stamp = [("size", self._arrow.int64()), ("mtime_ns", self._arrow.int64()), ("run", self._arrow.string())]
        self._schema = self._arrow.schema([*arrow_schema(self._arrow, classifier.labels), *stamp])
        self._run = run_fingerprint(classifier)
        self._stamps = {to_valid_utf8(clip): (clip, file_stamp(clip)) for clip in clips}
        self._rows: list[dict[str, Any]] = []
        self._buffered_since = 0.0
        self.finished: dict[str, Status] = {}
        with wrap_fs_errors(output, OutputError), ExitStack() as resources:
            self._files.makedirs(self._folder, exist_ok=True)
            if self._local:
                resources.enter_context(hold_lock(Path(self._folder, ".lock"), output))
            parts = _find_parts(self._names(), output, resume=resume, force=force)
            for name in parts.values():
                if resume:
                    self._load_part(name)
                else:
                    self._files.rm_file(self._path(name))
            if self._local:
                fsync_dir(Path(self._folder))
            self._resources = resources.pop_all()
        self._next_part = max(parts) + 1 if parts and resume else 0

    def __enter__(self) -> ParquetDatasetWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with self._resources:
            if kind is None or not issubclass(kind, OutputError):
                self.finish()

    def write(self, result: ClipResult) -> None:
        """Buffer one record, and write a part if the buffer is full or old.

        Raises:
            OutputError: The part cannot be written.
        """
        if not self._rows:
            self._buffered_since = time.monotonic()
        size, mtime_ns = self._stamps[to_valid_utf8(result.path)][1]
        self._rows.append({**to_arrow_dict(result), "size": size, "mtime_ns": mtime_ns, "run": self._run})
        if len(self._rows) >= ROWS_PER_PART or time.monotonic() - self._buffered_since > MAX_BUFFER_S:
            self.finish()

    def finish(self) -> None:
        """Write the buffered records as a part.

        Raises:
            OutputError: It cannot be written.
        """
        if self._rows:
            table = self._arrow.Table.from_pylist(self._rows, self._schema)
            with wrap_fs_errors(self._output, OutputError):
                self._write_part(_part_name(self._next_part), table)
            self._next_part, self._rows = self._next_part + 1, []

    def _load_part(self, name: str) -> None:
        """Load the statuses of a part's current records, and remove the other records from the part.

        Raises:
            OutputError: The file is not a part of ours, or its records have other labels.
        """
        parquet = self._arrow.parquet
        try:
            table = parquet.read_table(self._arrow.BufferReader(self._files.cat_file(self._path(name))))
            rows = table.select(["path", "size", "mtime_ns", "run", "status"]).to_pylist()
            same_labels = table.schema.field("probabilities").equals(self._schema.field("probabilities"))
        except (self._arrow.ArrowException, KeyError) as error:
            raise OutputError(f"{name} in {self._output} was not written by fervid; choose another folder") from error
        current = []
        for row in rows:
            clip, stamp = self._stamps.get(row["path"], (row["path"], None))
            current.append(ResumeEntry(**row).is_current(self._run, stamp))
            if current[-1]:
                self.finished[clip] = row["status"]
        if any(current) and not same_labels:
            raise OutputError(
                f"{self._output} has records with other labels ({name}), which cannot be mixed in one table;"
                " choose another folder"
            )
        if not any(current):
            self._files.rm_file(self._path(name))
        elif not all(current):
            self._write_part(name, table.filter(self._arrow.array(current)))

    def _write_part(self, name: str, table: Any) -> None:
        with self._arrow.BufferOutputStream() as stream:
            self._arrow.parquet.write_table(table, stream)
            data = stream.getvalue().to_pybytes()
        if self._local:
            with atomic_write(Path(self._path(name)), force=True) as file:
                file.write(data)
            return
        partial = self._path(f"{name}.partial")
        self._files.pipe_file(partial, data)
        self._files.mv(partial, self._path(name))

    def _names(self) -> list[str]:
        try:
            paths = self._files.ls(self._folder, detail=False)
        except FileNotFoundError:  # object stores have no empty folders
            return []
        return [path.rpartition("/")[2] for path in paths]

    def _path(self, name: str) -> str:
        return f"{self._folder.rstrip('/')}/{name}"


class FrameParquetWriter:
    """A folder of `part-00000.parquet` and so on: one for each clip, each of which is complete or absent.

    A part names its clip, and what its rows depend on, in its metadata.
    """

    def __init__(
        self, folder: Path, columns: FrameColumns, run: str, clips: Iterable[str], *, resume: bool, force: bool
    ) -> None:
        """Open or create the folder.

        Arguments and errors are those of `ParquetDatasetWriter`, for rows with these columns; `run` is a fingerprint of
        models, options and columns.
        """
        self._arrow, self._folder, self._columns, self._run = _import_parquet(), folder, columns, run
        self._schema = frame_schema(self._arrow, columns)
        self._stamps = {clip: file_stamp(clip) for clip in clips}
        with as_output_error(folder), ExitStack() as resources:
            folder.mkdir(parents=True, exist_ok=True)
            resources.enter_context(hold_lock(folder / ".lock", folder))
            self._remove_unfinished()
            parts = _find_parts(os.listdir(folder), folder, resume=resume, force=force)
            entries = {number: self._read_entry(folder / name) for number, name in parts.items()}
            kept = {
                number: entry
                for number, entry in entries.items()
                if resume and entry.is_current(run, self._stamps.get(entry.path))
            }
            check_same_run(kept.values(), run, folder)
            for number in entries.keys() - kept.keys():
                (folder / parts[number]).unlink()
            fsync_dir(folder)
            self._resources = resources.pop_all()
        self._parts = {entry.path: folder / parts[number] for number, entry in kept.items()}
        self._next_part = max(kept, default=-1) + 1
        self.finished: Mapping[str, Status] = {entry.path: entry.status for entry in kept.values()}
        self.people = {entry.path: entry.people or () for entry in kept.values()}

    def __enter__(self) -> FrameParquetWriter:
        return self

    def __exit__(self, *error: object) -> None:
        with self._resources:
            self._remove_unfinished()

    def _remove_unfinished(self) -> None:
        for path in self._folder.glob("part-*.parquet.partial"):
            path.unlink()

    def write(self, result: ClipResult, rows: Iterable[FrameRow], people: Sequence[ClipFeatures] = ()) -> None:
        """Write the part of one clip, and keep what its people are recognised by.

        Raises:
            OutputError: It cannot be written.
        """
        people = tuple(people)
        entry = ResumeEntry(result.path, *self._stamps[result.path], self._run, result.status, people=people)
        schema = self._schema.with_metadata({_ENTRY: to_json_line(entry.as_dict())})
        part = self._folder / _part_name(self._next_part)
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

    def _read_entry(self, path: Path) -> ResumeEntry:
        """Read the entry of a part, or raise `OutputError` if it is not a part of frames."""
        try:
            metadata = self._arrow.parquet.read_schema(path).metadata or {}
            return ResumeEntry.from_dict(json.loads(metadata[_ENTRY]))
        except (self._arrow.ArrowException, KeyError, RecursionError, ValueError) as error:
            raise OutputError(f"{path} was not written by fervid frames; choose another folder") from error


def _import_parquet() -> Any:
    """Return pyarrow with its submodule `parquet`."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise missing_extra("parquet", "parquet") from None
    return pyarrow


def _find_parts(names: Iterable[str], output: str | Path, *, resume: bool, force: bool) -> dict[int, str]:
    """Find the parts among the names of files, by number in ascending order.

    Raises `OutputError` if there are parts, and neither `resume` nor `force` is given.
    """
    parts = {int(match[1]): name for name in names if (match := _PART.fullmatch(name))}
    if parts and not (resume or force):
        raise OutputError(
            f"{output} has parts already; replace them with --force, continue them with --resume, or choose another"
            " folder"
        )
    return dict(sorted(parts.items()))


def _part_name(number: int) -> str:
    return f"part-{number:05}.parquet"
