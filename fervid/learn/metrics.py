"""Metrics of clip classifiers and regressors, with bootstrap confidence intervals.

Unweighted average recall (UAR) gives every class the same weight, whatever its number of clips. A clip without a face
has no prediction: it is left out of the figures under `answered` and counts as wrong in those under `all`. Where people
are known, the bootstrap draws people and not clips, because clips of one person are correlated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fervid.core.records import FloatArray
from fervid.core.text import plural

SEED = 2021
N_BOOTSTRAP = 1000
N_CALIBRATION_BINS = 10
SUM_TOLERANCE = 0.01
"""Largest deviation from 1 of a sum of probabilities, which may have been rounded."""

Rows = NDArray[np.int64]
Values = NDArray[np.integer[Any]] | NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """Predicted probabilities and true classes of n clips.

    Attributes:
        labels: Names of the c classes.
        truth: (n,) true class of each clip, 0 to c - 1.
        probabilities: (n, c), each row sums to 1; rows of NaN for clips without a prediction.
        groups: (n,) the person in each clip, for the bootstrap; None if all clips are independent.
    """

    labels: Sequence[str]
    truth: Rows
    probabilities: FloatArray
    groups: NDArray[np.generic] | None = None

    def __post_init__(self) -> None:
        n, c = self.truth.size, len(self.labels)
        shapes = (self.truth.shape, self.probabilities.shape, (n,) if self.groups is None else self.groups.shape)
        if shapes != ((n,), (n, c), (n,)):
            raise ValueError(f"shapes of truth, probabilities and groups do not match {c} labels: {shapes}")
        if len(set(self.labels)) < c:
            raise ValueError(f"duplicate label in {', '.join(self.labels)}")
        if n and not (self.truth.dtype.kind in "iu" and self.truth.min() >= 0 and self.truth.max() < c):
            raise ValueError(f"true classes must be integers from 0 to {c - 1}")
        rows = self.probabilities[self.has_prediction]
        if not ((rows >= 0).all() and (np.abs(rows.sum(axis=1) - 1) <= SUM_TOLERANCE).all()):
            raise ValueError("the probabilities of a clip are negative, partly missing, or do not sum to 1")

    @property
    def has_prediction(self) -> NDArray[np.bool_]:
        """(n,) whether each clip has a prediction."""
        return np.asarray(~np.isnan(self.probabilities).all(axis=1))

    @property
    def predicted(self) -> Rows:
        """(n,) most probable class, -1 without a prediction."""
        return np.where(self.has_prediction, self.probabilities.argmax(axis=1), -1)

    def __getitem__(self, rows: NDArray[np.generic]) -> Predictions:
        """Select clips by index or mask."""
        groups = None if self.groups is None else self.groups[rows]
        return Predictions(self.labels, self.truth[rows], self.probabilities[rows], groups)


def evaluate(predictions: Predictions) -> dict[str, Any]:
    """Compute the report of a classifier.

    Returns:
        `labels`, `clips`, and under both `answered` (clips with a prediction) and `all`: `count`, `accuracy`, `uar` and
        `f1` (macro) as `{"value", "interval"}`, `recall`, `precision` and `f1_each` by label (None for a class without
        clips), and `confusion` (truth by prediction, with clips without a prediction in the last column).
        `calibration` is of the clips with a prediction.

    Raises:
        ValueError: There are no clips, or none has a prediction.
    """
    answered = predictions[predictions.has_prediction]
    if not len(answered.truth):
        raise ValueError(f"none of {plural(len(predictions.truth), 'clip')} has a prediction")
    return {
        "labels": list(predictions.labels),
        "clips": len(predictions.truth),
        "answered": _report(answered),
        "all": _report(predictions),
        "calibration": calibration(answered),
    }


def evaluate_regression(truth: Values, predicted: Values, groups: NDArray[np.generic] | None = None) -> dict[str, Any]:
    """Compute the report of a regressor, such as one of valence.

    Args:
        truth: (n,) true values.
        predicted: (n,) in the same unit; NaN for clips without a prediction, which are left out.
        groups: (n,) the person in each clip, for the bootstrap; None if all clips are independent.

    Returns:
        `clips` and how many of them are `unanswered`; of the others the concordance `ccc`, the mean absolute error
        `mae` in the unit of the truth, and the correlation `pearson` (0 if one side is constant), each as
        `{"value", "interval"}`.

    Raises:
        ValueError: Shapes differ, a value is not finite, there are no clips, or none has a prediction.
    """
    shapes = (truth.shape, predicted.shape, truth.shape if groups is None else groups.shape)
    if set(shapes) != {(truth.size,)}:
        raise ValueError(f"truth, predicted and groups must be vectors of the same length: {shapes}")
    if not np.isfinite(truth).all() or np.isinf(predicted).any():
        raise ValueError("a value is not finite")
    has_prediction = ~np.isnan(predicted)
    if not has_prediction.any():
        raise ValueError(f"none of {plural(len(truth), 'clip')} has a prediction")
    y_true, y_pred = truth[has_prediction].astype(np.float64), predicted[has_prediction].astype(np.float64)

    def measure(rows: Rows) -> dict[str, float]:
        a, b = y_true[rows], y_pred[rows]
        both_vary = np.ptp(a) > 0 and np.ptp(b) > 0
        return {
            "ccc": ccc(a, b),
            "mae": float(np.abs(a - b).mean()),
            "pearson": float(np.corrcoef(a, b)[0, 1]) if both_vary else 0.0,
        }

    figures = bootstrap(len(y_true), measure, None if groups is None else groups[has_prediction])
    return {"clips": len(truth), "unanswered": len(truth) - len(y_true), **figures}


def confusion(truth: Rows, predicted: Rows, n_classes: int) -> Rows:
    """Count clips by true and predicted class (c, c + 1); the last column is for clips without a prediction (-1)."""
    columns = np.where(predicted < 0, n_classes, predicted)
    counts = np.bincount(truth * (n_classes + 1) + columns, minlength=n_classes * (n_classes + 1))
    return counts.reshape(n_classes, n_classes + 1).astype(np.int64)


def per_class_scores(table: Rows) -> dict[str, NDArray[np.float64]]:
    """Compute recall, precision and F1 (c,) of each class from a confusion table; 0 where the denominator is 0."""
    correct = np.diagonal(table).astype(np.float64)
    n_true, n_predicted = table.sum(axis=1), table[:, :-1].sum(axis=0)
    return {
        "recall": correct / np.maximum(n_true, 1),
        "precision": correct / np.maximum(n_predicted, 1),
        "f1_each": 2 * correct / np.maximum(n_true + n_predicted, 1),
    }


def macro_scores(table: Rows) -> dict[str, float]:
    """Compute accuracy, UAR and macro F1 over the classes with clips; 0 if there are none."""
    scores, present = per_class_scores(table), table.sum(axis=1) > 0
    n_present = max(int(present.sum()), 1)
    return {
        "accuracy": float(np.diagonal(table).sum()) / max(float(table.sum()), 1.0),
        "uar": float(scores["recall"][present].sum() / n_present),
        "f1": float(scores["f1_each"][present].sum() / n_present),
    }


def bootstrap(
    count: int, measure: Callable[[Rows], Mapping[str, float]], groups: NDArray[np.generic] | None = None
) -> dict[str, dict[str, Any]]:
    """Compute figures with 95 % percentile bootstrap intervals (Efron and Tibshirani 1993, chapter 13), fixed seed.

    Args:
        count: Number of rows.
        measure: Function from row indices, which may repeat, to figures by name.
        groups: (count,) groups that are drawn as a whole; None draws single rows.

    Returns:
        `{"value": ..., "interval": [low, high]}` by name; the interval is None if there is only one group, which does
        not show how much groups vary.

    Raises:
        ValueError: There are no rows.
    """
    if not count:
        raise ValueError("there are no clips to measure")
    samples = [measure(rows) for rows in _bootstrap_indices(count, groups)]
    return {
        name: {
            "value": _rounded(value),
            "interval": [_rounded(end) for end in np.percentile([sample[name] for sample in samples], [2.5, 97.5])]
            if samples
            else None,
        }
        for name, value in measure(np.arange(count)).items()
    }


def calibration(predictions: Predictions) -> dict[str, Any]:
    """Compute the expected calibration error (Guo et al., arXiv 1706.04599, section 2) of clips with a prediction.

    Returns:
        `error`, the expected calibration error, and its `bins` of equal width, without empty ones, each with the
        `confidence` (mean of the highest probability), `accuracy` and `count` of its clips.
    """
    confidences = predictions.probabilities.max(axis=1)
    correct = predictions.predicted == predictions.truth
    numbers = np.digitize(confidences, np.linspace(0, 1, N_CALIBRATION_BINS + 1)[1:-1], right=True)
    masks = [numbers == i for i in np.unique(numbers)]
    bins = [(confidences[mask].mean(), correct[mask].mean(), int(mask.sum())) for mask in masks]
    error = sum(abs(confidence - accuracy) * count for confidence, accuracy, count in bins) / max(len(confidences), 1)
    return {
        "error": _rounded(error),
        "bins": [
            {"confidence": _rounded(confidence), "accuracy": _rounded(accuracy), "count": count}
            for confidence, accuracy, count in bins
        ],
    }


def ccc(truth: Values, predicted: Values) -> float:
    """Compute Lin's concordance correlation coefficient (Biometrics 45, 1989) of two vectors (n,).

    It ranges from -1 to 1 and decreases with differences in mean or scale; of two equal constants it is 1.
    """
    a, b = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
    covariance = ((a - a.mean()) * (b - b.mean())).mean()
    spread = a.var() + b.var() + (a.mean() - b.mean()) ** 2
    return float(2 * covariance / spread) if spread else 1.0


def _report(predictions: Predictions) -> dict[str, Any]:
    truth, predicted, labels = predictions.truth, predictions.predicted, predictions.labels
    table = confusion(truth, predicted, len(labels))
    present = table.sum(axis=1) > 0
    return {
        "count": len(truth),
        **bootstrap(
            len(truth),
            lambda rows: macro_scores(confusion(truth[rows], predicted[rows], len(labels))),
            predictions.groups,
        ),
        **{
            name: {
                label: _rounded(value) if has_clips else None
                for label, value, has_clips in zip(labels, values, present, strict=True)
            }
            for name, values in per_class_scores(table).items()
        },
        "confusion": table.tolist(),
    }


def _bootstrap_indices(count: int, groups: NDArray[np.generic] | None) -> Iterator[Rows]:
    """Draw rows, or whole groups of rows, with replacement; yield nothing if there is only one group."""
    members = None
    if groups is not None:
        _, numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        members = np.split(np.argsort(numbers, kind="stable"), np.cumsum(sizes)[:-1])
        count = len(members)
    rng = np.random.default_rng(SEED)
    for _ in range(N_BOOTSTRAP if count > 1 else 0):
        drawn = rng.integers(0, count, count)
        yield drawn if members is None else np.concatenate([members[i] for i in drawn])


def _rounded(value: float | np.floating[Any]) -> float:
    return round(float(value), 4) + 0.0  # never -0.0
