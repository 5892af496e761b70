"""Test the comparison of one network for four tasks with single-task networks."""

from __future__ import annotations

from dataclasses import astuple, replace
from pathlib import Path

import joint
import numpy as np
import pytest

import mini_datasets
from fervid.training import predict as predicting
from fervid.training.batches import BatchSampler, TrainingSets
from fervid.training.fit import Trainer
from fervid.training.predict import predict, pseudo_label


@pytest.fixture(scope="module")
def data() -> TrainingSets:
    return mini_datasets.data()


def test_single_task_networks_get_the_same_batches() -> None:
    recipes = joint.recipes()
    whole = recipes["masked"]
    assert recipes["filled"] == whole
    for task in joint.TASKS:
        alone = recipes[task]
        faces = (whole.expressions, 0) if task == "expression" else (0, whole.attributes)
        assert (alone.expressions, alone.attributes, alone.people) == (*faces, 0)
        assert replace(alone, expressions=64, attributes=32, weights=whole.weights) == whole
        assert 0 < sum(astuple(alone.weights)) < sum(astuple(whole.weights))
    assert sum(sum(astuple(recipes[task].weights)) for task in joint.TASKS) == pytest.approx(
        sum(astuple(whole.weights))
    )


def test_missing_labels_are_filled(data: TrainingSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicting, "build", lambda name: mini_datasets.network(seed=9))
    run, path = Trainer(mini_datasets.recipe(steps=1), mini_datasets.network(), data), tmp_path / "run.safetensors"
    list(run.run(path))
    votes, portraits = pseudo_label(data.expressions, path), pseudo_label(data.attributes, path)
    np.testing.assert_array_equal(votes.votes[data.expressions.votes.any(axis=1)], votes.votes)
    for name in ("age", "gender", "ethnicity"):
        np.testing.assert_array_equal(getattr(portraits, name), getattr(data.attributes, name))
        assert (getattr(votes, name) >= 0).all()
        assert (getattr(data.expressions, name) == -1).all()
    heads = predict(predicting.load_run(path)[1], data.attributes, 16)
    shares = np.exp(heads["expression"]) / np.exp(heads["expression"]).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(portraits.votes, shares, atol=1e-5)
    batches = BatchSampler(mini_datasets.recipe(), replace(data, expressions=votes, attributes=portraits))
    _, targets = batches(0)
    several = mini_datasets.recipe()
    known = several.expressions + several.attributes
    assert targets.votes[:known].sum(1).numpy() == pytest.approx(1, abs=1e-5)
    assert not targets.votes[known:].any()


def test_all_faces_are_trained_on(data: TrainingSets) -> None:
    less = joint.reduce_unmeasured(data)
    assert (less.expressions, less.attributes) == (data.expressions, data.attributes)
    assert len(less.initial_embeddings) == len(less.attributes) + len(less.people)
    np.testing.assert_array_equal(less.valid_expressions.votes, data.valid_expressions.votes[:200])


def test_paired_difference() -> None:
    ours, single = np.array([[1.0, 1, 0, 1], [1, 1, 1, 1]]), np.array([[1.0, 0, 0, 1], [1, 0, 1, 1]])
    found = joint.row("gender", "joint, masked", ours, single)
    assert found["mean over seeds"].startswith("87.50 % (")
    assert found["seeds"] == "75.00, 100.00"
    assert found["better by"].startswith("25.00 % (0.00 to")
    years = joint.row("age", "joint, masked", 3 * ours, 4 * ours)
    assert (years["mean over seeds"][:6], years["better by"][:6]) == ("2.62 y", "0.88 y")
    assert joint.row("age", "single", ours, ours)["better by"] == ""


def test_tasks_are_compared_with_their_own_network() -> None:
    asked = []

    def found(name: str, seed: int) -> joint.Scores:
        asked.append(name)
        return {task: np.full(5, float(name in ("masked", "filled"))) for task in joint.TASKS}

    rows = joint.table(found, range(2))
    assert [(row["task"], row["method"]) for row in rows[:3]] == [
        ("expression", "single"),
        ("expression", "joint, masked"),
        ("expression", "joint, filled"),
    ]
    assert set(asked) == {*joint.TASKS, "masked", "filled"}
    assert rows[1]["better by"] == "100.00 % (100.00 to 100.00)"
