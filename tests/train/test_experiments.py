"""Four tasks at once, and descriptors of clips: that what is compared differs in nothing but what is said."""

from __future__ import annotations

from dataclasses import astuple, replace
from pathlib import Path

import descriptors
import joint
import numpy as np
import pytest
from descriptors import Film, film

import clips
import miniature
from fervid.extract import load_extractor
from fervid.fit import Examples
from fervid.train import predict as predicting
from fervid.train.batches import Batches, Data
from fervid.train.fit import Fit
from fervid.train.predict import filled, predict


@pytest.fixture(scope="module")
def data() -> Data:
    return miniature.data()


def test_single_networks_see_of_their_task_what_the_joint_ones_see() -> None:
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


def test_what_a_face_lacks_is_filled_and_what_is_known_stays(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predicting, "build", lambda name: miniature.network(seed=9))
    run, path = Fit(miniature.recipe(steps=1), miniature.network(), data), tmp_path / "run.safetensors"
    list(run.run(path))
    votes, portraits = filled(data.expressions, path), filled(data.attributes, path)
    np.testing.assert_array_equal(votes.votes[data.expressions.votes.any(axis=1)], votes.votes)
    for name in ("age", "gender", "ethnicity"):
        np.testing.assert_array_equal(getattr(portraits, name), getattr(data.attributes, name))
        assert (getattr(votes, name) >= 0).all()
        assert (getattr(data.expressions, name) == -1).all()
    heads = predict(predicting.load(path)[1], data.attributes, 16)
    shares = np.exp(heads["expression"]) / np.exp(heads["expression"]).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(portraits.votes, shares, atol=1e-5)
    batches = Batches(miniature.recipe(), replace(data, expressions=votes, attributes=portraits))
    _, targets = batches(0)
    several = miniature.recipe()
    known = several.expressions + several.attributes
    assert targets.votes[:known].sum(1).numpy() == pytest.approx(1, abs=1e-5)
    assert not targets.votes[known:].any()


def test_little_is_watched_and_all_is_learned_from(data: Data) -> None:
    less = joint.few(data)
    assert (less.expressions, less.attributes) == (data.expressions, data.attributes)
    assert len(less.starting) == len(less.attributes) + len(less.people)
    np.testing.assert_array_equal(less.valid_expressions.votes, data.valid_expressions.votes[:200])


def test_the_difference_is_paired_and_fewer_years_are_better() -> None:
    ours, single = np.array([[1.0, 1, 0, 1], [1, 1, 1, 1]]), np.array([[1.0, 0, 0, 1], [1, 0, 1, 1]])
    found = joint.row("gender", "joint, masked", ours, single)
    assert found["mean over seeds"].startswith("87.50 % (")
    assert found["seeds"] == "75.00, 100.00"
    assert found["better by"].startswith("25.00 % (0.00 to")
    years = joint.row("age", "joint, masked", 3 * ours, 4 * ours)
    assert (years["mean over seeds"][:6], years["better by"][:6]) == ("2.62 y", "0.88 y")
    assert joint.row("age", "single", ours, ours)["better by"] == ""


def test_every_task_is_compared_with_its_own_network() -> None:
    asked = []

    def found(name: str, seed: int) -> joint.Marks:
        asked.append(name)
        return {task: np.full(5, float(name in ("masked", "filled"))) for task in joint.TASKS}

    rows = joint.table(found, range(2))
    assert [(row["task"], row["way"]) for row in rows[:3]] == [
        ("expression", "single"),
        ("expression", "joint, masked"),
        ("expression", "joint, filled"),
    ]
    assert set(asked) == {*joint.TASKS, "masked", "filled"}
    assert rows[1]["better by"] == "100.00 % (100.00 to 100.00)"


def curve(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None] * np.eye(8, dtype=np.float32)[[4]] + 0.01


def test_a_descriptor_tells_slope_onset_and_share() -> None:
    happy = curve(0.0, 0.3, 0.6, 0.9)
    happy[:, 5] = 0.5
    blocks = descriptors.described(Film(np.linspace(0, 1, 4, dtype=np.float32), 2 * happy, happy))
    assert blocks["expression slope"][4] == pytest.approx(0.9)
    assert blocks["slope"][4] == pytest.approx(1.8)
    assert blocks["onset"][4] == 1
    assert blocks["share"][[4, 5]].tolist() == [0.5, 0.5]
    still = descriptors.described(Film(np.zeros(1, np.float32), happy[:1], happy[:1]))
    assert not still["slope"].any()
    assert not still["std"].any()


def test_the_main_person_of_a_clip_is_followed_frame_by_frame(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for i, image in enumerate([*clips.smiling(3), *clips.scenery(1)]):
        miniature.picture(folder / f"{i}.png", image)
    extractor = load_extractor(threads=1)
    shown = film(folder, extractor)
    assert shown.time.tolist() == [0, 0.5, 1]
    assert len(shown.embedding) == len(shown.expression) == 3
    (tmp_path / "none").mkdir()
    miniature.picture(tmp_path / "none" / "0.png", clips.scenery(1)[0])
    assert len(film(tmp_path / "none", extractor).time) == 0


def test_attention_finds_the_frame_that_matters() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(60) % 3
    films = []
    for label in truth:
        frames = rng.normal(0, 0.3, (6, 12))
        frames[rng.integers(6), [label, 6]] += 3
        films.append(Film(np.linspace(0, 1, 6, dtype=np.float32), frames.astype(np.float32), curve(*[0.5] * 6)))
    said = descriptors.attention(films, Examples({}, truth, np.arange(60)))
    assert (said.argmax(axis=1) == truth).mean() > 0.8
    np.testing.assert_allclose(said.sum(axis=1), 1, atol=1e-5)
