"""Make files like the published optional models, and a manifest for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fervid.models import registry

SIDE = 640
STRIDES = (8, 16, 32)
WIDTHS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
LANDMARKS = np.array([[0.3, 0.35], [0.7, 0.35], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])  # relative to the box of a face


def yunet(path: Path, faces: Sequence[tuple[float, float, float, float]] = (), noise: float = 0.0) -> Path:
    """Make a detector with the tensors of YuNet that finds the given faces in every image, and those of random weights.

    Args:
        path: The file.
        faces: Boxes x1, y1, x2, y2 in the 640 x 640 input, each in another cell of 32 pixels.
        noise: Weight of the image.
    """
    random = np.random.default_rng(5)
    constants: dict[str, np.ndarray] = {}
    nodes = []
    for stride in STRIDES:
        kernels = random.normal(size=(8, 3, stride, stride)) / (stride * stride * 300)
        constants[f"stem_{stride}"] = kernels.astype(np.float32)
        sides = {"kernel_shape": [stride] * 2, "strides": [stride] * 2}  # OpenCV 4 requires kernel_shape
        nodes.append(helper.make_node("Conv", ["input", f"stem_{stride}"], [f"seen_{stride}"], **sides))
        for part, width in WIDTHS.items():
            name, last = f"{part}_{stride}", part in ("bbox", "kps")
            constants[f"w_{name}"] = (noise * random.normal(size=(width, 8, 1, 1))).astype(np.float32)
            constants[f"at_{name}"] = _placed(part, stride, faces)
            constants[f"shape_{name}"] = np.array([1, -1, width])
            nodes += [
                helper.make_node("Conv", [f"seen_{stride}", f"w_{name}"], [f"a_{name}"], kernel_shape=[1, 1]),
                helper.make_node("Transpose", [f"a_{name}"], [f"b_{name}"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"b_{name}", f"shape_{name}"], [f"c_{name}"]),
                helper.make_node("Add", [f"c_{name}", f"at_{name}"], [name if last else f"d_{name}"]),
                *([] if last else [helper.make_node("Sigmoid", [f"d_{name}"], [name])]),
            ]
    outputs = {f"{part}_{stride}": (SIDE // stride) ** 2 for part in WIDTHS for stride in STRIDES}
    shapes = {name: [1, count, WIDTHS[name.partition("_")[0]]] for name, count in outputs.items()}
    return _save(path, nodes, constants, ("input", [1, 3, SIDE, SIDE]), shapes, opset=11)


def _placed(part: str, stride: int, faces: Sequence[tuple[float, float, float, float]]) -> np.ndarray:
    """Compute offsets of an output that make the coarsest grid detect exactly these faces."""
    cells = SIDE // stride
    table = np.zeros((1, cells * cells, WIDTHS[part]), np.float32)
    if faces and part in ("cls", "obj"):
        table -= 12
    for x1, y1, x2, y2 in faces if stride == STRIDES[-1] else ():
        column, row = int((x1 + x2) / 2 // stride), int((y1 + y2) / 2 // stride)
        sides = np.array([x2 - x1, y2 - y1])
        points = (np.array([x1, y1]) + LANDMARKS * sides) / stride - (column, row)
        centre = np.array([(x1 + x2) / 2, (y1 + y2) / 2]) / stride - (column, row)
        values = {"cls": [4], "obj": [4], "bbox": [*centre, *np.log(sides / stride)], "kps": points.ravel()}
        table[0, row * cells + column] = values[part]
    return table


def hsemotion(path: Path, width: int = 1280, batch: str | int = "batch_size", last: str = "Gemm") -> Path:
    """Make a network of random weights with the tensors of the HSEmotion files: `input`, and eight logits."""
    random = np.random.default_rng(6)
    shapes = {"stem": (6, 3, 16, 16), "wide": (width, 6, 1, 1), "weight": (8, width), "bias": (8,)}
    scales = {"stem": 0.05, "wide": 0.6, "weight": 0.3, "bias": 0.1}
    constants = {name: random.normal(size=shape) * scales[name] for name, shape in shapes.items()}
    if last == "MatMul":
        constants["weight"] = constants["weight"].T
    ends = {
        "Gemm": [helper.make_node("Gemm", ["flat", "weight", "bias"], ["output"], transB=1)],
        "MatMul": [
            helper.make_node("MatMul", ["flat", "weight"], ["product"]),
            helper.make_node("Add", ["bias", "product"], ["output"]),
        ],
        "Relu": [helper.make_node("Relu", ["flat"], ["output"])],
    }
    nodes = [
        helper.make_node("Conv", ["input", "stem"], ["seen"], strides=[16, 16]),
        helper.make_node("Relu", ["seen"], ["embedding"]),  # a name that has another meaning in fervid
        helper.make_node("Conv", ["embedding", "wide"], ["crops"]),
        helper.make_node("GlobalAveragePool", ["crops"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"], axis=1),
        *ends[last],
    ]
    arrays = {name: value.astype(np.float32) for name, value in constants.items()}
    return _save(path, nodes, arrays, ("input", [batch, 3, 224, 224]), {"output": [batch, 8]}, opset=11)


def _save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    into: tuple[str, list[Any]],
    outputs: dict[str, list[Any]],
    opset: int,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "torch_jit",
        [helper.make_tensor_value_info(into[0], TensorProto.FLOAT, into[1])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6)
    path.write_bytes(model.SerializeToString())
    return path


def git_blob(data: bytes) -> str:
    """Compute the git object id of a file's content."""
    return hashlib.sha1(b"blob " + str(len(data)).encode() + b"\0" + data).hexdigest()


def manifest(folder: Path, files: dict[str, bytes], **more: Any) -> Path:
    """Copy the manifest with other contents of the optional models; `more` changes their entries."""
    shipped = registry.models_dir()
    folder.mkdir()
    for path in shipped.glob("*.onnx"):
        (folder / path.name).symlink_to(path)
    content = json.loads((shipped / "manifest.json").read_text())
    for name, data in files.items():
        stand_in(content["optional"][name], data, **more)
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


def stand_in(entry: dict[str, Any], data: bytes, **more: Any) -> None:
    """Replace the content of an optional model in its entry."""
    entry |= more
    if "git_blob" in entry:
        entry["git_blob"] = git_blob(data)
    else:
        entry |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
