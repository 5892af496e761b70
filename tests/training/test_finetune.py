"""Test fine-tuning on a user's own faces, from a folder of images to a classified clip."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner, Result

import clips
import fervid
import mini_datasets
from fervid.cli import app
from fervid.learn.figures import find_figure
from fervid.models import registry
from fervid.training import checkpoint, export, finetune
from fervid.training.ferplus import CLASSES
from fervid.training.finetune import BatchSampler, FinetuneConfig
from fervid.training.network import FaceNetwork, Heads
from fervid.training.own_faces import OwnFaces, choose_validation, list_images

TINY = FinetuneConfig(steps=3, warmup=1, labelled_faces=4, unlabelled_faces=2)
LEARNING = {"steps": 8, "warmup": 1, "labelled_faces": 8, "unlabelled_faces": 2, "style_probability": 0.0}
AGREEMENT = "agreement with the start"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write faces of two people, one for each of two classes, in several sizes, and two faces without a label.

    The person for sadness smiles, so the shipped network is wrong.
    """
    root = tmp_path_factory.mktemp("own") / "faces"
    for name, person in (("happiness", 6), ("sadness", 0)):
        for number in range(10 if name == "happiness" else 9):
            side = 96 + 40 * (number % 3)
            mini_datasets.picture(root / name / f"{number}.jpg", mini_datasets.close_face(side, person, number))
    grey = cv2.cvtColor(mini_datasets.close_face(96, 0, 9), cv2.COLOR_RGB2GRAY)
    mini_datasets.picture(root / "sadness" / "grey.png", grey)
    for number in range(2):
        mini_datasets.picture(root / "unlabelled" / f"{number}.png", mini_datasets.close_face(120, 2, number))
    mini_datasets.picture(root / "unlabelled" / "nobody.png", clips.scenery(1, 120, 120)[0])
    return root


@pytest.fixture(scope="module")
def faces(folder: Path) -> OwnFaces:
    return OwnFaces.read(folder)


@pytest.fixture(scope="module")
def patched() -> Iterator[None]:
    """Shorten calibration and save more often."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "CALIBRATION", 8)
        patch.setattr(finetune, "SAVE_EVERY_STEPS", 4)
        yield


@pytest.fixture(scope="module")
def trained(patched: None, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Fine-tune with the command; return the int8 file with the printed output."""
    output = tmp_path_factory.mktemp("models") / "mine.onnx"
    recipe = output.with_name("recipe.json")
    recipe.write_text(json.dumps(LEARNING))
    return output, run("--data", folder, "-o", output, "--recipe", recipe)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app.app, ["network", "train", *map(str, arguments)])


def test_folder_is_read(faces: OwnFaces) -> None:
    assert faces.counts() == {
        "training": {"happiness": 8, "sadness": 8},
        "validation": {"happiness": 2, "sadness": 2},
        "unlabelled": 2,
        "without_face": 1,
    }
    assert [path.name for path in faces.without_face] == ["nobody.png"]
    assert [CLASSES[i] for i in np.flatnonzero(faces.train.has)] == ["happiness", "sadness"]
    assert not faces.unlabelled.votes.any()
    assert len(faces.training) == 18


def test_validation_is_a_fifth_of_each_class() -> None:
    paths = [Path(name) / f"{i}.jpg" for name in ("anger", "fear", "unlabelled") for i in range(20)]
    labels = np.repeat([0, 3, -1], 20)
    chosen = choose_validation(paths, labels)
    assert [int(chosen[labels == label].sum()) for label in (0, 3, -1)] == [4, 4, 0]
    order = np.random.default_rng(0).permutation(60)
    moved = choose_validation([Path("elsewhere") / paths[i] for i in order], labels[order])
    assert (moved == chosen[order]).all(), "neither the order nor the place of the folder matters"


def test_progress_and_figures_are_printed(trained: tuple[Path, Result]) -> None:
    output, result = trained
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("fervid: 1 image left out, because no face was found; leave more room")
    assert result.stderr.endswith("nobody.png\n")
    counts, *progress = (json.loads(line) for line in result.stdout.splitlines() if line.startswith("{"))
    assert counts["training"] == {"happiness": 8, "sadness": 8}
    assert [line["step"] for line in progress] == [4, 8]
    assert progress[0]["loss"] > progress[-1]["loss"]
    names = sorted(path.name for path in output.parent.glob("mine*"))
    assert names == ["mine-fp32.onnx", "mine.onnx", "mine.safetensors"]


@pytest.mark.parametrize("name", ["mine", "mine-fp32"])
def test_card_has_figures_before_and_after(name: str, trained: tuple[Path, Result]) -> None:
    card = registry.load_model(str(trained[0].with_name(f"{name}.onnx")), "face_model").card
    before, after = (
        find_figure(card["figures"], protocol=f"{time} fine-tuning", metric="mean_recall")
        for time in ("before", "after")
    )
    assert after["value"] > before["value"] + 0.2
    assert len(after["interval"]) == 2
    assert find_figure(card["figures"], protocol=AGREEMENT, metric="identity_cosine")["value"] > 0.7
    assert card["data"]["training"] == {"happiness": 8, "sadness": 8}
    assert card["recipe"] == asdict(FinetuneConfig(**LEARNING))
    assert ("quantised_from" in card) == (name == "mine")


def test_exported_file_classifies_clip(trained: tuple[Path, Result], tmp_path: Path) -> None:
    clip = clips.write(tmp_path / "clip.mp4", clips.smiling(5), rate=5)
    result = fervid.load_classifier(face_model=str(trained[0]), threads=1).classify(clip)
    assert result.status == "ok"
    assert [result.models[role].name for role in ("face_model", "classifier")] == ["mine", "mean8"]
    assert result.prediction.probabilities["sadness"] > result.prediction.probabilities["happiness"]


