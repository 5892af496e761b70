"""Faces are detected at the right place in frames of any size, and candidates are merged into one face each."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import clips
import toy_models
from fervid.analysis.detector import Detector, blend_overlapping, tiles
from fervid.core.records import Face
from fervid.models import registry

# Read off the photograph by eye: forehead to chin, ear to ear, and the pupils.
BOX = np.array([174, 75, 276, 178])
EYES = np.array([[203, 101], [246, 103]])


def detector(min_face: int = 24, name: str = "blazeface-back", **card: object) -> Detector:
    model = registry.load_model(name, "detector", 2)
    return Detector(model.session, {**model.card, **card}, min_face)


def paste(canvas: np.ndarray, face: float, x: float, y: float) -> np.ndarray:
    """Paste the astronaut's head, the face centered at x, y and `face` pixels wide, and return the face's box."""
    zoom = face / (BOX[2] - BOX[0])
    head = clips.astronaut()[:200, 110:340]
    small = cv2.resize(head, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR)
    left, top = round(x - zoom * (225 - 110)), round(y - zoom * 126)
    canvas[top : top + len(small), left : left + small.shape[1]] = small
    return zoom * (BOX - [110, 0, 110, 0]) + [left, top, left, top]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    a, b = np.asarray(a), np.asarray(b)
    shared = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    return float(shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared))


def candidates(*boxes: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes (n, 4), and two corners of each as its landmarks (n, 2, 2)."""
    array = np.array(boxes, np.float32).reshape(-1, 4)
    return array, array.reshape(-1, 2, 2)


@pytest.mark.parametrize(
    ("width", "height", "zoom"),
    [
        (320, 240, 1.6),
        (64, 64, 0.4),
        (100, 37, 0.3),
        (1280, 720, 4),
        (2000, 100, 0.7),
        (100, 2000, 0.7),
    ],
)
def test_face_is_found_in_frames_of_any_shape(width: int, height: int, zoom: float) -> None:
    (face,) = detector().detect(clips.portrait(width, height, zoom))
    shift = np.array([width / 2 - zoom * 222, height / 2 - zoom * 130])
    assert iou(face.box, zoom * BOX + np.tile(shift, 2)) > 0.8
    assert np.abs(face.landmarks[:2] - (zoom * EYES + shift)).max() < 0.08 * zoom * (BOX[2] - BOX[0])
    assert face.landmarks[0, 0] < face.landmarks[1, 0]
    assert 0.65 <= face.score <= 1


@pytest.mark.parametrize(
    ("shape", "min_face"), [((1, 1), 24), ((1, 300), 24), ((300, 1), 6), ((2, 2000), 6), ((2000, 2), 24), ((64, 64), 6)]
)
def test_tiny_frames_have_no_face(shape: tuple[int, int], min_face: int) -> None:
    assert detector(min_face).detect(np.full((*shape, 3), 127, np.uint8)) == []


@pytest.mark.parametrize(("width", "height"), [(320, 240), (1280, 720), (1000, 90)])
def test_scenery_has_no_face(width: int, height: int) -> None:
    assert detector(24).detect(clips.scenery(1, width, height)[0]) == []


def test_small_face_is_found_in_tiles_only() -> None:
    frame = clips.scenery(1, 1280, 720)[0]
    true = paste(frame, 17, 903, 411)
    (face,) = detector(min_face=12).detect(frame)
    assert iou(face.box, true) > 0.5
    assert detector(min_face=12, smallest_face=0.001).detect(frame) == []


def test_faces_of_all_sizes_are_found_once_sorted_by_area() -> None:
    frame = clips.scenery(1, 1920, 1080)[0]
    places = [(240, 400, 350), (110, 900, 200), (90, 1200, 250), (75, 1500, 330), (65, 1750, 200), (40, 1300, 800)]
    true = [paste(frame, *place) for place in places]
    faces = detector(min_face=12).detect(frame)
    assert [round(max(iou(face.box, box) for face in faces), 1) >= 0.7 for box in true] == [True] * len(true)
    assert len(faces) == len(true)
    assert [face.area for face in faces] == sorted((face.area for face in faces), reverse=True)


