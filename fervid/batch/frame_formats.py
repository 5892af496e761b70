"""The rows of frames as JSON Lines, CSV and arrow tables."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from fervid.batch.writers import to_json_line
from fervid.core.frame_rows import FrameColumns, FrameRow
from fervid.core.schema import flatten
from fervid.core.text import escape_formula, to_valid_utf8

_COUNTS = ("frame", "face_id", "success", "detected")
_TEXTS = ("path", "identity", "code", "message")

Encoder = Callable[[FrameRow], bytes]


def make_encoder(format: str, columns: FrameColumns) -> tuple[bytes, Encoder]:
    """Return the first line of a file, and the function that encodes a row.

    Args:
        format: `csv`; `excel`, which is CSV that starts with a byte order mark; or `jsonl`, which has no first line.
        columns: The columns of the rows; the embedding is left out.
    """
    names = [*columns.nested()] if format == "jsonl" else columns.flat()
    names = [name for name in names if name != "embedding"]
    if format == "jsonl":
        return b"", lambda row: to_json_line(_select(row, names)) + b"\n"
    mark = codecs.BOM_UTF8 if format == "excel" else b""
    return mark + _csv_line(names), lambda row: _encode_csv(row, names)


def add_identities(format: str, columns: FrameColumns, lines: Iterable[bytes], names: Sequence[str]) -> Iterator[bytes]:
    """Yield the rows of a clip with the identity of each person.

    Args:
        format: As for `make_encoder`.
        columns: The columns of the rows, which include the identity.
        lines: The rows as lines of that format.
        names: Name of each person, by `face_id`.
    """
    if format == "jsonl":
        for row in map(json.loads, lines):
            if row["face_id"] is not None:
                row["identity"] = names[row["face_id"]]
            yield to_json_line(row) + b"\n"
        return
    face_id, identity = map(columns.flat().index, ("face_id", "identity"))
    for cells in csv.reader(line.decode() for line in lines):
        if cells[face_id]:
            cells[identity] = names[int(cells[face_id])]
        yield _csv_line(cells)


def _encode_csv(row: FrameRow, names: Sequence[str]) -> bytes:
    cells = dict(flatten(row.as_dict()))
    return _csv_line([escape_formula(cells.get(name)) for name in names])


def _csv_line(cells: Sequence[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(cells)  # cells with either character of its line end are quoted
    return text.getvalue().removesuffix("\r\n").encode("utf-8", "backslashreplace") + b"\n"


def _select(row: FrameRow, names: Sequence[str]) -> dict[str, Any]:
    values = row.as_dict()
    return {name: values[name] for name in names}


def frame_schema(arrow: Any, columns: FrameColumns) -> Any:
    """Return the arrow schema of rows, with nested fields as structs.

    Args:
        arrow: The module pyarrow.
        columns: The columns of the rows.
    """
    point = arrow.struct([("x", arrow.float32()), ("y", arrow.float32())])

    def plain(name: str) -> Any:
        if name in _TEXTS:
            return arrow.string()
        return arrow.int64() if name in _COUNTS else arrow.float64()

    def field(name: str, inner: Sequence[str]) -> Any:
        if name == "landmarks":
            return arrow.struct([(landmark, point) for landmark in columns.landmarks])
        if name == "embedding":
            return arrow.list_(arrow.float32())
        return arrow.struct([(part, plain(part)) for part in inner]) if inner else plain(name)

    return arrow.schema([(name, field(name, inner)) for name, inner in columns.nested().items()])


def to_arrow_row(row: FrameRow, columns: FrameColumns) -> dict[str, Any]:
    """Convert a row to types that arrow can store; invalid UTF-8 is escaped."""
    values = _select(row, [*columns.nested()])
    values["path"] = to_valid_utf8(row.path)
    if row.error:
        values["error"]["message"] = to_valid_utf8(row.error.message)
    return values
