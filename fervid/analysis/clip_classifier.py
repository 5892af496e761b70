"""Clip features -> label and probabilities, through a classifier that was exported to ONNX.

The file takes `features` (n, d) float32, the statistics that its card names in that order, and gives `probabilities`
(n, c) in the order of the card's labels. Normalisation is part of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime

from fervid.core.errors import ModelIncompatible, UsageError
from fervid.core.records import ClipFeatures, FloatArray, Prediction
from fervid.core.text import is_utf8


def matches_network(card: Mapping[str, Any], sha256s: Iterable[str], expressions: Sequence[str]) -> bool:
    """Whether a clip classifier goes with a network.

    Args:
        card: The classifier's. It names the network that it was fitted on by SHA-256; one that was fitted on none, and
            takes only what the network says of each face, names the classes of that: `network_expressions`.
        sha256s: Of the network, and of what that was quantised from.
        expressions: The classes of the network.
    """
    if "network_expressions" in card:
        return list(card["network_expressions"]) == list(expressions)
    return card["network_sha256"] in sha256s


def is_centered(statistic: str) -> bool:
    """Whether a person's mean is subtracted from a pooled statistic, for classifiers whose card says `center: person`.

    Standard deviations are left alone: they are already relative to the person's mean in a clip, and on acted clips of
    five people mean recall was 1 point lower when they were centred too.
    """
    return not statistic.endswith(".std")


def predict_proba(
    session: onnxruntime.InferenceSession, card: Mapping[str, Any], rows: FloatArray, only: Sequence[str] | None = None
) -> FloatArray:
    """What a clip classifier says of n clips.

    Args:
        session: The ONNX classifier.
        card: Its `labels`.
        rows: (n, d) features, the statistics that the card names in that order.
        only: Which of its labels may be answered, their probabilities then adding up to 1; None for all.

    Returns:
        (n, c) probabilities of those labels.

    Raises:
        ModelIncompatible: The classifier gives something else than a probability for each of its labels.
    """
    labels = list(card["labels"])
    found = np.asarray(session.run(["probabilities"], {"features": rows})[0], np.float32)
    if found.shape[1:] != (len(set(labels)),) or not np.isfinite(found).all():
        raise ModelIncompatible(
            f"{card.get('name')} gives {found[0].tolist()} for the labels {labels}; export it again"
        )
    if only is None:
        return found
    some = found[:, [labels.index(label) for label in only]]
    whole = some.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(some, whole, np.full_like(some, 1 / len(only)), where=whole > 0), np.float32)


@dataclass(frozen=True, slots=True)
class ClipClassifier:
    """A clip classifier: call it with the features of a clip.

    Attributes:
        session: The ONNX classifier.
        card: Its `labels`, `statistics` and the SHA-256 of the network that it was fitted on.
        only: Which of its labels may be answered, their probabilities then adding up to 1; None for all.
    """

    session: onnxruntime.InferenceSession
    card: Mapping[str, Any]
    only: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not all(isinstance(label, str) and is_utf8(label) for label in self.card["labels"]):
            raise ValueError(f"labels that are no names: {self.card['labels']}")
        if unknown := [label for label in self.only or () if label not in self.card["labels"]]:
            raise UsageError(
                f"{self.card.get('name')} has no label {', '.join(unknown)}; it has {', '.join(self.card['labels'])}"
            )

    def __call__(self, features: ClipFeatures) -> Prediction:
        """Probabilities of the card's labels.

        Raises:
            ModelIncompatible: As `predict_proba`.
        """
        row = features.vector(self.card["statistics"])[None]
        (shares,) = predict_proba(self.session, self.card, row, self.only)
        return Prediction(dict(zip(self.only or self.card["labels"], map(float, shares), strict=True)))
