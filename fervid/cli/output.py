"""The options of the output of a run, and the writing of its records."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fervid.cli.flags import Force, Resume
from fervid.core.errors import UsageError

if TYPE_CHECKING:
    from fervid.batch.runner import RunConfig
    from fervid.batch.writers import Writer
    from fervid.core.progress import Progress, Summary
    from fervid.core.results import ClipResult


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions:
    """Options of the output; each command has its own formats."""

    output: str | Path | None = None
    format: str | None = None
    excel: Annotated[
        bool, typer.Option("--excel", help="Start CSV with a byte order mark, so that Excel reads it as UTF-8.")
    ] = False
    force: Force = False

    def __post_init__(self) -> None:
        """Raise `UsageError` if --excel is given, and the format is not CSV."""
        is_csv = self.format == "csv" or (self.format is None and Path(self.output or "").suffix.lower() == ".csv")
        if self.excel and not is_csv:
            raise UsageError("--excel is for CSV; add --format csv, or name the output results.csv")

    @property
    def writer_format(self) -> Any:
        """The format, which --excel changes from CSV to CSV for Excel."""
        return "excel" if self.excel else self.format


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipOutputOptions(OutputOptions):
    """Options of the output of `classify`."""

    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            help="Output file; the suffix selects the format, e.g. results.jsonl or .csv. A URL is a folder of"
            " parquet files.",
        ),
    ] = None
    format: Annotated[
        Literal["table", "jsonl", "json", "csv", "parquet"] | None,
        typer.Option(
            "--format",
            help="Output format. Default: by the suffix of -o, else a table on a terminal, else jsonl. parquet writes a"
            " folder of files.",
        ),
    ] = None
    resume: Resume = False


def write_results(
    results: Iterable[ClipResult],
    total: int | None,
    progress: Progress,
    config: RunConfig,
    writer: Writer,
    summary: Summary,
) -> None:
    """Write and count records, and show the progress.

    Args:
        results: The records.
        total: Number of records; None if unknown.
        progress: How to show the progress.
        config: Says which records count as failures.
        writer: Writes the records.
        summary: Counts them.
    """
    from fervid.core.progress import track_clips

    with closing(track_clips(results, total, progress, lambda result: config.is_failure(result.status))) as tracked:
        for result in tracked:
            writer.write(result)
            summary.add(result.path, result.status, failed=config.is_failure(result.status))
