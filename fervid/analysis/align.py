"""Align and crop faces, in the same way for training, export and inference."""

from __future__ import annotations

from math import ceil, cos, floor, log2, sin

import cv2
import numpy as np

from fervid.core.images import downscale_by_halves
from fervid.core.records import Face, Image

MARGIN = 0.1
"""Margin of the face models trained here: fraction of the box's longer side that is added on each side."""


def roll_angle(face: Face) -> float:
    """Return the clockwise rotation of the line through the eyes, in radians."""
    (right_x, right_y), (left_x, left_y) = face.landmarks[:2]
    return float(np.arctan2(left_y - right_y, left_x - right_x))


def align_face(image: Image, face: Face, size: int, margin: float = MARGIN) -> Image:
    """Crop a square around a face, rotated so that the eyes are level.

    Pixels outside the frame repeat its border. Large faces are downscaled by averaging, which avoids aliasing; first by
    halves, which is faster.

    Args:
        image: (h, w, 3) uint8 RGB.
        face: A face of that image.
        size: Side of the crop in pixels.
        margin: Fraction of the box's longer side that is added on each side.

    Returns:
        (size, size, 3) uint8 RGB.
    """
    x1, y1, x2, y2 = face.box
    side, angle = max(x2 - x1, y2 - y1) * (1 + 2 * margin), roll_angle(face)
    x, y = (x1 + x2 - 1) / 2, (y1 + y2 - 1) / 2  # center of the box; pixel centers have integer coordinates
    for _ in range(floor(log2(max(side / size, 1)))):
        image, (left, top) = _crop_around(image, x, y, side * (abs(cos(angle)) + abs(sin(angle))) / 2)
        image, x, y, side = downscale_by_halves(image, 1), (x - left - 0.5) / 2, (y - top - 0.5) / 2, side / 2
    oversampling = max(1, round(side / size))
    scale, center = size * oversampling / side, (size * oversampling - 1) / 2
    cos_scaled, sin_scaled = scale * cos(angle), scale * sin(angle)
    to_crop = np.array(
        [
            [cos_scaled, sin_scaled, center - cos_scaled * x - sin_scaled * y],
            [-sin_scaled, cos_scaled, center + sin_scaled * x - cos_scaled * y],
        ]
    )
    warped = cv2.warpAffine(
        image, to_crop, (size * oversampling,) * 2, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    crop = warped if oversampling == 1 else cv2.resize(warped, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(crop, np.uint8)


def _crop_around(image: Image, x: float, y: float, reach: float) -> tuple[Image, tuple[int, int]]:
    """Return the part of an image within `reach` pixels of a point, at least one pixel, and its left and top edge."""
    rows, columns = (
        (min(max(0, floor(center - reach)), length - 1), min(max(1, ceil(center + reach) + 1), length))
        for center, length in ((y, image.shape[0]), (x, image.shape[1]))
    )
    return image[slice(*rows), slice(*columns)], (columns[0], rows[0])
