"""Test sets with some of the expressions: splits, duplicates, and losses among their own classes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import clips
import mini_datasets
from fervid.training import augment, duplicates, expression_sets, faces, fit, losses
from fervid.training.batches import BatchSampler, TrainingSets
from fervid.training.dataset_paths import DatasetPaths
from fervid.training.expression_evaluation import STYLES, measure_expressions
from fervid.training.faces import ExpressionSet
from fervid.training.ferplus import CLASSES
from fervid.training.fit import Trainer
from fervid.training.losses import ABSENT


def names(labels: np.ndarray) -> list[str]:
    return [CLASSES[label] for label in labels]


def test_rafdb_uses_official_split(sources: DatasetPaths) -> None:
    paths, labels = expression_sets.list_rafdb(sources.rafdb, "test")
    assert [path.name for path in paths] == [f"test_000{i}_aligned.jpg" for i in (1, 2, 3, 4)]
    assert names(labels) == ["surprise", "happiness", "neutral", "disgust"]
    parts = [expression_sets.list_rafdb(sources.rafdb, split)[0] for split in ("train", "valid")]
    together = sorted(path.name for part in parts for path in part)
    assert together == [f"train_{i:04}_aligned.jpg" for i in range(1, 57)]
    assert [path.name[6:10] for path in parts[1]] == ["0023", "0025"]


def test_rafdb_names_missing_images(copied: DatasetPaths) -> None:
    (copied.rafdb / "aligned" / "test" / "test_images" / "test_0002_aligned.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 images .* are missing, the first: \S+test_0002_aligned\.jpg$"):
        expression_sets.list_rafdb(copied.rafdb, "test")


@pytest.mark.parametrize("label", ["0", "8", "joy", ""])
def test_rafdb_rejects_labels_out_of_range(copied: DatasetPaths, label: str) -> None:
    (copied.rafdb / "test_labels.csv").write_text(f"image,label\ntest_0001_aligned.jpg,{label}\n")
    with pytest.raises(ValueError, match=rf"1 labels are not 1 to 7, the first: test_0001_aligned\.jpg: {label}$"):
        expression_sets.list_rafdb(copied.rafdb, "test")


def test_rafdb_rejects_missing_columns(copied: DatasetPaths) -> None:
    (copied.rafdb / "test_labels.csv").write_text("name;class\na;1\n")
    with pytest.raises(ValueError, match="no columns image,label"):
        expression_sets.list_rafdb(copied.rafdb, "test")


def test_affectnet_includes_contempt(sources: DatasetPaths) -> None:
    paths, labels = expression_sets.list_affectnet(sources.affectnet, sources.contempt, "train")
    rest, rest_labels = expression_sets.list_affectnet(sources.affectnet, sources.contempt, "valid")
    assert len({*paths, *rest}) == len(paths) + len(rest) == 30
    assert set(names(np.concatenate([labels, rest_labels]))) == {"contempt", "fear", "happiness", "neutral", "sadness"}


def test_empty_folder_of_class_is_refused(copied: DatasetPaths) -> None:
    shutil.rmtree(copied.affectnet / "sad")
    with pytest.raises(FileNotFoundError, match=r"\S+sad holds no images"):
        expression_sets.list_affectnet(copied.affectnet, copied.contempt, "train")


def test_sfew_drops_image_in_two_classes(copied: DatasetPaths) -> None:
    shutil.copy(copied.sfew / "Happy" / "film_3.png", copied.sfew / "Sad" / "film_9.png")
    paths, labels = expression_sets.list_sfew(copied.sfew)
    assert names(labels) == ["anger", "disgust", "fear", "neutral", "sadness", "surprise"]
    assert not any(path.name in ("film_3.png", "film_9.png") for path in paths)


def test_javased_drops_test_actors(sources: DatasetPaths) -> None:
    paths, labels, actors = expression_sets.list_javased(sources.javased)
    assert [path.name for path in paths] == ["01-01-01_01.mp4", "01-01-03_01.mp4", "02-01-06_01.mp4"]
    assert (names(labels), actors) == (["neutral", "happiness", "anger"], ["01", "01", "02"])
    with pytest.raises(FileNotFoundError, match="holds no clips of actors 01 to 05"):
        expression_sets.list_javased(sources.sfew)


def test_duplicates_are_found() -> None:
    own = [np.uint8(mini_datasets.close_face(144, person, 0)) for person in range(4)]
    brighter = np.uint8(np.clip(own[1] * 1.15 + 8.0, 0, 255))
    smaller = augment.reduce_resolution(own[2], 72)
    turned = clips.portrait(144, 144, 1.4, 240, 140, 3)
    found = duplicates.find_duplicates(np.stack([brighter, smaller, turned, augment.to_grey(own[0])]), np.stack(own))
    assert found.tolist() == [1, 2, -1, 0]
    assert duplicates.find_duplicates(np.stack(own), np.zeros((0, 144, 144, 3), np.uint8)).tolist() == [-1] * 4


def test_sets_follow_recipe_without_test_duplicates(
    sources: DatasetPaths, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "fervid.training.batches.compute_initial_embeddings", lambda known, *_: np.ones((len(known), 4), np.float32)
    )
    recipe = mini_datasets.recipe(labelled_faces={"rafdb": 2, "affectnet": 3}, video_frames=2)
    read = TrainingSets.read(sources, cache, {}, (), recipe)
    assert set(read.labelled) == set(read.valid_labelled) == {"rafdb", "affectnet"}
    assert len(read.frames) == 3
    printed = capsys.readouterr().out
    assert [line.partition(":")[0] for line in printed.splitlines()] == ["rafdb", "affectnet", "ferplus", "utkface"]
    removed = int(printed.split()[1])
    train, _ = expression_sets.list_rafdb(sources.rafdb, "train")
    assert removed > 0, "the test set repeats faces of the training set"
    assert len(read.labelled["rafdb"].faces) <= len(train) - removed
    assert len(read.initial_embeddings) == len(read.attributes) + len(read.people)
    assert set(read.digests()) == {"expressions", "attributes", "people", "starting", "rafdb", "affectnet", "frames"}


def test_unknown_set_is_refused(sources: DatasetPaths, cache: Path) -> None:
    with pytest.raises(ValueError, match="unknown expression set 'ck'; available are rafdb, affectnet"):
        faces.read_expressions(sources, "ck", "train", cache)


@pytest.fixture
def data() -> TrainingSets:
    """Make FER+ and a set without contempt and fear, with frames."""
    known = mini_datasets.faces(8, 7, "votes")
    votes = np.eye(8, dtype=np.float32)[[0, 2, 4, 5, 6, 7, 5, 5]]
    part = ExpressionSet.from_faces(replace(known, votes=votes))
    return replace(
        mini_datasets.data(), labelled={"rafdb": part}, valid_labelled={"rafdb": part}, frames=mini_datasets.faces(5, 8)
    )


def test_set_is_asked_among_its_own_classes(data: TrainingSets) -> None:
    recipe = mini_datasets.recipe(
        labelled_faces={"rafdb": 3}, video_frames=2, logit_adjustment=1.0, label_smoothing=0.6
    )
    _, targets = BatchSampler(recipe, data)(0)
    own = targets.adjustment[5:8]
    assert (own[:, [1, 3]] == ABSENT).all()
    assert (own[:, [0, 2, 4, 5, 6, 7]] > ABSENT).all()
    assert targets.votes[5:8].sum(1).tolist() == pytest.approx([1, 1, 1])
    assert targets.votes[5:8, [1, 3]].abs().max() == 0
    assert targets.votes[5:8].max(1).values.tolist() == pytest.approx([0.4 + 0.1] * 3)
    assert not targets.votes[8:].any(), "faces without an expression have no votes"
    logits = torch.zeros(len(targets.votes), 8)
    logits[5:8, 1] = 50
    assert losses.soft_cross_entropy(logits + targets.adjustment, targets.votes) < 3, (
        "a class that the set lacks costs nothing"
    )


@pytest.mark.parametrize("teacher", ["start", "average"])
def test_faces_without_expression_are_taught(data: TrainingSets, teacher: str) -> None:
    recipe = mini_datasets.recipe(
        labelled_faces={"rafdb": 3},
        video_frames=2,
        teacher=teacher,
        weights={"consistency": 1.0, "expression": 0.0},
        style_probability=0.5,
    )
    run = Trainer(recipe, mini_datasets.network(), data)
    before = {name: value.clone() for name, value in run.teacher.state_dict().items()}
    _, targets = run.batches(0)
    assert targets.weak.shape == (3 + 2 + 2, 3, 16, 16)
    taught = run._add_teacher_targets(targets.weak, targets)
    assert taught.teacher_probabilities.sum(1).tolist() == pytest.approx([1] * 7, rel=1e-5)
    assert run.teacher_prior.shares.sum().item() == pytest.approx(1, rel=1e-5)
    for step in range(3):
        run.train_step(*run.batches(step))
    moved = [name for name, value in run.teacher.state_dict().items() if not torch.equal(value, before[name])]
    assert bool(moved) == (teacher == "average")


def test_teacher_logits_become_targets(data: TrainingSets) -> None:
    sets = {"expressions": data.expressions, "rafdb": data.labelled["rafdb"].faces, **data.unlabelled()}
    logits = {name: np.tile(np.float32([9, *[0] * 14]), (len(part), 1)) for name, part in sets.items()}
    recipe = mini_datasets.recipe(
        labelled_faces={"rafdb": 3}, video_frames=2, weights={"consistency": 1.0}, teacher_weight=0.5
    )
    run = Trainer(recipe, mini_datasets.network(), replace(data, teacher_logits=logits))
    _, targets = run.batches(0)
    assert targets.weak is None
    assert targets.teacher_probabilities.shape == targets.teacher_adjustment.shape == (3 + 2 + 2, 8)
    assert targets.teacher_probabilities[:, 0].min() > 0.9
    assert targets.votes[5:8, 0].min() > 0.4
    assert targets.votes[5:8].sum(1).tolist() == pytest.approx([1, 1, 1])
    assert np.isfinite(run.train_step(*run.batches(0)))


def test_run_with_teacher_resumes(data: TrainingSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "VALIDATE_EVERY_STEPS", 2)
    settings = {"labelled_faces": {"rafdb": 3}, "video_frames": 2, "weights": {"consistency": 1.0}, "steps": 4}
    whole, cut, again = (Trainer(mini_datasets.recipe(**settings), mini_datasets.network(), data) for _ in range(3))
    figures = list(whole.run(tmp_path / "whole"))
    assert {"rafdb_accuracy", "rafdb_mean_recall"} <= figures[-1].keys()
    next(iter(cut.run(tmp_path / "cut")))
    assert [figures["step"] for figures in again.run(tmp_path / "cut")] == [4]
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name])
    assert torch.equal(whole.teacher_prior.shares, again.teacher_prior.shares)


def test_style_changes_look_alone() -> None:
    face = clips.portrait(128, 128, 1.0)
    rng = np.random.default_rng(0)
    looks = [augment.exchange_style(face, rng) for _ in range(30)]
    assert all(look.shape == face.shape and look.dtype == np.uint8 for look in looks)
    assert 5 < sum(augment.is_grey(look) for look in looks) < 30
    tinted = [augment.exchange_style(augment.to_grey(face), rng) for _ in range(30)]
    assert 0 < sum(augment.is_grey(look) for look in tinted) < 25
    old = augment.simulate_fer2013(face)
    assert augment.is_grey(old)
    assert np.abs(cv_reduced(old) - cv_reduced(augment.to_grey(face)))[20:44, 20:44].mean() < 8


def cv_reduced(image: np.ndarray) -> np.ndarray:
    return image.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3, 4))


def test_crop_repeats_border() -> None:
    face = clips.portrait(120, 120, 1.0)
    cut = augment.crop_at_box(face, 1.0)
    np.testing.assert_array_equal(cut[10:110, 10:110], face[10:110, 10:110])
    assert (cut[:10, 40] == cut[10, 40]).all()
    assert all(change(face).shape == face.shape for change in STYLES.values())


def test_expressions_among_all_and_own_classes() -> None:
    labels = np.array([0, 0, 3, 3])
    answers = np.float32(np.eye(8)[[0, 1, 3, 1]] * 2 + np.eye(8)[[0, 0, 3, 0]])
    figures = measure_expressions(answers, labels)
    assert figures["accuracy"]["value"] == 0.5
    assert figures["mean_recall"]["value"] == 0.5
    assert figures["mean_recall_among_own"] == 0.75
    assert figures["recall"] == {"anger": 0.5, "fear": 0.5}
