"""The plain mean of what the network says of each face, as a clip classifier: the baseline of the papers.

It is fitted on nothing, so it goes with every network of these classes, and is what `fervid classify` takes for one
that has no classifier of its own.

    python -m fervid.training.mean -o models/mean8.onnx
    python -m fervid.training.mean --classes 6 -o models/mean6.onnx
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from fervid.training.card import save_with_card
from fervid.training.ferplus import CLASSES
from fervid.training.synthesis import EXPRESSIONS

KNOWN = {8: CLASSES, 6: EXPRESSIONS}


def card(classes: Sequence[str]) -> dict[str, Any]:
    """What the file says of itself."""
    return {
        "name": f"mean{len(classes)}",
        "kind": "classifier",
        "title": "Mean of the expression probabilities over the frames",
        "labels": list(classes),
        "statistics": ["expression.mean"],
        "network_expressions": list(classes),
        "data": "none",
        "licence": "Apache-2.0",
        "source": "python -m fervid.training.mean",
        "limits": "As sure as the network is of single faces.",
    }


def model(count: int) -> onnx.ModelProto:
    """`features`, the mean probabilities, are the `probabilities` (n, count)."""
    features, probabilities = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", count]) for name in ("features", "probabilities")
    )
    node = helper.make_node("Identity", ["features"], ["probabilities"])
    graph = helper.make_graph([node], "mean", [features], [probabilities])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main() -> None:
    """Write the file and its entry in the manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, choices=KNOWN, default=8, help="those of FER+, or six without neutral")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    save_with_card(model(arguments.classes), card(KNOWN[arguments.classes]), arguments.output)


if __name__ == "__main__":
    main()
