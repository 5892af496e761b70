"""Columns of records for CSV and parquet; records as an arrow table or a pandas DataFrame."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fervid.core.packages import missing_extra
from fervid.core.results import ClipResult, WindowResult
from fervid.core.schema import flatten, record_json_schema, value_types
from fervid.core.text import to_valid_utf8

if TYPE_CHECKING:
    import pandas
    import pyarrow


def column_types(labels: Sequence[str], record: type[ClipResult] = ClipResult) -> dict[str, Any]:
    """Return the columns of a flat table in order, and their Python types, with nested fields as `error.code`.

    Args:
        labels: The classifier's labels, each of which is a column.
        record: Type of the records.
    """
    return dict(flatten(_record_types(labels, record)))


def arrow_schema(arrow: Any, labels: Sequence[str], record: type[ClipResult] = ClipResult) -> Any:
    """Return the arrow schema of `ClipResult.as_dict`, with nested fields as structs.

    Args:
        arrow: The module pyarrow.
        labels: The classifier's labels.
        record: Type of the records.
    """
    plain = {str: arrow.string(), int: arrow.int64(), float: arrow.float64()}

    def convert(kind: Any) -> Any:
        if isinstance(kind, list):
            return arrow.list_(convert(kind[0]))
        if isinstance(kind, dict):
            return arrow.struct([(name, convert(value)) for name, value in kind.items()]) if kind else arrow.null()
        return plain[kind]

    return arrow.schema({name: convert(kind) for name, kind in _record_types(labels, record).items()})


def _record_types(labels: Sequence[str], record: type[ClipResult]) -> dict[str, Any]:
    schema = record_json_schema("timeline" if issubclass(record, WindowResult) else "classify")
    types: dict[str, Any] = value_types(schema, labels)
    return types


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
    types = column_types(_labels(results), _record_type(results))
    rows = [dict(flatten(to_arrow_dict(result))) for result in results]
    frame = pandas.DataFrame([[row.get(name) for name in types] for row in rows], columns=list(types))
    return frame.astype({name: kind for name, kind in types.items() if kind is float})


def _labels(results: Sequence[ClipResult]) -> list[str]:
    """Return all labels of the results, in order of first occurrence."""
    return list(dict.fromkeys(label for result in results for label in result.probabilities or ()))


def _record_type(results: Sequence[ClipResult]) -> type[ClipResult]:
    return WindowResult if any(isinstance(result, WindowResult) for result in results) else ClipResult
