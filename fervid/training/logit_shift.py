"""Shift the logits of a head, by an amount that is chosen on validation sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
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
    smallest is used, and returned.

    Args:
        layer: The head; its bias is changed.
        sets: Logits (n, c) of the head and labels (n,), for each validation set.
        prior: (c,) class frequencies of training.
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


def calibrate_offset(layer: nn.Linear, logits: FloatArray, positive: NDArray[np.bool_]) -> float:
    """Add the offset to the bias of a binary head that maximises the likelihood of labels (n,), and return it.

    It is Platt scaling with the slope fixed at 1 (Guo et al., arXiv 1706.04599, section 4.1). `logits` (n,) are the
    outputs of the head.
    """
    signs = np.where(positive, -1.0, 1.0)
    fitted = minimize_scalar(lambda offset: np.logaddexp(0, signs * (logits + offset)).mean(), (-1, 1))
    offset = round(float(fitted.x), 4)
    with torch.no_grad():
        layer.bias.add_(offset)
    return offset
