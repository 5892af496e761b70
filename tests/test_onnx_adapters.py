"""Published models are adapted in memory, and give the results of their original code."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from scipy.spatial import cKDTree
from typer.testing import CliRunner

import clips
import fervid
import published_models
from fervid.analysis.detector import Detector
from fervid.analysis.extractor import load_extractor
from fervid.analysis.face_model import FaceModel
from fervid.cli.app import app
from fervid.core.errors import ChecksumMismatch, ModelIncompatible, ModelNotFound, UsageError
from fervid.learn.feature_table import FeatureTable
from fervid.models import registry
from fervid.models.onnx_adapters import adapt_published_model

FACE = (190.0, 130.0, 470.0, 420.0)  # in the 640 pixels of the substitute: that of `clips.smiling`, 320 pixels wide


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with small substitutes of both optional models, and a manifest that lists them."""
    data = tmp_path_factory.mktemp("published")
    place = data / "fervid" / "models"
    place.mkdir(parents=True)
    made = {"yunet": published_models.yunet(place / "yunet.onnx", [FACE], 0.1)}
    made["hsemotion-b0"] = published_models.hsemotion(place / "hsemotion-b0.onnx")
    published_models.manifest(data / "shipped", {name: path.read_bytes() for name, path in made.items()})
    return data


