"""Reading of result files: the records of `classify` or `timeline`, or the reports of `evaluate`.

The kind of a file is detected from its content, never from its name. Files are untrusted: each record is validated
against the schema of `fervid schema`, and an invalid record is an error, never skipped.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from fervid.core.errors import UsageError
from fervid.core.packages import missing_extra
from fervid.core.results import SCHEMA_VERSION
from fervid.core.schema import flatten, record_json_schema, value_types
from fervid.core.text import unescape_formula
from fervid.render.result_schema import find_record_error, find_report_error

Record = Mapping[str, Any]
_Rows = Iterable[tuple[str, Any]]  # pairs of a position in the file and a value

MAX_FILE_BYTES = 2**30
_PART_NAME = re.compile(r"part-\d{5,}\.parquet")
_PART_COLUMNS = ("size", "mtime_ns", "run")  # columns of parquet that are not part of the record
_TEXT_COLUMNS = frozenset(name for name, kind in flatten(value_types(record_json_schema(), ())) if kind is str)
_EXPECTED = (
    "expected the output of `fervid classify -o`, `fervid timeline -o`, or `fervid evaluate` or `compare` with"
    " --format json"
    " (jsonl, json, csv, parquet)"
)


@dataclass(frozen=True, slots=True, eq=False)
class ClassificationRun:
    """Records of `fervid classify`, one per clip, in the order of the file."""

    records: list[Record]

    def statuses(self) -> Iterator[tuple[str, str]]:
        """Yield path and status of each clip."""
        return ((record["path"], record["status"]) for record in self.records)


@dataclass(frozen=True, slots=True, eq=False)
class TimelineRun:
    """Records of `fervid timeline` by path of the clip, in the order of the file."""

    clips: dict[str, list[Record]]

    def statuses(self) -> Iterator[tuple[str, str]]:
        """Yield path and status of each window."""
        return ((record["path"], record["status"]) for records in self.clips.values() for record in records)


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationRun:
    """Reports of `fervid evaluate` or `fervid compare` by method; the name of a single report is empty."""

    reports: dict[str, Record]

    def statuses(self) -> Iterator[tuple[str, str]]:
        """Yield name and status of each evaluation."""
        return ((name, "ok") for name in self.reports)


def load_results(path: Path) -> ClassificationRun | TimelineRun | EvaluationRun:
    """Load a file of results, or a folder of parquet files.

    Raises:
        UsageError: The file cannot be read, is empty or truncated, mixes records of clips and windows, or was not
            written by fervid.
    """
    try:
        if path.is_dir():
            return _load_records(path, _read_folder(path))
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            _raise(path, f"has {size:,} bytes, and the limit is {MAX_FILE_BYTES:,}; make a report of a part of it")
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); check its name and permissions") from error
    if data[:4] == b"PAR1":
        return _load_records(path, _read_parquet(path, path))
    text = _decode(path, data)
    if not text.strip():
        _raise(path, f"is empty; {_EXPECTED}")
    if text.lstrip().startswith("["):
        values = _parse_json(path, "the array", text)
        return _load_records(path, ((f"record {i}", value) for i, value in enumerate(values, start=1)))
    if text.lstrip().startswith("{"):
        try:
            document = _loads_strict(text)  # a single object, which may span several lines
        except (ValueError, RecursionError):
            return _load_records(path, _read_json_lines(path, text))
        if "schema_version" in document:
            return _load_records(path, [("record 1", document)])
        return _load_reports(path, document)
    return _load_records(path, _read_csv(path, text))


def _raise(path: Path, problem: str) -> NoReturn:
    raise UsageError(f"{path} {problem}")


def _load_records(path: Path, rows: _Rows) -> ClassificationRun | TimelineRun:
    """Validate records, and group those of windows by clip."""
    records: list[Record] = []
    for position, row in rows:
        if not isinstance(row, dict):
            _raise(path, f"has a {type(row).__name__} instead of a record at {position}; {_EXPECTED}")
        if row.get("schema_version") != SCHEMA_VERSION:
            has_version = "schema_version" in row
            kind = f"a record of schema version {row['schema_version']!r}" if has_version else "no record of fervid"
            _raise(
                path,
                f"has {kind} at {position}, and this fervid reads version {SCHEMA_VERSION};"
                " make the report with the fervid that wrote it, or run it again with this one",
            )
        if records and ("start_s" in row) != ("start_s" in records[0]):
            _raise(path, f"mixes records of clips and of windows (from {position} on); make a report of each")
        if (problem := find_record_error(row)) is not None:
            _raise(path, f"has an invalid record at {position} ({problem}); see `fervid schema`, or run it again")
        records.append(row)
    if not records:
        _raise(path, "has no records: the run had no input, or has not finished its first clip; run it again")
    if "start_s" not in records[0]:
        return ClassificationRun(records)
    clips: dict[str, list[Record]] = {}
    for record in records:
        clips.setdefault(record["path"], []).append(record)
    return TimelineRun(clips)


def _load_reports(path: Path, document: dict[str, Any]) -> EvaluationRun:
    """Validate a report of `evaluate`, reports of several methods, or those that `train` printed."""
    reports = document.get("methods", document.get("evaluations", {"": document}))
    if not isinstance(reports, dict) or not reports:
        _raise(path, f"has no figures; {_EXPECTED}")
    for name, report in reports.items():
        if problem := find_report_error(report):
            method = f" of {name}" if name else ""
            _raise(path, f"is not a results file, or is incomplete (figures{method}: {problem}); {_EXPECTED}")
    return EvaluationRun(dict(reports))


# JSON


def _decode(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        _raise(path, f"is not UTF-8 text; {_EXPECTED}")


def _parse_json(path: Path, position: str, text: str) -> Any:
    try:
        return _loads_strict(text)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "it is not plain JSON"
        raise UsageError(
            f"{path}: {position} is truncated or not JSON ({reason}); if the run was interrupted, continue it with"
            " --resume, or run it again"
        ) from error


def _loads_strict(text: str) -> Any:
    """Parse JSON without NaN, infinity, and integers that a float cannot hold."""
    return json.loads(text, parse_constant=_finite_float, parse_float=_finite_float, parse_int=_exact_int)


def _finite_float(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is not finite")
    return value


def _exact_int(text: str) -> int:
    if not -(2**53) < (value := int(text)) < 2**53:
        raise ValueError(f"{text} is out of range")
    return value


def _read_json_lines(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", _parse_json(path, f"line {number}", line)


# CSV


def _read_csv(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(rows)
        if header[:2] != ["schema_version", "path"]:
            _raise(path, f"is not a results file; {_EXPECTED}")
        for row in rows:
            position = f"line {rows.line_num}"
            if len(row) != len(header):
                _raise(path, f"{position} has {len(row)} cells for {len(header)} columns; run it again")
            yield position, _unflatten(path, position, dict(zip(header, row, strict=True)))
    except csv.Error as error:
        raise UsageError(f"{path} is truncated or not CSV ({error}); run it again, or write .jsonl") from error


def _unflatten(path: Path, position: str, cells: Mapping[str, str]) -> dict[str, Any]:
    """Return the record that `writers.CsvWriter` flattened to that row."""
    nested = ("probabilities", "error", "baseline")
    record: dict[str, Any] = {"model": {}, **{name: {} for name in nested}}
    for column, cell in cells.items():
        field, _, name = column.partition(".")
        value = _parse_cell(path, position, column, cell)
        if field == "model":
            role, _, key = name.partition(".")
            if cell:
                record["model"].setdefault(role, {})[key] = value
        elif name:
            if cell:
                record.setdefault(field, {})[name] = value
        else:
            record[field] = value
    return record | {name: record[name] or None for name in nested}


def _parse_cell(path: Path, position: str, column: str, cell: str) -> Any:
    if column == "path":
        return unescape_formula(cell)
    if column in _TEXT_COLUMNS:
        return unescape_formula(cell) or None
    return _parse_json(path, f"{position}, {column},", cell) if cell else None


# parquet


def _read_folder(folder: Path) -> Iterator[tuple[str, Any]]:
    parts = sorted(path for path in folder.iterdir() if _PART_NAME.fullmatch(path.name))
    if not parts:
        _raise(folder, f"is a folder without parquet files (part-00000.parquet ...); {_EXPECTED}")
    for part in parts:
        yield from _read_parquet(folder, part)


def _read_parquet(source: Path, path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the records of a parquet file, which is the source that the user named, or in that folder."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise missing_extra("parquet", "parquet") from None
    try:
        rows = pyarrow.parquet.read_table(pyarrow.BufferReader(path.read_bytes())).to_pylist()
    except pyarrow.ArrowException as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{source}: {path.name} is not a complete parquet file ({reason}); run it again") from error
    for number, row in enumerate(rows, start=1):
        record = {name: value for name, value in row.items() if name not in _PART_COLUMNS}
        if isinstance(models := record.get("model"), dict):
            record["model"] = {role: model for role, model in models.items() if model is not None}
        yield f"{path.name}, row {number}", record
