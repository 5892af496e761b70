"""Test clips simulated from stills."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
import simulate_video

import clips
from fervid.analysis.align import align_face
from fervid.core.records import Face

FACE = Face((4, 6, 44, 46), np.array([[14, 20], [34, 20], [24, 30]], np.float32), 0.9)


def test_simulated_clip_is_smooth() -> None:
    image = cv2.resize(clips.portrait(160, 160, 1.2, 222, 118), (48, 48), interpolation=cv2.INTER_AREA)
    views = [align_face(*view, 48) for view in simulate_video.simulate_clip(image, FACE, 24, np.random.default_rng(5))]
    steps = [np.abs(a.astype(int) - b).mean() for a, b in itertools.pairwise(views)]
    assert max(steps) < 12
    assert np.abs(views[0].astype(int) - views[12]).mean() > 2
    again = [align_face(*view, 48) for view in simulate_video.simulate_clip(image, FACE, 24, np.random.default_rng(5))]
    np.testing.assert_array_equal(views, again)


def test_detector_errors_move_landmarks() -> None:
    still = dict.fromkeys(("x", "y", "scale", "roll"), 0.0)
    moved = simulate_video._transform_face(FACE, still | {"x": 0.1}, 2.0)
    assert moved.box == pytest.approx((16, 12, 96, 92))
    turned = simulate_video._transform_face(FACE, still | {"roll": 10.0}, 1.0)
    eyes = turned.landmarks[1] - turned.landmarks[0]
    assert np.rad2deg(np.arctan2(eyes[1], eyes[0])) == pytest.approx(10)
