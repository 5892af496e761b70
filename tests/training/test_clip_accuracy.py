"""The benchmark of predictions and identities on clips of real people."""

from __future__ import annotations

import clip_accuracy
import numpy as np
import pytest

import feature_fixtures
from fervid.training.clip_sets import DEVELOPMENT, KERC, ClipSet


@pytest.mark.usefixtures("quick")
def test_trained_classifiers_are_measured_with_and_without_centering(monkeypatch: pytest.MonkeyPatch) -> None:
    every = clip_accuracy.make_default_candidates
    monkeypatch.setattr(clip_accuracy, "make_default_candidates", lambda *names, **more: every(*names, **more)[-2:])
    _, table = feature_fixtures.told_apart(people=6, each=3)
    known = ClipSet(("calm", "joy"), np.ones((2, 8), np.bool_), table, None)
    rows = clip_accuracy.measure_trained({DEVELOPMENT: known, KERC: known})
    assert [row[1] for row in rows] == ["fervid train", "fervid train --center person"] * 2
    for part, _, recall, _, _, clips in rows:
        assert DEVELOPMENT in part or KERC in part
        assert (recall, clips) == ("100.0%", "36")


@pytest.mark.parametrize(
    ("predicted", "scores"), [([0, 0, 1, 1], (1, 1, 1)), ([0, 0, 0, 0], (1 / 3, 1, 0.5)), ([0, 1, 2, 3], (0, 0, 0))]
)
def test_pairs_of_clips_are_scored(predicted: list[int], scores: tuple[float, float, float]) -> None:
    assert clip_accuracy.score_pairs(np.array(predicted), list("aabb")) == pytest.approx(scores)
