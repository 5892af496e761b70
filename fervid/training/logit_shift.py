"""Shift the logits of a head along the log prior of its classes, chosen on validation sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fervid.core.records import FloatArray
from fervid.learn.metrics import confusion, macro_scores
from fervid.training.expression_sampling import RAREST

SHIFTS = tuple(round(-0.6 + 0.05 * i, 2) for i in range(37))


def calibrate_logit_shift(
    layer: nn.Linear, sets: Sequence[tuple[FloatArray, NDArray[np.int64]]], prior: FloatArray
) -> float:
    """Add a multiple of the log prior to the logits of a head, chosen on validation sets.

    The factor maximises the sum of accuracy and mean recall, averaged over the sets; it restores part of the prior that
    the logit adjustment of training removed (Menon et al., arXiv 2007.07314, section 4.1). Of equally good factors the
    smallest is used.

    Args:
        layer: The head; its bias is changed.
        sets: Logits (n, c) of the head and labels (n,), for each validation set.
        prior: (c,) class frequencies of training.

    Returns:
        The factor of the log prior.
    """
    direction = np.log(np.maximum(prior, RAREST))

    def score(factor: float) -> float:
        tables = (
            confusion(labels, (logits + factor * direction).argmax(axis=1), len(prior)) for logits, labels in sets
        )
        figures = [macro_scores(table) for table in tables]
        return float(np.mean([found["accuracy"] + found["uar"] for found in figures]))

    best = max(SHIFTS, key=lambda factor: (score(factor), -abs(factor)))
    with torch.no_grad():
        layer.bias.add_(torch.from_numpy(best * direction).float())
    return best
