"""Candidates for a clip classifier, and the folds that compare them.

Pooled statistics with an SVM are the pipelines for AFEW and VGAF (arXiv 2103.17107, sections 4.2 and 4.3).
`candidate_choice` chooses a candidate, `calibration` fits it and `classifier_export` writes it.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.compose import TransformedTargetRegressor
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from fervid.analysis.pooling import STATISTICS
from fervid.core.errors import DatasetError, UsageError
from fervid.core.records import FloatArray
from fervid.core.text import plural
from fervid.learn.estimators import CLASSIFIERS, REGRESSORS, ClassifierKind, Truth, is_regression
from fervid.learn.feature_extraction import VECTORS
from fervid.learn.metrics import SEED, ccc

FOLDS = 5
Scaling = Literal["l2", "standard"]
Groups = NDArray[np.int64] | None
Folds = Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]

DEFAULT_STATISTICS = (
    "logit+std+max+min",
    "expression",
    "expression+std+max",
    "expression+std+min+max",
    "mean",
    "mean+std",
    "mean+std+max",
    "mean+std+min+max",
    "group",
)
"""Statistics that `fervid compare` compares by default."""
CANDIDATE_STATISTICS = (
    "logit+std",
    "logit+std+max+min",
    "expression+std+max+min",
    "mean+std",
    "mean+std+max",
    "mean+std+min+max",
)
"""Statistics that `fervid train` chooses from by default."""
CANDIDATE_GROUP_STATISTICS = ("logit+std+logit.across_faces+std", "group")
"""The same for features of all faces in a clip."""
GROUP = ("embedding.mean", "embedding.std", "embedding.across_faces.mean", "embedding.across_faces.std")
HYPERPARAMETERS: Mapping[ClassifierKind, tuple[float, ...]] = {
    "linear": (0.1, 0.3, 1.0, 3.0),
    "rbf": (0.3, 1.0, 3.0, 10.0),
    "mlp": (1e-3, 1e-1),
    "logistic": (0.3, 1.0, 3.0, 10.0),
}
"""C of SVMs and of logistic regression (alpha = 1 / C of ridge regression), and the weight decay of the MLP."""
STANDARDIZED_HYPERPARAMETERS: Mapping[ClassifierKind, tuple[float, ...]] = {
    "linear": (0.003, 0.03, 0.3),
    "rbf": (0.1, 0.3, 1.0, 3.0),
    "mlp": (1e-3, 1e-1),
    "logistic": (0.003, 0.03, 0.3),
}
"""The same for standardized features, whose vectors have a length of about sqrt(d) instead of 1."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One combination of features, classifier and hyperparameter.

    Attributes:
        statistics: Name of the features, in the form that `parse_statistics` takes.
        kind: Kind of classifier.
        hyperparameter: C, or the weight decay of the MLP.
        scaling: `l2` scales each clip to unit length, `standard` each feature to mean 0 and standard deviation 1.
            None for the default: `standard` for the MLP and for logits, else `l2` as in the paper.
    """

    statistics: str
    kind: ClassifierKind
    hyperparameter: float
    scaling: Scaling | None = None

    def __str__(self) -> str:
        scaling = f", {self.scaling}" if self.scaling else ""
        return f"{self.kind} ({self.hyperparameter:g}) on {self.statistics}{scaling}"


def parse_statistics(name: str) -> tuple[str, ...]:
    """Expand a name such as `mean+std+expression.max` to the pooled statistics that it joins, without repetitions.

    A bare vector stands for its mean, a bare statistic is of the vector before it (at first the embedding), and
    `group` stands for `GROUP`.

    Raises:
        UsageError: A part is no such statistic.
    """
    statistics, vector = [], "embedding"
    for part in itertools.chain.from_iterable(GROUP if part == "group" else (part,) for part in name.split("+")):
        part_vector, _, kind = (f"{part}.mean" if part in VECTORS else part).rpartition(".")
        vector = part_vector or vector
        if vector not in VECTORS or kind not in STATISTICS:
            raise UsageError(
                f"unknown statistic {part!r}; join {', '.join(STATISTICS)} of {', '.join(VECTORS)} with +,"
                " as in mean+std+expression.max, or use group"
            )
        statistics.append(f"{vector}.{kind}")
    return tuple(dict.fromkeys(statistics))


def resolve_scaling(statistics: str, kind: ClassifierKind, scaling: Scaling | None) -> Scaling:
    """Return the scaling of a candidate, with the default filled in."""
    if scaling:
        return scaling
    only_logits = all(part.startswith("logit.") for part in parse_statistics(statistics))
    return "standard" if kind == "mlp" or only_logits else "l2"


def uses_expressions_only(name: str) -> bool:
    """Tell whether all statistics are of expression probabilities or logits, which gives few features per clip."""
    return all(part.startswith(("expression.", "logit.")) for part in parse_statistics(name))


def make_candidates(
    statistics: Sequence[str], kinds: Sequence[ClassifierKind] = (), scalings: Sequence[Scaling] = ()
) -> list[Candidate]:
    """Combine all statistics (names that `parse_statistics` accepts), kinds, scalings and hyperparameters.

    By default the kinds are linear and RBF SVMs for expressions, else linear SVMs and logistic regression, and the
    scaling is the one that `Candidate` defaults to.
    """
    candidates = []
    for name in statistics:
        default_kinds: Sequence[ClassifierKind] = ("linear", "rbf" if uses_expressions_only(name) else "logistic")
        for kind, scaling in itertools.product(kinds or default_kinds, scalings or (None,)):
            standardized = resolve_scaling(name, kind, scaling) == "standard"
            values = (STANDARDIZED_HYPERPARAMETERS if standardized else HYPERPARAMETERS)[kind]
            candidates += [Candidate(name, kind, value, scaling) for value in values]
    return candidates


def selection_score(truth: Truth, predicted: Truth) -> float:
    """Compute the score that candidates are compared by: UAR for classes, concordance (CCC) for ratings."""
    if is_regression(truth):
        return ccc(truth, predicted)
    return float(balanced_accuracy_score(truth, predicted))


def split_folds(truth: Truth, groups: Groups, n_folds: int = FOLDS, seed: int = SEED) -> Folds:
    """Split rows into stratified folds (train, test) that keep each group on one side.

    Raises:
        DatasetError: There are too few people, or too few clips of a class, for that many folds.
    """
    if is_regression(truth):
        splitter = KFold if groups is None else GroupKFold
    else:
        splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # a class has fewer clips than folds
            folds = list(splitter(n_folds, shuffle=True, random_state=seed).split(truth, truth, groups))
    except (UserWarning, ValueError) as error:
        raise DatasetError(
            f"cannot split the clips into {n_folds} folds ({error}); add clips or people, or use fewer --folds"
        ) from error
    if not is_regression(truth) and any(len(np.unique(truth[train])) < len(np.unique(truth)) for train, _ in folds):
        raise DatasetError(
            f"a class has too few people for {n_folds} folds; add people, use fewer --folds, or use --group-by none if"
            " it does not matter who is in a clip"
        )
    return folds


@dataclass(frozen=True, slots=True, eq=False)
class TrainingData:
    """Features and truth of n clips.

    Attributes:
        matrices: Features (n, d) by the name of their statistics.
        truth: (n,) class indices or ratings.
        groups: (n,) the person in each clip, or None.
        seed: Random seed of folds and classifiers.
        centered: Whether the mean of each person was subtracted.
    """

    matrices: Mapping[str, FloatArray]
    truth: Truth
    groups: Groups = None
    seed: int = SEED
    centered: bool = False

    def __getitem__(self, rows: NDArray[Any]) -> TrainingData:
        """Select rows by index or mask."""
        matrices = {name: matrix[rows] for name, matrix in self.matrices.items()}
        groups = None if self.groups is None else self.groups[rows]
        return replace(self, matrices=matrices, truth=self.truth[rows], groups=groups)

    def folds(self, n_folds: int) -> Folds:
        """Split the clips into folds by person, with `split_folds`."""
        return split_folds(self.truth, self.groups, n_folds, self.seed)


def fit_candidate(candidate: Candidate, x: FloatArray, truth: Truth, seed: int) -> BaseEstimator:
    """Fit a candidate on rows (n, d), with the same weight for all classes and without calibration.

    Raises:
        DatasetError: There are too few rows for this candidate.
    """
    scaling = resolve_scaling(candidate.statistics, candidate.kind, candidate.scaling)
    scaler = StandardScaler() if scaling == "standard" else Normalizer()
    factories = REGRESSORS if is_regression(truth) else CLASSIFIERS
    pipeline = Pipeline([("scaler", scaler), ("estimator", factories[candidate.kind](candidate.hyperparameter, seed))])
    try:
        if is_regression(truth):  # standardize the ratings, so that their offset and scale do not matter
            return TransformedTargetRegressor(pipeline, transformer=StandardScaler()).fit(x, truth)
        return pipeline.fit(x, truth, estimator__sample_weight=compute_sample_weight("balanced", truth))
    except ValueError as error:
        if candidate.kind != "mlp":  # only the MLP holds out clips, for early stopping, and can run out of them
            raise
        reason = str(error).partition("\n")[0]
        raise DatasetError(
            f"{candidate} cannot be fitted on {plural(len(x), 'clip')} ({reason}); add clips, or use another"
            " --classifier-kind"
        ) from error
