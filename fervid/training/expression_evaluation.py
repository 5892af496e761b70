"""Measure the expressions of a face network on sets of different image styles, and the effect of the style.

The sets are RAF-DB test, unchanged and in the styles of other sets; film stills of SFEW, used for evaluation only; and
acted clips of Java-SED, a development set. Predictions are among all classes of the network; recall is averaged over
the classes of the set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fervid.analysis.align import MARGIN, align_face
from fervid.analysis.extractor import Extractor
from fervid.analysis.face_model import FaceModel
from fervid.analysis.options import Options
from fervid.core.records import FaceOutputs, FloatArray, Image
from fervid.learn.feature_extraction import compute_clip_features
from fervid.learn.figures import Figure, list_figures
from fervid.learn.metrics import Rows, bootstrap, confusion, macro_scores, per_class_scores
from fervid.models import registry
from fervid.training import augment, expression_sets
from fervid.training.dataset_paths import DatasetPaths
from fervid.training.faces import (
    MIN_CLOSE_FACE,
    MIN_FRAME_FACE,
    crop_all,
    make_close_face_finder,
    make_largest_face_finder,
)
from fervid.training.ferplus import CLASSES, median_face

STYLES: Mapping[str, Callable[[Image], Image]] = {
    "grey": augment.to_grey,
    "48 pixels": lambda image: augment.reduce_resolution(image, 48),
    "cropped at the box": lambda image: augment.crop_at_box(image, 1.0),
}
"""Transformations of a crop that keep the expression."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledCrops:
    """Faces of a test set.

    Attributes:
        crops: (n, s, s, 3) uint8 RGB.
        labels: (n,) indices into `CLASSES`.
        found: Fraction of the images in which the detector found the face.
    """

    crops: Image
    labels: Rows
    found: float


@dataclass(frozen=True, slots=True, eq=False)
class ExpressionTests:
    """Test sets of expressions, cropped for networks of one input size.

    Attributes:
        rafdb: All official test images.
        sfew: The film stills in which a face was found.
        clips: Clips of Java-SED.
        clip_labels: (n,) their indices into `CLASSES`.
        actors: (n,) the actor of each clip.
    """

    rafdb: LabelledCrops
    sfew: LabelledCrops
    clips: Sequence[Path]
    clip_labels: Rows
    actors: Sequence[str]

    @classmethod
    def read(cls, sources: DatasetPaths, size: int, margin: float = MARGIN) -> ExpressionTests:
        """Read the sets and crop their faces with the margin of the network.

        Raises:
            FileNotFoundError: Images are missing; the message has their number and the first few names.
            ValueError: Images are damaged, or labels are out of range.
        """
        paths, labels = expression_sets.list_rafdb(sources.rafdb, "test")
        stills, still_labels = expression_sets.list_sfew(sources.sfew)
        crops, rows = crop_all(stills, make_largest_face_finder(MIN_FRAME_FACE), size, margin)
        sfew = LabelledCrops(np.stack(crops), still_labels[rows], len(rows) / len(stills))
        return cls(_crop_close_faces(paths, labels, size, margin), sfew, *expression_sets.list_javased(sources.javased))

    def measure(self, model: registry.Model) -> list[Figure]:
        """Measure the figures of all test sets, with bootstrap intervals over images or over actors.

        Args:
            model: A face network with the classes of FER+.
        """
        network = FaceModel(model.session, model.card)
        original = measure_expressions(network(self.rafdb.crops).expression, self.rafdb.labels)
        original["faces_found"] = round(self.rafdb.found, 4)
        stills = measure_expressions(network(self.sfew.crops).expression, self.sfew.labels)
        stills["faces_found"] = round(self.sfew.found, 4)
        figures = list_figures(original, "RAF-DB", "test", "original images")
        figures += list_figures(stills, "SFEW", "all", "original images")
        for name, change in STYLES.items():
            changed = np.stack([change(image) for image in self.rafdb.crops])
            scores = measure_expressions(network(changed).expression, self.rafdb.labels)
            scores["style_gap"] = round(original["mean_recall"]["value"] - scores["mean_recall"]["value"], 4)
            figures += list_figures(scores, "RAF-DB", "test", name)
        return figures + list_figures(self._measure_clips(model), "Java-SED", "actors 01 to 05", "mean over a clip")

    def _measure_clips(self, model: registry.Model) -> dict[str, Any]:
        """Measure the mean of the logits over the frames of each clip; clips without a face count as errors."""
        detector = registry.load_model(registry.DEFAULTS["detector"], "detector", 1)
        extractor = Extractor(detector, model, Options(), cv2.getNumberOfCPUs())
        logits = np.full((len(self.clips), len(CLASSES)), np.nan, np.float32)
        for i, path in enumerate(self.clips):
            if (features := compute_clip_features(path, extractor, (1,))[1]) is not None:
                logits[i] = features.statistics["logit.mean"]
        seen = np.isfinite(logits).all(axis=1)
        groups = np.unique(np.array(self.actors)[seen], return_inverse=True)[1]
        return {
            **measure_expressions(logits[seen], self.clip_labels[seen], groups),
            "faces_found": round(float(seen.mean()), 4),
        }


