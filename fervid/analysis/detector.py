"""Detect faces in a frame: boxes, landmarks and scores, with any ONNX model that meets the contract below.

The model takes `images` (n, h, w, 3) uint8 RGB and returns `boxes` (n, a, 4) and `landmarks` (n, a, k, 2) in input
pixels, and `scores` (n, a). Anchors and decoding are part of its graph. Its card gives `threshold`, the lowest score of
a detection; `new_track_threshold`, the lowest score of a confident one; `input.size`, the longest side of an input; and
`smallest_face`, the size of the smallest face that the model finds, as a fraction of the input. Inputs are squares of
`input.size`; if the card gives `input.multiple`, their sides may be any multiples of it up to that size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, inf, log2
from typing import Any, NamedTuple

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from fervid.core.boxes import box_iou, intersection_over_min
from fervid.core.images import downscale_by_halves
from fervid.core.records import Box, Face, FloatArray, Image, check

MERGE_IOU = 0.3  # intersection over union above which two candidates are one face
MERGE_CONTAINMENT = 0.7  # fraction of the smaller candidate inside the other above which they are one face
PAD_FRACTION = 0.25  # of the longer side: border added to find a face that fills the frame; at most the shorter side
MIN_FILLING_FACE = 0.4  # of the shorter side: smallest face that is searched for in the padded frame
LARGE_FACE_INPUT_PX = 256  # longest input side for the padded frame; in larger ones only parts of the face are found
ROI_SCALE = 4  # side of the region searched around a box, as a multiple of the box's longer side


class _Tile(NamedTuple):
    """A square of a frame, in its pixels, and the smallest face to keep from it."""

    x: int
    y: int
    side: int
    min_extent: float = 0.0


class _Candidates(NamedTuple):
    """Detections before merging, in pixels of the frame."""

    boxes: FloatArray  # (n, 4)
    landmarks: FloatArray  # (n, k, 2)
    scores: FloatArray  # (n,)


class _ImagePyramid:
    """An image at full size (level 0), half of it (level 1), and so on; each level is computed on first use."""

    def __init__(self, image: Image) -> None:
        self._levels = [image]

    def __getitem__(self, level: int) -> Image:
        while len(self._levels) <= level:
            self._levels.append(downscale_by_halves(self._levels[-1], 1))
        return self._levels[level]


@dataclass(frozen=True, slots=True)
class Detector:
    """A face detector: `detect` finds every face of a frame, `detect_coarse` the large ones only.

    Attributes:
        session: The ONNX model.
        card: Its `input.size`, `threshold`, `new_track_threshold` and `smallest_face`.
        min_face: Shorter side of the smallest face to find, in pixels of the frame. None means 1/40 of the frame's
            longer side, and at least 12. If the model cannot see such faces in the whole frame, `detect` also searches
            overlapping tiles of several sizes.
    """

    session: onnxruntime.InferenceSession
    card: Mapping[str, Any]
    min_face: int | None = None

    def __post_init__(self) -> None:
        threshold, new_track_threshold = self.card["threshold"], self.card["new_track_threshold"]
        check(
            0 < threshold <= 1 and 0 < new_track_threshold <= 1,
            f"threshold and new_track_threshold must be in (0, 1], got {threshold} and {new_track_threshold}",
        )

    @property
    def new_track_threshold(self) -> float:
        """Score from which a detection is confident enough to start a track."""
        return float(self.card["new_track_threshold"])

    def detect(self, image: Image) -> list[Face]:
        """Find the faces of a frame.

        Args:
            image: (h, w, 3) uint8 RGB, of any size.

        Returns:
            Faces of at least `min_face` pixels, the largest first; may be empty.
        """
        return self._detect_tiles(image, self._tile_pyramid(image), may_fill_frame=True)

    def detect_coarse(self, image: Image) -> list[Face]:
        """Search the frame as a whole, without tiles: several times faster, but misses small faces."""
        return self._detect_tiles(image, [_Tile(0, 0, max(image.shape[:2]))], may_fill_frame=False)

    def detect_around(self, image: Image, box: Box) -> list[Face]:
        """Search a square of `ROI_SCALE` times the size of a box around it."""
        height, width = image.shape[:2]
        side = round(ROI_SCALE * max(box[2] - box[0], box[3] - box[1]))
        if side >= max(height, width):
            return self._detect_tiles(image, [_Tile(0, 0, max(height, width))], may_fill_frame=True)
        x, y = (
            max(0, min(round((low + high - side) / 2), length - side))
            for low, high, length in ((box[0], box[2], width), (box[1], box[3], height))
        )
        return self._detect_tiles(image, [_Tile(x, y, side)], may_fill_frame=False)

    def _min_face(self, image: Image) -> int:
        return _default_min_face(image) if self.min_face is None else self.min_face

    def _detect_tiles(self, image: Image, tiles: Sequence[_Tile], *, may_fill_frame: bool) -> list[Face]:
        """Run the model on each tile and merge the results.

        If no tile has a confident detection and a face `may_fill_frame`, the model also searches for such a face.
        """
        min_face, max_scale = self._min_face(image), inf
        if "multiple" in self.card["input"]:
            smallest_px = self.card["smallest_face"] * self.card["input"]["size"]
            max_scale = smallest_px / min(min_face, _default_min_face(image))
        pyramid = _ImagePyramid(image)
        candidates = [self._run_tile(pyramid, tile, max_scale) for tile in tiles]
        if may_fill_frame and max(c.scores.max(initial=0) for c in candidates) < self.card["new_track_threshold"]:
            candidates.append(self._detect_large_face(image, max_scale))
        faces = blend_overlapping(*(np.concatenate(column) for column in zip(*candidates, strict=True)))
        return sorted((face for face in faces if face.size >= min_face), key=lambda face: -face.area)

    def _detect_large_face(self, image: Image, max_scale: float) -> _Candidates:
        """Find a face that fills the frame, as in clips of cropped faces.

        The frame is padded, because the model needs some background around a face.
        """
        pad = min(round(PAD_FRACTION * max(image.shape[:2])), *image.shape[:2])
        padded = np.asarray(cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_REPLICATE), np.uint8)
        side = max(padded.shape)
        tile = _Tile(0, 0, side, MIN_FILLING_FACE * min(image.shape[:2]))
        boxes, landmarks, scores = self._run_tile(
            _ImagePyramid(padded), tile, min(max_scale, LARGE_FACE_INPUT_PX / side)
        )
        return _Candidates(boxes - pad, landmarks - pad, scores)

    def _tile_pyramid(self, image: Image) -> list[_Tile]:
        """Return tiles of growing size, in which the model can see faces of every size from `min_face`.

        Tiles of one size contain every face of up to a quarter of their side completely. The next size is as large as
        the model can see faces of a little less than that. The last tile is the whole frame.
        """
        height, width = image.shape[:2]
        longer, smallest = max(height, width), self.card["smallest_face"]
        result: list[_Tile] = []
        side, min_extent = self._min_face(image) / smallest, 0.0
        while side < longer:
            result += [_Tile(*tile, min_extent) for tile in tiles(height, width, round(side))]
            side, min_extent = side * max(2, 0.25 / smallest), 0.2 * side
        return [*result, _Tile(0, 0, longer, min_extent)]

    def _run_tile(self, pyramid: _ImagePyramid, tile: _Tile, max_scale: float) -> _Candidates:
        """Run the model on one tile.

        The scale from frame to input pixels is at most `max_scale`. Candidates are dropped if they are smaller than
        `min_extent`, if the tile's edge cuts them off, or if they are larger than half of a tile that is not the whole
        frame. Running tiles one by one is faster than in a batch, because one tile stays in the processor's cache.
        """
        size = self.card["input"]["size"]
        multiple = self.card["input"].get("multiple", size)
        scale = min(size / tile.side, max_scale)
        level = max(0, floor(-log2(scale)))
        x, y = ((start >> level) << level for start in (tile.x, tile.y))
        crop = pyramid[level][y >> level : (y + tile.side) >> level, x >> level : (x + tile.side) >> level]
        resize = scale * 2**level
        height, width = (max(1, min(size, round(length * resize))) for length in crop.shape[:2])
        images = np.zeros((1, -(-height // multiple) * multiple, -(-width // multiple) * multiple, 3), np.uint8)
        images[0, :height, :width] = cv2.resize(
            crop, (width, height), interpolation=cv2.INTER_AREA if resize < 1 else cv2.INTER_LINEAR
        )
        outputs = self.session.run(["boxes", "landmarks", "scores"], {"images": images})
        boxes, landmarks, scores = (output[0][outputs[2][0] >= self.card["threshold"]] for output in outputs)

        corner, frame_size = np.array([x, y], np.float32), np.array(pyramid[0].shape[1::-1], np.float32)
        boxes, landmarks = boxes / scale + np.tile(corner, 2), landmarks / scale + corner
        extent = np.max(boxes[:, 2:] - boxes[:, :2], axis=1)
        cut_low = (boxes[:, :2] <= corner) & (corner > 0)
        cut_high = (boxes[:, 2:] >= corner + tile.side) & (corner + tile.side < frame_size)
        fits = (extent >= tile.min_extent) & ((extent < tile.side / 2) | (tile.side >= frame_size.max()))
        kept = fits & ~np.any(cut_low | cut_high, axis=1)
        return _Candidates(boxes[kept], landmarks[kept], scores[kept])


def tiles(height: int, width: int, side: int) -> list[tuple[int, int, int]]:
    """Cover a frame with squares (x, y, side) that overlap by at least a quarter of their side.

    Anything shorter than side / 4 therefore lies completely in one of them.
    """

    def starts(length: int) -> list[int]:
        if length <= side:
            return [0]
        count = -(-(length - side) // max(1, side * 3 // 4)) + 1
        return [round(i * (length - side) / (count - 1)) for i in range(count)]

    return [(x, y, side) for y in starts(height) for x in starts(width)]


def blend_overlapping(boxes: FloatArray, landmarks: FloatArray, scores: FloatArray) -> list[Face]:
    """Merge candidates by the blending variant of non-maximum suppression of BlazeFace (arXiv 1907.05047, section 3.4).

    Overlapping candidates are averaged, weighted by score, instead of keeping the best one: positions flicker less. A
    candidate that is mostly contained in a face, or whose center lies in it, is dropped as a part of that face or as
    the same face at another scale; the centers of two heads that touch are further apart.

    Args:
        boxes: (n, 4) x1, y1, x2, y2.
        landmarks: (n, k, 2).
        scores: (n,).

    Returns:
        Faces in falling order of score; empty for n = 0.
    """
    order = np.argsort(-scores, kind="stable")
    order = order[np.all(boxes[order, 2:] > boxes[order, :2], axis=1)]
    boxes, landmarks, scores = boxes[order], landmarks[order], scores[order]
    iou, contained = box_iou(boxes, boxes), intersection_over_min(boxes, boxes)
    remaining = np.ones(len(boxes), bool)
    faces = []
    for best in range(len(boxes)):
        if not remaining[best]:
            continue
        overlapping = remaining & (iou[best] > MERGE_IOU)
        remaining &= ~overlapping & (contained[best] <= MERGE_CONTAINMENT)
        weight = scores[overlapping] / scores[overlapping].sum()
        blended = weight @ boxes[overlapping]
        remaining &= ~_is_inside(blended, boxes)
        x1, y1, x2, y2 = (float(v) for v in blended)
        faces.append(Face((x1, y1, x2, y2), np.tensordot(weight, landmarks[overlapping], 1), float(scores[best])))
    return faces


def _default_min_face(image: Image) -> int:
    longer: int = max(image.shape[:2])
    return max(12, round(longer / 40))


def _is_inside(box: FloatArray, boxes: FloatArray) -> NDArray[np.bool_]:
    """Compare a box (4,) with others (n, 4), all x1, y1, x2, y2.

    Returns:
        (n,) whether the center of the smaller of the two lies in the ellipse inscribed in the larger one.
    """
    offset = (boxes[:, :2] + boxes[:, 2:] - box[:2] - box[2:]) / 2
    half_size, half_sizes = (box[2:] - box[:2]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    larger = np.where((half_sizes.prod(axis=1) > half_size.prod())[:, None], half_sizes, half_size)
    return np.asarray(np.square(offset / np.maximum(larger, 1e-6)).sum(axis=1) < 1)
