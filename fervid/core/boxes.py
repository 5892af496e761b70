"""Overlap of boxes (x1, y1, x2, y2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fervid.core.records import Box, FloatArray

Boxes = Sequence[Box] | FloatArray


def box_iou(a: Boxes, b: Boxes) -> FloatArray:
    """Return the intersection over union of every box of `a` with every box of `b`: (len(a), len(b))."""
    intersection, area_a, area_b = _intersections(a, b)
    return np.asarray(intersection / (area_a + area_b - intersection))


def intersection_over_min(a: Boxes, b: Boxes) -> FloatArray:
    """Return the fraction of the smaller of two boxes that lies in the other one: (len(a), len(b))."""
    intersection, area_a, area_b = _intersections(a, b)
    return np.asarray(intersection / np.minimum(area_a, area_b))


def _intersections(a: Boxes, b: Boxes) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the areas of the intersections, of `a` and of `b`, which broadcast to (len(a), len(b))."""
    first, second = np.array(a, np.float32).reshape(-1, 1, 4), np.array(b, np.float32).reshape(1, -1, 4)
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    areas = [np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1) for boxes in (first, second)]
    return np.prod(np.clip(sides, 0, None), axis=-1), areas[0], areas[1]
