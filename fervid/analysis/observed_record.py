"""Records with the features that a baseline needs."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

from fervid.analysis.aggregate import ClipObservations
from fervid.analysis.baseline import BaselineReference
from fervid.core.records import ClipFeatures
from fervid.core.results import Baseline, ClipResult, Prediction


@dataclass(frozen=True, slots=True, eq=False)
class ObservedRecord:
    """A record and the features of its people, a few kilobytes.

    Attributes:
        result: The record, with absolute predictions.
        people: Features of each person in the record.
    """

    result: ClipResult
    people: tuple[ClipFeatures, ...]


def select_features(clip: ClipObservations, names: Container[str]) -> tuple[ClipFeatures, ...]:
    """Return the statistics of those names for each person in a clip."""
    people = [person.pool.features() for person in clip.people]
    return tuple(
        ClipFeatures({name: vector for name, vector in features.statistics.items() if name in names}, features.count)
        for features in people
    )


def name_people(
    record: ObservedRecord,
    identities: Sequence[str],
    references: Sequence[BaselineReference | None],
    predictions: Sequence[Prediction | None],
) -> ClipResult:
    """Name the people of a record and make their predictions relative to their baselines.

    Args:
        record: The record.
        identities: A name for each person in the record.
        references: The baseline of each person; None for a person without one.
        predictions: The prediction for each person relative to the baseline; None keeps the one of the record.
    """
    people = [
        replace(person, prediction=prediction or person.prediction, identity=identity)
        for person, prediction, identity in zip(record.result.people, predictions, identities, strict=True)
    ]
    main = references[0] if references else None
    return replace(
        record.result,
        people=tuple(people),
        prediction=next(iter(predictions), None) or record.result.prediction,
        baseline=Baseline(main.kind, main.clips) if main else None,
    )
