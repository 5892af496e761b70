"""Accuracy against the share of frames that are looked at: KERC 2020, three classes of valence.

    python benchmarks/adaptive.py --kerc DATA --cache CACHE --json adaptive.json --plot adaptive.png

A linear SVM on mean, deviation and maximum of the embedding is fitted on the training part, its thresholds for few
frames are set there too, on people whom that fit has not seen, for several shares of clips that an early answer may get
wrong; both are then used on the validation part. Beside it: every second, fourth and eighth frame of each clip.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from network import show

from fervid.analysis.early_exit import STRIDES
from fervid.learn.labeled_features import LabeledFeatures
from fervid.learn.model_evaluation import evaluate_model, predict_with_model
from fervid.learn.model_selection import make_candidates
from fervid.learn.training import train_classifier
from fervid.models import registry
from fervid.training import kerc

ERRORS = (0.0, 0.02, 0.05, 0.1, 0.2)
WAYS = make_candidates(("mean+std+max",), ("linear",))


def fitted(known: LabeledFeatures, error: float, folder: Path) -> registry.Model:
    """A classifier with thresholds for that share of errors."""
    data, *_ = train_classifier(known, WAYS, "few", early_exit_error=error)
    path = folder / f"few-{error}.onnx"
    path.write_bytes(data)
    return registry.load_model(str(path), "classifier")


def row(name: str, share: float, accuracy: float) -> dict[str, Any]:
    """One point of the curve."""
    return {"frames": name, "frame_fraction": round(share, 3), "accuracy": round(accuracy, 3)}


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the two curves."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for kind in ("adaptive", "fixed"):
        points = [(r["frame_fraction"], r["accuracy"]) for r in rows if r["frames"].startswith(kind)]
        axes.plot(*zip(*sorted(points), strict=True), "o-", label=kind)
    axes.set(xlabel="share of the frames that are looked at", ylabel="accuracy on KERC 2020, validation part")
    axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kerc", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="needs matplotlib")
    arguments = parser.parse_args()
    known = kerc.load_features(arguments.kerc, arguments.cache, strides=STRIDES)
    held, truth = known.split(("val",)), known.split(("val",)).truth
    points = []
    with tempfile.TemporaryDirectory() as folder:
        for error in ERRORS:
            model = fitted(known, error, Path(folder))
            few = evaluate_model(known, model, adaptive=True)["early_exit"]
            points.append(row(f"adaptive, {100 * error:g} % may be wrong", few["frame_fraction"], few["accuracy"]))
    for stride in (*reversed(STRIDES), 1):
        said = predict_with_model(held, model, stride=stride)
        right = np.isfinite(said).all(axis=1) & (np.nan_to_num(said).argmax(axis=1) == truth)
        frames = np.ceil(held.table.counts / stride).sum() / held.table.counts.sum()
        points.append(row(f"fixed, one of {stride}", float(frames), float(right.mean())))
    show(points, arguments.json)
    if arguments.plot:
        plot(points, arguments.plot)


if __name__ == "__main__":
    main()
