"""Crops are upright, at the right scale and with the right margin."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

import clips
from fervid.analysis.align import MARGIN, align_face, roll_angle
from fervid.core.records import Box, Face


def face(box: Box, degrees: float = 0.0) -> Face:
    """Return a face whose eyes are rolled clockwise by this many degrees around the center of its box."""
    x1, y1, x2, y2 = box
    middle, reach = np.array([(x1 + x2) / 2, (y1 + y2) / 2]), (x2 - x1) / 4
    across = reach * np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
    return Face(box, np.float32([middle - across, middle + across]), 0.9)


def coordinates(width: int = 240, height: int = 200) -> np.ndarray:
    """Return an image whose red is the column and whose green is the row."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, np.zeros_like(x)], -1).astype(np.uint8)


def test_roll_angle_is_clockwise() -> None:
    for right, left, degrees in (
        ((0, 0), (10, 0), 0),
        ((0, 0), (10, 10), 45),
        ((0, 10), (10, 0), -45),
        ((0, 0), (0, -10), -90),
        ((10, 0), (0, 1e-6), 180),
        ((3, 3), (3, 3), 0),
    ):
        found = roll_angle(Face((0, 0, 1, 1), np.float32([right, left]), 1.0))
        assert np.degrees(found) == pytest.approx(degrees, abs=1e-3)


@pytest.mark.parametrize("size", [24, 96])
@pytest.mark.parametrize(
    ("box", "margin", "square"),
    [
        ((60, 80, 120, 140), MARGIN, (54, 74, 126, 146)),
        ((60, 80, 120, 140), 0, (60, 80, 120, 140)),
        ((60, 80, 120, 140), 0.5, (30, 50, 150, 170)),
        ((60, 80, 120, 120), 0, (60, 70, 120, 130)),
        ((80, 80, 120, 140), 0, (70, 80, 130, 140)),
    ],
)
def test_level_eyes_give_box_with_its_margin(box: Box, margin: float, square: Box, size: int) -> None:
    cut = align_face(coordinates(), face(box), size, margin).astype(float)
    step = (square[2] - square[0]) / size
    centres = (np.arange(size) + 0.5) * step
    rounded = 0.9 + 0.5 * np.log2(max(step, 1))  # each halving rounds a slope up
    assert np.abs(cut[..., 0] - (square[0] + centres - 0.5)).max() <= rounded
    assert np.abs(cut[..., 1] - (square[1] + centres - 0.5)[:, None]).max() <= rounded


def test_cards_have_default_margin() -> None:
    picture = clips.portrait()
    assert np.array_equal(
        align_face(picture, face((90, 40, 250, 200)), 64), align_face(picture, face((90, 40, 250, 200)), 64, 0.1)
    )


@pytest.mark.parametrize("degrees", [-170, -90, -30, 12])
def test_rolled_face_is_levelled(degrees: float) -> None:
    picture = np.zeros((300, 300, 3), np.uint8)
    rolled = face((100, 90, 200, 190), degrees)
    for (x, y), channel in zip(rolled.landmarks, (0, 1), strict=True):
        dot = np.zeros((300, 300), np.uint8)
        cv2.circle(dot, (round(x * 16 - 8), round(y * 16 - 8)), 4 * 16, 255, cv2.FILLED, cv2.LINE_AA, shift=4)
        picture[..., channel] = dot
    cut = align_face(picture, rolled, 120).astype(float)
    rows, columns = np.mgrid[:120, :120]
    (right_x, right_y), (left_x, left_y) = (
        ((columns * cut[..., c]).sum() / cut[..., c].sum(), (rows * cut[..., c]).sum() / cut[..., c].sum())
        for c in (0, 1)
    )
    assert right_y == pytest.approx(left_y, abs=0.5)
    assert right_y == pytest.approx(59.5, abs=0.5)
    assert left_x - right_x == pytest.approx(50, abs=0.5)


@pytest.mark.parametrize(
    ("box", "same"),
    [
        ((-60, 40, 60, 160), np.s_[:, :50, 0]),
        ((40, 140, 160, 260), np.s_[-50:, :, 1]),
        ((-500, 40, -380, 160), np.s_[..., 0]),
        ((400, 400, 520, 520), np.s_[..., :2]),
    ],
    ids=["left", "bottom", "wholly left", "wholly below and right"],
)
def test_pixels_outside_frame_repeat_its_border(box: Box, same: object) -> None:
    picture = coordinates() + np.uint8(5)
    beyond = align_face(picture, face(box), 120)[same]
    assert set(np.unique(beyond)) <= {5, picture[..., 0].max(), picture[..., 1].max()}
    assert np.array_equal(beyond, np.broadcast_to(beyond[:1, :1], beyond.shape))


@pytest.mark.parametrize("ratio", [2, 2.4, 4, 16])
@pytest.mark.parametrize("offset", [0, 0.25])
def test_downscaling_does_not_alias(ratio: float, offset: float) -> None:
    y, x = np.mgrid[:600, :600]
    checkers = np.repeat(((x + y) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    low, high = 300 + offset - ratio * 16, 300 + offset + ratio * 16
    cut = align_face(checkers, face((low, low, high, high)), 32, 0)
    assert cut.mean() == pytest.approx(127.5, abs=2)
    assert cut.std() < 16


@pytest.mark.parametrize("quarters", [1, 2])
def test_quarter_turn_gives_same_crop(quarters: int) -> None:
    picture = cv2.GaussianBlur(clips.portrait(200, 200, 1.2), (0, 0), 2)
    upright = face((50, 40, 150, 140))
    turned, box = picture, np.array(upright.box).reshape(2, 2)
    eyes = upright.landmarks
    for _ in range(quarters):
        turned = np.ascontiguousarray(np.rot90(turned))
        box, eyes = (np.stack([points[:, 1], 200 - points[:, 0]], axis=1) for points in (box, eyes))
    low, high = box.min(axis=0), box.max(axis=0)
    cut = align_face(turned, Face((*map(float, low), *map(float, high)), np.float32(eyes), 0.9), 64)
    assert np.abs(cut.astype(float) - align_face(picture, upright, 64)).max() <= 2


@pytest.mark.parametrize("degrees", [-60, 33])
def test_any_rotation_gives_nearly_same_crop(degrees: float) -> None:
    picture = cv2.GaussianBlur(clips.portrait(300, 300, 1.2, y=118), (0, 0), 2)
    turn = cv2.getRotationMatrix2D((149.5, 149.5), -degrees, 1)
    turned = cv2.warpAffine(picture, turn, (300, 300), flags=cv2.INTER_CUBIC)
    difference = align_face(turned, face((100, 100, 200, 200), degrees), 64).astype(float) - align_face(
        picture, face((100, 100, 200, 200)), 64
    )
    assert np.abs(difference).mean() < 1
    assert np.abs(difference).max() < 12


@pytest.mark.parametrize(
    ("size", "box"), [(1, (-300, -300, 900, 900)), (48, (10, 10, 11, 11)), (224, (10.5, 20.25, 90, 70))]
)
def test_crops_are_contiguous_uint8_squares(size: int, box: Box) -> None:
    picture = clips.portrait()
    for view in (picture, picture[::2, ::-1], picture[:1, :1]):
        cut = align_face(np.ascontiguousarray(view), face(box), size)
        assert cut.shape == (size, size, 3)
        assert cut.dtype == np.uint8
        assert cut.flags.c_contiguous


def test_image_is_not_modified() -> None:
    picture = clips.portrait()
    before = picture.copy()
    align_face(picture, face((90, 40, 250, 200), 20), 64)
    assert np.array_equal(picture, before)
