"""Downscaling of images by powers of two: averaging blocks of 2 x 2 pixels is many times faster than other filters."""

from __future__ import annotations

import cv2
import numpy as np

from fervid.core.records import Image


def downscale_by_halves(image: Image, levels: int) -> Image:
    """Halve an image (h, w, 3) or (h, w), uint8, repeatedly; an odd last row or column is dropped.

    Args:
        image: The image.
        levels: How often to halve it; 0 returns it unchanged.
    """
    for _ in range(levels):
        height, width = (max(1, side // 2) for side in image.shape[:2])
        image = np.asarray(
            cv2.resize(image[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA), np.uint8
        )
    return image