def test_finished_run_is_not_trained_again(
    trained: tuple[Path, Result], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, _ = trained
    monkeypatch.setattr(finetune, "save", lambda *_: {})
    before = output.with_suffix(".safetensors").read_bytes()
    again = run("--data", folder, "-o", output, "--recipe", output.with_name("recipe.json"))
    assert (again.exit_code, again.stdout.count('"step"')) == (0, 0)
    assert output.with_suffix(".safetensors").read_bytes() == before
    refused = run("--data", folder, "-o", output)
    assert (refused.exit_code, "is a checkpoint of another run" in refused.stderr) == (2, True)


@pytest.fixture(scope="module")
def finished(faces: OwnFaces, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Finish a run of three steps without interruption; return the tensors of its checkpoint."""
    path = tmp_path_factory.mktemp("runs") / "run"
    list(finetune.fit(TINY, faces, path))
    return checkpoint.load(path, finetune.KIND)[2]


def test_resumed_run_equals_uninterrupted(
    faces: OwnFaces, finished: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "SAVE_EVERY_STEPS", 1)
    interrupted = finetune.fit(TINY, faces, tmp_path / "run")
    assert next(interrupted)["step"] == 1
    interrupted.close()
    assert [line["step"] for line in finetune.fit(TINY, faces, tmp_path / "run")] == [2, 3]
    resumed = checkpoint.load(tmp_path / "run")[2]
    assert resumed.keys() == finished.keys()
    assert all(torch.equal(value, finished[name]) for name, value in resumed.items())


def test_frozen_layers_keep_their_weights(finished: dict[str, Tensor]) -> None:
    moved = {
        name.removeprefix("network/")
        for name, value in finished.items()
        if name.startswith("network/") and not torch.equal(value, finished[name.replace("network/", "average/", 1)])
    }
    assert {"expression.weight", "age.weight", "backbone.pointwise.4.convolution.weight"} <= moved
    assert not {name for name in moved if name.startswith(("identity", "first", "backbone.stem"))}
    assert not {name for name in moved if name.endswith(("running_mean", "running_var", ".3.convolution.weight"))}


def test_loss_without_unlabelled_faces(faces: OwnFaces) -> None:
    torch.manual_seed(0)
    network = FaceNetwork(mini_datasets.Backbone(), mini_datasets.WIDTH).eval()
    without = replace(faces, unlabelled=faces.unlabelled[:0])
    heads = {}
    for data, count in ((faces, 6), (without, 4)):
        batch = BatchSampler(TINY, data, network)(0)
        assert len(batch.images) == len(batch.expression) == count
        heads[count] = Heads(*(value + 1 for value in network(batch.images)))
        assert torch.isfinite(finetune.loss(heads[count], batch, TINY))
        heavier = finetune.loss(heads[count], batch, replace(TINY, consistency_weight=9.0))
        assert (heavier > finetune.loss(heads[count], batch, TINY)) == (count == 6)


def test_classes_that_folder_lacks_are_excluded(faces: OwnFaces) -> None:
    torch.manual_seed(0)
    batch = BatchSampler(TINY, faces, FaceNetwork(mini_datasets.Backbone(), mini_datasets.WIDTH).eval())(0)
    labelled, unlabelled = batch.adjustment[: TINY.labelled_faces], batch.adjustment[TINY.labelled_faces :]
    assert ((labelled > -10).all(dim=0).numpy() == faces.train.has).all()
    assert (unlabelled > -10).all()
    torch.testing.assert_close(batch.expression.sum(dim=1), torch.ones(6))


def _empty(root: Path) -> None:
    """Add an empty class, and remove the images of another but one."""
    (root / "anger").mkdir()
    for path in (root / "sadness").glob("?.jpg"):
        path.unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: (root / "sadness").rename(root / "sad"), r"no class: sad; name them anger, .* or unlabelled"),
        (lambda root: shutil.rmtree(root / "sadness"), "two or more folders of images that are named anger"),
        (_empty, r"\(anger 0, sadness 1\); each class needs 10 or more"),
        (lambda root: (root / "sadness" / "3.jpg").write_bytes(b"none"), r"1 images are damaged.*3\.jpg"),
    ],
    ids=["other name", "one class", "few faces", "damaged"],
)
def test_wrong_folder_is_refused(change: Callable[[Path], object], said: str, folder: Path, tmp_path: Path) -> None:
    root = shutil.copytree(folder, tmp_path / "faces")
    change(root)
    with pytest.raises(ValueError, match=said):
        OwnFaces.read(root)


def test_hidden_and_other_files_are_ignored(folder: Path, tmp_path: Path) -> None:
    root = shutil.copytree(folder, tmp_path / "faces")
    (root / ".thumbnails").mkdir()
    (root / "sadness" / "notes.txt").write_text("no image")
    (root / "list.csv").write_text("")
    assert len(list_images(root)[0]) == len(list_images(folder)[0]) == 23


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-o", "x.onnx", "--teacher", "x", "--cache", "x"], "--teacher, --cache cannot be used without --weights"),
        (["-o", "run.safetensors"], "run.safetensors must end in .onnx; or add --weights"),
        (["-o", "mine.onnx", "--recipe", "recipe.json"], "unknown setting expression_faces"),
        (["-o", "mine.onnx"], "gone cannot be read"),
    ],
)
def test_wrong_options_are_refused(
    options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.json").write_text('{"expression_faces": 3}')
    result = run("--data", "gone", *options)
    assert (result.exit_code, result.stdout, said in result.stderr) == (2, "", True), result.stderr
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.parametrize("name", ["steps", "labelled_faces"])
def test_empty_recipe_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        FinetuneConfig(**{name: 0})
