"""Thresholds let few wrong answers through, and say so exactly in the card."""

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

NONE = -np.inf  # the confidence where there is no answer


def sure(*confidences: float) -> np.ndarray:
    return np.array(confidences, np.float32)


def true(*answers: int) -> np.ndarray:
    return np.array(answers, bool)


def test_the_levels_are_those_of_the_card() -> None:
    card = {"adaptive": {"levels": [{"stride": 8, "confidence": 0.9}, {"stride": 2, "confidence": 1.01}]}}
    assert exit_levels(card) == (ExitLevel(8, 0.9), ExitLevel(2, 1.01))
    assert exit_levels({"adaptive": {"levels": []}}) == ()


def test_a_classifier_without_levels_is_refused_and_named() -> None:
    with pytest.raises(UsageError, match="mine was fitted without --adaptive; fit it with"):
        exit_levels({"name": "mine", "labels": ["a", "b"]})


@pytest.mark.parametrize("stride", [0, -2])
def test_a_stride_that_cannot_be_is_refused(stride: int) -> None:
    with pytest.raises(ValueError, match=f"1 or more, not {stride}"):
        exit_levels({"adaptive": {"levels": [{"stride": stride, "confidence": 0.9}]}})


@pytest.mark.parametrize(
    ("confidences", "right", "error", "passing"),
    [
        ([], [], 0.5, []),
        ([0.9], [1], 0, [0.9]),
        ([0.9], [0], 0, []),
        ([0.9], [0], 1, [0.9]),
        ([0.9, 0.8, 0.7, 0.6], [1, 1, 1, 1], 0, [0.9, 0.8, 0.7, 0.6]),
        ([0.6, 0.8, 0.7, 0.9], [1, 0, 1, 1], 0, [0.9]),
        ([0.6, 0.8, 0.7, 0.9], [1, 0, 1, 1], 0.24, [0.9]),
        ([0.6, 0.8, 0.7, 0.9], [1, 0, 1, 1], 0.25, [0.9, 0.8, 0.7, 0.6]),
        ([0.6, 0.8, 0.7, 0.9], [0, 0, 1, 1], 0.25, [0.9, 0.8, 0.7]),
        ([0.9, 0.8, 0.7], [0, 1, 1], 0, []),
        ([0.9, 0.8, 0.8, 0.7], [1, 1, 0, 1], 0, [0.9]),
        ([0.9, 0.8, 0.8, 0.7], [1, 0, 1, 1], 0, [0.9]),
        ([1, 1], [1, 0], 0, []),
        ([0.9, NONE, NONE], [1, 0, 0], 0, [0.9]),
        ([0.9, 0.8, NONE], [1, 0, 0], 0.34, [0.9, 0.8]),
        ([NONE], [0], 0, []),
    ],
    ids=[
        "no clips",
        "one right",
        "one wrong",
        "all may be wrong",
        "all right",
        "one wrong of four",
        "just too many",
        "just few enough",
        "down to the second",
        "the surest is wrong",
        "a wrong one as sure as a right one",
        "in whatever order",
        "surest of all and wrong",
        "no answer is not a wrong one",
        "no answer below a wrong one",
        "no answer at all",
    ],
)
def test_as_many_pass_as_can_without_too_many_wrong(
    confidences: list[float], right: list[int], error: float, passing: list[float]
) -> None:
    least = confidence_threshold(sure(*confidences), true(*right), error)
    assert sorted((c for c in sure(*confidences) if c >= least), reverse=True) == pytest.approx(passing)


def test_without_clips_nothing_is_sure_enough() -> None:
    assert confidence_threshold(sure(), true(), 1) > 1


@pytest.mark.parametrize("seed", range(10))
def test_a_threshold_keeps_its_promise_and_no_smaller_one_does(seed: int) -> None:
    random = np.random.default_rng(seed)
    confidence = random.choice(np.linspace(0.1, 1, 30), 60).astype(np.float32)
    right = random.random(60) < confidence
    for error in (0, 0.02, 0.1, 0.3):
        least = confidence_threshold(confidence, right, error)
        assert (~right[confidence >= least]).sum() <= error * 60
        for lower in confidence[confidence < least]:
            assert (~right[confidence >= lower]).sum() > error * 60


@pytest.mark.parametrize(
    ("confidences", "thresholds", "found"),
    [
        ([[0.9, 0.5], [0.9, 0.8]], [0.8, 0.7], [0, 1]),
        ([[0.5, 0.5], [0.6, 0.6]], [0.8, 0.7], [2, 2]),
        ([[0.8, 0.7999]], [0.8], [0, 1]),
        ([[NONE, NONE], [NONE, 0.1]], [0, 0], [2, 1]),
        ([[1.0], [1.0]], [1.01, 1.0], [1]),
    ],
)
def test_a_clip_stops_at_the_first_level_that_is_sure_enough(
    confidences: list[list[float]], thresholds: list[float], found: list[int]
) -> None:
    assert exit_level_of([np.array(c) for c in confidences], thresholds).tolist() == found


def three(*coarse: list[float], full: list[float]) -> list[np.ndarray]:
    return [sure(*confidences) for confidences in (*coarse, full)]


def test_what_is_fitted_tells_what_it_did() -> None:
    unsure = [0.5, 0.5, 0.5, 0.4]
    confidences = three([0.95, 0.5, 0.5, 0.4], [0.95, 0.9, 0.5, 0.4], unsure, full=unsure)
    right = [true(1, 0, 0, 0), true(1, 1, 0, 0), true(0, 0, 0, 0), true(1, 1, 1, 0)]
    card = fit_thresholds(confidences, right, np.array([16, 8, 10, 3]), 0.0)
    assert [level["stride"] for level in card["levels"]] == list(STRIDES)
    assert card["error"] == 0
    assert card["accuracy"] == card["accuracy of all frames"] == 0.75
    assert card["share of frames"] == pytest.approx((2 + 2 + 10 + 3) / 37, abs=1e-4)


def test_answers_that_are_always_right_need_the_fewest_frames() -> None:
    always = [sure(0.4, 0.9)] * 4
    card = fit_thresholds(always, [true(1, 1)] * 4, np.array([17, 16]), 0.0)
    assert [level["confidence"] for level in card["levels"]] == [0, 0, 0]
    assert card["share of frames"] == pytest.approx((3 + 2) / 33, abs=1e-4)


def test_clips_that_show_no_face_at_a_coarse_rate_go_on_to_a_finer_one() -> None:
    confidences = three([NONE, NONE], [NONE, 0.9], [NONE, 0.9], full=[0.6, 0.9])
    right = [true(0, 0), true(0, 1), true(0, 1), true(1, 1)]
    card = fit_thresholds(confidences, right, np.array([8, 8]), 0.0)
    assert all(level["confidence"] >= 0 for level in card["levels"])
    assert (card["accuracy"], card["share of frames"]) == (1, (8 + 2) / 16)
    assert json.loads(json.dumps(card, allow_nan=False)) == card


@pytest.mark.parametrize("wrong", [0.87654321, 0.99999, 0.5, 1.0])
def test_the_threshold_in_the_card_is_as_strict_as_the_fitted_one(wrong: float) -> None:
    coarse = sure(wrong, 0.3)
    card = fit_thresholds([coarse] * 4, [true(0, 1)] * 4, np.array([8, 8]), 0.0)
    for level in exit_levels({"adaptive": card}):
        assert not (coarse >= level.confidence).any()
        assert level.confidence == pytest.approx(wrong, abs=3e-4)
