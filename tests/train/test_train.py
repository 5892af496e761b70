"""How models are made: weights read and folded rightly, data cleaned as published, files that equal torch."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import clips
from fervid import models
from fervid.align import crop
from fervid.detect import Detector
from fervid.errors import ModelIncompatible
from fervid.network import FaceNetwork
from fervid.records import Face
from fervid.train import blazeface, degrade, ferplus, mobilenet, network, utkface
from fervid.train import clips as simulated
from fervid.train.measure import recall

FACE = Face((4, 6, 44, 46), np.array([[14, 20], [34, 20], [24, 30]], np.float32), 0.9)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with random weights in the layout of the published TensorFlow.js files."""
    chance = np.random.default_rng(3)
    nodes: list[dict] = []
    tensors: dict[str, np.ndarray] = {}

    def add(name: str, operator: str, inputs: list[str], stride: int = 0) -> str:
        attributes = {"strides": {"list": {"i": ["1", str(stride), str(stride), "1"]}}} if stride else {}
        nodes.append({"name": name, "op": operator, "input": inputs, "attr": attributes})
        return name

    def weight(name: str, *shape: int, scale: float = 1.0) -> str:
        tensors[name] = (chance.normal(0, scale, shape)).astype(np.float16)
        return name

    def clipped(name: str, x: str) -> str:
        six, zero = weight(f"{name}/Cast"), weight(f"{name}/Const_1")
        tensors[six], tensors[zero] = np.float16(6), np.float16(0)
        x = add(f"{name}/Relu", "Relu", [x])
        return add(f"{name}/max", "Maximum", [add(f"{name}/min", "Minimum", [x, six]), zero])

    x = add(
        "conv1_bn/batchnorm_1/mul_1",
        "Conv2D",
        ["input_1", weight("conv1/convolution/merged_input", 3, 3, 3, 32, scale=0.01)],
        2,
    )
    x = clipped("conv1_relu", add("c1", "Add", [x, weight("conv1_bn/batchnorm_1/sub", 32)]))
    channels = 32
    for i, (width, stride) in enumerate(mobilenet.BLOCKS, start=1):
        x = add(
            f"dw{i}",
            "DepthwiseConv2dNative",
            [x, weight(f"conv_dw_{i}/depthwise_kernel", 3, 3, channels, 1, scale=0.4)],
            stride,
        )
        x = add(f"dm{i}", "Mul", [x, weight(f"conv_dw_{i}_bn/batchnorm_1/mul", channels)])
        x = clipped(f"dr{i}", add(f"da{i}", "Add", [x, weight(f"conv_dw_{i}_bn/batchnorm_1/sub", channels)]))
        x = add(
            f"pw{i}",
            "Conv2D",
            [x, weight(f"conv_pw_{i}/convolution/merged_input", 1, 1, channels, width, scale=channels**-0.5)],
            1,
        )
        x = clipped(f"pr{i}", add(f"pa{i}", "Add", [x, weight(f"conv_pw_{i}_bn/batchnorm_1/sub", width)]))
        channels = width
    add("pooled", "Mean", [x, "axes"])
    for name, shape in (("feats", (1024, 256)), ("age_pred", (256, 100)), ("gender_pred", (256, 1))):
        weight(f"{name}/kernel", *shape, scale=0.05)
        weight(f"{name}/bias", shape[1])
    entries = [
        {"name": name, "shape": list(value.shape), "dtype": "float32", "quantization": {"dtype": "float16"}}
        for name, value in tensors.items()
    ]
    place = tmp_path_factory.mktemp("published")
    (place / "weights.bin").write_bytes(b"".join(value.tobytes() for value in tensors.values()))
    manifest = {"modelTopology": {"node": nodes}, "weightsManifest": [{"paths": ["weights.bin"], "weights": entries}]}
    (place / "model.json").write_text(json.dumps(manifest))
    return place / "model.json"


