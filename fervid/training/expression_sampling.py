"""Sampling, soft labels and logit adjustment of one set of faces, with or without expression labels."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from fervid.core.records import FloatArray
from fervid.training.faces import ExpressionSet
from fervid.training.ferplus import CLASSES
from fervid.training.losses import ABSENT
from fervid.training.predict import estimate_class_prior

RAREST = 1e-6  # prior of a class without examples


def compute_sampling_weights(votes: FloatArray, power: float) -> FloatArray:
    """Compute the probabilities (n,) of sampling faces with votes (n, c): the class prior to the power of `-power`."""
    weights = votes @ np.maximum(votes.mean(axis=0), RAREST) ** -power
    return np.asarray(weights / weights.sum())


class LabelledSampler:
    """Soft labels, sampling weights and logit adjustment of an expression set."""

    def __init__(
        self,
        part: ExpressionSet,
        count: int,
        *,
        resampling_power: float,
        logit_adjustment: float,
        label_smoothing: float,
        teacher_logits: FloatArray | None = None,
        teacher_weight: float = 0.0,
        absent_prior: float = 0.0,
    ) -> None:
        """Compute all of them, with the settings of `TrainConfig`.

        `count` faces go into each batch; `teacher_logits` are blended into the labels with the weight `teacher_weight`.
        """
        self.faces, self.count = part.faces, count
        uniform = part.has / part.has.sum()
        self.votes = part.faces.votes + np.float32(label_smoothing) * (uniform.astype(np.float32) - part.faces.votes)
        self.sampling_weights = compute_sampling_weights(part.faces.votes, resampling_power)
        sampled_prior = np.maximum(self.sampling_weights @ self.votes, RAREST)
        absent = logit_adjustment * np.log(absent_prior) if absent_prior else ABSENT
        self.adjustment = np.where(part.has, logit_adjustment * np.log(sampled_prior), absent).astype(np.float32)
        if teacher_logits is not None:
            predicted = softmax(teacher_logits[:, : len(CLASSES)] + self.adjustment, axis=1)
            self.votes += np.float32(teacher_weight) * (predicted - self.votes)

    def sample(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Sample the rows of a batch."""
        return rng.choice(len(self.sampling_weights), self.count, p=self.sampling_weights)


class UnlabelledTargets:
    """The teachers' predictions for a set without expression labels.

    The classes are as unequal as those of a labelled set, so teachers and network get the same adjustment.
    """

    def __init__(self, teacher_logits: FloatArray, logit_adjustment: float) -> None:
        """Compute the targets from logits (n, 8) without a prior; further columns are ignored."""
        logits = teacher_logits[:, : len(CLASSES)]
        prior = logit_adjustment * np.log(estimate_class_prior(logits))
        self.adjustment = torch.from_numpy(prior).float()
        self.probabilities = torch.from_numpy(softmax(logits + prior, axis=1)).float()
