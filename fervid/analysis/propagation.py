"""The faces of a frame -> the same faces in the next one, without looking for them anew.

Points on each face are followed by pyramidal Lucas-Kanade (Bouguet, Intel 2000), forwards and back again (Kalal et al.,
ICPR 2010); the similarity that carries most of them over moves box and landmarks, and what lies there must still look
like what the detector saw. A face that is lost sends for the detector at once, and it looks regularly for new ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import floor, inf, log2
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from fervid.core.images import downscale_by_halves
from fervid.core.records import Box, Face, FloatArray, Frame, Image

FULL_DETECT_FACTOR = 8  # times longer than from glance to glance it may take until small faces are searched for
IDLE_INTERVAL_S = 0.2  # seconds between looks while there is nobody to follow
IDLE_FULL_DETECT_S = 2.0  # seconds for which every one of those is a search; then there are glances in between
_TEMPLATE_PX = 24  # pixels: frames are halved while the smallest face keeps as many
_POINTS_PER_SIDE = 5  # points along each side of a face
_ROI_STEP = 64  # pixels of the halved frame around the faces, in which they can move; and the grid of what is cut out
_POINT_AREA = 0.8  # of the box: what surrounds it moves otherwise
_MAX_FB_ERROR = 1.0  # pixels by which a point may miss its beginning on the way back
_MIN_INLIERS = 0.5  # of the points must come back
_MIN_NCC = 0.6  # correlation with what the detector saw
_MAX_SCALE_STEP = 1.3  # factor by which a face may grow or shrink from one frame to the next
_MIN_OVERLAP = 0.5  # of the smaller box: what glances and what is followed are one face
_MAX_AREA_RATIO = 3  # times as large another face is, at least
_UNCONFIRMED_S = 2.0  # seconds for which a face that the detector is not sure of is looked at closer
_MAX_ROI_CHECKS = 3  # small faces that are looked at one by one; for more, a search is as fast
_CUT_THUMBNAIL = (32, 18)  # pixels of the picture in which a cut shows
_MIN_SCENE_NCC = 0.7  # correlation of two of them
_TIME_EPS = 1e-6  # seconds; sums of times are not exact
_FLOW: Any = {"winSize": (9, 9), "maxLevel": 3, "criteria": (3, 10, 0.03)}

_Points = NDArray[np.complex128]  # x + iy, so that a similarity is a product and a sum


class FaceDetector(Protocol):
    """A detector: called it searches a frame (h, w, 3) uint8 RGB for every face."""

    @property
    def sure(self) -> float:
        """Score from which a face is one."""

    def __call__(self, image: Image, /) -> list[Face]:
        """Every face of a frame, the largest first."""

    def glance(self, image: Image, /) -> list[Face]:
        """Those that can be seen at once."""

    def near(self, image: Image, box: Box, /) -> list[Face]:
        """Those around a place."""


class FlowTracker:
    """Finds the faces of one clip, frame by frame; the detector is asked only when it has to be.

    It glances now and then, for new faces and to correct what has drifted, and searches for small ones more seldom. A
    face that cannot be followed is looked for where it was, and one that the detector is not sure of is looked at
    closer for a while. After a cut, and when nobody is left, all of the frame is searched.
    """

    def __init__(self, eyes: FaceDetector, every: float) -> None:
        """Begin a clip.

        Args:
            eyes: The detector.
            every: Seconds from glance to glance; 0 lets the detector search every frame.
        """
        self._eyes, self._every = eyes, every
        self._glanced = self._searched = self._closer = self._seen = inf
        self._image: Image = np.zeros((0, 0, 3), np.uint8)
        self._held: list[_TrackedFace] = []
        self._patch: _GrayRoi | None = None

    def __call__(self, frame: Frame) -> list[Face]:
        """The faces of the next frame, the largest first; its picture is kept until the one after it, not copied."""
        seldom = self._every * (FULL_DETECT_FACTOR if self._held else 1)
        if not 0 <= frame.time - self._searched < seldom - _TIME_EPS or frame.image.shape != self._image.shape:
            return self._search(frame)
        since = frame.time - self._glanced
        if not self._held:
            if since < IDLE_INTERVAL_S - _TIME_EPS:
                return []
            patient = frame.time - self._seen < IDLE_FULL_DETECT_S - _TIME_EPS
            return self._search(frame) if patient or self._appeared(frame) else []
        self._seen = frame.time
        region = _region((one.face for one in self._held), self._held[0].halvings, frame.image)
        before = self._patch if self._patch and self._patch.region == region else _extract_gray(self._image, region)
        now = _extract_gray(frame.image, region)
        moved = _propagate(self._held, before, now)
        lost = [held for held, there in zip(self._held, moved, strict=True) if there is None]
        held = [there for there in moved if there is not None]
        if lost and _is_scene_cut(self._image, frame.image):
            return self._search(frame)
        if since >= self._every - _TIME_EPS:
            return self._glance(frame, held, lost)
        for one in lost:
            face = self._near(frame, one.face)
            if face and not any(_intersection_over_min(face, other.face) > _MIN_OVERLAP for other in held):
                held.append(one.replaced(face, frame.image))
        if not held:
            return self._search(frame)
        if frame.time - self._closer >= IDLE_INTERVAL_S - _TIME_EPS:
            held = self._surer(frame, held)
        self._image, self._patch, self._held = frame.image, now, sorted(held, key=lambda one: -one.face.area)
        return [held.face for held in self._held]

    def _near(self, frame: Frame, face: Face) -> Face | None:
        """A face where one was lost."""
        found = [
            new
            for new in self._eyes.near(frame.image, face.box)
            if _intersection_over_min(new, face) > 0 and _similar_size(new, face)
        ]
        return max(found, key=lambda new: _intersection_over_min(new, face), default=None)

    def _surer(self, frame: Frame, held: list[_TrackedFace]) -> list[_TrackedFace]:
        """The faces, with those that are doubtful looked at closer."""
        self._closer = frame.time
        doubts = (one.face.score < self._eyes.sure and frame.time < one.doubtful for one in held)
        near = [self._near(frame, one.face) if doubt else None for one, doubt in zip(held, doubts, strict=True)]
        return [one.replaced(face, frame.image) if face else one for one, face in zip(held, near, strict=True)]

    def _search(self, frame: Frame) -> list[Face]:
        self._searched = self._glanced = frame.time
        self._seen = min(self._seen, frame.time)
        return self._hold(frame, [(face, False) for face in self._eyes(frame.image)])

    def _appeared(self, frame: Frame) -> bool:
        self._glanced = frame.time
        return bool(self._eyes.glance(frame.image))

    def _glance(self, frame: Frame, moved: list[_TrackedFace], lost: list[_TrackedFace]) -> list[Face]:
        """What is seen now replaces what was followed; what was never seen at a glance is too small: look closer."""
        self._glanced = frame.time
        found = [
            face for face in self._eyes.glance(frame.image) if not any(_is_fragment(face, held.face) for held in moved)
        ]

        def unseen(held: _TrackedFace) -> bool:
            return not any(_intersection_over_min(held.face, face) > _MIN_OVERLAP for face in found)

        if any(unseen(held) for held in (*lost, *(held for held in moved if held.glanced))):
            return self._search(frame)
        small = [held.face for held in moved if unseen(held)]
        if len(small) > _MAX_ROI_CHECKS:
            return self._search(frame)
        faces = [(face, True) for face in found]
        faces += [(self._near(frame, face) or face, False) for face in small]
        return self._hold(frame, sorted(faces, key=lambda one: -one[0].area))

    def _hold(self, frame: Frame, faces: list[tuple[Face, bool]]) -> list[Face]:
        """Follow these faces from here on, each with whether it was seen at a glance."""
        self._image, before, self._held, self._closer = frame.image, self._held, [], frame.time
        if not faces:
            return []
        halvings = max(0, floor(log2(max(min(face.size for face, _ in faces), 1) / _TEMPLATE_PX)))
        patch = self._patch = _extract_gray(frame.image, _region((face for face, _ in faces), halvings, frame.image))
        for face, glanced in faces:
            known = (held.doubtful for held in before if _intersection_over_min(held.face, face) > _MIN_OVERLAP)
            doubtful = -inf if face.score >= self._eyes.sure else next(known, frame.time + _UNCONFIRMED_S)
            self._held.append(_TrackedFace(face, _template(patch, face), halvings, glanced, doubtful))
        return [face for face, _ in faces]


class _Roi(NamedTuple):
    """A part of a frame that was halved some times, in its pixels."""

    left: int
    top: int
    right: int
    bottom: int
    halvings: int


class _GrayRoi(NamedTuple):
    """What is to be seen there."""

    gray: Image  # (bottom - top, right - left)
    region: _Roi


@dataclass(frozen=True, slots=True, eq=False)
class _TrackedFace:
    """A face that is followed.

    Attributes:
        face: Where it is.
        seen: How it looked to the detector.
        halvings: Of the reduced frames.
        glanced: Whether the detector sees it at a glance.
        doubtful: Until when the detector is asked again whether it is one, in seconds.
    """

    face: Face
    seen: FloatArray
    halvings: int
    glanced: bool
    doubtful: float

    @property
    def points(self) -> _Points:
        """What is followed of it, in pixels of the reduced frames."""
        x1, y1, x2, y2 = (side * 0.5**self.halvings for side in self.face.box)
        steps = np.linspace(-_POINT_AREA / 2, _POINT_AREA / 2, _POINTS_PER_SIDE)
        across = complex((x1 + x2) / 2, (y1 + y2) / 2) + (x2 - x1) * steps
        return np.asarray((across + 1j * (y2 - y1) * steps[:, None]).ravel())

    def moved(self, turn: complex, shift: complex) -> _TrackedFace:
        """The face after z -> turn z + shift, in pixels of the reduced frames; its box stays upright."""
        shift *= 2**self.halvings
        x1, y1, x2, y2 = self.face.box
        centre = turn * complex((x1 + x2) / 2, (y1 + y2) / 2) + shift
        half = abs(turn) * complex(x2 - x1, y2 - y1) / 2
        low, high = centre - half, centre + half
        landmarks = turn * (self.face.landmarks[:, 0] + 1j * self.face.landmarks[:, 1]) + shift
        face = Face((low.real, low.imag, high.real, high.imag), _columns(landmarks), self.face.score)
        return replace(self, face=face)

    def replaced(self, face: Face, image: Image) -> _TrackedFace:
        """What was found where this face was lost."""
        return replace(
            self, face=face, seen=_template(_extract_gray(image, _region([face], self.halvings, image)), face)
        )


def _is_fragment(small: Face, face: Face) -> bool:
    """Whether what was found is only a part of a face that is seen better."""
    return (
        small.score < face.score
        and _intersection_over_min(small, face) > _MIN_OVERLAP
        and not _similar_size(small, face)
    )


def _similar_size(a: Face, b: Face) -> bool:
    """Whether two faces are about as large."""
    return max(a.area, b.area) < _MAX_AREA_RATIO * min(a.area, b.area)


def _propagate(held: list[_TrackedFace], before: _GrayRoi, now: _GrayRoi) -> list[_TrackedFace | None]:
    """Each face in the same part of the next frame; None for one that is lost."""
    points = [one.points for one in held]
    corner = complex(now.region.left, now.region.top)
    start = _columns(np.concatenate(points) - corner)
    there, found = _flow(before.gray, now.gray, start)
    back, returned = _flow(now.gray, before.gray, there)
    kept = found & returned & (np.abs(back - start).max(axis=1) <= _MAX_FB_ERROR)
    ends = there[:, 0].astype(np.float64) + 1j * there[:, 1] + corner
    moved, each = [], _POINTS_PER_SIDE * _POINTS_PER_SIDE
    for i, one in enumerate(held):
        rows = np.flatnonzero(kept[i * each : (i + 1) * each])
        new = None
        if len(rows) >= _MIN_INLIERS * each:
            turn, shift = _fit_similarity(points[i][rows], ends[i * each + rows])
            if 1 / _MAX_SCALE_STEP <= abs(turn) <= _MAX_SCALE_STEP:
                new = one.moved(turn, shift)
        moved.append(new if new and np.vdot(one.seen, _template(now, new.face)) >= _MIN_NCC else None)
    return moved


def _flow(before: Image, now: Image, points: FloatArray) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Where points (n, 2) went, and which of them were found there."""
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, now, points, np.zeros_like(points), **_FLOW)
    return np.asarray(there, np.float32), np.asarray(found).ravel().astype(bool)


