"""A torch module -> ONNX, free of what depends on the machine that traced it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import torch
from torch import Tensor, nn


def traced(
    module: nn.Module, example: Tensor, name: str, outputs: Sequence[str], axes: Mapping[int, Any]
) -> onnx.ModelProto:
    """Export a module of one input.

    Args:
        module: Set to inference here.
        example: An input.
        name: Of the input.
        outputs: Names of the outputs, in their order.
        axes: The axes of the input that are dynamic, each with its `torch.export.Dim`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            (example,),
            input_names=[name],
            output_names=list(outputs),
            dynamic_shapes=(dict(axes),),
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch gave no ONNX program")
    model: onnx.ModelProto = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    return model
