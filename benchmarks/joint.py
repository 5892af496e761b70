"""Compare a network for expression, age, gender and ethnicity with one for expression only, on RAF-DB.

python benchmarks/joint.py --data SETS --weights faceres.json --runs FOLDER [--seeds 3] [--json FILE]

After Saroop et al. (arXiv 2110.15028), whose faces have all labels. This copy of RAF-DB has expressions only, so the
other labels are the predictions of the shipped network (filled), or come from UTKFace, whose faces are added to each
batch and have no expression in the loss (masked). All networks start from the same face-recognition weights and see
the same RAF-DB faces. They are evaluated in float32 on the test split of RAF-DB, and the other outputs on that of
UTKFace. Intervals (95 %) are bootstrapped over images, and so are the differences to the network for expression only;
p is that of a paired sign-flip test. Runs in the folder are resumed.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from network import format_interval, show
from numpy.typing import NDArray

from fervid.analysis.face_model import FaceModel
from fervid.learn.metrics import bootstrap, confusion, macro_scores
from fervid.learn.significance import sign_flip_test
from fervid.models import registry
from fervid.training import augment, faces, fit, losses, mobilenet
from fervid.training.batches import TrainingSets
from fervid.training.config import TrainConfig
from fervid.training.dataset_paths import DatasetPaths
from fervid.training.faces import FaceDataset
from fervid.training.ferplus import CLASSES
from fervid.training.losses import TaskWeights
from fervid.training.predict import load_run, predict

RECIPE = Path(__file__).parent.parent / "models/recipes/joint-rafdb.json"
TEACHER = "mobilenetv1-fp32"
METHODS = ("expression only", "joint, filled", "joint, masked")
FIRST_SEED = 2021


def make_recipe(method: str, seed: int) -> TrainConfig:
    """Make the recipe of one of `METHODS`."""
    joint = replace(TrainConfig.from_json(RECIPE), seed=seed)
    if method == "joint, masked":
        return joint
    recipe = replace(joint, attribute_faces=0)
    if method == "joint, filled":
        return recipe
    return replace(recipe, weights=TaskWeights(joint.weights.expression, *[0.0] * 8))


def fill_attributes(dataset: FaceDataset, network: registry.Model) -> FaceDataset:
    """Label the age, gender and ethnicity of faces with the predictions of a network."""
    model, size = FaceModel(network.session, network.card), network.card["input"]["size"]
    outputs = [model(augment.crop_to_input(crop, size)[None]) for crop in dataset.crops]
    age, gender, ethnicity = (
        np.concatenate([getattr(output, name) for output in outputs]) for name in ("age", "gender", "ethnicity")
    )
    male = gender >= network.card["genders"]["male"]
    return replace(
        dataset,
        age=age.round().astype(np.int64),
        gender=(~male).astype(np.int64),
        ethnicity=ethnicity.argmax(axis=1),
    )


def read_sets(sources: DatasetPaths, cache: Path) -> TrainingSets:
    """Read RAF-DB as the set with expressions, and UTKFace, both without copies of test faces."""
    rafdb, utkface = faces.read_unseen(sources, cache)
    return TrainingSets(
        expressions=rafdb,
        attributes=utkface,
        people=utkface[:0],
        initial_embeddings=np.zeros((len(utkface), 1), np.float32),
        valid_expressions=faces.read_expressions(sources, "rafdb", "valid", cache).faces,
        valid_attributes=faces.read_utkface(sources.utkface, 1, cache)[:200],
    )


def train(recipe: TrainConfig, data: TrainingSets, weights: mobilenet.NamedTensors, path: Path) -> None:
    """Train a run, or resume it."""
    run = fit.make_trainer(recipe, fit.initial_weights(recipe, weights), data)
    for report in run.run(path):
        print(path.stem, f"step {report['step']}: {report['accuracy_all']:.2%} of the validation faces", flush=True)


def predict_tests(path: Path, rafdb: FaceDataset, utkface: FaceDataset) -> dict[str, NDArray[Any]]:
    """Return the predicted class of each RAF-DB face, and the score of each UTKFace face by attribute.

    The scores are the absolute error of age in years, and whether gender and ethnicity are correct.
    """
    recipe, network, _ = load_run(path)
    attributes = predict(network, utkface, recipe.size)
    years = losses.expected_years(torch.from_numpy(attributes["age"])).numpy()
    return {
        "expression": predict(network, rafdb, recipe.size)["expression"].argmax(axis=1),
        "age": np.abs(years - utkface.age),
        "gender": (attributes["gender"] > 0) == (utkface.gender == 0),
        "ethnicity": attributes["ethnicity"].argmax(axis=1) == utkface.ethnicity,
    }


def make_row(
    method: str, truth: NDArray[np.int64], predicted: NDArray[np.int64], single: NDArray[np.int64]
) -> dict[str, Any]:
    """Make the row of a method from true classes (n,) and its predictions (seeds, n).

    `single` (seeds, n) are the predictions of the networks for expression only.
    """
    correct, reference = predicted == truth, single == truth

    def measure(rows: NDArray[np.int64]) -> dict[str, float]:
        recalls = [macro_scores(confusion(truth[rows], seed[rows], len(CLASSES)))["uar"] for seed in predicted]
        accuracy = correct[:, rows].mean()
        return {
            "accuracy": accuracy,
            "recall": float(np.mean(recalls)),
            "difference": accuracy - reference[:, rows].mean(),
        }

    figures = bootstrap(len(truth), measure)
    row = {
        "method": method,
        "accuracy": format_interval(figures["accuracy"], ".2%", 1),
        "seeds": ", ".join(f"{seed.mean():.2%}" for seed in correct),
        "mean recall": format_interval(figures["recall"], ".2%", 1),
    }
    if method == METHODS[0]:
        return {**row, "difference": "", "p": ""}
    gains = correct.mean(axis=0) - reference.mean(axis=0)
    p = sign_flip_test(gains, np.arange(len(truth)))
    return {**row, "difference": format_interval(figures["difference"], ".2%", 1), "p": f"{p:.4f}"}


def main() -> None:
    """Train, evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="cache folder; default: DATA/cache")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    sources, cache = DatasetPaths(arguments.data), arguments.cache or arguments.data / "cache"
    weights, data = mobilenet.read_tensorflowjs(arguments.weights), read_sets(sources, cache)
    filled = replace(data, expressions=fill_attributes(data.expressions, registry.load_model(TEACHER, "face_model")))
    rafdb, utkface = (
        faces.read_expressions(sources, "rafdb", "test", cache).faces,
        faces.read_utkface(sources.utkface, 0, cache),
    )
    tests: dict[str, list[dict[str, NDArray[Any]]]] = {method: [] for method in METHODS}
    for seed in range(FIRST_SEED, FIRST_SEED + arguments.seeds):
        for method in METHODS:
            path = arguments.runs / f"{method.replace(', ', '-').replace(' ', '-')}-{seed}.safetensors"
            train(make_recipe(method, seed), filled if method == "joint, filled" else data, weights, path)
            tests[method].append(predict_tests(path, rafdb, utkface))
    expressions = {method: np.stack([run["expression"] for run in runs]) for method, runs in tests.items()}
    rows = []
    for method, runs in tests.items():
        row = make_row(method, rafdb.votes.argmax(axis=1), expressions[method], expressions[METHODS[0]])
        joint = method != METHODS[0]
        rows.append(
            row
            | {
                name: f"{np.mean([run[name] for run in runs]):.4g}" if joint else ""
                for name in ("age", "gender", "ethnicity")
            }
        )
    show(rows, arguments.json)


if __name__ == "__main__":
    main()
