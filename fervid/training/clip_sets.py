"""Labelled clips of real people with the features of `fervid classify`, to select and evaluate clip classifiers.

Java-SED actors 01 to 05, acted speech, a development set; KERC 2020, film scenes labelled with valence; and the film
stills of SFEW as clips of one frame, used for evaluation only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fervid.analysis.early_exit import STRIDES
from fervid.analysis.extractor import Extractor, load_extractor
from fervid.core.records import FloatArray
from fervid.learn.dataset_layouts import Sample
from fervid.learn.feature_extraction import extract_features
from fervid.learn.feature_table import FeatureTable
from fervid.learn.labeled_features import build_feature_table, feature_provenance
from fervid.learn.metrics import Predictions, evaluate
from fervid.models import registry
from fervid.training import expression_sets, kerc
from fervid.training.dataset_paths import DatasetPaths
from fervid.training.ferplus import CLASSES

VALENCES = ("negative", "neutral", "positive")
DEVELOPMENT, KERC, SFEW = "Java-SED", "KERC 2020", "SFEW"
SPLITS: Mapping[str, str] = {DEVELOPMENT: "actors 01 to 05", KERC: "all, valence", SFEW: "all"}
"""The part of each set that is read."""


@dataclass(frozen=True, slots=True, eq=False)
class ClipSet:
    """Clips with features and labels.

    Attributes:
        labels: Names of the k classes.
        counts_as: (k, 8) whether an expression counts as a class.
        table: Features of the n clips with a face, and names of the m clips without.
        people: (n + m,) person in each clip, clips without a face last; None if unknown.
    """

    labels: tuple[str, ...]
    counts_as: NDArray[np.bool_]
    table: FeatureTable
    people: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.table.samples)

    @property
    def truth(self) -> NDArray[np.int64]:
        """(n + m,) indices into `labels`, clips without a face last."""
        samples = (*self.table.samples, *self.table.no_face_samples)
        return np.array([self.labels.index(str(sample.label)) for sample in samples])

    def evaluate(self, probabilities: FloatArray) -> dict[str, Any]:
        """Evaluate expression probabilities (n, 8) of the clips with a face; clips without a face count as errors.

        Returns:
            Accuracy and mean recall over the classes that occur, with intervals; recall by class; calibration error.
        """
        predicted = (probabilities @ self.counts_as.T).astype(np.float32)
        faceless = np.full((len(self.truth) - len(predicted), len(self.labels)), np.nan, np.float32)
        report = evaluate(Predictions(self.labels, self.truth, np.concatenate([predicted, faceless]), self.people))
        return {
            "accuracy": report["all"]["accuracy"],
            "mean_recall": report["all"]["uar"],
            "recall": {name: recall for name, recall in report["all"]["recall"].items() if recall is not None},
            "calibration_error": report["calibration"]["error"],
            "clips": report["clips"],
            "clips_with_face": report["answered"]["count"],
        }


def read_clip_sets(
    sources: DatasetPaths, cache: Path | None, network: str = registry.DEFAULTS["face_model"]
) -> dict[str, ClipSet]:
    """Read the three sets and extract their features, which are kept in the folder `cache`, if it is given.

    Raises:
        DatasetError: Clips are missing or unreadable, or none shows a face.
        FileNotFoundError: A set lacks files.
    """
    extractor = load_extractor(face_model=network, threads=1)
    paths, labels, actors = expression_sets.list_javased(sources.javased)
    stills, still_labels = expression_sets.list_sfew(sources.sfew)
    return {
        DEVELOPMENT: _read_expressions(paths, labels, actors, extractor, cache),
        KERC: _read_kerc(sources.kerc, cache, network),
        SFEW: _read_expressions(stills, still_labels, None, extractor, cache),
    }


def _read_expressions(
    paths: Sequence[Path],
    labels: NDArray[np.int64],
    people: Sequence[str] | None,
    extractor: Extractor,
    cache: Path | None,
) -> ClipSet:
    persons: Sequence[str | None] = people or [None] * len(paths)
    samples = [Sample(path, CLASSES[label], person) for path, label, person in zip(paths, labels, persons, strict=True)]
    rows = extract_features(samples, extractor, cache, cv2.getNumberOfCPUs(), STRIDES)
    table = build_feature_table(rows, feature_provenance(extractor))
    ordered = [*table.samples, *table.no_face_samples]
    names = None if people is None else np.unique([str(sample.person) for sample in ordered], return_inverse=True)[1]
    return ClipSet(CLASSES, np.eye(len(CLASSES), dtype=bool), table, names)


def _read_kerc(folder: Path, cache: Path | None, network: str) -> ClipSet:
    clips = kerc.load_features(folder, cache, network, STRIDES)
    counts_as = np.array([[kerc.VALENCE.get(name, "negative") == valence for name in CLASSES] for valence in VALENCES])
    people = None
    if clips.groups is not None:
        unknown = clips.groups.max() + 1 + np.arange(len(clips.no_face_samples))
        people = np.concatenate([clips.groups, unknown])
    return ClipSet(VALENCES, counts_as, clips.table, people)
