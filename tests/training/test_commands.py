"""Test `fervid network` from data sets to evaluated files, and its errors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner, Result

import mini_datasets
from fervid.cli import app
from fervid.models import registry
from fervid.training import export, faces, fit, logit_shift, network, predict
from fervid.training.batches import TrainingSets
from fervid.training.dataset_paths import DatasetPaths
from fervid.training.mobilenet import BLOCKS

SMALL = {
    "size": 32,
    "steps": 2,
    "head_steps": 0,
    "warmup": 1,
    "expression_faces": 4,
    "attribute_faces": 2,
    "identity_faces": 2,
}


@pytest.fixture(scope="module")
def patched() -> Iterator[None]:
    """Shorten validation and calibration."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "INITIAL_SIZE", 32)
        patch.setattr(export, "CALIBRATION", 8)
        yield


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app.app, ["network", *map(str, arguments)])


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.json"
    path.write_text(json.dumps(SMALL))
    return path


@pytest.fixture(scope="module")
def trained(
    patched: None,
    sources: DatasetPaths,
    cache: Path,
    published: Path,
    recipe: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Result]:
    """Finish a run; return it with the printed output."""
    path = tmp_path_factory.mktemp("runs") / "run.safetensors"
    options = ("--weights", published, "--recipe", recipe, "--cache", cache)
    return path, run("train", "--data", sources.root, "-o", path, *options)


@pytest.fixture(scope="module")
def exported(
    trained: tuple[Path, Result], sources: DatasetPaths, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Result]:
    """Export that run to int8 and float32; return the int8 file with the printed output."""
    path = tmp_path_factory.mktemp("models") / "toy.onnx"
    return path, run("export", trained[0], "--data", sources.root, "-o", path, "--cache", cache)


@pytest.mark.parametrize("command", ["train", "export", "evaluate"])
def test_commands_have_help(command: str) -> None:
    result = run(command, "--help")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "--data" in result.stdout
    assert f"fervid network {command} " in result.stdout


def test_train_prints_metrics_and_keeps_finished_run(
    trained: tuple[Path, Result], sources: DatasetPaths, cache: Path, published: Path, recipe: Path
) -> None:
    path, result = trained
    assert (result.exit_code, result.stderr) == (0, "")
    (line,) = (json.loads(line) for line in result.stdout.splitlines())
    assert line["step"] == 2
    assert line.keys() >= {"loss", "seconds", "accuracy_all", "age_mae", "gender", "ethnicity"}
    before = path.read_bytes()
    options = ("--weights", published, "--cache", cache, "-o", path)
    again = run("train", "--data", sources.root, *options, "--recipe", recipe)
    assert (again.exit_code, again.stdout, path.read_bytes()) == (0, "", before)
    other = recipe.with_name("other.json")
    other.write_text(json.dumps({**SMALL, "learning_rate": 1e-5}))
    refused = run("train", "--data", sources.root, *options, "--recipe", other)
    assert (refused.exit_code, path.read_bytes()) == (2, before)
    assert "rate differ" in refused.stderr


def test_backbone_option_overrides_recipe(
    trained: tuple[Path, Result],
    sources: DatasetPaths,
    cache: Path,
    published: Path,
    recipe: Path,
    tmp_path: Path,
    timm: None,
) -> None:
    path = tmp_path / "tiny.safetensors"
    options = ("--weights", published, "--recipe", recipe, "--cache", cache, "-o", path)
    result = run("train", "--data", sources.root, *options, "--backbone", "tiny")
    assert (result.exit_code, result.stderr) == (0, "")
    settings, made, _ = predict.load_run(path)
    assert (settings.backbone, made.width) == ("tiny", mini_datasets.WIDTH)
    assert settings == replace(predict.load_run(trained[0])[0], backbone="tiny")
    refused = run("train", "--data", sources.root, *options)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "backbone differ" in refused.stderr


