"""Few people get the default unless another candidate is clearly better."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from fervid.learn import candidate_choice
from fervid.learn.candidate_choice import (
    DEFAULT_CANDIDATE,
    DEFAULT_CENTERED_CANDIDATE,
    make_default_candidates,
    nested_cv_predict,
    select_candidate,
)
from fervid.learn.model_selection import (
    CANDIDATE_STATISTICS,
    Candidate,
    TrainingData,
    parse_statistics,
    resolve_scaling,
)


def examples(people_count: int, apart: float, *, centered: bool = False, each: int = 6) -> TrainingData:
    """Clips in two classes that lie so far apart in the last of two statistics, and half as far in the default's."""
    count = each * people_count
    truth = np.arange(count) % 2
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(2, count, 4)).astype(np.float32)
    signal = np.float32(apart) * truth[:, None]
    default = DEFAULT_CENTERED_CANDIDATE if centered else DEFAULT_CANDIDATE
    matrices = {default.statistics: noise[0] + signal / 4, "logit": noise[1] + signal}
    return TrainingData(matrices, truth, np.arange(count) // each, centered=centered)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize(
    ("people_count", "apart", "default"),
    [
        (5, 9.0, True),  # fewer than six people show nothing clearly
        (12, 2.0, False),  # clearly better
        (12, 0.3, True),  # by luck
        (31, 2.0, False),  # enough people
    ],
)
def test_clear_gain_overrides_default_for_few_people(
    people_count: int, apart: float, *, default: bool, centered: bool
) -> None:
    known = examples(people_count, apart, centered=centered)
    fixed = DEFAULT_CENTERED_CANDIDATE if centered else DEFAULT_CANDIDATE
    other = Candidate("logit", "linear", 0.3)
    way, scores = select_candidate(known, [other, fixed], 3)
    assert list(scores) == [other, fixed]
    assert way == (fixed if default else other)


def test_default_is_known_by_scaling_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidate_choice, "SIGNIFICANCE_LEVEL", 0)
    ways = [Candidate("logit", "linear", 0.3), replace(DEFAULT_CANDIDATE, scaling=None)]
    assert select_candidate(examples(6, 5), ways, 3)[0] == ways[1]
    assert select_candidate(examples(6, 5), [ways[0], replace(DEFAULT_CANDIDATE, scaling="l2")], 3)[0] == ways[0]


@pytest.mark.parametrize(("default", "centered"), [(DEFAULT_CANDIDATE, False), (DEFAULT_CENTERED_CANDIDATE, True)])
def test_default_is_among_what_is_usually_chosen_from(default: Candidate, *, centered: bool) -> None:
    available = {part for name in CANDIDATE_STATISTICS for part in parse_statistics(name)}
    ways = make_default_candidates(available, centered=centered)
    assert default in {replace(way, scaling=resolve_scaling(way.statistics, way.kind, way.scaling)) for way in ways}
    assert {way.statistics for way in ways} == set(CANDIDATE_STATISTICS)
    few = make_default_candidates({"logit.mean", "logit.std"})
    assert {way.statistics for way in few} == {"logit+std"}
    assert make_default_candidates((), all_faces=True) == []


def test_outer_folds_of_few_people_have_default() -> None:
    said, chosen = nested_cv_predict(examples(5, 9.0), [Candidate("logit", "linear", 0.3), DEFAULT_CANDIDATE], 5)
    assert chosen == [DEFAULT_CANDIDATE] * 5
    assert np.isfinite(said).all()


def test_candidates_are_tried_on_one_thread_of_blas_each(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    fit_candidate = candidate_choice.fit_candidate

    def watched(*given: object) -> object:
        seen.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        return fit_candidate(*given)

    monkeypatch.setattr(candidate_choice, "fit_candidate", watched)
    select_candidate(examples(6, 2.0), [DEFAULT_CANDIDATE], 3)
    assert set(seen) == {1}
