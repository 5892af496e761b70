"""What an ONNX file from anywhere may ask for, looked at before anything of it is run.

onnxruntime works out what depends on nothing but constants while it opens a file, so one of a few bytes can ask for
terabytes before its card is read, and a loop can go on for ever. Files that fervid ships or pulls are known by their
digest and are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import prod

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, TypeProto, ValueInfoProto
from onnx.shape_inference import InferenceError, infer_shapes

ALLOWED_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
MAX_TENSOR_ELEMENTS = 2**28  # numbers in a value: 1 GiB of float32
_SHAPE = 2**16  # numbers in what may be the sides of a value
_ASSUMED_DIM = 640  # stands for what an input leaves open, but for the first axis, which counts pictures or clips
_DENSEST = 8  # numbers that a byte of a file can hold at most
_GRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
_SPARSE = (AttributeProto.SPARSE_TENSOR, AttributeProto.SPARSE_TENSORS)


def validate_onnx(data: bytes) -> None:
    """Refuse a file that is none of the plain graphs which networks and classifiers are.

    Args:
        data: The bytes of a file.

    Raises:
        ValueError: It is no ONNX, or wants what no model of fervid needs; the message says what.
    """
    try:
        model = onnx.load_from_string(data)
    except DecodeError as error:
        raise ValueError(str(error)) from error
    graph = model.graph
    _require(not model.functions, "it brings functions of its own")
    _require(not model.training_info, "it brings a way to train it")
    _require(not graph.sparse_initializer, "it has sparse tensors")
    for node in graph.node:
        _require(node.domain in ALLOWED_DOMAINS, f"its operator {node.domain}.{node.op_type} is not one of ONNX's")
        for attribute in node.attribute:
            _require(attribute.type not in _GRAPHS, f"its operator {node.op_type} can go on for ever")
            _require(attribute.type not in _SPARSE, "it has sparse tensors")
    for tensor in _tensors(graph):
        inside = tensor.data_location != TensorProto.EXTERNAL and not tensor.external_data
        _require(inside, f"External data: its tensor {tensor.name!r} lies in another file")
        size = _size(tensor.dims)
        _require(size <= _DENSEST * len(data), f"its tensor {tensor.name!r} of {size:,} numbers is not in the file")
    _check_value_sizes(model)


def _check_value_sizes(model: ModelProto) -> None:
    """Every value that can be told before a run is small enough, and so are all constants together."""
    graph = model.graph
    for value in graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.WhichOneof("value") != "dim_value":
                dim.dim_value = _ASSUMED_DIM if axis else 1
    del graph.value_info[:]  # what the file says of them need not be true
    for output in graph.output:
        output.type.Clear()
    _check_sizes(model, _inferred(model, follow=False))
    _check_sizes(model, _inferred(model, follow=True))  # sides that are worked out from other sides


def _inferred(model: ModelProto, *, follow: bool) -> dict[str, list[int]]:
    """Names and sides of the values whose sides can be told."""
    try:
        known = infer_shapes(model, data_prop=follow).graph
    except (MemoryError, RuntimeError, InferenceError) as error:
        raise ValueError(f"its sizes cannot be told: {error}") from error
    return dict(_static_shapes((*known.input, *known.value_info, *known.output)))


def _check_sizes(model: ModelProto, sides: Mapping[str, list[int]]) -> None:
    constants = {tensor.name: _size(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        made = {name: _size(sides[name]) if name in sides else None for name in node.output if name}
        for name, size in made.items():
            shape = node.op_type == "Concat" and len(sides.get(name, ())) == 1  # which is followed number by number
            fits = size is None or size <= (_SHAPE if shape else MAX_TENSOR_ELEMENTS)
            _require(fits, f"its operator {node.op_type} makes {size or 0:,} numbers of {name!r}")
        if all(name in constants for name in node.input if name):
            _require(None not in made.values(), f"it cannot be told how much its operator {node.op_type} makes")
            constants |= {name: size or 0 for name, size in made.items()}
    _require(sum(constants.values()) <= MAX_TENSOR_ELEMENTS, f"its constants are {sum(constants.values()):,} numbers")


def _static_shapes(values: Iterable[ValueInfoProto]) -> Iterator[tuple[str, list[int]]]:
    """Names and sides of the values whose sides are known."""
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
    sides = list(dims)
    _require(min(sides, default=0) >= 0, f"a tensor cannot have {sides} numbers")
    return prod(sides)


def _require(held: bool, message: str) -> None:
    if not held:
        raise ValueError(message)
