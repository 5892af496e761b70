"""Test evaluation on known predictions, and through detector, crop and network."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

import mini_datasets
from fervid.analysis.align import align_face
from fervid.core.records import FaceOutputs
from fervid.learn.figures import Figure
from fervid.models import registry
from fervid.models.card import OPTIONAL_OUTPUTS
from fervid.training import evaluate, export, lfw
from fervid.training.dataset_paths import DatasetPaths
from fervid.training.ferplus import CLASSES, FerPlus
from fervid.training.network import FER2013_CLASSES
from fervid.training.utkface import Portrait

SIZE = 16
WHOLE = {"value": 1.0, "interval": [1.0, 1.0]}


def test_metrics_on_votes() -> None:
    votes = np.float32([[0.6, 0.4], [1.0, 0.0], [0.5, 0.5], [0.1, 0.9], [0.2, 0.8], [0.4, 0.6]])
    votes = np.pad(votes, [(0, 0), (4, 2)])  # happiness and neutral
    found = np.array([True, True, False, True, True, True])
    split = FerPlus(np.zeros((6, 48, 48, 3), np.uint8), [], votes, found, tuple("abcdef"))
    figures = evaluate.score_ferplus(np.eye(8, dtype=np.float32)[[4, 4, 5, 5, 5, 0]], split)
    assert figures["accuracy_all"]["value"] == pytest.approx(4 / 6, abs=1e-4)
    assert figures["accuracy_majority"]["value"] == pytest.approx(4 / 5, abs=1e-4)
    assert figures["mean_recall"]["value"] == pytest.approx(2 / 3, abs=1e-4)
    assert figures["recall"] == {"happiness": 0.6667, "neutral": 0.6667}
    assert (figures["images"], figures["faces_found"]) == (6, 0.8333)
    low, high = figures["accuracy_all"]["interval"]
    assert 0 < low < 4 / 6 < high <= 1


def test_metrics_on_first_labels() -> None:
    first = np.array([CLASSES.index(name) for name in ("anger", "disgust", "disgust", "surprise", "sadness")] + [-1])
    answers = [FER2013_CLASSES.index(name) for name in ("anger", "disgust", "fear", "surprise", "sadness", "fear")]
    figures = evaluate.score_fer2013(np.eye(7, dtype=np.float32)[answers], first)
    assert figures["accuracy"]["value"] == 0.8
    assert figures["mean_recall"]["value"] == pytest.approx(3.5 / 4)
    assert figures["recall"] == {"anger": 1.0, "disgust": 0.5, "sadness": 1.0, "surprise": 1.0}
    assert figures["images"] == 5


def test_metrics_on_portraits() -> None:
    portraits = [Portrait(Path(), *labels) for labels in ((20, 0, 0), (40, 1, 2), (60, 1, 4), (80, 0, 1))]
    nothing = np.zeros((4, 1), np.float32)
    ethnicity = np.eye(5, dtype=np.float32)[[0, 2, 3, 1]]
    scores = FaceOutputs(
        nothing, nothing, np.float32([21, 40, 55, 82]), np.float32([0.6, 0.59, 0.9, 0.7]), ethnicity, nothing
    )
    figures = evaluate.score_utkface(scores, portraits, 0.6)
    assert [figures[name]["value"] for name in ("age_mae", "gender_accuracy", "ethnicity_accuracy")] == [2, 0.75, 0.75]
    assert figures["images"] == 4
    assert evaluate.score_utkface(scores, portraits, 0.65)["gender_accuracy"]["value"] == 0.5


def test_metrics_on_pairs() -> None:
    names = ["a", "b", "c", "d"]
    embedding = np.float32([[1, 0], [5, 1], [0, 2], [0.1, 1]])
    pairs = [lfw.Pair(*named, same, fold) for fold in (0, 1) for named, same in (("ab", True), ("ac", False))]
    pairs += [lfw.Pair("c", "d", True, 0), lfw.Pair("b", "d", False, 1)]
    assert evaluate.score_lfw(embedding, names, pairs) == {"accuracy": WHOLE, "pairs": 6}
    pairs[-1] = lfw.Pair("b", "d", True, 1)  # dissimilar, so the threshold of fold 0 is too high for it
    assert evaluate.score_lfw(embedding, names, pairs)["accuracy"]["value"] == pytest.approx(5 / 6, abs=1e-4)


@pytest.fixture(scope="module")
def tests(sources: DatasetPaths) -> evaluate.Tests:
    return evaluate.Tests.read(sources, SIZE)


def test_test_splits_are_cropped_like_inference(tests: evaluate.Tests, sources: DatasetPaths) -> None:
    assert tests.ferplus.names == tuple(f"fer00000{i}.png" for i in (12, 13, 14))
    assert tests.first.tolist() == [7, -1, 4]
    assert sorted((p.age, p.gender, p.race) for p in tests.portraits) == [(8, 0, 0), (44, 1, 2), (81, 1, 4)]
    assert tests.names == ["Ann_Lee_0001.jpg", "Ann_Lee_0003.jpg", "Bo_0001.jpg", "Bo_0002.jpg"]
    assert {name: len(cut) for name, cut in tests.crops.items()} == {"ferplus": 3, "utkface": 3, "lfw": 4}
    assert tests.found == {"utkface": 1.0, "lfw": 0.75}
    expected = align_face(tests.ferplus.images[1], tests.ferplus.faces[1], SIZE)
    np.testing.assert_array_equal(tests.crops["ferplus"][1], expected)
    picture = cv2.imread(str(sources.lfw / "data" / "Bo" / "Bo_0002.jpg"), cv2.IMREAD_COLOR_RGB)
    usual = align_face(picture, lfw._default_face(picture), SIZE)
    np.testing.assert_array_equal(tests.crops["lfw"][3], usual)


def test_missing_image_of_pair_is_named(sources: DatasetPaths, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"2 pictures are missing below .*, the first: A_0001\.jpg, B_0001\.jpg$"
    ):
        lfw.crop_images(tmp_path, ["A_0001.jpg", "B_0001.jpg"], SIZE, 0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network, path = mini_datasets.network(), tmp_path_factory.mktemp("measured") / "any.onnx"
    about = {**export.CARD, **export.card("any", network, SIZE)}
    export.save(network, about, path, np.zeros((9, SIZE, SIZE, 3), np.uint8))
    return path


IDENTITY, EMBEDDING = (("LFW", f"10-fold verification by {output}") for output in ("identity", "embedding"))
EXPRESSIONS = (
    ("RAF-DB", "original images"),
    ("SFEW", "original images"),
    ("RAF-DB", "grey"),
    ("RAF-DB", "48 pixels"),
    ("RAF-DB", "cropped at the box"),
    ("Java-SED", "mean over a clip"),
)


def by_set(figures: list[Figure]) -> dict[tuple[str, str], dict[str, float]]:
    """The values by metric, by data set and protocol."""
    values: dict[tuple[str, str], dict[str, float]] = {}
    for figure in figures:
        values.setdefault((figure.dataset, figure.protocol), {})[figure.metric] = figure.value
    return values


def test_network_is_measured_on_every_test_set(tests: evaluate.Tests, model: Path) -> None:
    figures = by_set(tests.measure(registry.load_model(str(model), "face_model")))
    counts = {name: found.get("images", found.get("pairs")) for name, found in figures.items()}
    assert counts == {
        ("FER+", "majority of the votes"): 3,
        ("UTKFace", "single images"): 3,
        IDENTITY: 4,
        EMBEDDING: 4,
        ("FER2013", "labels of FER2013"): 2,
        **dict(zip(EXPRESSIONS, (4, 7, 4, 4, 4, 3), strict=True)),
    }
    assert all(figures[name]["style_gap"] == pytest.approx(0, abs=1) for name in EXPRESSIONS[2:5])
    assert [figures[name]["faces_found"] for name in list(figures)[:3]] == [1.0, 1.0, 0.75]
    again = by_set(tests.measure(registry.load_model(str(model), "face_model")))
    assert again == figures


def test_network_without_first_labels(tests: evaluate.Tests, model: Path, tmp_path: Path) -> None:
    plain = onnx.load(model)
    plain.graph.output.remove(next(output for output in plain.graph.output if output.name == evaluate.FIRST))
    onnx.save(plain, tmp_path / "plain.onnx")
    figures = by_set(tests.measure(registry.load_model(str(tmp_path / "plain.onnx"), "face_model")))
    known = [("FER+", "majority of the votes"), ("UTKFace", "single images"), IDENTITY, EMBEDDING]
    assert list(figures) == [*known, *EXPRESSIONS]


def test_network_of_expressions_only(tests: evaluate.Tests, model: Path, tmp_path: Path) -> None:
    plain = onnx.load(model)
    (entry,) = plain.metadata_props
    about = json.loads(entry.value)
    for key in set().union(*OPTIONAL_OUTPUTS.values()):
        del about[key]
    entry.value = json.dumps(about)
    kept = [output for output in plain.graph.output if output.name in ("embedding", "expression")]
    del plain.graph.output[:]
    plain.graph.output.extend(kept)
    onnx.save(plain, tmp_path / "plain.onnx")
    figures = by_set(tests.measure(registry.load_model(str(tmp_path / "plain.onnx"), "face_model")))
    assert list(figures) == [("FER+", "majority of the votes"), EMBEDDING, *EXPRESSIONS]
    entry.value = json.dumps({**about, "expressions": about["expressions"][::-1]})
    onnx.save(plain, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="has other expressions than FER"):
        tests.measure(registry.load_model(str(tmp_path / "other.onnx"), "face_model"))
