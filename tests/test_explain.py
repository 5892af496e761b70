"""What spoke for a label: shares that add up, are exact where the truth can be worked out, and hold for every kind."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import onnxruntime
import pytest

import feature_fixtures
from fervid.analysis.explain import MAX_GROUPS, Explanation, baseline, explain, feature_groups
from fervid.analysis.pooling import STATISTICS
from fervid.core.records import ClipFeatures
from fervid.learn import model_selection
from fervid.models import registry

LABELS = ("calm", "joy")


def singles(width: int) -> dict[str, np.ndarray]:
    return {f"g{i}": np.array([i]) for i in range(width)}


def linear(weights: list[float]):
    """The weighted sum as the probability of joy."""
    return lambda rows: np.stack([1 - rows @ weights, rows @ weights], axis=1).astype(np.float32)


def test_of_what_only_adds_up_each_share_is_what_was_added() -> None:
    told = explain(linear([0.5, 0.25, -0.125]), np.float32([1, 1, 1]), np.float32([0, 0.5, 0]), singles(3), LABELS)
    assert told == Explanation("joy", 0.625, 0.125, {"g0": 0.5, "g1": 0.125, "g2": -0.125})


def test_shares_are_the_mean_over_all_orders() -> None:
    rng = np.random.default_rng(0)
    table = rng.random(8).astype(np.float32)

    def classify(rows: np.ndarray) -> np.ndarray:
        joy = table[(rows @ [1, 2, 4]).astype(int)]
        return np.stack([1 - joy, joy], axis=1)

    told = explain(classify, np.ones(3, np.float32), np.zeros(3, np.float32), singles(3), LABELS)
    best = told.label == "joy"
    value = table if best else 1 - table
    for i in range(3):
        steps = []
        for order in permutations(range(3)):
            before = sum(1 << other for other in order[: order.index(i)])
            steps.append(value[before | 1 << i] - value[before])
        assert told.shares[f"g{i}"] == pytest.approx(np.mean(steps), abs=1e-6)


@pytest.mark.parametrize("count", [1, 2, 11, MAX_GROUPS])
def test_shares_add_up_to_the_confidence_less_that_of_nothing(count: int) -> None:
    rng = np.random.default_rng(count)
    weights = rng.normal(size=(count * 2, 2)).astype(np.float32)

    def classify(rows: np.ndarray) -> np.ndarray:
        assert len(rows) <= 1024
        powers = np.exp(rows @ weights)
        return powers / powers.sum(axis=1, keepdims=True)

    parts = {f"g{i}": np.array([i, count + i]) for i in range(count)}
    row = rng.normal(size=count * 2).astype(np.float32)
    told = explain(classify, row, np.zeros(count * 2, np.float32), parts, LABELS)
    assert sum(told.shares.values()) == pytest.approx(told.confidence - told.nothing, abs=1e-6)
    assert told.confidence == pytest.approx(classify(row[None]).max())
    assert told.nothing == 0.5


@pytest.mark.parametrize("count", [0, MAX_GROUPS + 1])
def test_too_many_groups_are_an_error(count: int) -> None:
    with pytest.raises(ValueError, match="1 to 12 can be told apart"):
        explain(linear([0] * count), np.zeros(count), np.zeros(count), singles(count), LABELS)


def features(**widths: int) -> ClipFeatures:
    statistics = {
        f"{vector.replace('_', '.')}.{kind}": np.zeros(width, np.float32)
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
        (["embedding.spread.min"], ["embedding between people, lowest"]),
    ],
)
def test_a_statistic_is_a_group_and_an_expression_is_one(names: list[str], expected: list[str]) -> None:
    known = features(embedding=3, expression=2, embedding_spread=3)
    found = feature_groups(known, names, LABELS)
    assert list(found) == expected
    columns = np.sort(np.concatenate(list(found.values())))
    assert columns.tolist() == list(range(len(known.vector(names))))


def test_groups_are_as_fine_as_there_may_be() -> None:
    labels = [str(i) for i in range(MAX_GROUPS)]
    known = features(embedding=2, expression=MAX_GROUPS, age=1, identity=2)
    every = [f"{vector}.{kind}" for vector in ("embedding", "expression", "age", "identity") for kind in STATISTICS]
    assert list(feature_groups(known, ["expression.mean", "expression.std"], labels)) == [
        f"expression of {x}" for x in labels
    ]
    found = feature_groups(known, ["embedding.mean", "expression.mean", "expression.std"], labels)
    assert list(found) == ["embedding, mean", "expression, mean", "expression, change over time"]
    assert [len(columns) for columns in found.values()] == [2, 12, 12]
    assert list(feature_groups(known, every, labels)) == ["embedding", "expression", "age", "identity"]
    assert sum(map(len, feature_groups(known, every, labels).values())) == len(known.vector(every))


@pytest.mark.parametrize("kind", ["linear", "rbf", "mlp", "logistic"])
@pytest.mark.parametrize("scaling", ["l2", "standard"])
def test_every_kind_of_file_that_is_fitted_can_be_explained(
    kind: model_selection.Kind, scaling: model_selection.Scaling
) -> None:
    known = feature_fixtures.known(people=10, each=3).examples(["mean+std"])
    x = known.matrices["mean+std"]
    pipeline = model_selection.fit(model_selection.Candidate("mean+std", kind, 1.0, scaling), known, 3)
    data = model_selection.serialize_with_card(model_selection.to_onnx(pipeline, x.shape[1]), {})
    nothing = baseline(data, x.shape[1])
    assert nothing == pytest.approx(x.mean(axis=0) if scaling == "standard" else 0, abs=1e-2)
    session = onnxruntime.InferenceSession(data)
    half = x.shape[1] // 2
    parts = {"mean": np.arange(half), "std": np.arange(half, x.shape[1])}
    told = explain(lambda rows: session.run(["probabilities"], {"features": rows})[0], x[-1], nothing, parts, LABELS)
    assert told.label == "joy"
    assert sum(told.shares.values()) == pytest.approx(told.confidence - told.nothing, abs=1e-5)
    assert all(np.isfinite(list(told.shares.values())))


def test_a_scaler_of_another_width_says_nothing() -> None:
    known = feature_fixtures.known(people=10, each=3).examples(["mean"])
    pipeline = model_selection.fit(model_selection.Candidate("mean", "logistic", 1.0, "standard"), known, 3)
    data = model_selection.serialize_with_card(model_selection.to_onnx(pipeline, 3), {})
    assert baseline(data, 3).any()
    assert baseline(data, 4).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("name", ["emotion8", "affect3", "mean6", "mean8"])
def test_shipped_classifiers_say_something_when_told_nothing(name: str) -> None:
    model = registry.load_model(name, "classifier")
    width = model.session.get_inputs()[0].shape[1]
    nothing = baseline(model.path.read_bytes(), width)
    assert nothing.any() == (name == "affect3"), "it alone scales by means"
    said = model.session.run(["probabilities"], {"features": nothing[None]})[0]
    assert np.isfinite(said).all()
