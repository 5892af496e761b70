"""Which frames are worth looking at: few first, more only while the classifier is not sure.

After Savchenko (ICML 2023): a clip is answered from a coarse rate if the classifier is surer than a threshold, which is
fitted so that few clips are answered wrongly above it; else from the next finer one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fervid.core.errors import UsageError
from fervid.core.records import FloatArray

STRIDES = (8, 4, 2)
"""How many times fewer frames the coarse rates have; after the last comes the full rate."""


@dataclass(frozen=True, slots=True)
class ExitLevel:
    """A coarse rate, and how sure an answer from it must be.

    Attributes:
        stride: One of how many frames is looked at.
        confidence: Least probability of the answer; above 1 none is sure enough.
    """

    stride: int
    confidence: float

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise ValueError(f"a stride is 1 or more, not {self.stride}")


def exit_levels(card: Mapping[str, Any]) -> tuple[ExitLevel, ...]:
    """The levels in the card of a classifier, the coarsest first.

    Raises:
        UsageError: It was fitted without.
    """
    if "adaptive" not in card:
        raise UsageError(f"{card.get('name')} was fitted without --adaptive; fit it with, or leave --adaptive out")
    return tuple(ExitLevel(int(level["stride"]), float(level["confidence"])) for level in card["adaptive"]["levels"])


def confidence_threshold(confidence: FloatArray, right: NDArray[np.bool_], error: float) -> float:
    """The smallest confidence above which no more than a share `error` of all clips is answered wrongly.

    Args:
        confidence: (n,) of the answers; -inf for clips without one.
        right: (n,) whether they are true.
        error: Share of all n clips.

    Returns:
        A confidence, 0 or more; 1.01, which none reaches, if there are no clips.
    """
    order = np.argsort(-confidence, kind="stable")
    wrong = np.cumsum(~right[order])
    spoiled = np.flatnonzero(wrong > error * len(order))
    least = float(confidence[order[spoiled[0]]]) + 1e-6 if len(spoiled) else 0.0
    return max(0.0, least) if len(order) else 1.01


def fit_thresholds(
    confidences: Sequence[FloatArray], right: Sequence[NDArray[np.bool_]], counts: NDArray[np.int64], error: float
) -> dict[str, Any]:
    """Thresholds for a card, and what they did to the clips that they were set on.

    Args:
        confidences: (n,) of the answers at each of `STRIDES` and at the full rate.
        right: (n,) whether each answer is true.
        counts: (n,) frames of each clip at the full rate.
        error: Share of the clips that may be answered wrongly from each of the coarse rates.
    """
    exact = [confidence_threshold(sure, true, error) for sure, true in zip(confidences[:-1], right[:-1], strict=True)]
    least = [math.ceil(confidence * 1e4) / 1e4 for confidence in exact]  # rounded down it would let others through
    rates = [ExitLevel(stride, confidence) for stride, confidence in zip(STRIDES, least, strict=True)]
    found = early_exit_metrics(rates, confidences, right, counts)
    return {"levels": [asdict(rate) for rate in rates], "error": error, **found}


def early_exit_metrics(
    rates: Sequence[ExitLevel],
    confidences: Sequence[FloatArray],
    right: Sequence[NDArray[np.bool_]],
    counts: NDArray[np.int64],
) -> dict[str, float]:
    """What thresholds do to clips: the share of frames that is looked at, and the accuracy with them and with all.

    Args:
        rates: The coarse ones.
        confidences: (n,) of the answers at each of them and at the full rate.
        right: (n,) whether each answer is true.
        counts: (n,) frames of each clip at the full rate.
    """
    level = exit_level_of(confidences[:-1], [rate.confidence for rate in rates])
    frames = np.ceil(counts / np.array([*(rate.stride for rate in rates), 1])[level])
    answered = np.stack(right)[level, np.arange(len(level))]
    return {
        "share of frames": round(float(frames.sum() / counts.sum()), 4),
        "accuracy": round(float(answered.mean()), 4),
        "accuracy of all frames": round(float(right[-1].mean()), 4),
    }


def exit_level_of(confidences: Sequence[FloatArray], thresholds: Sequence[float]) -> NDArray[np.int64]:
    """(n,) number of the level from which each clip is answered; `len(thresholds)` is the full rate.

    Args:
        confidences: (n,) for each level.
        thresholds: Of each level.
    """
    sure = [confidence >= least for confidence, least in zip(confidences, thresholds, strict=True)]
    always = np.ones(len(confidences[0]), bool)
    return np.asarray(np.stack([*sure, always]).argmax(axis=0), np.int64)
