"""Which candidate a clip classifier is fitted by, and how good that choice is on people whom it has not seen.

Statistics, kind and hyper-parameters are chosen by cross-validation in which all clips of a person stay together; how
good the choice is, is measured by a second cross-validation around the first (nested; Varma and Simon, BMC
Bioinformatics 7, 2006). With few people the best of many candidates is the luckiest, and worse on the next person than
one that was fixed before; so there is a default then, which gives way only to what is clearly better.
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
from fervid.learn.metrics import sign_flip_test
from fervid.learn.model_selection import (
    FOLDS,
    USUAL_GROUP_STATISTICS,
    USUAL_STATISTICS,
    Candidate,
    Kind,
    Scaling,
    TrainingData,
    Truth,
    candidates,
    fit,
    fit_candidate,
    is_regression,
    of_expressions,
    parse_statistics,
    predict,
    quiet,
    scaling_of,
    selection_score,
)

FEW_PEOPLE = 30
"""With fewer people, other candidates have to be clearly better than the default."""
CLEARLY_P = 0.05
"""What a sign-flip test over people must find for something to be clearly better."""
DEFAULT = Candidate("logit+std+max+min", "rbf", 0.3, "standard")
"""Of few people; chosen on acted clips of five people and film scenes of sixteen, leaving people out."""
CENTERED_DEFAULT = Candidate("expression+std+max+min", "linear", 0.003, "standard")
"""The same where features are centred by person."""


def usual_candidates(
    available: Collection[str],
    *,
    everybody: bool = False,
    centered: bool = False,
    statistics: Sequence[str] = (),
    kinds: Sequence[Kind] = (),
    scalings: Sequence[Scaling] = (),
) -> list[Candidate]:
    """What `fervid train` chooses from.

    Args:
        available: The pooled statistics that there are.
        everybody: Whether they are of everybody in a clip.
        centered: Whether features are centred by person, and so no longer of unit length.
        statistics: As `fit.statistics_of` reads them; none for the usual ones of those that are available.
        kinds: Of classifier; none for the usual ones.
        scalings: None for the usual ones.
    """
    usual = USUAL_GROUP_STATISTICS if everybody else USUAL_STATISTICS
    able = [name for name in usual if set(parse_statistics(name)) <= set(available)]
    return candidates(statistics or able, kinds, scalings or (["standard"] if centered else []))


def select_candidate(
    known: TrainingData, ways: Sequence[Candidate], count: int = FOLDS
) -> tuple[Candidate, dict[Candidate, float]]:
    """The candidate with the highest cross-validated score, the first of equals; and the score of each.

    With fewer than `FEW_PEOPLE` people the default is chosen unless another candidate is clearly better: by a paired
    sign-flip test over people with a p below `CLEARLY_P`, which fewer than six can never give. Where the default is
    not among the candidates, the best one of expressions takes its place, because the embedding, which is hundreds of
    numbers, tells few people apart rather than what they show.

    Raises:
        DatasetError: As `fit`.
    """
    splits = known.folds(count)

    def tried(way: Candidate) -> Truth:
        x, answers = known.matrices[way.statistics], np.empty_like(known.truth)
        for train, test in splits:
            answers[test] = fit_candidate(way, x[train], known.truth[train], known.seed).predict(x[test])
        return answers

    with quiet(), threadpool_limits(1, "blas"):  # a thread for each candidate takes all cores already
        every = joblib.Parallel(joblib.cpu_count(), prefer="threads")(joblib.delayed(tried)(way) for way in ways)
    answers = dict(zip(ways, every, strict=True))
    scores = {way: selection_score(known.truth, answers[way]) for way in ways}
    best = max(ways, key=scores.__getitem__)
    groups = np.arange(len(known.truth)) if known.groups is None else known.groups
    default = _find_default(scores, known.centered) if len(np.unique(groups)) < FEW_PEOPLE else None
    if default is not None and default != best:
        gains = _losses(known.truth, answers[default]) - _losses(known.truth, answers[best])
        if sign_flip_test(gains, groups) >= CLEARLY_P:
            best = default
    return best, scores


def _find_default(scores: Mapping[Candidate, float], centered: bool) -> Candidate | None:
    """The default if it is among the candidates, else the best one of expressions, if there is any."""
    default = CENTERED_DEFAULT if centered else DEFAULT
    for way in scores:
        if replace(way, scaling=scaling_of(way)) == default:
            return way
    small = [way for way in scores if of_expressions(way.statistics)]
    return max(small, key=scores.__getitem__) if small else None


def _losses(truth: Truth, answers: Truth) -> NDArray[np.float64]:
    """(n,) how wrong each clip is answered: by how much a rating, or whether a class, all classes weighing the same."""
    if is_regression(truth):
        return np.abs(answers - truth)
    return np.asarray(compute_sample_weight("balanced", truth) * (answers != truth), np.float64)


def nested_cv_predict(
    known: TrainingData, ways: Sequence[Candidate], count: int = FOLDS
) -> tuple[FloatArray, list[Candidate]]:
    """What is said of people whom neither the fit nor the choice has seen.

    Returns:
        (n, c) probabilities or (n,) ratings, and the candidate that each outer fold chose.

    Raises:
        DatasetError: As `fit`.
    """
    width = () if is_regression(known.truth) else (int(known.truth.max()) + 1,)
    said = np.full((len(known.truth), *width), np.nan, np.float32)
    chosen = []
    for train, test in known.folds(count):
        way = ways[0] if len(ways) == 1 else select_candidate(known[train], ways, count - 1)[0]
        pipeline = fit(way, known[train], count - 1)
        said[test] = predict(pipeline, known.matrices[way.statistics][test], known.truth)
        chosen.append(way)
    return said, chosen
