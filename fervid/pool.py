"""Scores over time -> statistics of a clip, in one pass and flat memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from fervid.records import ClipFeatures, FaceScores, Floats

STATISTICS = ("mean", "std", "min", "max")
COLUMNS = ("embedding", "expression", "age", "gender", "ethnicity", "identity")


class Pool:
    """Running mean, standard deviation, minimum and maximum of vectors.

    Means and squared deviations are updated and joined by Chan, Golub and LeVeque's pairwise form of Welford's method
    (The American Statistician 37(3), 1983), so that many rows of nearly the same value lose no digits.
    """

    __slots__ = ("_deviation", "_max", "_mean", "_min", "count")

    def __init__(self, width: int) -> None:
        """Start empty, for vectors of `width` values."""
        self.count = 0
        self._mean: NDArray[np.float64] = np.zeros(width)
        self._deviation: NDArray[np.float64] = np.zeros(width)
        self._min: NDArray[np.float64] = np.full(width, np.inf)
        self._max: NDArray[np.float64] = np.full(width, -np.inf)

    def update(self, rows: Floats) -> None:
        """Take in rows (n, width); n = 0 changes nothing."""
        if len(rows):
            mean = rows.mean(axis=0, dtype=np.float64)
            deviation = np.square(rows - mean).sum(axis=0)
            self._join(len(rows), mean, deviation, rows.min(axis=0), rows.max(axis=0))

    def merge(self, other: Pool) -> None:
        """Take in everything that another pool has seen."""
        if other.count:
            self._join(other.count, other._mean, other._deviation, other._min, other._max)

    def _join(
        self,
        count: int,
        mean: NDArray[np.float64],
        deviation: NDArray[np.float64],
        minimum: NDArray[np.floating],
        maximum: NDArray[np.floating],
    ) -> None:
        total = self.count + count
        step = mean - self._mean
        self._deviation += deviation + np.square(step) * (self.count * count / total)
        self._mean += step * (count / total)
        self._min = np.minimum(self._min, minimum)
        self._max = np.maximum(self._max, maximum)
        self.count = total

    def statistics(self) -> dict[str, Floats]:
        """The four statistics (width,); the standard deviation is that of the population, 0 for one row.

        Raises:
            ValueError: Nothing was taken in.
        """
        if not self.count:
            raise ValueError("an empty pool has no statistics")
        values = (self._mean, np.sqrt(self._deviation / self.count), self._min, self._max)
        return {name: value.astype(np.float32) for name, value in zip(STATISTICS, values, strict=True)}


class FeaturePool:
    """Pools the columns of `FaceScores`, each under its name.

    `update` takes the faces of one person; `update_group` all the faces of one frame, first over the faces, then over
    frames, as for VGAF (arXiv 2103.17107, section 4.3): the mean over the faces goes under the plain names and the
    standard deviation over them under `embedding.spread.mean` and so on.
    """

    __slots__ = ("_plain", "_spread", "_widths")

    def __init__(self) -> None:
        """Start empty."""
        self._widths: Mapping[str, int] = {}
        self._plain, self._spread = Pool(0), Pool(0)  # of all columns side by side, because few large sums are fast

    @property
    def count(self) -> int:
        """Rows taken in: faces of a person, or frames of a group."""
        return self._plain.count

    def update(self, scores: FaceScores) -> None:
        """Take in faces of one person, a row each."""
        self._begin(scores)
        self._plain.update(_side_by_side(scores))

    def update_group(self, scores: FaceScores) -> None:
        """Take in all faces of one frame; a frame without faces changes nothing."""
        if len(scores):
            self._begin(scores)
            rows = _side_by_side(scores)
            alone = len(rows) == 1
            self._plain.update(rows if alone else rows.mean(axis=0, keepdims=True))
            self._spread.update(np.zeros_like(rows) if alone else rows.std(axis=0, keepdims=True))

    def features(self) -> ClipFeatures:
        """Every statistic of every column.

        Raises:
            ValueError: Nothing was taken in.
        """
        statistics = {}
        ends = np.cumsum(list(self._widths.values()))[:-1]
        for suffix, pool in (("", self._plain), (".spread", self._spread)):
            if pool.count:
                for kind, values in pool.statistics().items():
                    for name, part in zip(self._widths, np.split(values, ends), strict=True):
                        statistics[f"{name}{suffix}.{kind}"] = part
        return ClipFeatures(statistics, self.count)

    def _begin(self, scores: FaceScores) -> None:
        if not self._widths:
            self._widths = {name: column.shape[1] if column.ndim == 2 else 1 for name, column in _columns(scores)}
            self._plain, self._spread = (Pool(sum(self._widths.values())) for _ in range(2))

    @classmethod
    def union(cls, parts: Iterable[FeaturePool]) -> FeaturePool:
        """What all the parts have seen, as one."""
        whole = cls()
        for part in parts:
            if not whole._widths and part._widths:
                whole._widths = part._widths
                whole._plain, whole._spread = (Pool(sum(part._widths.values())) for _ in range(2))
            whole._plain.merge(part._plain)
            whole._spread.merge(part._spread)
        return whole


def _columns(scores: FaceScores) -> Iterator[tuple[str, Floats]]:
    return ((name, getattr(scores, name)) for name in COLUMNS)


def _side_by_side(scores: FaceScores) -> Floats:
    return np.column_stack([column for _, column in _columns(scores)])
