"""Frames -> faces: box, landmarks and score, through any detector that speaks the contract below.

The ONNX file takes `images` (n, h, w, 3) uint8 RGB and gives `boxes` (n, a, 4), `landmarks` (n, a, k, 2) in input
pixels and `scores` (n, a). Its card names `threshold`, `open_score`, from which a face is sure, `input.size`, the
longest side of an input, and `smallest_face`, the smallest face that it finds as a share of that. Inputs are squares of
that size, or, if the card names `input.multiple`, of any sides up to it that are multiples of that. Whatever else
differs between detectors stays inside their graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import floor, log2
from typing import Any

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from fervid.core.images import downscale_by_halves
from fervid.core.records import Box, Face, FloatArray, Image

MERGE_IOU = 0.3  # faces that share more than this (intersection over union) are one face
MERGE_CONTAINMENT = 0.7  # and so are those of which one holds this much of the other
PAD_FRACTION = 0.25  # of the frame's longer side, put around it to find a face that fills it; its shorter side at most
MIN_FILLING_FACE = 0.4  # of the shorter side: the smallest face that is looked for there
LARGE_FACE_INPUT_PX = (
    256  # pixels are enough of a frame that is filled by a face; in more a detector of small faces sees its parts
)
ROI_SCALE = 4  # sides of a box: the square that is looked at when a face was lost


@dataclass(frozen=True, slots=True)
class Detector:
    """A face detector: call it with a frame to find every face, or let it `glance` to see the large ones.

    Attributes:
        session: The ONNX network.
        card: Its `input.size`, `threshold`, `open_score` and `smallest_face`.
        min_face: Shorter side in frame pixels of the smallest face to look for; None for a fortieth of the frame's
            longer side, and at least 12. Frames in which such a face would be too small for the network are looked at
            again in overlapping tiles, coarse ones and fine ones.
    """

    session: onnxruntime.InferenceSession
    card: Mapping[str, Any]
    min_face: int | None = None

    def __post_init__(self) -> None:
        if not all(0 < self.card[name] <= 1 for name in ("threshold", "open_score")):
            raise ValueError(f"scores from {self.card['threshold']} and {self.card['open_score']}")

    def __call__(self, image: Image) -> list[Face]:
        """Find the faces of a frame.

        Args:
            image: (h, w, 3) uint8 RGB, of any size.

        Returns:
            Faces of that size at least, the largest first; empty if there are none.
        """
        height, width = image.shape[:2]
        return self._find(image, self._windows(height, width, self._least(image)), filling=True)

    @property
    def sure(self) -> float:
        """Score from which a face is one."""
        return float(self.card["open_score"])

    def glance(self, image: Image) -> list[Face]:
        """Look at the whole frame only: several times faster, but small faces are overlooked."""
        return self._find(image, [(0, 0, max(image.shape[:2]), 0.0)], filling=False)

    def near(self, image: Image, box: Box) -> list[Face]:
        """Look around a place where a face of that size was."""
        height, width = image.shape[:2]
        side = round(ROI_SCALE * max(box[2] - box[0], box[3] - box[1]))
        if side >= max(height, width):
            return self._find(image, [(0, 0, max(height, width), 0.0)], filling=True)
        x, y = (
            max(0, min(round((low + high - side) / 2), length - side))
            for low, high, length in ((box[0], box[2], width), (box[1], box[3], height))
        )
        return self._find(image, [(x, y, side, 0.0)], filling=False)

    def _least(self, image: Image) -> int:
        return _default_min_face(image) if self.min_face is None else self.min_face

    def _find(self, image: Image, windows: Sequence[tuple[int, int, int, float]], *, filling: bool) -> list[Face]:
        least, scale = self._least(image), np.inf
        if "multiple" in self.card["input"]:
            scale = self.card["smallest_face"] * self.card["input"]["size"] / min(least, _default_min_face(image))
        at = cache(lambda times: downscale_by_halves(image, times))
        looks = [self._look(at, *window, scale) for window in windows]
        if filling and max(scores.max(initial=0) for *_, scores in looks) < self.card["open_score"]:
            looks.append(self._filling(image, scale))
        faces = blend_overlapping(*(np.concatenate(column) for column in zip(*looks, strict=True)))
        return sorted((face for face in faces if face.size >= least), key=lambda face: -face.area)

    def _filling(self, image: Image, scale: float) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Candidates that fill the frame, as in clips of cut faces: the network knows a face by what is around it."""
        border = min(round(PAD_FRACTION * max(image.shape[:2])), *image.shape[:2])
        padded = np.asarray(cv2.copyMakeBorder(image, border, border, border, border, cv2.BORDER_REPLICATE), np.uint8)
        side, least = max(padded.shape), MIN_FILLING_FACE * min(image.shape[:2])
        at = cache(lambda times: downscale_by_halves(padded, times))
        boxes, landmarks, scores = self._look(at, 0, 0, side, least, min(scale, LARGE_FACE_INPUT_PX / side))
        return boxes - border, landmarks - border, scores

    def _windows(self, height: int, width: int, min_face: int) -> list[tuple[int, int, int, float]]:
        """Squares (x, y, side) to look at, each with the smallest face that counts there.

        Tiles of one size see every face up to a quarter of their side whole; the next size starts a little below, and
        is so much larger that the network can still see those. The last is the whole frame.
        """
        longer, visible = max(height, width), self.card["smallest_face"]
        windows: list[tuple[int, int, int, float]] = []
        side, least = min_face / visible, 0.0
        while side < longer:
            windows += [(*tile, least) for tile in tiles(height, width, round(side))]
            side, least = side * max(2, 0.25 / visible), 0.2 * side
        return [*windows, (0, 0, longer, least)]

    def _look(
        self, at: Callable[[int], Image], x: int, y: int, side: int, least: float, scale: float
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Candidates in one square: boxes (n, 4) and landmarks (n, k, 2) in pixels of the frame, and scores (n,).

        One square at a time is faster than a batch of them, because it stays in the processor's cache. Enlarging it
        by more than `scale` would show nothing that counts. `at` gives the frame, halved so many times.
        """
        size = self.card["input"]["size"]
        multiple = self.card["input"].get("multiple", size)
        scale = min(size / side, scale)
        times = max(0, floor(-log2(scale)))
        x, y = ((start >> times) << times for start in (x, y))
        part = at(times)[y >> times : (y + side) >> times, x >> times : (x + side) >> times]
        left = scale * 2**times
        height, width = (max(1, min(size, round(length * left))) for length in part.shape[:2])
        picture = np.zeros((1, -(-height // multiple) * multiple, -(-width // multiple) * multiple, 3), np.uint8)
        picture[0, :height, :width] = cv2.resize(
            part, (width, height), interpolation=cv2.INTER_AREA if left < 1 else cv2.INTER_LINEAR
        )
        found = self.session.run(["boxes", "landmarks", "scores"], {"images": picture})
        boxes, landmarks, scores = (column[0][found[2][0] >= self.card["threshold"]] for column in found)

        start, frame = np.array([x, y], np.float32), np.array(at(0).shape[1::-1], np.float32)
        boxes, landmarks = boxes / scale + np.tile(start, 2), landmarks / scale + start
        extent = np.max(boxes[:, 2:] - boxes[:, :2], axis=1)
        cut = ((boxes[:, :2] <= start) & (start > 0)) | ((boxes[:, 2:] >= start + side) & (start + side < frame))
        fits = (extent >= least) & ((extent < side / 2) | (side >= frame.max()))
        counts = fits & ~np.any(cut, axis=1)
        return boxes[counts], landmarks[counts], scores[counts]


def _default_min_face(image: Image) -> int:
    """The smallest face that is looked for, as a rule."""
    longer: int = max(image.shape[:2])
    return max(12, round(longer / 40))


def tiles(height: int, width: int, side: int) -> list[tuple[int, int, int]]:
    """Squares (x, y, side) that cover a picture and overlap by a quarter at least.

    Nothing of the picture's smaller details is lost on a seam: whatever is shorter than side / 4 lies whole in one.
    """

    def starts(length: int) -> list[int]:
        if length <= side:
            return [0]
        count = -(-(length - side) // max(1, side * 3 // 4)) + 1
        return [round(i * (length - side) / (count - 1)) for i in range(count)]

    return [(x, y, side) for y in starts(height) for x in starts(width)]


def blend_overlapping(boxes: FloatArray, landmarks: FloatArray, scores: FloatArray) -> list[Face]:
    """Candidates -> one face each: the blending of overlapping boxes of BlazeFace (arXiv 1907.05047, section 3.4).

    Instead of keeping the best of overlapping candidates, their positions are averaged by score, which flickers less.
    A candidate whose middle lies in a face, as that of half of it, or of another scale, is no other face: people whose
    heads touch are further apart.

    Args:
        boxes: (n, 4) x1, y1, x2, y2.
        landmarks: (n, k, 2).
        scores: (n,).

    Returns:
        Faces in falling order of score; empty for n = 0.
    """
    order = np.argsort(-scores, kind="stable")
    boxes, landmarks, scores = boxes[order], landmarks[order], scores[order]
    area = np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1)
    left = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
    faces = []
    for best in range(len(boxes)):
        if not left[best]:
            continue
        sides = np.minimum(boxes[best, 2:], boxes[:, 2:]) - np.maximum(boxes[best, :2], boxes[:, :2])
        shared = np.prod(np.clip(sides, 0, None), axis=1)
        iou = shared / (area + area[best] - shared)
        same = left & (iou > MERGE_IOU)
        left &= ~same & (shared <= MERGE_CONTAINMENT * np.minimum(area, area[best]))
        weight = scores[same] / scores[same].sum()
        blended = weight @ boxes[same]
        left &= ~_is_inside(blended, boxes)
        x1, y1, x2, y2 = (float(v) for v in blended)
        faces.append(Face((x1, y1, x2, y2), np.tensordot(weight, landmarks[same], 1), float(scores[best])))
    return faces


def _is_inside(box: FloatArray, boxes: FloatArray) -> NDArray[np.bool_]:
    """(n,) whether the middle of the smaller of two boxes lies in the ellipse that the larger one encloses.

    Args:
        box: (4,) x1, y1, x2, y2.
        boxes: (n, 4).
    """
    apart = (boxes[:, :2] + boxes[:, 2:] - box[:2] - box[2:]) / 2
    halves, others = (box[2:] - box[:2]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    larger = np.where((others.prod(axis=1) > halves.prod())[:, None], others, halves)
    return np.asarray(np.square(apart / np.maximum(larger, 1e-6)).sum(axis=1) < 1)
