"""Untrusted ONNX files: those that need too much memory, loop or refer to other files are refused before they run."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import toy_models
from fervid.cli import app
from fervid.core.errors import ModelIncompatible, ModelNotFound
from fervid.models import onnx_validation, registry
from fervid.models.card import ModelKind

N = 2**40


def node(operator: str, inputs: Sequence[str], output: str = "big", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, list(inputs), [output], **attributes)


def with_nodes(nodes: Sequence[onnx.NodeProto], **constants: Any) -> onnx.ModelProto:
    """A toy classifier with more nodes, the last of which is added to the output so that none is optimised away."""
    model = onnx.load_from_string(CLASSIFIER)
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    model.graph.node.append(helper.make_node("ReduceMax", [nodes[-1].output[0]], ["most"], keepdims=0))
    model.graph.node.append(helper.make_node("Identity", ["most"], ["extra"]))
    model.graph.output.append(helper.make_tensor_value_info("extra", TensorProto.FLOAT, None))
    return model


@pytest.fixture(scope="module", autouse=True)
def classifier(tmp_path_factory: pytest.TempPathFactory) -> None:
    global CLASSIFIER
    CLASSIFIER = toy_models.classifier(tmp_path_factory.mktemp("toys") / "toy.onnx", np.eye(3).tolist()).read_bytes()


CLASSIFIER = b""
ONE = np.float32([1])
ROW = np.zeros((1, 30_000), np.float32)


def doubled(times: int) -> onnx.ModelProto:
    names = ["one", *(f"twice{i}" for i in range(times))]
    return with_nodes([node("Concat", [a, a], b, axis=0) for a, b in pairwise(names)], one=ONE)


def many() -> onnx.ModelProto:
    nodes = [node("Expand", ["one", f"s{i}"], f"v{i}") for i in range(40)]
    return with_nodes(nodes, one=ONE, **{f"s{i}": np.array([2**24]) for i in range(40)})


def lying() -> onnx.ModelProto:
    model = with_nodes([node("ConstantOfShape", ["shape"])], shape=np.array([N]))
    model.graph.value_info.append(helper.make_tensor_value_info("big", TensorProto.FLOAT, [1]))
    return model


def at_run_time() -> onnx.ModelProto:
    nodes = [
        node("Shape", ["features"], "shape"),
        node("Mul", ["shape", "times"], "sides"),
        node("ConstantOfShape", ["sides"]),
    ]
    return with_nodes(nodes, times=np.array([2**30, 2**10]))


BOMBS: dict[str, Callable[[], onnx.ModelProto]] = {
    "ConstantOfShape": lambda: with_nodes([node("ConstantOfShape", ["shape"])], shape=np.array([N])),
    "many sides": lambda: with_nodes([node("ConstantOfShape", ["shape"])], shape=np.array([2**10] * 4)),
    "Expand": lambda: with_nodes([node("Expand", ["one", "shape"])], one=ONE, shape=np.array([N])),
    "Tile": lambda: with_nodes([node("Tile", ["one", "shape"])], one=ONE, shape=np.array([N])),
    "Range": lambda: with_nodes([node("Range", ["a", "b", "c"])], a=np.array(0), b=np.array(N), c=np.array(1)),
    "Pad": lambda: with_nodes([node("Pad", ["one", "pads"])], one=ONE, pads=np.array([0, N])),
    "Resize": lambda: with_nodes([node("Resize", ["one", "", "scales"])], one=ONE, scales=np.float32([N])),
    "EyeLike": lambda: with_nodes([node("EyeLike", ["line"])], line=np.zeros((2**14, 2**15, 0), np.float32)),
    "OneHot": lambda: with_nodes(
        [node("OneHot", ["at", "depth", "values"])], at=np.array([0]), depth=np.array(N), values=np.float32([0, 1])
    ),
    "RandomNormal": lambda: with_nodes([node("RandomNormal", [], shape=[N])]),
    "Concat": lambda: doubled(40),
    "broadcast": lambda: with_nodes([node("Add", ["row", "column"])], row=ROW, column=ROW.T),
    "outer": lambda: with_nodes([node("MatMul", ["column", "row"])], row=ROW, column=ROW.T),
    "computed": lambda: with_nodes(
        [node("Pow", ["side", "four"], "shape"), node("ConstantOfShape", ["shape"])],
        side=np.array([2**10]),
        four=np.array([4]),
    ),
    "of an input": lambda: with_nodes([node("Expand", ["features", "shape"])], shape=np.array([2**20, 2**10, 3])),
    "together": many,
    "lying": lying,
    "at run time": at_run_time,
}  # fmt: skip


@contextmanager
def little_memory() -> Iterator[None]:
    """Limit the memory, so that a model that needs too much fails instead of swapping."""
    resource = pytest.importorskip("resource")
    used = psutil.Process().memory_info().vms
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**31, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def refused(tmp_path: Path, model: onnx.ModelProto | bytes, words: str) -> None:
    path = tmp_path / "mine.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    with little_memory(), pytest.raises(ModelIncompatible, match=words) as caught:
        registry.load_model(str(path), "classifier")
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("bomb", BOMBS)
def test_huge_model_is_refused(tmp_path: Path, bomb: str) -> None:
    model = BOMBS[bomb]()
    assert len(model.SerializeToString()) < 300_000
    refused(tmp_path, model, r"(makes .* of [\d,]+ elements|cannot be inferred|its constants have [\d,]+ elements)")


def test_tensor_within_limits_is_accepted(tmp_path: Path) -> None:
    model = with_nodes([node("Expand", ["one", "shape"])], one=ONE, shape=np.array([2**16]))
    path = tmp_path / "mine.onnx"
    path.write_bytes(model.SerializeToString())
    assert registry.load_model(str(path), "classifier").card["name"] == "toy-classifier"


@pytest.mark.parametrize("dims", [[N], [2**20, 2**20], [2**62, 4], [-1], [-1, -1]], ids=str)
@pytest.mark.parametrize("where", ["initializer", "constant", "constants"])
def test_tensors_larger_than_file_are_refused(tmp_path: Path, dims: list[int], where: str) -> None:
    tensor = TensorProto(name="huge", dims=dims, data_type=TensorProto.FLOAT, raw_data=b"1234")
    model = with_nodes([node("Identity", ["huge"])])
    if where == "initializer":
        model.graph.initializer.append(tensor)
    else:
        model.graph.node.insert(0, node("Constant", [], "huge"))
        key, kind = ("t", AttributeProto.TENSOR) if where == "constant" else ("tensors", AttributeProto.TENSORS)
        value = tensor if where == "constant" else [tensor]
        model.graph.node[0].attribute.append(AttributeProto(name="value", type=kind, **{key: value}))
    refused(tmp_path, model, r"(elements is not in the file|cannot have the shape \[-1)")


def loop() -> onnx.ModelProto:
    body = helper.make_graph(
        [node("Identity", ["on"], "again"), node("Identity", ["x"], "y")],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [1]),
        ],
    )
    return with_nodes([node("Loop", ["", "yes", "one"], body=body)], yes=np.array(True), one=ONE)


def branch() -> onnx.ModelProto:
    side = helper.make_graph([node("Identity", ["one"], "z")], "s", [], [helper.make_tensor_value_info("z", 1, [1])])
    return with_nodes([node("If", ["yes"], then_branch=side, else_branch=side)], yes=np.array(True), one=ONE)


def laughs() -> onnx.ModelProto:
    """Functions each of which calls the previous one twice."""
    model = with_nodes([node("f30", ["one"], domain="laughs")], one=ONE)
    opset = helper.make_opsetid("", 17), helper.make_opsetid("laughs", 1)
    for i in range(31):
        call = {"domain": "laughs"} if i else {}
        nodes = [node(f"f{i - 1}" if i else "Neg", [a], b, **call) for a, b in (("x", "y"), ("y", "z"))]
        model.functions.append(helper.make_function("laughs", f"f{i}", ["x"], ["z"], nodes, opset))
    model.opset_import.append(opset[1])
    return model


def training() -> onnx.ModelProto:
    model = onnx.load_from_string(CLASSIFIER)
    model.training_info.add()
    return model


def sparse(where: str) -> onnx.ModelProto:
    values = numpy_helper.from_array(ONE, "sparse")
    tensor = helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([3])), [N])
    if where == "attribute":
        return with_nodes([node("Constant", [], sparse_value=tensor)])
    model = with_nodes([node("Identity", ["sparse"])])
    model.graph.sparse_initializer.append(tensor)
    return model


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (loop, "its operator Loop can run forever"),
        (branch, "its operator If can run forever"),
        (laughs, "it defines functions"),
        (training, "it contains training information"),
        (lambda: sparse("initializer"), "it has sparse tensors"),
        (lambda: sparse("attribute"), "it has sparse tensors"),
        (lambda: with_nodes([node("Run", ["features"], domain="com.evil")]), r"com\.evil\.Run is not an ONNX operator"),
        (lambda: with_nodes([node("PyOp", ["features"], domain="ai.onnx.contrib")]), "is not an ONNX operator"),
        (lambda: with_nodes([node("ATen", ["features"], domain="org.pytorch.aten")]), "is not an ONNX operator"),
        (lambda: with_nodes([node("NoSuch", ["features"])]), "NoSuch"),
    ],
)
def test_unneeded_onnx_features_are_refused(tmp_path: Path, make: Callable[[], onnx.ModelProto], words: str) -> None:
    refused(tmp_path, make(), words)


@pytest.mark.parametrize(
    "location", ["canary.bin", "../canary.bin", "../inside/canary.bin", "/{}/canary.bin", "link.bin", "/etc/passwd", ""]
)
@pytest.mark.parametrize("where", ["initializer", "constant"])
def test_external_tensors_are_refused(tmp_path: Path, location: str, where: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    for place in (tmp_path, inside):
        (place / "canary.bin").write_bytes(ONE.tobytes())
    (inside / "link.bin").symlink_to(tmp_path / "canary.bin")
    tensor = TensorProto(name="far", dims=[1], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location.format(tmp_path))
    if where == "constant":
        model = with_nodes([node("Constant", [], value=tensor)])
    else:
        model = with_nodes([node("Identity", ["far"])])
        model.graph.initializer.append(tensor)
    refused(inside, model, "External data: its tensor 'far' is in another file")


def test_shipped_models_are_valid() -> None:
    for entry in registry.manifest().values():
        onnx_validation.validate_onnx((registry.models_dir() / entry["file"]).read_bytes())


def test_too_large_files_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.onnx"
    with path.open("wb") as file:
        file.truncate(2**40)
    begun = time.monotonic()
    with pytest.raises(
        ModelIncompatible, match="has 1,099,511,627,776 bytes, but a model may have at most 536,870,912"
    ):
        registry.load_model(str(path), "face_model")
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_pipes_devices_and_folders_are_not_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mine.onnx"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(ModelNotFound, match="cannot be read"):
        registry.load_model(str(path), "face_model")


@pytest.mark.parametrize("size", [0, 2049, "64"])
@pytest.mark.parametrize("kind", ["detector", "face_model"])
def test_invalid_input_sizes_are_refused(tmp_path: Path, kind: ModelKind, size: object) -> None:
    make, spec = {
        "detector": (toy_models.detector, toy_models.DETECTOR),
        "face_model": (toy_models.face_model, toy_models.FACE_MODEL),
    }[kind]
    path = make(tmp_path / "mine.onnx", input={**spec["input"], "size": size})
    with pytest.raises(ModelIncompatible, match=r"must have an input\.size of 1 to 2048 pixels"):
        registry.load_model(str(path), kind)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"smallest_face": 0}, "smallest_face of 0.005 to 0.25"),
        ({"input": {"size": 64, "multiple": 0}}, "input.multiple of 1 to 64 pixels"),
    ],
)
def test_limits_of_detector_cards_are_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelIncompatible, match=re.escape(words)):
        registry.load_model(str(toy_models.detector(tmp_path / "mine.onnx", **change)), "detector")


@pytest.mark.parametrize("make", [BOMBS["ConstantOfShape"], loop])
def test_command_prints_reason_and_exits_with_4(
    tmp_path: Path, smile: Path, make: Callable[[], onnx.ModelProto]
) -> None:
    path = tmp_path / "mine.onnx"
    path.write_bytes(make().SerializeToString())
    result = CliRunner().invoke(app.app, ["classify", str(smile), "--classifier", str(path)])
    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr.startswith(f"fervid: {path} is no ONNX model that can be run (its ")
    assert result.stderr.count("\n") == 1
