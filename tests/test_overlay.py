"""Boxes, plates, bars and charts: position, contrast, and layout for any frame size."""

from __future__ import annotations

import numpy as np
import pytest

from fervid.analysis.clip_timeline import ClipTimeline, PersonTrack, TrackSegment
from fervid.render.colors import EMOTIONS, hex_to_rgb
from fervid.render.overlay import FaceOverlay, FrameAnnotator, draw_people
from fervid.render.overlay_chart import CHART_SECONDS
from fervid.render.overlay_layout import OverlayLayout

LABELS = tuple(EMOTIONS)
INK = [hex_to_rgb(colour) for colour in EMOTIONS.values()]
HAPPY = np.eye(8)[4] * 0.72 + 0.04
GROUND = (22, 24, 28)


def person(
    number: int, box: tuple[float, ...] = (40, 60, 80, 100), start: float = 0.0, end: float = 10.0, **more: object
) -> PersonTrack:
    """Somebody who is glad and does not move."""
    span = TrackSegment(np.array([start, end]), np.array([box, box], np.float64))
    times = np.array([start, end])
    return PersonTrack(number, end - start, np.array([start]), np.array([end]), (span,), times, np.stack([HAPPY] * 2))


def tale(*people: PersonTrack, end: float = 10.0, labels: tuple[str, ...] = LABELS) -> ClipTimeline:
    return ClipTimeline(labels, 0.0, end, people)


def grey(width: int, height: int, level: int = 128) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def paint(story: ClipTimeline, image: np.ndarray, time: float = 5.0) -> tuple[np.ndarray, np.ndarray, OverlayLayout]:
    """The picture and the panel under it."""
    height, width = image.shape[:2]
    layout = OverlayLayout.of(width, height, len(story.labels))
    canvas = FrameAnnotator(story, layout)(image, time)
    assert canvas.shape == (*layout.size[::-1], 3)
    return canvas[: height + height % 2], canvas[height + height % 2 :], layout


def amount(image: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(image.astype(int) - colour).max(axis=2) < 12).sum())


SIZES = [(320, 180), (321, 181), (64, 48), (1, 1), (1080, 1920), (1920, 1080), (3000, 50)]


@pytest.mark.parametrize(("size", "labels"), [*((size, 8) for size in SIZES), ((320, 180), 2), ((320, 180), 30)])
def test_layout_fits_every_size(size: tuple[int, int], labels: int) -> None:
    layout = OverlayLayout.of(*size, labels)
    width, height = layout.size
    assert (width % 2, height % 2) == (0, 0)
    assert width >= max(size[0], 256)
    assert height > size[1]
    assert 10 <= layout.text <= 40
    if min(size) > 100:
        assert layout.panel < 0.9 * size[1]


