"""Recognise people across clips, and shift features by what a person shows on average or at rest.

Neutral faces differ between people, so expressions are better judged relative to the same person's average. This is the
participant calibration of FaceReader (Noldus), without labels. It assumes that the clips of a person show more than one
emotion.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fervid.analysis.clip_classifier import is_centered
from fervid.core.errors import UsageError
from fervid.core.records import ClipFeatures, FloatArray
from fervid.core.results import ClipResult

BaselineKind = Literal["person", "rest"]

IDENTITY = "identity.mean"  # the statistic that recognises a person across clips
LOGITS = "logit.mean"
SHIFTED_STATISTICS = ("logit.mean", "logit.min", "logit.max")
"""Statistics that a baseline shifts; the standard deviation does not depend on a person's average."""
MIN_CLIPS = 5  # of a person, that an average needs
MIN_SPREAD = 0.2
"""Root mean square deviation of a person's logits from their average, over clips and classes, that an average needs;
clips that are more alike may all show one emotion."""
CLUSTER_BATCH = 4000  # vectors that are clustered together; their distances take 128 MB
SAME_CLIP_DISTANCE = 4.0  # distance between two people in one clip, larger than any other
FRAME_NOISE = 0.3
"""Variance of an identity vector between the frames of a clip, divided by that between people. Chosen on acted clips of
five people."""


@dataclass(frozen=True, slots=True, eq=False)
class ObservedRecord:
    """A record and the features of its people that a baseline needs, a few kilobytes.

    Attributes:
        result: The record, with absolute predictions.
        people: Features of each person in the record.
    """

    result: ClipResult
    people: tuple[ClipFeatures, ...]


@dataclass(frozen=True, slots=True)
class BaselineReference:
    """The baseline of one person.

    Attributes:
        kind: `person` for the average over clips, `rest` for the average over clips with a neutral face.
        clips: Number of clips.
        statistics: Average of each statistic, by name.
    """

    kind: BaselineKind
    clips: int
    statistics: Mapping[str, FloatArray]


def number_people(features: Sequence[ClipFeatures], clips: Sequence[int], min_similarity: float) -> NDArray[np.int64]:
    """Number the people of clips as `identify_people` does, by the statistic `IDENTITY` of their features."""
    if not features:
        return np.zeros(0, np.int64)
    vectors = np.stack([person.statistics[IDENTITY] for person in features])
    return identify_people(vectors, clips, [person.count for person in features], min_similarity)


def name_numbers(numbers: Iterable[int]) -> dict[int, str]:
    """Return the name of each number: `person-1` and so on, in order of first appearance."""
    return {number: f"person-{i}" for i, number in enumerate(dict.fromkeys(numbers), 1)}


def identify_people(
    identities: FloatArray, clips: Sequence[int], frames: Sequence[int], min_similarity: float
) -> NDArray[np.int64]:
    """Cluster identity vectors into people, by average linkage of their cosine similarity.

    A mean over many frames has less noise than a single vector, so it must be more similar to count as the same person:
    similarities are corrected for attenuation (Spearman, American Journal of Psychology 15, 1904).

    Two people in one clip are never the same. Vectors are clustered in batches of `CLUSTER_BATCH`: those of a later
    batch join the person with the most similar mean, or are clustered among themselves.

    Args:
        identities: (n, d) mean identity vector of each person in each clip.
        clips: (n,) clip of each vector.
        frames: (n,) number of frames that each vector is the mean of.
        min_similarity: Cosine similarity from which single frames show the same person.

    Returns:
        (n,) ids of people, in order of first appearance.
    """
    units = identities / np.maximum(np.linalg.norm(identities, axis=1, keepdims=True), 1e-12)
    counts = np.asarray(frames)
    units = units / np.sqrt(counts / (counts + FRAME_NOISE))[:, None]  # their dot products are corrected similarities
    threshold = min_similarity * (1 + FRAME_NOISE)
    people = np.full(len(units), -1)
    count = 0
    for start in range(0, len(units), CLUSTER_BATCH):
        rows = np.arange(start, min(start + CLUSTER_BATCH, len(units)))
        if count:
            means = np.stack([units[people == person].mean(axis=0) for person in range(count)])
            similarity = units[rows] @ means.T
            known = similarity.max(axis=1) >= threshold
            people[rows[known]] = similarity.argmax(axis=1)[known]
            rows = rows[~known]
        people[rows] = count + _cluster(units[rows], np.asarray(clips)[rows], threshold)
        count = int(people.max(initial=-1)) + 1
    _separate_people_of_a_clip(people, np.asarray(clips), units)
    _, first, numbers = np.unique(people, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[numbers], np.int64)


