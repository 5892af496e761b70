"""Validation of records and evaluation reports that were read from a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal

from fervid.core.packages import missing_extra
from fervid.core.schema import record_json_schema

ResultKind = Literal["classify", "timeline", "classifier", "regressor"]


def _object(optional: Mapping[str, Any] | None = None, **required: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}}


_STRING = {"type": "string"}
_NUMBER = {"type": "number"}
_COUNT = {"type": "integer", "minimum": 0}
_FRACTION = {"type": "number", "minimum": 0, "maximum": 1}
_FRACTION_BY_LABEL = {
    "type": "object",
    "additionalProperties": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
}
_FIGURE = _object(value=_NUMBER, interval={"type": ["array", "null"], "items": _NUMBER, "minItems": 2, "maxItems": 2})
_SCORES = _object(
    count=_COUNT,
    **dict.fromkeys(("accuracy", "uar", "f1"), _FIGURE),
    **dict.fromkeys(("recall", "precision", "f1_each"), _FRACTION_BY_LABEL),
    confusion={"type": "array", "items": {"type": "array", "items": _COUNT}},
)
_CALIBRATION_BIN = _object(confidence=_FRACTION, accuracy=_FRACTION, count=_COUNT)
_COMPARISON = _object(
    name=_STRING,
    difference=_object(accuracy=_FIGURE, uar=_FIGURE),
    only_a_correct=_COUNT,
    only_b_correct=_COUNT,
    test=_STRING,
    p=_NUMBER,
)
_CLASSIFIER_REPORT = _object(
    labels={"type": "array", "items": _STRING, "minItems": 1, "uniqueItems": True},
    clips=_COUNT,
    answered=_SCORES,
    all=_SCORES,
    calibration=_object(error=_NUMBER, bins={"type": "array", "items": _CALIBRATION_BIN}),
    optional={
        "comparison": _COMPARISON,
        "early_exit": {"type": "object", "additionalProperties": _FRACTION},
        "training_clips": _COUNT,
    },
)
_REGRESSOR_REPORT = _object(
    clips=_COUNT,
    unanswered=_COUNT,
    **dict.fromkeys(("ccc", "mae", "pearson"), _FIGURE),
    optional={"training_clips": _COUNT},
)


def find_record_error(record: dict[str, Any]) -> str | None:
    """Return what is wrong with a record of `classify` or `timeline`; None if it is valid."""
    is_window = "start_s" in record
    if error := _schema_error("timeline" if is_window else "classify", record):
        return error
    status = record["status"]
    if (status == "ok") != (record["label"] is not None and record["confidence"] is not None):
        return "label and confidence must be set if and only if the status is ok"
    if status == "ok" and record["label"] not in (record["probabilities"] or ()):
        return "the label has no probability"
    if status in ("error", "skipped") and record["error"] is None:
        return f"the status is {status}, and there is no error"
    if is_window:
        has_times = None not in (record["start_s"], record["end_s"])
        if status == "ok" and not has_times:
            return "a window with a label has no time"
        if has_times and record["end_s"] < record["start_s"]:
            return "the window ends before it starts"
    return None


def find_report_error(report: Any) -> str | None:
    """Return what is wrong with a report of `evaluate`; None if it is valid."""
    if isinstance(report, dict) and "labels" in report:
        return _schema_error("classifier", report) or _shape_error(report)
    return _schema_error("regressor", report)


def _schema_error(kind: ResultKind, value: Any) -> str | None:
    validate = validator(kind)
    import fastjsonschema

    try:
        validate(value)
    except fastjsonschema.JsonSchemaValueException as error:
        return str(error.message).removeprefix("data").lstrip(". ")[:200]
    return None


@cache
def validator(kind: ResultKind) -> Callable[[Any], Any]:
    """Return a function that raises if a value is not of that kind.

    Raises:
        UsageError: fastjsonschema is not installed.
    """
    try:
        import fastjsonschema
    except ModuleNotFoundError as error:
        raise missing_extra("Reading results", "report") from error
    if kind == "classify" or kind == "timeline":
        schema = record_json_schema(kind)
    else:
        schema = _CLASSIFIER_REPORT if kind == "classifier" else _REGRESSOR_REPORT
    # fastjsonschema supports up to draft 7, in which these schemas have the same meaning.
    validate: Callable[[Any], Any] = fastjsonschema.compile(
        {**schema, "$schema": "http://json-schema.org/draft-07/schema"}
    )
    return validate


def _shape_error(report: Mapping[str, Any]) -> str | None:
    """Return what does not fit to the labels of a report."""
    labels = report["labels"]
    for part in (report["answered"], report["all"]):
        rows = part["confusion"]
        if len(rows) != len(labels) or any(len(row) != len(labels) + 1 for row in rows):
            return f"confusion is not a table of {len(labels)} labels"
        for name in ("recall", "precision", "f1_each"):
            if set(part[name]) != set(labels):
                return f"the labels of {name} differ from those of the report"
    return None
