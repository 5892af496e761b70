"""Predictions + truth -> report: how good a clip classifier is, and how sure one can be of that.

Unweighted average recall (UAR) counts every class alike, however many clips it has. A clip without a face has no
answer: it is left out of "clips with a face" and counts as wrong in "all clips". Intervals are by bootstrap over
people where they are known, because clips of one person are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from fervid.core.records import FloatArray
from fervid.core.text import plural

SEED = 2021
N_BOOTSTRAP = 1000
N_PERMUTATIONS = 9999
N_CALIBRATION_BINS = 10
TOLERANCE = 0.01  # of a sum of probabilities, which may have been rounded on their way

Rows = NDArray[np.int64]
Values = NDArray[np.integer[Any]] | NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """What was said of n clips, and what is true.

    Attributes:
        labels: The c classes.
        truth: (n,) class of each clip, 0 to c - 1.
        probabilities: (n, c), every row sums to 1; rows of NaN for clips without an answer.
        groups: (n,) clips of one group are drawn together; None if every clip stands alone.
    """

    labels: Sequence[str]
    truth: Rows
    probabilities: FloatArray
    groups: NDArray[np.generic] | None = None

    def __post_init__(self) -> None:
        n, c = self.truth.size, len(self.labels)
        shapes = (self.truth.shape, self.probabilities.shape, (n,) if self.groups is None else self.groups.shape)
        if shapes != ((n,), (n, c), (n,)):
            raise ValueError(f"truth, probabilities and groups of {c} labels do not fit each other: {shapes}")
        if len(set(self.labels)) < c:
            raise ValueError(f"a label occurs twice among {', '.join(self.labels)}")
        if n and not (self.truth.dtype.kind in "iu" and self.truth.min() >= 0 and self.truth.max() < c):
            raise ValueError(f"a true class is no number from 0 to {c - 1}")
        given = self.probabilities[self.answered]
        if not ((given >= 0).all() and (np.abs(given.sum(axis=1) - 1) <= TOLERANCE).all()):
            raise ValueError("the probabilities of a clip are negative, partly missing, or do not sum to 1")

    @property
    def answered(self) -> NDArray[np.bool_]:
        """(n,) whether the clip has an answer."""
        return np.asarray(~np.isnan(self.probabilities).all(axis=1))

    @property
    def answers(self) -> Rows:
        """(n,) most probable class, -1 without an answer."""
        return np.where(self.answered, self.probabilities.argmax(axis=1), -1)

    def __getitem__(self, rows: NDArray[np.generic]) -> Predictions:
        """Those of some clips."""
        groups = None if self.groups is None else self.groups[rows]
        return Predictions(self.labels, self.truth[rows], self.probabilities[rows], groups)


def evaluate(predictions: Predictions) -> dict[str, Any]:
    """The whole report, of clips with an answer and of all clips.

    Returns:
        `labels`, `clips`, and under `answered` and `all` each: `count`, `accuracy`, `uar` and `f1` (macro) as
        `{"value", "interval"}`, `recall`, `precision` and `f1_each` by label (None for a class without clips), and
        `confusion` (truth by answer, with `none` as the last column). `calibration` is that of the answered ones.

    Raises:
        ValueError: There are no clips, or none has an answer.
    """
    answered = predictions[predictions.answered]
    if not len(answered.truth):
        raise ValueError(f"none of {plural(len(predictions.truth), 'clip')} has an answer; nothing can be measured")
    return {
        "labels": list(predictions.labels),
        "clips": len(predictions.truth),
        "answered": _report(answered),
        "all": _report(predictions),
        "calibration": calibration(answered),
    }


def paired_test(ours: Predictions, theirs: Predictions) -> dict[str, Any]:
    """Whether one classifier is better than another on the same clips.

    A clip without an answer counts as wrong. The groups are those of `ours`.

    Returns:
        `clips`; `difference` of accuracy, UAR and macro F1 (ours minus theirs) as `{"value", "interval"}` by paired
        bootstrap; `only_ours` and `only_theirs`, how many clips only one of them answers rightly, and `p` of a
        two-sided `test` on those, 1 if there are none: the exact one of McNemar (Psychometrika 12, 1947), or where a
        group has several clips, which are no independent witnesses, one that turns round the gains of whole groups
        at random (Good, Permutation Tests, 2000).

    Raises:
        ValueError: They are not about the same clips and labels, or there are no clips.
    """
    if list(ours.labels) != list(theirs.labels) or not np.array_equal(ours.truth, theirs.truth):
        raise ValueError("the two classifiers did not answer the same clips with the same labels")
    truth, both = ours.truth, (ours.answers, theirs.answers)

    def gaps(rows: Rows) -> dict[str, float]:
        first, second = (macro_scores(confusion(truth[rows], answers[rows], len(ours.labels))) for answers in both)
        return {name: first[name] - second[name] for name in first}

    difference = bootstrap(len(truth), gaps, ours.groups)
    right, other = (answers == truth for answers in both)
    only_ours, only_theirs = int((right & ~other).sum()), int((other & ~right).sum())
    test, p = "exact McNemar test", 1.0
    if ours.groups is not None and len(np.unique(ours.groups)) < len(truth):
        test, p = "sign-flip test over people", sign_flip_test(right.astype(np.float64) - other, ours.groups)
    elif only_ours + only_theirs:
        p = binomtest(only_ours, only_ours + only_theirs).pvalue
    return {
        "clips": len(truth),
        "difference": difference,
        "only_ours": only_ours,
        "only_theirs": only_theirs,
        "test": test,
        "p": float(f"{p:.3g}"),
    }


def sign_flip_test(gains: NDArray[np.float64], groups: NDArray[np.generic]) -> float:
    """How often gains add up to as much, either way, if each group had gained or lost by chance.

    Args:
        gains: (n,) by how much the first of two answers to each clip is better than the second.
        groups: (n,) the clips of one group gain or lose together.

    Returns:
        The p of a two-sided test; with fewer than six groups it is never below 0.05.
    """
    sums = np.bincount(np.unique(groups, return_inverse=True)[1], gains)
    signs = np.random.default_rng(SEED).choice((-1, 1), (N_PERMUTATIONS, len(sums)))
    reached = np.abs(signs @ sums) >= abs(sums.sum()) * (1 - 1e-9)
    return float((1 + np.count_nonzero(reached)) / (1 + N_PERMUTATIONS))


def evaluate_regression(truth: Values, said: Values, groups: NDArray[np.generic] | None = None) -> dict[str, Any]:
    """How near numbers come to the truth, such as ratings of valence.

    Args:
        truth: (n,) true values.
        said: (n,) in the same unit; NaN for clips without an answer, which are left out.
        groups: (n,) clips of one group are drawn together; None if every clip stands alone.

    Returns:
        `clips` and how many of them are `unanswered`; of the others `ccc` (`ccc`), `mae` (mean absolute error
        in the unit of the truth) and `pearson` (correlation, 0 where one side is constant) as `{"value", "interval"}`.

    Raises:
        ValueError: Shapes differ, a value is not finite, there are no clips, or none has an answer.
    """
    shapes = (truth.shape, said.shape, truth.shape if groups is None else groups.shape)
    if set(shapes) != {(truth.size,)}:
        raise ValueError(f"truth, said and groups are not vectors of one length: {shapes}")
    if not np.isfinite(truth).all() or np.isinf(said).any():
        raise ValueError("a value is not finite")
    answered = ~np.isnan(said)
    if not answered.any():
        raise ValueError(f"none of {plural(len(truth), 'clip')} has an answer; nothing can be measured")
    true, given = truth[answered].astype(np.float64), said[answered].astype(np.float64)

    def measure(rows: Rows) -> dict[str, float]:
        a, b = true[rows], given[rows]
        varied = np.ptp(a) > 0 and np.ptp(b) > 0
        return {
            "ccc": ccc(a, b),
            "mae": float(np.abs(a - b).mean()),
            "pearson": float(np.corrcoef(a, b)[0, 1]) if varied else 0.0,
        }

    figures = bootstrap(len(true), measure, None if groups is None else groups[answered])
    return {"clips": len(truth), "unanswered": len(truth) - len(true), **figures}


def confusion(truth: Rows, answers: Rows, classes: int) -> Rows:
    """(c, c + 1) counts, truth by answer; the last column counts clips without an answer (-1)."""
    said = np.where(answers < 0, classes, answers)
    counts = np.bincount(truth * (classes + 1) + said, minlength=classes * (classes + 1))
    return counts.reshape(classes, classes + 1).astype(np.int64)


def per_class_scores(table: Rows) -> dict[str, NDArray[np.float64]]:
    """Recall, precision and F1 (c,) of each class from a confusion table; 0 where nothing can be right."""
    right = np.diagonal(table).astype(np.float64)
    true, said = table.sum(axis=1), table[:, :-1].sum(axis=0)
    return {
        "recall": right / np.maximum(true, 1),
        "precision": right / np.maximum(said, 1),
        "f1_each": 2 * right / np.maximum(true + said, 1),
    }


def macro_scores(table: Rows) -> dict[str, float]:
    """Accuracy, unweighted average recall and macro F1 over the classes that occur; 0 if none does."""
    each, present = per_class_scores(table), table.sum(axis=1) > 0
    classes = max(int(present.sum()), 1)
    return {
        "accuracy": float(np.diagonal(table).sum()) / max(float(table.sum()), 1.0),
        "uar": float(each["recall"][present].sum() / classes),
        "f1": float(each["f1_each"][present].sum() / classes),
    }


def bootstrap(
    count: int, measure: Callable[[Rows], Mapping[str, float]], groups: NDArray[np.generic] | None = None
) -> dict[str, dict[str, Any]]:
    """Figures with their 95 % intervals: percentile bootstrap (Efron and Tibshirani 1993, chapter 13), fixed seed.

    Args:
        count: How many rows there are.
        measure: Row numbers, with repetition, to named figures.
        groups: (count,) whole groups are drawn; None draws single rows.

    Returns:
        Name to `{"value": ..., "interval": [low, high]}`; the interval is None where everything is one group, because
        nothing is known then of how groups differ.

    Raises:
        ValueError: There are no rows.
    """
    if not count:
        raise ValueError("there are no clips; nothing can be measured")
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
    """How far confidences are from being right that often (Guo et al., arXiv 1706.04599, section 2).

    Args:
        predictions: Of clips that all have an answer.

    Returns:
        `error`, the expected calibration error, and its `bins` of equal width, each the `confidence` (mean of the
        highest probability), `accuracy` and `count` of its clips; empty ones are left out.
    """
    sure = predictions.probabilities.max(axis=1)
    right = predictions.answers == predictions.truth
    numbers = np.digitize(sure, np.linspace(0, 1, N_CALIBRATION_BINS + 1)[1:-1], right=True)
    inside = [numbers == i for i in np.unique(numbers)]
    bins = [(sure[rows].mean(), right[rows].mean(), int(rows.sum())) for rows in inside]
    return {
        "error": _rounded(sum(abs(said - true) * count for said, true, count in bins) / max(len(sure), 1)),
        "bins": [
            {"confidence": _rounded(said), "accuracy": _rounded(true), "count": count} for said, true, count in bins
        ],
    }


def ccc(truth: Values, said: Values) -> float:
    """Lin's concordance correlation coefficient (Biometrics 45, 1989) of two vectors (n,).

    It is -1 to 1, and falls with every difference in mean or scale; two equal constants agree, which is 1.
    """
    a, b = np.asarray(truth, np.float64), np.asarray(said, np.float64)
    covariance = ((a - a.mean()) * (b - b.mean())).mean()
    spread = a.var() + b.var() + (a.mean() - b.mean()) ** 2
    return float(2 * covariance / spread) if spread else 1.0


def _report(predictions: Predictions) -> dict[str, Any]:
    truth, answers, labels = predictions.truth, predictions.answers, predictions.labels
    table = confusion(truth, answers, len(labels))
    present = table.sum(axis=1) > 0
    return {
        "count": len(truth),
        **bootstrap(
            len(truth),
            lambda rows: macro_scores(confusion(truth[rows], answers[rows], len(labels))),
            predictions.groups,
        ),
        **{
            name: {
                label: _rounded(value) if there else None
                for label, value, there in zip(labels, values, present, strict=True)
            }
            for name, values in per_class_scores(table).items()
        },
        "confusion": table.tolist(),
    }


def _bootstrap_indices(count: int, groups: NDArray[np.generic] | None) -> Iterator[Rows]:
    """Row numbers drawn with repetition, whole groups at a time; none if there is but one group."""
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
