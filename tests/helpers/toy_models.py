"""Make toy ONNX models of every kind, with a card, whose outputs can be computed by hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

DETECTOR_SIDE = 64
CELL = 4  # pixels, side of the detector's cells, one candidate each

DETECTOR = {
    "kind": "detector",
    "name": "toy-detector",
    "input": {"size": DETECTOR_SIDE, "colour": "RGB"},
    "threshold": 0.5,
    "new_track_threshold": 0.8,
    "smallest_face": CELL / DETECTOR_SIDE,
}
FACE_MODEL = {
    "kind": "face_model",
    "name": "toy-face_model",
    "input": {"size": 8, "colour": "RGB", "mean": [0.0, 0.0, 0.0], "scale": [1.0, 1.0, 1.0]},
    "margin": 0.1,
    "embedding": 3,
    "expressions": ["dark", "bright"],
    "ethnicities": ["here", "there"],
    "genders": {"male": 0.6, "female": 0.0},
    "first_age": 1,
    "identity": 3,
    "tracking": {"min_track_similarity": 0.45, "min_person_similarity": 0.62},
}
OUTPUTS = ["embedding", "expression", "age", "gender", "ethnicity", "identity"]
CLASSIFIER = {
    "kind": "classifier",
    "name": "toy-classifier",
    "labels": ["first", "second", "third"],
    "statistics": ["embedding.mean"],
    "face_model_sha256": "0" * 64,
}
FACE = 16  # pixels, side of the faces in `picture`, and the --min-face for `family`
FIRST, SECOND, THIRD = (255, 210, 210), (210, 255, 210), (210, 210, 255)
NEITHER = (228, 228, 228)
"""Face colours for which the classifier of `family` predicts one label, or a third for each."""
REGRESSOR = {
    "kind": "regressor",
    "name": "toy-regressor",
    "target": "valence",
    "statistics": ["embedding.mean"],
    "face_model_sha256": "0" * 64,
}


def detector(path: Path, **card: Any) -> Path:
    """Write a detector of a face per 4 x 4 pixels; its score is the brightness, its landmarks divide it in three."""
    side, cells = DETECTOR_SIDE, DETECTOR_SIDE // CELL
    corner = np.stack(np.meshgrid(np.arange(cells), np.arange(cells)), -1).reshape(-1, 2) * float(CELL)
    boxes = np.concatenate([corner, corner + CELL], axis=1)[None]
    eyes = np.array([[CELL / 3, CELL / 2], [2 * CELL / 3, CELL / 2]])
    landmarks = (corner[:, None] + eyes)[None]
    nodes = [
        ("Cast", ["images"], "floats", {"to": TensorProto.FLOAT}),
        ("Transpose", ["floats"], "planes", {"perm": [0, 3, 1, 2]}),
        ("AveragePool", ["planes"], "pooled", {"kernel_shape": [CELL, CELL], "strides": [CELL, CELL]}),
        ("ReduceMean", ["pooled"], "grey", {"axes": [1], "keepdims": 0}),
        ("Reshape", ["grey", "flat"], "sums", {}),
        ("Div", ["sums", "white"], "scores", {}),
        ("Unsqueeze", ["scores", "last"], "score", {}),
        ("Mul", ["score", "zero"], "nothing", {}),
        ("Add", ["nothing", "cells"], "boxes", {}),
        ("Unsqueeze", ["nothing", "last"], "nothings", {}),
        ("Add", ["nothings", "points"], "landmarks", {}),
    ]
    constants = {
        "flat": np.array([0, -1]),
        "last": np.array([-1]),
        "white": np.float32(255),
        "zero": np.float32(0),
        "cells": boxes.astype(np.float32),
        "points": landmarks.astype(np.float32),
    }
    inputs = {"images": (TensorProto.UINT8, ["n", side, side, 3])}
    return save(path, nodes, constants, inputs, ["boxes", "landmarks", "scores"], DETECTOR | card)


def face_model(path: Path, **card: Any) -> Path:
    """Write a face model whose embedding is the mean of each plane of the input; the others follow from its values.

    `expression` is the softmax of minus and plus their sum, `age` that of the negative distances of ten ages from ten
    times the first value, and `gender` the sigmoid of the second; `ethnicity` equals `expression`, and `identity` the
    embedding.
    """
    size = FACE_MODEL["input"]["size"]
    nodes = [
        ("ReduceMean", ["crops"], "embedding", {"axes": [2, 3], "keepdims": 0}),
        ("MatMul", ["embedding", "both"], "sums", {}),
        ("Softmax", ["sums"], "expression", {"axis": 1}),
        ("MatMul", ["embedding", "tenfold"], "tens", {}),
        ("Sub", ["tens", "years"], "apart", {}),
        ("Abs", ["apart"], "distance", {}),
        ("Neg", ["distance"], "nearness", {}),
        ("Softmax", ["nearness"], "age", {"axis": 1}),
        ("Gather", ["embedding", "middle"], "green", {"axis": 1}),
        ("Sigmoid", ["green"], "gender", {}),
        ("Identity", ["expression"], "ethnicity", {}),
        ("Identity", ["embedding"], "identity", {}),
    ]
    constants = {
        "both": np.float32([[-1, 1]] * 3),
        "tenfold": np.float32([[10], [0], [0]]),
        "years": np.arange(10, dtype=np.float32),
        "middle": np.array(1),
    }
    inputs = {"crops": (TensorProto.FLOAT, ["n", 3, size, size])}
    return save(path, nodes, constants, inputs, OUTPUTS, FACE_MODEL | card)


def classifier(path: Path, weights: Sequence[Sequence[float]], **card: Any) -> Path:
    """Write a classifier: the softmax of the features times `weights`, one column per label."""
    nodes = [("MatMul", ["features", "weights"], "sums", {}), ("Softmax", ["sums"], "probabilities", {"axis": 1})]
    inputs = {"features": (TensorProto.FLOAT, ["n", len(weights)])}
    return save(path, nodes, {"weights": np.float32(weights)}, inputs, ["probabilities"], CLASSIFIER | card)


def family(folder: Path, **card: Any) -> dict[str, str]:
    """Write three matching models for `fervid.load_classifier`; `card` is for the classifier's."""
    spec = {**FACE_MODEL["input"], "scale": [1 / 255] * 3}
    face = face_model(
        folder / "face_model.onnx", input=spec, tracking={"min_track_similarity": 0.45, "min_person_similarity": 0.9}
    )
    sha256 = hashlib.sha256(face.read_bytes()).hexdigest()
    return {
        "detector": str(detector(folder / "detector.onnx")),
        "face_model": str(face),
        "classifier": str(classifier(folder / "classifier.onnx", 25 * np.eye(3), face_model_sha256=sha256, **card)),
    }


