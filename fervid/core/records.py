"""The records that stages exchange: frozen dataclasses that check their values.

Images are RGB, uint8, (height, width, 3). Boxes and points are in pixels of the frame, x to the right and y down.
Times are seconds of presentation time from the start of the clip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

SCHEMA_VERSION = 1

Image = NDArray[np.uint8]
FloatArray = NDArray[np.float32]
Box = tuple[float, float, float, float]
Status = Literal["ok", "no_face", "error", "skipped"]


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One frame of a clip.

    Attributes:
        image: (h, w, 3) uint8 RGB, upright.
        time: Presentation time in seconds from the start of the clip.
        duration: Seconds of the clip that the frame stands for, 0 for a still image.
    """

    image: Image
    time: float = 0.0
    duration: float = 0.0

    def __post_init__(self) -> None:
        _check(
            self.image.ndim == 3 and self.image.shape[2] == 3 and self.image.dtype == np.uint8,
            f"a frame is (h, w, 3) uint8, not {self.image.shape} {self.image.dtype}",
        )
        _check(self.duration >= 0, f"a frame cannot last {self.duration} s")


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One face in one frame.

    Attributes:
        box: x1, y1, x2, y2 in pixels of the frame; may extend beyond its border.
        landmarks: (k, 2) x, y; row 0 is the subject's right eye (left in the image), row 1 the left eye.
        score: The detector's confidence, 0 to 1.
    """

    box: Box
    landmarks: FloatArray
    score: float

    def __post_init__(self) -> None:
        x1, y1, x2, y2 = self.box
        _check(x1 < x2 and y1 < y2, f"a face box needs x1 < x2 and y1 < y2: {self.box}")
        _check(
            self.landmarks.ndim == 2 and self.landmarks.shape[0] >= 2 and self.landmarks.shape[1] == 2,
            f"landmarks are (k >= 2, 2), not {self.landmarks.shape}",
        )

    @property
    def size(self) -> float:
        """The shorter side of the box in pixels."""
        x1, y1, x2, y2 = self.box
        return min(x2 - x1, y2 - y1)

    @property
    def area(self) -> float:
        """Area of the box in square pixels."""
        x1, y1, x2, y2 = self.box
        return (x2 - x1) * (y2 - y1)


@dataclass(frozen=True, slots=True, eq=False)
class FaceOutputs:
    """Outputs of the face model for n face crops, one row each; n may be 0.

    Outputs that a face model lacks have shape (n, 0); later stages ignore them.

    Attributes:
        embedding: (n, d) activations of the penultimate layer.
        expression: (n, c) probabilities.
        age: (n,) years.
        gender: (n,) probability of the class "male".
        ethnicity: (n, e) probabilities.
        identity: (n, i) vectors whose cosine is the similarity of two people.
    """

    embedding: FloatArray
    expression: FloatArray
    age: FloatArray
    gender: FloatArray
    ethnicity: FloatArray
    identity: FloatArray

    def __post_init__(self) -> None:
        rows = {len(column) for column in self._columns()}
        _check(len(rows) == 1, f"columns of unequal length: {sorted(rows)}")
        tables = (self.embedding, self.expression, self.ethnicity, self.identity)
        _check(all(table.ndim == 2 for table in tables), "embedding, expression, ethnicity and identity are (n, d)")

    def __len__(self) -> int:
        return len(self.embedding)

    def __getitem__(self, rows: slice | list[int]) -> FaceOutputs:
        """Select rows."""
        return FaceOutputs(*(column[rows] for column in self._columns()))

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of every output; 1 for those of shape (n,)."""
        return tuple(column.shape[1] if column.ndim == 2 else 1 for column in self._columns())

    def _columns(self) -> tuple[FloatArray, ...]:
        return (self.embedding, self.expression, self.age, self.gender, self.ethnicity, self.identity)


