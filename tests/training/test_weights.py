"""Test reading and folding published weights, building backbones, and converting BlazeFace."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import mini_datasets
from fervid.training import blazeface, mobilenet
from fervid.training.mobilenet import MobileNetV1, NamedTensors
from fervid.training.network import build


@pytest.fixture
def backbone(weights: NamedTensors) -> MobileNetV1:
    layers = MobileNetV1()
    mobilenet.load_faceres(layers, weights)
    return layers.eval()


@pytest.mark.parametrize("size", [33, 64])
def test_weights_equal_published_graph(backbone: MobileNetV1, published: Path, size: int) -> None:
    assert mobilenet.reference_difference(backbone, published, size) < 1e-4


def test_wrong_weight_changes_output(backbone: MobileNetV1, published: Path) -> None:
    with torch.no_grad():
        backbone.depthwise[3].convolution.weight.add_(0.5)
    assert mobilenet.reference_difference(backbone, published) > 1e-4


@pytest.mark.parametrize("change", [b"", b"surplus"])
def test_weight_files_of_wrong_length_are_rejected(change: bytes, published: Path, tmp_path: Path) -> None:
    data = (published.parent / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(data + change if change else data[:-10])
    (tmp_path / "model.json").write_bytes(published.read_bytes())
    with pytest.raises(ValueError, match=r"model\.json.*" + ("extra bytes" if change else "end before")):
        mobilenet.read_tensorflowjs(tmp_path / "model.json")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"weightsManifest": [{"paths": []}]}', '{"weightsManifest": 3}'])
def test_damaged_manifest_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(ValueError, match=r"model\.json is not a manifest of TensorFlow\.js weights"):
        mobilenet.read_tensorflowjs(tmp_path / "model.json")


@pytest.mark.parametrize("change", [{"feats/kernel": None}, {"age_pred/bias": np.zeros(99, np.float32)}])
def test_weights_of_other_network_are_rejected(change: dict[str, np.ndarray | None], weights: NamedTensors) -> None:
    other = {name: value for name, value in {**weights, **change}.items() if value is not None}
    with pytest.raises(ValueError, match="not the published weights of mobilenetv1"):
        build("mobilenetv1", other)


@pytest.mark.parametrize("side", [1, 2, 3, 7, 8, 13, 28])
@pytest.mark.parametrize("groups", [1, 6])
def test_strided_convolution_is_equal_in_training(side: int, groups: int) -> None:
    torch.manual_seed(side)
    layer = mobilenet._SameConv(6, 6, stride=2, groups=groups)
    pictures = torch.randn(2, 6, side, side, requires_grad=True)
    found, slopes = [], []
    for training in (True, False):
        found.append(layer.train(training)(pictures))
        slopes.append(torch.autograd.grad(found[-1].square().sum(), [layer.weight, pictures]))
    assert found[0].shape == (2, 6, -(-side // 2), -(-side // 2))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [32, 45])
def test_normalising_and_folding_keep_outputs(backbone: MobileNetV1, size: int) -> None:
    torch.manual_seed(size)
    pictures = torch.randn(8, 3, size, size) * 50
    with torch.no_grad():
        before = backbone(pictures)
        mobilenet.insert_batch_norm(backbone, pictures)
        torch.testing.assert_close(backbone.eval()(pictures), before, atol=1e-3, rtol=1e-3)
        folded = mobilenet.fold_batch_norm(backbone)
        torch.testing.assert_close(folded(pictures), before, atol=1e-3, rtol=1e-3)
    assert not [module for module in folded.modules() if isinstance(module, torch.nn.BatchNorm2d)]


def test_frozen_batch_norm_keeps_outputs_and_statistics(backbone: MobileNetV1) -> None:
    images = torch.randn(8, 3, 64, 64, generator=torch.manual_seed(0)) * 50
    with torch.no_grad():
        mobilenet.insert_batch_norm(backbone, images)
        expected = backbone.eval()(images)
    mobilenet.freeze_normalisation(backbone)
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    outputs = backbone.train()(images)
    torch.testing.assert_close(outputs, expected, atol=1e-3, rtol=1e-3)
    outputs.sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in backbone.named_buffers())
    assert all(layer.norm.weight.grad is not None for layer in backbone.layers())
    folded = mobilenet.fold_batch_norm(backbone)
    torch.testing.assert_close(folded(images), expected, atol=1e-3, rtol=1e-3)


def test_frozen_blocks_are_not_trained(backbone: MobileNetV1) -> None:
    images = torch.randn(4, 3, 64, 64, generator=torch.manual_seed(0)) * 50
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    mobilenet.freeze_blocks(backbone, 4)
    backbone.train()(images).sum().backward()
    trained = {name for name, parameter in backbone.named_parameters() if parameter.grad is not None}
    blocks = {name.rpartition(".convolution")[0] for name in trained if ".convolution" in name}
    assert blocks == {f"{kind}.{number}" for kind in ("depthwise", "pointwise") for number in range(4, 13)}
    changed = {name for name, value in backbone.named_buffers() if not torch.equal(value, before[name])}
    assert {name.partition(".norm")[0] for name in changed} == blocks


def test_normalised_network_starts_equal(backbone: MobileNetV1) -> None:
    pictures = torch.randn(8, 3, 64, 64, generator=torch.manual_seed(0)) * 50
    with torch.no_grad():
        before = backbone(pictures)
        mobilenet.insert_batch_norm(backbone, pictures)
        assert [float(layer.norm.running_mean.abs().max()) for layer in backbone.layers()] != [0.0] * 27
        torch.testing.assert_close(backbone.train()(pictures), before, atol=0.05, rtol=0.05)


def test_published_heads_are_kept(weights: NamedTensors) -> None:
    network, other = build("mobilenetv1", weights), build("mobilenetv1", weights)
    embedding = np.random.default_rng(0).random((3, network.width), np.float32)
    hidden = np.maximum(embedding @ weights["feats/kernel"] + weights["feats/bias"], 0)
    heads = network.heads(torch.from_numpy(embedding))
    for name in ("age", "gender"):
        expected = hidden @ weights[f"{name}_pred/kernel"] + weights[f"{name}_pred/bias"]
        found = getattr(heads, name).detach().numpy().reshape(expected.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
    fresh = {name for name, value in network.named_parameters() if not torch.equal(value, other.get_parameter(name))}
    assert {name.split(".")[0] for name in fresh} == {"expression", "first", "ethnicity", "identity"}


def test_backbone_is_made_by_timm(timm: None, weights: NamedTensors) -> None:
    network = build("tiny")
    assert network.width == mini_datasets.WIDTH
    assert network(torch.zeros(2, 3, 16, 16)).age.shape == (2, 100)
    with pytest.raises(ValueError, match=r"unknown backbone 'tinny'; use mobilenetv1 or a name from timm"):
        build("tinny")
    with pytest.raises(ValueError, match=r"published weights are for mobilenetv1, not for tiny; omit them"):
        build("tiny", weights)


def test_missing_timm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r'resnet18 needs more packages; pip install "fervid\[training,backbones\]"'):
        build("resnet18")


def test_unquantised_weights_are_read(tmp_path: Path) -> None:
    values = np.float32([[1.5, -2], [3, 4.25]])
    (tmp_path / "a.bin").write_bytes(values.tobytes()[:6])
    (tmp_path / "b.bin").write_bytes(values.tobytes()[6:])
    entry = {"name": "kernel", "shape": [2, 2], "dtype": "float32"}
    (tmp_path / "model.json").write_text(
        json.dumps({"weightsManifest": [{"paths": ["a.bin", "b.bin"], "weights": [entry]}]})
    )
    assert mobilenet.read_tensorflowjs(tmp_path / "model.json")["kernel"].tolist() == values.tolist()


def test_anchors_lie_in_order_of_outputs() -> None:
    centres = blazeface.anchors()
    assert centres.shape == (896, 2)
    assert centres[0].tolist() == centres[1].tolist() == [8, 8]
    assert centres[2].tolist() == [24, 8]
    assert centres[512].tolist() == centres[517].tolist() == [16, 16]
    assert centres[-1].tolist() == [240, 240]


def published_blazeface(rng: np.random.Generator) -> onnx.ModelProto:
    """Make a graph with the kinds of layers and the outputs of the published one."""
    shapes = {
        "stem": (24, 3, 1, 1),
        "depth": (24, 1, 3, 3),
        "point": (24, 24, 1, 1),
        "wider": (48, 24, 1, 1),
        **{f"out_{name}": (channels, 48, 1, 1) for name, channels in (("s0", 2), ("s1", 6), ("b0", 32), ("b1", 96))},
    }
    weights = [numpy_helper.from_array(rng.normal(0, 0.1, shape).astype(np.float32), n) for n, shape in shapes.items()]
    weights += [
        numpy_helper.from_array(rng.normal(size=24).astype(np.float32), "bias"),
        numpy_helper.from_array(np.array([1, 24, 16, 16], np.int64), "nothing"),
        *(numpy_helper.from_array(np.array([1, -1, last], np.int64), f"as_{last}") for last in (1, 16)),
    ]
    nodes = [
        helper.make_node("Transpose", ["image"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["first", "stem"], ["a"], strides=[16, 16]),
        helper.make_node("Conv", ["a", "depth", "bias"], ["b"], group=24, pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["b", "point"], ["c"]),
        helper.make_node("ConstantOfShape", ["nothing"], ["zeros"]),
        helper.make_node("Concat", ["c", "zeros"], ["padded"], axis=1),
        helper.make_node("Conv", ["c", "wider"], ["d"]),
        helper.make_node("Add", ["d", "padded"], ["e"]),
        helper.make_node("MaxPool", ["e"], ["f"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    for name, source, last in (("s0", "e", 1), ("s1", "f", 1), ("b0", "e", 16), ("b1", "f", 16)):
        nodes += [
            helper.make_node("Conv", [source, f"out_{name}"], [f"{name}_channels"]),
            helper.make_node("Transpose", [f"{name}_channels"], [f"{name}_last"], perm=[0, 2, 3, 1]),
            helper.make_node("Reshape", [f"{name}_last", f"as_{last}"], [name]),
        ]
    picture = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 256, 256, 3])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("s0", "s1", "b0", "b1")]
    graph = helper.make_graph(nodes, "published", [picture], outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=7)


def test_converted_detector_equals_published_graph() -> None:
    rng = np.random.default_rng(0)
    source = published_blazeface(rng)
    images = rng.integers(0, 256, (2, 256, 256, 3), np.uint8)
    before = onnxruntime.InferenceSession(source.SerializeToString(), providers=["CPUExecutionProvider"])
    raw = [before.run(None, {"image": image[None] / np.float32(127.5) - 1}) for image in images]
    scores, offsets = (np.concatenate([np.concatenate(one[i : i + 2], 1) for one in raw]) for i in (0, 2))

    converted = blazeface.convert(source)
    after = onnxruntime.InferenceSession(converted.SerializeToString(), providers=["CPUExecutionProvider"])
    boxes, landmarks, found = after.run(["boxes", "landmarks", "scores"], {"images": images})
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-scores[..., 0])), atol=1e-5)
    centre, extent = blazeface.anchors() + offsets[..., :2], offsets[..., 2:4]
    np.testing.assert_allclose(boxes, np.concatenate([centre - extent / 2, centre + extent / 2], -1), atol=1e-3)
    np.testing.assert_allclose(landmarks[:, :, 0], blazeface.anchors() + offsets[..., 4:6], atol=1e-3)
    widths = {t.name: t.dims[0] for t in converted.graph.initializer if len(t.dims) == 4}
    assert {name: width for name, width in widths.items() if not name.startswith("out_") and width % 16} == {}
