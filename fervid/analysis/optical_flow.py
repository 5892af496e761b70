"""Propagate faces from one frame to the next by sparse optical flow.

A grid of points on each face is tracked by pyramidal Lucas-Kanade (Bouguet, Intel 2000), and points that fail the
forward-backward check (Kalal et al., ICPR 2010) are dropped. A similarity transform is fitted to the other points and
applied to the box and the landmarks. The face counts as lost if the result does not correlate with its template.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import floor, log2
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from fervid.analysis.align import roll_angle
from fervid.core.images import downscale_by_halves
from fervid.core.records import Face, FloatArray, Image

ROI_STEP = 64  # pixels of the downscaled frame: margin around the faces, and grid to which the region is aligned
_TEMPLATE_PX = 24  # side of a template; frames are halved while the smallest face stays at least this large
_POINTS_PER_SIDE = 5  # tracked points along each side of a face
_POINT_AREA = 0.8  # fraction of the box's side that the points cover, to keep off the background
_MAX_FB_ERROR = 1.0  # pixels: largest forward-backward error of a point
_MIN_INLIERS = 0.5  # fraction of a face's points that must pass the forward-backward check
_MIN_NCC = 0.6  # lowest normalised cross-correlation with the template
_MAX_SCALE_STEP = 1.3  # largest change of a face's scale between two frames
_CUT_THUMBNAIL = (32, 18)  # width and height of the thumbnails that are compared to detect a scene cut
_MIN_SCENE_NCC = 0.7  # correlation of the thumbnails below which the scene has changed
_FLOW_OPTIONS: Any = {"winSize": (9, 9), "maxLevel": 3, "criteria": (3, 10, 0.03)}

_Points = NDArray[np.complex128]  # x + iy, so that a similarity transform is z -> factor * z + shift


class Roi(NamedTuple):
    """A rectangle in pixels of a frame that was halved `level` times."""

    left: int
    top: int
    right: int
    bottom: int
    level: int


class GrayRoi(NamedTuple):
    """The grey values of a region of a frame, (bottom - top, right - left) uint8."""

    gray: Image
    roi: Roi


@dataclass(frozen=True, slots=True, eq=False)
class TrackedFace:
    """A face that is propagated from frame to frame.

    Attributes:
        face: Its box and landmarks in the current frame.
        template: What it looked like when it was last detected, as `extract_template` returns it.
        level: How many times frames are halved for the optical flow.
        seen_coarse: Whether the last coarse detection found it.
        unconfirmed_until: Time in seconds up to which its score is checked again; -inf for a confident detection.
    """

    face: Face
    template: FloatArray
    level: int
    seen_coarse: bool
    unconfirmed_until: float

    def grid_points(self) -> _Points:
        """Return the points to track, in pixels of the downscaled frame."""
        x1, y1, x2, y2 = (side * 0.5**self.level for side in self.face.box)
        steps = np.linspace(-_POINT_AREA / 2, _POINT_AREA / 2, _POINTS_PER_SIDE)
        top_row = complex((x1 + x2) / 2, (y1 + y2) / 2) + (x2 - x1) * steps
        return np.asarray((top_row + 1j * (y2 - y1) * steps[:, None]).ravel())

    def transform(self, factor: complex, shift: complex) -> TrackedFace:
        """Apply z -> factor * z + shift, in pixels of the downscaled frame; the box stays upright."""
        shift *= 2**self.level
        x1, y1, x2, y2 = self.face.box
        center = factor * complex((x1 + x2) / 2, (y1 + y2) / 2) + shift
        half = abs(factor) * complex(x2 - x1, y2 - y1) / 2
        low, high = center - half, center + half
        landmarks = factor * (self.face.landmarks[:, 0] + 1j * self.face.landmarks[:, 1]) + shift
        box = (low.real, low.imag, high.real, high.imag)
        return replace(self, face=Face(box, _to_xy(landmarks), self.face.score, detected=False))

    def reinitialise(self, face: Face, image: Image) -> TrackedFace:
        """Continue from a new detection of this face, with a new template."""
        gray = extract_gray(image, roi_around([face], self.level, image))
        return replace(self, face=face, template=extract_template(gray, face))


def pyramid_level(faces: Iterable[Face]) -> int:
    """Return how often frames can be halved without the smallest face falling below the template's size."""
    return max(0, floor(log2(max(min(face.size for face in faces), 1) / _TEMPLATE_PX)))


def roi_around(faces: Iterable[Face], level: int, image: Image) -> Roi:
    """Return the region that the faces can reach by the next frame."""
    boxes = np.array([face.box for face in faces]).reshape(-1, 2, 2) / 2**level
    size = np.array([max(1, side >> level) for side in image.shape[1::-1]])
    low, high = np.floor(boxes[:, 0].min(axis=0) / ROI_STEP) - 1, np.ceil(boxes[:, 1].max(axis=0) / ROI_STEP) + 1
    low = np.clip(low * ROI_STEP, 0, np.maximum(size - ROI_STEP, 0)).astype(int)
    high = np.clip(high * ROI_STEP, np.minimum(low + ROI_STEP, size), size).astype(int)
    return Roi(int(low[0]), int(low[1]), int(high[0]), int(high[1]), level)


