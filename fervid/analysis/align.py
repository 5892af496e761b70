"""Frame and face -> the square crop that a network sees: one preprocessing for training, export and inference."""

from __future__ import annotations

from math import ceil, cos, floor, log2, sin

import cv2
import numpy as np

from fervid.core.images import downscale_by_halves
from fervid.core.records import Face, Image

MARGIN = 0.1
"""Share of the box's longer side that is added on each side, of the networks that are trained here."""


def roll_angle(face: Face) -> float:
    """By how many radians the line through the eyes is turned clockwise in the picture."""
    (right_x, right_y), (left_x, left_y) = face.landmarks[:2]
    return float(np.arctan2(left_y - right_y, left_x - right_x))


def align_face(image: Image, face: Face, size: int, margin: float = MARGIN) -> Image:
    """Cut a face out upright: a square around the box, turned so that the eyes are level.

    What lies beyond the frame repeats its border pixels. Large faces are averaged down, first two by two pixels, which
    is faster, so that no detail aliases.

    Args:
        image: (h, w, 3) uint8 RGB.
        face: A face of that image.
        size: Side of the crop in pixels.
        margin: Share of the box's longer side that is added on each side.

    Returns:
        (size, size, 3) uint8 RGB.
    """
    x1, y1, x2, y2 = face.box
    side, angle = max(x2 - x1, y2 - y1) * (1 + 2 * margin), roll_angle(face)
    x, y = (x1 + x2 - 1) / 2, (y1 + y2 - 1) / 2  # of pixel centres
    for _ in range(floor(log2(max(side / size, 1)))):
        image, (left, top) = _crop_around(image, x, y, side * (abs(cos(angle)) + abs(sin(angle))) / 2)
        image, x, y, side = downscale_by_halves(image, 1), (x - left - 0.5) / 2, (y - top - 0.5) / 2, side / 2
    oversampling = max(1, round(side / size))
    scale, middle = size * oversampling / side, (size * oversampling - 1) / 2
    along, across = scale * cos(angle), scale * sin(angle)
    to_crop = np.array(
        [[along, across, middle - along * x - across * y], [-across, along, middle + across * x - along * y]]
    )
    fine = cv2.warpAffine(
        image, to_crop, (size * oversampling,) * 2, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    shrunk = fine if oversampling == 1 else cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(shrunk, np.uint8)


def _crop_around(image: Image, x: float, y: float, reach: float) -> tuple[Image, tuple[int, int]]:
    """The part of a picture that lies within `reach` pixels of a place, one pixel at least, and where it begins."""
    rows, columns = (
        (min(max(0, floor(middle - reach)), length - 1), min(max(1, ceil(middle + reach) + 1), length))
        for middle, length in ((y, image.shape[0]), (x, image.shape[1]))
    )
    return image[slice(*rows), slice(*columns)], (columns[0], rows[0])
