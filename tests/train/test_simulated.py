"""Clips that are simulated from stills move as a video would, and the classifier on them is what was fitted."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import onnxruntime
import pytest

import clips
from fervid.align import crop
from fervid.detect import Detector
from fervid.records import Face, FaceScores
from fervid.train import clips as simulated
from fervid.train import degrade, ferplus
from fervid.train.faces import Sources
from fervid.train.measure import recall, report

FACE = Face((4, 6, 44, 46), np.array([[14, 20], [34, 20], [24, 30]], np.float32), 0.9)


def test_stills_of_rare_classes_are_used_again_up_to_the_cap(sources: Sources, detector: Detector) -> None:
    train = ferplus.read_split(sources.ferplus, "Training", detector)
    chosen = simulated.choose(train, 2, 3, np.random.default_rng(0))
    assert np.bincount(chosen, minlength=8).tolist() == [2, 0, 2, 2, 2, 2, 2, 2], "one has no majority"
    assert train.labels[chosen].tolist() == sorted(train.labels[chosen])
    assert len(simulated.choose(train, 9, 3, np.random.default_rng(0))) == 7 * 3


def test_a_simulated_clip_moves_smoothly_and_keeps_the_face_in_the_crop() -> None:
    image = cv2.resize(clips.portrait(160, 160, 1.2, 222, 118), (48, 48), interpolation=cv2.INTER_AREA)
    views = [crop(*view, 48) for view in degrade.clip(image, FACE, 24, np.random.default_rng(5))]
    steps = [np.abs(a.astype(int) - b).mean() for a, b in itertools.pairwise(views)]
    assert max(steps) < 12
    assert np.abs(views[0].astype(int) - views[12]).mean() > 2
    again = [crop(*view, 48) for view in degrade.clip(image, FACE, 24, np.random.default_rng(5))]
    np.testing.assert_array_equal(views, again)


def test_the_detector_that_errs_is_followed_by_the_landmarks() -> None:
    still = dict.fromkeys(("x", "y", "scale", "roll"), 0.0)
    moved = degrade._moved(FACE, still | {"x": 0.1}, 2.0)
    assert moved.box == pytest.approx((16, 12, 96, 92))
    turned = degrade._moved(FACE, still | {"roll": 10.0}, 1.0)
    eyes = turned.landmarks[1] - turned.landmarks[0]
    assert np.rad2deg(np.arctan2(eyes[1], eyes[0])) == pytest.approx(10)


def test_an_onset_starts_near_neutral_and_ends_at_the_expression() -> None:
    classes = len(ferplus.CLASSES)
    means = np.arange(classes * 4, dtype=np.float32).reshape(classes, 4)
    weight = np.random.default_rng(0).normal(0, 0.1, (classes, 4)).astype(np.float32)
    embedding = np.tile(means[4], (24, 1))
    flat = np.full((24, classes), 1 / classes, np.float32)
    nothing = np.zeros(24, np.float32)
    scores = FaceScores(embedding, flat, nothing, nothing, np.zeros((24, 5), np.float32), embedding)
    shown = simulated.Onset(means, weight)(scores, 4, np.random.default_rng(1))
    neutral = means[ferplus.CLASSES.index("neutral")]
    distance = np.linalg.norm(shown.embedding - neutral, axis=1)
    assert distance[0] < distance[-1]
    np.testing.assert_allclose(shown.embedding[-1], means[4], atol=0.05)
    np.testing.assert_allclose(shown.expression.sum(axis=1), 1, atol=1e-5)


def test_recall_and_intervals_on_hand_made_answers() -> None:
    labels = np.array([0, 0, 1, 1, 1, 1])
    answers = np.array([0, 1, 1, 1, 1, 0])
    np.testing.assert_allclose(recall(answers, labels), [0.5, 0.75])
    figures = simulated.figures(answers, simulated.SimulatedClips([], labels, np.arange(6)))
    assert figures["accuracy"]["value"] == pytest.approx(0.6667, abs=1e-4)
    assert figures["recall"] == {"anger": 0.5, "contempt": 0.75}
    low, high = figures["uar"]["interval"]
    assert low < figures["uar"]["value"] < high


def test_rows_of_a_group_are_drawn_together() -> None:
    values, groups = np.repeat([0.0, 1.0], 50), np.repeat([0, 1], 50)

    def width(groups: np.ndarray | None) -> float:
        low, high = report(100, lambda rows: {"mean": values[rows].mean()}, groups)["mean"]["interval"]
        return high - low

    assert width(groups) == 1.0
    assert width(None) < 0.25
    assert width(None) == width(None)


def test_the_classifier_that_is_exported_answers_as_scikit_learn() -> None:
    chance = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 30)
    x = (np.eye(3)[labels] + chance.normal(0, 0.2, (90, 3))).astype(np.float32)
    data = simulated.SimulatedClips([], labels, np.arange(90))
    pipeline = simulated.calibrated(1.0, simulated.folds(data)).fit(x, labels)
    model = simulated._to_onnx(pipeline, 3)
    (answers,) = onnxruntime.InferenceSession(model.SerializeToString()).run(["probabilities"], {"features": x})
    np.testing.assert_allclose(answers, pipeline.predict_proba(x), atol=1e-5)
