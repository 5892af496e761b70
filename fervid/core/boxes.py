"""Overlap of boxes (x1, y1, x2, y2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fervid.core.records import Box, FloatArray


def box_iou(a: Sequence[Box], b: Sequence[Box]) -> FloatArray:
    """Return the intersection over union of every box of `a` with every box of `b`: (len(a), len(b))."""
    first, second = np.array(a, np.float32).reshape(-1, 1, 4), np.array(b, np.float32).reshape(1, -1, 4)
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    intersection = np.prod(np.clip(sides, 0, None), axis=-1)
    areas = [np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1) for boxes in (first, second)]
    return np.asarray(intersection / (areas[0] + areas[1] - intersection), np.float32)


def intersection_over_min(a: Box, b: Box) -> float:
    """Return the fraction of the smaller box that lies in the other one."""
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    smaller = min((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b))
    return max(width, 0) * max(height, 0) / smaller
