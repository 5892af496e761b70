"""Choose a candidate by cross-validation, and measure how well that choice generalizes.

Features, kind and hyperparameters are chosen by cross-validation that keeps all clips of a person in one fold. A second
cross-validation around the first measures the choice (nested; Varma and Simon, BMC Bioinformatics 7, 2006). With few
people the best of many candidates is often best by luck and generalizes worse than a fixed one, so small data sets get
a default candidate unless another is significantly better.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_sample_weight
from threadpoolctl import threadpool_limits

from fervid.core.records import FloatArray
from fervid.learn.calibration import fit, predict
from fervid.learn.estimators import ClassifierKind, Truth, ignore_convergence_warnings, is_regression
from fervid.learn.model_selection import (
    CANDIDATE_GROUP_STATISTICS,
    CANDIDATE_STATISTICS,
    FOLDS,
    Candidate,
    Scaling,
    TrainingData,
    fit_candidate,
    make_candidates,
    parse_statistics,
    resolve_scaling,
    selection_score,
    uses_expressions_only,
)
from fervid.learn.significance import sign_flip_test

MIN_PEOPLE_TO_SELECT = 30
"""With fewer people, another candidate must be significantly better than the default."""
SIGNIFICANCE_LEVEL = 0.05
"""Largest p of the sign-flip test over people that counts as significant."""
DEFAULT_CANDIDATE = Candidate("logit+std+max+min", "rbf", 0.3, "standard")
"""Default for few people, chosen by leaving people out of acted clips of five people and film scenes of sixteen."""
DEFAULT_CENTERED_CANDIDATE = Candidate("expression+std+max+min", "linear", 0.003, "standard")
"""The same for features that are centred by person."""


def make_default_candidates(
    available: Collection[str],
    *,
    all_faces: bool = False,
    centered: bool = False,
    statistics: Sequence[str] = (),
    kinds: Sequence[ClassifierKind] = (),
    scalings: Sequence[Scaling] = (),
) -> list[Candidate]:
    """List the candidates that `fervid train` chooses from.

    Statistics, kinds and scalings that are empty get their defaults: the `available` ones of `CANDIDATE_STATISTICS`, or
    of `CANDIDATE_GROUP_STATISTICS` with `all_faces`. Features that are `centered` by person are no longer of unit
    length.
    """
    names = CANDIDATE_GROUP_STATISTICS if all_faces else CANDIDATE_STATISTICS
    usable = [name for name in names if set(parse_statistics(name)) <= set(available)]
    return make_candidates(statistics or usable, kinds, scalings or (["standard"] if centered else []))


def select_candidate(
    data: TrainingData, candidates: Sequence[Candidate], n_folds: int = FOLDS
) -> tuple[Candidate, dict[Candidate, float]]:
    """Select the candidate with the highest cross-validated score; the first one wins a tie.

    With fewer than `MIN_PEOPLE_TO_SELECT` people the default is selected unless a paired sign-flip test over people
    finds another candidate better with p < `SIGNIFICANCE_LEVEL`, which is impossible for fewer than six people. If the
    default is not among the candidates, the best one that uses expressions only takes its place, because a
    classifier on the embedding, which has hundreds of features, tells few people apart and not what they show.

    Returns:
        The candidate, and the score of each candidate.

    Raises:
        DatasetError: As for `fit`.
    """
    folds = data.folds(n_folds)

    def cross_validate(candidate: Candidate) -> Truth:
        x, predicted = data.matrices[candidate.statistics], np.empty_like(data.truth)
        for train, test in folds:
            predicted[test] = fit_candidate(candidate, x[train], data.truth[train], data.seed).predict(x[test])
        return predicted

    with ignore_convergence_warnings(), threadpool_limits(1, "blas"):  # the threads of joblib already use all cores
        results = joblib.Parallel(joblib.cpu_count(), prefer="threads")(
            joblib.delayed(cross_validate)(candidate) for candidate in candidates
        )
    predicted = dict(zip(candidates, results, strict=True))
    scores = {candidate: selection_score(data.truth, predicted[candidate]) for candidate in candidates}
    best = max(candidates, key=scores.__getitem__)
    groups = np.arange(len(data.truth)) if data.groups is None else data.groups
    default = _find_default(scores, data.centered) if len(np.unique(groups)) < MIN_PEOPLE_TO_SELECT else None
    if default is not None and default != best:
        gains = _losses(data.truth, predicted[default]) - _losses(data.truth, predicted[best])
        if sign_flip_test(gains, groups) >= SIGNIFICANCE_LEVEL:
            best = default
    return best, scores


def _find_default(scores: Mapping[Candidate, float], centered: bool) -> Candidate | None:
    """Find the default among the candidates, else the best one that uses expressions only, else None."""
    default = DEFAULT_CENTERED_CANDIDATE if centered else DEFAULT_CANDIDATE
    for candidate in scores:
        scaling = resolve_scaling(candidate.statistics, candidate.kind, candidate.scaling)
        if replace(candidate, scaling=scaling) == default:
            return candidate
    on_expressions = [candidate for candidate in scores if uses_expressions_only(candidate.statistics)]
    return max(on_expressions, key=scores.__getitem__) if on_expressions else None


def _losses(truth: Truth, predicted: Truth) -> NDArray[np.float64]:
    """Compute the loss (n,) of each clip: absolute error of a rating, or class-weighted 0-1 loss."""
    if is_regression(truth):
        return np.abs(predicted - truth)
    return np.asarray(compute_sample_weight("balanced", truth) * (predicted != truth), np.float64)


def nested_cv_predict(
    data: TrainingData, candidates: Sequence[Candidate], n_folds: int = FOLDS
) -> tuple[FloatArray, list[Candidate]]:
    """Predict each clip with a model that neither was fitted nor selected on clips of the same person.

    Returns:
        (n, c) probabilities or (n,) ratings, and the candidate that was selected in each outer fold.

    Raises:
        DatasetError: As for `fit`.
    """
    width = () if is_regression(data.truth) else (int(data.truth.max()) + 1,)
    predictions = np.full((len(data.truth), *width), np.nan, np.float32)
    selected = []
    for train, test in data.folds(n_folds):
        candidate = candidates[0]
        if len(candidates) > 1:
            candidate, _ = select_candidate(data[train], candidates, n_folds - 1)
        model = fit(candidate, data[train], n_folds - 1)
        predictions[test] = predict(model, data.matrices[candidate.statistics][test])
        selected.append(candidate)
    return predictions, selected
