"""Measure classification of film clips: KERC 2020, with the usual pipeline on the frame folders.

    python benchmarks/kerc.py --kerc DATA --weights faceres.json --cache CACHE --json kerc.json

Three classes of valence, with the shipped network and with the frozen embedding of its initial weights, for several
statistics, kinds of classifier and scalings: trained on the training part and evaluated on the validation part, and
cross-validated on all clips by person, as clustered by face. Hyperparameters are chosen by nested cross-validation. The
same actors occur in both parts, so the cross-validated column is the more reliable one. Valence and arousal as ratings
follow.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from network import format_interval, show

from fervid.core.records import FloatArray
from fervid.learn.estimators import ClassifierKind
from fervid.learn.labeled_features import LabeledFeatures
from fervid.learn.model_evaluation import compare_configurations, predict_with_model
from fervid.learn.model_selection import Scaling
from fervid.models import registry
from fervid.training import export, kerc, mobilenet
from fervid.training.network import build

Way = tuple[str, ClassifierKind, Scaling]
WAYS: Sequence[Way] = (
    ("expression", "linear", "l2"),
    ("expression", "rbf", "l2"),
    ("expression+std+max", "linear", "l2"),
    ("expression+std+max", "rbf", "l2"),
    ("expression+std+min+max", "linear", "l2"),
    ("expression+std+min+max", "rbf", "l2"),
    ("mean", "linear", "l2"),
    ("mean+std", "linear", "l2"),
    ("mean+std", "linear", "standard"),
    ("mean+std+max", "linear", "l2"),
    ("mean+std+max", "linear", "standard"),
    ("mean+std+max", "rbf", "l2"),
    ("mean+std+max", "logistic", "l2"),
    ("mean+std+max", "mlp", "standard"),
    ("mean+std+min+max", "linear", "l2"),
)
FROZEN: Sequence[Way] = (("mean", "linear", "l2"), ("mean+std+max", "linear", "l2"), ("mean+std+max", "rbf", "l2"))
RATED: Sequence[Way] = (("expression", "rbf", "l2"), ("mean+std+max", "linear", "l2"), ("mean+std+max", "rbf", "l2"))


def export_frozen(weights: Path, folder: Path) -> Path:
    """Export the network with its published weights; only its embedding is meant to be used."""
    torch.manual_seed(0)  # for the random heads, one of which gives the identities that tracking uses
    network = build("mobilenetv1", mobilenet.read_tensorflowjs(weights)).eval()
    shipped = registry.load_model(registry.DEFAULTS["face_model"], "face_model")
    size = int(shipped.card["input"]["size"])
    path = folder / "frozen.onnx"
    card = {**export.CARD, **export.card("frozen", network, size)}
    crops = np.random.default_rng(0).integers(0, 256, (9, size, size, 3), np.uint8)
    export.save(network, card, path, crops)
    return path


def rows(known: LabeledFeatures, name: str, ways: Sequence[Way]) -> Iterator[dict[str, Any]]:
    """Make a row for each configuration, with the figures and intervals of both protocols."""
    for statistics, kind, scaling in ways:
        row: dict[str, Any] = {"network": name, "statistics": statistics, "kind": kind, "scaling": scaling}
        for protocol, cross in (("val", False), ("cross-validated", True)):
            (report,) = compare_configurations(known, [statistics], [kind], scalings=[scaling], cross=cross).values()
            row |= {f"{key}, {protocol}": value for key, value in _figures(report).items()}
        yield row


def evaluate_unfitted(known: LabeledFeatures, name: str) -> Iterator[dict[str, Any]]:
    """Measure emotions as valence, of emotion8 and of averaged probabilities; neither is fitted on film clips."""
    model = registry.load_model("emotion8", "classifier")
    for title, predict in (("emotion8", lambda part: predict_with_model(part, model)), ("averaged", _averaged)):
        row = {"network": name, "statistics": f"{title}, as valence", "kind": "not fitted", "scaling": ""}
        for protocol, part in (("val", known.split(("val",))), ("cross-validated", known)):
            report = kerc.to_valence_report(part, predict(part), model.card["labels"])
            row |= {f"{key}, {protocol}": value for key, value in _figures(report).items()}
        yield row


def _averaged(part: LabeledFeatures) -> FloatArray:
    return part.table.statistics["expression.mean"]


def _figures(report: dict[str, Any]) -> dict[str, str]:
    if "ccc" in report:
        return {"CCC": format_interval(report["ccc"], ".3f", 1), "MAE": format_interval(report["mae"], ".2f", 1)}
    part = report["answered"]
    recall = " / ".join(f"{100 * value:.0f}" for value in part["recall"].values())
    return {
        "UAR": format_interval(part["uar"]),
        "all clips": f"{100 * report['all']['uar']['value']:.1f}",
        "recall": recall,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kerc", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="faceres.json of the initial weights")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    ours = registry.DEFAULTS["face_model"]
    known = kerc.load_features(arguments.kerc, arguments.cache, ours)
    found = [*evaluate_unfitted(known, ours), *rows(known, ours, WAYS)]
    with tempfile.TemporaryDirectory() as folder:
        published = str(export_frozen(arguments.weights, Path(folder)))
        other = kerc.load_features(arguments.kerc, arguments.cache, published)
        found += rows(
            replace(other, groups=known.groups), "initial weights", FROZEN
        )  # the same detector, so the same rows
    show(found, arguments.json)
    for target in ("valence", "arousal"):
        rated = list(
            rows(kerc.load_features(arguments.kerc, arguments.cache, ours, target=target), f"{ours}, {target}", RATED)
        )
        show(rated, arguments.json and arguments.json.with_name(f"{arguments.json.stem}-{target}.json"))


if __name__ == "__main__":
    main()
