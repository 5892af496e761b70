"""Exit thresholds accept few wrong predictions, and the card states how many frames they save."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fervid.analysis.early_exit import (
    STRIDES,
    ExitLevel,
    confidence_threshold,
    exit_level_of,
    exit_levels,
    fit_thresholds,
)
from fervid.core.errors import UsageError

NONE = -np.inf  # confidence of clips without a prediction


def confidence(*confidences: float) -> np.ndarray:
    return np.array(confidences, np.float32)


def correct(*flags: int) -> np.ndarray:
    return np.array(flags, bool)


def test_levels_are_read_from_card() -> None:
    card = {"early_exit": {"levels": [{"stride": 8, "confidence": 0.9}, {"stride": 2, "confidence": 1.01}]}}
    assert exit_levels(card) == (ExitLevel(8, 0.9), ExitLevel(2, 1.01))
    assert exit_levels({"early_exit": {"levels": []}}) == ()


def test_classifier_without_levels_is_refused() -> None:
    with pytest.raises(UsageError, match=r"mine .*--adaptive"):
        exit_levels({"name": "mine", "labels": ["a", "b"]})


@pytest.mark.parametrize("stride", [0])
def test_stride_below_one_is_refused(stride: int) -> None:
    with pytest.raises(ValueError, match=f"stride .*{stride}"):
        exit_levels({"early_exit": {"levels": [{"stride": stride, "confidence": 0.9}]}})


THRESHOLDS = {
    "no clips": ([], [], 0.5, []),
    "one wrong": ([0.9], [0], 0, []),
    "all right": ([0.9, 0.8, 0.7, 0.6], [1, 1, 1, 1], 0, [0.9, 0.8, 0.7, 0.6]),
    "one wrong of four": ([0.6, 0.8, 0.7, 0.9], [1, 0, 1, 1], 0, [0.9]),
    "just too many": ([0.6, 0.8, 0.7, 0.9], [1, 0, 1, 1], 0.24, [0.9]),
    "just few enough": ([0.6, 0.8, 0.7, 0.9], [1, 0, 1, 1], 0.25, [0.9, 0.8, 0.7, 0.6]),
    "down to the second": ([0.6, 0.8, 0.7, 0.9], [0, 0, 1, 1], 0.25, [0.9, 0.8, 0.7]),
    "the surest is wrong": ([0.9, 0.8, 0.7], [0, 1, 1], 0, []),
    "a wrong one as sure as a right one": ([0.9, 0.8, 0.8, 0.7], [1, 1, 0, 1], 0, [0.9]),
    "no answer is not a wrong one": ([0.9, NONE, NONE], [1, 0, 0], 0, [0.9]),
    "no answer below a wrong one": ([0.9, 0.8, NONE], [1, 0, 0], 0.34, [0.9, 0.8]),
}


@pytest.mark.parametrize(("confidences", "right", "error", "passing"), THRESHOLDS.values(), ids=THRESHOLDS)
def test_threshold_accepts_as_many_as_error_allows(
    confidences: list[float], right: list[int], error: float, passing: list[float]
) -> None:
    threshold = confidence_threshold(confidence(*confidences), correct(*right), error)
    assert sorted((c for c in confidence(*confidences) if c >= threshold), reverse=True) == pytest.approx(passing)


def test_without_clips_nothing_is_accepted() -> None:
    assert confidence_threshold(confidence(), correct(), 1) > 1


@pytest.mark.parametrize("seed", range(3))
def test_threshold_is_smallest_valid_one(seed: int) -> None:
    random = np.random.default_rng(seed)
    confidences = random.choice(np.linspace(0.1, 1, 30), 60).astype(np.float32)
    right = random.random(60) < confidences
    for error in (0, 0.02, 0.1, 0.3):
        threshold = confidence_threshold(confidences, right, error)
        assert (~right[confidences >= threshold]).sum() <= error * 60
        for lower in confidences[confidences < threshold]:
            assert (~right[confidences >= lower]).sum() > error * 60


@pytest.mark.parametrize(
    ("confidences", "thresholds", "levels"),
    [
        ([[0.9, 0.5], [0.9, 0.8]], [0.8, 0.7], [0, 1]),
        ([[0.5, 0.5], [0.6, 0.6]], [0.8, 0.7], [2, 2]),
        ([[0.8, 0.7999]], [0.8], [0, 1]),
        ([[NONE, NONE], [NONE, 0.1]], [0, 0], [2, 1]),
        ([[1.0], [1.0]], [1.01, 1.0], [1]),
    ],
)
def test_clip_exits_at_first_confident_level(
    confidences: list[list[float]], thresholds: list[float], levels: list[int]
) -> None:
    assert exit_level_of([np.array(c) for c in confidences], thresholds).tolist() == levels


def three(*coarse: list[float], full: list[float]) -> list[np.ndarray]:
    return [confidence(*confidences) for confidences in (*coarse, full)]


def test_card_states_effect_of_thresholds() -> None:
    unsure = [0.5, 0.5, 0.5, 0.4]
    confidences = three([0.95, 0.5, 0.5, 0.4], [0.95, 0.9, 0.5, 0.4], unsure, full=unsure)
    right = [correct(1, 0, 0, 0), correct(1, 1, 0, 0), correct(0, 0, 0, 0), correct(1, 1, 1, 0)]
    card = fit_thresholds(confidences, right, np.array([16, 8, 10, 3]), 0.0)
    assert [level["stride"] for level in card["levels"]] == list(STRIDES)
    assert card["error"] == 0
    assert card["accuracy"] == card["full_rate_accuracy"] == 0.75
    assert card["frame_fraction"] == pytest.approx((2 + 2 + 10 + 3) / 37, abs=1e-4)


def test_correct_predictions_exit_at_lowest_rate() -> None:
    always = [confidence(0.4, 0.9)] * 4
    card = fit_thresholds(always, [correct(1, 1)] * 4, np.array([17, 16]), 0.0)
    assert [level["confidence"] for level in card["levels"]] == [0, 0, 0]
    assert card["frame_fraction"] == pytest.approx((3 + 2) / 33, abs=1e-4)


def test_clip_without_face_goes_on_to_next_level() -> None:
    confidences = three([NONE, NONE], [NONE, 0.9], [NONE, 0.9], full=[0.6, 0.9])
    right = [correct(0, 0), correct(0, 1), correct(0, 1), correct(1, 1)]
    card = fit_thresholds(confidences, right, np.array([8, 8]), 0.0)
    assert all(level["confidence"] >= 0 for level in card["levels"])
    assert (card["accuracy"], card["frame_fraction"]) == (1, (8 + 2) / 16)
    assert json.loads(json.dumps(card, allow_nan=False)) == card


@pytest.mark.parametrize("wrong", [0.87654321, 0.99999, 1.0])
def test_rounded_threshold_is_as_strict(wrong: float) -> None:
    coarse = confidence(wrong, 0.3)
    card = fit_thresholds([coarse] * 4, [correct(0, 1)] * 4, np.array([8, 8]), 0.0)
    for level in exit_levels({"early_exit": card}):
        assert not (coarse >= level.confidence).any()
        assert level.confidence == pytest.approx(wrong, abs=3e-4)
