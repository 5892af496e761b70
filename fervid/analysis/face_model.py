"""Face crops -> embedding, expression, age, gender, ethnicity and identity, by one pass of an ONNX network.

The file takes `crops` (n, 3, s, s) float32, scaled as its card says, and gives `embedding` (n, d), `expression`
(n, c) probabilities, `age` (n, years) probabilities, `gender` (n,), `ethnicity` (n, e) probabilities and `identity`
(n, i); it may lack the last four. Labels, size, colour order, mean and scale are the card's: nothing here knows them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime

from fervid.core.records import FaceOutputs, FloatArray, Image

BATCH = 8
MAX_PIXEL, MAX_AGE = 1024, 150  # values of pixels and years, which a card cannot mean to exceed
OUTPUT_NAMES = ("embedding", "expression", "age", "gender", "ethnicity", "identity")


@dataclass(frozen=True, slots=True)
class FaceModel:
    """The multi-task network of Savchenko (arXiv 2103.17107): call it with crops.

    Attributes:
        session: The ONNX network.
        card: Its `input` (size, colour, mean, scale), `embedding` (its width), `expressions` and `first_age`.
    """

    session: onnxruntime.InferenceSession
    card: Mapping[str, Any]

    def __post_init__(self) -> None:
        spec, first = self.card["input"], self.card.get("first_age", 0)
        if not 0 <= first <= MAX_AGE:
            raise ValueError(f"ages from {first}")
        if not all(np.all(np.abs(spec[name]) < MAX_PIXEL) for name in ("mean", "scale")):
            raise ValueError(f"pixels less {spec['mean']}, times {spec['scale']}")

    @property
    def outputs(self) -> list[str]:
        """What it estimates."""
        given = {tensor.name for tensor in self.session.get_outputs()}
        return [name for name in OUTPUT_NAMES if name in given]

    def __call__(self, crops: Image) -> FaceOutputs:
        """Score crops, `BATCH` at a time.

        Args:
            crops: (n, s, s, 3) uint8 RGB from `align.align_face`; n may be 0.

        Returns:
            n rows.
        """
        if not len(crops):
            return empty_outputs(self.card)
        outputs = self.outputs
        chunks = [self._score(outputs, crops[i : i + BATCH]) for i in range(0, len(crops), BATCH)]
        columns = dict(zip(outputs, map(np.concatenate, zip(*chunks, strict=True)), strict=True))
        if "age" in columns:
            columns["age"] = expected_age(columns["age"], self.card["first_age"])
        lacking = np.zeros((len(crops), 0), np.float32)
        return FaceOutputs(**{name: columns.get(name, lacking) for name in OUTPUT_NAMES})

    def _score(self, outputs: Sequence[str], crops: Image) -> list[FloatArray]:
        scores: list[FloatArray] = self.session.run(outputs, {"crops": preprocess(crops, self.card)})
        return scores


def preprocess(crops: Image, card: Mapping[str, Any]) -> FloatArray:
    """Crops (n, s, s, 3) uint8 RGB as the network of that card takes them: (n, 3, s, s)."""
    spec = card["input"]
    ordered = (crops[..., ::-1] if spec["colour"] == "BGR" else crops).transpose(0, 3, 1, 2)
    mean, scale = (np.broadcast_to(np.array(spec[name], np.float32), 3)[:, None, None] for name in ("mean", "scale"))
    values = np.subtract(ordered, mean, out=np.empty(ordered.shape, np.float32))  # in this order five times faster
    values *= scale
    return values


def empty_outputs(card: Mapping[str, Any]) -> FaceOutputs:
    """No rows, with the widths of that network."""
    none = np.zeros(0, np.float32)
    widths = card["embedding"], len(card["expressions"]), len(card.get("ethnicities", ())), card.get("identity", 0)
    embedding, expression, ethnicity, identity = (none.reshape(0, width) for width in widths)
    age, gender = (none if name in card else none.reshape(0, 0) for name in ("first_age", "genders"))
    return FaceOutputs(embedding, expression, age, gender, ethnicity, identity)


def expected_age(probabilities: FloatArray, first: int) -> FloatArray:
    """Years from class probabilities: their mean, as in Rothe et al. (IJCV 2018, section 3.2).

    Args:
        probabilities: (n, classes), one class a year.
        first: The age of class 0.

    Returns:
        (n,) years.
    """
    return np.asarray(first + probabilities @ np.arange(probabilities.shape[1]), np.float32)
