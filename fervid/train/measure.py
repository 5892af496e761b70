"""Figures with their 95 % intervals, as the cards keep them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

SEED = 2021
RESAMPLES = 1000

Rows = NDArray[np.int64]


def report(
    count: int,
    measure: Callable[[Rows], Mapping[str, float]],
    groups: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """Figures on all rows, each with its interval by bootstrap over rows, or over groups of rows that belong together.

    Args:
        count: How many rows there are.
        measure: Row numbers, with repetition, to named figures.
        groups: (count,) the group of each row.

    Returns:
        Name to `{"value": ..., "interval": [low, high]}`.
    """
    groups = np.arange(count) if groups is None else groups
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    rng = np.random.default_rng(SEED)
    samples = [
        measure(np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))]))
        for _ in range(RESAMPLES)
    ]
    figures = {}
    for name, value in measure(np.arange(count)).items():
        low, high = np.percentile([sample[name] for sample in samples], [2.5, 97.5])
        figures[name] = {"value": round(float(value), 4), "interval": [round(float(low), 4), round(float(high), 4)]}
    return figures


def recall(answers: Rows, labels: Rows) -> NDArray[np.float64]:
    """Share of each class that was answered rightly, in the order of the labels that occur."""
    return np.array([(answers[labels == c] == c).mean() for c in np.unique(labels)])
