"""Distil the shipped network into the backbones of Savchenko's table: accuracy on faces and clips, time and size.

python benchmarks/backbones.py --data SETS --weights faceres.json --runs FOLDER --kerc DATA [--pretrained FOLDER]
    [--cache FOLDER] [--features CACHE] [--only NAME...] [--json FILE]

After Savchenko (arXiv 2103.17107). The script runs the equivalent of two commands for every backbone:

    fervid network train --recipe models/recipes/backbones.json --backbone NAME --data SETS --weights faceres.json
        --teacher mobilenetv1-fp32 -o FOLDER/NAME.safetensors
    fervid network export FOLDER/NAME.safetensors --data SETS -o FOLDER/NAME.onnx

All are trained for the same steps on the same faces: four fifths of each expression label are the prediction of the
shipped network, which also labels the faces without one. Runs in the folder are resumed, and finished ones are
skipped. `mobilenetv1` starts from face-recognition weights. The others are from timm and start from NAME.safetensors in
the folder of `--pretrained`, which imagenet.py writes, or from random weights, as does `mobilenetv1_100`, the same
network as `mobilenetv1`. Accuracy is measured on the exported files and the test splits. The film clips are those of
KERC 2020: mean, standard deviation and maximum of the embedding over the faces of the main person, and a linear
classifier, cross-validated by person. The shipped network tracks the person, so that all backbones get the same faces.
The time per face is measured at the size of the recipe and at the original size of the backbone; for the latter only
the time, which does not depend on the weights. All intervals are 95 % bootstrap intervals.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from network import THREADS, format_interval, milliseconds, show

from fervid.analysis.aggregate import ClipObservations
from fervid.analysis.align import MARGIN, align_face
from fervid.analysis.extractor import Extractor, load_extractor
from fervid.analysis.face_model import FaceModel
from fervid.analysis.tracker import Tracker
from fervid.core.records import Face, FaceOutputs, FloatArray, Frame, Image
from fervid.learn import dataset
from fervid.learn.candidate_choice import nested_cv_predict
from fervid.learn.clip_files import frame_files
from fervid.learn.figures import find_figure
from fervid.learn.labeled_features import LabeledFeatures
from fervid.learn.model_selection import TrainingData, make_candidates
from fervid.media.video import read_image_sequence
from fervid.models import registry
from fervid.training import checkpoint, export, fit, kerc, mobilenet
from fervid.training.batches import TrainingSets
from fervid.training.config import TrainConfig
from fervid.training.dataset_paths import DatasetPaths
from fervid.training.evaluate import Tests
from fervid.training.model_card import save_with_card
from fervid.training.network import build
from fervid.training.predict import load_teacher

RECIPE = Path(__file__).parent.parent / "models/recipes/backbones.json"
TEACHER = "mobilenetv1-fp32"
BACKBONES: Mapping[str, int] = {  # name -> original image size in pixels
    "mobilenetv1": 224,
    "mobilenetv1_100": 224,
    "mobilenetv2_100": 224,
    "efficientnet_lite0": 224,
    "efficientnet_b0": 224,
    "rexnet_150": 224,
    "efficientnet_b2": 260,
}
FIGURES = {
    "FER+ all, %": {"dataset": "FER+", "metric": "accuracy_all"},
    "FER+ majority, %": {"dataset": "FER+", "metric": "accuracy_majority"},
    "mean recall, %": {"dataset": "FER+", "metric": "mean_recall"},
    "RAF-DB, %": {"dataset": "RAF-DB", "protocol": "original images", "metric": "accuracy"},
    "RAF-DB mean recall, %": {"dataset": "RAF-DB", "protocol": "original images", "metric": "mean_recall"},
    "SFEW mean recall, %": {"dataset": "SFEW", "metric": "mean_recall"},
    "Java-SED mean recall, %": {"dataset": "Java-SED", "metric": "mean_recall"},
    "age, years": {"dataset": "UTKFace", "metric": "age_mae"},
    "gender, %": {"dataset": "UTKFace", "metric": "gender_accuracy"},
    "ethnicity, %": {"dataset": "UTKFace", "metric": "ethnicity_accuracy"},
    "LFW, %": {"dataset": "LFW", "protocol": "10-fold verification by embedding", "metric": "accuracy"},
}
STATISTICS = ("mean", "std", "max")


def both(path: Path) -> tuple[Path, Path]:
    """Return the path of the float32 file next to an int8 file, and that of the int8 file."""
    return path.with_name(f"{path.stem}-fp32.onnx"), path


def pretrained(name: str, folder: Path | None) -> Path | None:
    """Return the file of initial weights of a backbone, or None."""
    path = folder / f"{name}.safetensors" if folder else None
    return path if path and path.exists() else None


def finished(run: Path, recipe: TrainConfig, weights: Path | None) -> bool:
    """Check whether a run with this recipe and these initial weights is finished; its data are not compared."""
    if not run.exists():
        return False
    about, step, _ = checkpoint.load(run)
    earlier = {"pretrained": fit.digest(weights)} if weights else None
    return bool(about["recipe"] == asdict(recipe) and about["earlier"] == earlier and step >= recipe.steps)


def train(names: Sequence[str], arguments: argparse.Namespace) -> None:
    """Train the backbones whose runs are not finished."""
    paths = {name: arguments.runs / f"{name}.safetensors" for name in names}
    recipes = {name: replace(TrainConfig.from_json(RECIPE), backbone=name) for name in names}
    given = {name: pretrained(name, arguments.pretrained) for name in names}
    missing = [name for name in names if not finished(paths[name], recipes[name], given[name])]
    if not missing:
        return
    weights, cache = mobilenet.read_tensorflowjs(arguments.weights), arguments.cache or arguments.data / "cache"
    starts = {name: fit.initial_weights(recipes[name], weights, pretrained=given[name]) for name in missing}
    data = TrainingSets.read(
        DatasetPaths(arguments.data), cache, weights, [load_teacher(TEACHER)], TrainConfig.from_json(RECIPE)
    )
    for name in missing:
        print(f"{name} starts from {origin(name, starts[name].earlier)}", flush=True)
        run = fit.make_trainer(recipes[name], starts.pop(name), data)
        for figures in run.run(paths[name]):
            print(name, {figure: round(float(value), 4) for figure, value in figures.items()}, flush=True)


def origin(name: str, earlier: Mapping[str, Any] | None) -> str:
    """Name the data of the initial weights of a backbone."""
    return "faces" if name == "mobilenetv1" else "ImageNet" if earlier else "chance"


def write(names: Sequence[str], arguments: argparse.Namespace) -> None:
    """Export the runs that have no file yet."""
    missing = [name for name in names if not (arguments.runs / f"{name}.onnx").exists()]
    if not missing:
        return
    sources, cache = DatasetPaths(arguments.data), arguments.cache or arguments.data / "cache"
    tests = Tests.read(sources, TrainConfig.from_json(RECIPE).size)
    for name in missing:
        with tempfile.TemporaryDirectory(dir=arguments.runs) as folder:  # so that only complete files appear in `runs`
            made = Path(folder) / f"{name}.onnx"
            export.export([arguments.runs / f"{name}.safetensors"], sources, cache, made, tests=tests)
            for file in both(made):
                file.replace(arguments.runs / file.name)


def export_random(name: str, size: int, folder: Path) -> list[registry.Model]:
    """Export a backbone with random weights for another image size, in float32 and int8, for timing."""
    torch.manual_seed(0)
    network = build(name).eval()
    crops = np.random.default_rng(0).integers(0, 256, (9, size, size, 3), np.uint8)
    files = both(folder / f"{name}-{size}.onnx")
    about = {**export.CARD, **export.card(name, network, size)}
    save_with_card(export.to_onnx(network, size), about, files[0])
    export.save_quantised(files[0], about, files[1], crops)
    return [registry.load_model(str(file), "face_model", THREADS) for file in files]


def main_person(path: Path, extractor: Extractor) -> list[tuple[Frame, Face, FaceOutputs]]:
    """Find the faces of the main person of a clip, each with its frame and the outputs of the network."""
    frames = list(read_image_sequence(frame_files(path)))
    tracker, seen, faces = Tracker(extractor.tracker_config), ClipObservations(), []
    for frame, one in zip(frames, extractor.observe_frames(frames), strict=True):
        numbers = tracker.update(one.time, one.faces, one.outputs.identity)
        seen.add(one, numbers)
        faces += [
            (number, frame, face, one.outputs[[i]])
            for i, (number, face) in enumerate(zip(numbers, one.faces, strict=True))
        ]
    groups = tracker.group_identities()
    seen.finalize_people(groups)
    main = next((group for group in groups if seen.people and min(group) == seen.people[0].number), ())
    return [(frame, face, scores) for number, frame, face, scores in faces if number in main]


def clip(path: Path, extractor: Extractor, size: int) -> Image:
    """Crop the faces of the main person of a clip, (n, size, size, 3); n is 0 without a face."""
    crops = [align_face(frame.image, face, size, MARGIN) for frame, face, _ in main_person(path, extractor)]
    return np.array(crops, np.uint8).reshape(-1, size, size, 3)


def descriptor(embedding: FloatArray) -> FloatArray:
    """Compute mean, standard deviation and maximum (3 d,) of the face embeddings (n, d) of a clip."""
    return np.concatenate([getattr(embedding, name)(axis=0) for name in STATISTICS])


def on_clips(model: registry.Model, clips: Sequence[Image], known: LabeledFeatures) -> Mapping[str, Any]:
    """Measure mean recall over the classes of the clips, with its interval, cross-validated by person.

    `clips` are the crops of the faces of each clip, at least one; `known` has labels and people of the same clips.
    """
    network = FaceModel(model.session, model.card)
    name = "+".join(STATISTICS)
    matrix = np.stack([descriptor(network(faces).embedding) for faces in clips])
    examples = TrainingData({name: matrix}, known.truth, known.groups, known.seed)
    found: Mapping[str, Any] = known.evaluate(nested_cv_predict(examples, make_candidates([name], ["linear"]))[0])[
        "answered"
    ]["uar"]
    return found


def read_clips(folder: Path, features: Path | None, size: int) -> tuple[list[Image], LabeledFeatures]:
    """Read the face crops and the labels of all clips in which the shipped network finds a face."""
    known, extractor = kerc.load_features(folder, features), load_extractor()
    shown = {
        sample.path: clip(sample.path, extractor, size) for sample in dataset.load_dataset(f"kerc2020:{folder}").samples
    }
    kept = np.array([len(shown[sample.path]) > 0 for sample in known.table.samples])
    groups = None if known.groups is None else known.groups[kept]
    known = replace(known, table=known.table[kept], groups=groups)
    return [shown[sample.path] for sample in known.table.samples], known


def text(name: str, figure: Mapping[str, Any] | None) -> str:
    """Format a figure and its interval: fractions in per cent, years unchanged."""
    if figure is None:
        return ""
    return format_interval(figure, ".2f", 1) if "years" in name else format_interval(figure)


def row(name: str, model: registry.Model, uar: Mapping[str, Any]) -> dict[str, Any]:
    """Make the row of a file, without times."""
    card = model.card
    return {
        "backbone": name,
        "from": origin(name, card["earlier"]),
        "steps": card["recipe"]["steps"],
        "size": card["input"]["size"],
        "type": "int8" if "quantised_from" in card else "fp32",
        **{title: text(title, find_figure(card["figures"], **keys)) for title, keys in FIGURES.items()},
        "KERC UAR, %": text("", uar),
        "MB": round(model.path.stat().st_size / 1e6, 1),
    }


def table(
    names: Sequence[str], runs: Path, clips: Sequence[Image], known: LabeledFeatures, repeat: int
) -> list[dict[str, Any]]:
    """Make two rows per backbone, float32 and int8."""
    with tempfile.TemporaryDirectory() as folder:
        rows, trained_models, random_models = [], [], []
        for name in names:
            files = [registry.load_model(str(file), "face_model", THREADS) for file in both(runs / f"{name}.onnx")]
            rows += [row(name, model, on_clips(model, clips, known)) for model in files]
            trained_models += files
            random_models += export_random(name, BACKBONES[name], Path(folder))
        times = milliseconds([*trained_models, *random_models], repeat)
    sizes = [model.card["input"]["size"] for model in random_models]
    spent = zip(rows, times[: len(rows)], times[len(rows) :], sizes, strict=True)
    return [{**one, "ms": short, "ms, original size": f"{long} at {size}"} for one, short, long, size in spent]


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--kerc", type=Path, required=True)
    parser.add_argument("--pretrained", type=Path, help="folder of the files that imagenet.py wrote")
    parser.add_argument("--cache", type=Path, help="cache folder; default: DATA/cache")
    parser.add_argument("--features", type=Path, help="cache folder of the features of fervid")
    parser.add_argument("--only", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    arguments.runs.mkdir(parents=True, exist_ok=True)
    train(arguments.only, arguments)
    write(arguments.only, arguments)
    clips, known = read_clips(arguments.kerc, arguments.features, TrainConfig.from_json(RECIPE).size)
    show(table(arguments.only, arguments.runs, clips, known, arguments.repeat), arguments.json)


if __name__ == "__main__":
    main()
