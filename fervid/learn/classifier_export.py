"""Convert a fitted classifier or regressor to one ONNX file that contains its model card."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from sklearn.compose import TransformedTargetRegressor
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from fervid.learn.calibration import CalibratedClassifier
from fervid.learn.estimators import PairwiseSVC


def to_onnx(model: CalibratedClassifier | TransformedTargetRegressor, width: int) -> onnx.ModelProto:
    """Build a graph from `features` (n, width) to `probabilities` (n, c), or to `value` (n, 1) for a regressor."""
    if isinstance(model, CalibratedClassifier):
        return _classifier_graph(model, width)
    from skl2onnx import to_onnx as convert
    from skl2onnx.common.data_types import FloatTensorType

    logging.getLogger("skl2onnx").setLevel(logging.ERROR)
    types = [("features", FloatTensorType([None, width]))]
    converted: onnx.ModelProto = convert(model.regressor_, initial_types=types, target_opset=17)
    _append_inverse_scaling(converted.graph, model.transformer_)
    return converted


def _classifier_graph(calibrated: CalibratedClassifier, width: int) -> onnx.ModelProto:
    """Build the graph: scaler, margins, sharpness, softmax."""
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def add(operator: str, inputs: Sequence[str | NDArray[Any] | float], output: str, **attributes: Any) -> str:
        names = []
        for number, value in enumerate(inputs):
            if not isinstance(value, str):
                constants.append(numpy_helper.from_array(np.asarray(value, np.float32), f"{output}_{number}"))
                value = constants[-1].name
            names.append(value)
        domain = "ai.onnx.ml" if operator in ("Scaler", "Normalizer") else ""
        nodes.append(helper.make_node(operator, names, [output], domain=domain, **attributes))
        return output

    scaler, classifier = (step for _, step in calibrated.pipeline.steps)
    if isinstance(scaler, StandardScaler):
        add("Scaler", ["features"], "scaled", offset=scaler.mean_.tolist(), scale=(1 / scaler.scale_).tolist())
    else:
        add("Normalizer", ["features"], "scaled", norm="L2")
    x = "scaled"
    if isinstance(classifier, PairwiseSVC):
        # exp(-gamma |x - v|^2) with |x - v|^2 = |x|^2 - 2 x v + |v|^2
        vectors, gamma = classifier.support_vectors_, classifier._gamma
        squares = add("ReduceSumSquare", [x], "squares", axes=[1])
        products = add("MatMul", [x, -2 * vectors.T], "products")
        shifted = add("Add", [products, (vectors**2).sum(axis=1)], "shifted")
        distances = add("Add", [shifted, squares], "distances")
        x = add("Exp", [add("Mul", [distances, -gamma], "exponents")], "kernel")
        weights, offsets = classifier.kernel_expansion()
    elif isinstance(classifier, MLPClassifier):
        for number, layer in enumerate(zip(classifier.coefs_[:-1], classifier.intercepts_[:-1], strict=True)):
            x = add("Gemm", [x, *layer], f"layer{number}")
            x = add("Relu", [x], f"relu{number}")
        weights, offsets = classifier.coefs_[-1], classifier.intercepts_[-1]
    else:
        weights, offsets = classifier.coef_.T, classifier.intercept_
    if weights.shape[1] == 1:  # only those of the second of two classes
        weights, offsets = weights * [-0.5, 0.5], offsets * [-0.5, 0.5]
    margins = add("Gemm", [x, weights, offsets], "margins")
    logits = add("Mul", [margins, calibrated.sharpness], "logits")
    add("Softmax", [logits], "probabilities", axis=1)
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, [None, weights.shape[1]])],
        constants,
    )
    versions = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    return helper.make_model(graph, opset_imports=versions, ir_version=8, producer_name="fervid")


def _append_inverse_scaling(graph: onnx.GraphProto, scaler: StandardScaler) -> None:
    """Map the output of a regressor back to the scale of the ratings, and name it `value`."""
    (output,) = graph.output
    for name, number in (("scale", scaler.scale_[0]), ("shift", scaler.mean_[0])):
        graph.initializer.append(numpy_helper.from_array(np.array([number], np.float32), name))
    graph.node.append(helper.make_node("Mul", [output.name, "scale"], ["scaled"]))
    graph.node.append(helper.make_node("Add", ["scaled", "shift"], ["value"]))
    output.name = "value"


def serialize_with_card(model: onnx.ModelProto, card: Mapping[str, Any]) -> bytes:
    """Serialize a model with its card in the metadata."""
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = "fervid", json.dumps(card, sort_keys=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data
