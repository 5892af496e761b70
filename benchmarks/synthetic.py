"""Train on synthetic faces only: one or two branches, with and without mixing, ensembles, and a blend.

python benchmarks/synthetic.py --data SETS --backbones FOLDER --runs FOLDER [--steps N]
    [--mixing none mixup mixaugment] [--json FILE]

After Jeong et al. (arXiv 2207.10025): `fervid.training.two_branch` is trained on the faces of
`fervid.training.expression_transfer` and tested on real ones, those of RAF-DB test and FER+ PrivateTest with more than
half of the votes for one of the six expressions. MobileNetV1 starts from the shipped network; the other backbones start
from NAME.safetensors in the folder of `--backbones`, into which backbones.py distilled it. Figures are macro F1 with
95 % bootstrap intervals over images; differences are paired by image. An ensemble averages the probabilities of three
backbones. A blend is the weighted average of an ensemble and the shipped network, for the same six expressions. Runs in
the folder are resumed; another value of `--steps` needs another folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from network import format_interval, show
from numpy.typing import NDArray

from fervid.analysis.face_model import BATCH
from fervid.core.records import FloatArray
from fervid.learn.metrics import bootstrap, confusion, per_class_scores
from fervid.models import registry
from fervid.training import augment, expression_transfer, faces, two_branch
from fervid.training.dataset_paths import DatasetPaths
from fervid.training.expression_transfer import EXPRESSIONS, INDEX, Synthetic
from fervid.training.faces import FaceDataset
from fervid.training.network import to_tensor
from fervid.training.two_branch import TwoBranchConfig

TWO_BRANCH = Path(__file__).parent.parent / "models/recipes/two-branch.json"
BACKBONES = ("mobilenetv1", "efficientnet_lite0", "mobilenetv2_100")
Mixing: TypeAlias = Literal["none", "mixaugment", "mixup"]
MIXING: tuple[Mixing, ...] = get_args(Mixing)
GENERAL = 0.7  # weight of the shipped network in a blend
Variant: TypeAlias = tuple[str, str, str]  # backbone, branches, mixing


def recipes(two: TwoBranchConfig, mixings: Sequence[Mixing] = MIXING) -> dict[Variant, TwoBranchConfig]:
    """Make the recipe of each variant."""
    return {
        (backbone, way, mixing): replace(two, backbone=backbone, appearance_weight=weight, mixing=mixing)
        for mixing in mixings
        for way, weight in (("one", 0.0), ("two", two.appearance_weight))
        for backbone in BACKBONES
    }


def start_path(backbone: str, folder: Path) -> Path:
    """Return the file with the initial weights of a backbone: the shipped network, or what it was distilled into."""
    if backbone == "mobilenetv1":
        return registry.load_model("mobilenetv1-fp32", "face_model").path
    return folder / f"{backbone}.safetensors"


def train(recipe: TwoBranchConfig, made: Synthetic, start: Path, path: Path) -> None:
    """Train or resume a variant."""
    for progress in two_branch.train(recipe, made, two_branch.initial_weights(recipe, None, start), path):
        print(path.stem, {name: round(value, 3) for name, value in progress.items()}, flush=True)


def probabilities(path: Path, real: FaceDataset) -> FloatArray:
    """Compute the probabilities (n, 6) of a run for faces."""
    recipe, network, _ = two_branch.load_network(path)
    parts = []
    for start in range(0, len(real), BATCH):
        crops = augment.crops_to_inputs(real.crops[start : start + BATCH], recipe.size)
        with torch.no_grad():
            parts.append(network(to_tensor(crops)).expression.softmax(1).numpy())
    return np.concatenate(parts)


def predict_shipped(real: FaceDataset) -> FloatArray:
    """Compute the probabilities (n, 6) of the shipped network, normalised over the six expressions."""
    six = expression_transfer.teacher_outputs(real.crops).expression[:, INDEX]
    return np.asarray(six / six.sum(axis=1, keepdims=True), np.float32)


def select_test_faces(votes: FaceDataset) -> tuple[FaceDataset, NDArray[np.int64]]:
    """Select faces with a majority for one of the six expressions, with labels (n,)."""
    label = votes.votes.argmax(axis=1)
    rows = (votes.votes.max(axis=1) > 0.5) & np.isin(label, INDEX)
    numbers = np.full(votes.votes.shape[1], -1)
    numbers[INDEX] = np.arange(len(INDEX))
    return votes[rows], numbers[label[rows]]


def macro_f1(labels: NDArray[np.int64], predictions: NDArray[np.int64]) -> float:
    """Compute the mean F1 of the six expressions."""
    return float(per_class_scores(confusion(labels, predictions, len(EXPRESSIONS)))["f1_each"].mean())


def row(name: str, ours: FloatArray, labels: NDArray[np.int64], best: FloatArray) -> dict[str, Any]:
    """Make a row with macro F1, and its difference to the best network with one branch."""
    predictions, others = ours.argmax(axis=1), best.argmax(axis=1)

    def measure(rows: NDArray[np.int64]) -> dict[str, float]:
        value = macro_f1(labels[rows], predictions[rows])
        return {"value": value, "better": value - macro_f1(labels[rows], others[rows])}

    found = bootstrap(len(labels), measure)
    return {
        "what": name,
        "macro F1, %": format_interval(found["value"]),
        "above the best with one branch": format_interval(found["better"]),
    }


def table(found: Mapping[Variant, FloatArray], shipped: FloatArray, labels: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Make rows of every network, the ensembles, the shipped network and the blends."""
    alone = {key: macro_f1(labels, value.argmax(axis=1)) for key, value in found.items()}
    best = found[max((key for key in found if key[1] == "one"), key=lambda key: alone[key])]
    rows = [
        row(f"{backbone}, {way}, {mixing}", found[backbone, way, mixing], labels, best)
        for backbone, way, mixing in found
    ]
    for mixing in dict.fromkeys(mixing for *_, mixing in found):
        for way in ("one", "two"):
            together = average([found[backbone, way, mixing] for backbone in BACKBONES])
            rows.append(row(f"ensemble of three, {way}, {mixing}", together, labels, best))
            for weight in (GENERAL, 1 - GENERAL):
                blend = weight * shipped + (1 - weight) * together
                rows.append(row(f"{1 - weight:.1f} of it, {weight:.1f} of the shipped network", blend, labels, best))
    return [*rows, row("the shipped network", shipped, labels, best)]


