"""Whether learning four tasks at once helps: one network for all of them against four of the same size for one each.

python benchmarks/joint.py --data SETS --weights faceres.json --runs FOLDER [--seeds 3] [--json FILE]

After Saroop et al. (arXiv 2110.15028), whose faces carry all four labels. Here those of FER+ have votes and those of
UTKFace age, gender and ethnicity; what a face lacks is either left out of the loss (masked), or filled with what the
masked network of the same seed answers (filled, `models/recipes/joint4.json`). A step shows every network the same
number of faces of a task, so a single network sees no less of its task than the joint ones. Measured in float32 on
the test splits, FER+ PrivateTest and UTKFace. Figures are means over the seeds with 95 % intervals by bootstrap over
pictures; differences are paired by picture. A run that is in the folder already is continued, not begun anew.
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
from fervid.training.faces import DatasetPaths, FaceDataset
from fervid.training.losses import TaskWeights
from fervid.training.predict import load_run, predict, pseudo_label

JOINT4 = Path(__file__).parent.parent / "models/recipes/joint4.json"
NONE = TaskWeights(*[0.0] * 8)
TASKS = ("expression", "age", "gender", "ethnicity")
Marks = Mapping[str, NDArray[np.float64]]


def recipes() -> dict[str, TrainConfig]:
    """The variants; the last is begun when the masked one is finished."""
    joint = TrainConfig.from_json(JOINT4)
    told = {"expression": ("expression",), "age": ("age", "years"), "gender": ("gender",), "ethnicity": ("ethnicity",)}
    single = {
        task: replace(
            joint,
            expressions=joint.expressions if task == "expression" else 0,
            attributes=0 if task == "expression" else joint.attributes,
            weights=replace(NONE, **{name: getattr(joint.weights, name) for name in names}),
        )
        for task, names in told.items()
    }
    return {**single, "masked": joint, "filled": joint}


def few(data: TrainingSets) -> TrainingSets:
    """The same to learn from, with little of what is only watched or tells people apart: neither is measured here."""
    some = slice(0, 200)
    kept = np.concatenate(
        [data.initial_embeddings[: len(data.attributes)], data.initial_embeddings[len(data.attributes) :][some]]
    )
    watched = {name: getattr(data, name)[some] for name in ("valid_expressions", "valid_attributes", "people")}
    return replace(data, initial_embeddings=kept, **watched)


def trained(name: str, seed: int, data: TrainingSets, weights: mobilenet.NamedTensors, runs: Path) -> Path:
    """The finished run of a variant."""
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


def marks(path: Path, votes: FaceDataset, portraits: FaceDataset) -> Marks:
    """Of each picture whether a run is right; of age by how many years it is wrong."""
    recipe, network, _ = load_run(path)
    shown, told = predict(network, votes, recipe.size), predict(network, portraits, recipe.size)
    years = losses.expected_years(torch.from_numpy(told["age"])).numpy()
    return {
        "expression": (shown["expression"].argmax(axis=1) == votes.votes.argmax(axis=1)).astype(float),
        "age": np.abs(years - portraits.age).astype(float),
        "gender": ((told["gender"] > 0) == (portraits.gender == 0)).astype(float),
        "ethnicity": (told["ethnicity"].argmax(axis=1) == portraits.ethnicity).astype(float),
    }


def row(task: str, way: str, ours: NDArray[np.float64], single: NDArray[np.float64]) -> dict[str, Any]:
    """How a way does at a task, and how much better than the network for it alone.

    Args:
        task: One of `TASKS`.
        way: Its name.
        ours: (seeds, n) marks of the pictures.
        single: The same of the network for that task alone.
    """
    scale, unit = (1.0, " y") if task == "age" else (100.0, " %")

    def told(figure: Mapping[str, Any]) -> str:
        low, high = figure["interval"]
        return f"{figure['value'] * scale:.2f}{unit} ({low * scale:.2f} to {high * scale:.2f})"

    def measure(rows: NDArray[np.int64]) -> dict[str, float]:
        value, other = ours[:, rows].mean(), single[:, rows].mean()
        return {"value": value, "difference": other - value if task == "age" else value - other}

    found = bootstrap(ours.shape[1], measure)
    seeds = ", ".join(f"{value * scale:.2f}" for value in ours.mean(axis=1))
    better = "" if way == "single" else told(found["difference"])
    return {"task": task, "way": way, "mean over seeds": told(found["value"]), "seeds": seeds, "better by": better}


def table(found: Callable[[str, int], Marks], seeds: range) -> list[dict[str, Any]]:
    """Every task by every way, the single network first.

    Args:
        found: Name and seed of a variant to its marks.
        seeds: Of the runs.
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
    parser.add_argument("--cache", type=Path, help="by default cache/ in the folder of the data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    sources, cache = DatasetPaths(arguments.data), arguments.cache or arguments.data / "cache"
    weights = mobilenet.read_tensorflowjs(arguments.weights)
    data = few(TrainingSets.read(sources, cache, weights))
    votes = faces.read_ferplus(sources.ferplus, sources.fer2013, "PrivateTest", cache)
    portraits = faces.read_utkface(sources.utkface, 0, cache)
    seeds = range(2021, 2021 + arguments.seeds)
    found = {
        (name, seed): marks(trained(name, seed, data, weights, arguments.runs), votes, portraits)
        for seed in seeds
        for name in recipes()
    }
    show(table(lambda name, seed: found[name, seed], seeds), arguments.json)


if __name__ == "__main__":
    main()