@pytest.mark.parametrize(("min_face", "found"), [(40, 2), (75, 1), (170, 0)])
def test_faces_below_min_face_are_dropped(min_face: int, found: int) -> None:
    frame = clips.scenery(1, 640, 400)[0]
    paste(frame, 150, 200, 200)
    paste(frame, 60, 500, 200)
    assert len(detector(min_face).detect(frame)) == found


@pytest.mark.parametrize(("size", "row", "column"), [(64, 5, 9), (128, 0, 0), (128, 15, 15), (160, 5, 9), (320, 5, 9)])
def test_boxes_and_landmarks_are_in_pixels_of_frame(
    tmp_path_factory: pytest.TempPathFactory, size: int, row: int, column: int
) -> None:
    model = registry.load_model(str(toy_models.detector(tmp_path_factory.mktemp("toy") / "toy.onnx")), "detector")
    cell = size * toy_models.CELL / toy_models.DETECTOR_SIDE
    frame = np.zeros((size, size, 3), np.uint8)
    bounds = [round(edge * cell) for edge in (row, row + 1, column, column + 1)]
    frame[bounds[0] : bounds[1], bounds[2] : bounds[3]] = 255
    (face,) = Detector(model.session, model.card, int(cell)).detect(frame)
    assert np.array(face.box) == pytest.approx(
        [column * cell, row * cell, (column + 1) * cell, (row + 1) * cell], abs=1e-3
    )
    assert face.landmarks[0] == pytest.approx([(column + 1 / 3) * cell, (row + 1 / 2) * cell], abs=1e-3)


def test_faces_of_tiles_are_in_pixels_of_frame(tmp_path_factory: pytest.TempPathFactory) -> None:
    model = registry.load_model(str(toy_models.detector(tmp_path_factory.mktemp("toy") / "toy.onnx")), "detector")
    frame = np.zeros((64, 128, 3), np.uint8)
    frame[8:12, 84:88] = 255  # the second tile begins at column 32, the third at 64
    (face,) = Detector(model.session, model.card, 4).detect(frame)
    assert face.box == (84, 8, 88, 12)


