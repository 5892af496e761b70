"""Labelled clips: a folder for each class, a list, or a known data set by its name.

    videos/happiness/a.mp4                     the folder is the label
    list.csv, list.jsonl                       path,label[,person][,split], and columns of numbers: ratings;
                                               commas, semicolons or tabs between; lines that begin with # are comments
    ravdess:/data/RAVDESS                      label, person and split are read from the published layout

A clip is a video file, or a folder of pictures, which are its frames in the order of their names.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fervid.core.errors import DatasetError
from fervid.core.text import is_utf8
from fervid.learn.dataset_layouts import (
    CLASS_FOLDERS,
    KNOWN_LAYOUTS,
    SPLIT_ALIASES,
    Layout,
    Sample,
    frame_files,
    read_classes,
    read_text,
)
from fervid.media.inputs import PassedOver

__all__ = ["Dataset", "Sample", "frame_files", "label_counts", "labels_with_few_people", "load_dataset"]

COLUMNS = ("path", "label", "person", "split")
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
"""What may lie between the cells of a list, and what it is called."""
_COMMENT = re.compile(r"^[ \t]*#.*$", re.MULTILINE)
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled clips, in the order in which they were listed.

    Attributes:
        name: Of a known set, or the name of the folder or list.
        samples: The clips.
    """

    name: str
    samples: tuple[Sample, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, sorted."""
        return tuple(label_counts(self))

    def part(self, split: str) -> Dataset:
        """The clips of one split."""
        return replace(self, samples=tuple(sample for sample in self.samples if sample.split == split))

    def target(self, name: str) -> NDArray[np.float64]:
        """One rating of every clip (n,), to fit a regression on.

        Raises:
            DatasetError: Some clips lack it.
        """
        known = sorted({rating for sample in self.samples for rating in sample.ratings})
        _raise_if_any(
            f"no number for {name!r}",
            [(sample, "") for sample in self.samples if name not in sample.ratings],
            f"there are numbers for {', '.join(known)}" if known else "no column holds numbers only",
        )
        return np.array([sample.ratings[name] for sample in self.samples], np.float64)


def load_dataset(source: str, labels: Sequence[str] | None = None, passed_over: PassedOver | None = None) -> Dataset:
    """Labelled clips from a folder, a list, or `NAME:FOLDER` with the name of a known set.

    Args:
        source: What the user gave.
        labels: The classes that may occur; None for any.
        passed_over: Counts what folders of a class hold besides clips.

    Raises:
        DatasetError: No such set; files are missing, labels are unknown, a clip is listed twice, a person occurs on
            both sides of a split. The first few are named, with their lines.
    """
    name, colon, folder = source.partition(":")
    if colon and name.lower() in KNOWN_LAYOUTS:
        found = Dataset(name.lower(), _from_layout(os.path.expanduser(folder), KNOWN_LAYOUTS[name.lower()]))
    elif os.path.isdir(source):
        layout = replace(CLASS_FOLDERS, read=partial(read_classes, passed_over=passed_over))
        found = Dataset(Path(source).resolve().name, _from_layout(source, layout))
    elif colon and not os.path.exists(source):
        raise DatasetError(f"no data set is known as {name!r}; there are {', '.join(KNOWN_LAYOUTS)}")
    else:
        found = Dataset(Path(source).stem, _from_list(Path(source)))
    _check(found, labels)
    return found


def filter_labels(found: Dataset, labels: Sequence[str]) -> Dataset:
    """The clips of some classes.

    Raises:
        DatasetError: A class has no clips.
    """
    if unknown := [label for label in labels if label not in found.labels]:
        raise DatasetError(f"{found.name} has no clips of {', '.join(unknown)}; it has {', '.join(found.labels)}")
    return replace(found, samples=tuple(sample for sample in found.samples if sample.label in labels))


def label_counts(found: Dataset) -> dict[str, int]:
    """How many clips of each class."""
    return dict(sorted(Counter(sample.label for sample in found.samples if sample.label is not None).items()))


def labels_with_few_people(found: Dataset, least: int = 2) -> list[str]:
    """Classes with fewer people than cross-validation by person needs."""
    people = {label: {s.person for s in found.samples if s.label == label} for label in found.labels}
    return [label for label, known in people.items() if None not in known and len(known) < least]


def _from_layout(folder: str, layout: Layout) -> tuple[Sample, ...]:
    if not os.path.isdir(folder):
        raise DatasetError(f"{folder!r} is no folder; give NAME:FOLDER, with the folder where the set was unpacked")
    samples = tuple(layout.read(Path(folder)))
    if not samples:
        raise DatasetError(f"{folder} has no clips in the layout that is looked for; it is {layout.looks}")
    return samples


def _check(found: Dataset, labels: Sequence[str] | None) -> None:
    samples = found.samples
    odd = [(s, f", {s.label!r}") for s in samples if s.label is not None and not is_utf8(s.label)]
    _raise_if_any("labels that are no text in UTF-8", odd, "rename the folder, or correct the list")
    if labels is not None:
        _raise_if_any(
            f"not of the classes {', '.join(labels)}",
            [(s, f", {s.label!r}" if s.label else ", no label") for s in samples if s.label not in labels],
            "correct the label, or leave out the clip",
        )
    _raise_if_any(
        "no such video or folder of pictures",
        [(s, "") for s in samples if not frame_files(s.path)],
        "check the spelling, and whether all was unpacked; paths in a list start at its folder",
    )
    placed = [(s.path.resolve(), s) for s in samples]
    first = dict(reversed(placed))
    again = [(s, f", before at {first[place].where}") for place, s in placed if first[place] is not s]
    _raise_if_any("listed before", again, "keep one")
    if any(s.split for s in samples):
        _raise_if_any(
            "in no part of the split", [(s, "") for s in samples if not s.split], "say train, val or test for each"
        )
    other = {s.person: s for s in reversed(samples)}
    both = [(s, other[s.person]) for s in samples if s.person and s.split != other[s.person].split]
    _raise_if_any(
        "people on both sides of the split",
        [(s, f", {s.person!r} in {s.split}; in {other.split} at {other.where}") for s, other in both],
        "keep all clips of a person in one part",
    )


def _raise_if_any(problem: str, found: Sequence[tuple[Sample, str]], hint: str) -> None:
    if found:
        named = ", ".join(f"{sample.path} ({sample.where}{detail})" for sample, detail in found[:3])
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise DatasetError(f"{problem}: {named}{more}; {hint}")


Row = tuple[str, Mapping[str, Any]]  # the line, and its values by column


def _from_list(path: Path) -> tuple[Sample, ...]:
    """Rows of a CSV with a header, or objects of JSON Lines; paths start at the folder of the list."""
    sets = ", ".join(f"{name}:FOLDER" for name in KNOWN_LAYOUTS)
    text = read_text(path, f"give a folder with a folder for each class, a CSV or JSON Lines file in UTF-8, or {sets}")
    rows = list(_jsonl_rows(text, path) if path.suffix.lower() in (".jsonl", ".ndjson") else _csv_rows(text, path))
    if not rows:
        raise DatasetError(f"{path} lists no clips; write a line for each, with its path and label")
    return tuple(_sample(path.parent, row, ratings) for row, ratings in zip(rows, _ratings(rows), strict=True))


def _sample(folder: Path, row: Row, ratings: Mapping[str, float]) -> Sample:
    where, values = row
    path, label, person, split = (_text(where, name, values.get(name)) for name in COLUMNS)
    if path is None:
        raise DatasetError(f"{where} has no path; write the path of a clip in each line")
    if label is None and not ratings:
        raise DatasetError(f"{where} has no label, and no column of numbers instead; write one in each line")
    if split is not None and split.lower() not in SPLIT_ALIASES:
        raise DatasetError(f"{where}: {split!r} is no part of a split; write train, val or test")
    return Sample(folder / path, label, person, SPLIT_ALIASES[split.lower()] if split else None, ratings, where)


def _text(where: str, name: str, value: Any) -> str | None:
    if name == "person" and type(value) is int:
        value = str(value)
    if not isinstance(value, str | None):
        raise DatasetError(f"{where}: {name} is no text but of type {type(value).__name__}; put it in quotes")
    return (value or "").strip() or None


def _ratings(rows: Sequence[Row]) -> list[dict[str, float]]:
    """For each row its values in the further columns that hold numbers only."""
    ratings: list[dict[str, float]] = [{} for _ in rows]
    for name in dict.fromkeys(name for _, values in rows for name in values if name and name not in COLUMNS):
        given = {i: values[name] for i, (_, values) in enumerate(rows) if values.get(name) not in (None, "")}
        try:
            numbers = {i: _number(value) for i, value in given.items()}
        except ValueError:
            continue
        for i, number in numbers.items():
            if not math.isfinite(number):
                raise DatasetError(f"{rows[i][0]}: {name} is {number}; leave it empty, or leave out the clip")
            ratings[i][name] = number
    return ratings


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(value)
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _csv_rows(text: str, path: Path) -> Iterator[Row]:
    text = _COMMENT.sub("", text)
    delimiter = _delimiter(text)
    blanks = " " if delimiter == "\t" else " \t"
    text = re.sub(rf'"[{blanks}]+(?=$|[\r\n{delimiter}])', '"', text)  # strict reading takes no blank behind a quote
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    header: list[str] = []
    line = 1
    try:
        for fields in reader:
            where, line = f"{path}:{line}", reader.line_num + 1
            cells = [cell.strip() for cell in fields]
            if not any(cells):
                continue
            if not header:
                header = _header(where, cells)
            elif len(cells) > len(header):
                raise DatasetError(
                    f"{where} has more fields than the header; put what holds a {DELIMITERS[delimiter]} in quotes"
                )
            else:
                yield (
                    where,
                    {
                        name: cell if name in COLUMNS else _with_decimal_point(cell, delimiter)
                        for name, cell in zip(header, cells, strict=False)
                    },
                )
    except csv.Error as error:
        raise DatasetError(
            f"{path}:{line} is no CSV ({error}); close each quote, and double those in a field"
        ) from error


def _delimiter(text: str) -> str:
    """What separates the cells of the first line that is not empty: of those that give a cell `path`, the first."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    for delimiter in DELIMITERS:
        if "path" in (cell.strip(' "').lower() for cell in first.split(delimiter)):
            return delimiter
    return ","


def _with_decimal_point(cell: str, delimiter: str) -> str:
    """Where Excel separates cells by semicolons or tabs it may write 3,5 for 3.5."""
    return cell.replace(",", ".") if delimiter != "," and _DECIMAL_COMMA.fullmatch(cell) else cell


def _header(where: str, cells: Sequence[str]) -> list[str]:
    names = [cell.lower() for cell in cells]
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if "path" not in names or twice:
        problem = f"names {twice[0]} twice" if twice else f"does not name path, but {', '.join(names)}"
        raise DatasetError(f"{where} {problem}; a list starts with the names of its columns: path,label")
    return names


def _jsonl_rows(text: str, path: Path) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{path}:{number} is no JSON ({error}); write an object in each line") from error
        if not isinstance(row, dict):
            raise DatasetError(f'{path}:{number} is no object; write {{"path": ..., "label": ...}} in each line')
        yield f"{path}:{number}", {name.strip().lower(): value for name, value in row.items()}