def test_export_writes_two_files_with_provenance(
    exported: tuple[Path, Result], sources: DatasetPaths, cache: Path
) -> None:
    path, result = exported
    assert (result.exit_code, result.stderr) == (0, "")
    assert sorted(place.name for place in path.parent.iterdir()) == ["manifest.json", "toy-fp32.onnx", "toy.onnx"]
    small, whole = (
        registry.load_model(str(path.with_name(name)), "face_model") for name in ("toy.onnx", "toy-fp32.onnx")
    )
    assert small.card["quantised_from"] == whole.identity.sha256
    assert "quantised_from" not in whole.card
    assert (small.card["name"], whole.card["name"]) == ("toy", "toy-fp32")
    read = {
        "expressions": faces.read_ferplus(sources.ferplus, sources.fer2013, "Training", cache),
        "attributes": faces.read_utkface(sources.utkface, 2, cache),
        "people": faces.read_celeba(sources.celeba, cache),
    }
    for model in (small, whole):
        assert {name: model.card["recipe"][name] for name in SMALL} == SMALL
        assert model.card["data_sha256"].items() >= {name: read[name].digest() for name in read}.items()
        assert model.card["expression_shift"] in logit_shift.SHIFTS
        assert model.card["fer2013_shift"] in logit_shift.SHIFTS
        assert len({(f["dataset"], f["protocol"]) for f in model.card["figures"]}) == 11
    listed = json.loads((path.parent / "manifest.json").read_text())["models"]
    assert {name: entry["sha256"] for name, entry in listed.items()} == {
        "toy": small.identity.sha256,
        "toy-fp32": whole.identity.sha256,
    }
    operators = [node.op_type for node in onnx.load(path).graph.node]
    assert operators.count("Conv") == 1 + 2 * len(BLOCKS)
    assert operators.count("QuantizeLinear") >= operators.count("Conv") - 1 - export.FLOAT_FIRST
    assert operators.count("Clip") == export.FLOAT_FIRST, "the others are folded into the previous convolutions"
    assert path.stat().st_size < 0.4 * path.with_name("toy-fp32.onnx").stat().st_size


def test_evaluating_gives_figures_of_card(exported: tuple[Path, Result], sources: DatasetPaths) -> None:
    for path in (exported[0].with_name("toy-fp32.onnx"), exported[0]):
        result = run("evaluate", path, "--data", sources.root, "--json")
        assert (result.exit_code, result.stderr) == (0, "")
        assert json.loads(result.stdout) == registry.load_model(str(path), "face_model").card["figures"]
    table = run("evaluate", path, "--data", sources.root).stdout
    assert all(figure["dataset"].split()[0] in table for figure in json.loads(result.stdout))


def commands(root: Path, published: Path, run: Path, model: Path, output: Path) -> dict[str, list[object]]:
    """Return the arguments of each command."""
    return {
        "train": ["train", "--data", root, "--weights", published, "-o", output],
        "export": ["export", run, "--data", root, "-o", output],
        "evaluate": ["evaluate", model, "--data", root],
    }


@pytest.mark.parametrize("command", ["train", "export", "evaluate"])
def test_missing_datasets_are_named(
    command: str,
    sources: DatasetPaths,
    published: Path,
    trained: tuple[Path, Result],
    exported: tuple[Path, Result],
    tmp_path: Path,
) -> None:
    root, output = tmp_path / "sets", tmp_path / "output"
    shutil.copytree(sources.root / "celeba", root / "celeba")
    result = run(*commands(root, published, trained[0], exported[0], output)[command])
    assert (result.exit_code, result.stdout, output.exists()) == (2, "", False)
    assert result.stderr.startswith("fervid: these data sets are missing")
    for name in ("ferplus", "faceexp/data", "utkface/data/UTKFace/unlabeled", "lfw", "lfwpairs/data/pairs.txt"):
        assert str(root / name) in result.stderr
    assert str(root / "celeba") not in result.stderr
    assert sorted(place.name for place in tmp_path.iterdir()) == ["sets"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no weights", r"faceres.json is not a manifest of TensorFlow.js weights"),
        (None, "No such file"),
        (b'{"weightsManifest": []}', "not the published weights of mobilenetv1"),
    ],
    ids=["damaged", "missing", "of another network"],
)
def test_unusable_weights_are_refused(content: bytes | None, said: str, sources: DatasetPaths, tmp_path: Path) -> None:
    path = tmp_path / "faceres.json"
    if content is not None:
        path.write_bytes(content)
    result = run("train", "--data", sources.root, "--weights", path, "-o", tmp_path / "run.safetensors")
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert not (tmp_path / "run.safetensors").exists()


