"""Options of the analysis: which frames, which faces, which labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fervid.media.sampling import Sampling


@dataclass(frozen=True, slots=True)
class Options:
    """How to analyse a clip.

    Attributes:
        sampling: Which frames to sample.
        face: `main` classifies the person who fills most of the frame over time; `all` pools the faces of everybody.
        min_face: Shorter side in pixels of the smallest face to detect. None means 1/40 of the frame's longer side,
            and at least 12.
        attributes: Whether to estimate age, gender and ethnicity of each person.
        labels: Subset of the classifier's labels to choose from; None for all of them.
        adaptive: Whether to start at a low frame rate and stop as soon as the classifier is confident (early exit).
        baseline: What predictions are relative to in `Classifier.apply_baseline`: each person's average (`person`) or
            clips of the person at rest (`rest`). None for absolute predictions.
        detection_interval_s: Seconds between two runs of the face detector while every face can be tracked by optical
            flow; 0 runs it on every sampled frame.

    Raises:
        ValueError: A value is out of range, or two of them contradict each other.
    """

    sampling: Sampling = field(default_factory=Sampling)
    face: Literal["main", "all"] = "main"
    min_face: int | None = None
    attributes: bool = False
    labels: tuple[str, ...] | None = None
    adaptive: bool = False
    baseline: Literal["person", "rest"] | None = None
    detection_interval_s: float = 1.0

    def __post_init__(self) -> None:
        if self.face not in ("main", "all"):
            raise ValueError(f"face must be 'main' or 'all', not {self.face!r}")
        if self.min_face is not None and self.min_face < 8:
            raise ValueError(f"the smallest face must be 8 pixels or more (--min-face), not {self.min_face}")
        if self.adaptive and self.sampling.fps is None:
            raise ValueError("--adaptive needs a frame rate to reduce; it cannot be combined with --every-frame")
        if not self.detection_interval_s >= 0:
            raise ValueError(f"detection_interval_s must be 0 or more, not {self.detection_interval_s}")
