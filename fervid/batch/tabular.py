"""Columns of records for CSV and parquet; records as an arrow table or a pandas DataFrame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fervid.core.packages import missing_extra
from fervid.core.results import ClipResult, WindowResult
from fervid.core.text import to_valid_utf8

if TYPE_CHECKING:
    import pandas
    import pyarrow

MODEL_ROLES = ("detector", "network", "classifier")


def column_names(labels: Sequence[str], record: type[ClipResult] = ClipResult) -> list[str]:
    """Return the columns of a flat table in order, with nested fields as `error.code`.

    Args:
        labels: The classifier's labels, each of which is a column.
        record: Type of the records.
    """
    nested = {
        "probabilities": labels,
        "model": [f"{role}.{key}" for role in MODEL_ROLES for key in ("name", "sha256")],
        "error": ("code", "message"),
        "baseline": ("kind", "clips"),
    }
    fields = record(path="", status="no_face").as_dict()
    return [f"{field}.{name}" if name else field for field in fields for name in nested.get(field, ("",))]


def flatten(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the columns of a record and their values; `people` stays a list."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def arrow_schema(arrow: Any, labels: Sequence[str], record: type[ClipResult] = ClipResult) -> Any:
    """Return the arrow schema of `ClipResult.as_dict`, with nested fields as structs.

    Args:
        arrow: The module pyarrow.
        labels: The classifier's labels.
        record: Type of the records.
    """
    text, count, real = arrow.string(), arrow.int64(), arrow.float64()
    probabilities = arrow.struct([(label, real) for label in labels]) if labels else arrow.null()
    model = arrow.struct([("name", text), ("sha256", text)])
    person = {"id": count, "seconds": real, "label": text, "probabilities": probabilities}
    person |= {"age": real, "gender": text, "ethnicity": text, "identity": text}
    times = {"start_s": real, "end_s": real} if issubclass(record, WindowResult) else {}
    return arrow.schema(
        {
            "schema_version": count,
            "path": text,
            **times,
            "status": text,
            "label": text,
            "confidence": real,
            "probabilities": probabilities,
            "people": arrow.list_(arrow.struct(person.items())),
            "duration_s": real,
            "frames_sampled": count,
            "frames_with_face": count,
            "model": arrow.struct([(role, model) for role in MODEL_ROLES]),
            "error": arrow.struct([("code", text), ("message", text)]),
            "elapsed_s": real,
            "baseline": arrow.struct([("kind", text), ("clips", count)]),
        }
    )


def to_arrow_dict(result: ClipResult) -> dict[str, Any]:
    """Convert a record to types that arrow and pandas can store; invalid UTF-8 is escaped."""
    record = result.as_dict()
    record["path"] = to_valid_utf8(record["path"])
    for model in (record["model"] or {}).values():
        model["name"] = to_valid_utf8(model["name"])
    if record["error"]:
        record["error"]["message"] = to_valid_utf8(record["error"]["message"])
    return record


def to_arrow(results: Iterable[ClipResult]) -> pyarrow.Table:
    """Convert results to an arrow table with a row each, and the columns of `fervid classify --format parquet`.

    Args:
        results: Results of clips, or of windows, which also have `start_s` and `end_s`.

    Raises:
        UsageError: pyarrow is not installed.
    """
    try:
        import pyarrow
    except ImportError:
        raise missing_extra("an arrow table", "parquet") from None
    results = list(results)
    rows = [to_arrow_dict(result) for result in results]
    return pyarrow.Table.from_pylist(rows, arrow_schema(pyarrow, _labels(results), _record_type(results)))


def to_pandas(results: Iterable[ClipResult]) -> pandas.DataFrame:
    """Convert results to a pandas DataFrame with a row each, and the columns of `fervid classify --format csv`.

    The column `people` has a list of dictionaries for each clip.

    Args:
        results: Results of clips, or of windows, which also have `start_s` and `end_s`.

    Raises:
        UsageError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise missing_extra("a DataFrame", "pandas") from None
    results = list(results)
    columns = column_names(_labels(results), _record_type(results))
    rows = [dict(flatten(to_arrow_dict(result))) for result in results]
    frame = pandas.DataFrame([[row.get(column) for column in columns] for row in rows], columns=columns)
    reals = [name for name in columns if name.startswith("probabilities.") or name.endswith("_s")]
    return frame.astype(dict.fromkeys(["confidence", *reals], "float64"))


def _labels(results: Sequence[ClipResult]) -> list[str]:
    """Return all labels of the results, in order of first occurrence."""
    return list(dict.fromkeys(label for result in results for label in result.probabilities or ()))


def _record_type(results: Sequence[ClipResult]) -> type[ClipResult]:
    return WindowResult if any(isinstance(result, WindowResult) for result in results) else ClipResult
