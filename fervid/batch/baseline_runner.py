"""Classify many clips relative to a baseline of each person.

All clips are observed first. Then people are identified across clips, and each prediction is made relative to the
person's average, or to clips in which the person is at rest.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fervid.analysis.baseline import (
    BaselineReference,
    ObservedRecord,
    average_people,
    make_reference,
    name_numbers,
    number_people,
)
from fervid.analysis.pipeline import Classifier
from fervid.analysis.windows import WindowSpec
from fervid.batch.baseline_spec import BaselineSpec, RestClip
from fervid.batch.observation_store import ObservationFile
from fervid.batch.resume import file_stamp
from fervid.batch.runner import RunConfig, crash_result
from fervid.core.errors import UsageError
from fervid.core.records import ClipFeatures, FloatArray
from fervid.core.results import ClipResult, WindowResult
from fervid.core.worker_pool import map_ordered
from fervid.core.worker_process import WorkerDied
from fervid.media.inputs import clip_key
from fervid.media.sampling import Sampling

ShowProgress = Callable[[Iterable[Sequence[ObservedRecord]]], Iterable[Sequence[ObservedRecord]]]


def classify_relative(
    classifier: Classifier,
    paths: Iterable[str],
    config: RunConfig,
    spec: BaselineSpec,
    progress: ShowProgress = iter,
    observations: ObservationFile | None = None,
) -> Generator[ClipResult]:
    """Yield one record per clip, in input order, after all clips were observed.

    Args:
        classifier: Classifies the clips.
        paths: The clips.
        config: Number of workers, and what each clip may cost.
        spec: The baseline.
        progress: Wraps the iterator over observed clips, to show progress.
        observations: Observations of an earlier run, which are reused, and to which new ones are added.

    Raises:
        UsageError: The classifier does not support the baseline, the face model does not identify people, or a clip of
            the baseline shows no face, or the list of people names none of the clips.
    """
    for (result,) in _classify(classifier, classifier.observe_clip, paths, config, spec, progress, observations):
        yield result


def classify_windows_relative(
    classifier: Classifier,
    paths: Iterable[str],
    windows: WindowSpec,
    config: RunConfig,
    spec: BaselineSpec,
    progress: ShowProgress = iter,
) -> Generator[Sequence[WindowResult]]:
    """Yield the windows of each clip, otherwise as `classify_relative`."""
    observe = partial(classifier.observe_windows, spec=windows)
    for results in _classify(classifier, observe, paths, config, spec, progress):
        yield [
            result if isinstance(result, WindowResult) else WindowResult.from_clip_result(result) for result in results
        ]


def _classify(
    classifier: Classifier,
    observe: Callable[[str], list[ObservedRecord]],
    paths: Iterable[str],
    config: RunConfig,
    spec: BaselineSpec,
    progress: ShowProgress,
    observations: ObservationFile | None = None,
) -> Iterator[Sequence[ClipResult]]:
    check_relative(classifier, spec)
    paths = list(paths)
    if spec.people and not spec.people.keys() & set(map(clip_key, paths)):
        raise UsageError(
            "the list of people names none of the clips; paths in it are relative to its folder, and the first one is"
            f" {next(iter(spec.people))}"
        )
    rest = _observe_baseline(classifier, spec.rest, config)
    clips = list(progress(_observe_all(classifier, observe, paths, config, observations)))
    yield from relate_clips(classifier, clips, rest, spec)


def _observe_all(
    classifier: Classifier,
    observe: Callable[[str], list[ObservedRecord]],
    paths: Sequence[str],
    config: RunConfig,
    observations: ObservationFile | None,
) -> Iterator[Sequence[ObservedRecord]]:
    """Yield the records of each clip in input order; observe those that `observations` lacks, and add them to it."""
    records_of = {path: records for path in paths if observations and (records := observations.find(path)) is not None}
    stamps = {path: file_stamp(path) for path in paths if path not in records_of}
    on_death = partial(_crash_records, classifier)
    new_records = map_ordered(observe, stamps, config.jobs, on_death, config.limits)
    for path in paths:
        if path not in records_of:
            records_of[path] = next(new_records)
            if observations:
                observations.add(path, records_of[path], stamps[path])
        yield records_of[path]


def _observe_baseline(
    classifier: Classifier, clips: Sequence[RestClip], config: RunConfig
) -> list[list[ObservedRecord]]:
    """Observe the clips at rest.

    Raises:
        UsageError: One shows no face, or cannot be read.
    """
    on_death = partial(_crash_records_at_rest, classifier)
    observed = list(map_ordered(partial(_observe_at_rest, classifier), clips, config.jobs, on_death, config.limits))
    if without_face := [record.result for (record,) in observed if not record.people]:
        first = without_face[0]
        reason = first.error.message if first.error else f"{first.path} shows no face"
        raise UsageError(
            f"{len(without_face)} clip(s) of the baseline have no face, the first: {reason}; remove them from the list"
        )
    return observed


def check_relative(classifier: Classifier, spec: BaselineSpec) -> None:
    """Check that a classifier supports a baseline, before clips are observed.

    Raises:
        UsageError: It does not.
    """
    if classifier.options.face == "all" and spec.kind:
        raise UsageError(
            "a baseline needs the faces of single people, but --face all pools them; leave one of them out"
        )
    check_identifies_people(classifier)


def check_identifies_people(classifier: Classifier) -> None:
    """Check that the face model of a classifier recognises people across clips.

    Raises:
        UsageError: It does not.
    """
    if not classifier.extractor.face_model.card.get("identity"):
        raise UsageError(
            f"{classifier.models['face_model'].name} does not identify people, so they cannot be recognised across"
            " clips; leave out --face-model"
        )


def relate_clips(
    classifier: Classifier,
    clips: Sequence[Sequence[ObservedRecord]],
    rest: Sequence[Sequence[ObservedRecord]],
    spec: BaselineSpec,
) -> Iterator[Sequence[ClipResult]]:
    """Yield the records of each clip with identities, and with predictions relative to the baseline.

    Args:
        classifier: Classifies the clips.
        clips: The records of each clip: one, or one for each window.
        rest: The records of the clips at rest.
        spec: The baseline.
    """
    people = [person for i, records in enumerate([*clips, *rest]) for person in _people_of(i, records)]
    numbers = _identify(people, [*clips, *rest], classifier.extractor.tracker_config.min_person_similarity, spec)
    number_of = {(person.clip, person.id): int(number) for person, number in zip(people, numbers, strict=True)}
    references = _references(people, numbers, len(clips), spec)
    names = _names(number_of, spec)
    for i, records in enumerate(clips):
        numbers_of_records = [[number_of[i, person.id] for person in record.result.people] for record in records]
        yield [
            classifier.apply_baseline(
                record, [names[n] for n in record_numbers], [references.get(n) for n in record_numbers]
            )
            for record, record_numbers in zip(records, numbers_of_records, strict=True)
        ]


@dataclass(frozen=True, slots=True, eq=False)
class _ClipPerson:
    """A person in a clip: features averaged over the windows in which the person occurs."""

    clip: int
    id: int
    features: ClipFeatures


def _people_of(clip: int, records: Sequence[ObservedRecord]) -> list[_ClipPerson]:
    windows: dict[int, list[ClipFeatures]] = {}
    for record in records:
        for person, features in zip(record.result.people, record.people, strict=True):
            windows.setdefault(person.id, []).append(features)
    return [_ClipPerson(clip, number, _average(parts)) for number, parts in windows.items()]


def _average(parts: Sequence[ClipFeatures]) -> ClipFeatures:
    """Average statistics over windows, weighted by their number of frames."""
    counts = [part.count for part in parts]
    statistics: dict[str, FloatArray] = {
        name: np.average([part.statistics[name] for part in parts], axis=0, weights=counts)
        for name in parts[0].statistics
    }
    return ClipFeatures(statistics, sum(counts))


def _identify(
    people: Sequence[_ClipPerson], clips: Sequence[Sequence[ObservedRecord]], min_similarity: float, spec: BaselineSpec
) -> NDArray[np.int64]:
    """Number the people across clips: first the names of `spec.people` in sorted order, then everybody else."""
    numbers = number_people([person.features for person in people], [person.clip for person in people], min_similarity)
    if spec.people is None:
        return numbers
    listed = sorted(set(spec.people.values()))
    numbers = numbers + len(listed)
    clips_with_main_person: set[int] = set()
    for row, person in enumerate(people):
        name = spec.people.get(clip_key(clips[person.clip][0].result.path))
        if name is not None and person.clip not in clips_with_main_person:  # the first person of a clip is the main one
            numbers[row] = listed.index(name)
        clips_with_main_person.add(person.clip)
    return numbers


def _names(number_of: Mapping[tuple[int, int], int], spec: BaselineSpec) -> dict[int, str]:
    """Return the name of each number: a name of `spec.people`, or `person-1` and so on."""
    listed = sorted(set(spec.people.values())) if spec.people else []
    return dict(enumerate(listed)) | name_numbers(number for number in number_of.values() if number >= len(listed))


def _references(
    people: Sequence[_ClipPerson], numbers: NDArray[np.int64], n_clips: int, spec: BaselineSpec
) -> dict[int, BaselineReference]:
    """Return the baseline of each person by number; clips from `n_clips` on are those at rest."""
    if spec.kind is None or not people:
        return {}
    names = people[0].features.statistics
    statistics = {name: np.stack([person.features.statistics[name] for person in people]) for name in names}
    if spec.kind == "person":
        return average_people(statistics, numbers)
    at_rest = np.array([person.clip >= n_clips for person in people])
    return {
        int(number): make_reference("rest", statistics, at_rest & (numbers == number))
        for number in np.unique(numbers[at_rest])
    }


def _observe_at_rest(classifier: Classifier, clip: RestClip) -> list[ObservedRecord]:
    sampling: Sampling = replace(classifier.options.sampling, start=clip.start, end=clip.end)
    return classifier.observe_clip(clip.path, sampling)


def _crash_records(classifier: Classifier, path: str, death: WorkerDied) -> list[ObservedRecord]:
    return [ObservedRecord(crash_result(classifier, path, death), ())]


def _crash_records_at_rest(classifier: Classifier, clip: RestClip, death: WorkerDied) -> list[ObservedRecord]:
    return _crash_records(classifier, clip.path, death)