@pytest.fixture
def pulled(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of those models, which a test may change."""
    shutil.copytree(published, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(registry, "models_dir", lambda: tmp_path / "shipped")
    registry.manifest.cache_clear()
    yield tmp_path / "fervid" / "models"
    registry.manifest.cache_clear()


def card(name: str) -> dict[str, Any]:
    return {key: value for key, value in registry.manifest("optional")[name].items() if key not in registry.FILE_KEYS}


@pytest.mark.parametrize("noise", [0.0, 1.0, 4.0])
def test_yunet_matches_opencv(tmp_path: Path, noise: float) -> None:
    faces = [(100.0, 100.0, 180.0, 210.0), (300.0, 330.0, 420.0, 460.0), (610.0, 4.0, 660.0, 60.0)] if noise < 4 else []
    path = published_models.yunet(tmp_path / "yunet.onnx", faces, noise)
    picture = np.random.default_rng(1).integers(0, 256, (640, 640, 3), np.uint8)
    picture[:512, :512] = clips.astronaut()
    opencv = cv2.FaceDetectorYN.create(str(path), "", (640, 640), 0.3, 1.0, 20_000)
    theirs = opencv.detect(np.ascontiguousarray(picture[..., ::-1]))[1]

    session = onnxruntime.InferenceSession(adapt_published_model(path.read_bytes(), card("yunet")))
    boxes, landmarks, scores = session.run(["boxes", "landmarks", "scores"], {"images": picture[None]})
    assert (boxes.shape, landmarks.shape, scores.shape) == ((1, 8400, 4), (1, 8400, 5, 2), (1, 8400))
    sure = scores[0] >= 0.3
    ours = np.column_stack(
        [
            boxes[0, sure, :2],
            boxes[0, sure, 2:] - boxes[0, sure, :2],
            landmarks[0, sure].reshape(-1, 10),
            scores[0, sure],
        ]
    )
    assert len(ours) == len(theirs) >= (len(faces) or 5000)
    apart, match = cKDTree(ours).query(theirs)
    assert len(set(match)) == len(ours)
    assert apart.max() < 0.01


@pytest.mark.usefixtures("pulled")
def test_yunet_locates_face() -> None:
    model = registry.load_model("yunet", "detector")
    (face,) = Detector(model.session, model.card).detect_coarse(clips.portrait(320, 320))
    np.testing.assert_allclose(face.box, np.array(FACE) / 2, atol=2)
    np.testing.assert_allclose(face.landmarks[0], (95 + 0.3 * 140, 65 + 0.35 * 145), atol=2)
    assert model.identity.name == "yunet"


@pytest.mark.parametrize(("batch", "last"), [("batch_size", "Gemm"), (1, "Gemm"), ("n", "MatMul")])
def test_logits_network_gives_embedding_and_probabilities(tmp_path: Path, batch: str | int, last: str) -> None:
    path = published_models.hsemotion(tmp_path / "b0.onnx", batch=batch, last=last)
    about = card("hsemotion-b0")
    network = FaceModel(onnxruntime.InferenceSession(adapt_published_model(path.read_bytes(), about)), about)
    crops = np.random.default_rng(2).integers(0, 256, (9, 224, 224, 3), np.uint8)
    scores = network(crops)
    assert scores.widths == (1280, 8, 0, 0, 0, 0)

    pictures = (crops / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]  # as its authors prepare them
    session = onnxruntime.InferenceSession(path.read_bytes())
    feeds = [picture[None].transpose(0, 3, 1, 2).astype(np.float32) for picture in pictures]
    logits = np.concatenate([session.run(None, {"input": feed})[0] for feed in feeds])
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scores.expression, shares, atol=2e-5)
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    head = weights["weight"] if last == "MatMul" else weights["weight"].T
    np.testing.assert_allclose(scores.embedding @ head + weights["bias"], logits, atol=2e-3)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("hsemotion-b0", b"no model", "parsing"),
        ("hsemotion-b0", "Relu", "it does not end in a linear layer"),
        ("hsemotion-b0", "two inputs", "it has 2 inputs instead of one"),
        ("yunet", "Gemm", "it has no output bbox_16, bbox_32, bbox_8, cls_16"),
    ],
)
def test_unexpected_graph_is_refused(tmp_path: Path, name: str, data: bytes | str, words: str) -> None:
    if isinstance(data, str):
        path = published_models.hsemotion(tmp_path / "b0.onnx", 8, last=data if data != "two inputs" else "Gemm")
        model = onnx.load(path)
        if data == "two inputs":
            model.graph.input.append(onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, [1]))
        data = model.SerializeToString()
    with pytest.raises(ValueError, match=words):
        adapt_published_model(data, card(name))


def test_downloaded_model_with_unexpected_graph_is_incompatible(pulled: Path) -> None:
    content = json.loads((registry.models_dir() / "manifest.json").read_text())
    del content["optional"]["hsemotion-b0"]  # otherwise the file would be recognized by its digest
    content["optional"]["yunet"] |= {
        "sha256": hashlib.sha256((pulled / "hsemotion-b0.onnx").read_bytes()).hexdigest(),
        "file": "hsemotion-b0.onnx",
    }
    (registry.models_dir() / "manifest.json").write_text(json.dumps(content))
    registry.manifest.cache_clear()
    with pytest.raises(ModelIncompatible, match=r"hsemotion-b0\.onnx is no ONNX model .*\(it has no outp"):
        registry.load_model("yunet", "detector")


# In use


@pytest.mark.usefixtures("pulled")
def test_clip_is_classified_by_downloaded_models(smile: Path) -> None:
    result = run("classify", smile, "--face-model", "hsemotion-b0", "--detector", "yunet", "--format", "jsonl")
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert (record["status"], record["frames_with_face"]) == ("ok", record["frames_sampled"])
    assert {role: model["name"] for role, model in record["model"].items()} == {
        "detector": "yunet",
        "face_model": "hsemotion-b0",
        "classifier": "mean8",
    }
    assert list(record["probabilities"]) == card("hsemotion-b0")["expressions"]
    assert record["people"][0]["age"] is None


@pytest.mark.usefixtures("pulled")
def test_prediction_is_mean_expression(crops: list[np.ndarray]) -> None:
    classifier = fervid.load_classifier(face_model="hsemotion-b0", detector="yunet", threads=1)
    del crops[:]  # remove the crops of the warm-up
    frames = [fervid.Frame(image, i / 5, 0.2) for i, image in enumerate(clips.smiling(5))]
    answer = classifier.classify_frames(frames)
    network = registry.load_model("hsemotion-b0", "face_model")
    said = FaceModel(network.session, network.card)(np.array(crops)).expression.mean(axis=0)
    np.testing.assert_allclose(list(answer.probabilities.values()), said, atol=1e-5)


@pytest.mark.parametrize("command", ["classify", "timeline"])
@pytest.mark.usefixtures("pulled")
def test_missing_attributes_are_refused(smile: Path, command: str) -> None:
    result = run(command, smile, "--face-model", "hsemotion-b0", "--attributes")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "hsemotion-b0 estimates no age, gender, ethnicity;" in result.stderr
    with pytest.raises(UsageError, match="--face-model mobilenetv1"):
        fervid.load_classifier(face_model="hsemotion-b0", options=fervid.Options(attributes=True))


@pytest.mark.usefixtures("pulled")
def test_classifier_of_another_network_is_refused() -> None:
    with pytest.raises(ModelIncompatible, match=r"emotion8 .*[0-9a-f]{12}, not on hsemotion"):
        fervid.load_classifier(face_model="hsemotion-b0", classifier="emotion8")


def test_mean_classifier_needs_network_with_its_classes(tmp_path: Path, smile: Path) -> None:
    answer = fervid.load_classifier(classifier="mean8", threads=1).classify(smile)
    assert answer.label == "happiness"
    content = onnx.load(registry.models_dir() / "mean8.onnx")
    about = {**registry.manifest()["mean8"], "face_model_expressions": ["dark", "bright"]}
    path = tmp_path / "other.onnx"
    onnx.helper.set_model_props(content, {"fervid": json.dumps(about)})
    path.write_bytes(content.SerializeToString())
    with pytest.raises(ModelIncompatible, match=r"mean8 .*mobilenetv1"):
        fervid.load_classifier(classifier=str(path))


def test_retrained_network_is_classified_by_mean_probabilities(tmp_path: Path, smile: Path) -> None:
    shipped = registry.load_model("mobilenetv1", "face_model")
    content = onnx.load(shipped.path)
    onnx.helper.set_model_props(content, {"fervid": json.dumps({**shipped.card, "quantised_from": "0" * 64})})
    path = tmp_path / "retrained.onnx"
    path.write_bytes(content.SerializeToString())
    answer = fervid.load_classifier(face_model=str(path), threads=1).classify(smile)
    assert (answer.models["classifier"].name, answer.label) == ("mean8", "happiness")


@pytest.mark.usefixtures("pulled", "quick")
def test_train_and_evaluate_on_network_without_identities(tmp_path: Path) -> None:
    for label, zoom in (("near", 0.8), ("far", 0.6)):
        for i in range(4):
            (tmp_path / "clips" / label).mkdir(parents=True, exist_ok=True)
            clips.write(tmp_path / "clips" / label / f"{i}.mp4", [clips.portrait(160, 160, zoom, 222 + i, 130 - i)])
    looking = ["--face-model", "hsemotion-b0", "--detector", "yunet", "--cache", tmp_path / "cache", "--format", "json"]
    fitting = ["--folds", 3, "--classifier-kind", "linear", "--statistics", "mean"]
    named = run("train", tmp_path / "clips", "-o", tmp_path / "no.onnx", *looking, *fitting)
    assert (named.exit_code, "a face model that has identities" in named.stderr) == (2, True), named.stderr

    made = run("train", tmp_path / "clips", "-o", tmp_path / "m.onnx", *looking, *fitting, "--group-by", "none")
    assert made.exit_code == 0, made.stderr
    assert (
        json.loads(made.stdout)["face_model_sha256"]
        == registry.load_model("hsemotion-b0", "face_model").identity.sha256
    )
    measured = run(
        *(
            "evaluate",
            tmp_path / "clips",
            "--classifier",
            tmp_path / "m.onnx",
            "--compare-to",
            "mean8",
            "--group-by",
            "none",
        ),
        *("--labels", "near,far", *looking),
    )
    assert (measured.exit_code, "mean8 has no label" in measured.stderr) == (4, True)  # it has other classes
    measured = run("evaluate", tmp_path / "clips", "--classifier", tmp_path / "m.onnx", "--group-by", "none", *looking)
    assert measured.exit_code == 0, measured.stderr
    with pytest.raises(ModelIncompatible, match="m was trained on face model"):
        fervid.load_classifier(classifier=str(tmp_path / "m.onnx"))

    written = run("features", tmp_path / "clips" / "near", "-o", tmp_path / "f.npz", *looking[:-2])
    assert written.exit_code == 0, written.stderr
    kinds = {name.partition(".")[0] for name in FeatureTable.load(tmp_path / "f.npz").statistics}
    assert kinds == {"embedding", "expression", "logit"}


# Whether it is the right file


def test_missing_optional_model_names_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, smile: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    for flag, name in (("--face-model", "hsemotion-b0"), ("--detector", "yunet")):
        result = run("classify", smile, flag, name)
        assert (result.exit_code, result.stdout) == (4, "")
        assert f"{name} was not downloaded yet; `fervid models pull {name}` downloads it" in result.stderr


@pytest.mark.parametrize(
    ("name", "damage"),
    [*(("yunet", damage) for damage in ("byte", "cut", "gone", "folder")), ("hsemotion-b0", "longer")],
)
def test_changed_downloaded_file_is_refused(pulled: Path, name: str, damage: str) -> None:
    path = pulled / f"{name}.onnx"
    data = path.read_bytes()
    registry.verify(name)
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "gone":
        path.write_bytes({"byte": bytes([data[0] ^ 1]) + data[1:], "cut": data[:-1], "longer": data + b"\0"}[damage])
    with pytest.raises(ModelNotFound if damage in ("gone", "folder") else ChecksumMismatch) as caught:
        registry.load_model(name, "face_model")
    assert f"`fervid models pull {name}` downloads it" in caught.value.message
    assert run("models", "verify", name).exit_code == 4


def test_optional_model_is_recognized_by_content(pulled: Path, tmp_path: Path) -> None:
    moved = (pulled / "hsemotion-b0.onnx").rename(tmp_path / "enet_b0_8_best_vgaf.onnx")
    model = registry.load_model(str(moved), "face_model")
    assert model.identity.name == "hsemotion-b0"
    assert model.identity.sha256 == hashlib.sha256(moved.read_bytes()).hexdigest()
    again = pickle.loads(pickle.dumps(model))
    assert (again.identity, again.card) == (model.identity, model.card)


@pytest.mark.usefixtures("pulled")
def test_optional_model_of_another_kind_is_refused() -> None:
    with pytest.raises(ModelIncompatible, match="detector and a face_model"):
        load_extractor(face_model="yunet")


def test_optional_models_are_listed_shown_and_verified(
    pulled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = hashlib.sha256((pulled / "hsemotion-b0.onnx").read_bytes()).hexdigest()
    listed = {line.split()[0]: line for line in run("models", "list").stdout.splitlines()}
    assert "not pulled" not in listed["yunet"]
    assert "non-commercial" in listed["hsemotion-b0"]
    assert json.loads(run("models", "info", "hsemotion-b0").stdout)["sha256"] == sha256
    assert run("models", "path", "yunet").stdout.strip() == str(pulled / "yunet.onnx")
    verified = run("models", "verify")
    assert verified.exit_code == 0
    assert f"hsemotion-b0     {sha256}" in verified.stdout
    assert run("doctor").stdout.count("hsemotion-b0") == 1

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "elsewhere"))
    assert "not pulled" in next(line for line in run("models", "list").stdout.splitlines() if "yunet" in line)
    assert "sha256" not in json.loads(run("models", "info", "hsemotion-b0").stdout)
    assert run("models", "path", "yunet").stdout.strip() == str(tmp_path / "elsewhere/fervid/models/yunet.onnx")
    assert "yunet" not in run("models", "verify").stdout
    assert run("models", "verify", "yunet").exit_code == 4
