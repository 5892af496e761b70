"""Compare one network for four tasks with four single-task networks of the same size.

python benchmarks/joint.py --data SETS --weights faceres.json --runs FOLDER [--seeds 3] [--json FILE]

After Saroop et al. (arXiv 2110.15028), whose faces have all four labels. Here, FER+ has votes, and UTKFace has age,
gender and ethnicity. Missing labels are either masked in the loss (masked), or filled with the predictions of the
masked network of the same seed (filled, `models/recipes/joint4.json`). A step has the same number of faces per task
for every network, so a single-task network gets as much data for its task as the joint ones. The networks are evaluated
in float32 on FER+ PrivateTest and the test split of UTKFace. Figures are means over the seeds with 95 % bootstrap
intervals over images; differences are paired by image. Runs in the folder are resumed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from network import show
from numpy.typing import NDArray

from fervid.learn.metrics import bootstrap
from fervid.training import faces, fit, losses, mobilenet
from fervid.training.batches import TrainingSets
from fervid.training.config import TrainConfig
from fervid.training.dataset_paths import DatasetPaths
from fervid.training.faces import FaceDataset
from fervid.training.losses import TaskWeights
from fervid.training.predict import load_run, predict, pseudo_label

JOINT4 = Path(__file__).parent.parent / "models/recipes/joint4.json"
NONE = TaskWeights(*[0.0] * 8)
TASKS = ("expression", "age", "gender", "ethnicity")
Scores = Mapping[str, NDArray[np.float64]]


def recipes() -> dict[str, TrainConfig]:
    """Make the recipes of the variants; the last one needs the finished masked run."""
    joint = TrainConfig.from_json(JOINT4)
    loss_terms = {
        "expression": ("expression",),
        "age": ("age", "years"),
        "gender": ("gender",),
        "ethnicity": ("ethnicity",),
    }
    single = {
        task: replace(
            joint,
            expressions=joint.expressions if task == "expression" else 0,
            attributes=0 if task == "expression" else joint.attributes,
            weights=replace(NONE, **{name: getattr(joint.weights, name) for name in names}),
        )
        for task, names in loss_terms.items()
    }
    return {**single, "masked": joint, "filled": joint}


def reduce_unmeasured(data: TrainingSets) -> TrainingSets:
    """Reduce validation faces and faces with identities, neither of which is measured here; keep all training faces."""
    some = slice(0, 200)
    kept = np.concatenate(
        [data.initial_embeddings[: len(data.attributes)], data.initial_embeddings[len(data.attributes) :][some]]
    )
    reduced = {name: getattr(data, name)[some] for name in ("valid_expressions", "valid_attributes", "people")}
    return replace(data, initial_embeddings=kept, **reduced)


def train_variant(name: str, seed: int, data: TrainingSets, weights: mobilenet.NamedTensors, runs: Path) -> Path:
    """Train or resume a variant, and return its run."""
    path = runs / f"{name}-{seed}.safetensors"
    if name == "filled":
        masked = runs / f"masked-{seed}.safetensors"
        whole = {part: pseudo_label(getattr(data, part), masked) for part in ("expressions", "attributes")}
        data = replace(data, **whole)
    recipe = replace(recipes()[name], seed=seed)
    run = fit.make_trainer(recipe, fit.initial_weights(recipe, weights), data)
    if path.exists():
        run.resume(path)
    for _ in run.run(path):
        pass
    return path


def score(path: Path, votes: FaceDataset, portraits: FaceDataset) -> Scores:
    """Score each image: whether the prediction is correct; for age the absolute error in years."""
    recipe, network, _ = load_run(path)
    emotions, attributes = predict(network, votes, recipe.size), predict(network, portraits, recipe.size)
    years = losses.expected_years(torch.from_numpy(attributes["age"])).numpy()
    return {
        "expression": (emotions["expression"].argmax(axis=1) == votes.votes.argmax(axis=1)).astype(float),
        "age": np.abs(years - portraits.age).astype(float),
        "gender": ((attributes["gender"] > 0) == (portraits.gender == 0)).astype(float),
        "ethnicity": (attributes["ethnicity"].argmax(axis=1) == portraits.ethnicity).astype(float),
    }


def row(task: str, way: str, ours: NDArray[np.float64], single: NDArray[np.float64]) -> dict[str, Any]:
    """Make the row of a method for a task, with its difference to the single-task network.

    Args:
        task: One of `TASKS`.
        way: Name of the method.
        ours: (seeds, n) scores of the images.
        single: (seeds, n) scores of the network for this task only.
    """
    scale, unit = (1.0, " y") if task == "age" else (100.0, " %")

    def format_interval(figure: Mapping[str, Any]) -> str:
        low, high = figure["interval"]
        return f"{figure['value'] * scale:.2f}{unit} ({low * scale:.2f} to {high * scale:.2f})"

    def measure(rows: NDArray[np.int64]) -> dict[str, float]:
        value, other = ours[:, rows].mean(), single[:, rows].mean()
        return {"value": value, "difference": other - value if task == "age" else value - other}

    found = bootstrap(ours.shape[1], measure)
    seeds = ", ".join(f"{value * scale:.2f}" for value in ours.mean(axis=1))
    better = "" if way == "single" else format_interval(found["difference"])
    return {
        "task": task,
        "method": way,
        "mean over seeds": format_interval(found["value"]),
        "seeds": seeds,
        "better by": better,
    }


def table(found: Callable[[str, int], Scores], seeds: range) -> list[dict[str, Any]]:
    """Make rows of every task and method, the single-task network first.

    Args:
        found: Returns the scores for the name and seed of a variant.
        seeds: Seeds of the runs.
    """
    rows = []
    for task in TASKS:
        ways = {"single": task, "joint, masked": "masked", "joint, filled": "filled"}
        columns = {way: np.stack([found(name, seed)[task] for seed in seeds]) for way, name in ways.items()}
        rows += [row(task, way, column, columns["single"]) for way, column in columns.items()]
    return rows


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="cache folder; default: DATA/cache")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    sources, cache = DatasetPaths(arguments.data), arguments.cache or arguments.data / "cache"
    weights = mobilenet.read_tensorflowjs(arguments.weights)
    data = reduce_unmeasured(TrainingSets.read(sources, cache, weights))
    votes = faces.read_ferplus(sources.ferplus, sources.fer2013, "PrivateTest", cache)
    portraits = faces.read_utkface(sources.utkface, 0, cache)
    seeds = range(2021, 2021 + arguments.seeds)
    found = {
        (name, seed): score(train_variant(name, seed, data, weights, arguments.runs), votes, portraits)
        for seed in seeds
        for name in recipes()
    }
    show(table(lambda name, seed: found[name, seed], seeds), arguments.json)


if __name__ == "__main__":
    main()
