"""Test exported files: outputs equal to torch, card, and any batch size."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import mini_datasets
from fervid.analysis.align import MARGIN
from fervid.analysis.face_model import BATCH, FaceModel
from fervid.core.errors import ModelIncompatible
from fervid.models import registry
from fervid.training import export, logit_shift
from fervid.training.ferplus import CLASSES
from fervid.training.network import ETHNICITIES, FER2013_CLASSES, to_tensor

SIZE = 16


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (BATCH * 3, SIZE, SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def fitted(crops: np.ndarray) -> torch.nn.Module:
    """Make a network whose normalisation statistics fit the faces."""
    network = mini_datasets.network().train()
    with torch.no_grad():
        for _ in range(20):
            network(to_tensor(crops))
    return network.eval()


def about(network: torch.nn.Module, name: str, **more: object) -> dict:
    return {**export.CARD, **export.card(name, network, SIZE), **more}


@pytest.fixture(scope="module", autouse=True)
def _one_convolution_in_float() -> Iterator[None]:
    """Keep one of the two convolutions of the small network in float."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "FLOAT_FIRST", 1)
        yield


@pytest.fixture(scope="module")
def files(fitted: torch.nn.Module, crops: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export `small-fp32.onnx` and, from it, `small.onnx` in int8; return their folder."""
    place = tmp_path_factory.mktemp("files")
    sha256 = export.save(fitted, about(fitted, "small-fp32"), place / "small-fp32.onnx", crops)
    described = about(fitted, "small", quantised_from=sha256)
    export.save_quantised(place / "small-fp32.onnx", described, place / "small.onnx", crops)
    return place


def network(path: Path) -> FaceModel:
    loaded = registry.load_model(str(path), "face_model")
    return FaceModel(loaded.session, loaded.card)


@pytest.mark.parametrize("count", [1, 2, BATCH, BATCH + 1, 3 * BATCH])
def test_float_export_equals_torch(count: int, files: Path, fitted: torch.nn.Module, crops: np.ndarray) -> None:
    loaded = registry.load_model(str(files / "small-fp32.onnx"), "face_model")
    pictures = to_tensor(crops[:count])
    given = loaded.session.run(list(export.OUTPUTS), {"crops": pictures.contiguous().numpy()})
    with torch.no_grad():
        heads = fitted(pictures)
    expected = [heads.embedding, *(logits.softmax(1) for logits in (heads.expression, heads.first, heads.age))]
    expected += [heads.gender.sigmoid(), heads.ethnicity.softmax(1), heads.identity]
    for ours, theirs in zip(given, expected, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)
    assert export.max_difference(fitted, files / "small-fp32.onnx", crops) < 1e-5


def test_wrong_export_is_refused(
    files: Path, fitted: torch.nn.Module, crops: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = onnx.load(files / "small-fp32.onnx")
    largest = max(other.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    largest.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(largest), largest.name))
    monkeypatch.setattr(export, "to_onnx", lambda *_: other)
    with pytest.raises(ValueError, match=r"wrong\.onnx differs from torch by"):
        export.save(fitted, about(fitted, "wrong"), tmp_path / "wrong.onnx", crops)


def test_same_weights_give_same_files(files: Path, fitted: torch.nn.Module, crops: np.ndarray, tmp_path: Path) -> None:
    sha256 = export.save(fitted, about(fitted, "small-fp32"), tmp_path / "again-fp32.onnx", crops)
    assert (tmp_path / "again-fp32.onnx").read_bytes() == (files / "small-fp32.onnx").read_bytes()
    described = about(fitted, "small", quantised_from=sha256)
    export.save_quantised(tmp_path / "again-fp32.onnx", described, tmp_path / "again.onnx", crops)
    assert (tmp_path / "again.onnx").read_bytes() == (files / "small.onnx").read_bytes()
    for path in files.glob("*.onnx"):
        assert b"miniature.py" not in path.read_bytes(), "source locations of layers are not stored"


def test_export_writes_card_and_manifest(files: Path, fitted: torch.nn.Module) -> None:
    for name, more in (("small-fp32", {}), ("small", {"quantised_from": None})):
        path = files / f"{name}.onnx"
        loaded = registry.load_model(str(path), "face_model")
        entry = json.loads((files / "manifest.json").read_text())["models"][name]
        assert loaded.identity.sha256 == entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (entry["file"], entry["bytes"]) == (path.name, path.stat().st_size)
        assert {key: value for key, value in entry.items() if key not in ("file", "bytes", "sha256")} == loaded.card
        assert loaded.card.keys() == about(fitted, name, **more).keys()
        with pytest.raises(ModelIncompatible, match="a classifier is needed"):
            registry.load_model(str(path), "classifier")
    whole = registry.load_model(str(files / "small-fp32.onnx"), "face_model")
    assert registry.load_model(str(files / "small.onnx"), "face_model").card["quantised_from"] == whole.identity.sha256


def test_card_has_inference_settings(files: Path) -> None:
    card = registry.load_model(str(files / "small.onnx"), "face_model").card
    assert (card["name"], card["kind"], card["margin"], card["first_age"]) == ("small", "face_model", MARGIN, 1)
    assert (card["input"]["size"], card["input"]["colour"], card["embedding"]) == (SIZE, "BGR", mini_datasets.WIDTH)
    assert card["expressions"] == list(CLASSES)
    assert card["fer2013"] == list(FER2013_CLASSES) == [name for name in CLASSES if name != "contempt"]
    assert card["ethnicities"] == list(ETHNICITIES)
    assert set(card["tracking"]) == {"min_track_similarity", "min_person_similarity"}
    assert set(card["genders"]) == {"male", "female"}


def test_int8_export_is_quantised_per_channel(files: Path) -> None:
    graph = onnx.load(files / "small.onnx").graph
    makers = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 2
    assert convolutions[0].input[0] == graph.input[0].name
    for node in convolutions[1:]:
        picture, weight = (makers[name] for name in node.input[:2])
        assert (picture.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        assert makers[picture.input[0]].op_type == "QuantizeLinear"
        assert constants[picture.input[2]].dtype == np.uint8
        values, scale, _ = (constants[name] for name in weight.input)
        assert (values.dtype, scale.shape) == (np.int8, (len(values),))
        assert {attribute.name: attribute.i for attribute in weight.attribute}["axis"] == 0
        assert len(np.unique(scale)) > 1


def test_int8_export_is_close_to_float(files: Path, crops: np.ndarray) -> None:
    small, whole = network(files / "small.onnx"), network(files / "small-fp32.onnx")
    scores, expected = small(crops), whole(crops)
    assert 0 < np.abs(scores.embedding - expected.embedding).max() < 0.1
    for name in ("expression", "gender", "ethnicity"):
        assert np.abs(getattr(scores, name) - getattr(expected, name)).max() < 0.02
    for path in (files / "small.onnx", files / "small-fp32.onnx"):
        session = registry.load_model(str(path), "face_model").session
        assert [tensor.name for tensor in session.get_outputs()] == list(export.OUTPUTS)
        for tensor in (*session.get_inputs(), *session.get_outputs()):
            assert isinstance(tensor.shape[0], str | None)
    for count in (1, 3, BATCH):
        np.testing.assert_allclose(small(crops[:count]).embedding, scores.embedding[:count], atol=1e-5)


COMMON, RARE = CLASSES.index("happiness"), CLASSES.index("contempt")
PRIOR = np.float32([0.05, 0.05, 0.04, 0.05, 0.7, 0.04, 0.04, 0.03])


@pytest.mark.parametrize(
    ("of_common", "of_rare", "factor"),
    [((2.0, 0.0), (1.0, 0.5), -0.2), ((0.0, 0.5), (0.0, 3.0), 0.2), ((1.0, 0.0), (0.0, 1.0), 0.0)],
    ids=["the rare class lacks", "the common class lacks", "nothing lacks"],
)
def test_logit_shift(of_common: tuple[float, float], of_rare: tuple[float, float], factor: float) -> None:
    labels = np.repeat([COMMON, RARE], [40, 10])
    logits = np.full((50, 8), -9, np.float32)
    logits[:40, [COMMON, RARE]], logits[40:, [COMMON, RARE]] = of_common, of_rare
    network = mini_datasets.network()
    before = network.expression.bias.detach().clone()
    assert logit_shift.calibrate_logit_shift(network.expression, [(logits, labels)], PRIOR) == factor
    moved = (network.expression.bias.detach() - before).numpy()
    np.testing.assert_allclose(moved, factor * np.log(PRIOR), atol=1e-6)
    assert ((logits + moved).argmax(axis=1) == labels).all()
