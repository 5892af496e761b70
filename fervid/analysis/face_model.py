"""Run a face model on aligned crops: embedding, expression, age, gender, ethnicity and identity.

The ONNX model takes `crops` (n, 3, s, s) float32 and returns `embedding` (n, d), `expression` (n, c) probabilities,
`age` (n, years) probabilities, `gender` (n,), `ethnicity` (n, e) probabilities and `identity` (n, i); the last four are
optional. Its card gives the labels, the crop size, the colour order, and the mean and scale of the pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime

from fervid.core.records import FaceOutputs, FloatArray, Image, check

BATCH = 8
MAX_PIXEL = 1024  # limit of input.mean and input.scale
MAX_AGE = 150  # limit of first_age in years
OUTPUT_NAMES = ("embedding", "expression", "age", "gender", "ethnicity", "identity")


@dataclass(frozen=True, slots=True)
class FaceModel:
    """A multi-task face model (Savchenko, arXiv 2103.17107), called with crops.

    Attributes:
        session: The ONNX model.
        card: Its `input` (size, colour, mean, scale), `embedding` (the width), `expressions` and `first_age`.
    """

    session: onnxruntime.InferenceSession
    card: Mapping[str, Any]

    def __post_init__(self) -> None:
        spec, first_age = self.card["input"], self.card.get("first_age", 0)
        check(0 <= first_age <= MAX_AGE, f"first_age must be in 0 to {MAX_AGE}, got {first_age}")
        check(
            all(np.all(np.abs(spec[name]) < MAX_PIXEL) for name in ("mean", "scale")),
            f"input.mean and input.scale must be below {MAX_PIXEL}, got {spec['mean']} and {spec['scale']}",
        )

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs that the model has, in the order of `OUTPUT_NAMES`."""
        available = {tensor.name for tensor in self.session.get_outputs()}
        return [name for name in OUTPUT_NAMES if name in available]

    def __call__(self, crops: Image) -> FaceOutputs:
        """Run the model on crops, `BATCH` at a time.

        Args:
            crops: (n, s, s, 3) uint8 RGB from `align.align_face`; n may be 0.

        Returns:
            n rows; outputs that the model lacks have shape (n, 0).
        """
        if not len(crops):
            return empty_outputs(self.card)
        outputs = self.outputs
        inputs = (preprocess(crops[i : i + BATCH], self.card) for i in range(0, len(crops), BATCH))
        batches = [self.session.run(outputs, {"crops": batch}) for batch in inputs]
        columns = dict(zip(outputs, map(np.concatenate, zip(*batches, strict=True)), strict=True))
        if "age" in columns:
            columns["age"] = expected_age(columns["age"], self.card["first_age"])
        missing = np.zeros((len(crops), 0), np.float32)
        return FaceOutputs(**{name: columns.get(name, missing) for name in OUTPUT_NAMES})


def preprocess(crops: Image, card: Mapping[str, Any]) -> FloatArray:
    """Convert crops (n, s, s, 3) uint8 RGB to the input (n, 3, s, s) float32 of the model with that card."""
    spec = card["input"]
    ordered = (crops[..., ::-1] if spec["colour"] == "BGR" else crops).transpose(0, 3, 1, 2)
    mean, scale = (np.broadcast_to(np.array(spec[name], np.float32), 3)[:, None, None] for name in ("mean", "scale"))
    contiguous = np.empty(ordered.shape, np.float32)  # five times faster
    values = np.subtract(ordered, mean, out=contiguous)
    values *= scale
    return values


def empty_outputs(card: Mapping[str, Any]) -> FaceOutputs:
    """Return outputs without rows, with the widths of the model with that card."""
    empty = np.zeros(0, np.float32)
    widths = card["embedding"], len(card["expressions"]), len(card.get("ethnicities", ())), card.get("identity", 0)
    embedding, expression, ethnicity, identity = (empty.reshape(0, width) for width in widths)
    age, gender = (empty if name in card else empty.reshape(0, 0) for name in ("first_age", "genders"))
    return FaceOutputs(embedding, expression, age, gender, ethnicity, identity)


def expected_age(probabilities: FloatArray, first_age: int) -> FloatArray:
    """Return the expected age, the mean of the class probabilities (Rothe et al., IJCV 2018, section 3.2).

    Args:
        probabilities: (n, classes), one class per year.
        first_age: The age of class 0.

    Returns:
        (n,) years.
    """
    return np.asarray(first_age + probabilities @ np.arange(probabilities.shape[1]), np.float32)
