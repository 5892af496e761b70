"""Early exit: classify a clip from few frames, and from more only while the classifier is not confident.

After Savchenko (ICML 2023): the prediction at a low frame rate is accepted if its confidence reaches a threshold, which
is fitted so that few accepted predictions are wrong; otherwise the next higher frame rate is tried.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fervid.core.errors import UsageError
from fervid.core.records import FloatArray, check

STRIDES = (8, 4, 2)  # factors by which the levels reduce the frame rate; after the last comes the full rate


@dataclass(frozen=True, slots=True)
class ExitLevel:
    """A reduced frame rate and the confidence that a prediction at that rate needs.

    Attributes:
        stride: Factor by which the frame rate is reduced.
        confidence: Minimum probability of the predicted label; above 1 no prediction is accepted.
    """

    stride: int
    confidence: float

    def __post_init__(self) -> None:
        check(self.stride >= 1, f"stride must be 1 or more, not {self.stride}")


def exit_levels(card: Mapping[str, Any]) -> tuple[ExitLevel, ...]:
    """Read the exit levels from the card of a classifier, the lowest frame rate first.

    Raises:
        UsageError: The classifier was trained without them.
    """
    if "early_exit" not in card:
        raise UsageError(
            f"{card.get('name')} has no early exits; train it with --early-exit-error, or leave out --adaptive"
        )
    return tuple(ExitLevel(int(level["stride"]), float(level["confidence"])) for level in card["early_exit"]["levels"])


def confidence_threshold(confidences: FloatArray, correct: NDArray[np.bool_], max_error: float) -> float:
    """Compute the smallest threshold at which few of the accepted predictions are wrong.

    Args:
        confidences: (n,) confidence of each prediction; -inf for clips without one.
        correct: (n,) whether each prediction is correct.
        max_error: Maximum number of accepted wrong predictions, as a fraction of all n clips.

    Returns:
        A confidence of 0 or more; 1.01, which no prediction reaches, if there are no clips.
    """
    order = np.argsort(-confidences, kind="stable")
    if not len(order):
        return 1.01
    errors = np.cumsum(~correct[order])
    excess = np.flatnonzero(errors > max_error * len(order))
    return max(0.0, float(confidences[order[excess[0]]]) + 1e-6) if len(excess) else 0.0


def fit_thresholds(
    confidences: Sequence[FloatArray], correct: Sequence[NDArray[np.bool_]], counts: NDArray[np.int64], max_error: float
) -> dict[str, Any]:
    """Fit the thresholds of a classifier's card, and measure them on the same clips.

    Args:
        confidences: (n,) confidence of each prediction, at each of `STRIDES` and at the full rate.
        correct: (n,) whether each prediction is correct, likewise.
        counts: (n,) number of frames of each clip at the full rate.
        max_error: Maximum fraction of the clips with a wrong prediction that each reduced rate may accept.

    Returns:
        The entry `early_exit` of the card.
    """
    levels = []
    for stride, confidence, right in zip(STRIDES, confidences[:-1], correct[:-1], strict=True):
        threshold = confidence_threshold(confidence, right, max_error)
        threshold = math.ceil(threshold * 1e4) / 1e4  # rounded up, so that no further prediction is accepted
        levels.append(ExitLevel(stride, threshold))
    metrics = early_exit_metrics(levels, confidences, correct, counts)
    return {"levels": [asdict(level) for level in levels], "error": max_error, **metrics}


def early_exit_metrics(
    levels: Sequence[ExitLevel],
    confidences: Sequence[FloatArray],
    correct: Sequence[NDArray[np.bool_]],
    counts: NDArray[np.int64],
) -> dict[str, float]:
    """Measure the fraction of frames analysed, and the accuracy with early exit and at the full rate.

    Args:
        levels: The reduced frame rates with their thresholds.
        confidences: (n,) confidence of each prediction, at each level and at the full rate.
        correct: (n,) whether each prediction is correct, likewise.
        counts: (n,) number of frames of each clip at the full rate.
    """
    exits = exit_level_of(confidences[:-1], [level.confidence for level in levels])
    frames = np.ceil(counts / np.array([*(level.stride for level in levels), 1])[exits])
    correct_at_exit = np.stack(correct)[exits, np.arange(len(exits))]
    return {
        "frame_fraction": round(float(frames.sum() / counts.sum()), 4),
        "accuracy": round(float(correct_at_exit.mean()), 4),
        "full_rate_accuracy": round(float(correct[-1].mean()), 4),
    }


def exit_level_of(confidences: Sequence[FloatArray], thresholds: Sequence[float]) -> NDArray[np.int64]:
    """Find the first level that accepts the prediction of each clip.

    Args:
        confidences: (n,) confidence of each prediction, at each level.
        thresholds: Threshold of each level.

    Returns:
        (n,) index of the level; `len(thresholds)` is the full rate.
    """
    accepted = [confidence >= threshold for confidence, threshold in zip(confidences, thresholds, strict=True)]
    full_rate = np.ones(len(confidences[0]), bool)
    return np.asarray(np.stack([*accepted, full_rate]).argmax(axis=0), np.int64)
