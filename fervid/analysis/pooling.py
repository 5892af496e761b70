"""Pool the outputs of a face model over time into statistics, in one pass and constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from fervid.core.records import ClipFeatures, FaceOutputs, FloatArray

STATISTICS = ("mean", "std", "min", "max")
POOLED_OUTPUTS = ("embedding", "expression", "logit", "age", "gender", "ethnicity", "identity")
MIN_PROBABILITY = 1e-6  # smaller values are rounding errors, whose logarithms would dominate a mean


def to_logits(probabilities: FloatArray) -> FloatArray:
    """Convert probabilities (n, c) to logits (n, c) with mean 0 over the classes.

    These are the logits of the model up to a constant for each row, which softmax removes.
    """
    logs = np.log(np.maximum(probabilities, MIN_PROBABILITY))
    return np.asarray(logs - logs.mean(axis=1, keepdims=True), np.float32)


class RunningStats:
    """Running mean, standard deviation, minimum and maximum of vectors.

    Means and sums of squared deviations are updated by the pairwise form of Welford's method (Chan, Golub and LeVeque,
    The American Statistician 37(3), 1983), which loses no digits on many rows of nearly the same value.
    """

    __slots__ = ("_deviation", "_max", "_mean", "_min", "count")

    def __init__(self) -> None:
        """Start without rows; the first ones set the width."""
        self.count = 0
        empty: NDArray[np.floating] = np.zeros(0)
        self._mean, self._deviation, self._min, self._max = empty, empty, empty, empty

    def update(self, rows: FloatArray) -> None:
        """Add rows (n, width); n may be 0."""
        if len(rows):
            mean = rows.mean(axis=0, dtype=np.float64)
            self._merge(len(rows), mean, np.square(rows - mean).sum(axis=0), rows.min(axis=0), rows.max(axis=0))

    def update_constant(self, row: FloatArray, times: int) -> None:
        """Add the same row (width,) several times."""
        if times:
            self._merge(times, row.astype(np.float64), np.zeros(len(row)), row, row)

    def merge(self, other: RunningStats) -> None:
        """Add all rows of another instance, which stays unchanged."""
        if other.count:
            self._merge(other.count, other._mean, other._deviation, other._min, other._max)

    def _merge(
        self,
        count: int,
        mean: NDArray[np.floating],
        deviation: NDArray[np.floating],
        minimum: NDArray[np.floating],
        maximum: NDArray[np.floating],
    ) -> None:
        if not self.count:
            self._mean, self._deviation, self._min, self._max = mean, deviation, minimum, maximum
            self.count = count
            return
        total = self.count + count
        step = mean - self._mean
        self._deviation = self._deviation + deviation + np.square(step) * (self.count * count / total)
        self._mean = self._mean + step * (count / total)
        self._min = np.minimum(self._min, minimum)
        self._max = np.maximum(self._max, maximum)
        self.count = total

    def statistics(self) -> dict[str, FloatArray]:
        """Return each of `STATISTICS` (width,); the standard deviation is that of the population, 0 for one row.

        Raises:
            ValueError: No row was added.
        """
        if not self.count:
            raise ValueError("no statistics of an empty pool")
        values = (self._mean, np.sqrt(self._deviation / self.count), self._min, self._max)
        return {name: value.astype(np.float32) for name, value in zip(STATISTICS, values, strict=True)}


class FeaturePooler:
    """Pools the columns of `FaceOutputs` under their names, and the logits of the expression under `logit`.

    The faces of each frame are pooled, then the frames, as for VGAF (arXiv 2103.17107, section 4.3): statistics of the
    mean over the faces get the plain names, and those of the standard deviation over the faces are called
    `embedding.across_faces.mean` and so on. A person is a group of one face.
    """

    __slots__ = ("_means", "_single_face_frames", "_spreads", "_widths")

    def __init__(self) -> None:
        """Start without faces."""
        self._widths: Mapping[str, int] = {}
        self._means, self._spreads = RunningStats(), RunningStats()  # of all columns concatenated, which is faster
        self._single_face_frames = 0  # their spread is 0; `features` adds them all at once

    @property
    def count(self) -> int:
        """Number of frames with a face."""
        return self._means.count

    def update_group(self, outputs: FaceOutputs) -> None:
        """Add all faces of one frame; a frame without faces changes nothing."""
        rows = self._concat_outputs(outputs)
        if len(rows) > 1:
            self._means.update(rows.mean(axis=0, keepdims=True))
            self._spreads.update(rows.std(axis=0, keepdims=True))
        else:
            self._means.update(rows)
            self._single_face_frames += len(rows)

    def features(self) -> ClipFeatures:
        """Return every statistic of every column that the face model has.

        Raises:
            ValueError: No face was added.
        """
        spreads = RunningStats()
        spreads.merge(self._spreads)
        spreads.update_constant(np.zeros(sum(self._widths.values()), np.float32), self._single_face_frames)
        ends = np.cumsum(list(self._widths.values()))[:-1]
        statistics = {
            f"{name}{suffix}.{kind}": vector
            for suffix, stats in (("", self._means), (".across_faces", spreads))
            if stats.count
            for kind, values in stats.statistics().items()
            for name, vector in zip(self._widths, np.split(values, ends), strict=True)
            if len(vector)
        }
        return ClipFeatures(statistics, self.count)

    @classmethod
    def combine(cls, parts: Iterable[FeaturePooler]) -> FeaturePooler:
        """Pool the faces of several instances, which stay unchanged."""
        combined = cls()
        for part in parts:
            combined._widths = combined._widths or part._widths
            combined._means.merge(part._means)
            combined._spreads.merge(part._spreads)
            combined._single_face_frames += part._single_face_frames
        return combined

    def _concat_outputs(self, outputs: FaceOutputs) -> FloatArray:
        columns = [
            (name, to_logits(outputs.expression) if name == "logit" else getattr(outputs, name))
            for name in POOLED_OUTPUTS
        ]
        self._widths = self._widths or {name: column[0].size for name, column in columns if len(column)}
        return np.column_stack([column for _, column in columns])
