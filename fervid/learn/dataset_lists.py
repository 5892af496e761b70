"""Read labelled clips from a CSV or JSON Lines file."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fervid.core.errors import DatasetError
from fervid.learn.clip_files import read_text
from fervid.learn.dataset_layouts import KNOWN_LAYOUTS, SPLIT_ALIASES, Sample

COLUMNS = ("path", "label", "person", "split")
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
"""Delimiters of a CSV file and their names."""
_COMMENT = re.compile(r"^[ \t]*#.*$", re.MULTILINE)
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")

Row = tuple[str, Mapping[str, Any]]
"""`FILE:LINE`, for messages, and the values by column."""


def read_list(path: Path) -> tuple[Sample, ...]:
    """Read a CSV file with a header, or JSON Lines; clip paths are relative to the folder of the list.

    Raises:
        DatasetError: The file cannot be read, or a line is wrong; the message names it.
    """
    sets = ", ".join(f"{name}:FOLDER" for name in KNOWN_LAYOUTS)
    text = read_text(path, f"give a folder with one folder per class, a CSV or JSON Lines file in UTF-8, or {sets}")
    rows = list(_jsonl_rows(text, path) if path.suffix.lower() in (".jsonl", ".ndjson") else _csv_rows(text, path))
    if not rows:
        raise DatasetError(f"{path} lists no clips; add a line with path and label for each clip")
    return tuple(
        _make_sample(path.parent, row, ratings) for row, ratings in zip(rows, _parse_ratings(rows), strict=True)
    )


def _make_sample(folder: Path, row: Row, ratings: Mapping[str, float]) -> Sample:
    source, values = row
    path, label, person, split = (_parse_text(source, name, values.get(name)) for name in COLUMNS)
    if path is None:
        raise DatasetError(f"{source} has no path; every line needs the path of a clip")
    if label is None and not ratings:
        raise DatasetError(f"{source} has no label and no rating; every line needs a label or a numeric column")
    if split is not None and split.lower() not in SPLIT_ALIASES:
        raise DatasetError(f"{source}: unknown split {split!r}; use train, val or test")
    return Sample(folder / path, label, person, SPLIT_ALIASES[split.lower()] if split else None, ratings, source)


def _parse_text(source: str, name: str, value: Any) -> str | None:
    if name == "person" and type(value) is int:
        value = str(value)
    if not isinstance(value, str | None):
        raise DatasetError(f"{source}: {name} must be a string, not {type(value).__name__}; put it in quotes")
    return (value or "").strip() or None


def _parse_ratings(rows: Sequence[Row]) -> list[dict[str, float]]:
    """Collect the ratings of each row: its values in the other columns, where a column holds only numbers."""
    ratings: list[dict[str, float]] = [{} for _ in rows]
    for name in dict.fromkeys(name for _, values in rows for name in values if name and name not in COLUMNS):
        cells = {i: values[name] for i, (_, values) in enumerate(rows) if values.get(name) not in (None, "")}
        try:
            numbers = {i: _parse_number(value) for i, value in cells.items()}
        except ValueError:
            continue
        for i, number in numbers.items():
            if not math.isfinite(number):
                raise DatasetError(f"{rows[i][0]}: {name} is {number}; leave the cell empty, or remove the line")
            ratings[i][name] = number
    return ratings


def _parse_number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(value)
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _csv_rows(text: str, path: Path) -> Iterator[Row]:
    text = _COMMENT.sub("", text)
    delimiter = _find_delimiter(text)
    blanks = " " if delimiter == "\t" else " \t"
    text = re.sub(rf'"[{blanks}]+(?=$|[\r\n{delimiter}])', '"', text)  # strict mode rejects blanks after a quote
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    header: list[str] = []
    line = 1
    try:
        for fields in reader:
            source, line = f"{path}:{line}", reader.line_num + 1
            cells = [cell.strip() for cell in fields]
            if not any(cells):
                continue
            if not header:
                header = _parse_header(source, cells)
            elif len(cells) > len(header):
                raise DatasetError(
                    f"{source} has more fields than the header; quote fields that contain a {DELIMITERS[delimiter]}"
                )
            else:
                values = {
                    name: cell if name in COLUMNS else _with_decimal_point(cell, delimiter)
                    for name, cell in zip(header, cells, strict=False)
                }
                yield source, values
    except csv.Error as error:
        raise DatasetError(
            f"{path}:{line} is not valid CSV ({error}); close every quote, and double quotes inside a field"
        ) from error


def _find_delimiter(text: str) -> str:
    """Return the first delimiter that splits off a `path` cell in the first line that is not empty, else a comma."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    for delimiter in DELIMITERS:
        if "path" in (cell.strip(' "').lower() for cell in header.split(delimiter)):
            return delimiter
    return ","


def _with_decimal_point(cell: str, delimiter: str) -> str:
    """Replace a decimal comma, which spreadsheets write where the delimiter is a semicolon or a tab."""
    return cell.replace(",", ".") if delimiter != "," and _DECIMAL_COMMA.fullmatch(cell) else cell


def _parse_header(source: str, cells: Sequence[str]) -> list[str]:
    names = [cell.lower() for cell in cells]
    duplicates = [name for name, count in Counter(names).items() if name and count > 1]
    if duplicates:
        raise DatasetError(f"{source}: duplicate column {duplicates[0]}; rename one of them")
    if "path" not in names:
        raise DatasetError(
            f"{source}: no column path among {', '.join(names)}; the first line must name the columns: path,label"
        )
    return names


def _jsonl_rows(text: str, path: Path) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{path}:{number} is not valid JSON ({error}); write one object per line") from error
        if not isinstance(row, dict):
            raise DatasetError(
                f'{path}:{number} is not a JSON object; write {{"path": ..., "label": ...}} in each line'
            )
        yield f"{path}:{number}", {name.strip().lower(): value for name, value in row.items()}
