"""Answers relative to what each person shows on average, or at rest: who is who across clips, and what moves features.

People differ at rest, and the same logits say more against a person's own average. That is the participant calibration
of FaceReader (Noldus), without a label. It assumes that the clips of a person are not all of one emotion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fervid.analysis.clip_classifier import is_centered
from fervid.core.errors import UsageError
from fervid.core.records import ClipFeatures, FloatArray

Kind = Literal["person", "rest"]

LOGITS = "logit.mean"
MOVED = ("logit.mean", "logit.min", "logit.max")
"""The statistics of logits that say where they lie; the standard deviation is relative to a person already."""
MIN_CLIPS = 5
MIN_SPREAD = 0.2
"""Root mean square over clips and classes of the distance of logits from a person's average, below which the clips are
too alike for their average to be a baseline."""
GROUPED_AT_ONCE = 4000  # people in clips, whose distances to each other take 128 MB
APART = 4.0  # cosine distance, above any, of people in one clip
FRAME_NOISE = 0.3
"""Variance of an identity vector between frames of a clip, in that between people; chosen on acted clips of five."""


@dataclass(frozen=True, slots=True)
class BaselineReference:
    """What a person's answers are relative to.

    Attributes:
        kind: `person`, the average over clips, or `rest`, that over clips in which the person is at rest.
        clips: How many.
        statistics: The average of each statistic, by name.
    """

    kind: Kind
    clips: int
    statistics: Mapping[str, FloatArray]


def identify_people(
    identities: FloatArray, clips: Sequence[int], frames: Sequence[int], min_similarity: float
) -> NDArray[np.int64]:
    """Who is the same person, by average linkage of the cosines of identity vectors.

    A mean over many frames says more surely who somebody is than that of one, and so has to be more alike: cosines are
    corrected for attenuation (Spearman, American Journal of Psychology 15, 1904).

    Two people in one clip are never the same. Beyond `GROUPED_AT_ONCE` people, further ones join the group whose mean
    is most alike, or are grouped among themselves.

    Args:
        identities: (n, d) a mean vector for each person in a clip.
        clips: (n,) the clip that each is in.
        frames: (n,) of how many frames each vector is the mean.
        min_similarity: Cosine from which two single frames show one person.

    Returns:
        (n,) numbers of people, by first appearance.
    """
    units = identities / np.maximum(np.linalg.norm(identities, axis=1, keepdims=True), 1e-12)
    counts = np.asarray(frames)
    units = units / np.sqrt(counts / (counts + FRAME_NOISE))[:, None]  # products of these are corrected cosines
    least = min_similarity * (1 + FRAME_NOISE)
    found = np.full(len(units), -1)
    count = 0
    for start in range(0, len(units), GROUPED_AT_ONCE):
        rows = np.arange(start, min(start + GROUPED_AT_ONCE, len(units)))
        if count:
            means = np.stack([units[found == person].mean(axis=0) for person in range(count)])
            similarity = units[rows] @ means.T
            for row, nearest in zip(rows, similarity.argmax(axis=1), strict=True):
                if similarity[row - start, nearest] >= least:
                    found[row] = nearest
            rows = rows[found[rows] < 0]
        found[rows] = count + _link(units[rows], np.asarray(clips)[rows], least)
        count = int(found.max(initial=-1)) + 1
    _, first, numbers = np.unique(found, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[numbers], np.int64)


def _link(units: FloatArray, clips: NDArray[np.int64], min_similarity: float) -> NDArray[np.int64]:
    from sklearn.cluster import AgglomerativeClustering

    if len(units) < 2:
        return np.zeros(len(units), np.int64)
    largest = 1 + FRAME_NOISE
    distances = np.maximum(largest - units @ units.T, 0)
    distances[clips[:, None] == clips] = APART
    np.fill_diagonal(distances, 0)
    linkage = AgglomerativeClustering(
        None, metric="precomputed", linkage="average", distance_threshold=largest - min_similarity
    )
    return np.asarray(linkage.fit_predict(distances), np.int64)


def average_people(statistics: Mapping[str, FloatArray], people: NDArray[np.int64]) -> dict[int, BaselineReference]:
    """Each person's average over clips, of those with at least `MIN_CLIPS` clips that differ enough.

    Args:
        statistics: By name (n, d), of a person in a clip; `LOGITS` among them.
        people: (n,) who it is.
    """
    references = {}
    for person in np.unique(people):
        chosen = people == person
        logits = statistics[LOGITS][chosen]
        spread = float(np.sqrt(np.square(logits - logits.mean(axis=0)).mean()))
        if len(logits) >= MIN_CLIPS and spread >= MIN_SPREAD:
            references[int(person)] = make_reference("person", statistics, chosen)
    return references


def make_reference(kind: Kind, statistics: Mapping[str, FloatArray], chosen: NDArray[np.bool_]) -> BaselineReference:
    """The average of the chosen rows (n,) of statistics (n, d)."""
    means = {name: rows[chosen].mean(axis=0).astype(np.float32) for name, rows in statistics.items()}
    return BaselineReference(kind, int(chosen.sum()), means)


def check_card(card: Mapping[str, Any], kind: Kind | None) -> None:
    """Whether a clip classifier can be asked relative to a baseline of that kind, or without one.

    Raises:
        UsageError: It cannot.
    """
    name = card.get("name")
    if card.get("center") == "person":
        if kind != "person":
            raise UsageError(
                f"{name} was trained with --center person and needs the mean of each person over all clips that are"
                " answered together; add --baseline person"
            )
    elif kind is not None:
        if any(not part.startswith("logit.") or ".spread." in part for part in card["statistics"]):
            raise UsageError(
                f"{name} was fitted on {', '.join(card['statistics'])}, and a baseline moves statistics of logits"
                " alone; take the shipped emotion8, or train with --statistics logit or --center person"
            )
        if kind not in card.get("usual_logits", {}):
            raise UsageError(f"the card of {name} does not say what is usual for a baseline of that kind ({kind})")


def move_features(
    features: ClipFeatures, reference: BaselineReference | None, card: Mapping[str, Any], kind: Kind
) -> ClipFeatures:
    """Features relative to a person, as a clip classifier takes them.

    One that was fitted on features centred by person gets them less the person's average, or less that of the people
    it was fitted on if the person has none. For others a person's average logits are moved to the usual ones.

    Args:
        features: Of a clip.
        reference: Of the person; None if there is none.
        card: Of a classifier that `check_card` finds no fault with.
        kind: Of the baseline.
    """
    if card.get("center") == "person":
        means = reference.statistics if reference else card["usual_statistics"]
        steps = {name: -np.asarray(means[name]) for name in card["statistics"] if is_centered(name)}
    elif reference is None:
        steps = {}
    else:
        steps = dict.fromkeys(MOVED, np.asarray(card["usual_logits"][kind]) - reference.statistics[LOGITS])
    moved = {
        name: np.asarray(value + steps[name], np.float32) if name in steps else value
        for name, value in features.statistics.items()
    }
    return ClipFeatures(moved, features.count)
