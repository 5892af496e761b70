"""Export a torch module to ONNX, without metadata that depends on the machine."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import torch
from torch import Tensor, nn


def export_to_onnx(
    module: nn.Module, example: Tensor, name: str, outputs: Sequence[str], axes: Mapping[int, Any]
) -> onnx.ModelProto:
    """Export a module with one input; it is switched to evaluation mode.

    `axes` are the dynamic axes of the input, each with its `torch.export.Dim`.
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
        raise RuntimeError("torch.onnx.export returned no program")
    model: onnx.ModelProto = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    return model
