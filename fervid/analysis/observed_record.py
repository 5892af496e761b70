"""Records with the features that a baseline needs."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from fervid.analysis.aggregate import ClipObservations
from fervid.core.records import ClipFeatures
from fervid.core.results import ClipResult


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