@pytest.fixture(scope="module")
def folded(published: Path) -> mobilenet.FaceNetwork:
    face_network = mobilenet.FaceNetwork(8)
    mobilenet.load_faceres(face_network, mobilenet.read_tensorflowjs(published))
    return face_network.eval()


@pytest.fixture(scope="module")
def detector() -> Detector:
    found = models.load(models.DEFAULTS["detector"], "detector", 2)
    return Detector(found.session, {**found.card, "threshold": 0.5}, 6)


def test_folded_weights_equal_the_published_graph(folded: mobilenet.FaceNetwork, published: Path) -> None:
    assert mobilenet.reference_difference(folded, published) < 1e-4


def test_a_weight_that_is_read_wrongly_shows(folded: mobilenet.FaceNetwork, published: Path) -> None:
    other = mobilenet.FaceNetwork(8)
    other.load_state_dict(folded.state_dict())
    with torch.no_grad():
        other.backbone.depthwise[3].weight.add_(0.5)
    assert mobilenet.reference_difference(other, published) > 1e-4


@pytest.mark.parametrize(("change", "said"), [(b"", "end before"), (b"surplus", "too many")])
def test_weight_files_of_another_length_are_refused(change: bytes, said: str, published: Path, tmp_path: Path) -> None:
    data = (published.parent / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(data + change if change else data[:-10])
    (tmp_path / "model.json").write_bytes(published.read_bytes())
    with pytest.raises(ValueError, match=said):
        mobilenet.read_tensorflowjs(tmp_path / "model.json")


def test_the_exported_file_equals_torch_and_carries_its_card(folded: mobilenet.FaceNetwork, tmp_path: Path) -> None:
    sha256 = network.export(folded, network.CARD, tmp_path / "toy.onnx")
    loaded = models.load(str(tmp_path / "toy.onnx"), "network")
    assert loaded.identity.sha256 == sha256 == hashlib.sha256((tmp_path / "toy.onnx").read_bytes()).hexdigest()
    assert loaded.card == json.loads(json.dumps(network.CARD))
    assert json.loads((tmp_path / "manifest.json").read_text())["models"]["mobilenetv1"]["sha256"] == sha256
    crops = np.random.default_rng(0).integers(0, 255, (3, 224, 224, 3), np.uint8)
    scores = FaceNetwork(loaded.session, loaded.card)(crops)
    pixels = crops[..., ::-1].astype(np.float32) - np.array(network.CARD["input"]["mean"], np.float32)
    with torch.no_grad():
        embedding, expression, _, gender = folded(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))
    np.testing.assert_allclose(scores.embedding, embedding, atol=1e-4)
    np.testing.assert_allclose(scores.expression, expression, atol=1e-4)
    np.testing.assert_allclose(scores.gender, gender, atol=1e-4)
    with pytest.raises(ModelIncompatible, match="a classifier is needed"):
        models.load(str(tmp_path / "toy.onnx"), "classifier")


def test_the_same_weights_give_the_same_file(folded: mobilenet.FaceNetwork, tmp_path: Path) -> None:
    first = network.export(folded, network.CARD, tmp_path / "a.onnx")
    assert network.export(folded, network.CARD, tmp_path / "b.onnx") == first


