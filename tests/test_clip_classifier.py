"""A clip classifier takes the statistics that its card names and answers in the order of its labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import toy_models
from fervid.analysis.clip_classifier import ClipClassifier
from fervid.core.errors import ModelIncompatible, UsageError
from fervid.core.records import ClipFeatures
from fervid.models import registry

FEATURES = ClipFeatures(
    {
        "embedding.mean": np.float32([1, 2]),
        "embedding.std": np.float32([3]),
        "expression.max": np.float32([0.5, 0.25, 4]),
    },
    5,
)


def classifier(
    folder: Path, weights: list[list[float]], only: list[str] | None = None, **card: object
) -> ClipClassifier:
    model = registry.load_model(str(toy_models.classifier(folder / "toy.onnx", weights, **card)), "classifier")
    return ClipClassifier(model.session, model.card, only)


def chooses(column: int, of: int) -> list[list[float]]:
    """Weights under which each label's sum is the feature of that number times the label's number plus one."""
    return [[float(label + 1) * (row == column) for label in range(3)] for row in range(of)]


@pytest.mark.parametrize("labels", [["anger", "fear", "joy"], ["joy", "anger", "fear"], ["c", "a", "b"]])
def test_probabilities_follow_the_order_of_the_labels(tmp_path: Path, labels: list[str]) -> None:
    answer = classifier(tmp_path, [[0, 1, 2], [0, 0, 0]], labels=labels)(FEATURES)
    true = np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum()
    assert list(answer.probabilities) == labels
    assert list(answer.probabilities.values()) == pytest.approx(true)
    assert answer.label == labels[2]
    assert answer.confidence == pytest.approx(true[2])
    assert all(type(p) is float for p in answer.probabilities.values())


@pytest.mark.parametrize(
    ("statistics", "vector"),
    [
        (["embedding.mean"], [1, 2]),
        (["embedding.mean", "embedding.std"], [1, 2, 3]),
        (["embedding.std", "embedding.mean"], [3, 1, 2]),
        (["expression.max", "embedding.std", "embedding.mean"], [0.5, 0.25, 4, 3, 1, 2]),
    ],
)
def test_statistics_are_concatenated_in_the_order_of_the_card(
    tmp_path: Path, statistics: list[str], vector: list[float]
) -> None:
    for column, value in enumerate(vector):
        answer = classifier(tmp_path, chooses(column, len(vector)), statistics=statistics)(FEATURES)
        sums = np.array([1, 2, 3]) * value
        assert list(answer.probabilities.values()) == pytest.approx(np.exp(sums) / np.exp(sums).sum(), rel=1e-5)


def test_a_missing_statistic_is_named_beside_those_that_are_there(tmp_path: Path) -> None:
    classify = classifier(tmp_path, [[0, 0, 0]], statistics=["embedding.mean", "age.mean", "gender.std"])
    with pytest.raises(ValueError, match=r"no statistic age\.mean, gender\.std among embedding\.mean, embedding\.std"):
        classify(FEATURES)


def test_labels_that_do_not_match_the_outputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelIncompatible, match="for the labels"):
        classifier(tmp_path, [[0, 0, 0], [0, 0, 0]], labels=["only", "two"])(FEATURES)


@pytest.mark.parametrize(
    "only", [["first", "second", "third"], ["third", "first"], ["second", "third"], ["second"]], ids=" ".join
)
def test_of_some_labels_the_probabilities_add_up_to_one_in_the_order_asked_for(tmp_path: Path, only: list[str]) -> None:
    weights = [[0, 1, 2], [0, 0, 0]]
    every = classifier(tmp_path, weights)(FEATURES).probabilities
    some = classifier(tmp_path, weights, only)(FEATURES)
    whole = sum(every[label] for label in only)
    assert list(some.probabilities) == only
    assert some.probabilities == pytest.approx({label: every[label] / whole for label in only})
    assert sum(some.probabilities.values()) == pytest.approx(1)
    assert some.label == max(only, key=every.__getitem__)


def test_labels_of_which_the_classifier_thinks_nothing_are_equally_likely(tmp_path: Path) -> None:
    answer = classifier(tmp_path, [[0, 0, 200], [0, 0, 0]], ["first", "second"])(FEATURES)
    assert answer.probabilities == {"first": 0.5, "second": 0.5}


def test_labels_that_are_not_in_the_card_are_refused_all_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="toy-classifier has no label calm, bored; it has first, second, third"):
        classifier(tmp_path, [[0, 0, 0], [0, 0, 0]], ["calm", "first", "bored"])
