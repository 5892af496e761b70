"""Features relative to the average of each person."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fervid.core.records import FloatArray
from fervid.learn.feature_table import FeatureTable


def center_by_group(
    x: FloatArray,
    groups: NDArray[np.int64],
    columns: NDArray[np.bool_],
    min_clips: int = 1,
    fallback_mean: NDArray[np.float64] | float = 0.0,
) -> FloatArray:
    """Subtract the mean of each group (n,) from its rows of features (n, d); rows of NaN are ignored and stay NaN.

    Only the `columns` (d,) are centred. Groups with fewer than `min_clips` clips use the fallback mean, (d,) or scalar.
    """
    centered = x.copy()
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        rows = rows[np.isfinite(x[rows]).all(axis=1)]
        if len(rows):
            mean = x[rows].mean(axis=0, dtype=np.float64) if len(rows) >= min_clips else fallback_mean
            centered[rows] = np.where(columns, x[rows] - mean, x[rows])
    return centered


def average_by_group(table: FeatureTable, groups: NDArray[np.int64], names: Iterable[str]) -> dict[str, list[float]]:
    """Average statistics over the people (n,) in the clips, each with the same weight, rounded to four digits."""
    rows_by_person = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    averages = {
        name: np.mean([table.statistics[name][rows].mean(axis=0) for rows in rows_by_person], axis=0)
        for name in dict.fromkeys(names)
    }
    return {name: [round(float(value), 4) for value in values] for name, values in averages.items()}