@dataclass(frozen=True, slots=True, eq=False)
class FrameObservation:
    """The faces of one frame, without its image.

    Attributes:
        time: Presentation time in seconds from the start of the clip.
        duration: Seconds of the clip that the frame stands for.
        faces: The n faces.
        area_fractions: For each face, the area of its box as a fraction of the frame.
        scores: Outputs of the face model, n rows.
    """

    time: float
    duration: float
    faces: Sequence[Face]
    area_fractions: Sequence[float]
    scores: FaceOutputs

    def __post_init__(self) -> None:
        counts = {len(self.faces), len(self.area_fractions), len(self.scores)}
        _check(len(counts) == 1, f"faces, area fractions and scores of unequal number: {sorted(counts)}")


@dataclass(frozen=True, slots=True, eq=False)
class ClipFeatures:
    """Statistics over the frames of a clip.

    Attributes:
        statistics: Vectors by name, such as `embedding.mean` and `expression.max`.
        count: Number of rows that were aggregated: faces, or frames if all faces are pooled.
    """

    statistics: Mapping[str, FloatArray]
    count: int

    def __post_init__(self) -> None:
        _check(self.count >= 1, "features need at least one observation")
        _check(all(v.ndim == 1 for v in self.statistics.values()), "every statistic is a vector")

    def vector(self, names: Sequence[str]) -> FloatArray:
        """Concatenate statistics in the given order: (d1 + d2 + ...,).

        Raises:
            ValueError: A statistic does not exist.
        """
        missing = [name for name in names if name not in self.statistics]
        _check(not missing, f"no statistic {', '.join(missing)} among {', '.join(self.statistics)}")
        return np.concatenate([self.statistics[name] for name in names])


@dataclass(frozen=True, slots=True)
class Prediction:
    """Probabilities of the classes, in the order of the classifier's labels."""

    probabilities: Mapping[str, float]

    @property
    def label(self) -> str:
        """The most probable class."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def confidence(self) -> float:
        """Probability of the label."""
        return self.probabilities[self.label]

    def _repr_html_(self) -> str:
        """Render the prediction in a notebook."""
        from fervid.core.notebook import prediction_card

        return prediction_card(self.probabilities)


@dataclass(frozen=True, slots=True)
class Person:
    """One person tracked through a clip.

    Attributes:
        id: 0 for the main person, others by falling area over time; the same in all windows of a clip.
        seconds: How long the face is visible.
        prediction: The prediction for this person alone.
        age: Mean expected age in years; None unless attributes were requested.
        gender: Name of the class; None unless attributes were requested.
        ethnicity: Name of the class; None unless attributes were requested.
        identity: A name that is the same for one person in all clips of a run; None unless requested.
    """

    id: int
    seconds: float
    prediction: Prediction
    age: float | None = None
    gender: str | None = None
    ethnicity: str | None = None
    identity: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Convert the person to plain JSON types."""
        return {
            "id": self.id,
            "seconds": _rounded(self.seconds),
            "label": self.prediction.label,
            "probabilities": _rounded_probabilities(self.prediction.probabilities),
            "age": _rounded(self.age, 1),
            "gender": self.gender,
            "ethnicity": self.ethnicity,
            "identity": self.identity,
        }

    def _repr_html_(self) -> str:
        """Render the person in a notebook."""
        from fervid.core.notebook import person_card

        return person_card(self.as_dict())


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """Why a clip has no prediction, or what was wrong with a clip that has one."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model file that contributed to a result."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a prediction is relative to: the average of the main person over several clips, or over clips at rest."""

    kind: Literal["person", "rest"]
    clips: int

    def __post_init__(self) -> None:
        _check(self.clips >= 1, f"a baseline needs at least one clip, not {self.clips}")


