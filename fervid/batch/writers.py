"""Records -> table, JSON Lines, JSON or CSV, on a stream."""

from __future__ import annotations

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

from fervid.batch.tabular import column_names, flatten
from fervid.core.errors import UsageError
from fervid.core.records import ClipResult, WindowResult
from fervid.core.text import escape_control_chars, escape_formula

Format = Literal["table", "jsonl", "json", "csv"]
_NAME, _SHORT = 16, 10  # cells that the name of a clip has at least beside people and seconds, and beside the others
_UNMEASURED = 40  # cells for it where rows are written as they come, and no terminal limits them
_LABEL = len("error (no_video_stream)")
_STYLES = {"ok": "", "no_face": "dim", "skipped": "dim", "error": "red"}
FORMAT_BY_SUFFIX: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".txt": "table",
}


class Writer(Protocol):
    """Takes records one by one; `finish` completes the document."""

    def write(self, result: ClipResult) -> None:
        """Write one record whole."""

    def finish(self) -> None:
        """Write what closes the document."""


def format_from_suffix(path: Path) -> Format:
    """The format that a file's suffix stands for.

    Raises:
        UsageError: It stands for none.
    """
    try:
        return FORMAT_BY_SUFFIX[path.suffix.lower()]
    except KeyError:
        raise UsageError(
            f"{path}: no format for this suffix; use one of {' '.join(FORMAT_BY_SUFFIX)} or --format"
        ) from None


def make_writer(
    format: Format,
    stream: BinaryIO,
    labels: Sequence[str],
    record: type[ClipResult] = ClipResult,
    *,
    endless: bool = False,
) -> Writer:
    """The writer of a format.

    Args:
        format: Which one.
        stream: Binary; every record reaches it in one write.
        labels: The classifier's labels, which are columns in CSV.
        record: Of which kind the records are.
        endless: Whether nobody waits for the last record, so that the rows of a table are written as they come.
    """
    if format == "csv":
        return CsvWriter(stream, labels, record)
    if format == "json":
        return JsonWriter(stream)
    return TableWriter(stream, record, endless=endless) if format == "table" else JsonLinesWriter(stream)


