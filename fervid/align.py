"""Frame and face -> the square crop that every network sees: one preprocessing for training, export and inference."""

from __future__ import annotations

import cv2
import numpy as np

from fervid.records import Face, Image

MARGIN = 0.1
"""Share of the box's longer side that is added on each side. The network's card repeats it; the loader compares."""


def roll(face: Face) -> float:
    """By how many radians the line through the eyes is turned clockwise in the picture."""
    (right_x, right_y), (left_x, left_y) = face.landmarks[:2]
    return float(np.arctan2(left_y - right_y, left_x - right_x))


def crop(image: Image, face: Face, size: int, margin: float = MARGIN) -> Image:
    """Cut a face out upright: a square around the box, turned so that the eyes are level.

    What lies beyond the frame repeats its border pixels. Large faces are averaged down, so that no detail aliases.

    Args:
        image: (h, w, 3) uint8 RGB.
        face: A face of that image.
        size: Side of the crop in pixels.
        margin: Share of the box's longer side that is added on each side.

    Returns:
        (size, size, 3) uint8 RGB.
    """
    x1, y1, x2, y2 = face.box
    side = max(x2 - x1, y2 - y1) * (1 + 2 * margin)
    oversampling = max(1, round(side / size))
    scale = size * oversampling / side
    angle = roll(face)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    x, y, middle = (x1 + x2 - 1) / 2, (y1 + y2 - 1) / 2, (size * oversampling - 1) / 2  # of pixel centres
    to_crop = np.array([[cos, sin, middle - cos * x - sin * y], [-sin, cos, middle + sin * x - cos * y]])
    fine = cv2.warpAffine(
        image, to_crop, (size * oversampling,) * 2, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    shrunk = fine if oversampling == 1 else cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(shrunk, np.uint8)
