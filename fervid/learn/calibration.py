"""Fit a candidate and calibrate its confidence on held-out folds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import Pipeline
from sklearn.utils.class_weight import compute_sample_weight

from fervid.core.records import FloatArray
from fervid.learn.estimators import ignore_convergence_warnings, is_regression
from fervid.learn.model_selection import FOLDS, Candidate, TrainingData, fit_candidate

SHARPNESS_RANGE = (0.01, 100.0)
"""Smallest and largest sharpness to try, as multiples of 1 / standard deviation of the margins."""
SHARPNESS_STEPS = 401
TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, slots=True, eq=False)
class CalibratedClassifier:
    """A classifier whose probabilities are the softmax of its scaled margins.

    All classes share one positive factor, the inverse of a temperature (Guo et al., arXiv 1706.04599, section 4.2), so
    calibration changes the confidence but never the most probable class.

    Attributes:
        pipeline: Scaler and classifier.
        sharpness: The factor on the margins, greater than 0.
    """

    pipeline: Pipeline
    sharpness: float

    def predict_proba(self, x: FloatArray) -> FloatArray:
        """Compute the probabilities (n, c) of n rows."""
        return np.asarray(softmax(self.sharpness * compute_margins(self.pipeline, x), axis=1), np.float32)


def fit(
    candidate: Candidate, data: TrainingData, n_folds: int = FOLDS
) -> CalibratedClassifier | TransformedTargetRegressor:
    """Fit a candidate on all examples, and its sharpness on held-out folds.

    All classes have the same weight in the fit and in the calibration, whatever their share of the clips. An MLP is
    not calibrated, because it already holds out clips for early stopping.

    Raises:
        DatasetError: As for `split_folds`, or there are too few examples for this candidate.
    """
    x, truth = data.matrices[candidate.statistics], data.truth
    with ignore_convergence_warnings():
        pipeline = fit_candidate(candidate, x, truth, data.seed)
        if is_regression(truth):
            return pipeline
        if candidate.kind == "mlp":
            return CalibratedClassifier(pipeline, 1.0)
        margins = compute_margins(pipeline, x)
        held_out = np.empty_like(margins)
        for train, test in data.folds(n_folds):
            without_test = fit_candidate(candidate, x[train], truth[train], data.seed)
            held_out[test] = compute_margins(without_test, x[test])
    spread = float((margins - margins.mean(axis=1, keepdims=True)).std())
    return CalibratedClassifier(pipeline, fit_sharpness(held_out, np.asarray(truth, np.int64), spread))


def compute_margins(pipeline: Pipeline, x: FloatArray) -> NDArray[np.float64]:
    """Compute the margins (n, c) of n rows: decision values, or log probabilities where a classifier has none."""
    if not hasattr(pipeline, "decision_function"):
        return np.asarray(np.log(np.maximum(pipeline.predict_proba(x), TINY)))
    margins = np.asarray(pipeline.decision_function(x), np.float64)
    return np.stack([-margins, margins], axis=1) / 2 if margins.ndim == 1 else margins


def fit_sharpness(margins: NDArray[np.float64], truth: NDArray[np.int64], spread: float) -> float:
    """Find the factor on held-out margins (n, c) that maximises the class-balanced likelihood of the truth (n,).

    The targets are smoothed as if every row had occurred once more with each class (Platt 1999), so that a few clips
    that are all correct do not give a confidence of 1. Uninformative or inverted margins get the smallest factor.
    `spread` is the standard deviation of the margins of the final classifier.
    """
    if not spread:
        return 1.0
    counts = np.bincount(truth, minlength=margins.shape[1])[truth][:, None]
    targets = (np.eye(margins.shape[1])[truth] * counts + 1) / (counts + margins.shape[1])
    targets *= compute_sample_weight("balanced", truth)[:, None]
    factors = np.geomspace(*SHARPNESS_RANGE, SHARPNESS_STEPS) / spread
    losses = [-(targets * log_softmax(factor * margins, axis=1)).sum() for factor in factors]
    return float(factors[int(np.argmin(losses))])


def predict(model: CalibratedClassifier | TransformedTargetRegressor, x: FloatArray) -> FloatArray:
    """Predict the probabilities (n, c) of n clips, or their ratings (n,)."""
    return np.asarray(
        model.predict_proba(x) if isinstance(model, CalibratedClassifier) else model.predict(x), np.float32
    )