def flags(models: Mapping[str, str]) -> list[str]:
    """Return the options that select these models."""
    return [f"--{role.replace('_', '-')}={path}" for role, path in models.items()]


def picture(*faces: tuple[int, int, int] | None, place: int = 2) -> np.ndarray:
    """Draw a frame (256, 256, 3) with a face of each colour from left to right; None draws no face."""
    image = np.full((256, 256, 3), 30, np.uint8)
    for number, colour in enumerate(faces):
        x = FACE * (place + 4 * number)
        if colour is not None:
            image[112 : 112 + FACE, x : x + FACE] = colour
    return image


def regressor(path: Path, weights: Sequence[float] = (1, 0, 0), **card: Any) -> Path:
    """Write a regressor: the sum of the features times `weights`."""
    nodes = [("MatMul", ["features", "weights"], "value", {})]
    inputs = {"features": (TensorProto.FLOAT, ["n", len(weights)])}
    return save(path, nodes, {"weights": np.float32(weights)[:, None]}, inputs, ["value"], REGRESSOR | card)


def save(
    path: Path,
    nodes: Sequence[tuple[str, list[str], str, dict[str, Any]]],
    constants: Mapping[str, Any],
    inputs: Mapping[str, tuple[int, list[Any]]],
    outputs: Sequence[str],
    card: Mapping[str, Any] | str | None,
) -> Path:
    """Write a graph of (operator, inputs, output, attributes) with a card, unchanged if it is a string."""
    graph = helper.make_graph(
        [helper.make_node(operator, into, [out], **attributes) for operator, into, out, attributes in nodes],
        "toy",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return write(path, model, card)


def write(path: Path, model: onnx.ModelProto, card: Mapping[str, Any] | str | None) -> Path:
    """Write a model with a card in its metadata."""
    del model.metadata_props[:]
    if card is not None:
        model.metadata_props.add(key="fervid", value=card if isinstance(card, str) else json.dumps(card))
    path.write_bytes(model.SerializeToString())
    return path
