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

from fervid.errors import ModelIncompatible, UsageError
from fervid.records import Answer, ClipFeatures


def belongs(card: Mapping[str, Any], sha256s: Iterable[str], expressions: Sequence[str]) -> bool:
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
        if not all(isinstance(label, str) for label in self.card["labels"]):
            raise ValueError(f"labels that are no names: {self.card['labels']}")
        if unknown := [label for label in self.only or () if label not in self.card["labels"]]:
            raise UsageError(
                f"{self.card.get('name')} has no label {', '.join(unknown)}; it has {', '.join(self.card['labels'])}"
            )

    def __call__(self, features: ClipFeatures) -> Answer:
        """Probabilities of the card's labels.

        Raises:
            ModelIncompatible: The classifier gives something else than a probability for each label.
        """
        row = features.vector(self.card["statistics"])[None]
        (probabilities,) = self.session.run(["probabilities"], {"features": row})
        if len(set(self.card["labels"])) != probabilities.shape[1] or not np.isfinite(probabilities).all():
            raise ModelIncompatible(
                f"{self.card.get('name')} gives {probabilities[0].tolist()} for the labels {self.card['labels']};"
                " export it again"
            )
        answers = dict(zip(self.card["labels"], (float(p) for p in probabilities[0]), strict=True))
        if self.only is None:
            return Answer(answers)
        whole = sum(answers[label] for label in self.only)
        return Answer({label: answers[label] / whole if whole else 1 / len(self.only) for label in self.only})
