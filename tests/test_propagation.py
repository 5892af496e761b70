"""Faces are followed where they go, and the detector is asked when, and only when, it has to be."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

import clips
from fervid.analysis.propagation import (
    _ROI_STEP,
    FULL_DETECT_FACTOR,
    IDLE_FULL_DETECT_S,
    IDLE_INTERVAL_S,
    FlowTracker,
    _extract_gray,
    _least_squares,
    _region,
    _Roi,
)
from fervid.core.images import downscale_by_halves
from fervid.core.records import Box, Face, Frame, Image

SIDE = 80
PORTRAIT = clips.portrait(200, 200, 1.2)
NOISE, OTHER = (
    cv2.resize(np.random.default_rng(seed).integers(0, 256, (12, 20, 3), np.uint8), (400, 240)) for seed in (0, 1)
)


def face(x: float, y: float, side: float = SIDE, score: float = 0.9) -> Face:
    """A face whose box has that middle."""
    eyes = np.array([[x - side / 5, y - side / 8], [x + side / 5, y - side / 8]], np.float32)
    return Face((x - side / 2, y - side / 2, x + side / 2, y + side / 2), eyes, score)


def scene(*places: tuple[float, float], background: Image = NOISE, zoom: float = 0.4, roll: float = 0.0) -> Image:
    """A picture with a portrait of 200 * zoom pixels in the middle of each place."""
    image = background.copy()
    for x, y in places:
        matrix = cv2.getRotationMatrix2D((99.5, 99.5), -roll, zoom)
        matrix[:, 2] += (x - 99.5, y - 99.5)
        size = image.shape[1::-1]
        inside = cv2.warpAffine(np.full((200, 200), 255, np.uint8), matrix, size) > 127
        image[inside] = cv2.warpAffine(PORTRAIT, matrix, size)[inside]
    return image


class Eyes:
    """A detector that is told what it sees, and keeps count of how it was asked."""

    sure = 0.8

    def __init__(self, *faces: Face) -> None:
        """See these faces, however it is asked."""
        self.all = self.large = self.around = list(faces)
        self.asked: list[str] = []

    def __call__(self, image: Image) -> list[Face]:
        self.asked.append("search")
        return self.all

    def glance(self, image: Image) -> list[Face]:
        self.asked.append("glance")
        return self.large

    def near(self, image: Image, box: Box) -> list[Face]:
        self.asked.append("near")
        return self.around


def middle(face: Face) -> tuple[float, float]:
    x1, y1, x2, y2 = face.box
    return (x1 + x2) / 2, (y1 + y2) / 2


def test_nothing_is_followed_when_every_frame_shall_be_searched() -> None:
    eyes = Eyes(face(100, 100))
    find = FlowTracker(eyes, 0.0)
    assert [find(Frame(scene((100, 100)), i / 5)) for i in range(4)] == [eyes.all] * 4
    assert eyes.asked == ["search"] * 4


@pytest.mark.parametrize("rate", [5, 30])
def test_a_face_that_stays_is_glanced_at_every_second_and_searched_for_more_seldom(rate: int) -> None:
    eyes = Eyes(face(100, 100))
    find = FlowTracker(eyes, 1.0)
    for i in range(2 * FULL_DETECT_FACTOR * rate + 1):
        [found] = find(Frame(scene((100, 100)), i / rate))
        assert middle(found) == pytest.approx((100, 100), abs=0.3)
    seldom = ["search", *["glance"] * (FULL_DETECT_FACTOR - 1)]
    assert eyes.asked == [*seldom, *seldom, "search"]


def test_a_face_is_followed_where_it_goes() -> None:
    eyes = Eyes(face(100, 100), face(300, 120, 70))
    find = FlowTracker(eyes, 10.0)
    for i in range(12):
        found = find(Frame(scene((100 + 5 * i, 100 + 2 * i), (300 - 2 * i, 120)), i / 5))
        assert [middle(one) for one in found] == [
            pytest.approx((100 + 5 * i, 100 + 2 * i), abs=1.5),
            pytest.approx((300 - 2 * i, 120), abs=1.5),
        ]
        assert [one.size for one in found] == pytest.approx([SIDE, 70], rel=0.03)
    assert eyes.asked == ["search"]


def test_a_face_that_comes_nearer_and_turns_keeps_its_size_and_its_eyes_right() -> None:
    eyes = Eyes(face(200, 120))
    find = FlowTracker(eyes, 10.0)
    for i in range(9):
        zoom, roll = 1 + 0.05 * i, 3.0 * i
        [found] = find(Frame(scene((200, 120), zoom=0.4 * zoom, roll=roll), i / 5))
        assert middle(found) == pytest.approx((200, 120), abs=2)
        assert found.size == pytest.approx(SIDE * zoom, rel=0.04)
        (right_x, right_y), (left_x, left_y) = found.landmarks
        assert np.degrees(np.arctan2(left_y - right_y, left_x - right_x)) == pytest.approx(roll, abs=3)
        assert np.hypot(left_x - right_x, left_y - right_y) == pytest.approx(0.4 * SIDE * zoom, rel=0.05)
    assert eyes.asked == ["search"]


def test_a_face_that_jumps_is_looked_for_where_it_was() -> None:
    eyes = Eyes(face(100, 100), face(300, 100))
    find = FlowTracker(eyes, 10.0)
    find(Frame(scene((100, 100), (300, 100)), 0.0))
    eyes.around = [face(160, 120)]
    found = find(Frame(scene((160, 120), (300, 100)), 0.2))
    assert sorted(map(middle, found)) == [(160, 120), pytest.approx((300, 100), abs=0.5)]
    assert eyes.asked == ["search", "near"]
    assert len(find(Frame(scene((162, 121), (300, 100)), 0.4))) == 2
    assert eyes.asked == ["search", "near"]


def test_a_face_that_is_gone_is_dropped_and_the_others_stay() -> None:
    eyes = Eyes(face(100, 100), face(300, 100))
    find = FlowTracker(eyes, 10.0)
    find(Frame(scene((100, 100), (300, 100)), 0.0))
    eyes.around = [face(300, 100)]  # somebody else, who is seen already
    assert [middle(one) for one in find(Frame(scene((300, 100)), 0.2))] == [pytest.approx((300, 100), abs=0.5)]
    assert eyes.asked == ["search", "near"]


def test_who_is_followed_already_is_not_taken_for_a_neighbour_who_was_lost() -> None:
    eyes = Eyes(face(100, 100), face(160, 100))
    find = FlowTracker(eyes, 10.0)
    find(Frame(scene((100, 100), (160, 100)), 0.0))
    eyes.around = [face(160, 100)]
    found = find(Frame(scene((160, 100)), 0.2))
    assert [middle(one) for one in found] == [pytest.approx((160, 100), abs=1)]
    assert "near" in eyes.asked


def test_when_the_last_face_is_gone_everything_is_searched() -> None:
    eyes = Eyes(face(100, 100))
    find = FlowTracker(eyes, 10.0)
    find(Frame(scene((100, 100)), 0.0))
    eyes.all, eyes.around = [face(300, 100)], []
    assert find(Frame(scene((300, 100)), 0.2)) == eyes.all
    assert eyes.asked == ["search", "near", "search"]


def test_after_a_cut_everything_is_searched() -> None:
    eyes = Eyes(face(100, 100))
    find = FlowTracker(eyes, 10.0)
    find(Frame(scene((100, 100)), 0.0))
    find(Frame(scene((300, 150), background=OTHER), 0.2))
    assert eyes.asked == ["search", "search"]


@pytest.mark.parametrize("rate", [5, 30])
def test_while_there_is_nobody_searches_give_way_to_glances_after_a_while(rate: int) -> None:
    eyes = Eyes()
    find = FlowTracker(eyes, 1.0)
    assert not any(find(Frame(NOISE, i / rate)) for i in range(19 * rate // 5))
    often = round(1 / IDLE_INTERVAL_S)
    searches, glances = round(IDLE_FULL_DETECT_S * often), often - 1
    assert eyes.asked == ["search"] * (searches - 1) + ["search", *["glance"] * glances] * 2


def test_patience_begins_again_when_somebody_was_there() -> None:
    eyes = Eyes()
    find = FlowTracker(eyes, 1.0)
    for i in range(12):
        find(Frame(NOISE, i / 5))
    eyes.all = eyes.large = [face(100, 100)]
    find(Frame(scene((100, 100)), 2.4))
    eyes.all = eyes.large = eyes.around = []
    eyes.asked = []
    for i in range(13, 18):
        find(Frame(NOISE, i / 5))
    assert set(eyes.asked) == {"near", "search"}


def test_when_somebody_appears_everything_is_searched() -> None:
    eyes = Eyes()
    find = FlowTracker(eyes, 1.0)
    for i in range(12):
        find(Frame(NOISE, i / 5))
    eyes.asked, eyes.all, eyes.large = [], [face(100, 100), face(300, 100, 20)], [face(100, 100)]
    assert find(Frame(scene((100, 100)), 2.4)) == eyes.all
    assert eyes.asked == ["glance", "search"]


def test_a_glance_shows_new_faces_and_corrects_the_others() -> None:
    eyes = Eyes(face(100, 100))
    find = FlowTracker(eyes, 0.4)
    for i in range(2):
        find(Frame(scene((100, 100), (300, 100)), i / 5))
    eyes.large = [face(300, 100, 90), face(103, 100)]
    assert find(Frame(scene((100, 100), (300, 100)), 0.4)) == eyes.large
    assert eyes.asked == ["search", "glance"]


def test_a_face_that_a_glance_showed_and_shows_no_more_is_searched_for() -> None:
    eyes = Eyes(face(100, 100))
    find = FlowTracker(eyes, 0.2)
    for i in range(2):
        find(Frame(scene((100, 100)), i / 5))
    eyes.large, eyes.all = [], []
    assert find(Frame(scene((100, 100)), 0.4)) == []
    assert eyes.asked == ["search", "glance", "glance", "search"]


@pytest.mark.parametrize("count", [3, 4])
def test_faces_too_small_for_a_glance_are_looked_at_closer_or_searched_for_if_they_are_many(count: int) -> None:
    places = [(60 + 80 * i, 100) for i in range(count)]
    eyes = Eyes(*(face(x, y, 30) for x, y in places))
    eyes.large = []
    eyes.around = [face(60, 100, 31)]
    find = FlowTracker(eyes, 0.2)
    picture = scene(*places, zoom=0.15)
    find(Frame(picture, 0.0))
    assert len(find(Frame(picture, 0.2))) == count
    assert eyes.asked == ["search", "glance", *(["near"] * 3 if count == 3 else ["search"])]


@pytest.mark.parametrize("rate", [5, 30])
def test_a_doubtful_face_is_looked_at_closer_for_a_while(rate: int) -> None:
    eyes = Eyes(face(100, 100, score=0.7), face(300, 100))
    find = FlowTracker(eyes, 10.0)
    for i in range(3 * rate):
        find(Frame(scene((100, 100), (300, 100)), i / rate))
    assert eyes.asked == ["search", *["near"] * 9]


def test_a_doubtful_face_that_turns_out_to_be_one_says_so() -> None:
    eyes = Eyes(face(100, 100, score=0.7))
    find = FlowTracker(eyes, 10.0)
    find(Frame(scene((100, 100)), 0.0))
    eyes.around = [face(100, 100, 300, score=0.95), face(101, 100, score=0.9)]
    for i in range(1, 4):
        [found] = find(Frame(scene((100, 100)), i / 5))
        assert found.score == 0.9
    assert eyes.asked == ["search", "near"]


def test_a_doubt_that_was_settled_does_not_begin_again_at_every_glance() -> None:
    eyes = Eyes(face(100, 100, score=0.7))
    find = FlowTracker(eyes, 1.0)
    for i in range(16):
        find(Frame(scene((100, 100)), i / 5))
    assert eyes.asked == ["search", *["near"] * 4, "glance", *["near"] * 4, "glance", "glance"]


def test_a_part_of_a_face_does_not_replace_it() -> None:
    eyes = Eyes(face(200, 120, 160, score=0.95))
    eyes.large = eyes.around = [face(210, 130, 60, score=0.82)]
    find = FlowTracker(eyes, 0.2)
    picture = scene((200, 120), zoom=0.8)
    find(Frame(picture, 0.0))
    assert [one.size for one in find(Frame(picture, 0.2))] == [pytest.approx(160, rel=0.02)]
    assert eyes.asked == ["search", "glance", "near"]


@pytest.mark.parametrize(("time", "image"), [(0.0, NOISE), (0.6, NOISE[:200]), (0.6, NOISE[:, :300])])
def test_another_clip_begins_with_a_search(time: float, image: Image) -> None:
    eyes = Eyes()
    find = FlowTracker(eyes, 1.0)
    find(Frame(NOISE, 0.5))
    find(Frame(image, time))
    assert eyes.asked == ["search", "search"]


@pytest.mark.parametrize("halvings", [0, 1, 2])
@pytest.mark.parametrize("places", [[(300, 200)], [(300, 200), (1150, 620)], [(-500, 90)], [(1290, 715)]])
def test_what_is_looked_at_lies_around_the_faces_and_is_what_the_whole_frame_shows(
    places: list[tuple[float, float]], halvings: int
) -> None:
    image = cv2.resize(NOISE, (1283, 721))
    size = np.array([1283, 721]) >> halvings
    left, top, right, bottom, _ = region = _region((face(x, y) for x, y in places), halvings, image)
    for x, y in places:
        corners = np.array([[x - SIDE / 2, y - SIDE / 2], [x + SIDE / 2, y + SIDE / 2]]) / 2**halvings
        near, far = np.clip(corners + np.array([[-_ROI_STEP], [_ROI_STEP]]), 0, size)
        assert (np.minimum(near, size - _ROI_STEP) >= (left, top)).all()
        assert (far <= (right, bottom)).all()
    assert 0 <= left <= right - _ROI_STEP
    assert 0 <= top <= bottom - _ROI_STEP
    assert _region([face(*places[0])], halvings, image) == _region(
        [face(places[0][0] + 1, places[0][1])], halvings, image
    )
    whole = cv2.cvtColor(downscale_by_halves(image, halvings), cv2.COLOR_RGB2GRAY)
    np.testing.assert_array_equal(_extract_gray(image, region).gray, whole[top:bottom, left:right])


@pytest.mark.parametrize(("side", "zoom"), [(SIDE, 0.4), (SIDE / 2, 0.2)])
def test_a_face_is_followed_from_part_to_part_of_a_large_frame(side: float, zoom: float) -> None:
    eyes, background = Eyes(face(900, 500, side)), cv2.resize(NOISE, (1280, 720))
    find = FlowTracker(eyes, 100.0)
    for i in range(40):
        x, y = 900 - 10 * i, 500 - 5 * i
        (found,) = find(Frame(scene((x, y), background=background, zoom=zoom), i / 25))
        middle = np.reshape(found.box, (2, 2)).mean(axis=0)
        np.testing.assert_allclose(middle, (x, y), atol=2)
        np.testing.assert_allclose(found.landmarks.mean(axis=0), (x, y - side / 8), atol=2)
    assert eyes.asked == ["search"]


def test_a_frame_that_is_smaller_than_that_is_looked_at_whole() -> None:
    assert _region([face(20, 10)], 1, NOISE[:40, :70]) == _Roi(0, 0, 35, 20, 1)


def test_a_similarity_is_found_exactly() -> None:
    begins = np.array([1 + 2j, 3 - 1j, -2 + 0.5j, 4j])
    turn, shift = _least_squares(begins, (1.1 + 0.2j) * begins + 3 - 2j)
    assert (turn, shift) == (pytest.approx(1.1 + 0.2j), pytest.approx(3 - 2j))
    assert _least_squares(begins[:1], begins[:1] + 1)[0] == 0  # a point alone has no size
