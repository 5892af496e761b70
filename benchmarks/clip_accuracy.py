"""Measure accuracy on clips of real people: the shipped classifiers, baselines, `fervid train`, and identities.

    python benchmarks/clip_accuracy.py --data sets/

Prints the tables of "Clips of real people" in benchmarks/README.md. Java-SED is a development set on which the shipped
classifier was fitted; its rows say whether they are cross-validated.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.metrics.cluster import pair_confusion_matrix

from fervid.analysis.baseline import IDENTITY, identify_people
from fervid.analysis.extractor import load_extractor
from fervid.analysis.face_model import FaceModel
from fervid.core.records import FloatArray
from fervid.learn.candidate_choice import make_default_candidates
from fervid.learn.dataset import Dataset
from fervid.learn.labeled_features import label_features
from fervid.learn.training import train_classifier
from fervid.models import registry
from fervid.training import lfw
from fervid.training.clip_sets import DEVELOPMENT, KERC, SFEW, ClipSet, read_clip_sets
from fervid.training.dataset_paths import DatasetPaths
from fervid.training.faces import crop_all
from fervid.training.train_emotion_classifier import (
    cross_validate,
    read_rafdb_logits,
    subtract_baseline,
    to_labelled_logits,
)

MIN_PHOTOS = 5  # minimum number of photographs per person of LFW


def classify(known: ClipSet, name: str) -> FloatArray:
    """Compute probabilities (n, 8) with a shipped classifier."""
    model = registry.load_model(name, "classifier", 1)
    rows = known.table.matrix(model.card["statistics"])
    return np.asarray(model.session.run(["probabilities"], {"features": rows})[0], np.float32)


def measure_shipped(sets: Mapping[str, ClipSet], sources: DatasetPaths, cache: Path, network: str) -> list[list[str]]:
    """Measure the shipped classifiers; rows of set, method and figures."""
    acted, scenes, stills = sets[DEVELOPMENT], sets[KERC], read_rafdb_logits(sources, cache, network)
    model = registry.load_model(registry.DEFAULTS["classifier"], "classifier", 1)
    usual = np.array(model.card["average_logits"]["person"], np.float32)

    def relative(known: ClipSet) -> FloatArray:
        return np.asarray(
            model.session.run(["probabilities"], {"features": subtract_baseline(known, usual)})[0], np.float32
        )

    methods = [
        (
            DEVELOPMENT,
            "emotion8, cross-validated by person",
            cross_validate(acted, [to_labelled_logits(scenes), stills]),
        ),
        (DEVELOPMENT, "emotion8 --baseline person", relative(acted)),
        (KERC, "emotion8, cross-validated by person", cross_validate(scenes, [to_labelled_logits(acted), stills])),
        (KERC, "emotion8 --baseline person", relative(scenes)),
        (SFEW, "emotion8, whole film frames", classify(sets[SFEW], "emotion8")),
        *((name, "probabilities averaged (mean8)", classify(known, "mean8")) for name, known in sets.items()),
    ]
    return [[name, method, *_figures(sets[name].evaluate(predictions))] for name, method, predictions in methods]


def _figures(report: Mapping[str, Any]) -> list[str]:
    recall, error = report["mean_recall"], report["calibration_error"]
    low, high = recall["interval"] or (np.nan, np.nan)
    return [f"{recall['value']:.1%}", f"{low:.1%} to {high:.1%}", f"{error:.1%}", str(report["clips"])]


def measure_trained(sets: Mapping[str, ClipSet]) -> list[list[str]]:
    """Measure the classifiers that `fervid train` makes of each set by default; rows of set, method and figures.

    Folds are by person; in the set of five people, each is held out once.
    """
    rows = []
    for name in (DEVELOPMENT, KERC):
        table = sets[name].table
        found = Dataset(name, (*table.samples, *table.no_face_samples))
        for center, method in ((None, "fervid train"), ("person", "fervid train --center person")):
            known = label_features(found, table, center=center)
            methods = make_default_candidates(table.statistics.keys(), centered=center is not None)
            evaluations = train_classifier(known, methods, "trained").evaluations
            rows += [[f"{name}, {part}", method, *_trained_figures(report)] for part, report in evaluations.items()]
    return rows


def _trained_figures(report: Mapping[str, Any]) -> list[str]:
    report_all = {"mean_recall": report["all"]["uar"], "calibration_error": report["calibration"]["error"]}
    return _figures({**report_all, "clips": report["clips"]})


def score_pairs(predicted: NDArray[np.int64], truth: Sequence[str]) -> tuple[float, float, float]:
    """Compute precision, recall and F1 of "the same person" over all pairs of clips."""
    (_, false_positive), (false_negative, true_positive) = pair_confusion_matrix(truth, predicted)
    precision = true_positive / max(true_positive + false_positive, 1)
    recall = true_positive / max(true_positive + false_negative, 1)
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-9)


def measure_identities(sets: Mapping[str, ClipSet], sources: DatasetPaths, network: str) -> list[list[str]]:
    """Measure the clustering of people; rows of set, people, clips and figures."""
    extractor = load_extractor(face_model=network)
    table = sets[DEVELOPMENT].table
    people = [str(sample.person) for sample in table.samples]
    names, vectors = _lfw_identities(sources.lfw, network)
    rows = []
    for name, truth, identities, frames in (
        (DEVELOPMENT, people, table.statistics[IDENTITY], table.counts),
        ("LFW, photographs", names, vectors, np.ones(len(names))),
    ):
        found = identify_people(identities, range(len(truth)), frames, extractor.tracker_config.min_person_similarity)
        figures = [f"{value:.1%}" for value in score_pairs(found, truth)]
        rows.append([name, str(len(set(truth))), str(len(truth)), str(found.max() + 1), *figures])
    return rows


def _lfw_identities(folder: Path, network: str) -> tuple[list[str], FloatArray]:
    photos = sorted(folder.rglob("*.jpg"))
    folders = [path.parent.name for path in photos]
    chosen = [path for path in photos if folders.count(path.parent.name) >= MIN_PHOTOS]
    model = registry.load_model(network, "face_model", 2)
    find_face = lfw.make_central_face_finder()
    crops, rows = crop_all(chosen, find_face, model.card["input"]["size"], model.card["margin"])
    return [chosen[i].parent.name for i in rows], FaceModel(model.session, model.card)(np.stack(crops)).identity


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*row)
    Console(width=140).print(table)


def main() -> None:
    """Read the sets and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--cache", type=Path, help="cache folder of features and crops; default: DATA/cache")
    parser.add_argument("--face-model", default=registry.DEFAULTS["face_model"])
    arguments = parser.parse_args()
    sources, cache = DatasetPaths(arguments.data), arguments.cache or arguments.data / "cache"
    sets = read_clip_sets(sources, cache / "features", arguments.face_model)
    columns = ("set", "method", "mean recall", "95 % interval", "calibration error", "clips")
    show("Shipped classifiers", columns, measure_shipped(sets, sources, cache, arguments.face_model))
    show("fervid train, by default", columns, measure_trained(sets))
    columns = ("set", "people", "clips", "people found", "precision", "recall", "F1 of pairs")
    show("Identity across clips", columns, measure_identities(sets, sources, arguments.face_model))


if __name__ == "__main__":
    main()
