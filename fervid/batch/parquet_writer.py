"""Records as parquet in a folder anywhere, part by part, which a run that was cut off can continue."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fervid.analysis.pipeline import Classifier
from fervid.batch.resumable_jsonl import ResumeEntry, file_stamp, run_fingerprint
from fervid.batch.tabular import arrow_schema, to_arrow_dict
from fervid.core.atomic_io import atomic_write, fsync_dir, lock
from fervid.core.errors import OutputError, UsageError
from fervid.core.records import ClipResult, Status
from fervid.core.text import to_valid_utf8
from fervid.media.remote_files import is_local, open_filesystem, wrap_fs_errors

ROWS_PER_PART = 1000  # records of a part
MAX_BUFFER_S = 60.0  # that a record waits for others at most
_PART = re.compile(r"part-(\d{5,})\.parquet")


class ParquetDatasetWriter:
    """A folder of `part-00000.parquet` and so on, each of which is there whole or not at all.

    On this machine's disks a part lasts even if the power fails, and no two runs write one folder, which is locked.

    Behind the record a row says what the clip was like, `size` and `mtime_ns`, and what answered it, `run`.
    On resuming, parts with records that are answered again are first written without them; all other records stay.
    """

    def __init__(self, output: str, classifier: Classifier, clips: Iterable[str], *, resume: bool, force: bool) -> None:
        """Open or create the folder.

        Args:
            output: A folder, or the URL of one.
            classifier: Whose answers they are.
            clips: The inputs of this run.
            resume: Whether to continue the parts that are there.
            force: Whether they may be replaced.

        Raises:
            UsageError: The file system cannot be opened, or a package is missing.
            OutputError: There are parts and neither `resume` nor `force` is given, another run writes the folder, or
                it cannot be written.
        """
        try:
            import pyarrow.parquet
        except ImportError:
            raise UsageError("parquet needs pyarrow, which is not installed; pip install 'fervid[parquet]'") from None
        self._arrow, self._output = pyarrow, output
        self._files, self._folder = open_filesystem(output)
        self._local = is_local(self._files)
        self._schema = _dataset_schema(pyarrow, classifier.labels)
        self._run = run_fingerprint(classifier)
        self._stamps = {to_valid_utf8(clip): (clip, file_stamp(clip)) for clip in clips}
        self._rows: list[dict[str, Any]] = []
        self._since = 0.0
        self.answered: dict[str, Status] = {}
        with wrap_fs_errors(output, OutputError), ExitStack() as held:
            self._files.makedirs(self._folder, exist_ok=True)
            if self._local:
                held.callback(os.close, folder := os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY))
                lock(folder, output)
            found = {int(match[1]): name for name in self._names() if (match := _PART.fullmatch(name))}
            if found and not (resume or force):
                raise OutputError(
                    f"{output} holds parts; --force replaces them, --resume continues them, or choose another folder"
                )
            for name in found.values():
                if resume:
                    self._continue(name)
                else:
                    self._files.rm_file(self._path(name))
            if self._local:
                fsync_dir(Path(self._folder))
            self._held = held.pop_all()
        self._next = max(found) + 1 if found and resume else 0

    def __enter__(self) -> ParquetDatasetWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with self._held:
            if kind is None or not issubclass(kind, OutputError):
                self.finish()

    def write(self, result: ClipResult) -> None:
        """Keep one record, and write a part if it is time.

        Raises:
            OutputError: The part cannot be written.
        """
        if not self._rows:
            self._since = time.monotonic()
        size, mtime_ns = self._stamps[to_valid_utf8(result.path)][1]
        self._rows.append({**to_arrow_dict(result), "size": size, "mtime_ns": mtime_ns, "run": self._run})
        if len(self._rows) >= ROWS_PER_PART or time.monotonic() - self._since > MAX_BUFFER_S:
            self.finish()

    def finish(self) -> None:
        """Write what is kept as a part.

        Raises:
            OutputError: It cannot be written.
        """
        if self._rows:
            table = self._arrow.Table.from_pylist(self._rows, self._schema)
            with wrap_fs_errors(self._output, OutputError):
                self._put(f"part-{self._next:05}.parquet", table)
            self._next, self._rows = self._next + 1, []

    def _continue(self, name: str) -> None:
        """Leave only the records of a part that stand."""
        parquet = self._arrow.parquet
        try:
            table = parquet.read_table(self._arrow.BufferReader(self._files.cat_file(self._path(name))))
            columns = table.select(["path", "size", "mtime_ns", "run", "status"]).to_pylist()
            same = table.schema.field("probabilities").equals(self._schema.field("probabilities"))
        except (self._arrow.ArrowException, KeyError) as error:
            raise OutputError(f"{name} in {self._output} was not written by fervid; choose another folder") from error
        kept = []
        for column in columns:
            clip, now = self._stamps.get(column["path"], (column["path"], None))
            kept.append(ResumeEntry(**column).stands(self._run, now))
            if kept[-1]:
                self.answered[clip] = column["status"]
        if any(kept) and not same:
            raise OutputError(
                f"{self._output} holds answers with other labels ({name}), and tables of both cannot be read together;"
                " choose another folder"
            )
        if not any(kept):
            self._files.rm_file(self._path(name))
        elif not all(kept):
            self._put(name, table.filter(self._arrow.array(kept)))

    def _put(self, name: str, table: Any) -> None:
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
        except FileNotFoundError:  # object stores know no empty folders
            return []
        return sorted(path.rpartition("/")[2] for path in paths)

    def _path(self, name: str) -> str:
        return f"{self._folder.rstrip('/')}/{name}"


def _dataset_schema(arrow: Any, labels: Sequence[str]) -> Any:
    """The columns of a record, and those by which a run knows what is answered."""
    stamps = {"size": arrow.int64(), "mtime_ns": arrow.int64(), "run": arrow.string()}
    return arrow.schema([*arrow_schema(arrow, labels), *map(arrow.field, stamps, stamps.values())])
