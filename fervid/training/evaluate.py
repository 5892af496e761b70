"""Figures of a network file, measured the way it is used: the ordinary detector, crop and inference.

Test splits and protocols: FER+ PrivateTest against the most voted class; the same pictures against the labels that
FER2013 had first, by the network's output for them; UTKFace's fixed test split; LFW's 6,000 pairs; and the sets of
`expression_tests`. Intervals are by bootstrap over pictures, pairs or actors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fervid.analysis.align import MARGIN, align_face
from fervid.analysis.face_model import BATCH, FaceModel, preprocess
from fervid.core.records import Face, FaceOutputs, FloatArray, Image
from fervid.learn.metrics import Rows, bootstrap, confusion, macro_scores, per_class_scores
from fervid.models import registry
from fervid.training import lfw, utkface
from fervid.training.expression_tests import ExpressionTests
from fervid.training.faces import DatasetPaths, crop_all
from fervid.training.ferplus import CLASSES, FerPlus, detect_face, fer2013_labels, read_split, stills_detector
from fervid.training.network import FER2013_CLASSES
from fervid.training.utkface import Portrait

FIRST = "fer2013"


@dataclass(frozen=True, slots=True, eq=False)
class Tests:
    """The test splits, cut for networks of one input size.

    Attributes:
        size: Side of the crops in pixels.
        ferplus: Pictures and votes of PrivateTest.
        first: (n,) their first labels, -1 where unknown.
        portraits: Those of UTKFace in which a face was found.
        pairs: Of LFW.
        names: The pictures in them.
        crops: By set, (n, size, size, 3) each.
        found: By set, the share of pictures in which the detector found a face; `ferplus` knows its own.
        expressions: Further sets with expressions.
    """

    size: int
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
        """Read the test splits and cut their faces, with the margin that the network is used to.

        Raises:
            FileNotFoundError: Pictures are missing; all are counted, the first few named.
            ValueError: Pictures are damaged.
        """
        split = read_split(sources.ferplus, "PrivateTest", stills_detector())
        faces = zip(split.images, split.faces, strict=True)
        portraits = utkface.read_split(sources.utkface, 0)
        detector = stills_detector(utkface.MIN_FACE)
        cut, rows = crop_all([p.path for p in portraits], lambda image: detect_face(image, detector), size, margin)
        pairs = lfw.read_pairs(sources.pairs)
        names = sorted({name for pair in pairs for name in (pair.first, pair.second)})
        people, found = _lfw_crops(sources.lfw, names, size, margin)
        return cls(
            size,
            split,
            fer2013_labels(sources.first, split.images),
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

    def measure(self, model: registry.Model) -> dict[str, Any]:
        """Every figure of what a network estimates, by test set.

        Raises:
            ValueError: Its expressions are not those of the votes.
        """
        if tuple(model.card["expressions"]) != CLASSES:
            raise ValueError(f"{model.identity.name} has other expressions than FER+; measure one of its eight")
        network = FaceModel(model.session, model.card)
        crops = self.crops
        people = network(crops["lfw"])
        figures = {"FER+ PrivateTest": on_votes(network(crops["ferplus"]).expression, self.ferplus)}
        if {"age", "gender", "ethnicity"} <= set(network.outputs):
            figures["UTKFace test"] = {
                **on_utkface(network(crops["utkface"]), self.portraits, model.card["genders"]["male"]),
                "faces_found": round(self.found["utkface"], 4),
            }
        if "identity" in network.outputs:
            figures["LFW pairs"] = {
                **on_lfw(people.identity, self.names, self.pairs),
                "faces_found": round(self.found["lfw"], 4),
            }
        figures["LFW pairs, by the embedding"] = on_lfw(people.embedding, self.names, self.pairs)
        if any(output.name == FIRST for output in model.session.get_outputs()):
            figures["FER2013 PrivateTest, first labels"] = on_first_labels(
                first_scores(model, crops["ferplus"]), self.first
            )
        return {**figures, **self.expressions.measure(model)}


def first_scores(model: registry.Model, crops: Image) -> FloatArray:
    """(n, 7) probabilities by the network's output for the first labels."""
    parts = [
        model.session.run([FIRST], {"crops": preprocess(crops[i : i + BATCH], model.card)})[0]
        for i in range(0, len(crops), BATCH)
    ]
    return np.concatenate(parts)


