"""How well a face network reads expressions on sets that look unlike each other, and how much their look matters.

RAF-DB's test faces, as they are and as other sets would show them; film stills of SFEW, which nothing is trained on;
and acted clips of Java-SED, a development set. The answer is among all classes of the network; recall is averaged over
the classes that a set has.
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
from fervid.core.records import FloatArray, Image
from fervid.learn.feature_extraction import compute_clip_features
from fervid.learn.figures import Figure, list_figures
from fervid.learn.metrics import Rows, bootstrap, confusion, macro_scores, per_class_scores
from fervid.models import registry
from fervid.training import augment, expression_sets
from fervid.training.faces import MIN_CLOSE_FACE, MIN_FRAME_FACE, DatasetPaths, crop_all, make_largest_face_finder
from fervid.training.ferplus import CLASSES, detect_face, median_face, stills_detector

STYLES: Mapping[str, Callable[[Image], Image]] = {
    "grey": augment.to_grey,
    "48 pixels": lambda image: augment.reduce_resolution(image, 48),
    "cropped at the box": lambda image: augment.crop_at_box(image, 1.0),
}
"""Changes of a crop that leave the expression as it is."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledCrops:
    """Faces of a test set.

    Attributes:
        crops: (n, s, s, 3) uint8 RGB.
        labels: (n,) indices into `CLASSES`.
        found: Share of the images in which the detector found the face.
    """

    crops: Image
    labels: Rows
    found: float


@dataclass(frozen=True, slots=True, eq=False)
class ExpressionTests:
    """Test sets of expressions, cut for networks of one input size.

    Attributes:
        rafdb: The official test images, all of them.
        sfew: The film stills in which a face was found.
        clips: Of Java-SED.
        clip_labels: (n,) their indices into `CLASSES`.
        actors: (n,) who is in them.
    """

    rafdb: LabelledCrops
    sfew: LabelledCrops
    clips: Sequence[Path]
    clip_labels: Rows
    actors: Sequence[str]

    @classmethod
    def read(cls, sources: DatasetPaths, size: int, margin: float = MARGIN) -> ExpressionTests:
        """Read the sets and cut their faces, with the margin that the network is used to.

        Raises:
            FileNotFoundError: Images are missing; all are counted, the first few named.
            ValueError: Images are damaged, or labels are out of range.
        """
        paths, labels = expression_sets.list_rafdb(sources.rafdb, "test")
        stills, still_labels = expression_sets.list_sfew(sources.sfew)
        cut, rows = crop_all(stills, make_largest_face_finder(MIN_FRAME_FACE), size, margin)
        sfew = LabelledCrops(np.stack(cut), still_labels[rows], len(rows) / len(stills))
        return cls(_cut_close_faces(paths, labels, size, margin), sfew, *expression_sets.list_javased(sources.javased))

    def measure(self, model: registry.Model) -> list[Figure]:
        """Compute the figures of all test sets, with intervals by bootstrap over images, or over actors.

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
        """By the mean of the logits over the frames of a clip; a clip without a face counts as wrong."""
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


def measure_expressions(answers: FloatArray, labels: Rows, groups: Rows | None = None) -> dict[str, Any]:
    """Accuracy, mean recall, and the recall of each class, of answers among all classes.

    Args:
        answers: (n, 8) probabilities or logits.
        labels: (n,) indices into `CLASSES`.
        groups: (n,) who is in each image, who is drawn as one for the interval; None if each stands alone.
    """
    predicted = answers.argmax(axis=1)

    def measure(rows: Rows) -> dict[str, float]:
        found = macro_scores(confusion(labels[rows], predicted[rows], len(CLASSES)))
        return {"accuracy": found["accuracy"], "mean_recall": found["uar"]}

    own = np.unique(labels)
    among_own = own[answers[:, own].argmax(axis=1)]
    recall = per_class_scores(confusion(labels, predicted, len(CLASSES)))["recall"]
    return {
        **bootstrap(len(labels), measure, groups),
        "mean_recall_among_own": round(macro_scores(confusion(labels, among_own, len(CLASSES)))["uar"], 4),
        "recall": {CLASSES[c]: round(float(recall[c]), 4) for c in own},
        "images": len(labels),
    }


def _cut_close_faces(paths: Sequence[Path], labels: Rows, size: int, margin: float) -> LabelledCrops:
    """Every image of a set of close faces; a face that is not found is taken to be where the faces mostly are."""
    detector = stills_detector(MIN_CLOSE_FACE)
    images = [cv2.imread(str(path), cv2.IMREAD_COLOR_RGB) for path in paths]
    if damaged := [str(path) for path, image in zip(paths, images, strict=True) if image is None]:
        raise ValueError(f"{len(damaged)} images are damaged, copy them again; the first: {', '.join(damaged[:3])}")
    whole = [np.asarray(image, np.uint8) for image in images]
    faces = [detect_face(image, detector) for image in whole]
    usual = median_face([face for face in faces if face is not None])
    cut = [align_face(image, face or usual, size, margin) for image, face in zip(whole, faces, strict=True)]
    return LabelledCrops(np.stack(cut), labels, sum(face is not None for face in faces) / len(paths))
