"""Features of clips less what each person shows on average."""

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
    usual: NDArray[np.float64] | float = 0.0,
) -> FloatArray:
    """Features less the mean over the clips of the same group.

    Args:
        x: (n, d); rows of NaN stay so and count for nothing.
        groups: (n,) whose clips they are.
        columns: (d,) which of them are centred.
        min_clips: With fewer clips, the usual mean is taken away instead.
        usual: (d,) that mean.
    """
    centered = x.copy()
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        rows = rows[np.isfinite(x[rows]).all(axis=1)]
        if len(rows):
            mean = x[rows].mean(axis=0, dtype=np.float64) if len(rows) >= min_clips else usual
            centered[rows] = np.where(columns, x[rows] - mean, x[rows])
    return centered


def average_by_group(table: FeatureTable, groups: NDArray[np.int64], names: Iterable[str]) -> dict[str, list[float]]:
    """What people show on average, each alike.

    Args:
        table: Features of n clips.
        groups: (n,) whose clips they are.
        names: Of the statistics.
    """
    rows = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    averages = {
        name: np.mean([table.statistics[name][own].mean(axis=0) for own in rows], axis=0)
        for name in dict.fromkeys(names)
    }
    return {name: [round(float(value), 4) for value in values] for name, values in averages.items()}
