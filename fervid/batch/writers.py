"""Write records to a stream as a table, JSON Lines, JSON or CSV."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from fervid.batch.tabular import column_types
from fervid.core.errors import UsageError
from fervid.core.results import ClipResult, WindowResult
from fervid.core.schema import flatten
from fervid.core.text import escape_control_chars, escape_formula

Format = Literal["table", "jsonl", "json", "csv", "excel"]
_MIN_NAME = 16  # minimum width of the clip's name in a table with the column `people`
_MIN_NAME_SHORT = 10  # the same in a table with fewer columns
_UNMEASURED_NAME = 40  # width of the name if rows are written at once and no terminal limits it
_STREAMED_LABEL = len("error (no_video_stream)")
_STYLES = {"ok": "", "no_face": "dim", "skipped": "dim", "error": "red"}
FORMAT_BY_SUFFIX: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".txt": "table",
}


class Writer(Protocol):
    """A sink for records."""

    def write(self, result: ClipResult) -> None:
        """Write one record."""

    def finish(self) -> None:
        """Complete the document."""


def format_from_suffix(path: Path) -> Format:
    """Return the format that belongs to a file's suffix.

    Raises:
        UsageError: There is none.
    """
    try:
        return FORMAT_BY_SUFFIX[path.suffix.lower()]
    except KeyError:
        raise UsageError(
            f"no format for this suffix: {path}; use one of {' '.join(FORMAT_BY_SUFFIX)}, or add --format"
        ) from None


def make_writer(
    format: Format,
    stream: BinaryIO,
    labels: Sequence[str],
    record: type[ClipResult] = ClipResult,
    *,
    streaming: bool = False,
) -> Writer:
    """Make the writer of a format.

    Args:
        format: The format; `excel` is CSV that starts with a byte order mark.
        stream: A binary stream; each record reaches it in one write.
        labels: The classifier's labels, which are columns in CSV.
        record: Type of the records.
        streaming: Whether to write the rows of a table at once, because the last record may never come.
    """
    if format in ("csv", "excel"):
        return CsvWriter(stream, labels, record, byte_order_mark=format == "excel")
    if format == "json":
        return JsonWriter(stream)
    return TableWriter(stream, record, streaming=streaming) if format == "table" else JsonLinesWriter(stream)


def to_json_line(value: Any) -> bytes:
    """Encode a value as one line of JSON. If it contains invalid UTF-8, all characters beyond ASCII are escaped."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False).encode()


class JsonLinesWriter:
    """A writer of JSON Lines: one object per record."""

    def __init__(self, stream: BinaryIO) -> None:
        """Write to a stream."""
        self._stream = stream

    def write(self, result: ClipResult) -> None:
        """Write one line and flush it."""
        self._stream.write(to_json_line(result.as_dict()) + b"\n")
        self._stream.flush()

    def finish(self) -> None:
        """Do nothing, because each record is complete."""


class JsonWriter:
    """A writer of JSON: one array of records."""

    def __init__(self, stream: BinaryIO) -> None:
        """Write to a stream."""
        self._stream = stream
        self._opening = b"["

    def write(self, result: ClipResult) -> None:
        """Write one element."""
        self._stream.write(self._opening + b"\n" + to_json_line(result.as_dict()))
        self._opening = b","

    def finish(self) -> None:
        """Close the array."""
        self._stream.write(b"\n]\n" if self._opening == b"," else b"[]\n")
        self._stream.flush()


