"""Read what predictions are relative to: `person`, or a CSV file of people or of clips at rest."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fervid.analysis.baseline import BaselineKind
from fervid.core.errors import UsageError
from fervid.media.inputs import clip_key
from fervid.media.remote_files import is_url

PERSON = "person"


@dataclass(frozen=True, slots=True)
class RestClip:
    """A clip, or a part of it, in which a person is at rest; `start` and `end` are seconds of presentation time."""

    path: str
    start: float = 0.0
    end: float | None = None


@dataclass(frozen=True, slots=True)
class BaselineSpec:
    """The baseline that predictions are relative to.

    Attributes:
        kind: Kind of the baseline; None to identify people only.
        rest: Clips in which a person is at rest, for the kind `rest`.
        people: Name of the main person of each clip, by `media.inputs.clip_key`; None to identify people by face.
    """

    kind: BaselineKind | None = None
    rest: tuple[RestClip, ...] = ()
    people: Mapping[str, str] | None = None

    @classmethod
    def read(cls, text: str) -> BaselineSpec:
        """Parse `person`, or read a CSV file with the columns `path,person`, `path` or `path,start,end`.

        Raises:
            UsageError: The file cannot be read, or has other columns or values.
        """
        if text == PERSON:
            return cls("person")
        source = Path(text)
        try:
            rows = list(csv.DictReader(source.read_text("utf-8-sig").splitlines(), skipinitialspace=True))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise UsageError(f"the baseline {text} cannot be read ({reason}); use person or a CSV file") from error
        columns = set(rows[0]) if rows else set()
        if columns >= {"path", "person"}:
            named = {
                clip_key(_resolve(source, _cell(source, line, row, "path"))): _cell(source, line, row, "person")
                for line, row in enumerate(rows, 2)
            }
            return cls("person", people=named)
        if "path" not in columns or not columns <= {"path", "start", "end"}:
            raise UsageError(
                f"{text} has the columns {', '.join(sorted(map(str, columns)))}; a baseline needs path,person to name"
                " people, or path or path,start,end to list clips at rest"
            )
        return cls("rest", tuple(_rest_clip(source, number, row) for number, row in enumerate(rows, 2)))


def _rest_clip(source: Path, line: int, row: Mapping[str, str]) -> RestClip:
    try:
        start, end = (float(row.get(name) or default) for name, default in (("start", 0.0), ("end", np.inf)))
        if not 0 <= start < end:
            raise ValueError
    except ValueError:
        raise UsageError(f"line {line} of {source}: start and end must be seconds, with start before end") from None
    path = _resolve(source, _cell(source, line, row, "path"))
    return RestClip(path, start, None if end == np.inf else end)


def _cell(source: Path, line: int, row: Mapping[str, str | None], column: str) -> str:
    value = (row[column] or "").strip()
    if not value:
        raise UsageError(f"line {line} of {source} has no {column}")
    return value


def _resolve(source: Path, path: str) -> str:
    """Return a path of a list, which is relative to the folder of the list, or else to the current folder."""
    beside = os.path.join(source.parent, path)
    return path if is_url(path) or (os.path.exists(path) and not os.path.exists(beside)) else beside
