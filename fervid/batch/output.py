"""Open the output of a run: a file, standard output, or a folder of parquet."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal, cast

from fervid.analysis.pipeline import Classifier
from fervid.batch.parquet_writer import ParquetDatasetWriter
from fervid.batch.resumable_lines import ResumableJsonlWriter, ledger_path
from fervid.batch.resume import run_fingerprint
from fervid.batch.writers import Format, Writer, format_from_suffix, make_writer
from fervid.core.atomic_io import append_write, as_output_error, atomic_write, check_overwrite, partial_path
from fervid.core.errors import UsageError
from fervid.core.results import ClipResult, Status
from fervid.media.remote_files import is_url

OutputFormat = Format | Literal["parquet"]
_Opened = AbstractContextManager[tuple[Writer, Mapping[str, Status]]]


def open_writer(
    output: str | Path | None,
    format: OutputFormat | None,
    classifier: Classifier,
    clips: Collection[str],
    *,
    resume: bool = False,
    force: bool = False,
    record: type[ClipResult] = ClipResult,
    on_message: Callable[[str], None] = lambda message: None,
) -> _Opened:
    """Open the output of a run, which is completed and closed on every exit.

    Args:
        output: A file; a folder or URL for parquet; None for standard output.
        format: None for the format of the suffix, and on standard output for a table on a terminal and JSON Lines
            otherwise. A URL is always parquet.
        classifier: Makes the records.
        clips: The inputs, none of which the output may overwrite; a mapping gives their size and modification time too,
            as for `ResumableJsonlWriter`.
        resume: Whether to continue JSON Lines or parquet.
        force: Whether an existing file may be replaced.
        record: Type of the records. Only `ClipResult`, of which each clip has one, can be resumed.
        on_message: Called with a notice about lines of an output that cannot be kept.

    Returns:
        A context manager that gives the writer, and the status of each input that has a record already.

    Raises:
        UsageError: The format is unknown or does not support the options, or the output is an input.
        OutputError: The file exists or cannot be written.
    """
    output = output or None
    format = _resolve_format(output, format, resume=resume, force=force)
    if format == "parquet":
        return _open_resumable(
            partial(ParquetDatasetWriter, str(output), classifier, clips, resume=resume, force=force)
        )
    make = partial(make_writer, format, labels=classifier.labels, record=record)
    if output is None:
        return _open_stdout(make)
    path = Path(output)
    check_not_an_input(path, clips)
    if format == "jsonl" and record is ClipResult:
        run = run_fingerprint(classifier)
        return _open_resumable(
            partial(ResumableJsonlWriter, path, run, clips, resume=resume, force=force, on_message=on_message)
        )
    return _open_atomic(path, make, force=force)


def open_stream_writer(
    output: str | Path | None,
    format: OutputFormat | None,
    classifier: Classifier,
    clips: Collection[str],
    *,
    resume: bool = False,
    force: bool = False,
    record: type[ClipResult] = ClipResult,
    on_message: Callable[[str], None] = lambda message: None,
) -> _Opened:
    """Open the output of a run without end: each record is complete in the output once it is written.

    Arguments, return value and errors are those of `open_writer`. A file is JSON Lines.
    """
    output = output or None
    format = cast(Format, _resolve_format(output, format, resume=resume, force=force, streaming=True))
    if output is not None and record is ClipResult:
        return open_writer(output, format, classifier, clips, resume=resume, force=force, on_message=on_message)
    make = partial(make_writer, format, labels=classifier.labels, record=record, streaming=True)
    if output is None:
        return _open_stdout(make)
    check_not_an_input(Path(output), clips)
    return _open_append(Path(output), make, force=force)


def _resolve_format(
    output: str | Path | None, format: OutputFormat | None, *, resume: bool, force: bool, streaming: bool = False
) -> OutputFormat:
    """Determine the format, and check that it supports the options.

    Raises:
        UsageError: It does not, or the suffix stands for no format.
    """
    if resume and force:
        raise UsageError("--resume continues the output and --force replaces it; give one of them")
    remote = output is not None and is_url(str(output))
    if (remote and format not in (None, "parquet")) or (format == "parquet" and output is None):
        raise UsageError("a URL is written as parquet, and parquet to a folder or URL; name it with -o results/")
    if format is None:
        if output is None:
            format = "table" if sys.stdout.isatty() else "jsonl"
        else:
            format = "parquet" if remote else format_from_suffix(Path(output))
    if streaming and format not in (("jsonl", "csv", "excel", "table") if output is None else ("jsonl",)):
        raise UsageError(
            "a run without end is written as JSON Lines; use -o results.jsonl, or --format csv on standard output"
        )
    if resume and (output is None or format not in ("jsonl", "parquet")):
        raise UsageError("--resume continues JSON Lines or parquet; name it with -o results.jsonl")
    return format


def check_not_an_input(output: Path, clips: Collection[str]) -> None:
    """Check that no input is the output, or one of the files beside it.

    Raises:
        UsageError: One is.
    """
    written = {f"{os.path.realpath(output)}{suffix}" for suffix in ("", ".partial", ".ledger", ".lock")}
    if clip := next((clip for clip in clips if os.path.realpath(clip) in written), None):
        raise UsageError(f"the output {output} would overwrite the input {clip}; choose another name")


@contextmanager
def _open_resumable(
    open_output: Callable[[], ResumableJsonlWriter | ParquetDatasetWriter],
) -> Iterator[tuple[Writer, Mapping[str, Status]]]:
    with open_output() as writer:
        yield writer, writer.finished


@contextmanager
def _open_stdout(make: Callable[[BinaryIO], Writer]) -> Iterator[tuple[Writer, Mapping[str, Status]]]:
    writer = make(sys.stdout.buffer)
    with as_output_error(Path("standard output")), _finishing(writer):
        yield writer, {}


@contextmanager
def _open_append(
    output: Path, make: Callable[[BinaryIO], Writer], *, force: bool
) -> Iterator[tuple[Writer, Mapping[str, Status]]]:
    """Write records to the output itself, so that they can be read while the run goes on."""
    ledger = ledger_path(output)
    check_overwrite(ledger, force=force)
    with append_write(output, force=force) as stream:
        ledger.unlink(missing_ok=True)
        yield make(stream), {}


@contextmanager
def _open_atomic(
    output: Path, make: Callable[[BinaryIO], Writer], *, force: bool
) -> Iterator[tuple[Writer, Mapping[str, Status]]]:
    """Write a document that appears under its name when it is complete."""
    stale_ledger = ledger_path(output)  # the ledger of a replaced file would seem to belong to the new one
    with atomic_write(output, force=force) as stream:
        check_overwrite(stale_ledger, force=force)
        with _noting_partial_file(output), _finishing(make(stream)) as writer:
            yield writer, {}
        stale_ledger.unlink(missing_ok=True)


@contextmanager
def _noting_partial_file(output: Path) -> Iterator[None]:
    """Add to an interrupt a note that names the file with the records so far."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as interrupt:
        interrupt.add_note(f"unfinished in {partial_path(output)}")
        raise


@contextmanager
def _finishing(writer: Writer) -> Iterator[Writer]:
    try:
        yield writer
    finally:
        writer.finish()