class CsvWriter:
    """A writer of CSV: a header, and a row per record with nested fields as `error.code` and people as JSON.

    Text that a spreadsheet would evaluate as a formula is prefixed with an apostrophe, as OWASP advises.
    """

    def __init__(
        self,
        stream: BinaryIO,
        labels: Sequence[str],
        record: type[ClipResult] = ClipResult,
        *,
        byte_order_mark: bool = False,
    ) -> None:
        """Write the header to a stream, after a byte order mark if Excel is to recognise UTF-8."""
        self._stream = stream
        self._columns = list(column_types(labels, record))
        if byte_order_mark:
            stream.write(codecs.BOM_UTF8)
        self._row(self._columns)

    def write(self, result: ClipResult) -> None:
        """Write one row."""
        cells = {
            name: json.dumps(value) if isinstance(value, list) else escape_formula(value)
            for name, value in flatten(result.as_dict())
        }
        self._row([cells.get(column) for column in self._columns])

    def finish(self) -> None:
        """Do nothing, because each record is complete."""

    def _row(self, cells: Sequence[Any]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        self._stream.write(text.getvalue().encode("utf-8", "backslashreplace"))
        self._stream.flush()


class TableWriter:
    """A writer of a table for reading: a row per record, then the errors, then the number of records by status.

    On a terminal each row is one line: the middle of long names is omitted, and on a narrow terminal the last columns
    are. Other outputs get everything.
    """

    def __init__(self, stream: BinaryIO, record: type[ClipResult] = ClipResult, *, streaming: bool = False) -> None:
        """Write to a stream, each row at once if `streaming`, and otherwise when all records are known."""
        self._stream = io.TextIOWrapper(stream, "utf-8", "backslashreplace", newline="\n", write_through=True)
        terminal = self._stream.isatty()
        self._console = Console(file=self._stream, width=None if terminal else 2**16)
        self._limit = self._console.width if terminal else None
        self._streaming, self._unit = streaming, "window" if issubclass(record, WindowResult) else "clip"
        times = ("from",) if self._unit == "window" else ()
        self._titles = ["clip", *times, "label", "confidence", "people", "seconds"]
        self._rows: list[tuple[list[str], str]] = []
        self._errors: list[str] = []
        self._widths: list[int] = []
        self._counts: Counter[str] = Counter()

    def write(self, result: ClipResult) -> None:
        """Buffer one row, or write it at once."""
        label = escape_control_chars(result.label or result.status)
        row = [
            escape_control_chars(result.path),
            *([_seconds(result.start_s)] if isinstance(result, WindowResult) else []),
            f"{label} ({result.error.code})" if result.error and result.error.code != label else label,
            "" if result.confidence is None else f"{result.confidence:.2f}",
            str(len(result.people) or ""),
            _seconds(result.duration_s),
        ]
        self._counts[result.status] += 1
        self._rows.append((row, _STYLES[result.status]))
        if result.error:
            self._errors.append(escape_control_chars(result.error.message))
        if self._streaming:
            self._draw([_UNMEASURED_NAME, *(max(len(title), 7) for title in self._titles[1:])])

    def finish(self) -> None:
        """Write the buffered rows, and the number of records by status."""
        if not self._streaming:
            rows = [self._titles, *(row for row, _ in self._rows)]
            self._draw([max(map(cell_len, column)) for column in zip(*rows, strict=True)])
        if self._counts.total() > 1:
            counts = ", ".join(f"{count} {status}" for status, count in self._counts.items())
            self._print(Text(f"{self._counts.total()} {self._unit}s: {counts}", "bold"))
        self._stream.detach()

    def _draw(self, widths: list[int]) -> None:
        """Write the buffered rows, after the titles if they are the first, and then the buffered errors."""
        if not self._widths:
            label = self._titles.index("label")
            widths[label] = max(widths[label], _STREAMED_LABEL if self._streaming else 0)
            self._widths = list(_fit_columns(widths, self._limit))
            self._print(self._line(self._titles, "bold"))
        for row, style in self._rows:
            self._print(self._line(row, style))
        for problem in self._errors:
            self._print(Text(f"  {problem}" if self._streaming else problem, "red"))
        self._rows, self._errors = [], []

    def _line(self, row: Sequence[str], style: str) -> Text:
        name, *cells = row[: len(self._widths)]
        name_width, *widths = self._widths
        name = name if self._limit is None else _ellipsize_middle(name, name_width)
        parts = [name + " " * (name_width - cell_len(name))]
        for title, cell, width in zip(self._titles[1:], cells, widths, strict=False):
            parts.append(cell + " " * (width - cell_len(cell)) if title == "label" else cell.rjust(width))
        return Text("  ".join(parts).rstrip(), style)

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=self._limit is None, crop=False)


def _fit_columns(widths: Sequence[int], limit: int | None) -> Iterator[int]:
    """Fit the widths of columns, two cells apart, into a limit: shrink the first column, then drop the last ones."""
    if limit is None:
        yield from widths
        return
    counts = range(2, len(widths) + 1)
    name_widths = [min(widths[0], _MIN_NAME_SHORT if count < len(widths) - 1 else _MIN_NAME) for count in counts]
    other_widths = [sum(width + 2 for width in widths[1:count]) for count in counts]
    n_fitting = sum(name + others <= limit for name, others in zip(name_widths, other_widths, strict=True)) or 1
    yield max(1, min(widths[0], limit - other_widths[n_fitting - 1]))
    yield from widths[1 : n_fitting + 1]


def _ellipsize_middle(text: str, width: int) -> str:
    """Shorten a text to a number of terminal cells by omitting its middle; two thirds of the rest are its end."""
    if cell_len(text) <= width:
        return text
    tail = _truncate_cells(reversed(text), (width - 1) * 2 // 3)[::-1]
    return f"{_truncate_cells(text, width - 1 - cell_len(tail))}…{tail}"


def _truncate_cells(text: Iterable[str], width: int) -> str:
    head = ""
    for character in text:
        if cell_len(head + character) > width:
            break
        head += character
    return head


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
