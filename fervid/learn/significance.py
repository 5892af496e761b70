"""Test whether one classifier is better than another."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from fervid.learn.metrics import SEED, Predictions, Rows, bootstrap, confusion, macro_scores

N_PERMUTATIONS = 9999


def paired_test(a: Predictions, b: Predictions) -> dict[str, Any]:
    """Compare two classifiers on the same clips.

    A clip without a prediction counts as wrong. People are those of `a.groups`.

    Returns:
        `clips`; `difference` of accuracy, UAR and macro F1 (a minus b) as `{"value", "interval"}` by paired bootstrap;
        `only_a_correct` and `only_b_correct`, the number of clips that only a or only b classifies correctly; and the
        two-sided `p` of the `test` on those clips, 1 if there are none. The test is the exact McNemar test
        (Psychometrika 12, 1947), or, if a group has several clips, which are not independent, a test that flips the
        signs of whole groups at random (Good, Permutation Tests, 2000).

    Raises:
        ValueError: Clips or labels differ, or there are no clips.
    """
    if list(a.labels) != list(b.labels) or not np.array_equal(a.truth, b.truth):
        raise ValueError("the predictions are not for the same clips and labels")
    truth, predicted_a, predicted_b, n_classes = a.truth, a.predicted, b.predicted, len(a.labels)

    def differences(rows: Rows) -> dict[str, float]:
        scores_a, scores_b = (
            macro_scores(confusion(truth[rows], predicted[rows], n_classes)) for predicted in (predicted_a, predicted_b)
        )
        return {name: scores_a[name] - scores_b[name] for name in scores_a}

    difference = bootstrap(len(truth), differences, a.groups)
    correct_a, correct_b = predicted_a == truth, predicted_b == truth
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    test, p = "exact McNemar test", 1.0
    if a.groups is not None and len(np.unique(a.groups)) < len(truth):
        test, p = "sign-flip test over people", sign_flip_test(correct_a.astype(np.float64) - correct_b, a.groups)
    elif only_a + only_b:
        p = binomtest(only_a, only_a + only_b).pvalue
    return {
        "clips": len(truth),
        "difference": difference,
        "only_a_correct": only_a,
        "only_b_correct": only_b,
        "test": test,
        "p": float(f"{p:.3g}"),
    }


def sign_flip_test(gains: NDArray[np.float64], groups: NDArray[np.generic]) -> float:
    """Compute how often the sum of the gains is as extreme if the sign of each group's gain is random.

    The gains (n,) say how much better the first of two predictions of each clip is than the second. Clips of the same
    person, by the groups (n,), keep a common sign.

    Returns:
        The two-sided p, which is never below 0.05 for fewer than six groups.
    """
    sums = np.bincount(np.unique(groups, return_inverse=True)[1], gains)
    signs = np.random.default_rng(SEED).choice((-1, 1), (N_PERMUTATIONS, len(sums)))
    as_extreme = np.abs(signs @ sums) >= abs(sums.sum()) * (1 - 1e-9)
    return float((1 + np.count_nonzero(as_extreme)) / (1 + N_PERMUTATIONS))
