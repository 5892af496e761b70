"""Clip features -> label and probabilities, with a classifier exported to ONNX.

The ONNX file takes `features` (n, d) float32, the statistics that its card names in that order, and returns
`probabilities` (n, c) in the order of the card's labels. It includes the normalisation of the features.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime

from fervid.core.errors import ModelIncompatible, UsageError
from fervid.core.records import ClipFeatures, FloatArray
from fervid.core.results import Prediction
from fervid.core.text import is_utf8


def matches_face_model(card: Mapping[str, Any], sha256s: Iterable[str], expressions: Sequence[str]) -> bool:
    """Whether a clip classifier can classify the features of a face model.

    Args:
        card: Card of the classifier. `face_model_sha256` names the face model that it was trained on. A classifier that
            uses only expression probabilities needs a face model with the same classes, `face_model_expressions`.
        sha256s: SHA-256 of the face model, and of the model that it was quantised from.
        expressions: Expression classes of the face model.
    """
    if "face_model_expressions" in card:
        return bool(card["face_model_expressions"] == list(expressions))
    return card["face_model_sha256"] in sha256s


def is_centered(statistic: str) -> bool:
    """Whether a person's mean is subtracted from a statistic, for classifiers whose card says `center: person`.

    Standard deviations are not centred: they are relative to the person's mean in a clip already. On acted clips of
    five people, centring them lowered mean recall by 1 point.
    """
    return not statistic.endswith(".std")


def predict_proba(
    session: onnxruntime.InferenceSession,
    card: Mapping[str, Any],
    rows: FloatArray,
    allowed_labels: Sequence[str] | None = None,
) -> FloatArray:
    """Run a clip classifier on the features of n clips.

    Args:
        session: The ONNX classifier.
        card: Its card, of which `labels` is read.
        rows: (n, d) features, the statistics that the card names in that order.
        allowed_labels: Labels to choose from, with probabilities scaled to sum to 1; None for all of the card.

    Returns:
        (n, c) probabilities of the allowed labels.

    Raises:
        ModelIncompatible: The output is not a probability for each label of the card.
    """
    labels = list(card["labels"])
    probabilities = np.asarray(session.run(["probabilities"], {"features": rows})[0], np.float32)
    if probabilities.shape[1:] != (len(set(labels)),) or not np.isfinite(probabilities).all():
        raise ModelIncompatible(
            f"{card.get('name')} gives {probabilities[0].tolist()} for the labels {labels}; re-export it"
        )
    if allowed_labels is None:
        return probabilities
    allowed = probabilities[:, [labels.index(label) for label in allowed_labels]]
    total = allowed.sum(axis=1, keepdims=True)
    uniform = np.full_like(allowed, 1 / len(allowed_labels))
    return np.asarray(np.divide(allowed, total, uniform, where=total > 0), np.float32)


@dataclass(frozen=True, slots=True)
class ClipClassifier:
    """A clip classifier; call it with the features of a clip.

    Attributes:
        session: The ONNX classifier.
        card: Its card, of which `labels` and `statistics` are read.
        allowed_labels: Labels to choose from, with probabilities scaled to sum to 1; None for all of the card.
    """

    session: onnxruntime.InferenceSession
    card: Mapping[str, Any]
    allowed_labels: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not all(isinstance(label, str) and is_utf8(label) for label in self.card["labels"]):
            raise ValueError(f"labels must be valid text, not {self.card['labels']}")
        if unknown := [label for label in self.allowed_labels or () if label not in self.card["labels"]]:
            raise UsageError(
                f"{self.card.get('name')} has no label {', '.join(unknown)}; it has {', '.join(self.card['labels'])}"
            )

    def __call__(self, features: ClipFeatures) -> Prediction:
        """Classify a clip.

        Raises:
            ModelIncompatible: As `predict_proba`.
            ValueError: The features lack a statistic that the card names.
        """
        row = features.vector(self.card["statistics"])[None]
        (probabilities,) = predict_proba(self.session, self.card, row, self.allowed_labels)
        labels = self.allowed_labels or self.card["labels"]
        return Prediction(dict(zip(labels, map(float, probabilities), strict=True)))
