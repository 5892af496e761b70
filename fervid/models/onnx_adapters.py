"""Adapt published ONNX models in memory to the inputs and outputs that fervid expects.

The file stays as it was downloaded, so that its digest can be compared with the authors'. `published` in the model's
card says which preprocessing and postprocessing to add to the graph; scale, colour and crop of a face model are in the
card as for any other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, compose, helper, numpy_helper

from fervid.core.records import FloatArray

_PREFIX = "published/"


def adapt_published_model(data: bytes, card: Mapping[str, Any]) -> bytes:
    """Add the inputs, outputs and card that a model of its kind must have.

    Args:
        data: The published file.
        card: The model's card, from the manifest.

    Returns:
        The adapted ONNX file.

    Raises:
        ValueError: The graph is not as the card describes it.
    """
    try:
        model = onnx.load_from_string(data)
    except DecodeError as error:
        raise ValueError(str(error)) from error
    adapted = _ADAPTERS[card["published"]["graph"]](compose.add_prefix(model, _PREFIX), card)
    helper.set_model_props(adapted, {"fervid": json.dumps(card)})
    content: bytes = adapted.SerializeToString()
    return content


def _adapt_logits(model: ModelProto, card: Mapping[str, Any]) -> ModelProto:
    """Adapt a network that ends in a linear layer.

    The input of the layer is the embedding, and the softmax of its output the expression.
    """
    graph, size = model.graph, card["input"]["size"]
    producers = {name: node for node in graph.node for name in node.output}
    logits = graph.output[0].name
    layer = producers.get(logits)
    while layer is not None and layer.op_type in ("Identity", "Add"):
        layer = producers.get(next((name for name in layer.input if name in producers), ""))
    if layer is None or layer.op_type not in ("Gemm", "MatMul"):
        raise ValueError("it does not end in a linear layer")
    nodes = [
        helper.make_node("Identity", ["crops"], [_input(graph)]),
        *graph.node,
        helper.make_node("Identity", [layer.input[0]], ["embedding"]),
        helper.make_node("Softmax", [logits], ["expression"], axis=1),
    ]
    crops = helper.make_tensor_value_info("crops", TensorProto.FLOAT, ["n", 3, size, size])
    widths = {"embedding": card["embedding"], "expression": len(card["expressions"])}
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width]) for name, width in widths.items()]
    return _rebuild_model(model, nodes, crops, outputs)


def _adapt_yunet(model: ModelProto, card: Mapping[str, Any]) -> ModelProto:
    """Adapt YuNet (Wu et al., Machine Intelligence Research 20, 2023): decode the outputs of three grids into faces.

    The score is the geometric mean of class and objectness. Centre and landmarks are offsets from the cell, and width
    and height are exponentials, all in units of the cell's side.
    """
    graph, size, strides = model.graph, card["input"]["size"], card["published"]["strides"]
    names = {output.name.removeprefix(_PREFIX) for output in graph.output}
    if missing := {f"{part}_{stride}" for part in ("cls", "obj", "bbox", "kps") for stride in strides} - names:
        raise ValueError(f"it has no output {', '.join(sorted(missing))}")
    cells, scale = _grid_centers(size, strides)
    points = len(card["landmarks"])
    constants = {
        "colours": np.array([2, 1, 0]),
        "cells": cells,
        "scale": scale,
        "cells_of_points": cells[:, :, None],
        "scale_of_points": scale[..., None],
        "zero": np.float32(0),
        "one": np.float32(1),
        "half": np.float32(0.5),
        "to_row": np.array([1, -1]),
        "to_points": np.array([1, -1, points, 2]),
        "first_two": np.array([0, 1]),
        "last_two": np.array([2, 3]),
    }

    def concat(part: str) -> NodeProto:
        return helper.make_node("Concat", [f"{_PREFIX}{part}_{stride}" for stride in strides], [part], axis=1)

    def clip_to_unit(part: str) -> tuple[NodeProto, NodeProto]:  # instead of Clip, whose inputs differ between opsets
        low = helper.make_node("Max", [part, "zero"], [f"{part}_from_zero"])
        return low, helper.make_node("Min", [f"{part}_from_zero", "one"], [f"{part}_in_range"])

    nodes = [
        helper.make_node("Cast", ["images"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["numbers"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Gather", ["planes", "colours"], [_input(graph)], axis=1),
        *graph.node,
        *map(concat, ("cls", "obj", "bbox", "kps")),
        *clip_to_unit("cls"),
        *clip_to_unit("obj"),
        helper.make_node("Mul", ["cls_in_range", "obj_in_range"], ["both"]),
        helper.make_node("Sqrt", ["both"], ["root"]),
        helper.make_node("Reshape", ["root", "to_row"], ["scores"]),
        helper.make_node("Gather", ["bbox", "first_two"], ["offset"], axis=2),
        helper.make_node("Gather", ["bbox", "last_two"], ["logarithm"], axis=2),
        helper.make_node("Add", ["offset", "cells"], ["centre"]),
        helper.make_node("Exp", ["logarithm"], ["extent"]),
        helper.make_node("Mul", ["extent", "half"], ["radius"]),
        helper.make_node("Sub", ["centre", "radius"], ["first"]),
        helper.make_node("Add", ["centre", "radius"], ["last"]),
        helper.make_node("Mul", ["first", "scale"], ["top_left"]),
        helper.make_node("Mul", ["last", "scale"], ["bottom_right"]),
        helper.make_node("Concat", ["top_left", "bottom_right"], ["boxes"], axis=2),
        helper.make_node("Reshape", ["kps", "to_points"], ["offsets"]),
        helper.make_node("Add", ["offsets", "cells_of_points"], ["points"]),
        helper.make_node("Mul", ["points", "scale_of_points"], ["landmarks"]),
    ]
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, [1, size, size, 3])
    count = cells.shape[1]
    shapes = {"boxes": [1, count, 4], "landmarks": [1, count, points, 2], "scores": [1, count]}
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    return _rebuild_model(model, nodes, images, outputs)


_ADAPTERS: Mapping[str, Callable[[ModelProto, Mapping[str, Any]], ModelProto]] = {
    "logits": _adapt_logits,
    "yunet": _adapt_yunet,
}


def _grid_centers(size: int, strides: Sequence[int]) -> tuple[FloatArray, FloatArray]:
    """Return column and row of each cell of all grids, (1, a, 2), and the cell's side in pixels, (1, a, 1)."""
    grids = [np.stack(np.meshgrid(*[np.arange(size // stride)] * 2), -1).reshape(-1, 2) for stride in strides]
    sides = [np.full((len(grid), 1), stride) for grid, stride in zip(grids, strides, strict=True)]
    return np.concatenate(grids)[None].astype(np.float32), np.concatenate(sides)[None].astype(np.float32)


def _input(graph: GraphProto) -> str:
    """Return the name of the only input; old files list weights as inputs too, which are ignored."""
    weights = {tensor.name for tensor in graph.initializer}
    names = [value.name for value in graph.input if value.name not in weights]
    if len(names) != 1:
        raise ValueError(f"it has {len(names)} inputs instead of one")
    return str(names[0])


def _rebuild_model(
    model: ModelProto, nodes: Sequence[NodeProto], graph_input: ValueInfoProto, outputs: Sequence[ValueInfoProto]
) -> ModelProto:
    """Make a model with the same weights, but another input, other nodes and outputs."""
    graph = helper.make_graph(nodes, "adapted", [graph_input], outputs, model.graph.initializer)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=max(model.ir_version, 4))
