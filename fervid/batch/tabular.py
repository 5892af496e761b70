"""Records -> columns: those of CSV and parquet, and many records at once as an arrow table or a pandas frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fervid.core.errors import UsageError
from fervid.core.records import ClipResult, WindowResult
from fervid.core.text import to_valid_utf8

if TYPE_CHECKING:
    import pandas
    import pyarrow

MODEL_ROLES = ("detector", "network", "classifier")


def column_names(labels: Sequence[str], record: type[ClipResult] = ClipResult) -> list[str]:
    """The columns of a flat table in order: nested fields as `error.code`.

    Args:
        labels: The classifier's labels, of which each is a column.
        record: Of which kind the records are.
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
    """Columns of a plain record and what stands in them; people stay a list."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def arrow_schema(arrow: Any, labels: Sequence[str], record: type[ClipResult] = ClipResult) -> Any:
    """The arrow schema of a record as its `as_dict` gives it, with nested fields as structures.

    Args:
        arrow: The module pyarrow.
        labels: The classifier's labels.
        record: Of which kind the records are.
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
    """A record as plain types that arrow and pandas can hold."""
    record = result.as_dict()
    record["path"] = to_valid_utf8(record["path"])
    for model in (record["model"] or {}).values():
        model["name"] = to_valid_utf8(model["name"])
    if record["error"]:
        record["error"]["message"] = to_valid_utf8(record["error"]["message"])
    return record


def to_arrow(results: Iterable[ClipResult]) -> pyarrow.Table:
    """Many results as an arrow table: a row each, with the columns of `fervid classify --format parquet`.

    Args:
        results: Of clips, or of windows, which have `start_s` and `end_s` too.

    Raises:
        UsageError: pyarrow is not installed.
    """
    try:
        import pyarrow
    except ImportError:
        raise UsageError("arrow tables need pyarrow, which is not installed; pip install 'fervid[parquet]'") from None
    known = list(results)
    rows = [to_arrow_dict(result) for result in known]
    return pyarrow.Table.from_pylist(rows, arrow_schema(pyarrow, _labels(known), _record_type(known)))


def to_pandas(results: Iterable[ClipResult]) -> pandas.DataFrame:
    """Many results as a pandas frame: a row each, with the columns of `fervid classify --format csv`.

    `people` holds a list of dictionaries for each clip.

    Args:
        results: Of clips, or of windows, which have `start_s` and `end_s` too.

    Raises:
        UsageError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise UsageError("frames need pandas, which is not installed; pip install 'fervid[pandas]'") from None
    known = list(results)
    columns = column_names(_labels(known), _record_type(known))
    rows = [dict(flatten(to_arrow_dict(result))) for result in known]
    frame = pandas.DataFrame([[row.get(column) for column in columns] for row in rows], columns=columns)
    reals = [name for name in columns if name.startswith("probabilities.") or name.endswith("_s")]
    return frame.astype(dict.fromkeys(["confidence", *reals], "float64"))


def _labels(results: Sequence[ClipResult]) -> list[str]:
    """Every label that a result knows, in the order in which they occur."""
    return list(dict.fromkeys(label for result in results for label in result.probabilities or ()))


def _record_type(results: Sequence[ClipResult]) -> type[ClipResult]:
    return WindowResult if any(isinstance(result, WindowResult) for result in results) else ClipResult
