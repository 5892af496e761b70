"""Records with the features that a baseline needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from fervid.analysis.aggregate import ClipObservations
from fervid.analysis.baseline import IDENTITY, LOGITS, BaselineReference
from fervid.analysis.extractor import Extractor
from fervid.analysis.result_builder import ResultBuilder
from fervid.analysis.windows import WindowSpec
from fervid.core.errors import InputError
from fervid.core.records import ClipFeatures
from fervid.core.results import Baseline, ClipResult, Prediction, WindowResult


@dataclass(frozen=True, slots=True, eq=False)
class ObservedRecord:
    """A record and the features of its people, a few kilobytes.

    Attributes:
        result: The record, with absolute predictions.
        people: Features of each person in the record.
    """

    result: ClipResult
    people: tuple[ClipFeatures, ...]


def make_observed_record(result: ClipResult, clip: ClipObservations, statistics: Iterable[str]) -> ObservedRecord:
    """Attach to a record the features that its people are classified and recognised by.

    Args:
        result: The record of a clip or window.
        clip: The observations that it was made from.
        statistics: Names of the statistics that the classifier takes.
    """
    return ObservedRecord(result, select_features(clip, {*statistics, LOGITS, IDENTITY}))


def select_features(clip: ClipObservations, names: Container[str]) -> tuple[ClipFeatures, ...]:
    """Return the statistics of those names for each person in a clip."""
    people = [person.pool.features() for person in clip.people]
    return tuple(
        ClipFeatures({name: vector for name, vector in features.statistics.items() if name in names}, features.count)
        for features in people
    )


def observe_windows(
    extractor: Extractor, results: ResultBuilder, path: str, spec: WindowSpec, statistics: Iterable[str]
) -> list[ObservedRecord]:
    """Classify each window of a clip and keep its features; a clip without a window has one record of its error.

    Args:
        extractor: Analyses the clip.
        results: Makes the records.
        path: Path of the clip.
        spec: Length and step of the windows.
        statistics: Names of the statistics that the classifier takes.
    """
    started = time.perf_counter()
    try:
        with closing(extractor.iter_observations(path)) as observations:
            return [
                make_observed_record(
                    WindowResult.from_clip_result(result, window.start, window.end), window.clip, statistics
                )
                for result, window in results.build_windows(path, observations, spec, extractor.options.sampling.start)
            ]
    except InputError as error:
        clip = ClipObservations(error=error)
        result, _ = results.build(path, clip, started)
        return [make_observed_record(WindowResult.from_clip_result(result), clip, statistics)]


def name_people(
    record: ObservedRecord,
    identities: Sequence[str],
    references: Sequence[BaselineReference | None],
    classify_relative: Callable[[ClipFeatures, BaselineReference | None], Prediction | None],
) -> ClipResult:
    """Name the people of a record and make their predictions relative to their baselines.

    Args:
        record: The record.
        identities: A name for each person in the record.
        references: The baseline of each person; None for a person without one.
        classify_relative: Classifies features relative to a baseline; None keeps the prediction as it is.
    """
    relative = [
        classify_relative(features, reference) for features, reference in zip(record.people, references, strict=True)
    ]
    people = [
        replace(person, prediction=prediction or person.prediction, identity=identity)
        for person, prediction, identity in zip(record.result.people, relative, identities, strict=True)
    ]
    main = references[0] if references else None
    return replace(
        record.result,
        people=tuple(people),
        prediction=next(iter(relative), None) or record.result.prediction,
        baseline=Baseline(main.kind, main.clips) if main else None,
    )