def on_votes(expression: FloatArray, split: FerPlus) -> dict[str, Any]:
    """Against the most voted class: accuracy on all pictures and on those with a majority, and recall.

    Args:
        expression: (n, 8) probabilities.
        split: The n pictures.
    """
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
        "recall": _recall(labels, answers),
        "images": len(labels),
        "faces_found": round(float(split.found.mean()), 4),
    }


def on_first_labels(scores: FloatArray, first: Rows) -> dict[str, Any]:
    """Against the labels of FER2013 before the votes, seven classes.

    Args:
        scores: (n, 7) probabilities in the order of `FER2013_CLASSES`.
        first: (n,) numbers of `CLASSES`, -1 where unknown.
    """
    known = first >= 0
    answers = np.array([CLASSES.index(name) for name in FER2013_CLASSES])[scores[known].argmax(axis=1)]
    labels = first[known]

    def measure(rows: Rows) -> dict[str, float]:
        told = macro_scores(confusion(labels[rows], answers[rows], len(CLASSES)))
        return {"accuracy": told["accuracy"], "mean_recall": told["uar"]}

    return {**bootstrap(len(labels), measure), "recall": _recall(labels, answers), "images": len(labels)}


def on_utkface(scores: FaceOutputs, portraits: list[Portrait], male_from: float) -> dict[str, Any]:
    """Mean absolute error of age in years, accuracy of gender and of ethnicity."""
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


def on_lfw(identity: FloatArray, names: list[str], pairs: list[lfw.Pair]) -> dict[str, Any]:
    """Share of the pairs that the cosine of their vectors answers rightly, the threshold chosen on the other folds.

    Args:
        identity: (n, d), one row for each picture.
        names: The n pictures.
        pairs: To answer.
    """
    unit = dict(zip(names, identity / np.linalg.norm(identity, axis=1, keepdims=True), strict=True))
    likeness = np.array([unit[pair.first] @ unit[pair.second] for pair in pairs])
    right = lfw.accuracy(likeness, pairs)
    return {**bootstrap(len(pairs), lambda rows: {"accuracy": right[rows].mean()}), "pairs": len(pairs)}


def _lfw_crops(folder: Path, names: list[str], size: int, margin: float = MARGIN) -> tuple[Image, float]:
    """A crop of each picture, and the share in which the detector found the face."""
    paths = {path.name: path for path in folder.rglob("*.jpg")}
    if missing := [name for name in names if name not in paths]:
        raise FileNotFoundError(
            f"{len(missing)} pictures are missing below {folder}, the first: {', '.join(missing[:3])}"
        )
    detector = stills_detector(lfw.MIN_FACE)
    found: list[bool] = []

    def middle(image: Image) -> Face:
        faces = detector(image)
        found.append(bool(faces))
        return _middle(image, faces) or _typical(image)

    crops, _ = crop_all([paths[name] for name in names], middle, size, margin)
    return np.stack(crops), sum(found) / len(names)


def _middle(image: Image, faces: list[Face]) -> Face | None:
    """The face nearest to the middle of the picture, which is the one that LFW means."""
    height, width = image.shape[:2]

    def distance(face: Face) -> float:
        x1, y1, x2, y2 = face.box
        return abs(x1 + x2 - width) + abs(y1 + y2 - height)

    return min(faces, key=distance, default=None)


def _typical(image: Image) -> Face:
    """Where LFW's funneled pictures show the face, for those in which none is found."""
    height, width = image.shape[:2]
    eyes = np.array([[0.42, 0.46], [0.58, 0.46]], np.float32) * (width, height)
    return Face((0.31 * width, 0.31 * height, 0.69 * width, 0.69 * height), eyes.astype(np.float32), 0.0)


def _recall(labels: Rows, answers: Rows) -> dict[str, float]:
    """Of the classes that occur."""
    each = per_class_scores(confusion(labels, answers, len(CLASSES)))["recall"]
    return {CLASSES[c]: round(float(each[c]), 4) for c in np.unique(labels)}
