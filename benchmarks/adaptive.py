"""Measure accuracy against the fraction of processed frames: KERC 2020, three classes of valence.

    python benchmarks/adaptive.py --kerc DATA --cache CACHE --json adaptive.json --plot adaptive.png

A linear SVM on mean, standard deviation and maximum of the embedding is fitted on the training part. Its early-exit
thresholds are fitted there too, on held-out people, for several rates of errors that an early exit may add. Both are
evaluated on the validation part, and compared with fixed strides: every second, fourth and eighth frame.
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

ERROR_RATES = (0.0, 0.02, 0.05, 0.1, 0.2)
CANDIDATES = make_candidates(("mean+std+max",), ("linear",))


def fit_classifier(known: LabeledFeatures, error: float, folder: Path) -> registry.Model:
    """Fit a classifier with early-exit thresholds for a rate of errors."""
    data, *_ = train_classifier(known, CANDIDATES, "few", early_exit_error=error)
    path = folder / f"few-{error}.onnx"
    path.write_bytes(data)
    return registry.load_model(str(path), "classifier")


def row(name: str, fraction: float, accuracy: float) -> dict[str, Any]:
    """Format one point of the curve."""
    return {"frames": name, "frame_fraction": round(fraction, 3), "accuracy": round(accuracy, 3)}


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot accuracy against frames for both methods."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for kind in ("adaptive", "fixed"):
        points = [(r["frame_fraction"], r["accuracy"]) for r in rows if r["frames"].startswith(kind)]
        axes.plot(*zip(*sorted(points), strict=True), "o-", label=kind)
    axes.set(xlabel="fraction of processed frames", ylabel="accuracy on KERC 2020, validation part")
    axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure accuracy and fraction of frames, and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kerc", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="needs matplotlib")
    arguments = parser.parse_args()
    known = kerc.load_features(arguments.kerc, arguments.cache, strides=STRIDES)
    validation, truth = known.split(("val",)), known.split(("val",)).truth
    points = []
    with tempfile.TemporaryDirectory() as folder:
        for error in ERROR_RATES:
            model = fit_classifier(known, error, Path(folder))
            few = evaluate_model(known, model, adaptive=True)["early_exit"]
            points.append(row(f"adaptive, {100 * error:g} % may be wrong", few["frame_fraction"], few["accuracy"]))
    for stride in (*reversed(STRIDES), 1):
        predicted = predict_with_model(validation, model, stride=stride)
        correct = np.isfinite(predicted).all(axis=1) & (np.nan_to_num(predicted).argmax(axis=1) == truth)
        frames = np.ceil(validation.table.counts / stride).sum() / validation.table.counts.sum()
        points.append(row(f"fixed, one of {stride}", float(frames), float(correct.mean())))
    show(points, arguments.json)
    if arguments.plot:
        plot(points, arguments.plot)


if __name__ == "__main__":
    main()
