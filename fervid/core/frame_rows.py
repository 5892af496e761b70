"""The rows of `fervid frames`: one for each face in each sampled frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fervid.core.records import Box, FloatArray, check
from fervid.core.results import ErrorInfo

_SIGNIFICANT_DIGITS = 6
_BOX_SIDES = ("x1", "y1", "x2", "y2")


@dataclass(frozen=True, slots=True)
class FrameColumns:
    """The columns of a run that depend on its models and options.

    Attributes:
        landmarks: Names of the detector's landmarks.
        expressions: Classes of the probabilities.
        identity: Whether rows have the identity of the person.
        logits: Whether rows have logits.
        attributes: Whether rows have age, gender and ethnicity.
        ethnicities: Classes of the ethnicity.
        embedding: Width of the embedding; 0 for rows without it.
    """

    landmarks: tuple[str, ...]
    expressions: tuple[str, ...]
    identity: bool = False
    logits: bool = False
    attributes: bool = False
    ethnicities: tuple[str, ...] = ()
    embedding: int = 0

    def nested(self) -> dict[str, tuple[str, ...]]:
        """Return the fields of a row in order, each with the columns in it; a plain field has none."""
        fields: dict[str, tuple[str, ...]] = dict.fromkeys(("path", "frame", "face_id"), ())
        if self.identity:
            fields["identity"] = ()
        fields |= dict.fromkeys(("timestamp", "duration_s", "confidence", "success", "detected"), ())
        fields["box"] = _BOX_SIDES
        fields["landmarks"] = tuple(f"{name}.{axis}" for name in self.landmarks for axis in "xy")
        fields["probabilities"] = self.expressions
        if self.logits:
            fields["logits"] = self.expressions
        if self.attributes:
            fields |= {"age": (), "male_probability": (), "ethnicity_probabilities": self.ethnicities}
        if self.embedding:
            fields["embedding"] = ()
        fields["error"] = ("code", "message")
        return fields

    def flat(self) -> list[str]:
        """Return the columns of a flat table in order, with nested fields as `box.x1`."""
        return [
            f"{field}.{name}" if name else field for field, names in self.nested().items() for name in names or ("",)
        ]


@dataclass(frozen=True, slots=True, eq=False)
class FrameRow:
    """A face in a sampled frame, a frame without a face, or the error that ended a clip.

    Attributes:
        path: The clip as named by the user.
        frame: Position of the frame among all frames of the file, counted from 0; None in the row of an error.
        timestamp: Seconds from the start of the clip, as a player shows them.
        duration_s: Seconds of the clip that the frame stands for.
        face_id: The person, as `people[].id` in the record of `fervid classify`; None without a face, and for a face
            that is seen too rarely to be certain.
        confidence: Score of the face detector, 0 to 1; None without a face, like all that follow.
        detected: Whether the face was detected in this frame; otherwise it was followed by optical flow.
        box: x1, y1, x2, y2 in pixels of the upright frame.
        landmarks: x and y of each landmark, by name.
        probabilities: Probability of each expression.
        logits: Logarithms of the probabilities, shifted to mean 0; None unless requested.
        age: Years; None unless requested, like the next two.
        male_probability: Probability of the class "male".
        ethnicity_probabilities: Probability of each class.
        embedding: (d,) activations of the penultimate layer of the face model; None unless requested.
        identity: A name that is the same for one person in all clips of a run, as `people[].identity` in a record; only
            in the output of `fervid frames --identify`.
        error: What is wrong with the clip; set in its last row only.
    """

    path: str
    frame: int | None = None
    timestamp: float | None = None
    duration_s: float | None = None
    face_id: int | None = None
    confidence: float | None = None
    detected: bool | None = None
    box: Box | None = None
    landmarks: Mapping[str, tuple[float, float]] | None = None
    probabilities: Mapping[str, float] | None = None
    logits: Mapping[str, float] | None = None
    age: float | None = None
    male_probability: float | None = None
    ethnicity_probabilities: Mapping[str, float] | None = None
    embedding: FloatArray | None = None
    identity: str | None = None
    error: ErrorInfo | None = None

    def __post_init__(self) -> None:
        check((self.frame is None) == (self.error is not None), "a row has either a frame or an error")
        check(self.success == (self.box is not None), "a face needs a box, a confidence and probabilities")

    @property
    def success(self) -> bool:
        """Whether the row has a face."""
        return self.confidence is not None and self.probabilities is not None

    def as_dict(self) -> dict[str, Any]:
        """Convert the row to plain types; only the embedding stays an array. Numbers have six significant digits."""
        box, points = self.box, self.landmarks
        return {
            "path": self.path,
            "frame": self.frame,
            "face_id": self.face_id,
            "identity": self.identity,
            "timestamp": None if self.timestamp is None else round(self.timestamp, 6),
            "duration_s": None if self.duration_s is None else round(self.duration_s, 6),
            "confidence": _rounded(self.confidence),
            "success": int(self.success),
            "detected": None if self.detected is None else int(self.detected),
            "box": None if box is None else dict(zip(_BOX_SIDES, map(_rounded, box), strict=True)),
            "landmarks": None
            if points is None
            else {name: {"x": _rounded(x), "y": _rounded(y)} for name, (x, y) in points.items()},
            "probabilities": _rounded_values(self.probabilities),
            "logits": _rounded_values(self.logits),
            "age": _rounded(self.age),
            "male_probability": _rounded(self.male_probability),
            "ethnicity_probabilities": _rounded_values(self.ethnicity_probabilities),
            "embedding": self.embedding,
            "error": {"code": self.error.code, "message": self.error.message} if self.error else None,
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> FrameRow:
        """Restore a row from `as_dict`, from a line of JSON or from a row of parquet.

        Raises:
            ValueError: It is not one.
        """
        try:
            values = {name: row[name] for name in cls.__dataclass_fields__ if row.get(name) is not None}
            if "box" in values:
                values |= {
                    "detected": bool(values["detected"]),
                    "box": tuple(values["box"][side] for side in _BOX_SIDES),
                    "landmarks": {name: (point["x"], point["y"]) for name, point in values["landmarks"].items()},
                }
            if "embedding" in values:
                values["embedding"] = np.asarray(values["embedding"], np.float32)
            if "error" in values:
                values["error"] = ErrorInfo(**values["error"])
            return cls(**values)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not a row of fervid frames: {error!r}") from error


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_SIGNIFICANT_DIGITS}g}")


def _rounded_values(values: Mapping[str, float] | None) -> dict[str, float | None] | None:
    return None if values is None else {name: _rounded(value) for name, value in values.items()}
