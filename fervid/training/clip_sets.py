"""Labelled clips of real people, pooled as `fervid classify` pools them, to choose and measure clip classifiers by.

Java-SED actors 01 to 05, acted speech, a development set; KERC 2020, film scenes of which valence is known; and the
film stills of SFEW as clips of one frame, which nothing is fitted on.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from fervid.learn.feature_table import FeatureTable, extract_features
from fervid.learn.labeled_features import build_feature_table, feature_provenance
from fervid.learn.metrics import Predictions, evaluate
from fervid.models import registry
from fervid.training import expression_sets, films
from fervid.training.faces import DatasetPaths
from fervid.training.ferplus import CLASSES

VALENCES = ("negative", "neutral", "positive")
DEVELOPMENT, FILMS, STILLS = "Java-SED 01 to 05", "KERC 2020, valence", "SFEW"


@dataclass(frozen=True, slots=True, eq=False)
class ClipSet:
    """Clips with their features.

    Attributes:
        labels: The k classes.
        counts_as: (k, 8) whether an expression counts as a class.
        table: Features of the n clips that show a face, and the m that do not.
        truth: (n + m,) indices of `labels`, the faceless clips last.
        people: (n + m,) who is in each clip; None if nobody knows.
    """

    labels: tuple[str, ...]
    counts_as: NDArray[np.bool_]
    table: FeatureTable
    truth: NDArray[np.int64]
    people: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.table.samples)

    def report(self, probabilities: FloatArray) -> dict[str, Any]:
        """How good answers among the eight expressions are; a clip without a face counts as wrong.

        Args:
            probabilities: (n, 8) of the clips that show a face.

        Returns:
            Accuracy and mean recall over the classes that occur, with intervals; recall by class; calibration error.
        """
        answers = (probabilities @ self.counts_as.T).astype(np.float32)
        nothing = np.full((len(self.truth) - len(answers), len(self.labels)), np.nan, np.float32)
        found = evaluate(Predictions(self.labels, self.truth, np.concatenate([answers, nothing]), self.people))
        return {
            "accuracy": found["all"]["accuracy"],
            "mean_recall": found["all"]["uar"],
            "recall": {name: recall for name, recall in found["all"]["recall"].items() if recall is not None},
            "calibration_error": found["calibration"]["error"],
            "clips": found["clips"],
            "clips_with_face": found["answered"]["count"],
        }


def read_clip_sets(
    sources: DatasetPaths, cache: Path | None, network: str = registry.DEFAULTS["network"]
) -> dict[str, ClipSet]:
    """The three sets by name, as that network sees them.

    Args:
        sources: Where they lie.
        cache: Where to keep features; None keeps none.
        network: Name or path.

    Raises:
        DatasetError: Clips are missing or cannot be read, or none shows a face.
        FileNotFoundError: A set lacks files.
    """
    extractor = load_extractor(network=network, threads=1)
    paths, labels, actors = expression_sets.list_javased(sources.javased)
    stills, still_labels = expression_sets.list_sfew(sources.sfew)
    return {
        DEVELOPMENT: _read_expressions(paths, labels, actors, extractor, cache),
        FILMS: _read_films(sources.kerc, cache, network),
        STILLS: _read_expressions(stills, still_labels, None, extractor, cache),
    }


def _read_expressions(
    paths: Sequence[Path],
    labels: NDArray[np.int64],
    people: Sequence[str] | None,
    extractor: Extractor,
    cache: Path | None,
) -> ClipSet:
    samples = [
        Sample(path, CLASSES[label], None if people is None else people[i])
        for i, (path, label) in enumerate(zip(paths, labels, strict=True))
    ]
    rows = extract_features(samples, extractor, cache, cv2.getNumberOfCPUs(), STRIDES)
    table = build_feature_table(rows, feature_provenance(extractor))
    ordered = [*table.samples, *table.faceless]
    truth = np.array([CLASSES.index(str(sample.label)) for sample in ordered])
    names = None if people is None else np.unique([str(sample.person) for sample in ordered], return_inverse=True)[1]
    return ClipSet(CLASSES, np.eye(len(CLASSES), dtype=bool), table, truth, names)


def _read_films(kerc: Path, cache: Path | None, network: str) -> ClipSet:
    known = films.read(kerc, cache, network, STRIDES)
    counts_as = np.array([[films.VALENCE.get(name, "negative") == valence for name in CLASSES] for valence in VALENCES])
    faceless = [sample.label for sample in known.faceless]
    truth = [VALENCES.index(str(sample.label)) for sample in known.table.samples]
    truth += [VALENCES.index(str(label)) for label in faceless]
    people = None
    if known.groups is not None:
        alone = known.groups.max() + 1 + np.arange(len(faceless))
        people = np.concatenate([known.groups, alone])
    return ClipSet(VALENCES, counts_as, known.table, np.array(truth), people)
