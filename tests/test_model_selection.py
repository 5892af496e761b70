"""Folds are by person, and the exported file equals scikit-learn."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import SVC

from fervid.analysis.baseline import identify_people
from fervid.analysis.pooling import FeaturePooler
from fervid.core.errors import DatasetError, UsageError
from fervid.core.records import FaceOutputs
from fervid.learn import calibration, estimators, model_selection
from fervid.learn.calibration import predict
from fervid.learn.candidate_choice import nested_cv_predict, select_candidate
from fervid.learn.classifier_export import serialize_with_card, to_onnx
from fervid.learn.estimators import ClassifierKind
from fervid.learn.model_selection import (
    DEFAULT_STATISTICS,
    HYPERPARAMETERS,
    Candidate,
    TrainingData,
    make_candidates,
    parse_statistics,
    split_folds,
)

KINDS: tuple[ClassifierKind, ...] = get_args(ClassifierKind)


def way(kind: ClassifierKind, cost: float | None = None) -> Candidate:
    return Candidate("mean", kind, HYPERPARAMETERS[kind][0] if cost is None else cost)


def examples(
    n: int, classes: int | None, *, apart: float = 3.0, width: int = 5, each: int = 3, seed: int = 1
) -> TrainingData:
    """Clips of people with `each` clips; their classes lie apart, or their ratings are the first value."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, width)).astype(np.float32)
    truth = x[:, 0].astype(np.float64) + 5 if classes is None else np.arange(n) % classes
    if classes:
        x[np.arange(n), truth] += apart
    return TrainingData({"mean": x}, truth, np.arange(n) // each)


# Candidates


def test_candidates_are_all_combinations() -> None:
    found = make_candidates(["mean", "group"], ["mlp", "rbf"])
    assert len(found) == len(set(found)) == 2 * (len(HYPERPARAMETERS["mlp"]) + len(HYPERPARAMETERS["rbf"]))
    assert str(found[0]) == "mlp (0.001) on mean"
    assert set(HYPERPARAMETERS) == set(KINDS)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("mean", "embedding.mean"),
        ("mean+std", "embedding.mean embedding.std"),
        ("mean+std+max", "embedding.mean embedding.std embedding.max"),
        ("mean+std+min+max", "embedding.mean embedding.std embedding.min embedding.max"),
        ("expression", "expression.mean"),
        ("expression+std+max", "expression.mean expression.std expression.max"),
        ("expression+std+min+max", "expression.mean expression.std expression.min expression.max"),
        ("group", "embedding.mean embedding.std embedding.across_faces.mean embedding.across_faces.std"),
        ("max+min", "embedding.max embedding.min"),
        ("mean+std+expression.mean", "embedding.mean embedding.std expression.mean"),
        ("mean+std+expression", "embedding.mean embedding.std expression.mean"),
        ("std+expression+std", "embedding.std expression.mean expression.std"),
        ("expression.max+std", "expression.max expression.std"),
        ("expression.std+embedding+std", "expression.std embedding.mean embedding.std"),
        ("expression.across_faces.std+max", "expression.across_faces.std expression.across_faces.max"),
        ("embedding.across_faces", "embedding.across_faces.mean"),
        (
            "expression+group",
            "expression.mean embedding.mean embedding.std embedding.across_faces.mean embedding.across_faces.std",
        ),
        ("expression+mean+mean", "expression.mean"),
    ],
)
def test_statistics_are_combined_freely(name: str, parts: str) -> None:
    assert parse_statistics(name) == tuple(parts.split())


def test_statistics_of_papers_are_pooled() -> None:
    rows, values = np.ones((2, 3), np.float32), np.ones(2, np.float32)
    pool = FeaturePooler()
    pool.update_group(FaceOutputs(rows, rows, values, values, rows, rows))
    assert {part for name in DEFAULT_STATISTICS for part in parse_statistics(name)} <= pool.features().statistics.keys()


@pytest.mark.parametrize("name", ["median", "", "mean+", "mean++std", "age.mean", "spread", "expression.median", "a b"])
def test_unknown_statistic_is_named(name: str) -> None:
    with pytest.raises(UsageError, match=r"^unknown statistic '.*'; join mean, std, min, max of emb.*group$"):
        parse_statistics(name)