def extract_gray(image: Image, roi: Roi) -> GrayRoi:
    """Cut a region out of a frame, downscale it and convert it to greyscale."""
    left, top, right, bottom = (side << roi.level for side in roi[:4])
    downscaled = downscale_by_halves(image[top:bottom, left:right], roi.level)
    return GrayRoi(np.asarray(cv2.cvtColor(downscaled, cv2.COLOR_RGB2GRAY), np.uint8), roi)


def extract_template(gray: GrayRoi, face: Face) -> FloatArray:
    """Return the face, upright and normalised to mean 0 and norm 1: (s, s)."""
    left, top, *_, level = gray.roi
    x1, y1, x2, y2 = (side * 0.5**level for side in face.box)
    factor = np.exp(1j * roll_angle(face)) * max(x2 - x1, y2 - y1) / _TEMPLATE_PX
    shift = (
        complex((x1 + x2 - 1) / 2 - left, (y1 + y2 - 1) / 2 - top)
        - factor * complex(_TEMPLATE_PX - 1, _TEMPLATE_PX - 1) / 2
    )
    to_frame = np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    upright = cv2.warpAffine(
        gray.gray, to_frame, (_TEMPLATE_PX, _TEMPLATE_PX), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    values = upright.astype(np.float32)
    values -= values.mean()
    return np.asarray(values / max(float(np.linalg.norm(values)), 1e-6), np.float32)


def propagate_faces(tracked: list[TrackedFace], before: GrayRoi, after: GrayRoi) -> list[TrackedFace | None]:
    """Move each face to where it is in the next frame.

    Args:
        tracked: Faces of the frame before.
        before: A region of that frame.
        after: The same region of the next frame.

    Returns:
        One entry for each face; None if it was lost.
    """
    points = [face.grid_points() for face in tracked]
    corner = complex(after.roi.left, after.roi.top)
    starts = _to_xy(np.concatenate(points) - corner)
    ends, tracked_forward = _track_points(before.gray, after.gray, starts)
    returned, tracked_back = _track_points(after.gray, before.gray, ends)
    inliers = tracked_forward & tracked_back & (np.abs(returned - starts).max(axis=1) <= _MAX_FB_ERROR)
    targets = ends[:, 0].astype(np.float64) + 1j * ends[:, 1] + corner
    propagated, per_face = [], _POINTS_PER_SIDE * _POINTS_PER_SIDE
    for i, old in enumerate(tracked):
        rows = np.flatnonzero(inliers[i * per_face : (i + 1) * per_face])
        new = None
        if len(rows) >= _MIN_INLIERS * per_face:
            factor, shift = fit_similarity(points[i][rows], targets[i * per_face + rows])
            if 1 / _MAX_SCALE_STEP <= abs(factor) <= _MAX_SCALE_STEP:
                new = old.transform(factor, shift)
        propagated.append(new if new and np.vdot(old.template, extract_template(after, new.face)) >= _MIN_NCC else None)
    return propagated


def is_scene_cut(before: Image, after: Image) -> bool:
    """Decide from thumbnails of two frames whether the scene has changed between them."""
    across, down = (side // (5 * px) for side, px in zip(after.shape[1::-1], _CUT_THUMBNAIL, strict=True))
    step = max(1, min(across, down))  # 5 x 5 samples are enough for the mean of a thumbnail's pixel
    thumbnails = (
        cv2.resize(image[::step, ::step], _CUT_THUMBNAIL, interpolation=cv2.INTER_AREA) for image in (before, after)
    )
    rows = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).ravel().astype(np.float32) for image in thumbnails]
    centered = [row - row.mean() for row in rows]
    return float(np.vdot(*centered)) < _MIN_SCENE_NCC * float(np.prod([np.linalg.norm(row) for row in centered]))


def fit_similarity(starts: _Points, ends: _Points) -> tuple[complex, complex]:
    """Fit ends = factor * starts + shift by least squares, twice: the second time to the better half of the points."""
    factor, shift = least_squares(starts, ends)
    residuals = np.abs(factor * starts + shift - ends)
    better_half = residuals <= np.median(residuals)
    return least_squares(starts[better_half], ends[better_half])


def least_squares(starts: _Points, ends: _Points) -> tuple[complex, complex]:
    """Fit ends = factor * starts + shift to all points; for a single point the factor is 0."""
    mean = starts.mean()
    centered = starts - mean
    factor = complex(np.vdot(centered, ends) / max(float(np.vdot(centered, centered).real), 1e-9))
    return factor, complex(ends.mean() - factor * mean)


def _track_points(before: Image, after: Image, points: FloatArray) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Return where points (n, 2) moved to, and which of them were tracked (n,)."""
    ends, status, _ = cv2.calcOpticalFlowPyrLK(before, after, points, np.zeros_like(points), **_FLOW_OPTIONS)
    return np.asarray(ends, np.float32), np.asarray(status).ravel().astype(bool)


def _to_xy(points: _Points) -> FloatArray:
    return np.stack([points.real, points.imag], axis=1).astype(np.float32)
