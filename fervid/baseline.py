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

from fervid.errors import UsageError
from fervid.records import ClipFeatures, Floats

Kind = Literal["person", "rest"]

LOGITS = "logit.mean"
MOVED = ("logit.mean", "logit.min", "logit.max")
"""The statistics that are relative to a person; the others are of differences already, or are not about expressions."""
MIN_CLIPS = 5
MIN_SPREAD = 0.4
"""Root mean square over clips and classes of the distance of logits from a person's average, below which the clips are
too alike for their average to be a baseline."""
GROUPED_AT_ONCE = 4000  # people in clips, whose distances to each other take 128 MB
APART = 4.0  # cosine distance, above any, of people in one clip


@dataclass(frozen=True, slots=True)
class BaselineReference:
    """What a person's answers are relative to.

    Attributes:
        kind: `person`, the average over clips, or `rest`, that over clips in which the person is at rest.
        clips: How many.
        logits: (c,) the average.
    """

    kind: Kind
    clips: int
    logits: Floats


def identify_people(identities: Floats, clips: Sequence[int], min_similarity: float) -> NDArray[np.int64]:
    """Who is the same person, by average linkage of the cosines of identity vectors.

    Two people in one clip are never the same. Beyond `GROUPED_AT_ONCE` people, further ones join the group whose mean
    is most alike, or are grouped among themselves.

    Args:
        identities: (n, d) a mean vector for each person in a clip.
        clips: (n,) the clip that each is in.
        min_similarity: Cosine from which two are one person.

    Returns:
        (n,) numbers of people, by first appearance.
    """
    units = identities / np.maximum(np.linalg.norm(identities, axis=1, keepdims=True), 1e-12)
    found = np.full(len(units), -1)
    count = 0
    for start in range(0, len(units), GROUPED_AT_ONCE):
        rows = np.arange(start, min(start + GROUPED_AT_ONCE, len(units)))
        if count:
            means = np.stack([units[found == person].mean(axis=0) for person in range(count)])
            similarity = units[rows] @ means.T
            for row, nearest in zip(rows, similarity.argmax(axis=1), strict=True):
                if similarity[row - start, nearest] >= min_similarity:
                    found[row] = nearest
            rows = rows[found[rows] < 0]
        found[rows] = count + _link(units[rows], np.asarray(clips)[rows], min_similarity)
        count = int(found.max(initial=-1)) + 1
    _, first, numbers = np.unique(found, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[numbers], np.int64)


def _link(units: Floats, clips: NDArray[np.int64], min_similarity: float) -> NDArray[np.int64]:
    from sklearn.cluster import AgglomerativeClustering

    if len(units) < 2:
        return np.zeros(len(units), np.int64)
    distances = 1 - units @ units.T
    distances[clips[:, None] == clips] = APART
    np.fill_diagonal(distances, 0)
    linkage = AgglomerativeClustering(
        None, metric="precomputed", linkage="average", distance_threshold=1 - min_similarity
    )
    return np.asarray(linkage.fit_predict(distances), np.int64)


def average_logits(logits: Floats, people: NDArray[np.int64]) -> dict[int, BaselineReference]:
    """Each person's average over clips, of those with at least `MIN_CLIPS` clips that differ enough.

    Args:
        logits: (n, c) means of a person over a clip.
        people: (n,) who it is.
    """
    references = {}
    for person in np.unique(people):
        rows = logits[people == person]
        spread = float(np.sqrt(np.square(rows - rows.mean(axis=0)).mean()))
        if len(rows) >= MIN_CLIPS and spread >= MIN_SPREAD:
            references[int(person)] = BaselineReference("person", len(rows), rows.mean(axis=0).astype(np.float32))
    return references


def usual_logits(card: Mapping[str, Any], kind: Kind) -> Floats:
    """(c,) what the people show on average, or at rest, on whom a classifier was fitted.

    Args:
        card: Of the classifier.
        kind: Of the baseline.

    Raises:
        UsageError: The classifier does not take logits, or its card does not say.
    """
    if any(not name.startswith("logit.") or ".spread." in name for name in card["statistics"]):
        raise UsageError(
            f"{card['name']} was fitted on {', '.join(card['statistics'])}, and a baseline moves statistics of logits"
            " alone; take the shipped emotion8, or train with --statistics logit"
        )
    usual = card.get("usual_logits", {}).get(kind)
    if usual is None:
        raise UsageError(f"the card of {card['name']} does not say what is usual for a baseline of that kind ({kind})")
    return np.asarray(usual, np.float32)


def move_features(features: ClipFeatures, reference: Floats, usual: Floats) -> ClipFeatures:
    """Features as if the person's average were the usual one.

    Args:
        features: Of a clip.
        reference: (c,) logits of the person.
        usual: (c,) logits to which they are moved.
    """
    step = np.asarray(usual - reference, np.float32)
    statistics = {name: value + step if name in MOVED else value for name, value in features.statistics.items()}
    return ClipFeatures(statistics, features.count)