@pytest.mark.parametrize(
    ("truth", "said", "score"),
    [
        ([0, 0, 0, 1], [0, 0, 0, 0], 0.5),
        ([0, 0, 0, 1], [0, 0, 1, 1], (2 / 3 + 1) / 2),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 1.0),
        ([1.0, 2.0, 3.0], [2.0, 2.0, 2.0], 0.0),
    ],
)
def test_score_is_mean_recall_or_concordance(truth: Sequence[float], said: Sequence[float], score: float) -> None:
    assert model_selection.selection_score(np.array(truth), np.array(said)) == pytest.approx(score)


def test_logits_are_standardised_by_default() -> None:
    usual = make_candidates(["logit+std", "mean+std"])
    assert [(way.statistics, way.kind) for way in usual] == [
        *[("logit+std", "linear")] * len(model_selection.STANDARDIZED_HYPERPARAMETERS["linear"]),
        *[("logit+std", "rbf")] * len(model_selection.STANDARDIZED_HYPERPARAMETERS["rbf"]),
        *[("mean+std", "linear")] * len(HYPERPARAMETERS["linear"]),
        *[("mean+std", "logistic")] * len(HYPERPARAMETERS["logistic"]),
    ]
    x, truth = np.arange(12.0).reshape(6, 2) + 1, np.arange(6) % 2

    def scaler(way: Candidate) -> str:
        return type(model_selection.fit_candidate(way, x, truth, 0)["scaler"]).__name__

    assert {way.statistics: scaler(way) for way in usual} == {"logit+std": "StandardScaler", "mean+std": "Normalizer"}
    (l2, *_) = make_candidates(["logit+std"], ["linear"], ["l2"])
    assert scaler(l2) == "Normalizer"


@pytest.mark.parametrize(
    ("name", "small"),
    [
        ("logit+std", True),
        ("expression.max", True),
        ("logit.across_faces+expression", True),
        ("mean", False),
        ("logit+embedding", False),
        ("group", False),
    ],
)
def test_statistics_of_expressions_alone(name: str, small: bool) -> None:
    assert model_selection.uses_expressions_only(name) == small


# Folds


@pytest.mark.parametrize("classes", [2, 3, None])
def test_folds_never_split_person(classes: int | None) -> None:
    known = examples(60, classes)
    found = known.folds(5)
    assert sorted(np.concatenate([test for _, test in found])) == list(range(60))
    for train, test in found:
        assert not set(known.groups[train]) & set(known.groups[test])
        assert len(train) + len(test) == 60
        if classes:
            assert np.bincount(known.truth[test], minlength=classes).min() >= 60 / classes / 5 - 2


@pytest.mark.parametrize("classes", [2, None])
def test_without_people_every_clip_stands_alone(classes: int | None) -> None:
    truth = examples(20, classes).truth
    found = split_folds(truth, None, 5)
    assert sorted(np.concatenate([test for _, test in found])) == list(range(20))
    assert all(len(test) == 4 for _, test in found)


def test_folds_follow_seed() -> None:
    known = examples(30, 2)
    first, again, other = (split_folds(known.truth, known.groups, 3, seed) for seed in (1, 1, 2))
    assert all(
        np.array_equal(a, b) for one, same in zip(first, again, strict=True) for a, b in zip(one, same, strict=True)
    )
    assert not all(np.array_equal(one[1], another[1]) for one, another in zip(first, other, strict=True))


