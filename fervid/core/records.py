"""The records that stages exchange: frozen dataclasses that check their values.

Images are RGB, uint8, (height, width, 3). Boxes and points are in pixels of the frame, x to the right and y down.
Times are seconds of presentation time from the start of the clip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
FloatArray = NDArray[np.float32]
Box = tuple[float, float, float, float]
TIME_EPS_S = 1e-6
"""Times that differ by less are equal; sums of times are not exact."""


def check(condition: bool, message: str) -> None:
    """Raise ValueError with a message unless the condition holds."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One frame of a clip.

    Attributes:
        image: (h, w, 3) uint8 RGB, upright.
        time: Presentation time in seconds from the start of the clip.
        duration: Seconds of the clip that the frame stands for, 0 for a still image.
        index: Position among all frames of the file, counted from 0; always 0 for live input.
    """

    image: Image
    time: float = 0.0
    duration: float = 0.0
    index: int = 0

    def __post_init__(self) -> None:
        check(
            self.image.ndim == 3 and self.image.shape[2] == 3 and self.image.dtype == np.uint8,
            f"a frame is (h, w, 3) uint8, not {self.image.shape} {self.image.dtype}",
        )
        check(self.duration >= 0, f"a frame cannot last {self.duration} s")


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One face in one frame.

    Attributes:
        box: x1, y1, x2, y2 in pixels of the frame; may extend beyond its border.
        landmarks: (k, 2) x, y; row 0 is the subject's right eye (left in the image), row 1 the left eye.
        score: The detector's confidence, 0 to 1.
        detected: Whether it was detected in this frame; otherwise it was followed from an earlier one by optical flow,
            and the score is that of its last detection.
    """

    box: Box
    landmarks: FloatArray
    score: float
    detected: bool = True

    def __post_init__(self) -> None:
        x1, y1, x2, y2 = self.box
        check(x1 < x2 and y1 < y2, f"a face box needs x1 < x2 and y1 < y2: {self.box}")
        check(
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
        check(len(rows) == 1, f"columns of unequal length: {sorted(rows)}")
        tables = (self.embedding, self.expression, self.ethnicity, self.identity)
        check(all(table.ndim == 2 for table in tables), "embedding, expression, ethnicity and identity are (n, d)")

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
        outputs: Outputs of the face model, n rows.
        index: Position among all frames of the file, counted from 0.
    """

    time: float
    duration: float
    faces: Sequence[Face]
    area_fractions: Sequence[float]
    outputs: FaceOutputs
    index: int = 0

    def __post_init__(self) -> None:
        counts = {len(self.faces), len(self.area_fractions), len(self.outputs)}
        check(len(counts) == 1, f"faces, area fractions and outputs of unequal number: {sorted(counts)}")


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
        check(self.count >= 1, "features need at least one observation")
        check(all(v.ndim == 1 for v in self.statistics.values()), "every statistic is a vector")

    def as_dict(self) -> dict[str, Any]:
        """Convert the features to plain JSON types, without rounding."""
        return {"count": self.count, "statistics": {name: vector.tolist() for name, vector in self.statistics.items()}}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> ClipFeatures:
        """Restore features from `as_dict`.

        Raises:
            KeyError, TypeError, ValueError: They are no features.
        """
        statistics = {name: np.array(vector, np.float32) for name, vector in plain["statistics"].items()}
        return cls(statistics, plain["count"])

    def vector(self, names: Sequence[str]) -> FloatArray:
        """Concatenate statistics in the given order: (d1 + d2 + ...,).

        Raises:
            ValueError: A statistic does not exist.
        """
        missing = [name for name in names if name not in self.statistics]
        check(not missing, f"no statistic {', '.join(missing)} among {', '.join(self.statistics)}")
        return np.concatenate([self.statistics[name] for name in names])
