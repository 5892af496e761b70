"""Test the shipped classifier: offsets, temperature, cross-validation and file."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import feature_fixtures
import mini_datasets
from fervid.analysis.baseline import LOGITS
from fervid.learn.feature_table import FeatureTable
from fervid.models import registry
from fervid.training import clip_sets, train_emotion_classifier
from fervid.training.clip_sets import DEVELOPMENT, KERC, SFEW, VALENCES, ClipSet, read_clip_sets
from fervid.training.dataset_paths import DatasetPaths
from fervid.training.ferplus import CLASSES
from fervid.training.train_emotion_classifier import (
    LabelledLogits,
    Parameters,
    cross_validate,
    subtract_baseline,
    to_labelled_logits,
)

ALL = np.eye(8, dtype=bool)


def labelled(rng: np.random.Generator, count: int, bias: np.ndarray, scale: float = 1.0) -> LabelledLogits:
    """Make logits whose softmax minus `bias` is calibrated."""
    logits = rng.normal(0, 2, (count, 8))
    truth = np.array([rng.choice(8, p=np.exp(row) / np.exp(row).sum()) for row in logits])
    return LabelledLogits(np.float32(logits * scale + bias), truth, ALL, np.ones(8, bool))


def test_offsets_and_temperature_are_recovered() -> None:
    rng, bias = np.random.default_rng(0), np.array([2, -1, 0, 0, 1, -2, 0, 0.0])
    found = Parameters.fit([labelled(rng, 6000, bias, 3.0)])
    np.testing.assert_allclose(found.offset, bias.mean() - bias, atol=0.4)
    assert found.temperature == pytest.approx(3, rel=0.15)
    assert found.offset.sum() == pytest.approx(0, abs=1e-6)


def test_missing_expression_is_excluded() -> None:
    among = np.arange(8) != 1
    part = LabelledLogits(np.float32([[0, 99, 0, 0, 0, 0, 0, 0]]), np.array([0]), ALL, among)
    assert part.loss(np.zeros(8), 1.0) == pytest.approx(np.log(7))


def test_expressions_of_one_valence_are_summed() -> None:
    counts_as = np.array([[True] * 4 + [False] * 4, [False] * 4 + [True] * 4])
    part = LabelledLogits(np.zeros((2, 8), np.float32), np.array([0, 1]), counts_as, np.ones(8, bool))
    assert part.loss(np.zeros(8), 1.0) == pytest.approx(np.log(2))


def clip_set(logits: np.ndarray, truth: np.ndarray, people: np.ndarray) -> ClipSet:
    samples = feature_fixtures.samples([CLASSES[label] for label in truth], [f"p{person}" for person in people])
    statistics = {LOGITS: np.float32(logits)}
    table = FeatureTable(samples, statistics, np.full(len(truth), 5), feature_fixtures.ABOUT)
    return ClipSet(CLASSES, ALL, table, people)


@pytest.fixture
def acted() -> ClipSet:
    """Make five people with all eight expressions, each with a personal offset that hides them."""
    rng = np.random.default_rng(1)
    truth, people = np.tile(np.arange(8), 10), np.repeat(np.arange(5), 16)
    rest = rng.normal(0, 3, (5, 8))
    return clip_set(np.eye(8)[truth] * 2 + rest[people] + rng.normal(0, 0.2, (80, 8)), truth, people)


def test_subtracting_average_aligns_people(acted: ClipSet) -> None:
    parameters = Parameters.fit([to_labelled_logits(acted)])
    usual = np.array(train_emotion_classifier.average_logits(acted)["person"], np.float32)
    alone = acted.evaluate(parameters(acted.table.statistics[LOGITS]))
    moved = acted.evaluate(parameters(subtract_baseline(acted, usual)))
    assert moved["mean_recall"]["value"] > 0.9 > alone["mean_recall"]["value"] + 0.2
    assert alone["clips"] == alone["clips_with_face"] == 80


def test_cross_validation_is_by_person(acted: ClipSet) -> None:
    found = cross_validate(acted, [])
    assert found.shape == (80, 8)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    fitted = Parameters.fit([to_labelled_logits(acted)])(acted.table.statistics[LOGITS])
    own = [part[np.arange(80), acted.truth].mean() for part in (fitted, found)]
    assert own[0] > own[1]


def test_onnx_equals_parameters(tmp_path: Path) -> None:
    parameters = Parameters(np.linspace(-1, 1, 8), 1.7)
    session = onnxruntime.InferenceSession(train_emotion_classifier.to_onnx(parameters).SerializeToString())
    rows = np.float32(np.random.default_rng(0).normal(0, 3, (5, 8)))
    np.testing.assert_allclose(session.run(["probabilities"], {"features": rows})[0], parameters(rows), atol=1e-6)


@pytest.fixture(scope="module")
def sets(sources: DatasetPaths, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ClipSet]:
    """Read the three sets in miniature with the shipped models."""
    copied = DatasetPaths(shutil.copytree(sources.root, tmp_path_factory.mktemp("copied") / "sets"))
    mini_datasets.films(copied.kerc)
    return read_clip_sets(copied, tmp_path_factory.mktemp("features"))


def test_sets_are_read_with_people_and_truth(sets: dict[str, ClipSet]) -> None:
    assert list(sets) == [DEVELOPMENT, KERC, SFEW]
    acted, scenes_, stills = sets.values()
    assert [CLASSES[label] for label in acted.truth] == ["neutral", "happiness", "anger"]
    assert acted.people.tolist() == [0, 0, 1]
    assert sorted({VALENCES[label] for label in scenes_.truth}) == ["negative", "neutral", "positive"]
    assert len(scenes_.truth) == len(scenes_) + 1, "one clip has no face"
    assert (len(stills), stills.people) == (7, None)


def test_valence_of_happiness_and_missing_faces(sets: dict[str, ClipSet]) -> None:
    films = sets[KERC]
    happy = np.tile(np.float32(np.eye(8)[CLASSES.index("happiness")]), (len(films), 1))
    report = films.evaluate(happy)
    assert report["recall"]["negative"] == 0
    positive = films.truth == VALENCES.index("positive")
    assert report["recall"]["positive"] == pytest.approx((positive.sum() - 1) / positive.sum(), abs=1e-3)


def test_train_end_to_end(
    sets: dict[str, ClipSet],
    sources: DatasetPaths,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    films = sets[KERC]  # all clips show the astronaut
    strangers = replace(films, people=np.arange(len(films.truth)))
    monkeypatch.setattr(train_emotion_classifier, "read_clip_sets", lambda *_: {**sets, KERC: strangers})
    monkeypatch.setattr(train_emotion_classifier, "FOLDS", 2)
    output = tmp_path / "emotion8.onnx"
    monkeypatch.setattr("sys.argv", ["emotion", "--data", str(sources.root), "--cache", str(cache), "-o", str(output)])
    train_emotion_classifier.main()
    model = registry.load_model(str(output), "classifier")
    assert model.card["statistics"] == [LOGITS]
    assert {kind: len(values) for kind, values in model.card["average_logits"].items()} == {"person": 8, "rest": 8}
    assert [level["stride"] for level in model.card["early_exit"]["levels"]] == [8, 4, 2]
    assert "temperature" in capsys.readouterr().out
    assert {figure["dataset"] for figure in model.card["figures"]} == {DEVELOPMENT, KERC, SFEW}
    assert clip_sets.DEVELOPMENT == DEVELOPMENT
