"""Records with the features that a baseline needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fervid.analysis.aggregate import ClipObservations
from fervid.analysis.baseline import LOGITS
from fervid.core.records import ClipFeatures
from fervid.core.results import ClipResult

IDENTITY = "identity.mean"
"""The statistic that recognises a person across clips."""


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
    names = {*statistics, LOGITS, IDENTITY}
    return ObservedRecord(result, tuple(_select(person.pool.features(), names) for person in clip.people))


def _select(features: ClipFeatures, names: set[str]) -> ClipFeatures:
    statistics = {name: vector for name, vector in features.statistics.items() if name in names}
    return ClipFeatures(statistics, features.count)
