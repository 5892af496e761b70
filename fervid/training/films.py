"""Film clips of which only valence is known, those of KERC 2020: read, and used to measure what says emotions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fervid.analysis.extractor import load_extractor
from fervid.core.records import FloatArray
from fervid.learn import dataset
from fervid.learn.feature_table import extract_features
from fervid.learn.labeled_features import LabeledFeatures, build_feature_table, feature_provenance, label_features
from fervid.models import registry

VALENCE = {"happiness": "positive", "neutral": "neutral", "surprise": "neutral"}  # the rest is negative


def read(
    kerc: Path,
    cache: Path | None = None,
    network: str = registry.DEFAULTS["network"],
    strides: Sequence[int] = (),
    target: str | None = None,
) -> LabeledFeatures:
    """The clips as that network sees them; their people are told apart by face, because the set does not name them.

    Args:
        kerc: Folder with `frame_img/`, `new_Test_img/` and the tables.
        cache: Where to keep features; None keeps none.
        network: Name or path.
        strides: As of `features.extract`.
        target: A rating that is the truth instead of the class.

    Raises:
        DatasetError: Clips are missing or cannot be read, or none shows a face.
    """
    found = dataset.load_dataset(f"kerc2020:{kerc}")
    extractor = load_extractor(network=network, threads=1)
    rows = extract_features(found.samples, extractor, cache, cv2.getNumberOfCPUs(), strides)
    return label_features(found, build_feature_table(rows, feature_provenance(extractor)), target=target)


def as_valence(known: LabeledFeatures, said: FloatArray, emotions: Sequence[str]) -> dict[str, Any]:
    """How well emotions tell the three classes of valence: the probabilities of those that count as one are added.

    Args:
        known: n clips that are negative, neutral or positive.
        said: (n, c) probabilities.
        emotions: The c that they are of.

    Returns:
        As `evaluate.evaluate`.
    """
    counts = [[VALENCE.get(emotion, "negative") == valence for valence in known.labels] for emotion in emotions]
    return known.report(said @ np.array(counts, np.float32))
