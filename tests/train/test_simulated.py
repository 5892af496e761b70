"""Clips that are simulated from stills move as a video would, and the classifier on them is what was fitted."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

import clips
import scenes
from fervid.adaptive import STRIDES, fitted, levels, saved
from fervid.align import crop
from fervid.detect import Detector
from fervid.fit import Candidate, Examples, fit
from fervid.records import ClipFeatures, Face, FaceScores
from fervid.train import clips as simulated
from fervid.train import degrade, ferplus
from fervid.train.faces import Sources

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
    said = np.eye(8, dtype=np.float32)[[0, 1, 1, 1, 1, 0]]
    figures = simulated.figures(said, simulated.SimulatedClips({}, labels, np.arange(6)))
    assert list(figures) == ["accuracy", "uar", "recall"]
    assert figures["accuracy"]["value"] == pytest.approx(0.6667, abs=1e-4)
    assert figures["recall"] == {**dict.fromkeys(ferplus.CLASSES), "anger": 0.5, "contempt": 0.75}
    low, high = figures["uar"]["interval"]
    assert low < figures["uar"]["value"] < high


def test_on_real_clips_emotions_are_measured_as_valence() -> None:
    """Clips of happiness lie where pleasant film clips do, of neutral and surprise and of sadness likewise."""
    valence = np.array([{"happiness": 2, "neutral": 1, "surprise": 1}.get(name, 0) for name in ferplus.CLASSES])
    place = np.arange(80) % 8
    rows = np.float32(1 + 3 * np.eye(3)[valence[place]])
    rows += np.random.default_rng(0).normal(0, 0.1, rows.shape).astype(np.float32)
    pipeline = fit(Candidate("mean", "logistic", 3.0), Examples({"mean": rows}, place))
    real = scenes.parted(scenes.samples(["positive"], splits=["val"]), labels=("negative", "neutral", "positive"))
    found = simulated.on_films(pipeline, ["embedding.mean"], real)
    assert [name.partition(", happiness as positive")[0] for name in found] == [
        "12 film clips of KERC 2020, validation part",
        "48 film clips of KERC 2020, both parts",
    ]
    for figures in found.values():
        assert figures["uar"] == figures["accuracy"] == {"value": 1.0, "interval": [1.0, 1.0]}
        assert figures["recall"] == {"negative": 1.0, "neutral": 1.0, "positive": 1.0}


def test_few_frames_are_told_in_a_way_that_the_classifier_can_use() -> None:
    chance = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 20)
    rows = (np.eye(3)[labels] + chance.normal(0, 0.1, (60, 3))).astype(np.float32)
    features = [ClipFeatures({"embedding.mean": row}, 24) for row in rows]
    data = simulated.SimulatedClips(dict.fromkeys((1, *STRIDES), features), labels, np.arange(60))
    pipeline = fit(Candidate("mean", "linear", 1.0), Examples({"mean": rows}, labels))
    told = simulated.by_rate(pipeline, ["embedding.mean"], data)
    found = fitted(*told, 0.01)
    assert [level.stride for level in levels({"adaptive": found})] == list(STRIDES)
    assert found["share of frames"] == pytest.approx(3 / 24)
    assert found["accuracy"] == found["accuracy of all frames"] == 1
    assert found.items() >= saved(levels({"adaptive": found}), *told).items()
