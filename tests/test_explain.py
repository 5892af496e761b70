"""Contributions add up, are exact Shapley values, and work for every kind of classifier."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import onnxruntime
import pytest

import feature_fixtures
from fervid.analysis.explain import MAX_GROUPS, Explanation, baseline_features, explain, feature_groups
from fervid.analysis.pooling import STATISTICS
from fervid.core.records import ClipFeatures
from fervid.learn import calibration, classifier_export, estimators, model_selection
from fervid.models import registry

LABELS = ("calm", "joy")


def singles(width: int) -> dict[str, np.ndarray]:
    return {f"g{i}": np.array([i]) for i in range(width)}


def linear(weights: list[float]):
    """A classifier whose probability of joy is the weighted sum of the features."""
    return lambda rows: np.stack([1 - rows @ weights, rows @ weights], axis=1).astype(np.float32)


def test_contributions_to_a_linear_function_are_its_terms() -> None:
    explanation = explain(
        linear([0.5, 0.25, -0.125]), np.float32([1, 1, 1]), np.float32([0, 0.5, 0]), singles(3), LABELS
    )
    assert explanation == Explanation("joy", 0.625, 0.125, {"g0": 0.5, "g1": 0.125, "g2": -0.125})


def test_contributions_are_mean_over_all_orders() -> None:
    rng = np.random.default_rng(0)
    table = rng.random(8).astype(np.float32)

    def classify(rows: np.ndarray) -> np.ndarray:
        joy = table[(rows @ [1, 2, 4]).astype(int)]
        return np.stack([1 - joy, joy], axis=1)

    explanation = explain(classify, np.ones(3, np.float32), np.zeros(3, np.float32), singles(3), LABELS)
    best = explanation.label == "joy"
    value = table if best else 1 - table
    for i in range(3):
        steps = []
        for order in permutations(range(3)):
            before = sum(1 << other for other in order[: order.index(i)])
            steps.append(value[before | 1 << i] - value[before])
        assert explanation.contributions[f"g{i}"] == pytest.approx(np.mean(steps), abs=1e-6)


@pytest.mark.parametrize("count", [1, 2, 11, MAX_GROUPS])
def test_contributions_add_up_to_difference_from_baseline(count: int) -> None:
    rng = np.random.default_rng(count)
    weights = rng.normal(size=(count * 2, 2)).astype(np.float32)

    def classify(rows: np.ndarray) -> np.ndarray:
        assert len(rows) <= 1024
        powers = np.exp(rows @ weights)
        return powers / powers.sum(axis=1, keepdims=True)

    parts = {f"g{i}": np.array([i, count + i]) for i in range(count)}
    row = rng.normal(size=count * 2).astype(np.float32)
    explanation = explain(classify, row, np.zeros(count * 2, np.float32), parts, LABELS)
    assert sum(explanation.contributions.values()) == pytest.approx(
        explanation.confidence - explanation.baseline_probability, abs=1e-6
    )
    assert explanation.confidence == pytest.approx(classify(row[None]).max())
    assert explanation.baseline_probability == 0.5


@pytest.mark.parametrize("count", [0, MAX_GROUPS + 1])
def test_wrong_number_of_groups_raises(count: int) -> None:
    with pytest.raises(ValueError, match="1 to 12 groups"):
        explain(linear([0] * count), np.zeros(count), np.zeros(count), singles(count), LABELS)


def features(**widths: int) -> ClipFeatures:
    statistics = {
        f"{vector.replace('_', '.', 1)}.{kind}": np.zeros(width, np.float32)
        for vector, width in widths.items()
        for kind in STATISTICS
    }
    return ClipFeatures(statistics, 1)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["embedding.mean"], ["embedding, mean"]),
        (["embedding.mean", "embedding.std"], ["embedding, mean", "embedding, change over time"]),
        (["expression.mean"], ["expression of calm", "expression of joy"]),
        (
            ["embedding.max", "expression.mean", "expression.std"],
            ["embedding, highest", "expression of calm", "expression of joy"],
        ),
        (["embedding.across_faces.min"], ["embedding between people, lowest"]),
    ],
)
def test_statistics_and_expressions_are_groups(names: list[str], expected: list[str]) -> None:
    clip = features(embedding=3, expression=2, embedding_across_faces=3)
    groups = feature_groups(clip, names, LABELS)
    assert list(groups) == expected
    columns = np.sort(np.concatenate(list(groups.values())))
    assert columns.tolist() == list(range(len(clip.vector(names))))


def test_groups_are_as_fine_as_allowed() -> None:
    labels = [str(i) for i in range(MAX_GROUPS)]
    clip = features(embedding=2, expression=MAX_GROUPS, age=1, identity=2)
    all_statistics = [
        f"{vector}.{kind}" for vector in ("embedding", "expression", "age", "identity") for kind in STATISTICS
    ]
    assert list(feature_groups(clip, ["expression.mean", "expression.std"], labels)) == [
        f"expression of {x}" for x in labels
    ]
    groups = feature_groups(clip, ["embedding.mean", "expression.mean", "expression.std"], labels)
    assert list(groups) == ["embedding, mean", "expression, mean", "expression, change over time"]
    assert [len(columns) for columns in groups.values()] == [2, 12, 12]
    assert list(feature_groups(clip, all_statistics, labels)) == ["embedding", "expression", "age", "identity"]
    assert sum(map(len, feature_groups(clip, all_statistics, labels).values())) == len(clip.vector(all_statistics))


@pytest.mark.parametrize("kind", ["linear", "rbf", "mlp", "logistic"])
@pytest.mark.parametrize("scaling", ["l2", "standard"])
def test_every_kind_of_classifier_can_be_explained(kind: estimators.Kind, scaling: model_selection.Scaling) -> None:
    known = feature_fixtures.known(people=10, each=3).training_data(["mean+std"])
    x = known.matrices["mean+std"]
    pipeline = calibration.fit(model_selection.Candidate("mean+std", kind, 1.0, scaling), known, 3)
    data = classifier_export.serialize_with_card(classifier_export.to_onnx(pipeline, x.shape[1]), {})
    baseline = baseline_features(data, x.shape[1])
    assert baseline == pytest.approx(x.mean(axis=0) if scaling == "standard" else 0, abs=1e-2)
    session = onnxruntime.InferenceSession(data)
    half = x.shape[1] // 2
    parts = {"mean": np.arange(half), "std": np.arange(half, x.shape[1])}
    explanation = explain(
        lambda rows: session.run(["probabilities"], {"features": rows})[0], x[-1], baseline, parts, LABELS
    )
    assert explanation.label == "joy"
    assert sum(explanation.contributions.values()) == pytest.approx(
        explanation.confidence - explanation.baseline_probability, abs=1e-5
    )
    assert all(np.isfinite(list(explanation.contributions.values())))


def test_scaler_of_another_width_is_ignored() -> None:
    known = feature_fixtures.known(people=10, each=3).training_data(["mean"])
    pipeline = calibration.fit(model_selection.Candidate("mean", "logistic", 1.0, "standard"), known, 3)
    data = classifier_export.serialize_with_card(classifier_export.to_onnx(pipeline, 3), {})
    assert baseline_features(data, 3).any()
    assert baseline_features(data, 4).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("name", ["emotion8", "affect3", "mean6", "mean8"])
def test_shipped_classifiers_accept_their_baseline(name: str) -> None:
    model = registry.load_model(name, "classifier")
    width = model.session.get_inputs()[0].shape[1]
    baseline = baseline_features(model.path.read_bytes(), width)
    assert not baseline.any(), "none standardises its features"
    probabilities = model.session.run(["probabilities"], {"features": baseline[None]})[0]
    assert np.isfinite(probabilities).all()
