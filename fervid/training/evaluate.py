"""Evaluate a network file as it is used: with the ordinary detector, crop and inference.

Test splits and protocols: FER+ PrivateTest against the majority class of the votes; the same images against the FER2013
labels, with the network's output for these; UTKFace's fixed test split; LFW's 6,000 pairs; and the sets of
`expression_evaluation`. Intervals are by bootstrap over images, pairs or actors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fervid.analysis.align import MARGIN, align_face
from fervid.analysis.face_model import BATCH, FaceModel, preprocess
from fervid.core.records import FaceOutputs, FloatArray, Image
from fervid.learn.figures import Figure, list_figures
from fervid.learn.metrics import Rows, bootstrap, confusion, macro_scores
from fervid.models import registry
from fervid.training import lfw, utkface
from fervid.training.dataset_paths import DatasetPaths
from fervid.training.expression_evaluation import ExpressionTests, accuracy_and_recall, recall_by_class
from fervid.training.faces import crop_all, make_close_face_finder
from fervid.training.ferplus import CLASSES, FerPlus, fer2013_labels, read_split, stills_detector
from fervid.training.network import FER2013_CLASSES
from fervid.training.utkface import Portrait

FIRST = "fer2013"


@dataclass(frozen=True, slots=True, eq=False)
class Tests:
    """The test splits, cropped for networks of one input size.

    Attributes:
        ferplus: Images and votes of PrivateTest.
        first: (n,) their FER2013 labels, -1 where unknown.
        portraits: Images of UTKFace with a detected face.
        pairs: Pairs of LFW.
        names: File names of the images in the pairs.
        crops: Crops (n, size, size, 3) by set.
        found: Fraction of images with a detected face by set; that of `ferplus` is in `ferplus.detected`.
        expressions: Additional sets with expressions.
    """

    ferplus: FerPlus
    first: Rows
    portraits: list[Portrait]
    pairs: list[lfw.Pair]
    names: list[str]
    crops: Mapping[str, Image]
    found: Mapping[str, float]
    expressions: ExpressionTests

    @classmethod
    def read(cls, sources: DatasetPaths, size: int, margin: float = MARGIN) -> Tests:
        """Read the test splits and crop their faces, with the margin of the network.

        Raises:
            FileNotFoundError: Images are missing; the message has their number and the first few names.
            ValueError: Images are damaged.
        """
        split = read_split(sources.ferplus, "PrivateTest", stills_detector())
        faces = zip(split.images, split.faces, strict=True)
        portraits = utkface.read_split(sources.utkface, 0)
        cut, rows = crop_all([p.path for p in portraits], make_close_face_finder(utkface.MIN_FACE), size, margin)
        pairs = lfw.read_pairs(sources.pairs)
        names = sorted({name for pair in pairs for name in (pair.first, pair.second)})
        people, found = lfw.crop_images(sources.lfw, names, size, margin)
        return cls(
            split,
            fer2013_labels(sources.fer2013, split.images),
            [portraits[i] for i in rows],
            pairs,
            names,
            {
                "ferplus": np.stack([align_face(image, face, size, margin) for image, face in faces]),
                "utkface": np.stack(cut),
                "lfw": people,
            },
            {"utkface": len(rows) / len(portraits), "lfw": found},
            ExpressionTests.read(sources, size, margin),
        )

    def measure(self, model: registry.Model) -> list[Figure]:
        """Compute all figures of a network.

        Raises:
            ValueError: Its expressions are not those of FER+.
        """
        if tuple(model.card["expressions"]) != CLASSES:
            raise ValueError(f"{model.identity.name} has other expressions than FER+; measure one of its eight")
        network = FaceModel(model.session, model.card)
        crops = self.crops
        people = network(crops["lfw"])
        scores = score_ferplus(network(crops["ferplus"]).expression, self.ferplus)
        figures = list_figures(scores, "FER+", "PrivateTest", "majority of the votes")
        if {"age", "gender", "ethnicity"} <= set(network.outputs):
            scores = score_utkface(network(crops["utkface"]), self.portraits, model.card["genders"]["male"])
            scores["faces_found"] = round(self.found["utkface"], 4)
            figures += list_figures(scores, "UTKFace", "test", "single images")
        if "identity" in network.outputs:
            scores = score_lfw(people.identity, self.names, self.pairs)
            scores["faces_found"] = round(self.found["lfw"], 4)
            figures += list_figures(scores, "LFW", "pairs", "10-fold verification by identity")
        scores = score_lfw(people.embedding, self.names, self.pairs)
        figures += list_figures(scores, "LFW", "pairs", "10-fold verification by embedding")
        if any(output.name == FIRST for output in model.session.get_outputs()):
            scores = score_fer2013(predict_fer2013(model, crops["ferplus"]), self.first)
            figures += list_figures(scores, "FER2013", "PrivateTest", "labels of FER2013")
        return figures + self.expressions.measure(model)


def predict_fer2013(model: registry.Model, crops: Image) -> FloatArray:
    """Compute the probabilities (n, 7) of the FER2013 labels."""
    parts = [
        model.session.run([FIRST], {"crops": preprocess(crops[i : i + BATCH], model.card)})[0]
        for i in range(0, len(crops), BATCH)
    ]
    return np.concatenate(parts)


def score_ferplus(expression: FloatArray, split: FerPlus) -> dict[str, Any]:
    """Score probabilities (n, 8) against the majority class, on all images and on those with an absolute majority."""
    answers, labels, majority = expression.argmax(axis=1), split.labels, split.majority

    def measure(rows: Rows) -> dict[str, float]:
        right, clear = answers[rows] == labels[rows], majority[rows]
        return {
            "accuracy_all": right.mean(),
            "accuracy_majority": right[clear].mean() if clear.any() else 0.0,
            "mean_recall": macro_scores(confusion(labels[rows], answers[rows], len(CLASSES)))["uar"],
        }

    return {
        **bootstrap(len(labels), measure),
        "recall": recall_by_class(labels, answers),
        "images": len(labels),
        "faces_found": round(float(split.detected.mean()), 4),
    }


def score_fer2013(scores: FloatArray, first: Rows) -> dict[str, Any]:
    """Score probabilities (n, 7) of `FER2013_CLASSES` against labels (n,), indices into `CLASSES`, -1 where unknown."""
    known = first >= 0
    answers = np.array([CLASSES.index(name) for name in FER2013_CLASSES])[scores[known].argmax(axis=1)]
    labels = first[known]
    figures = accuracy_and_recall(labels, answers)
    return {**figures, "recall": recall_by_class(labels, answers), "images": len(labels)}


def score_utkface(scores: FaceOutputs, portraits: list[Portrait], male_from: float) -> dict[str, Any]:
    """Compute the mean absolute error of age in years, and the accuracy of gender and ethnicity."""
    error = np.abs(scores.age - np.array([p.age for p in portraits], np.float32))
    gender = (scores.gender >= male_from) == np.array([p.gender == 0 for p in portraits])
    ethnicity = scores.ethnicity.argmax(axis=1) == np.array([p.race for p in portraits])
    figures = bootstrap(
        len(portraits),
        lambda rows: {
            "age_mae": error[rows].mean(),
            "gender_accuracy": gender[rows].mean(),
            "ethnicity_accuracy": ethnicity[rows].mean(),
        },
    )
    return {**figures, "images": len(portraits)}


def score_lfw(identity: FloatArray, names: list[str], pairs: list[lfw.Pair]) -> dict[str, Any]:
    """Compute the verification accuracy by cosine similarity of rows (n, d), with thresholds from the other folds."""
    unit = dict(zip(names, identity / np.linalg.norm(identity, axis=1, keepdims=True), strict=True))
    similarity = np.array([unit[pair.first] @ unit[pair.second] for pair in pairs])
    right = lfw.correct_pairs(similarity, pairs)
    return {**bootstrap(len(pairs), lambda rows: {"accuracy": right[rows].mean()}), "pairs": len(pairs)}
