"""Clip classifiers take the statistics of their card and return probabilities in the order of its labels."""

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
    folder: Path, weights: list[list[float]], allowed: list[str] | None = None, **card: object
) -> ClipClassifier:
    model = registry.load_model(str(toy_models.classifier(folder / "toy.onnx", weights, **card)), "classifier")
    return ClipClassifier(model.session, model.card, allowed)


def selecting_weights(column: int, of: int) -> list[list[float]]:
    """Weights that make the logit of label i the selected feature times i + 1."""
    return [[float(label + 1) * (row == column) for label in range(3)] for row in range(of)]


@pytest.mark.parametrize("labels", [["anger", "fear", "joy"], ["joy", "anger", "fear"], ["c", "a", "b"]])
def test_probabilities_follow_order_of_labels(tmp_path: Path, labels: list[str]) -> None:
    prediction = classifier(tmp_path, [[0, 1, 2], [0, 0, 0]], labels=labels)(FEATURES)
    true = np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum()
    assert list(prediction.probabilities) == labels
    assert list(prediction.probabilities.values()) == pytest.approx(true)
    assert prediction.label == labels[2]
    assert prediction.confidence == pytest.approx(true[2])
    assert all(type(p) is float for p in prediction.probabilities.values())


@pytest.mark.parametrize(
    ("statistics", "vector"),
    [
        (["embedding.mean"], [1, 2]),
        (["embedding.mean", "embedding.std"], [1, 2, 3]),
        (["embedding.std", "embedding.mean"], [3, 1, 2]),
        (["expression.max", "embedding.std", "embedding.mean"], [0.5, 0.25, 4, 3, 1, 2]),
    ],
)
def test_statistics_are_concatenated_in_card_order(tmp_path: Path, statistics: list[str], vector: list[float]) -> None:
    for column, value in enumerate(vector):
        prediction = classifier(tmp_path, selecting_weights(column, len(vector)), statistics=statistics)(FEATURES)
        sums = np.array([1, 2, 3]) * value
        assert list(prediction.probabilities.values()) == pytest.approx(np.exp(sums) / np.exp(sums).sum(), rel=1e-5)


def test_missing_statistic_is_named(tmp_path: Path) -> None:
    classify = classifier(tmp_path, [[0, 0, 0]], statistics=["embedding.mean", "age.mean", "gender.std"])
    with pytest.raises(ValueError, match=r"no statistic age\.mean, gender\.std among embedding\.mean, embedding\.std"):
        classify(FEATURES)


def test_wrong_number_of_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelIncompatible, match="for the labels"):
        classifier(tmp_path, [[0, 0, 0], [0, 0, 0]], labels=["only", "two"])(FEATURES)


@pytest.mark.parametrize(
    "allowed", [["first", "second", "third"], ["third", "first"], ["second", "third"], ["second"]], ids=" ".join
)
def test_probabilities_of_allowed_labels_sum_to_one(tmp_path: Path, allowed: list[str]) -> None:
    weights = [[0, 1, 2], [0, 0, 0]]
    unrestricted = classifier(tmp_path, weights)(FEATURES).probabilities
    restricted = classifier(tmp_path, weights, allowed)(FEATURES)
    total = sum(unrestricted[label] for label in allowed)
    assert list(restricted.probabilities) == allowed
    assert restricted.probabilities == pytest.approx({label: unrestricted[label] / total for label in allowed})
    assert sum(restricted.probabilities.values()) == pytest.approx(1)
    assert restricted.label == max(allowed, key=unrestricted.__getitem__)


def test_allowed_labels_of_zero_probability_are_equally_likely(tmp_path: Path) -> None:
    prediction = classifier(tmp_path, [[0, 0, 200], [0, 0, 0]], ["first", "second"])(FEATURES)
    assert prediction.probabilities == {"first": 0.5, "second": 0.5}


def test_unknown_labels_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="toy-classifier has no label calm, bored; it has first, second, third"):
        classifier(tmp_path, [[0, 0, 0], [0, 0, 0]], ["calm", "first", "bored"])