@dataclass(frozen=True, slots=True)
class ClipResult:
    """The result of one input; `as_dict` follows the schema that `fervid schema` prints.

    Attributes:
        path: The input as named by the user.
        status: `ok`, `no_face`, `error`, or `skipped` if the run stopped early.
        prediction: Label and probabilities of the clip; set if and only if the status is `ok`.
        people: The tracked people, the main person first.
        duration_s: Seconds of presentation time that were analysed; None if nothing could be read.
        frames_sampled: Number of analysed frames.
        frames_with_face: Number of those with a tracked face.
        models: The models by role: detector, network and classifier.
        problem: Set if the status is `error` or `skipped`, and with the other two if the file is damaged.
        elapsed_s: Wall-clock seconds spent on the clip.
        baseline: What the prediction is relative to; None unless a baseline was requested and enough clips give one.
    """

    path: str
    status: Status
    prediction: Prediction | None = None
    people: tuple[Person, ...] = ()
    duration_s: float | None = None
    frames_sampled: int = 0
    frames_with_face: int = 0
    models: Mapping[str, ModelRef] = field(default_factory=dict)
    problem: ErrorInfo | None = None
    elapsed_s: float = 0.0
    baseline: Baseline | None = None

    def __post_init__(self) -> None:
        _check(
            (self.status == "ok") == (self.prediction is not None),
            "a result needs a prediction if and only if it is ok",
        )
        _check(self.status in ("ok", "no_face") or self.problem is not None, f"{self.status} needs a problem")

    @property
    def label(self) -> str | None:
        """The label of the clip; None unless ok."""
        return self.prediction.label if self.prediction else None

    @property
    def confidence(self) -> float | None:
        """Probability of the label; None unless ok."""
        return self.prediction.confidence if self.prediction else None

    @property
    def probabilities(self) -> Mapping[str, float] | None:
        """Probability of every class; None unless ok."""
        return self.prediction.probabilities if self.prediction else None

    def as_dict(self) -> dict[str, Any]:
        """Convert the record to plain JSON types, in the order of the schema."""
        return {
            "schema_version": SCHEMA_VERSION,
            "path": self.path,
            "status": self.status,
            "label": self.label,
            "confidence": _rounded(self.confidence),
            "probabilities": _rounded_probabilities(self.probabilities),
            "people": [person.as_dict() for person in self.people],
            "duration_s": _rounded(self.duration_s),
            "frames_sampled": self.frames_sampled,
            "frames_with_face": self.frames_with_face,
            "model": {role: {"name": m.name, "sha256": m.sha256} for role, m in self.models.items()},
            "error": {"code": self.problem.code, "message": self.problem.message} if self.problem else None,
            "elapsed_s": _rounded(self.elapsed_s),
            "baseline": {"kind": self.baseline.kind, "clips": self.baseline.clips} if self.baseline else None,
        }

    def _repr_html_(self) -> str:
        """Render the record in a notebook."""
        from fervid.core.notebook import clip_card

        return clip_card(self.as_dict())


@dataclass(frozen=True, slots=True)
class WindowResult(ClipResult):
    """The result of one window of a clip.

    Attributes:
        start_s: Start of the window in seconds of presentation time; None if the clip could not be read.
        end_s: End of the window in seconds; None likewise.
    """

    start_s: float | None = None
    end_s: float | None = None

    @classmethod
    def from_clip_result(cls, result: ClipResult, start: float | None = None, end: float | None = None) -> WindowResult:
        """Add the times of a window to its result."""
        return cls(**{field.name: getattr(result, field.name) for field in fields(result)}, start_s=start, end_s=end)

    def as_dict(self) -> dict[str, Any]:
        """Convert the record to plain JSON types; the times follow the path."""
        plain = ClipResult.as_dict(self)
        version, path = plain.pop("schema_version"), plain.pop("path")
        times = {"start_s": _rounded(self.start_s), "end_s": _rounded(self.end_s)}
        return {"schema_version": version, "path": path, **times, **plain}


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(float(value), digits)


def _rounded_probabilities(probabilities: Mapping[str, float] | None) -> dict[str, float] | None:
    return None if probabilities is None else {label: round(float(p), 4) for label, p in probabilities.items()}
