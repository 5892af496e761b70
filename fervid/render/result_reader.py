"""A file that fervid wrote -> what it holds: the records of a run or of timelines, or the figures of an evaluation.

Which of them it is, is recognised from what is in the file, never from its name. A file may come from anybody: each
record is held against the contract of `fervid schema` before anything is made of it, and nothing is skipped.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from fervid.core.errors import UsageError
from fervid.core.records import SCHEMA_VERSION
from fervid.core.schema import record_json_schema
from fervid.core.text import unescape_formula

Record = Mapping[str, Any]
_Rows = Iterable[tuple[str, Any]]  # where it stands, and what

LARGEST = 2**30
"""Bytes of a file of results."""
_PART = re.compile(r"part-\d{5,}\.parquet")
_OF_PARTS = ("size", "mtime_ns", "run")  # columns that parquet has behind those of the record
_TEXTS = frozenset({"path", "status", "label", "error.code", "error.message", "baseline.kind"})
_KINDS = (
    "it takes what `fervid classify -o`, `fervid timeline -o` and `fervid evaluate --format json` write"
    " (jsonl, json, csv, parquet)"
)


@dataclass(frozen=True, slots=True, eq=False)
class ClassificationRun:
    """The records of `fervid classify`, one a clip, in the order of the file."""

    records: list[Record]

    def statuses(self) -> Iterator[tuple[str, str]]:
        """Each clip and how it ended."""
        return ((record["path"], record["status"]) for record in self.records)


@dataclass(frozen=True, slots=True, eq=False)
class TimelineRun:
    """The records of `fervid timeline`, those of each clip in the order of the file."""

    clips: dict[str, list[Record]]

    def statuses(self) -> Iterator[tuple[str, str]]:
        """The clip of each window and how that ended."""
        return ((record["path"], record["status"]) for records in self.clips.values() for record in records)


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationRun:
    """What `fervid evaluate --format json` printed: one report, or one for each method."""

    reports: dict[str, Record]

    def statuses(self) -> Iterator[tuple[str, str]]:
        """Each evaluation."""
        return ((name, "ok") for name in self.reports)


def load_results(path: Path) -> ClassificationRun | TimelineRun | EvaluationRun:
    """What a file, or a folder of parquet, holds.

    Raises:
        UsageError: It cannot be read, holds nothing, is torn, of several kinds, or nothing that fervid writes.
    """
    try:
        if path.is_dir():
            return _records(path, _folder(path))
        size = path.stat().st_size
        if size > LARGEST:
            _refuse(path, f"has {size:,} bytes, and {LARGEST:,} are read at most; make a report of a part of it")
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); check its name and permissions") from error
    if data[:4] == b"PAR1":
        return _records(path, _parquet(path, path))
    text = _decoded(path, data)
    if not text.strip():
        _refuse(path, f"is empty; {_KINDS}")
    if text.lstrip().startswith("["):
        found = _json(path, "it", text)
        return _records(path, ((f"record {i}", one) for i, one in enumerate(found, start=1)))
    if text.lstrip().startswith("{"):
        whole = _whole(text)
        if whole is not None and "schema_version" not in whole:
            return _measured(path, whole)
        return _records(path, _lines(path, text))
    return _records(path, _cells(path, text))


def _refuse(path: Path, problem: str) -> NoReturn:
    raise UsageError(f"{path} {problem}")


def _decoded(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        _refuse(path, f"is no text in UTF-8, so it is no file of results; {_KINDS}")


def _json(path: Path, where: str, text: str) -> Any:
    try:
        return _parsed(text)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "it is no plain JSON"
        raise UsageError(
            f"{path}: {where} is torn or no JSON ({reason}); if the run was cut off, continue it with --resume,"
            " or run it again"
        ) from error


def _parsed(text: str) -> Any:
    return json.loads(text, parse_constant=_real, parse_float=_real, parse_int=_integer)


def _real(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is no number that could be meant")
    return value


def _integer(text: str) -> int:
    if not -(2**53) < (value := int(text)) < 2**53:
        raise ValueError(f"{text} is no number that could be meant")
    return value


def _whole(text: str) -> dict[str, Any] | None:
    """The one object that the text is, if it is one; JSON Lines of several are none."""
    try:
        found = _parsed(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _lines(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    whole = _whole(text)
    if whole is not None:  # one record, however it is broken into lines
        yield "record 1", whole
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", _json(path, f"line {number}", line)


def _cells(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(rows)
        if header[:2] != ["schema_version", "path"]:
            _refuse(path, f"is no file of results; {_KINDS}")
        for row in rows:
            where = f"line {rows.line_num}"
            if len(row) != len(header):
                _refuse(path, f"{where} has {len(row)} cells for {len(header)} columns: it is torn; run it again")
            yield where, _nested(path, where, dict(zip(header, row, strict=True)))
    except csv.Error as error:
        raise UsageError(f"{path} is torn or no CSV ({error}); run it again, or write .jsonl") from error


def _nested(path: Path, where: str, cells: Mapping[str, str]) -> dict[str, Any]:
    """The record that a row stands for, as `output.CsvWriter` flattens it."""
    nested = ("probabilities", "error", "baseline")
    record: dict[str, Any] = {"model": {}, **{name: {} for name in nested}}
    for column, cell in cells.items():
        field, _, name = column.partition(".")
        value = _value(path, where, column, cell)
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


def _value(path: Path, where: str, column: str, cell: str) -> Any:
    if column in _TEXTS or column.startswith("model."):
        return unescape_formula(cell) or None if column != "path" else unescape_formula(cell)
    return _json(path, f"{where}, {column},", cell) if cell else None


def _folder(folder: Path) -> Iterator[tuple[str, Any]]:
    parts = sorted(path for path in folder.iterdir() if _PART.fullmatch(path.name))
    if not parts:
        _refuse(folder, f"is a folder without parts (part-00000.parquet ...); {_KINDS}")
    for part in parts:
        yield from _parquet(folder, part)


def _parquet(named: Path, path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError("parquet needs pyarrow, which is not installed; pip install 'fervid[parquet]'") from None
    try:
        rows = pyarrow.parquet.read_table(pyarrow.BufferReader(path.read_bytes())).to_pylist()
    except pyarrow.ArrowException as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{named}: {path.name} is no whole parquet file ({reason}); run it again") from error
    for number, row in enumerate(rows, start=1):
        record = {name: value for name, value in row.items() if name not in _OF_PARTS}
        if isinstance(models := record.get("model"), dict):
            record["model"] = {role: model for role, model in models.items() if model is not None}
        yield f"{path.name}, row {number}", record


def _records(path: Path, rows: _Rows) -> ClassificationRun | TimelineRun:
    """All records of one kind, each as the contract says."""
    found: list[Record] = []
    for where, row in rows:
        if not isinstance(row, dict):
            _refuse(path, f"holds at {where} no record but a {type(row).__name__}; {_KINDS}")
        version = row.get("schema_version")
        if version != SCHEMA_VERSION:
            said = f"a record of schema version {version!r}" if "schema_version" in row else "no record of fervid"
            _refuse(
                path,
                f"holds at {where} {said}, and this fervid reads version {SCHEMA_VERSION};"
                " make the report with the fervid that wrote it, or run it again with this one",
            )
        if found and ("start_s" in row) != ("start_s" in found[0]):
            _refuse(path, f"holds records of clips and of windows ({where} is the first other); make a report of each")
        if (wrong := _consistency_error(row)) is not None:
            _refuse(path, f"holds at {where} no record as `fervid schema` has it ({wrong}); run it again")
        found.append(row)
    if not found:
        _refuse(path, "holds no record: the run had no input, or has not begun; wait for it, or run it again")
    if "start_s" not in found[0]:
        return ClassificationRun(found)
    clips: dict[str, list[Record]] = {}
    for record in found:
        clips.setdefault(record["path"], []).append(record)
    return TimelineRun(clips)


def _consistency_error(row: dict[str, Any]) -> str | None:
    """What is wrong with a record, if anything is."""
    window = "start_s" in row
    if problem := _schema_error("timeline" if window else "classify", row):
        return problem
    if (row["status"] == "ok") != (row["label"] is not None and row["confidence"] is not None):
        return "a record has a label and a confidence exactly when it is ok"
    if row["status"] == "ok" and row["label"] not in (row["probabilities"] or ()):
        return "the label is none of those that have a probability"
    if row["status"] in ("error", "skipped") and row["error"] is None:
        return f"it says {row['status']} and not why"
    if window and row["status"] == "ok" and None in (row["start_s"], row["end_s"]):
        return "an answered window has no time"
    if window and None not in (row["start_s"], row["end_s"]) and row["end_s"] < row["start_s"]:
        return "the window ends before it begins"
    return None


_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_SHARES = {"type": "object", "additionalProperties": {"type": ["number", "null"], "minimum": 0, "maximum": 1}}
_FIGURE = {
    "type": "object",
    "required": ["value", "interval"],
    "properties": {
        "value": {"type": "number"},
        "interval": {"type": ["array", "null"], "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
    },
}
_COUNT = {"type": "integer", "minimum": 0}
_SCORED = {
    "type": "object",
    "required": ["count", "accuracy", "uar", "f1", "recall", "precision", "f1_each", "confusion"],
    "properties": {
        "count": _COUNT,
        **dict.fromkeys(("accuracy", "uar", "f1"), _FIGURE),
        **dict.fromkeys(("recall", "precision", "f1_each"), _SHARES),
        "confusion": {"type": "array", "items": {"type": "array", "items": _COUNT}},
    },
}
_BIN = {
    "type": "object",
    "required": ["confidence", "accuracy", "count"],
    "properties": {"confidence": _SHARE, "accuracy": _SHARE, "count": _COUNT},
}
_AGAINST = {
    "type": "object",
    "required": ["name", "difference", "only_ours", "only_theirs", "test", "p"],
    "properties": {
        "name": {"type": "string"},
        "difference": {
            "type": "object",
            "required": ["accuracy", "uar"],
            "properties": {"accuracy": _FIGURE, "uar": _FIGURE},
        },
        "test": {"type": "string"},
        "p": {"type": "number"},
    },
}
_CLASSES = {
    "type": "object",
    "required": ["labels", "clips", "answered", "all", "calibration"],
    "properties": {
        "labels": {"type": "array", "items": {"type": "string"}, "minItems": 1, "uniqueItems": True},
        "clips": _COUNT,
        "answered": _SCORED,
        "all": _SCORED,
        "calibration": {
            "type": "object",
            "required": ["error", "bins"],
            "properties": {"error": {"type": "number"}, "bins": {"type": "array", "items": _BIN}},
        },
        "against": _AGAINST,
        "adaptive": {"type": "object", "additionalProperties": _SHARE},
        "training_clips": _COUNT,
    },
}
_RATINGS = {
    "type": "object",
    "required": ["clips", "unanswered", "ccc", "mae", "pearson"],
    "properties": {
        "clips": _COUNT,
        "unanswered": _COUNT,
        "training_clips": _COUNT,
        **dict.fromkeys(("ccc", "mae", "pearson"), _FIGURE),
    },
}


@cache
def _validator(kind: str) -> Callable[[Any], Any]:
    """What raises if a value is not of that kind."""
    try:
        import fastjsonschema
    except ModuleNotFoundError as error:
        raise UsageError("a report needs some more packages; pip install 'fervid[report]'") from error
    kinds: dict[str, Callable[[], dict[str, Any]]] = {
        "classify": lambda: record_json_schema("classify"),
        "timeline": lambda: record_json_schema("timeline"),
        "classes": lambda: _CLASSES,
        "ratings": lambda: _RATINGS,
    }
    # Draft 7, the newest that it knows, means the same by all that these schemas say.
    made: Callable[[Any], Any] = fastjsonschema.compile(
        kinds[kind]() | {"$schema": "http://json-schema.org/draft-07/schema"}
    )
    return made


def _schema_error(kind: str, value: Any) -> str | None:
    check = _validator(kind)
    import fastjsonschema

    try:
        check(value)
    except fastjsonschema.JsonSchemaValueException as error:
        return str(error.message).removeprefix("data").lstrip(". ")[:200]
    return None


def _measured(path: Path, report: dict[str, Any]) -> EvaluationRun:
    """The one report, those of methods, or those in the card that `fervid train --format json` prints."""
    reports = report.get("methods", report.get("figures", {"": report}))
    if not isinstance(reports, dict) or not reports:
        _refuse(path, f"holds no figures; {_KINDS}")
    for name, part in reports.items():
        kind = "classes" if isinstance(part, dict) and "labels" in part else "ratings"
        wrong = _schema_error(kind, part) or (_shape_error(part) if kind == "classes" else None)
        if wrong:
            of = f" of {name}" if name else ""
            _refuse(path, f"is no file of results, or not a whole one (figures{of}: {wrong}); {_KINDS}")
    return EvaluationRun(dict(reports))


def _shape_error(report: Mapping[str, Any]) -> str | None:
    labels = report["labels"]
    for part in (report["answered"], report["all"]):
        rows = part["confusion"]
        if len(rows) != len(labels) or any(len(row) != len(labels) + 1 for row in rows):
            return f"the confusion is no table of {len(labels)} labels"
        for name in ("recall", "precision", "f1_each"):
            if set(part[name]) != set(labels):
                return f"{name} is not of the labels"
    return None