def average(parts: Sequence[FloatArray]) -> FloatArray:
    """Average probabilities."""
    return np.asarray(np.mean(parts, axis=0), np.float32)


def main() -> None:
    """Make faces, train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--backbones", type=Path, required=True, help="folder of the runs of backbones.py")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="cache folder; default: DATA/cache")
    parser.add_argument("--steps", type=int, help="steps; default: those of the recipe")
    parser.add_argument("--mixing", nargs="+", choices=MIXING, default=MIXING)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    sources, cache = DatasetPaths(arguments.data), arguments.cache or arguments.data / "cache"
    two = TwoBranchConfig.from_json(TWO_BRANCH)
    made = two_branch.load_synthetic_faces(sources, cache, two)
    variants = recipes(replace(two, steps=arguments.steps or two.steps), arguments.mixing)
    runs = {key: arguments.runs / f"{'-'.join(key)}.safetensors" for key in variants}
    for key, recipe in variants.items():
        train(recipe, made, start_path(recipe.backbone, arguments.backbones), runs[key])
    tests = {
        "RAF-DB": faces.read_expressions(sources, "rafdb", "test", cache).faces,
        "FER+": faces.read_ferplus(sources.ferplus, sources.fer2013, "PrivateTest", cache),
    }
    rows = []
    for name, votes in tests.items():
        real, labels = select_test_faces(votes)
        found = {key: probabilities(path, real) for key, path in runs.items()}
        rows += [{"set": name, **line} for line in table(found, predict_shipped(real), labels)]
    show(rows, arguments.json)


if __name__ == "__main__":
    main()