def _separate_people_of_a_clip(people: NDArray[np.int64], clips: NDArray[np.int64], units: FloatArray) -> None:
    """Give all but the most similar of several vectors in one clip and cluster an id of their own, in place."""
    members: dict[tuple[int, int], list[int]] = {}
    for row, key in enumerate(zip(people.tolist(), clips.tolist(), strict=True)):
        members.setdefault(key, []).append(row)
    for (person, _), rows in members.items():
        if len(rows) > 1:
            nearest = rows[int((units[rows] @ units[people == person].mean(axis=0)).argmax())]
            for row in rows:
                if row != nearest:
                    people[row] = people.max() + 1


def _cluster(units: FloatArray, clips: NDArray[np.int64], min_similarity: float) -> NDArray[np.int64]:
    """Return the cluster (n,) of each vector by average linkage."""
    from sklearn.cluster import AgglomerativeClustering

    if len(units) < 2:
        return np.zeros(len(units), np.int64)
    max_similarity = 1 + FRAME_NOISE
    distances = np.maximum(max_similarity - units @ units.T, 0)
    distances[clips[:, None] == clips] = SAME_CLIP_DISTANCE
    np.fill_diagonal(distances, 0)
    linkage = AgglomerativeClustering(
        None, metric="precomputed", linkage="average", distance_threshold=max_similarity - min_similarity
    )
    return np.asarray(linkage.fit_predict(distances), np.int64)


def average_people(statistics: Mapping[str, FloatArray], people: NDArray[np.int64]) -> dict[int, BaselineReference]:
    """Return the average over clips of each person with at least `MIN_CLIPS` clips and `MIN_SPREAD` between them.

    Args:
        statistics: By name (n, d), one row for each person in each clip; must include `LOGITS`.
        people: (n,) id of the person in each row.

    Returns:
        Averages by the id of the person.
    """
    references = {}
    for person in np.unique(people):
        is_person = people == person
        logits = statistics[LOGITS][is_person]
        spread = float(np.sqrt(np.square(logits - logits.mean(axis=0)).mean()))
        if len(logits) >= MIN_CLIPS and spread >= MIN_SPREAD:
            references[int(person)] = make_reference("person", statistics, is_person)
    return references


def make_reference(
    kind: BaselineKind, statistics: Mapping[str, FloatArray], mask: NDArray[np.bool_]
) -> BaselineReference:
    """Average the rows of statistics (n, d) where the mask (n,) is true."""
    means = {name: rows[mask].mean(axis=0).astype(np.float32) for name, rows in statistics.items()}
    return BaselineReference(kind, int(mask.sum()), means)


def check_card(card: Mapping[str, Any], kind: BaselineKind | None) -> None:
    """Check that a clip classifier supports a baseline of that kind, or predictions without one (None).

    Raises:
        UsageError: It does not.
    """
    name = card.get("name")
    if card.get("center") == "person":
        if kind != "person":
            raise UsageError(
                f"{name} was trained with --center person and needs the average of each person over all clips of the"
                " run; add --baseline person"
            )
    elif kind is not None:
        if any(not part.startswith("logit.") or ".across_faces." in part for part in card["statistics"]):
            raise UsageError(
                f"{name} was fitted on {', '.join(card['statistics'])}, but a baseline only applies to statistics of"
                " logits; use the shipped emotion8, or train with --statistics logit or --center person"
            )
        if kind not in card.get("average_logits", {}):
            raise UsageError(
                f"the card of {name} has no average_logits for a baseline of kind {kind}; use the shipped emotion8"
            )


def shift_features(
    features: ClipFeatures, reference: BaselineReference | None, card: Mapping[str, Any], kind: BaselineKind
) -> ClipFeatures:
    """Shift the features of a clip by a person's baseline, as a clip classifier expects them.

    For a classifier that was fitted on features centered by person, the person's average is subtracted, or, without
    one, the average of the people in its training data. For other classifiers, logits are shifted so that the person's
    average becomes the usual one of the card.

    Args:
        features: Features of a clip.
        reference: The person's baseline; None leaves features of other classifiers unchanged.
        card: Card of a classifier that passes `check_card`.
        kind: Kind of the baseline.
    """
    if card.get("center") == "person":
        means = reference.statistics if reference else card["average_statistics"]
        shifts = {name: -np.asarray(means[name]) for name in card["statistics"] if is_centered(name)}
    elif reference is None:
        shifts = {}
    else:
        shifts = dict.fromkeys(
            SHIFTED_STATISTICS, np.asarray(card["average_logits"][kind]) - reference.statistics[LOGITS]
        )
    shifted = {
        name: np.asarray(value + shifts[name], np.float32) if name in shifts else value
        for name, value in features.statistics.items()
    }
    return ClipFeatures(shifted, features.count)
