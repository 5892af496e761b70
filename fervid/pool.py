"""Scores over time -> statistics of a clip, in one pass and flat memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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

    __slots__ = ("_pools",)

    def __init__(self) -> None:
        """Start empty."""
        self._pools: dict[str, Pool] = {}

    @property
    def count(self) -> int:
        """Rows taken in: faces of a person, or frames of a group."""
        return max((pool.count for pool in self._pools.values()), default=0)

    def update(self, scores: FaceScores) -> None:
        """Take in faces of one person, a row each."""
        for name, rows in _columns(scores).items():
            self._pool(name, rows.shape[1]).update(rows)

    def update_group(self, scores: FaceScores) -> None:
        """Take in all faces of one frame; a frame without faces changes nothing."""
        if len(scores):
            for name, rows in _columns(scores).items():
                self._pool(name, rows.shape[1]).update(rows.mean(axis=0, keepdims=True))
                self._pool(f"{name}.spread", rows.shape[1]).update(rows.std(axis=0, keepdims=True))

    def features(self) -> ClipFeatures:
        """Every statistic of every column.

        Raises:
            ValueError: Nothing was taken in.
        """
        return ClipFeatures(
            {
                f"{name}.{kind}": value
                for name, pool in self._pools.items()
                for kind, value in pool.statistics().items()
            },
            self.count,
        )

    def _pool(self, name: str, width: int) -> Pool:
        return self._pools.setdefault(name, Pool(width))

    @classmethod
    def union(cls, parts: Iterable[FeaturePool]) -> FeaturePool:
        """What all the parts have seen, as one."""
        whole = cls()
        for part in parts:
            for name, pool in part._pools.items():
                whole._pool(name, len(pool._mean)).merge(pool)
        return whole


def _columns(scores: FaceScores) -> Mapping[str, Floats]:
    columns: dict[str, Floats] = {name: getattr(scores, name) for name in COLUMNS}
    return {name: rows if rows.ndim == 2 else rows[:, None] for name, rows in columns.items()}