def test_a_head_is_fitted_and_the_adjustment_favours_rare_classes() -> None:
    chance = np.random.default_rng(0)
    labels = (chance.random(600) < 0.08).astype(int)
    embedding = (chance.normal(0, 1, (600, 5)) + labels[:, None] * 1.0).astype(np.float32)
    votes = np.eye(2, dtype=np.float32)[labels]

    def recall(adjustment: float) -> float:
        weight, bias = network.fit_head(embedding, votes, 1e-4, adjustment)
        return float((embedding @ weight.T + bias).argmax(axis=1)[labels == 1].mean())

    assert recall(1.0) > recall(0.0) > 0.3


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FER+ of nine pictures: the astronaut, a stray vote, an unknown, and a picture that is in two splits."""
    place = tmp_path_factory.mktemp("ferplus")
    rows = [
        ("Training", "fer0000000.png", {"happiness": 9, "neutral": 1}),
        ("Training", "fer0000001.png", {"sadness": 5, "neutral": 5}),
        ("Training", "fer0000002.png", {"unknown": 8, "fear": 2}),
        ("Training", "fer0000003.png", {"anger": 10}),
        ("PublicTest", "fer0000004.png", {"disgust": 6, "contempt": 4}),
        ("PrivateTest", "fer0000005.png", {"surprise": 10}),
    ]
    with (place / "fer2013new.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["Usage", "Image name", *ferplus.COLUMNS], restval=0)
        writer.writeheader()
        for i, (usage, name, votes) in enumerate(rows):
            writer.writerow({"Usage": usage, "Image name": name, **votes})
            folder = place / "data" / ferplus.SPLITS[usage]
            folder.mkdir(parents=True, exist_ok=True)
            shift = 4 if name == "fer0000003.png" else i  # the pixels of number 3 are those of number 4
            picture = cv2.resize(
                clips.portrait(160, 160, 1.2, 222, 118 + shift), (48, 48), interpolation=cv2.INTER_AREA
            )
            grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
            cv2.imwrite(str(folder / name), grey)
    return place


def test_votes_are_cleaned_as_published(miniature: Path) -> None:
    votes = ferplus.read_votes(miniature)
    assert list(votes["Training"]) == ["fer0000000.png", "fer0000001.png", "fer0000003.png"]
    first = dict(zip(ferplus.CLASSES, votes["Training"]["fer0000000.png"], strict=True))
    assert first["happiness"] == 1.0
    assert votes["PublicTest"]["fer0000004.png"].sum() == pytest.approx(1)


def test_training_pictures_that_are_in_another_split_are_left_out(miniature: Path, detector: Detector) -> None:
    train = ferplus.read_split(miniature, "Training", detector)
    assert len(train.images) == 2
    assert train.found.all()
    assert train.majority.tolist() == [True, False]
    assert ferplus.CLASSES[train.labels[0]] == "happiness"
    assert len(ferplus.read_split(miniature, "PublicTest", detector).images) == 1
    assert simulated.choose(train, 5, 3, np.random.default_rng(0)).tolist() == [0, 0, 0]


def test_missing_and_damaged_pictures_are_named(miniature: Path, detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "fer2013new.csv").write_bytes((miniature / "fer2013new.csv").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"5 pictures are missing.*fer0000000\.png"):
        ferplus.read_split(tmp_path, "Training", detector)
    for folder in ferplus.SPLITS.values():
        (tmp_path / "data" / folder).mkdir(parents=True)
        for picture in (miniature / "data" / folder).iterdir():
            (tmp_path / "data" / folder / picture.name).write_bytes(picture.read_bytes())
    (tmp_path / "data" / "FER2013Train" / "fer0000001.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"fer0000001\.png is damaged"):
        ferplus.read_split(tmp_path, "Training", detector)


def test_a_simulated_clip_moves_smoothly_and_keeps_the_face_in_the_crop() -> None:
    image = cv2.resize(clips.portrait(160, 160, 1.2, 222, 118), (48, 48), interpolation=cv2.INTER_AREA)
    views = [crop(*view, 48) for view in degrade.clip(image, FACE, 24, np.random.default_rng(5))]
    steps = [np.abs(a.astype(int) - b).mean() for a, b in itertools.pairwise(views)]
    assert max(steps) < 12
    assert np.abs(views[0].astype(int) - views[12]).mean() > 2
    again = [crop(*view, 48) for view in degrade.clip(image, FACE, 24, np.random.default_rng(5))]
    np.testing.assert_array_equal(views, again)


def test_the_detector_that_errs_is_followed_by_the_landmarks() -> None:
    still = dict.fromkeys(("x", "y", "scale", "roll"), 0.0)
    moved = degrade._moved(FACE, still | {"x": 0.1}, 2.0)
    assert moved.box == pytest.approx((16, 12, 96, 92))
    turned = degrade._moved(FACE, still | {"roll": 10.0}, 1.0)
    eyes = turned.landmarks[1] - turned.landmarks[0]
    assert np.rad2deg(np.arctan2(eyes[1], eyes[0])) == pytest.approx(10)


def test_an_onset_starts_near_neutral_and_ends_at_the_expression() -> None:
    classes = len(ferplus.CLASSES)
    means = np.arange(classes * 4, dtype=np.float32).reshape(classes, 4)
    weight = np.random.default_rng(0).normal(0, 0.1, (classes, 4)).astype(np.float32)
    from fervid.records import FaceScores

    embedding = np.tile(means[4], (24, 1))
    flat = np.full((24, classes), 1 / classes, np.float32)
    scores = FaceScores(embedding, flat, np.zeros(24, np.float32), np.zeros(24, np.float32))
    shown = simulated.Onset(means, weight)(scores, 4, np.random.default_rng(1))
    neutral = means[ferplus.CLASSES.index("neutral")]
    distance = np.linalg.norm(shown.embedding - neutral, axis=1)
    assert distance[0] < distance[-1]
    np.testing.assert_allclose(shown.embedding[-1], means[4], atol=0.05)
    np.testing.assert_allclose(shown.expression.sum(axis=1), 1, atol=1e-5)


def test_recall_and_intervals_on_hand_made_answers() -> None:
    labels = np.array([0, 0, 1, 1, 1, 1])
    answers = np.array([0, 1, 1, 1, 1, 0])
    np.testing.assert_allclose(recall(answers, labels), [0.5, 0.75])
    report = simulated.figures(answers, simulated.SimulatedClips([], labels, np.arange(6)))
    assert report["accuracy"]["value"] == pytest.approx(0.6667, abs=1e-4)
    low, high = report["uar"]["interval"]
    assert low < report["uar"]["value"] < high


def test_the_classifier_that_is_exported_answers_as_scikit_learn() -> None:
    chance = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 30)
    x = (np.eye(3)[labels] + chance.normal(0, 0.2, (90, 3))).astype(np.float32)
    data = simulated.SimulatedClips([], labels, np.arange(90))
    pipeline = simulated.calibrated(1.0, simulated.folds(data)).fit(x, labels)
    model = simulated._to_onnx(pipeline, 3)
    import onnxruntime

    (answers,) = onnxruntime.InferenceSession(model.SerializeToString()).run(["probabilities"], {"features": x})
    np.testing.assert_allclose(answers, pipeline.predict_proba(x), atol=1e-5)


def test_utkface_splits_by_the_hash_of_the_name_and_skips_copies(tmp_path: Path) -> None:
    names = [f"{age}_{age % 2}_{age % 5}_2017{age:04}.jpg.chip.jpg" for age in range(1, 60)]
    for name in [*names, "61_1_20170109.jpg.chip.jpg"]:
        (tmp_path / name).write_bytes(name.encode())
    splits = [utkface.read_split(tmp_path, split) for split in (0, 1, 2)]
    assert sum(map(len, splits)) == 59
    assert all(hashlib.sha256(p.path.name.encode()).digest()[0] % 10 == 0 for p in splits[0])
    copy = splits[0][0]
    (tmp_path / f"99_{copy.path.name.split('_', 1)[1]}").write_bytes(copy.path.read_bytes())
    assert sum(len(utkface.read_split(tmp_path, split)) for split in (0, 1, 2)) == 59
    assert (copy.gender, copy.race) == (copy.age % 2, copy.age % 5)


def test_anchors_lie_in_the_order_of_the_outputs() -> None:
    centres = blazeface.anchors()
    assert centres.shape == (896, 2)
    assert centres[0].tolist() == centres[1].tolist() == [8, 8]
    assert centres[2].tolist() == [24, 8]
    assert centres[512].tolist() == centres[517].tolist() == [16, 16]
    assert centres[-1].tolist() == [240, 240]
