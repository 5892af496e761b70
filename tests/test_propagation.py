"""Faces are propagated correctly, and the detector runs when it has to, and only then."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

import clips
from fervid.analysis.optical_flow import ROI_STEP, Roi, extract_gray, least_squares, roi_around
from fervid.analysis.propagation import FULL_DETECT_FACTOR, IDLE_FULL_DETECT_S, IDLE_INTERVAL_S, FlowTracker
from fervid.core.images import downscale_by_halves
from fervid.core.records import Box, Face, Frame, Image

SIDE = 80
PORTRAIT = clips.portrait(200, 200, 1.2)
NOISE, OTHER = (
    cv2.resize(np.random.default_rng(seed).integers(0, 256, (12, 20, 3), np.uint8), (400, 240)) for seed in (0, 1)
)


def face(x: float, y: float, side: float = SIDE, score: float = 0.9) -> Face:
    """Return a face whose box has that center."""
    eyes = np.array([[x - side / 5, y - side / 8], [x + side / 5, y - side / 8]], np.float32)
    return Face((x - side / 2, y - side / 2, x + side / 2, y + side / 2), eyes, score)


def scene(*places: tuple[float, float], background: Image = NOISE, zoom: float = 0.4, roll: float = 0.0) -> Image:
    """Return an image with a portrait of 200 * zoom pixels centered at each place."""
    image = background.copy()
    for x, y in places:
        matrix = cv2.getRotationMatrix2D((99.5, 99.5), -roll, zoom)
        matrix[:, 2] += (x - 99.5, y - 99.5)
        size = image.shape[1::-1]
        inside = cv2.warpAffine(np.full((200, 200), 255, np.uint8), matrix, size) > 127
        image[inside] = cv2.warpAffine(PORTRAIT, matrix, size)[inside]
    return image


class FakeDetector:
    """A detector that returns the faces it was given, and records its calls."""

    new_track_threshold = 0.8

    def __init__(self, *faces: Face) -> None:
        """Return these faces from every method."""
        self.faces = self.large_faces = self.faces_around = list(faces)
        self.calls: list[str] = []

    def detect(self, image: Image) -> list[Face]:
        self.calls.append("full")
        return self.faces

    def detect_coarse(self, image: Image) -> list[Face]:
        self.calls.append("coarse")
        return self.large_faces

    def detect_around(self, image: Image, box: Box) -> list[Face]:
        self.calls.append("around")
        return self.faces_around


def center(face: Face) -> tuple[float, float]:
    x1, y1, x2, y2 = face.box
    return (x1 + x2) / 2, (y1 + y2) / 2


def test_interval_zero_detects_on_every_frame() -> None:
    detector = FakeDetector(face(100, 100))
    tracker = FlowTracker(detector, 0.0)
    assert [tracker.update(Frame(scene((100, 100)), i / 5)) for i in range(4)] == [detector.faces] * 4
    assert detector.calls == ["full"] * 4


@pytest.mark.parametrize("rate", [5, 10])
def test_still_face_gets_coarse_detections_and_some_full_ones(rate: int) -> None:
    detector = FakeDetector(face(100, 100))
    tracker = FlowTracker(detector, 1.0)
    for i in range(2 * FULL_DETECT_FACTOR * rate + 1):
        [found] = tracker.update(Frame(scene((100, 100)), i / rate))
        assert center(found) == pytest.approx((100, 100), abs=0.3)
    seldom = ["full", *["coarse"] * (FULL_DETECT_FACTOR - 1)]
    assert detector.calls == [*seldom, *seldom, "full"]


def test_moving_faces_are_propagated() -> None:
    detector = FakeDetector(face(100, 100), face(300, 120, 70))
    tracker = FlowTracker(detector, 10.0)
    for i in range(12):
        found = tracker.update(Frame(scene((100 + 5 * i, 100 + 2 * i), (300 - 2 * i, 120)), i / 5))
        assert [center(item) for item in found] == [
            pytest.approx((100 + 5 * i, 100 + 2 * i), abs=1.5),
            pytest.approx((300 - 2 * i, 120), abs=1.5),
        ]
        assert [item.size for item in found] == pytest.approx([SIDE, 70], rel=0.03)
        assert {item.detected for item in found} == {i == 0}
    assert detector.calls == ["full"]


def test_scale_and_roll_are_propagated() -> None:
    detector = FakeDetector(face(200, 120))
    tracker = FlowTracker(detector, 10.0)
    for i in range(9):
        zoom, roll = 1 + 0.05 * i, 3.0 * i
        [found] = tracker.update(Frame(scene((200, 120), zoom=0.4 * zoom, roll=roll), i / 5))
        assert center(found) == pytest.approx((200, 120), abs=2)
        assert found.size == pytest.approx(SIDE * zoom, rel=0.04)
        (right_x, right_y), (left_x, left_y) = found.landmarks
        assert np.degrees(np.arctan2(left_y - right_y, left_x - right_x)) == pytest.approx(roll, abs=3)
        assert np.hypot(left_x - right_x, left_y - right_y) == pytest.approx(0.4 * SIDE * zoom, rel=0.05)
    assert detector.calls == ["full"]


def test_lost_face_is_detected_around_its_last_position() -> None:
    detector = FakeDetector(face(100, 100), face(300, 100))
    tracker = FlowTracker(detector, 10.0)
    tracker.update(Frame(scene((100, 100), (300, 100)), 0.0))
    detector.faces_around = [face(160, 120)]
    found = tracker.update(Frame(scene((160, 120), (300, 100)), 0.2))
    assert sorted(map(center, found)) == [(160, 120), pytest.approx((300, 100), abs=0.5)]
    assert detector.calls == ["full", "around"]
    assert len(tracker.update(Frame(scene((162, 121), (300, 100)), 0.4))) == 2
    assert detector.calls == ["full", "around"]


def test_departed_face_is_dropped() -> None:
    detector = FakeDetector(face(100, 100), face(300, 100))
    tracker = FlowTracker(detector, 10.0)
    tracker.update(Frame(scene((100, 100), (300, 100)), 0.0))
    detector.faces_around = [face(300, 100)]  # the other face, which is tracked already
    assert [center(item) for item in tracker.update(Frame(scene((300, 100)), 0.2))] == [
        pytest.approx((300, 100), abs=0.5)
    ]
    assert detector.calls == ["full", "around"]


def test_tracked_face_does_not_replace_lost_neighbour() -> None:
    detector = FakeDetector(face(100, 100), face(160, 100))
    tracker = FlowTracker(detector, 10.0)
    tracker.update(Frame(scene((100, 100), (160, 100)), 0.0))
    detector.faces_around = [face(160, 100)]
    found = tracker.update(Frame(scene((160, 100)), 0.2))
    assert [center(item) for item in found] == [pytest.approx((160, 100), abs=1)]
    assert "around" in detector.calls


def test_losing_last_face_causes_full_detection() -> None:
    detector = FakeDetector(face(100, 100))
    tracker = FlowTracker(detector, 10.0)
    tracker.update(Frame(scene((100, 100)), 0.0))
    detector.faces, detector.faces_around = [face(300, 100)], []
    assert tracker.update(Frame(scene((300, 100)), 0.2)) == detector.faces
    assert detector.calls == ["full", "around", "full"]


def test_scene_cut_causes_full_detection() -> None:
    detector = FakeDetector(face(100, 100))
    tracker = FlowTracker(detector, 10.0)
    tracker.update(Frame(scene((100, 100)), 0.0))
    tracker.update(Frame(scene((300, 150), background=OTHER), 0.2))
    assert detector.calls == ["full", "full"]


@pytest.mark.parametrize("rate", [5, 10])
def test_idle_detections_become_coarse(rate: int) -> None:
    detector = FakeDetector()
    tracker = FlowTracker(detector, 1.0)
    assert not any(tracker.update(Frame(NOISE, i / rate)) for i in range(19 * rate // 5))
    often = round(1 / IDLE_INTERVAL_S)
    searches, glances = round(IDLE_FULL_DETECT_S * often), often - 1
    assert detector.calls == ["full"] * (searches - 1) + ["full", *["coarse"] * glances] * 2


def test_idle_detections_are_full_again_after_face() -> None:
    detector = FakeDetector()
    tracker = FlowTracker(detector, 1.0)
    for i in range(12):
        tracker.update(Frame(NOISE, i / 5))
    detector.faces = detector.large_faces = [face(100, 100)]
    tracker.update(Frame(scene((100, 100)), 2.4))
    detector.faces = detector.large_faces = detector.faces_around = []
    detector.calls = []
    for i in range(13, 18):
        tracker.update(Frame(NOISE, i / 5))
    assert set(detector.calls) == {"around", "full"}


def test_face_in_idle_coarse_detection_causes_full_one() -> None:
    detector = FakeDetector()
    tracker = FlowTracker(detector, 1.0)
    for i in range(12):
        tracker.update(Frame(NOISE, i / 5))
    detector.calls, detector.faces, detector.large_faces = [], [face(100, 100), face(300, 100, 20)], [face(100, 100)]
    assert tracker.update(Frame(scene((100, 100)), 2.4)) == detector.faces
    assert detector.calls == ["coarse", "full"]


def test_coarse_detection_adds_new_faces_and_corrects_drift() -> None:
    detector = FakeDetector(face(100, 100))
    tracker = FlowTracker(detector, 0.4)
    for i in range(2):
        tracker.update(Frame(scene((100, 100), (300, 100)), i / 5))
    detector.large_faces = [face(300, 100, 90), face(103, 100)]
    assert tracker.update(Frame(scene((100, 100), (300, 100)), 0.4)) == detector.large_faces
    assert detector.calls == ["full", "coarse"]


def test_face_missed_by_later_coarse_detection_causes_full_one() -> None:
    detector = FakeDetector(face(100, 100))
    tracker = FlowTracker(detector, 0.2)
    for i in range(2):
        tracker.update(Frame(scene((100, 100)), i / 5))
    detector.large_faces, detector.faces = [], []
    assert tracker.update(Frame(scene((100, 100)), 0.4)) == []
    assert detector.calls == ["full", "coarse", "coarse", "full"]


@pytest.mark.parametrize("count", [3, 4])
def test_small_faces_are_checked_one_by_one_unless_they_are_many(count: int) -> None:
    places = [(60 + 80 * i, 100) for i in range(count)]
    detector = FakeDetector(*(face(x, y, 30) for x, y in places))
    detector.large_faces = []
    detector.faces_around = [face(60, 100, 31)]
    tracker = FlowTracker(detector, 0.2)
    image = scene(*places, zoom=0.15)
    tracker.update(Frame(image, 0.0))
    assert len(tracker.update(Frame(image, 0.2))) == count
    assert detector.calls == ["full", "coarse", *(["around"] * 3 if count == 3 else ["full"])]


@pytest.mark.parametrize("rate", [5, 10])
def test_unconfirmed_face_is_rechecked_for_while(rate: int) -> None:
    detector = FakeDetector(face(100, 100, score=0.7), face(300, 100))
    tracker = FlowTracker(detector, 10.0)
    for i in range(3 * rate):
        tracker.update(Frame(scene((100, 100), (300, 100)), i / rate))
    assert detector.calls == ["full", *["around"] * 9]


def test_confirmed_face_gets_new_score() -> None:
    detector = FakeDetector(face(100, 100, score=0.7))
    tracker = FlowTracker(detector, 10.0)
    tracker.update(Frame(scene((100, 100)), 0.0))
    detector.faces_around = [face(100, 100, 300, score=0.95), face(101, 100, score=0.9)]
    for i in range(1, 4):
        [found] = tracker.update(Frame(scene((100, 100)), i / 5))
        assert found.score == 0.9
    assert detector.calls == ["full", "around"]


def test_coarse_detection_does_not_restart_rechecks() -> None:
    detector = FakeDetector(face(100, 100, score=0.7))
    tracker = FlowTracker(detector, 1.0)
    for i in range(16):
        tracker.update(Frame(scene((100, 100)), i / 5))
    assert detector.calls == ["full", *["around"] * 4, "coarse", *["around"] * 4, "coarse", "coarse"]


def test_fragment_does_not_replace_its_face() -> None:
    detector = FakeDetector(face(200, 120, 160, score=0.95))
    detector.large_faces = detector.faces_around = [face(210, 130, 60, score=0.82)]
    tracker = FlowTracker(detector, 0.2)
    image = scene((200, 120), zoom=0.8)
    tracker.update(Frame(image, 0.0))
    assert [item.size for item in tracker.update(Frame(image, 0.2))] == [pytest.approx(160, rel=0.02)]
    assert detector.calls == ["full", "coarse", "around"]


@pytest.mark.parametrize(("time", "image"), [(0.0, NOISE), (0.6, NOISE[:200]), (0.6, NOISE[:, :300])])
def test_earlier_time_or_another_size_begins_new_clip(time: float, image: Image) -> None:
    detector = FakeDetector()
    tracker = FlowTracker(detector, 1.0)
    tracker.update(Frame(NOISE, 0.5))
    tracker.update(Frame(image, time))
    assert detector.calls == ["full", "full"]


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("places", [[(300, 200)], [(300, 200), (1150, 620)], [(-500, 90)], [(1290, 715)]])
def test_roi_surrounds_faces_and_equals_whole_frame_there(places: list[tuple[float, float]], level: int) -> None:
    image = cv2.resize(NOISE, (1283, 721))
    size = np.array([1283, 721]) >> level
    left, top, right, bottom, _ = roi = roi_around((face(x, y) for x, y in places), level, image)
    for x, y in places:
        corners = np.array([[x - SIDE / 2, y - SIDE / 2], [x + SIDE / 2, y + SIDE / 2]]) / 2**level
        near, far = np.clip(corners + np.array([[-ROI_STEP], [ROI_STEP]]), 0, size)
        assert (np.minimum(near, size - ROI_STEP) >= (left, top)).all()
        assert (far <= (right, bottom)).all()
    assert 0 <= left <= right - ROI_STEP
    assert 0 <= top <= bottom - ROI_STEP
    assert roi_around([face(*places[0])], level, image) == roi_around(
        [face(places[0][0] + 1, places[0][1])], level, image
    )
    whole = cv2.cvtColor(downscale_by_halves(image, level), cv2.COLOR_RGB2GRAY)
    np.testing.assert_array_equal(extract_gray(image, roi).gray, whole[top:bottom, left:right])


@pytest.mark.parametrize(("side", "zoom"), [(SIDE, 0.4), (SIDE / 2, 0.2)])
def test_face_is_propagated_across_large_frame(side: float, zoom: float) -> None:
    detector, background = FakeDetector(face(900, 500, side)), cv2.resize(NOISE, (1280, 720))
    tracker = FlowTracker(detector, 100.0)
    for i in range(20):
        x, y = 900 - 10 * i, 500 - 5 * i
        (found,) = tracker.update(Frame(scene((x, y), background=background, zoom=zoom), i / 25))
        middle = np.reshape(found.box, (2, 2)).mean(axis=0)
        np.testing.assert_allclose(middle, (x, y), atol=2)
        np.testing.assert_allclose(found.landmarks.mean(axis=0), (x, y - side / 8), atol=2)
    assert detector.calls == ["full"]


def test_roi_of_small_frame_is_whole_frame() -> None:
    assert roi_around([face(20, 10)], 1, NOISE[:40, :70]) == Roi(0, 0, 35, 20, 1)


def test_least_squares_recovers_similarity() -> None:
    starts = np.array([1 + 2j, 3 - 1j, -2 + 0.5j, 4j])
    factor, shift = least_squares(starts, (1.1 + 0.2j) * starts + 3 - 2j)
    assert (factor, shift) == (pytest.approx(1.1 + 0.2j), pytest.approx(3 - 2j))
    assert least_squares(starts[:1], starts[:1] + 1)[0] == 0  # one point determines no scale