def to_json_line(value: Any) -> bytes:
    """One line of JSON in UTF-8. Names that are no valid UTF-8 are escaped, so that the line always is."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False).encode()


class JsonLinesWriter:
    """One JSON object a line."""

    def __init__(self, stream: BinaryIO) -> None:
        """Write to that stream."""
        self._stream = stream

    def write(self, result: ClipResult) -> None:
        """Write one line and flush it."""
        self._stream.write(to_json_line(result.as_dict()) + b"\n")
        self._stream.flush()

    def finish(self) -> None:
        """Nothing is left to write."""


class JsonWriter:
    """One JSON array."""

    def __init__(self, stream: BinaryIO) -> None:
        """Write to that stream."""
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
    """A header and one row a record: nested fields as `error.code`, people as JSON.

    A text that a spreadsheet would take for a formula has an apostrophe before it, as OWASP advises.
    """

    def __init__(self, stream: BinaryIO, labels: Sequence[str], record: type[ClipResult] = ClipResult) -> None:
        """Write the header to that stream."""
        self._stream = stream
        self._columns = column_names(labels, record)
        self._row(self._columns)

    def write(self, result: ClipResult) -> None:
        """Write one row."""
        found = {
            name: json.dumps(value) if isinstance(value, list) else escape_formula(value)
            for name, value in flatten(result.as_dict())
        }
        self._row([found.get(column) for column in self._columns])

    def finish(self) -> None:
        """Nothing is left to write."""

    def _row(self, cells: Sequence[Any]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        self._stream.write(text.getvalue().encode("utf-8", "backslashreplace"))
        self._stream.flush()


class TableWriter:
    """A table for people: a row a record, what is wrong with which clip, and how many there are of each status.

    On a terminal every row is one line: of a long name the middle is left out, and on a narrow one the last columns.
    Elsewhere nothing is left out.
    """

    def __init__(self, stream: BinaryIO, record: type[ClipResult] = ClipResult, *, endless: bool = False) -> None:
        """Draw to that stream, when all records are there, or each at once if they are endless."""
        self._stream = io.TextIOWrapper(stream, "utf-8", "backslashreplace", write_through=True)
        terminal = self._stream.isatty()
        self._console = Console(file=self._stream, width=None if terminal else 2**16)
        self._limit = self._console.width if terminal else None
        self._endless, self._what = endless, "window" if issubclass(record, WindowResult) else "clip"
        times = ("from",) if self._what == "window" else ()
        self._titles = ["clip", *times, "label", "confidence", "people", "seconds"]
        self._rows: list[tuple[list[str], str]] = []
        self._problems: list[str] = []
        self._widths: list[int] = []
        self._counts: Counter[str] = Counter()

    def write(self, result: ClipResult) -> None:
        """Keep one row, or write it."""
        label = escape_control_chars(result.label or result.status)
        row = [
            escape_control_chars(result.path),
            *([_seconds(result.start_s)] if isinstance(result, WindowResult) else []),
            f"{label} ({result.problem.code})" if result.problem and result.problem.code != label else label,
            "" if result.confidence is None else f"{result.confidence:.2f}",
            str(len(result.people) or ""),
            _seconds(result.duration_s),
        ]
        self._counts[result.status] += 1
        self._rows.append((row, _STYLES[result.status]))
        if result.problem:
            self._problems.append(escape_control_chars(result.problem.message))
        if self._endless:
            self._draw([_UNMEASURED, *(max(len(title), 7) for title in self._titles[1:])])

    def finish(self) -> None:
        """Draw what is left of the table."""
        if not self._endless:
            rows = [self._titles, *(row for row, _ in self._rows)]
            self._draw([max(map(cell_len, column)) for column in zip(*rows, strict=True)])
        if self._counts.total() > 1:
            counts = ", ".join(f"{count} {status}" for status, count in self._counts.items())
            self._print(Text(f"{self._counts.total()} {self._what}s: {counts}", "bold"))
        self._stream.detach()

    def _draw(self, widths: list[int]) -> None:
        """Write the rows that are kept, below the titles if these are the first, and then what was wrong."""
        if not self._widths:
            label = self._titles.index("label")
            widths[label] = max(widths[label], _LABEL if self._endless else 0)
            self._widths = list(_fit_columns(widths, self._limit))
            self._print(self._line(self._titles, "bold"))
        for row, style in self._rows:
            self._print(self._line(row, style))
        for problem in self._problems:
            self._print(Text(f"  {problem}" if self._endless else problem, "red"))
        self._rows, self._problems = [], []

    def _line(self, row: Sequence[str], style: str) -> Text:
        name, *cells = row[: len(self._widths)]
        room, *widths = self._widths
        name = name if self._limit is None else _ellipsize_middle(name, room)
        parts = [name + " " * (room - cell_len(name))]
        for title, cell, width in zip(self._titles[1:], cells, widths, strict=False):
            parts.append(cell + " " * (width - cell_len(cell)) if title == "label" else cell.rjust(width))
        return Text("  ".join(parts).rstrip(), style)

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=self._limit is None, crop=False)


def _fit_columns(widths: Sequence[int], limit: int | None) -> Iterator[int]:
    """Widths of columns, two cells apart, in a limit: the first gives way, then the last are left out."""
    if limit is None:
        yield from widths
        return
    least = [min(widths[0], _SHORT if end < len(widths) - 1 else _NAME) for end in range(2, len(widths) + 1)]
    taken = [sum(width + 2 for width in widths[1:end]) for end in range(2, len(widths) + 1)]
    count = sum(name + rest <= limit for name, rest in zip(least, taken, strict=True)) or 1
    yield max(1, min(widths[0], limit - taken[count - 1]))
    yield from widths[1 : count + 1]


def _ellipsize_middle(text: str, room: int) -> str:
    """A text that fits into so many cells of a terminal; of a longer one the middle is left out, less of its end."""
    if cell_len(text) <= room:
        return text
    tail = _truncate_cells(reversed(text), (room - 1) * 2 // 3)[::-1]
    return f"{_truncate_cells(text, room - 1 - cell_len(tail))}…{tail}"


def _truncate_cells(text: Iterable[str], room: int) -> str:
    taken = ""
    for character in text:
        if cell_len(taken + character) > room:
            break
        taken += character
    return taken


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