def _is_scene_cut(before: Image, now: Image) -> bool:
    """Whether another scene begins: little of the coarse picture is as it was."""
    across, down = (side // (5 * coarse) for side, coarse in zip(now.shape[1::-1], _CUT_THUMBNAIL, strict=True))
    step = max(1, min(across, down))  # five by five pixels are enough for the mean of a coarse one
    coarse = (
        cv2.resize(image[::step, ::step], _CUT_THUMBNAIL, interpolation=cv2.INTER_AREA) for image in (before, now)
    )
    rows = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).ravel().astype(np.float32) for image in coarse]
    apart = [row - row.mean() for row in rows]
    return float(np.vdot(*apart)) < _MIN_SCENE_NCC * float(np.prod([np.linalg.norm(row) for row in apart]))


def _fit_similarity(begins: _Points, ends: _Points) -> tuple[complex, complex]:
    """The turn and shift that bring most points nearest to where they went; the worse half of them does not count."""
    turn, shift = _least_squares(begins, ends)
    missed = np.abs(turn * begins + shift - ends)
    good = missed <= np.median(missed)
    return _least_squares(begins[good], ends[good])


def _least_squares(begins: _Points, ends: _Points) -> tuple[complex, complex]:
    middle = begins.mean()
    apart = begins - middle
    turn = complex(np.vdot(apart, ends) / max(float(np.vdot(apart, apart).real), 1e-9))
    return turn, complex(ends.mean() - turn * middle)


