"""Make a clip classifier that averages the network's expression probabilities: the baseline of the papers.

It has no trained parameters, so it works with every network with the same classes; `fervid classify` uses it for
networks without a classifier of their own.

    python -m fervid.training.make_mean_classifier -o models/mean8.onnx
    python -m fervid.training.make_mean_classifier --classes 6 -o models/mean6.onnx
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from fervid.training.expression_transfer import EXPRESSIONS
from fervid.training.ferplus import CLASSES
from fervid.training.model_card import save_with_card

CLASS_SETS = {8: CLASSES, 6: EXPRESSIONS}


def make_card(classes: Sequence[str]) -> dict[str, Any]:
    """Make the model card."""
    return {
        "name": f"mean{len(classes)}",
        "kind": "classifier",
        "title": "Mean of the expression probabilities over the frames",
        "labels": list(classes),
        "statistics": ["expression.mean"],
        "face_model_expressions": list(classes),
        "data": "none",
        "license": "Apache-2.0",
        "source": "python -m fervid.training.make_mean_classifier",
        "limitations": "As sure as the face model is of single faces.",
    }


def make_model(count: int) -> onnx.ModelProto:
    """Make the identity from `features` (n, count), the mean probabilities, to `probabilities`."""
    features, probabilities = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", count]) for name in ("features", "probabilities")
    )
    node = helper.make_node("Identity", ["features"], ["probabilities"])
    graph = helper.make_graph([node], "mean", [features], [probabilities])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main() -> None:
    """Write the file and its manifest entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--classes", type=int, choices=CLASS_SETS, default=8, help="those of FER+, or six without neutral"
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    save_with_card(make_model(arguments.classes), make_card(CLASS_SETS[arguments.classes]), arguments.output)


if __name__ == "__main__":
    main()
