"""Which clips of a run a person should look at first: the least certain, and those unlike the training clips."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from sklearn.metrics import pairwise_distances_argmin_min

from fervid.core.errors import DatasetError, ModelIncompatible
from fervid.learn.feature_table import FeatureTable

EMBEDDING = "embedding.mean"
"""The statistic in which clips are compared."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A clip to look at.

    Attributes:
        path: The clip, as in its record.
        reason: Why it is suggested.
        label: Its label.
        confidence: Probability of the label.
        margin: Difference between the probabilities of the two most probable labels.
        distance: Cosine distance to the nearest training clip, 0 to 2; None if it is unknown.
    """

    path: str
    reason: str
    label: str
    confidence: float
    margin: float
    distance: float | None


def suggest_clips(
    records: Sequence[Mapping[str, Any]], count: int, distances: Mapping[str, float] | None = None
) -> list[Suggestion]:
    """Choose `count` clips, in turn from those with the smallest margin and those farthest from the training clips.

    Records of `fervid classify` without a label are ignored. The distances to the nearest training clip are by absolute
    path.
    """
    classified = [record for record in records if record["status"] == "ok"]
    by_margin = [_make_uncertain(record, distances or {}) for record in classified]
    by_distance = [
        replace(clip, reason=f"unlike the training clips: distance {clip.distance:.2f} to the nearest")
        for clip in by_margin
        if clip.distance is not None
    ]
    by_margin.sort(key=lambda suggestion: suggestion.margin)
    by_distance.sort(key=lambda suggestion: -(suggestion.distance or 0.0))
    chosen: dict[str, Suggestion] = {}
    for pair in zip_longest(by_margin, by_distance):
        for suggestion in filter(None, pair):
            chosen.setdefault(suggestion.path, suggestion)
    return list(chosen.values())[:count]


def nearest_distances(clips: FeatureTable, training: FeatureTable) -> dict[str, float]:
    """Compute the cosine distance from each clip to the nearest training clip, in the mean embedding of the face.

    Returns:
        Distances from 0 to 2, by absolute path.

    Raises:
        ModelIncompatible: The features come from different face models.
        DatasetError: The face model has no embedding.
    """
    if clips.provenance["face_model_sha256"] != training.provenance["face_model_sha256"]:
        raise ModelIncompatible("the features come from different face models; extract both with the same --face-model")
    tables = [table.statistics.get(EMBEDDING) for table in (clips, training)]
    if any(matrix is None or not matrix.size for matrix in tables):
        raise DatasetError(f"the features have no {EMBEDDING}; extract them with a face model that has an embedding")
    _, distances = pairwise_distances_argmin_min(*tables, metric="cosine")
    return {
        os.path.abspath(sample.path): float(distance) for sample, distance in zip(clips.samples, distances, strict=True)
    }


def _make_uncertain(record: Mapping[str, Any], distances: Mapping[str, float]) -> Suggestion:
    best = sorted(record["probabilities"].items(), key=lambda item: -item[1])[:2]
    shown = ", ".join(f"{label} {100 * probability:.0f} %" for label, probability in best)
    return Suggestion(
        path=record["path"],
        reason=f"uncertain: {shown}",
        label=record["label"],
        confidence=record["confidence"],
        margin=round(best[0][1] - sum(probability for _, probability in best[1:]), 4),
        distance=distances.get(os.path.abspath(record["path"])),
    )