@pytest.mark.parametrize(
    ("truth", "groups", "words"),
    [
        ([0, 1] * 10, [0, 1] * 10, "fewer --folds"),
        ([0, 1] * 2, None, "add clips or people, or use fewer --folds"),
        ([0] * 20 + [1], None, "add clips or people, or use fewer --folds"),
        ([0] * 20 + [1], range(21), "add clips or people, or use fewer --folds"),
        ([0] * 15 + [1] * 5, [*range(15), *[15] * 5], "too few people for 5 folds; .*--group-by none"),
        ([1.0, 2.0], None, "add clips or people, or use fewer --folds"),
        ([1.0, 2.0] * 10, [0, 1] * 10, "add clips or people, or use fewer --folds"),
        ([], None, "add clips or people, or use fewer --folds"),
    ],
)
def test_too_few_to_part_is_an_error(truth: list[float], groups: Sequence[int] | None, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        split_folds(np.array(truth), None if groups is None else np.array(groups))


# Fitting


@pytest.mark.parametrize(
    ("kind", "classes"), [*((kind, classes) for kind in KINDS for classes in (3, None)), ("logistic", 2)]
)
def test_export_equals_scikit_learn(kind: ClassifierKind, classes: int | None) -> None:
    known = examples(45, classes)
    pipeline = calibration.fit(way(kind), known, 3)
    model = to_onnx(pipeline, 5)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(serialize_with_card(model, {}))
    clips = np.random.default_rng(7).normal(scale=2, size=(100, 5)).astype(np.float32)
    name = "value" if classes is None else "probabilities"
    (said,) = session.run([name], {"features": clips})
    expected = predict(pipeline, clips)
    assert said.shape == (100, classes or 1)
    assert said.reshape(expected.shape) == pytest.approx(expected, abs=1e-5)
    if classes:
        assert said.sum(axis=1) == pytest.approx(np.ones(100), abs=1e-5)


def random_table(seed: int, *, separable: bool) -> tuple[TrainingData, int]:
    """Clips of 2 to 20 people in 2 to 8 classes of unequal size, and 3 to 5 folds; by clip where people are too few."""
    rng = np.random.default_rng(seed)
    people_count, classes, count = int(rng.integers(2, 21)), int(rng.integers(2, 9)), int(rng.integers(3, 6))
    each = rng.integers(1, 4, classes)  # clips of a class that each person shows
    truth = np.tile(np.repeat(np.arange(classes), each), people_count)
    groups = np.repeat(np.arange(people_count), each.sum())
    x = rng.normal(size=(len(truth), 10)).astype(np.float32)
    if separable:
        x[np.arange(len(truth)), truth] += 12
    if people_count < count:
        count, groups = min(count, np.bincount(truth).min()), None
    return TrainingData({"mean": x}, truth, groups, seed), max(count, 2)


@pytest.mark.parametrize(
    ("kind", "scaling", "separable"),
    [("linear", "l2", False), ("linear", "standard", True), ("rbf", "l2", True), ("logistic", "standard", False)],
)
def test_calibration_never_changes_label(
    kind: ClassifierKind, scaling: model_selection.Scaling, separable: bool
) -> None:
    for seed in range(2):
        known, count = random_table(seed, separable=separable)
        x, classes = known.matrices["mean"], len(np.unique(known.truth))
        calibrated = calibration.fit(
            Candidate("mean", kind, HYPERPARAMETERS[kind][seed % len(HYPERPARAMETERS[kind])], scaling), known, count
        )
        session = onnxruntime.InferenceSession(serialize_with_card(to_onnx(calibrated, x.shape[1]), {}))
        others = np.random.default_rng(seed).normal(size=(200, x.shape[1])).astype(np.float32)
        for rows in (x, others):
            (probabilities,) = session.run(["probabilities"], {"features": rows})
            margins = calibration.compute_margins(calibrated.pipeline, rows)
            ordered = np.sort(margins, axis=1)
            sure = ordered[:, -1] - ordered[:, -2] > 1e-3 * np.abs(margins).max()
            assert sure.mean() > 0.8
            assert (probabilities.argmax(axis=1) == margins.argmax(axis=1))[sure].all(), (seed, classes, count)
            assert (calibrated.pipeline.predict(rows) == margins.argmax(axis=1)).all()
        if separable:
            (probabilities,) = session.run(["probabilities"], {"features": x})
            assert (probabilities.argmax(axis=1) == known.truth).mean() > 0.95, (seed, classes, count)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_pairwise_margins_are_sums_of_those_of_machines(classes: int) -> None:
    known = examples(60, classes, apart=1)
    x = known.matrices["mean"]
    machine = estimators.PairwiseSVC(C=3.0).fit(x, known.truth)
    summed = machine.decision_function(x)
    machine.__class__ = SVC
    machine.decision_function_shape = "ovo"
    pairwise = machine.decision_function(x)
    if classes == 2:
        assert summed == pytest.approx(pairwise, abs=1e-6)
        return
    for i in range(classes):
        pairs = list(itertools.combinations(range(classes), 2))
        signed = [pairwise[:, k] * (1 if pair[0] == i else -1) for k, pair in enumerate(pairs) if i in pair]
        assert summed[:, i] == pytest.approx(sum(signed), abs=1e-6)


@pytest.mark.parametrize(
    ("margins", "least", "most"),
    [
        ([[2, -2], [-2, 2]] * 50, 0.95, 1.0),  # right without exception, but seen a hundred times only
        ([[-2, 2], [2, -2]] * 50, 0.5, 0.52),  # the opposite of the truth
        ([[0, 0], [0, 0]] * 50, 0.5, 0.52),  # nothing
        ([[2, -2], [-2, 2], [-2, 2], [2, -2]] + [[2, -2], [-2, 2]] * 3, 0.70, 0.73),  # right in 8 of 10
    ],
)
def test_confidence_is_how_often_held_out_margins_are_right(
    margins: list[list[float]], least: float, most: float
) -> None:
    truth = np.arange(len(margins)) % 2
    sharpness = calibration.fit_sharpness(np.array(margins, float), truth, 2.0)
    assert sharpness > 0
    assert least <= 1 / (1 + np.exp(-4 * sharpness)) <= most


def test_margins_without_spread_have_confidence() -> None:
    assert calibration.fit_sharpness(np.zeros((4, 2)), np.arange(4) % 2, 0.0) == 1.0


@pytest.mark.parametrize(("kind", "classes"), [*((kind, 3) for kind in KINDS), ("mlp", None), ("logistic", None)])
def test_separable_classes_are_learned(kind: ClassifierKind, classes: int | None) -> None:
    known, others = examples(120, classes), examples(60, classes, seed=2)
    cost = HYPERPARAMETERS[kind][0 if kind == "mlp" else -1]
    said = predict(calibration.fit(way(kind, cost), known, 3), others.matrices["mean"])
    if classes:
        assert (said.argmax(axis=1) == others.truth).mean() > 0.8
    else:
        assert model_selection.selection_score(others.truth, said) > 0.6


@pytest.mark.parametrize("kind", ["rbf", "mlp"])
def test_scale_of_ratings_does_not_matter(kind: ClassifierKind) -> None:
    known, others = examples(60, None), examples(30, None, seed=2).matrices["mean"]
    wide = replace(known, truth=10 * known.truth + 500)
    plain, scaled = (predict(calibration.fit(way(kind), one, 3), others) for one in (known, wide))
    assert (scaled - 500) / 10 == pytest.approx(plain, abs=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_rare_class_weighs_as_much_as_a_common_one(kind: ClassifierKind) -> None:
    rng = np.random.default_rng(3)
    truth = np.r_[np.zeros(160, int), np.ones(20, int)]
    known = TrainingData({"mean": rng.normal(size=(180, 3)).astype(np.float32)}, truth, np.arange(180))
    said = predict(calibration.fit(way(kind), known, 4), rng.normal(size=(200, 3)).astype(np.float32))
    assert said[:, 1].mean() == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize(("kind", "classes"), [("mlp", 2), ("linear", 2), ("rbf", None)])
def test_same_seed_gives_same_bytes(kind: ClassifierKind, classes: int | None) -> None:
    def made(seed: int) -> bytes:
        base = examples(45, classes)
        known = TrainingData(base.matrices, base.truth, base.groups, seed)
        return serialize_with_card(to_onnx(calibration.fit(way(kind, 0.5), known, 3), 5), {"seed": 5, "name": "a"})

    assert made(1) == made(1)
    if classes:
        assert made(1) != made(2)


def test_serialized_model_has_only_the_card() -> None:
    model = to_onnx(calibration.fit(way("logistic"), examples(30, 2), 3), 5)
    model.metadata_props.add(key="fervid", value="old")
    data = serialize_with_card(model, {"name": "ä", "b": [1]})
    assert {prop.key: prop.value for prop in onnx.load_from_string(data).metadata_props} == {
        "fervid": '{"b": [1], "name": "\\u00e4"}'
    }
    assert serialize_with_card(model, {"b": [1], "name": "ä"}) == data


@pytest.mark.parametrize("truth", [np.arange(9) % 3, np.arange(9) / 2])
def test_too_few_clips_for_a_network_are_an_error(truth: np.ndarray) -> None:
    known = TrainingData({"mean": np.eye(9, dtype=np.float32)}, truth, None)
    with pytest.raises(
        DatasetError, match=r"mlp \(0\.001\) on mean cannot be fitted on 9 clips .*another --classifier-kind"
    ):
        calibration.fit(way("mlp"), known, 3)


def test_programming_errors_are_not_data_errors() -> None:
    known = TrainingData({"mean": np.full((12, 2), np.nan, np.float32)}, np.arange(12) % 2)
    with pytest.raises(ValueError, match="NaN"):
        calibration.fit(way("logistic"), known, 3)


def test_convergence_warnings_are_silenced() -> None:
    known = examples(30, 2)
    slow = TrainingData({"mean": known.matrices["mean"] * [1e-4, 1, 1e4, 1, 1]}, known.truth, known.groups)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        select_candidate(slow, [way("mlp"), way("linear", 1e6)], 3)
        calibration.fit(way("mlp"), slow, 3)
    assert not [one for one in caught if issubclass(one.category, ConvergenceWarning)]


# Cross-validation


class Mimic(ClassifierMixin, BaseEstimator):
    """Knows what it has seen and nothing else: of other rows it says that they are of class 0."""

    def fit(self, x: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None) -> Mimic:
        self.classes_ = np.unique(y)
        self.seen_ = {tuple(row): label for row, label in zip(np.round(x, 4).tolist(), y.tolist(), strict=True)}
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        return np.array([self.seen_.get(tuple(row), 0) for row in np.round(x, 4).tolist()])

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        return np.eye(len(self.classes_))[self.predict(x)]

    def decision_function(self, x: np.ndarray) -> np.ndarray:
        return np.array([self.seen_.get(tuple(row), 0.5) for row in np.round(x, 4).tolist()]) - 0.5


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> TrainingData:
    """Every person has one class, and three clips that are the same; what remembers them stands in for two kinds."""
    for kind in ("logistic", "linear"):
        monkeypatch.setitem(estimators.CLASSIFIERS, kind, lambda *_: Mimic())
    rows = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32).repeat(3, axis=0)
    return TrainingData({"mean": rows}, np.arange(72) // 3 % 2, np.arange(72) // 3)


def test_folds_are_by_person(memory: TrainingData) -> None:
    ways = [way("logistic", 1.0), way("logistic", 2.0)]
    chosen, scores = select_candidate(memory, ways, 3)
    assert list(scores.values()) == [0.5, 0.5]
    assert chosen == ways[0]
    said, winners = nested_cv_predict(memory, ways, 4)
    assert said.argmax(axis=1).tolist() == [0] * 72
    assert winners == [ways[0]] * 4
    seen = predict(calibration.fit(way("logistic"), memory), memory.matrices["mean"])
    assert seen.argmax(axis=1).tolist() == memory.truth.tolist()


def test_folds_without_people(memory: TrainingData) -> None:
    alone = TrainingData(memory.matrices, memory.truth, None)
    said, _ = nested_cv_predict(alone, [way("logistic")], 4)
    assert (said.argmax(axis=1) == memory.truth).mean() > 0.9


def test_calibration_uses_unseen_people(memory: TrainingData) -> None:
    said = predict(calibration.fit(way("linear"), memory, 4), memory.matrices["mean"])
    assert said == pytest.approx(np.full((72, 2), 0.5), abs=0.01)


@pytest.mark.parametrize("classes", [3, None])
def test_better_candidate_is_chosen(classes: int | None) -> None:
    known = examples(30, classes)
    noise = np.random.default_rng(9).normal(size=(30, 5)).astype(np.float32)
    known = TrainingData({"mean": noise, "mean+std": known.matrices["mean"]}, known.truth, known.groups)
    ways = [Candidate(name, "logistic", 3.0) for name in ("mean", "mean+std")]
    chosen, scores = select_candidate(known, ways, 3)
    assert chosen.statistics == "mean+std"
    assert scores[chosen] == max(scores.values())
    assert list(scores) == ways
    said, winners = nested_cv_predict(known, ways, 3)
    assert said.shape == ((30, 3) if classes else (30,))
    assert np.isfinite(said).all()
    assert {one.statistics for one in winners} == {"mean+std"}


def unlike(people_count: int, small: float, large: float) -> TrainingData:
    """Clips of people, in two classes that lie so far apart in the logits and in the embedding."""
    count = 6 * people_count
    tables = {"logit": small, "mean": large}
    matrices = {
        name: examples(count, 2, apart=apart, each=6, seed=seed).matrices["mean"]
        for seed, (name, apart) in enumerate(tables.items())
    }
    return TrainingData(matrices, np.arange(count) % 2, np.arange(count) // 6)


@pytest.mark.parametrize(
    ("people_count", "small", "large", "chosen"),
    [
        (5, 1.5, 2.0, "logit"),  # a little better with few people
        (5, 0.0, 9.0, "logit"),  # five people can say nothing clearly
        (12, 0.0, 9.0, "mean"),  # clearly better
        (12, 2.0, 0.0, "logit"),
        (40, 1.5, 2.0, "mean"),  # enough people
    ],
)
def test_few_people_need_clear_gain_for_embeddings(people_count: int, small: float, large: float, chosen: str) -> None:
    known = unlike(people_count, small, large)
    ways = [Candidate("mean", "linear", 0.1), Candidate("logit", "linear", 0.1)]
    way, scores = select_candidate(known, ways, 3)
    assert way.statistics == chosen
    if small < large:
        assert scores[ways[0]] > scores[ways[1]]


def test_embeddings_only() -> None:
    way, scores = select_candidate(
        unlike(5, 0, 3), [Candidate("mean", "linear", 0.1), Candidate("mean", "linear", 1.0)], 3
    )
    assert scores[way] == max(scores.values())


def test_ratings_of_few_people_are_fitted_on_expressions_too() -> None:
    known = examples(30, None)
    noisy = known.matrices["mean"] + np.random.default_rng(1).normal(size=(30, 5)).astype(np.float32) / 3
    known = replace(known, matrices={"mean": known.matrices["mean"], "logit": noisy})
    ways = [Candidate("mean", "rbf", 1.0), Candidate("logit", "rbf", 1.0)]
    assert select_candidate(known, ways, 3)[0].statistics == "logit"


def test_first_of_equals_is_chosen() -> None:
    known = examples(30, 2, apart=20)
    ways = make_candidates(["mean"], ["logistic"])
    assert select_candidate(known, ways, 3)[0] == ways[0]


def test_some_examples() -> None:
    known = examples(12, 2)
    part = known[np.arange(12) < 5]
    assert (len(part.truth), part.matrices["mean"].shape, part.groups.tolist()) == (5, (5, 5), [0, 0, 0, 1, 1])
    assert TrainingData(known.matrices, known.truth)[np.array([3])].groups is None


# People


def turned(*degrees: float) -> np.ndarray:
    return np.stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], axis=1).astype(np.float32)


@pytest.mark.parametrize(
    ("identity", "alike", "groups"),
    [
        (np.zeros((0, 2), np.float32), 0.6, []),
        (turned(10), 0.6, [{0}]),
        (turned(0, 5, 90, 95), 0.6, [{0, 1}, {2, 3}]),
        (turned(0, 5, 90, 95) * [[1], [9], [0.1], [4]], 0.6, [{0, 1}, {2, 3}]),
        (turned(0, 60), 0.6, [{0}, {1}]),
        (turned(0, 50), 0.6, [{0, 1}]),
        (turned(0, 38, 80), 0.6, [{0, 1}, {2}]),
        (turned(0, 5, 90, 95), -1, [{0, 1, 2, 3}]),
    ],
)
def test_similar_faces_are_one_person(identity: np.ndarray, alike: float, groups: list[set[int]]) -> None:
    numbers = identify_people(identity, range(len(identity)), [1] * len(identity), alike)
    found = [set(np.flatnonzero(numbers == number).tolist()) for number in np.unique(numbers)]
    assert sorted(found, key=min) == groups