def test_recipe_with_unknown_setting_is_refused(sources: DatasetPaths, published: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text('{"stesp": 3}')
    options = ("--weights", published, "--recipe", tmp_path / "recipe.json", "-o", tmp_path / "run")
    result = run("train", "--data", sources.root, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "unknown setting stesp" in result.stderr


def test_export_refuses_invalid_run(sources: DatasetPaths, tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(b"nothing of the kind")
    result = run("export", tmp_path / "run", "--data", sources.root, "-o", tmp_path / "toy.onnx")
    assert (result.exit_code, "run is not a checkpoint" in result.stderr) == (2, True)
    assert not (tmp_path / "toy.onnx").exists()


def test_export_refuses_unfinished_run(trained: tuple[Path, Result], sources: DatasetPaths, tmp_path: Path) -> None:
    recipe = predict.load_run(trained[0])[0]
    path = tmp_path / "early.safetensors"
    data = mini_datasets.data(fit.mobilenet.EMBEDDING)
    fit.Trainer(recipe, network.build("mobilenetv1"), data).save(path)
    result = run("export", path, "--data", sources.root, "-o", tmp_path / "toy.onnx")
    assert (result.exit_code, "has completed 0 of 2 steps" in result.stderr) == (2, True)
    assert not (tmp_path / "toy.onnx").exists()


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--pretrained", "gone"], 2, "gone cannot initialise mobilenetv1"),
        (["--backbone", "wat"], 2, "unknown backbone 'wat'"),
        (["--teacher", "wat"], 4, "face model 'wat' cannot be read"),
        (["--teacher", "runs/gone.safetensors"], 4, "runs/gone.safetensors"),
    ],
)
def test_invalid_start_is_refused_early(
    options: list[str],
    status: int,
    said: str,
    published: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    timm: None,
) -> None:
    monkeypatch.setattr(TrainingSets, "read", lambda *_: pytest.fail("data are read"))
    result = run("train", "--data", tmp_path, "--weights", published, "-o", tmp_path / "run", *options)
    assert (result.exit_code, result.stdout, list(tmp_path.iterdir())) == (status, "", [])
    assert said in result.stderr


@pytest.mark.parametrize("command", ["train", "export"])
def test_unwritable_output_is_refused_early(
    command: str, sources: DatasetPaths, published: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    missing = tmp_path / "no" / "such" / "folder"
    arguments = commands(missing, published, tmp_path / "run", Path("model"), tmp_path / "file" / "output")[command]
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Not a directory" in result.stderr or "File exists" in result.stderr


WITHOUT_TORCH = """
import sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, Finder())
from fervid.cli.app import main

main()
"""


@pytest.mark.parametrize("command", ["train", "export", "evaluate"])
def test_missing_torch_is_named(command: str, sources: DatasetPaths, published: Path) -> None:
    arguments = commands(sources.root, published, Path("run"), Path("model"), Path("output"))[command]
    called = [sys.executable, "-c", WITHOUT_TORCH, "network", *map(str, arguments)]
    done = subprocess.run(called, capture_output=True, text=True, check=False, timeout=60, env=os.environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == 'fervid: `fervid network` needs more packages; pip install "fervid[training]"\n'
