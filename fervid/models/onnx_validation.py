"""Validate untrusted ONNX files before onnxruntime opens them.

onnxruntime folds constants while it opens a file, so a file of a few bytes can allocate terabytes before its card is
read, and a loop can run forever. Files that fervid ships or downloads are verified by their digest instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import prod

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, TypeProto, ValueInfoProto
from onnx.shape_inference import InferenceError, infer_shapes

ALLOWED_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
MAX_TENSOR_ELEMENTS = 2**28  # 1 GiB of float32
_MAX_SHAPE_ELEMENTS = 2**16  # elements of a value that may be the shape of another
_ASSUMED_DIM = 640  # for open dimensions of inputs, except the first axis, the number of images or clips
_MAX_ELEMENTS_PER_BYTE = 8
_GRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
_SPARSE = (AttributeProto.SPARSE_TENSOR, AttributeProto.SPARSE_TENSORS)


def validate_onnx(data: bytes) -> None:
    """Check that a file is a plain graph, as face models, detectors and classifiers are.

    Args:
        data: Content of the file.

    Raises:
        ValueError: It is no ONNX file, or uses a feature that no model needs; the message names it.
    """
    try:
        model = onnx.load_from_string(data)
    except DecodeError as error:
        raise ValueError(str(error)) from error
    graph = model.graph
    _require(not model.functions, "it defines functions")
    _require(not model.training_info, "it contains training information")
    _require(not graph.sparse_initializer, "it has sparse tensors")
    for node in graph.node:
        _require(node.domain in ALLOWED_DOMAINS, f"its operator {node.domain}.{node.op_type} is not an ONNX operator")
        for attribute in node.attribute:
            _require(attribute.type not in _GRAPHS, f"its operator {node.op_type} can run forever")
            _require(attribute.type not in _SPARSE, "it has sparse tensors")
    for tensor in _tensors(graph):
        internal = tensor.data_location != TensorProto.EXTERNAL and not tensor.external_data
        _require(internal, f"External data: its tensor {tensor.name!r} is in another file")
        size = _size(tensor.dims)
        _require(
            size <= _MAX_ELEMENTS_PER_BYTE * len(data),
            f"its tensor {tensor.name!r} of {size:,} elements is not in the file",
        )
    _check_value_sizes(model)


def _check_value_sizes(model: ModelProto) -> None:
    """Check that each value whose shape can be inferred is small enough, and so are all constants together.

    Raises:
        ValueError: One is too large, or the shape of a constant cannot be inferred.
    """
    graph = model.graph
    for value in graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.WhichOneof("value") != "dim_value":
                dim.dim_value = _ASSUMED_DIM if axis else 1
    del graph.value_info[:]  # the shapes that the file declares need not be true
    for output in graph.output:
        output.type.Clear()
    _check_sizes(model, _infer_shapes(model, propagate=False))
    _check_sizes(model, _infer_shapes(model, propagate=True))  # shapes that are computed from other shapes


def _infer_shapes(model: ModelProto, *, propagate: bool) -> dict[str, list[int]]:
    """Return the shapes of the values whose shapes can be inferred, by name."""
    try:
        graph = infer_shapes(model, data_prop=propagate).graph
    except (MemoryError, RuntimeError, InferenceError) as error:
        raise ValueError(f"its shapes cannot be inferred: {error}") from error
    return dict(_static_shapes((*graph.input, *graph.value_info, *graph.output)))


def _check_sizes(model: ModelProto, shapes: Mapping[str, list[int]]) -> None:
    constants = {tensor.name: _size(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        sizes = {name: _size(shapes[name]) if name in shapes else None for name in node.output if name}
        for name, size in sizes.items():
            # Shape inference propagates the elements of a concatenated vector one by one.
            may_be_shape = node.op_type == "Concat" and len(shapes.get(name, ())) == 1
            fits = size is None or size <= (_MAX_SHAPE_ELEMENTS if may_be_shape else MAX_TENSOR_ELEMENTS)
            _require(fits, f"its operator {node.op_type} makes {name!r} of {size or 0:,} elements")
        if all(name in constants for name in node.input if name):
            _require(None not in sizes.values(), f"the output shape of its operator {node.op_type} cannot be inferred")
            constants |= {name: size or 0 for name, size in sizes.items()}
    _require(sum(constants.values()) <= MAX_TENSOR_ELEMENTS, f"its constants have {sum(constants.values()):,} elements")


def _static_shapes(values: Iterable[ValueInfoProto]) -> Iterator[tuple[str, list[int]]]:
    """Yield name and shape of the values whose shapes are fully specified."""
    for value in values:
        kind: TypeProto = value.type
        if kind.WhichOneof("value") == "tensor_type" and kind.tensor_type.HasField("shape"):
            dims = kind.tensor_type.shape.dim
            if all(dim.WhichOneof("value") == "dim_value" for dim in dims):
                yield value.name, [dim.dim_value for dim in dims]


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors


def _size(dims: Iterable[int]) -> int:
    shape = list(dims)
    _require(min(shape, default=0) >= 0, f"a tensor cannot have the shape {shape}")
    return prod(shape)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
