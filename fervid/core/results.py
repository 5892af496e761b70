"""The results that a run writes: frozen dataclasses, of which `as_dict` gives the JSON record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from fervid.core.records import check

SCHEMA_VERSION = 2

Status = Literal["ok", "no_face", "error", "skipped"]


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
        check(self.clips >= 1, f"a baseline needs at least one clip, not {self.clips}")


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
        models: The models by role: detector, face_model and classifier.
        error: Set if the status is `error` or `skipped`, and with the other two if the file is damaged.
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
    error: ErrorInfo | None = None
    elapsed_s: float = 0.0
    baseline: Baseline | None = None

    def __post_init__(self) -> None:
        check(
            (self.status == "ok") == (self.prediction is not None),
            "a result needs a prediction if and only if it is ok",
        )
        check(self.status in ("ok", "no_face") or self.error is not None, f"{self.status} needs an error")

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
            "error": {"code": self.error.code, "message": self.error.message} if self.error else None,
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
        first = {"schema_version": SCHEMA_VERSION, "path": self.path}
        times = {"start_s": _rounded(self.start_s), "end_s": _rounded(self.end_s)}
        return first | times | ClipResult.as_dict(self)


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(float(value), digits)


def _rounded_probabilities(probabilities: Mapping[str, float] | None) -> dict[str, float] | None:
    return None if probabilities is None else {label: round(float(p), 4) for label, p in probabilities.items()}
