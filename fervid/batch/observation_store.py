"""What was observed of clips, kept beside an output, so that a run relative to a baseline goes on after it was cut off.

A JSON Lines file `NAME.observed`: a line for each clip, with its size and time of change, the models and options, and
its records with the statistics behind them, a few kilobytes each. A line that was torn is observed again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fervid.analysis.pipeline import Classifier, ObservedRecord
from fervid.batch.resumable_jsonl import FINAL_STATUSES, file_stamp, run_fingerprint
from fervid.batch.writers import to_json_line
from fervid.core.atomic_io import AtomicAppendFile, as_output_error, check_not_moved, lock_partial
from fervid.core.records import ClipFeatures, ClipResult, ErrorInfo, Person, Prediction


class ObservationFile:
    """Observed clips by path; only those that are as they were, and were observed by the same models and options."""

    def __init__(self, classifier: Classifier, known: Mapping[str, Any], file: AtomicAppendFile, path: Path) -> None:
        """Use `ObservationFile.open`."""
        self._classifier, self._known, self._file, self._path = classifier, known, file, path
        self._run = run_fingerprint(classifier)

    @classmethod
    @contextmanager
    def open(cls, output: Path, classifier: Classifier, *, resume: bool) -> Iterator[ObservationFile]:
        """Open or create the file beside an output.

        Args:
            output: The JSON Lines file of the records.
            classifier: Who observes.
            resume: Whether to keep what the file holds.

        Raises:
            OutputError: Another run writes it, or it cannot be written.
        """
        path = output.with_name(output.name + ".observed")
        with as_output_error(path), lock_partial(path):
            lines = path.read_bytes().splitlines(keepends=True) if resume and path.exists() else []
            whole = [line for line in lines if line.endswith(b"\n")]
            with AtomicAppendFile(path, "ab") as file:
                file.truncate(sum(map(len, whole)))
                yield cls(classifier, dict(_entries(whole)), file, path)

    def find(self, clip: str) -> list[ObservedRecord] | None:
        """What was observed of a clip; None if that was not, failed, or the clip or the run is another now."""
        entry = self._known.get(clip)
        if entry is None or entry["run"] != self._run or tuple(entry["stamp"]) != file_stamp(clip):
            return None
        try:
            return [_from_json(clip, record, self._classifier) for record in entry["records"]]
        except (KeyError, TypeError, ValueError):
            return None

    def add(self, clip: str, records: Sequence[ObservedRecord], observed: tuple[int, int]) -> None:
        """Append what was observed of a clip that can be answered.

        Args:
            clip: Its path.
            records: What was observed.
            observed: `ledger.stamp` of the clip before that.

        Raises:
            OutputError: The disk is full or the file is gone.
        """
        if any(record.result.status not in FINAL_STATUSES for record in records):
            return
        entry = {"path": clip, "stamp": observed, "run": self._run, "records": [_to_json(record) for record in records]}
        with as_output_error(self._path):
            self._file.write(to_json_line(entry) + b"\n")
            check_not_moved(self._file, self._path)


def _entries(lines: Sequence[bytes]) -> Iterator[tuple[str, Any]]:
    for line in lines:
        try:
            entry = json.loads(line)
            yield str(entry["path"]), {name: entry[name] for name in ("stamp", "run", "records")}
        except (ValueError, TypeError, KeyError, RecursionError):
            continue


def _to_json(record: ObservedRecord) -> dict[str, Any]:
    """A record with all digits, as JSON types."""
    plain = asdict(record.result)
    for name in ("path", "models", "baseline"):
        del plain[name]
    people = [
        {"count": part.count, "statistics": {name: value.tolist() for name, value in part.statistics.items()}}
        for part in record.people
    ]
    return {"result": plain, "people": people}


def _from_json(path: str, plain: Mapping[str, Any], classifier: Classifier) -> ObservedRecord:
    """What `_to_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: It did not write that.
    """
    result = dict(plain["result"])
    people = tuple(Person(**{**person, "answer": Prediction(**person["answer"])}) for person in result.pop("people"))
    answer, problem = result.pop("answer"), result.pop("problem")
    features = tuple(
        ClipFeatures({name: np.array(value, np.float32) for name, value in part["statistics"].items()}, part["count"])
        for part in plain["people"]
    )
    return ObservedRecord(
        ClipResult(
            path,
            **result,
            people=people,
            answer=Prediction(**answer) if answer else None,
            problem=ErrorInfo(**problem) if problem else None,
            models=classifier.models,
        ),
        features,
    )
