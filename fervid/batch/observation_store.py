"""Observations of clips on disk, with which an interrupted run relative to a baseline can resume.

They are in `NAME.observed`, a JSON Lines file beside the output. It has a line of a few kilobytes for each clip: a
`ResumeEntry`, and the records with their statistics. A clip whose line is incomplete is observed again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fervid.analysis.baseline import ObservedRecord
from fervid.analysis.pipeline import Classifier
from fervid.batch.resume import FINAL_STATUSES, ResumeEntry, file_stamp, run_fingerprint
from fervid.batch.writers import to_json_line
from fervid.core.atomic_io import AtomicAppendFile, as_output_error, check_not_moved, lock_partial
from fervid.core.records import ClipFeatures
from fervid.core.results import ClipResult, ErrorInfo, Person, Prediction


class ObservationFile:
    """A file of observations by path, which returns those of unchanged clips, made with the same models and options."""

    def __init__(
        self, classifier: Classifier, entries: Mapping[str, tuple[ResumeEntry, Any]], file: AtomicAppendFile, path: Path
    ) -> None:
        """Use `ObservationFile.open`."""
        self._classifier, self._entries, self._file, self._path = classifier, entries, file, path
        self._run = run_fingerprint(classifier)

    @classmethod
    @contextmanager
    def open(cls, output: Path, classifier: Classifier, *, resume: bool) -> Iterator[ObservationFile]:
        """Open or create the file beside an output.

        Args:
            output: The JSON Lines file of the records.
            classifier: Makes the observations.
            resume: Whether to keep the observations of the file.

        Raises:
            OutputError: Another run writes the file, or it cannot be written.
        """
        path = output.with_name(output.name + ".observed")
        with as_output_error(path), lock_partial(path):
            lines = path.read_bytes().splitlines(keepends=True) if resume and path.exists() else []
            complete = [line for line in lines if line.endswith(b"\n")]
            with AtomicAppendFile(path, "ab") as file:
                file.truncate(sum(map(len, complete)))
                yield cls(classifier, dict(_entries(complete)), file, path)

    def find(self, clip: str) -> list[ObservedRecord] | None:
        """Return the observations of a clip; None if there are none, or the clip, models or options have changed."""
        entry, records = self._entries.get(clip, (None, ()))
        if entry is None or entry.run != self._run or not entry.is_current(self._run, file_stamp(clip)):
            return None
        try:
            return [_from_json(clip, record, self._classifier) for record in records]
        except (KeyError, TypeError, ValueError):
            return None

    def add(self, clip: str, records: Sequence[ObservedRecord], stamp: tuple[int, int]) -> None:
        """Append the observations of a clip, unless one is an error.

        Args:
            clip: Path of the clip.
            records: The observations.
            stamp: `file_stamp` of the clip before it was observed.

        Raises:
            OutputError: The disk is full, or the file was moved, removed or replaced.
        """
        if any(record.result.status not in FINAL_STATUSES for record in records):
            return
        entry = ResumeEntry(clip, *stamp, self._run, records[0].result.status)
        line = entry.as_dict() | {"records": [_to_json(record) for record in records]}
        with as_output_error(self._path):
            self._file.write(to_json_line(line) + b"\n")
            check_not_moved(self._file, self._path)


def _entries(lines: Sequence[bytes]) -> Iterator[tuple[str, tuple[ResumeEntry, Any]]]:
    for line in lines:
        try:
            fields = json.loads(line)
            records = fields.pop("records")
            entry = ResumeEntry.from_dict(fields)
            yield entry.path, (entry, records)
        except (ValueError, TypeError, KeyError, RecursionError, AttributeError):
            continue


def _to_json(record: ObservedRecord) -> dict[str, Any]:
    """Convert a record to JSON types, without rounding."""
    plain = asdict(record.result)
    for name in ("path", "models", "baseline"):
        del plain[name]
    return {"result": plain, "people": [features.as_dict() for features in record.people]}


def _from_json(path: str, plain: Mapping[str, Any], classifier: Classifier) -> ObservedRecord:
    """Restore a record from the result of `_to_json`.

    Raises:
        KeyError, TypeError, ValueError: It is not one.
    """
    result = dict(plain["result"])
    people = tuple(
        Person(**{**person, "prediction": Prediction(**person["prediction"])}) for person in result.pop("people")
    )
    prediction, error = result.pop("prediction"), result.pop("error")
    return ObservedRecord(
        ClipResult(
            path,
            **result,
            people=people,
            prediction=Prediction(**prediction) if prediction else None,
            error=ErrorInfo(**error) if error else None,
            models=classifier.models,
        ),
        tuple(map(ClipFeatures.from_dict, plain["people"])),
    )
