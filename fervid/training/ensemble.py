"""Combine several networks into one file: average probabilities, concatenate embeddings (arXiv 2207.10025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import onnx
from onnx import compose, helper

from fervid.models import registry
from fervid.training.model_card import save_with_card

AVERAGED = ("expression", "fer2013", "age", "gender", "ethnicity")
CONCATENATED = ("embedding", "identity")
SHARED = ("input", "margin", "aligned", "expressions", "fer2013", "genders", "ethnicities", "first_age", "classifier")
"""Keys of the cards that must be equal where present."""


def fuse(paths: Sequence[Path], output: Path) -> None:
    """Combine two or more networks with the same input into one, with the outputs that all of them have.

    The name of `output` without suffix becomes the name of the network.

    Raises:
        ModelError: A file is not a network.
        ValueError: There is only one, or they differ in their crops or classes; the message names the differences.
    """
    if len(paths) < 2:
        raise ValueError("an ensemble needs at least two networks")
    loaded = [registry.load_model(str(path), "face_model") for path in paths]
    cards = [model.card for model in loaded]
    for path, card in zip(paths, cards, strict=True):
        if differing := [name for name in SHARED if name in cards[0] and name in card and card[name] != cards[0][name]]:
            raise ValueError(f"{path} differs from {paths[0]} in {', '.join(differing)}; they cannot be averaged")
    parts = [onnx.load(path) for path in paths]
    imports = {(one.domain, one.version) for part in parts for one in part.opset_import}
    if len(imports) > len(dict(imports)):
        raise ValueError("the files have different ONNX versions; export them again")
    available = [{tensor.name for tensor in model.session.get_outputs()} for model in loaded]
    common = [name for name in (*CONCATENATED, *AVERAGED) if all(name in names for names in available)]
    merged_card = {
        **{name: cards[0][name] for name in SHARED if all(name in card for card in cards)},
        "name": output.stem,
        "kind": "face_model",
        "title": f"Average of {len(paths)} networks",
        **{name: sum(card[name] for card in cards) for name in CONCATENATED if name in common},
        **({"tracking": _mean([card["tracking"] for card in cards])} if "identity" in common else {}),
        "members": [asdict(model.identity) for model in loaded],
        "license": "; ".join(dict.fromkeys(card["license"] for card in cards if "license" in card)),
        "source": "fervid network ensemble",
    }
    save_with_card(_merge(parts, common), merged_card, output)


def _mean(thresholds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(one[name] for one in thresholds) / len(thresholds) for name in thresholds[0]}


def _merge(parts: Sequence[onnx.ModelProto], common: Sequence[str]) -> onnx.ModelProto:
    """Merge graphs into one with the shared input `crops`."""
    prefixed = [compose.add_prefix(part, f"{i}/") for i, part in enumerate(parts)]
    nodes, initialisers, functions = [], [], []
    for i, part in enumerate(prefixed):
        nodes += [helper.make_node("Identity", ["crops"], [f"{i}/crops"]), *part.graph.node]
        initialisers += part.graph.initializer
        functions += part.functions
    for name in common:
        inputs = [f"{i}/{name}" for i in range(len(parts))]
        joined = helper.make_node("Concat", inputs, [name], axis=1)
        nodes.append(joined if name in CONCATENATED else helper.make_node("Mean", inputs, [name]))
    (crops,) = parts[0].graph.input
    outputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in common]
    graph = helper.make_graph(nodes, "ensemble", [crops], outputs, initialisers)
    imports = {imported.domain: imported for part in parts for imported in part.opset_import}
    return helper.make_model(
        graph,
        opset_imports=list(imports.values()),
        functions=functions,
        ir_version=max(part.ir_version for part in parts),
    )