def _template(patch: _GrayRoi, face: Face) -> FloatArray:
    """A small picture (s, s) of the face, upright, free of brightness and contrast."""
    left, top, *_, halvings = patch.region
    x1, y1, x2, y2 = (side * 0.5**halvings for side in face.box)
    (right_x, right_y), (left_x, left_y) = face.landmarks[:2]
    turn = np.exp(1j * np.arctan2(left_y - right_y, left_x - right_x)) * max(x2 - x1, y2 - y1) / _TEMPLATE_PX
    shift = (
        complex((x1 + x2 - 1) / 2 - left, (y1 + y2 - 1) / 2 - top)
        - turn * complex(_TEMPLATE_PX - 1, _TEMPLATE_PX - 1) / 2
    )
    to_frame = np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    small = cv2.warpAffine(
        patch.gray, to_frame, (_TEMPLATE_PX, _TEMPLATE_PX), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    values = small.astype(np.float32)
    values -= values.mean()
    return np.asarray(values / max(float(np.linalg.norm(values)), 1e-6), np.float32)


def _intersection_over_min(a: Face, b: Face) -> float:
    """How much of the smaller box lies in the other."""
    width, height = (min(a.box[i + 2], b.box[i + 2]) - max(a.box[i], b.box[i]) for i in (0, 1))
    return max(width, 0) * max(height, 0) / min(a.area, b.area)


def _region(faces: Iterable[Face], halvings: int, image: Image) -> _Roi:
    """Where faces are, and could be in the next frame."""
    boxes = np.array([face.box for face in faces]).reshape(-1, 2, 2) / 2**halvings
    size = np.array([max(1, side >> halvings) for side in image.shape[1::-1]])
    low, high = np.floor(boxes[:, 0].min(axis=0) / _ROI_STEP) - 1, np.ceil(boxes[:, 1].max(axis=0) / _ROI_STEP) + 1
    low = np.clip(low * _ROI_STEP, 0, np.maximum(size - _ROI_STEP, 0)).astype(int)
    high = np.clip(high * _ROI_STEP, np.minimum(low + _ROI_STEP, size), size).astype(int)
    return _Roi(int(low[0]), int(low[1]), int(high[0]), int(high[1]), halvings)


def _extract_gray(image: Image, region: _Roi) -> _GrayRoi:
    """The brightness of a part of a frame."""
    left, top, right, bottom = (side << region.halvings for side in region[:4])
    return _GrayRoi(
        np.asarray(
            cv2.cvtColor(downscale_by_halves(image[top:bottom, left:right], region.halvings), cv2.COLOR_RGB2GRAY),
            np.uint8,
        ),
        region,
    )


def _columns(points: _Points) -> FloatArray:
    return np.stack([points.real, points.imag], axis=1).astype(np.float32)