def measure_expressions(predictions: FloatArray, labels: Rows, groups: Rows | None = None) -> dict[str, Any]:
    """Measure accuracy, mean recall, and the recall of each class, with predictions among all classes.

    Args:
        predictions: (n, 8) probabilities or logits.
        labels: (n,) indices into `CLASSES`.
        groups: (n,) person in each image, resampled as a unit for the interval; None if images are independent.
    """
    predicted, own = predictions.argmax(axis=1), np.unique(labels)
    among_own = own[predictions[:, own].argmax(axis=1)]
    return {
        **accuracy_and_recall(labels, predicted, groups),
        "mean_recall_among_own": round(macro_scores(confusion(labels, among_own, len(CLASSES)))["uar"], 4),
        "recall": recall_by_class(labels, predicted),
        "images": len(labels),
    }


def accuracy_and_recall(labels: Rows, predicted: Rows, groups: Rows | None = None) -> dict[str, Any]:
    """Measure accuracy and mean recall of predictions (n,), both indices into `CLASSES`; see `measure_expressions`."""

    def measure(rows: Rows) -> dict[str, float]:
        found = macro_scores(confusion(labels[rows], predicted[rows], len(CLASSES)))
        return {"accuracy": found["accuracy"], "mean_recall": found["uar"]}

    return bootstrap(len(labels), measure, groups)


def recall_by_class(labels: Rows, predicted: Rows) -> dict[str, float]:
    """Compute the recall of the classes that occur, from indices (n,) into `CLASSES`."""
    recall = per_class_scores(confusion(labels, predicted, len(CLASSES)))["recall"]
    return {CLASSES[c]: round(float(recall[c]), 4) for c in np.unique(labels)}


def run_on_crops(model: registry.Model, crops: Image) -> FaceOutputs:
    """Run a network on cached crops (n, SIDE, SIDE, 3) of `fervid.training.faces`, cut to its input."""
    return FaceModel(model.session, model.card)(augment.crops_to_inputs(crops, model.card["input"]["size"]))


def _crop_close_faces(paths: Sequence[Path], labels: Rows, size: int, margin: float) -> LabelledCrops:
    """Crop every image of a set of close-ups; without a detection, use the median position of the detected faces."""
    decoded = [cv2.imread(str(path), cv2.IMREAD_COLOR_RGB) for path in paths]
    if damaged := [str(path) for path, image in zip(paths, decoded, strict=True) if image is None]:
        raise ValueError(f"{len(damaged)} images are damaged, copy them again; the first: {', '.join(damaged[:3])}")
    images = [np.asarray(image, np.uint8) for image in decoded]
    faces = [*map(make_close_face_finder(MIN_CLOSE_FACE), images)]
    fallback = median_face([face for face in faces if face is not None])
    crops = [align_face(image, face or fallback, size, margin) for image, face in zip(images, faces, strict=True)]
    return LabelledCrops(np.stack(crops), labels, sum(face is not None for face in faces) / len(paths))
