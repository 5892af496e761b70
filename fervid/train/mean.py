"""The plain mean of what the network says of each face, as a clip classifier: the baseline of the papers.

It is fitted on nothing, so it goes with every network of these classes, and is what `fervid classify` takes for one
that has no classifier of its own.

    python -m fervid.train.mean -o models/mean8.onnx
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from fervid.train.card import save_with_card
from fervid.train.ferplus import CLASSES

CARD = {
    "name": "mean8",
    "kind": "classifier",
    "title": "Mean of the expression probabilities over the frames",
    "labels": list(CLASSES),
    "statistics": ["expression.mean"],
    "network_expressions": list(CLASSES),
    "data": "none",
    "licence": "Apache-2.0",
    "source": "python -m fervid.train.mean",
    "limits": "As sure as the network is of single faces.",
}


def model() -> onnx.ModelProto:
    """`features`, the mean probabilities, are the `probabilities` (n, c)."""
    features, probabilities = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", len(CLASSES)])
        for name in ("features", "probabilities")
    )
    node = helper.make_node("Identity", ["features"], ["probabilities"])
    graph = helper.make_graph([node], "mean", [features], [probabilities])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main() -> None:
    """Write the file and its entry in the manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    save_with_card(model(), CARD, parser.parse_args().output)


if __name__ == "__main__":
    main()
