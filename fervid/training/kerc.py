"""KERC 2020, film clips labelled with valence: load their features, and evaluate emotion predictions on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fervid.analysis.extractor import load_extractor
from fervid.core.records import FloatArray
from fervid.learn import dataset
from fervid.learn.feature_extraction import extract_features
from fervid.learn.labeled_features import LabeledFeatures, build_feature_table, feature_provenance, label_features
from fervid.models import registry

VALENCE = {"happiness": "positive", "neutral": "neutral", "surprise": "neutral"}  # all others are negative


def load_features(
    folder: Path,
    cache: Path | None = None,
    network: str = registry.DEFAULTS["face_model"],
    strides: Sequence[int] = (),
    target: str | None = None,
) -> LabeledFeatures:
    """Extract features of all clips; people are identified by their faces, because the set does not name them.

    The folder has `frame_img/`, `new_Test_img/` and the tables. Without `cache` nothing is kept. `strides` are
    additional frame strides, as in `extract_features`; `target` is a rating to use instead of the class.

    Raises:
        DatasetError: Clips are missing or unreadable, or none shows a face.
    """
    clips = dataset.load_dataset(f"kerc2020:{folder}")
    extractor = load_extractor(face_model=network, threads=1)
    rows = extract_features(clips.samples, extractor, cache, cv2.getNumberOfCPUs(), strides)
    return label_features(clips, build_feature_table(rows, feature_provenance(extractor)), target=target)


def to_valence_report(features: LabeledFeatures, probabilities: FloatArray, emotions: Sequence[str]) -> dict[str, Any]:
    """Evaluate probabilities (n, c) of c emotions as predictions of valence, by summing those of each valence class."""
    counts = [[VALENCE.get(emotion, "negative") == valence for valence in features.labels] for emotion in emotions]
    return features.evaluate(probabilities @ np.array(counts, np.float32))
