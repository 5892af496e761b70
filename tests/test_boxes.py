"""Overlap of boxes."""

from __future__ import annotations

import numpy as np
import pytest

from fervid.core.boxes import box_iou, intersection_over_min
from fervid.core.records import Box


@pytest.mark.parametrize(
    ("a", "b", "value"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1),
        ((0, 0, 10, 10), (10, 0, 20, 10), 0),
        ((0, 0, 10, 10), (30, 30, 40, 40), 0),
        ((0, 0, 10, 10), (5, 0, 15, 10), 1 / 3),
        ((0, 0, 10, 10), (5, 5, 15, 15), 25 / 175),
        ((0, 0, 10, 10), (2, 2, 7, 7), 0.25),
        ((-5, -5, 5, 5), (0, 0, 10, 10), 25 / 175),
    ],
)
def test_box_iou_of_two_boxes(a: Box, b: Box, value: float) -> None:
    assert box_iou([a], [b]) == pytest.approx(np.array([[value]]))
    assert box_iou([b], [a]) == pytest.approx(np.array([[value]]))


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (0, 2), (2, 0), (1, 3), (3, 1), (2, 2)])
def test_box_iou_has_a_row_and_a_column_for_each_box(rows: int, columns: int) -> None:
    a, b = [(i, 0, i + 10, 10) for i in range(rows)], [(0, i, 10, i + 10) for i in range(columns)]
    iou = box_iou(a, b)
    assert iou.shape == (rows, columns)
    assert all(iou[i, j] == pytest.approx(box_iou([a[i]], [b[j]])[0, 0]) for i in range(rows) for j in range(columns))


@pytest.mark.parametrize(
    ("a", "b", "value"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1),
        ((0, 0, 10, 10), (10, 0, 20, 10), 0),
        ((0, 0, 10, 10), (30, 30, 40, 40), 0),
        ((0, 0, 10, 10), (5, 0, 25, 10), 0.5),
        ((0, 0, 10, 10), (2, 2, 7, 7), 1),
    ],
)
def test_intersection_over_min_of_two_boxes(a: Box, b: Box, value: float) -> None:
    assert intersection_over_min([a], [b]) == intersection_over_min([b], [a]) == pytest.approx(value)
