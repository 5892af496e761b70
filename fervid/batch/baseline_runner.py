"""Many clips, answered relative to the people in them: all are observed first, and answered when people are known."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fervid.analysis.aggregate import WindowSpec
from fervid.analysis.baseline import BaselineReference, Kind, average_people, identify_people, make_reference
from fervid.analysis.pipeline import IDENTITY, Classifier, ObservedRecord
from fervid.batch.observation_store import ObservationFile
from fervid.batch.resumable_jsonl import file_stamp
from fervid.batch.runner import RunConfig, lost_clip
from fervid.core.errors import UsageError
from fervid.core.records import ClipFeatures, ClipResult, FloatArray, WindowResult
from fervid.core.worker_pool import WorkerDied, map_ordered
from fervid.media.sampling import Sampling

PERSON = "person"
ShowProgress = Callable[[Iterable[Sequence[ObservedRecord]]], Iterable[Sequence[ObservedRecord]]]


@dataclass(frozen=True, slots=True)
class RestClip:
    """A clip, or a part of it in seconds of presentation time, in which somebody is at rest."""

    path: str
    start: float = 0.0
    end: float | None = None


@dataclass(frozen=True, slots=True)
class BaselineSpec:
    """What answers are to be relative to.

    Attributes:
        kind: Of the baseline; None only names people.
        rest: Clips in which somebody is at rest, if that is the baseline.
        people: Path to the name of its main person, if a list says; people are recognised otherwise.
    """

    kind: Kind | None = None
    rest: tuple[RestClip, ...] = ()
    people: Mapping[str, str] | None = None

    @classmethod
    def read(cls, text: str) -> BaselineSpec:
        """`person`, or a CSV file with the columns `path,person`, `path` or `path,start,end`.

        Raises:
            UsageError: The file cannot be read, or has other columns or values.
        """
        if text == PERSON:
            return cls("person")
        source = Path(text)
        try:
            rows = list(csv.DictReader(source.read_text("utf-8-sig").splitlines(), skipinitialspace=True))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise UsageError(f"the baseline {text} cannot be read ({reason}); give person, or a CSV file") from error
        columns = set(rows[0]) if rows else set()
        if columns >= {"path", "person"}:
            return cls("person", people={_beside(source, row["path"]): row["person"] for row in rows})
        if "path" not in columns or not columns <= {"path", "start", "end"}:
            raise UsageError(
                f"{text} has the columns {', '.join(sorted(map(str, columns)))}; a baseline has"
                " path,person for names of people, or path or path,start,end for clips at rest"
            )
        return cls("rest", tuple(_rest_clip(source, number, row) for number, row in enumerate(rows, 2)))


def _rest_clip(source: Path, line: int, row: Mapping[str, str]) -> RestClip:
    try:
        start, end = (float(row.get(name) or default) for name, default in (("start", 0.0), ("end", np.inf)))
        if not 0 <= start < end:
            raise ValueError
    except ValueError:
        raise UsageError(f"line {line} of {source}: start and end are seconds, start before end") from None
    return RestClip(_beside(source, row["path"]), start, None if end == np.inf else end)


def _beside(source: Path, path: str) -> str:
    """A path in a list, which is relative to the folder of the list if it is not found from here."""
    path = path.strip()
    return path if os.path.isabs(path) or os.path.exists(path) else os.fspath(source.parent / path)


def classify_relative(
    classifier: Classifier,
    paths: Iterable[str],
    policy: RunConfig,
    spec: BaselineSpec,
    progress: ShowProgress = iter,
    observations: ObservationFile | None = None,
) -> Generator[ClipResult]:
    """One record per clip, in the order of the input, once all clips were observed.

    Args:
        classifier: Who answers.
        paths: The clips.
        policy: How many clips at a time, and what each may cost.
        spec: What answers are relative to.
        progress: Passes the observed clips on as they come.
        observations: What was observed before, which is not observed again, and where what is observed goes.

    Raises:
        UsageError: The classifier cannot be asked relative to a baseline, or knows no identities.
    """
    for (result,) in _classify(classifier, _observe, paths, policy, spec, progress, observations):
        yield result


def classify_windows_relative(
    classifier: Classifier,
    paths: Iterable[str],
    cut: WindowSpec,
    policy: RunConfig,
    spec: BaselineSpec,
    progress: ShowProgress = iter,
) -> Generator[Sequence[WindowResult]]:
    """As `classify_relative`, the windows of each clip."""
    observe = partial(_observe_windows, cut)
    for results in _classify(classifier, observe, paths, policy, spec, progress):
        yield [result if isinstance(result, WindowResult) else WindowResult.of(result) for result in results]


def _classify(
    classifier: Classifier,
    observe: Callable[[Classifier, str], list[ObservedRecord]],
    paths: Iterable[str],
    policy: RunConfig,
    spec: BaselineSpec,
    progress: ShowProgress,
    observations: ObservationFile | None = None,
) -> Iterator[Sequence[ClipResult]]:
    check_relative(classifier, spec)
    lost, lost_rest = partial(_lost, classifier), partial(_lost_rest, classifier)
    paths = list(paths)
    known = {path: records for path in paths if observations and (records := observations.find(path)) is not None}
    stamps = {path: file_stamp(path) for path in paths if path not in known}
    observed = map_ordered(partial(observe, classifier), stamps, policy.jobs, lost, policy.limits)

    def in_order() -> Iterator[Sequence[ObservedRecord]]:
        for path in paths:
            if path not in known:
                known[path] = next(observed)
                if observations:
                    observations.add(path, known[path], stamps[path])
            yield known[path]

    clips = list(progress(in_order()))
    rest = list(map_ordered(partial(_observe_rest, classifier), spec.rest, policy.jobs, lost_rest, policy.limits))
    if broken := [record.result for (record,) in rest if not record.people]:
        why = broken[0].problem.message if broken[0].problem else f"{broken[0].path} shows no face"
        raise UsageError(f"{len(broken)} clips of the baseline show nobody at rest, the first: {why}; take them out")
    yield from relate_clips(classifier, clips, rest, spec)


def check_relative(classifier: Classifier, spec: BaselineSpec) -> None:
    """Whether a classifier can be asked relative to a baseline, before anything is observed.

    Raises:
        UsageError: It cannot.
    """
    if classifier.options.face == "all" and spec.kind:
        raise UsageError("a baseline is of a person, and --face all answers for everybody together; leave one out")
    if not classifier.extractor.network.card.get("identity"):
        raise UsageError(
            f"{classifier.models['network'].name} knows no identities, so nobody is recognised in another clip;"
            " leave out --network"
        )


def relate_clips(
    classifier: Classifier,
    clips: Sequence[Sequence[ObservedRecord]],
    rest: Sequence[Sequence[ObservedRecord]],
    spec: BaselineSpec,
) -> Iterator[Sequence[ClipResult]]:
    """The records of clips with names of people, relative to their averages.

    Args:
        classifier: Who answers.
        clips: The records of each clip, one or one for each window.
        rest: The same of the clips at rest.
        spec: What answers are relative to.
    """
    people = [person for i, records in enumerate([*clips, *rest]) for person in _people_of(i, records)]
    numbers = _identify(people, [*clips, *rest], classifier.extractor.rule.same_person, spec)
    number_of = {(person.clip, person.id): int(number) for person, number in zip(people, numbers, strict=True)}
    references = _references(people, numbers, len(clips), spec)
    names = _names(number_of, [*clips, *rest], spec)
    for i, records in enumerate(clips):
        known = [[number_of[i, person.id] for person in record.result.people] for record in records]
        yield [
            classifier.relate(record, [names[n] for n in own], [references.get(n) for n in own])
            for record, own in zip(records, known, strict=True)
        ]


@dataclass(frozen=True, slots=True, eq=False)
class _ClipPerson:
    """A person in a clip: means over the windows in which it occurs."""

    clip: int
    id: int
    frames: int
    statistics: Mapping[str, FloatArray]


def _people_of(clip: int, records: Sequence[ObservedRecord]) -> list[_ClipPerson]:
    windows: dict[int, list[ClipFeatures]] = {}
    for record in records:
        for person, features in zip(record.result.people, record.people, strict=True):
            windows.setdefault(person.id, []).append(features)
    return [
        _ClipPerson(clip, number, sum(part.count for part in parts), _average(parts))
        for number, parts in windows.items()
    ]


def _average(parts: Sequence[ClipFeatures]) -> dict[str, FloatArray]:
    """Statistics over windows, each as heavy as it has frames."""
    counts = [part.count for part in parts]
    return {
        name: np.average([part.statistics[name] for part in parts], axis=0, weights=counts)
        for name in parts[0].statistics
    }


def _identify(
    people: Sequence[_ClipPerson], clips: Sequence[Sequence[ObservedRecord]], min_similarity: float, spec: BaselineSpec
) -> NDArray[np.int64]:
    if not people:
        return np.zeros(0, np.int64)
    vectors = np.stack([person.statistics[IDENTITY] for person in people])
    clips_, frames = ([getattr(person, name) for person in people] for name in ("clip", "frames"))
    numbers = identify_people(vectors, clips_, frames, min_similarity)
    if spec.people is None:
        return numbers
    named = sorted(set(spec.people.values()))
    found = numbers + len(named)
    seen: set[int] = set()
    for row, person in enumerate(people):
        name = spec.people.get(clips[person.clip][0].result.path)
        if name is not None and person.clip not in seen:  # the main person comes first
            found[row] = named.index(name)
        seen.add(person.clip)
    return found


def _names(
    number_of: Mapping[tuple[int, int], int], clips: Sequence[Sequence[ObservedRecord]], spec: BaselineSpec
) -> dict[int, str]:
    named = sorted(set(spec.people.values())) if spec.people else []
    others = [number for number in dict.fromkeys(number_of.values()) if number >= len(named)]
    return dict(enumerate(named)) | {number: f"person-{i}" for i, number in enumerate(others, 1)}


def _references(
    people: Sequence[_ClipPerson], numbers: NDArray[np.int64], answered: int, spec: BaselineSpec
) -> dict[int, BaselineReference]:
    if spec.kind is None or not people:
        return {}
    statistics = {name: np.stack([person.statistics[name] for person in people]) for name in people[0].statistics}
    if spec.kind == "person":
        return average_people(statistics, numbers)
    at_rest = np.array([person.clip >= answered for person in people])
    return {
        int(number): make_reference("rest", statistics, at_rest & (numbers == number))
        for number in np.unique(numbers[at_rest])
    }


def _observe(classifier: Classifier, path: str) -> list[ObservedRecord]:
    return classifier.observe(path)


def _observe_windows(cut: WindowSpec, classifier: Classifier, path: str) -> list[ObservedRecord]:
    return classifier.observe_windows(path, cut)


def _observe_rest(classifier: Classifier, clip: RestClip) -> list[ObservedRecord]:
    sampling: Sampling = replace(classifier.options.sampling, start=clip.start, end=clip.end)
    return classifier.observe(clip.path, sampling)


def _lost(classifier: Classifier, path: str, death: WorkerDied) -> list[ObservedRecord]:
    return [ObservedRecord(lost_clip(classifier, path, death), ())]


def _lost_rest(classifier: Classifier, clip: RestClip, death: WorkerDied) -> list[ObservedRecord]:
    return _lost(classifier, clip.path, death)