def test_tiles_are_run_one_by_one() -> None:
    sizes = []

    def run(_: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        count = len(feed["images"])
        sizes.append(count)
        return [np.zeros((count, 5, 4)), np.zeros((count, 5, 2, 2)), np.zeros((count, 5))]

    card = {"input": {"size": 16}, "threshold": 0.5, "new_track_threshold": 0.7, "smallest_face": 0.25}
    assert Detector(SimpleNamespace(run=run), card, 5).detect(np.zeros((600, 900, 3), np.uint8)) == []
    assert set(sizes) == {1}
    fine, coarse = tiles(600, 900, 20), [tiles(600, 900, side) for side in (40, 80, 160, 320, 640)]
    assert sum(sizes) == 1 + len(fine) + sum(map(len, coarse)) + 1  # the last with a border, as there is no sure face


@pytest.mark.parametrize(
    ("frame", "min_face", "shapes", "bordered", "score"),
    [
        ((360, 640), None, {(288, 480)}, (192, 256), 0.0),  # faces from 16 pixels, which become 12
        ((360, 640), None, {(288, 480)}, (192, 256), 0.69),
        ((360, 640), None, {(288, 480)}, None, 0.7),  # a sure face, so none fills the frame
        ((1080, 1920), None, {(288, 480)}, (192, 256), 0.0),
        ((640, 360), None, {(480, 288)}, (256, 192), 0.0),
        ((1080, 1920), 100, {(288, 480)}, (192, 256), 0.0),  # no coarser, or large faces would be seen badly
        ((360, 640), 12, {(384, 640)}, (192, 256), 0.0),
        ((60, 80), None, {(64, 96)}, (128, 128), 0.0),
        ((1080, 1920), 24, {(544, 640), (384, 640)}, (192, 256), 0.0),  # tiles, and the whole frame
        ((1, 1), None, {(32, 32)}, (32, 32), 0.0),
    ],
)
def test_flexible_inputs_are_no_larger_than_needed(
    frame: tuple[int, int],
    min_face: int | None,
    shapes: set[tuple[int, int]],
    bordered: tuple[int, int] | None,
    score: float,
) -> None:
    seen = []

    def run(_: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        seen.append(feed["images"].shape[1:3])
        return [np.zeros((1, 5, 4)), np.zeros((1, 5, 2, 2)), np.full((1, 5), score)]

    card = {
        "input": {"size": 640, "multiple": 32},
        "threshold": 0.5,
        "new_track_threshold": 0.7,
        "smallest_face": 12 / 640,
    }
    assert Detector(SimpleNamespace(run=run), card, min_face).detect(np.zeros((*frame, 3), np.uint8)) == []
    if bordered:
        assert seen.pop() == bordered
    assert set(seen) == shapes


def brightness(_: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Act as a model that detects all bright pixels together as one face."""
    boxes = np.zeros((len(feed["images"]), 1, 4), np.float32)
    for box, image in zip(boxes[:, 0], feed["images"], strict=True):
        rows, columns = np.nonzero(image[..., 0] > 127)
        if len(rows):
            box[:] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return [boxes, boxes.reshape(-1, 1, 2, 2), np.where(boxes[..., 2] > 0, np.float32(0.9), 0)]


@pytest.mark.parametrize(("zoom", "beyond"), [(1, 0), (4, 8), (7, 0)])
def test_face_that_fills_frame_is_found(zoom: float, beyond: int) -> None:
    x1, y1, x2, y2 = BOX + np.array([beyond, beyond, -beyond, -beyond])
    frame = cv2.resize(clips.astronaut()[y1:y2, x1:x2], None, fx=zoom, fy=zoom, interpolation=cv2.INTER_LINEAR)
    face = detector().detect(frame)[0]
    assert iou(np.array(face.box) / zoom + [x1, y1, x1, y1], BOX) > 0.55
    assert face.score >= registry.load_model("blazeface-back", "detector").card["new_track_threshold"]
    assert np.abs(face.landmarks[:2] / zoom + [x1, y1] - EYES).max() < 20


@pytest.mark.parametrize(
    ("width", "height", "sure", "share", "found"),
    [
        (100, 100, 0.0, 0.95, 1),
        (200, 100, 0.0, 0.95, 1),
        (100, 240, 0.0, 0.95, 1),
        (640, 480, 0.0, 0.95, 1),
        (640, 480, 0.0, 0.42, 1),
        (640, 480, 0.0, 0.38, 0),
        (640, 480, 0.69, 0.95, 1),
        (640, 480, 0.71, 0.95, 0),
    ],
)
def test_padded_frame_is_searched_without_confident_detection(
    width: int, height: int, sure: float, share: float, found: int
) -> None:
    side = share * min(width, height)
    true = np.array([-5, 3, side - 5, side + 3], np.float32)
    longer = max(width, height)
    inputs = (true + 0.25 * longer) * 128 / (1.5 * longer)
    outputs = [(np.zeros(4, np.float32), sure), (inputs, 0.9)]

    def run(_: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        box, score = outputs.pop(0)
        return [box.reshape(1, 1, 4), box.reshape(1, 1, 2, 2), np.full((1, 1), score, np.float32)]

    card = {"input": {"size": 128}, "threshold": 0.5, "new_track_threshold": 0.7, "smallest_face": 0.05}
    faces = Detector(SimpleNamespace(run=run), card, 32).detect(np.zeros((height, width, 3), np.uint8))
    assert len(outputs) == (sure >= 0.7)
    assert [face.box for face in faces] == [pytest.approx(true, abs=0.5)] * found
    for face in faces:
        assert face.landmarks == pytest.approx(true.reshape(2, 2), abs=0.5)


@pytest.mark.parametrize("seed", range(4))
def test_face_across_tiles_is_found_whole_and_precisely(seed: int) -> None:
    random = np.random.default_rng(seed)
    card = {"input": {"size": 128}, "threshold": 0.5, "new_track_threshold": 0.7, "smallest_face": 0.05}
    frame = np.zeros((400, 640, 3), np.uint8)
    side = int(random.integers(10, 39))
    x, y = (int(random.integers(0, length - side)) for length in (640, 400))
    frame[y : y + side, x : x + side] = 255
    (face,) = Detector(SimpleNamespace(run=brightness), card, 8).detect(frame)
    pixel = 8 / 0.05 / 128
    assert np.abs(np.array(face.box) - [x, y, x + side, y + side]).max() <= (pixel / 2 if side < 0.2 * 160 else pixel)


@pytest.mark.parametrize(
    ("width", "height", "side", "found"),
    [(320, 240, 10, 0), (320, 240, 14, 1), (640, 360, 14, 0), (640, 360, 18, 1), (360, 640, 14, 0), (1280, 720, 34, 1)],
)
def test_default_min_face_is_a_fortieth_and_at_least_12_px(width: int, height: int, side: int, found: int) -> None:
    card = {"input": {"size": 128}, "threshold": 0.5, "new_track_threshold": 0.7, "smallest_face": 0.05}
    frame = np.zeros((height, width, 3), np.uint8)
    frame[100 : 100 + side, 120 : 120 + side] = 255
    assert len(Detector(SimpleNamespace(run=brightness), card).detect(frame)) == found


def test_detect_coarse_finds_large_faces_only() -> None:
    canvas = np.full((1080, 1920, 3), 128, np.uint8)
    large, small = paste(canvas, 300, 500, 500), paste(canvas, 40, 1500, 300)
    found = detector(24).detect(canvas)
    assert [iou(face.box, box) > 0.5 for face, box in zip(found, (large, small), strict=True)] == [True, True]
    [coarse] = detector(24).detect_coarse(canvas)
    assert iou(coarse.box, large) > 0.5


@pytest.mark.parametrize(("x", "y", "off"), [(1500, 300, -30), (1500, 300, 30), (80, 80, 0), (1840, 1000, 30)])
def test_detect_around_finds_face(x: float, y: float, off: float) -> None:
    canvas = np.full((1080, 1920, 3), 128, np.uint8)
    box = paste(canvas, 60, x, y)
    x1, y1, x2, y2 = box + off
    [face] = detector(24).detect_around(canvas, (x1, y1, x2, y2))
    assert iou(face.box, box) > 0.5


def test_detect_around_finds_face_that_fills_frame() -> None:
    canvas = clips.portrait(200, 200, 1.9, 225, 126)
    [found] = detector(24).detect(canvas)
    [near] = detector(24).detect_around(canvas, found.box)
    assert near.box == found.box


def test_detect_around_empty_place_finds_nothing() -> None:
    canvas = np.full((480, 640, 3), 128, np.uint8)
    paste(canvas, 60, 500, 300)
    assert detector(24).detect_around(canvas, (100.0, 100.0, 160.0, 160.0)) == []


@pytest.mark.parametrize("side", [1, 2, 5, 64])
def test_tiles_cover_every_pixel_and_overlap_by_quarter(side: int) -> None:
    lengths = {1, side - 1, side, side + 1, side * 7 // 4, side * 7 // 4 + 1, 3 * side, 10 * side + 3} - {0}
    for length in sorted(lengths):
        starts = [x for x, y, _ in tiles(side, length, side) if y == 0]
        assert starts == [y for _, y, _ in tiles(length, side, side)]
        assert starts[0] == 0
        assert starts[-1] + side >= length
        assert starts[-1] == 0 or starts[-1] + side == length
        assert all(0 < after - before <= max(1, 0.75 * side) for before, after in pairwise(starts))


def test_tiles_cover_both_directions() -> None:
    assert tiles(8, 8, 8) == [(0, 0, 8)]
    assert tiles(8, 9, 8) == [(0, 0, 8), (1, 0, 8)]
    assert tiles(14, 9, 8) == [(x, y, 8) for y in (0, 6) for x in (0, 1)]


def test_no_candidates_give_no_faces() -> None:
    assert blend_overlapping(*candidates(), np.zeros(0, np.float32)) == []


@pytest.mark.parametrize("shift", [0, 5])
def test_overlapping_candidates_are_blended_by_score(shift: float) -> None:
    (face,) = blend_overlapping(*candidates([0, 0, 10, 10], [shift, 0, 10 + shift, 10]), np.float32([0.6, 0.9]))
    assert face.box == pytest.approx((0.6 * shift, 0, 10 + 0.6 * shift, 10), abs=1e-5)
    assert face.landmarks == pytest.approx(np.array([[0.6 * shift, 0], [10 + 0.6 * shift, 10]]), abs=1e-5)
    assert face.score == pytest.approx(0.9)


CANDIDATES = {
    "apart, best first": ([[0, 0, 10, 10], [20, 0, 30, 10]], [0.7, 0.8], [1, 0]),
    "side by side": ([[0, 0, 10, 10], [10, 0, 20, 10]], [0.8, 0.8], [0, 1]),
    "small in large": ([[0, 0, 40, 40], [10, 10, 20, 20]], [0.9, 0.8], [0]),
    "large around small": ([[0, 0, 40, 40], [10, 10, 20, 20]], [0.8, 0.9], [1]),
    "small mostly outside large": ([[0, 0, 40, 40], [36, 10, 46, 20]], [0.9, 0.8], [0, 1]),
    "small mostly inside large": ([[0, 0, 40, 40], [32, 10, 42, 20]], [0.9, 0.8], [0]),
    "no area": ([[5, 5, 5, 9], [0, 0, 10, 10], [3, 3, 3, 3]], [0.9, 0.8, 0.7], [1]),
    "no width, as large as the other": ([[20, 0, 10, 10], [0, 0, 10, 10]], [0.9, 0.8], [1]),
    "inside out": ([[20, 20, 10, 10], [12, 12, 18, 18]], [0.7, 0.8], [1]),
    "a cheek of a close-up": ([[15, 23, 231, 239], [161, 75, 276, 190]], [0.86, 0.69], [0]),
    "half of a face that fills the frame": ([[120, 4, 594, 478], [316, -53, 943, 574]], [0.73, 0.68], [0]),
    "a small head in the corner of a large one's box": ([[0, 0, 40, 40], [34, 0, 46, 12]], [0.9, 0.8], [0, 1]),
    "heads that touch": ([[0, 0, 40, 40], [22, 0, 62, 40]], [0.9, 0.8], [0, 1]),
}


@pytest.mark.parametrize(("boxes", "scores", "kept"), CANDIDATES.values(), ids=CANDIDATES)
def test_candidates_of_one_face_are_merged(boxes: list[list[float]], scores: list[float], kept: list[int]) -> None:
    faces = blend_overlapping(*candidates(*boxes), np.float32(scores))
    assert [list(face.box) for face in faces] == [boxes[i] for i in kept]
    assert all(isinstance(face, Face) for face in faces)


CLOSE_UPS = [(6, 640, 360, 6.81, 201, 106), (2, 320, 240, 2.46, 229, 111), (0, 640, 480, 8.68, 221, 108)]


@pytest.mark.parametrize(("person", "width", "height", "zoom", "x", "y"), CLOSE_UPS, ids=str)
def test_close_up_is_one_face(person: int, width: int, height: int, zoom: float, x: float, y: float) -> None:
    assert len(detector().detect(clips.portrait(width, height, zoom, x, y, person))) == 1


def test_merged_faces_are_sorted_by_score() -> None:
    random = np.random.default_rng(5)
    boxes, landmarks = candidates(*([30 * i, 0, 30 * i + 20, 20] for i in range(20)))
    scores = random.permutation(np.linspace(0.5, 0.95, 20)).astype(np.float32)
    found = [face.score for face in blend_overlapping(boxes, landmarks, scores)]
    assert found == pytest.approx(np.sort(scores)[::-1])
