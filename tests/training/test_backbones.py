"""Test the comparison of backbones: one recipe, complete files, and the same faces for every network."""

from __future__ import annotations

import hashlib
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import backbones
import numpy as np
import pytest

import feature_fixtures
import mini_datasets
from fervid.learn.figures import find_figure
from fervid.models import registry
from fervid.training import export, predict
from fervid.training.config import TrainConfig
from fervid.training.dataset_paths import DatasetPaths
from fervid.training.fit import Trainer
from fervid.training.network import build

SIDE = 32


@pytest.fixture(scope="module")
def arguments(
    sources: DatasetPaths, cache: Path, published: Path, tmp_path_factory: pytest.TempPathFactory
) -> Namespace:
    """Return the arguments of the command."""
    runs = tmp_path_factory.mktemp("backbones")
    return Namespace(data=sources.root, cache=cache, weights=published, runs=runs, pretrained=None)


@pytest.fixture
def tiny(timm: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Replace timm by one network, and use a recipe of two steps and few calibration faces."""
    (tmp_path / "recipe.json").write_text(
        '{"size": 32, "steps": 2, "head_steps": 0, "warmup": 1,'
        ' "expression_faces": 4, "attribute_faces": 2, "identity_faces": 2}'
    )
    monkeypatch.setattr(backbones, "RECIPE", tmp_path / "recipe.json")
    monkeypatch.setattr(backbones, "BACKBONES", {"tiny": 48})
    monkeypatch.setattr(predict, "INITIAL_SIZE", SIDE)
    monkeypatch.setattr(export, "CALIBRATION", 8)


def make_colour_clips() -> tuple[list[np.ndarray], Any]:
    """Make clips of one to three faces in the colour of their class, with their features and labels."""
    known = feature_fixtures.known(people=6, each=1)
    colours = np.array([feature_fixtures.YELLOW, feature_fixtures.CYAN], np.uint8)
    counts = 1 + np.arange(len(known.truth)) % 3
    return [np.tile(colours[c], (n, SIDE, SIDE, 1)) for c, n in zip(known.truth, counts, strict=True)], known


def test_recipe_suits_every_backbone() -> None:
    recipe = TrainConfig.from_json(backbones.RECIPE)
    assert not recipe.bfloat16, "bfloat16 is slow for squeeze and excitation, and for odd widths"


@pytest.mark.usefixtures("tiny", "quick")
def test_backbone_is_trained_and_written_once(arguments: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    backbones.train(["tiny"], arguments)
    with monkeypatch.context() as patch:
        patch.setattr(export, "save_quantised", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            backbones.write(["tiny"], arguments)
    assert [file.name for file in arguments.runs.iterdir()] == ["tiny.safetensors"], "no partial file is left"
    backbones.write(["tiny"], arguments)
    assert {file.name for file in arguments.runs.iterdir()} == {"tiny.safetensors", "tiny-fp32.onnx", "tiny.onnx"}
    for kind in (backbones.TrainingSets, backbones.Tests):
        monkeypatch.setattr(kind, "read", None)
    backbones.train(["tiny"], arguments)
    backbones.write(["tiny"], arguments)
    clips, known = make_colour_clips()
    full, small = backbones.table(["tiny"], arguments.runs, clips, known, repeat=1)
    assert (full["type"], small["type"]) == ("fp32", "int8")
    for row in (full, small):
        assert (row["backbone"], row["from"], row["steps"], row["size"]) == ("tiny", "chance", 2, SIDE)
        assert row.keys() > backbones.FIGURES.keys()
        assert row["ms"] > 0
        assert row["ms, original size"].endswith(" at 48")
    figures = registry.load_model(str(arguments.runs / "tiny.onnx"), "face_model").card["figures"]
    mean = find_figure(figures, dataset="UTKFace", metric="age_mae")
    assert small["age, years"] == "{:.2f} ({:.2f} to {:.2f})".format(mean["value"], *mean["interval"])


@pytest.mark.usefixtures("tiny")
def test_finished_run_of_same_recipe_is_kept(tmp_path: Path) -> None:
    recipe = replace(TrainConfig.from_json(backbones.RECIPE), backbone="tiny")
    path, given = tmp_path / "tiny.safetensors", tmp_path / "given"
    for weights in (None, given):
        earlier = {"pretrained": hashlib.sha256(b"weights").hexdigest()} if weights else None
        run = Trainer(recipe, build("tiny"), mini_datasets.data(), earlier)
        given.write_bytes(b"weights")
        path.unlink(missing_ok=True)
        assert not backbones.finished(path, recipe, weights)
        run.save(path)
        assert not backbones.finished(path, recipe, weights)
        list(run.run(path))
        assert backbones.finished(path, recipe, weights)
        given.write_bytes(b"others")
        for different in ((replace(recipe, learning_rate=1e-5), weights), (recipe, given)):
            assert not backbones.finished(path, *different), "the run starts, and its file is rejected"


def test_backbone_starts_from_given_weights(tmp_path: Path) -> None:
    (tmp_path / "tiny.safetensors").write_bytes(b"")
    assert backbones.pretrained("tiny", tmp_path) == tmp_path / "tiny.safetensors"
    assert backbones.pretrained("other", tmp_path) is backbones.pretrained("tiny", None) is None
    assert backbones.origin("mobilenetv1", None) == "faces"
    assert backbones.origin("tiny", {"pretrained": "0"}) == "ImageNet"
    assert backbones.origin("tiny", None) == "chance"


@pytest.mark.usefixtures("quick")
def test_clips_are_classified_by_face_features(tmp_path: Path) -> None:
    model = registry.load_model(str(feature_fixtures.face_model(tmp_path)), "face_model")
    clips, known = make_colour_clips()
    small = [faces[:, :8, :8] for faces in clips]
    assert backbones.on_clips(model, small, known)["value"] == 1
    assert backbones.text("", backbones.on_clips(model, small, known)) == "100.0 (100.0 to 100.0)"
    assert backbones.on_clips(model, small[:1] * len(small), known)["value"] == 0.5


def test_descriptor_is_mean_deviation_and_maximum() -> None:
    found = backbones.descriptor(np.float32([[1, 4], [3, 4]]))
    assert found.tolist() == [2, 4, 1, 0, 3, 4]


def test_faces_of_main_person_are_cut_for_any_size(tmp_path: Path) -> None:
    extractor = feature_fixtures.extractor(tmp_path)
    for i, colours in enumerate([[feature_fixtures.YELLOW], [], [feature_fixtures.YELLOW, feature_fixtures.CYAN]]):
        mini_datasets.picture(tmp_path / "clip" / f"{i}.png", feature_fixtures.picture(*colours))
    faces = backbones.clip(tmp_path / "clip", extractor, 24)
    assert faces.shape == (2, 24, 24, 3)
    assert faces[:, 12, 12].tolist() == [list(feature_fixtures.YELLOW)] * 2
    nobody = backbones.clip(feature_fixtures.frames(tmp_path / "nobody", [None]), extractor, 24)
    assert nobody.shape == (0, 24, 24, 3)


def test_units_of_figures() -> None:
    figure = {"value": 0.5, "interval": [0.25, 0.75]}
    assert backbones.text("gender, %", figure) == "50.0 (25.0 to 75.0)"
    assert backbones.text("age, years", figure) == "0.50 (0.25 to 0.75)"
