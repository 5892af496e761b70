"""The scikit-learn estimators that a clip classifier is fitted with."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.svm import SVC, SVR, LinearSVC, LinearSVR

from fervid.core.records import FloatArray

ClassifierKind = Literal["linear", "rbf", "mlp", "logistic"]
Truth = NDArray[np.int64] | NDArray[np.float64]
"""(n,) class indices, or (n,) ratings to fit a regression on."""
EstimatorFactory = Callable[[float, int], BaseEstimator]
"""Takes the hyperparameter (C, or the weight decay of the MLP) and the random seed."""


def is_regression(truth: Truth) -> bool:
    """Tell ratings from classes."""
    return bool(np.issubdtype(truth.dtype, np.floating))


class PairwiseSVC(SVC):  # type: ignore[misc] # scikit-learn has no types
    """An RBF SVM for each pair of classes; the margin of a class is the sum of its pairwise margins.

    `SVC` decides by counting votes, which give an order of the classes but nothing to calibrate a confidence on.
    """

    def decision_function(self, X: FloatArray) -> NDArray[np.float64]:  # noqa: N803  scikit-learn requires this name
        """Compute the margins of n rows: (n, c), or (n,) of the second class if there are two."""
        weights, offsets = self.kernel_expansion()
        margins = rbf_kernel(X, self.support_vectors_, gamma=self._gamma) @ weights + offsets
        return np.asarray(margins[:, 1] - margins[:, 0] if len(self.classes_) == 2 else margins, np.float64)

    def predict(self, X: FloatArray) -> NDArray[Any]:  # noqa: N803
        """Return the class with the largest margin for each row (n,)."""
        margins = self.decision_function(X)
        numbers = (margins > 0).astype(np.int64) if margins.ndim == 1 else margins.argmax(axis=1)
        return np.asarray(self.classes_[numbers])

    def kernel_expansion(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the linear map from kernel values to margins.

        Returns:
            Weights (s, c) of the kernel values of the s support vectors, and offsets (c,).
        """
        classes = len(self.classes_)
        ends = np.cumsum(self.n_support_)
        rows = [slice(end - size, end) for end, size in zip(ends, self.n_support_, strict=True)]
        weights, offsets = np.zeros((ends[-1], classes)), np.zeros(classes)
        # libsvm stores the weights of class i against j > i in row j - 1, and those of j against i in row i. For two
        # classes scikit-learn flips the signs, so that a positive margin means the second class.
        sign = -0.5 if classes == 2 else 1.0
        for (i, j), offset in zip(itertools.combinations(range(classes), 2), self.intercept_, strict=True):
            for support, duals in ((rows[i], self.dual_coef_[j - 1]), (rows[j], self.dual_coef_[i])):
                weights[support, i] += sign * duals[support]
                weights[support, j] -= sign * duals[support]
            offsets[i] += sign * offset
            offsets[j] -= sign * offset
        return weights, offsets


def _make_mlp(estimator: Callable[..., BaseEstimator], weight_decay: float, seed: int) -> BaseEstimator:
    return estimator(
        hidden_layer_sizes=(128,), alpha=weight_decay, early_stopping=True, max_iter=300, random_state=seed
    )


CLASSIFIERS: Mapping[ClassifierKind, EstimatorFactory] = {
    "linear": lambda c, seed: LinearSVC(C=c, random_state=seed, max_iter=5000),
    "rbf": lambda c, seed: PairwiseSVC(C=c, random_state=seed),
    "mlp": lambda c, seed: _make_mlp(MLPClassifier, c, seed),
    "logistic": lambda c, seed: LogisticRegression(C=c, max_iter=2000, random_state=seed),
}
REGRESSORS: Mapping[ClassifierKind, EstimatorFactory] = {
    "linear": lambda c, seed: LinearSVR(C=c, random_state=seed, max_iter=20000),
    "rbf": lambda c, _: SVR(C=c),
    "mlp": lambda c, seed: _make_mlp(MLPRegressor, c, seed),
    "logistic": lambda c, _: Ridge(alpha=1 / c),
}


@contextmanager
def ignore_convergence_warnings() -> Iterator[None]:
    """Silence scikit-learn's advice to iterate longer: cross-validation judges each candidate as it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
