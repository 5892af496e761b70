"""Parquet output in parts, in a local or remote folder, that an interrupted run can resume."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fervid.analysis.pipeline import Classifier
from fervid.batch.resume import ResumeEntry, file_stamp, run_fingerprint
from fervid.batch.tabular import arrow_schema, to_arrow_dict
from fervid.core.atomic_io import atomic_write, fsync_dir, hold_lock
from fervid.core.errors import OutputError
from fervid.core.packages import missing_extra
from fervid.core.results import ClipResult, Status
from fervid.core.text import to_valid_utf8
from fervid.media.remote_files import is_local, open_filesystem, wrap_fs_errors

ROWS_PER_PART = 1000
MAX_BUFFER_S = 60.0
"""Maximum seconds for which a record is buffered before its part is written."""
_PART = re.compile(r"part-(\d{5,})\.parquet")


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
        try:
            import pyarrow.parquet
        except ImportError:
            raise missing_extra("parquet", "parquet") from None
        self._arrow, self._output = pyarrow, output
        self._files, self._folder = open_filesystem(output)
        self._local = is_local(self._files)
        self._schema = _dataset_schema(pyarrow, classifier.labels)
        self._run = run_fingerprint(classifier)
        self._stamps = {to_valid_utf8(clip): (clip, file_stamp(clip)) for clip in clips}
        self._rows: list[dict[str, Any]] = []
        self._buffered_since = 0.0
        self.finished: dict[str, Status] = {}
        with wrap_fs_errors(output, OutputError), ExitStack() as resources:
            self._files.makedirs(self._folder, exist_ok=True)
            if self._local:
                resources.enter_context(hold_lock(Path(self._folder, ".lock"), output))
            parts = {int(match[1]): name for name in self._names() if (match := _PART.fullmatch(name))}
            if parts and not (resume or force):
                raise OutputError(
                    f"{output} has parts already; replace them with --force, continue them with --resume, or choose"
                    " another folder"
                )
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
                self._write_part(f"part-{self._next_part:05}.parquet", table)
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
        return sorted(path.rpartition("/")[2] for path in paths)

    def _path(self, name: str) -> str:
        return f"{self._folder.rstrip('/')}/{name}"


def _dataset_schema(arrow: Any, labels: Sequence[str]) -> Any:
    """Return the columns of a record, and those that tell on resuming whether it is current."""
    stamps = {"size": arrow.int64(), "mtime_ns": arrow.int64(), "run": arrow.string()}
    return arrow.schema([*arrow_schema(arrow, labels), *map(arrow.field, stamps, stamps.values())])
