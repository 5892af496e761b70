"""Scores over time -> statistics of a clip, in one pass and flat memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from fervid.core.records import ClipFeatures, FaceOutputs, FloatArray

STATISTICS = ("mean", "std", "min", "max")
POOLED_OUTPUTS = ("embedding", "expression", "logit", "age", "gender", "ethnicity", "identity")
LEAST_PROBABILITY = 1e-6  # what is below it is rounding, and would decide the mean of logarithms


def to_logits(probabilities: FloatArray) -> FloatArray:
    """Probabilities (n, c) -> logits (n, c) whose mean over the classes is 0.

    A soft-max forgets what all logits of a row have in common, so that is all that is lost.
    """
    logs = np.log(np.maximum(probabilities, LEAST_PROBABILITY))
    return np.asarray(logs - logs.mean(axis=1, keepdims=True), np.float32)


class RunningStats:
    """Running mean, standard deviation, minimum and maximum of vectors.

    Means and squared deviations are updated and joined by Chan, Golub and LeVeque's pairwise form of Welford's method
    (The American Statistician 37(3), 1983), so that many rows of nearly the same value lose no digits.
    """

    __slots__ = ("_deviation", "_max", "_mean", "_min", "count")

    def __init__(self) -> None:
        """Start empty, for vectors of any width."""
        self.count = 0
        none: NDArray[np.floating] = np.zeros(0)
        self._mean, self._deviation, self._min, self._max = none, none, none, none

    def update(self, rows: FloatArray) -> None:
        """Take in rows (n, width); n = 0 changes nothing."""
        if len(rows):
            mean = rows.mean(axis=0, dtype=np.float64)
            self._join(len(rows), mean, np.square(rows - mean).sum(axis=0), rows.min(axis=0), rows.max(axis=0))

    def repeat(self, row: FloatArray, times: int) -> None:
        """Take in the same row (width,) so many times."""
        if times:
            self._join(times, row.astype(np.float64), np.zeros(len(row)), row, row)

    def merge(self, other: RunningStats) -> None:
        """Take in everything that another pool has seen."""
        if other.count:
            self._join(other.count, other._mean, other._deviation, other._min, other._max)

    def _join(
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
        """The four statistics (width,); the standard deviation is that of the population, 0 for one row.

        Raises:
            ValueError: Nothing was taken in.
        """
        if not self.count:
            raise ValueError("an empty pool has no statistics")
        values = (self._mean, np.sqrt(self._deviation / self.count), self._min, self._max)
        return {name: value.astype(np.float32) for name, value in zip(STATISTICS, values, strict=True)}


class FeaturePooler:
    """Pools the columns of `FaceOutputs`, each under its name, and the logits of the expression as `logit`.

    `update` takes the faces of one person; `update_group` all the faces of one frame, first over the faces, then over
    frames, as for VGAF (arXiv 2103.17107, section 4.3): the mean over the faces goes under the plain names and the
    standard deviation over them under `embedding.spread.mean` and so on.
    """

    __slots__ = ("_alone", "_plain", "_spread", "_widths")

    def __init__(self) -> None:
        """Start empty."""
        self._widths: Mapping[str, int] = {}
        self._plain, self._spread = (
            RunningStats(),
            RunningStats(),
        )  # of all columns side by side, because few large sums are fast
        self._alone = 0  # frames of one face: their spread is zero, and is taken in at the end

    @property
    def count(self) -> int:
        """Rows taken in: faces of a person, or frames of a group."""
        return self._plain.count

    def update(self, scores: FaceOutputs) -> None:
        """Take in faces of one person, a row each."""
        self._plain.update(self._side_by_side(scores))

    def update_group(self, scores: FaceOutputs) -> None:
        """Take in all faces of one frame; a frame without faces changes nothing."""
        rows = self._side_by_side(scores)
        if len(rows) > 1:
            self._plain.update(rows.mean(axis=0, keepdims=True))
            self._spread.update(rows.std(axis=0, keepdims=True))
        else:
            self._plain.update(rows)
            self._alone += len(rows)

    def features(self) -> ClipFeatures:
        """Every statistic of every column that has a width.

        Raises:
            ValueError: Nothing was taken in.
        """
        spread = RunningStats()
        spread.merge(self._spread)
        spread.repeat(np.zeros(sum(self._widths.values()), np.float32), self._alone)
        ends = np.cumsum(list(self._widths.values()))[:-1]
        statistics = {
            f"{name}{suffix}.{kind}": part
            for suffix, pool in (("", self._plain), (".spread", spread))
            if pool.count
            for kind, values in pool.statistics().items()
            for name, part in zip(self._widths, np.split(values, ends), strict=True)
            if len(part)
        }
        return ClipFeatures(statistics, self.count)

    @classmethod
    def union(cls, parts: Iterable[FeaturePooler]) -> FeaturePooler:
        """What all the parts have seen, as one."""
        whole = cls()
        for part in parts:
            whole._widths = whole._widths or part._widths
            whole._plain.merge(part._plain)
            whole._spread.merge(part._spread)
            whole._alone += part._alone
        return whole

    def _side_by_side(self, scores: FaceOutputs) -> FloatArray:
        columns = [
            (name, to_logits(scores.expression) if name == "logit" else getattr(scores, name))
            for name in POOLED_OUTPUTS
        ]
        self._widths = self._widths or {name: column[0].size for name, column in columns if len(column)}
        return np.column_stack([column for _, column in columns])