@pytest.mark.parametrize(
    ("level", "size"), [(0, (320, 180)), (128, (1920, 1080)), (255, (320, 180)), (255, (1920, 1080))]
)
def test_box_and_plate_have_contrast(level: int, size: tuple[int, int]) -> None:
    picture, *_ = paint(tale(person(0, (100, 60, 160, 120))), grey(*size, level))
    assert amount(picture, INK[4]) > 4 * 50
    plate = picture[: 60 - size[1] // 100, 100:150]
    assert (plate.min(axis=2) > 180).sum() > 20
    assert (plate.max(axis=2) < 100).sum() > 20
    edge = picture[60:120, 90:110].reshape(-1, 3)
    assert edge.min() <= 28, "a dark edge"
    assert (picture[80:100, 120:140] == level).all(), "the face itself stays as it is"


def test_frames_without_people_are_unchanged() -> None:
    image = np.random.default_rng(0).integers(0, 256, (180, 320, 3), np.uint8)
    story = tale(person(0, start=2, end=4))
    for time in (0.0, 1.9, 4.0, 9.0):
        assert (paint(story, image, time)[0] == image).all()
    assert (paint(story, image, 3.0)[0] != image).any()
    assert (paint(tale(), image)[0] == image).all()


@pytest.mark.parametrize("box", [(-20, -20, 30, 30), (300, 150, 340, 200), (-10, -10, 400, 400), (310, 0, 330, 10)])
def test_boxes_are_clipped_to_the_frame(box: tuple[float, ...]) -> None:
    picture, *_ = paint(tale(person(0, box)), grey(320, 180))
    assert amount(picture, INK[4]) > 10
    assert (picture.min(axis=2) > 180).sum() > 20, "what it says"


def test_plate_moves_with_box_and_does_not_jump() -> None:
    def plate(top: float) -> int:
        image = draw_people(
            grey(320, 180),
            [FaceOverlay(0, (100, top, 140, top + 40), HAPPY)],
            LABELS,
            INK,
            OverlayLayout.of(320, 180, 8),
        )
        return int(np.flatnonzero((image[:, 150:170] < 100).any(axis=(1, 2))).min())

    tops = [plate(top) for top in np.arange(60, -10, -1)]
    assert set(np.diff(tops)) <= {0, -1}
    assert tops[-1] == 0


def test_strip_shows_probabilities() -> None:
    layout, halves = OverlayLayout.of(1920, 1080, 2), np.array([0.75, 0.25])
    image = draw_people(
        grey(1920, 1080, 0), [FaceOverlay(0, (500, 500, 600, 600), halves)], ("a", "b"), INK[:2], layout
    )
    row = image[500 - max(2, layout.text // 6) - 2]
    first, second = ((np.abs(row.astype(int) - INK[i]).max(axis=1) < 3).sum() for i in (0, 1))
    assert first == pytest.approx(3 * second, abs=3)


def test_main_person_is_drawn_last() -> None:
    image = grey(320, 180)
    front, back = FaceOverlay(0, (100, 60, 160, 120), np.eye(8)[0]), FaceOverlay(1, (100, 60, 160, 120), np.eye(8)[4])
    draw_people(image, [front, back], LABELS, INK, OverlayLayout.of(320, 180, 8))
    assert tuple(image[90, 100]) == INK[0]


def test_bars_are_as_long_as_probabilities() -> None:
    story = tale(person(0))
    _, panel, _ = paint(story, grey(640, 360))
    left = panel[:, :140]
    assert amount(left, INK[4]) > 8 * amount(left, INK[0]) > 0
    _, nobody, _ = paint(story, grey(640, 360), 11.0)
    assert amount(nobody[:, :140], INK[4]) == 0


def test_chart_grows_with_time() -> None:
    story = tale(person(0))

    def reach(time: float) -> int:
        _, panel, _ = paint(story, grey(640, 360), time)
        return int(np.flatnonzero((np.abs(panel[:, 200:].astype(int) - INK[4]).max(axis=2) < 12).any(axis=0)).max())

    ends = [reach(time) for time in (1.0, 3.0, 6.0, 9.5)]
    assert ends == sorted(ends)
    steps = np.diff(ends) / np.diff([1.0, 3.0, 6.0, 9.5])
    assert steps == pytest.approx(np.full(3, steps.mean()), rel=0.05)


def test_chart_shows_last_seconds() -> None:
    story = tale(person(0, start=0, end=30.0), end=100.0)
    for time, there in ((25.0, True), (30.0 + CHART_SECONDS - 1, True), (31.0 + CHART_SECONDS, False)):
        _, panel, _ = paint(story, grey(640, 360), time)
        assert (amount(panel[:, 140:], INK[4]) > 0) == there, time


def test_chart_shows_gaps() -> None:
    both = person(0)
    gone = PersonTrack(
        0, 4, np.array([0.0, 8.0]), np.array([2.0, 10.0]), both.segments * 2, both.times, both.probabilities
    )
    _, panel, _ = paint(tale(gone), grey(640, 360), 9.99)
    columns = (np.abs(panel[:, 160:].astype(int) - INK[4]).max(axis=2) < 12).any(axis=0)
    starts = np.flatnonzero(np.diff(columns.astype(int)) == 1)
    assert len(starts) + columns[0] == 2
    assert columns.mean() < 0.5


def test_many_people_and_many_labels_do_not_break_layout() -> None:
    names = tuple(f"label {i}" for i in range(30))
    says = np.full(30, 1 / 30)
    people = [
        PersonTrack(i, 10, *(np.array([t]) for t in (0.0, 10.0)), person(0).segments, np.array([5.0]), says[None])
        for i in range(12)
    ]
    picture, panel, _ = paint(tale(*people, labels=names), grey(320, 180))
    assert (picture != 128).any()
    assert (panel != GROUND).any()


def test_box_follows_frame_size_change() -> None:
    story, layout = tale(person(0, (100, 60, 160, 120))), OverlayLayout.of(320, 180, 8)
    canvas = FrameAnnotator(story, layout)(grey(640, 360), 5.0)
    assert tuple(canvas[45, 50]) == INK[4]
    assert canvas.shape == (*layout.size[::-1], 3)


def test_odd_and_narrow_frames() -> None:
    image = np.random.default_rng(0).integers(30, 256, (181, 321, 3), np.uint8)
    picture, *_ = paint(tale(), image)
    assert (picture[:181, :321] == image).all()
    assert (picture[181, :321] == image[-1]).all()
    assert (picture[:181, 321] == image[:, -1]).all()
    narrow, *_ = paint(tale(), grey(100, 100))
    assert (narrow[:, :90] == GROUND).all()
    assert (narrow[:, -90:] == GROUND).all()
    assert amount(narrow, (128, 128, 128)) == 100 * 100


def test_canvas_can_be_reused() -> None:
    story, image = tale(person(0)), grey(320, 180)
    layout = OverlayLayout.of(320, 180, 8)
    painter, (width, height) = FrameAnnotator(story, layout), layout.size
    canvas = np.full((height, width, 3), 99, np.uint8)
    for time in (3.0, 11.0, 5.0):
        assert painter(image, time, canvas) is canvas
        assert (canvas == FrameAnnotator(story, layout)(image, time)).all()
    assert (image == 128).all(), "what is drawn on is no input"


@pytest.mark.parametrize("end", [0.0, 3.0, 7200.0])
def test_any_length_has_a_chart(end: float) -> None:
    story = tale(person(0, end=end or 1), end=end)
    for time in (0.0, end / 2, end):
        paint(story, grey(640, 360), time)
