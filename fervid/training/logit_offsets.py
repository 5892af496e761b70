"""Offsets of the logits of a classifier, fitted on validation sets.

The logit adjustment of training removes the class prior (Menon et al., arXiv 2007.07314); these offsets restore as much
of it as serves accuracy and mean recall alike. A class that a set lacks costs accuracy there if it is predicted too
often, as contempt is on photographs of RAF-DB.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fervid.core.records import FloatArray
from fervid.learn.metrics import confusion, macro_scores

GRID = tuple(round(-3 + 0.1 * i, 1) for i in range(61))  # nats
PENALTY = 0.003  # of a squared offset, in units of accuracy
MAX_SWEEPS = 10


def fit_logit_offsets(sets: Sequence[tuple[FloatArray, NDArray[np.int64]]], classes: int) -> FloatArray:
    """Fit an offset for each class by coordinate ascent.

    Maximises the sum of accuracy and mean recall, averaged over the sets, less a penalty for large offsets.

    Args:
        sets: Logits (n, classes) and labels (n,) of each validation set.
        classes: Number of classes.

    Returns:
        (classes,) offsets in nats.
    """

    def score(offsets: FloatArray) -> float:
        tables = (confusion(labels, (logits + offsets).argmax(axis=1), classes) for logits, labels in sets)
        figures = [macro_scores(table) for table in tables]
        return float(np.mean([found["accuracy"] + found["uar"] for found in figures]) - PENALTY * (offsets**2).sum())

    def replaced(offsets: FloatArray, index: int, value: float) -> FloatArray:
        return np.where(np.arange(classes) == index, np.float32(value), offsets)

    offsets = np.zeros(classes, np.float32)
    for _ in range(MAX_SWEEPS):
        before = offsets
        for index in range(classes):
            candidates = [offsets, *(replaced(offsets, index, value) for value in GRID)]
            offsets = max(candidates, key=score)
        if np.array_equal(before, offsets):
            break
    return offsets
