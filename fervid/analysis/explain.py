"""Clip features + classifier -> which statistics spoke for the label.

Shapley values (Shapley 1953; Lundberg and Lee, arXiv 1705.07874) of groups of statistics: how much each adds to the
probability of the label, averaged over all orders in which the groups could be told. They are exact here, because all
subsets of a dozen groups are few rows for a clip classifier, and so they hold for every kind of file alike: linear and
RBF SVM, MLP, logistic regression, and `mean8`. Together they are the probability of the label less what the classifier
says when it is told nothing. What nothing is, comes with the file: the mean of the clips that it was fitted on where it
scales values by them, and else zeros, which of a clip of unit length are what is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import factorial

import numpy as np
import onnx
from numpy.typing import NDArray

from fervid.core.records import ClipFeatures, FloatArray

MAX_GROUPS = 12
"""How many groups there are at most; each doubles the work."""
_STATISTIC_LABELS = {"mean": "mean", "std": "change over time", "min": "lowest", "max": "highest"}
_ROWS = 1024  # that the classifier is asked at a time

Columns = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What spoke for a label.

    Attributes:
        label: Of which class.
        confidence: Its probability, all being told.
        nothing: Its probability, nothing being told.
        shares: Name of each group to what it adds; the sum is `confidence` less `nothing`.
    """

    label: str
    confidence: float
    nothing: float
    shares: Mapping[str, float]


def explain(
    classify: Callable[[FloatArray], FloatArray],
    told: FloatArray,
    untold: FloatArray,
    groups: Mapping[str, Columns],
    labels: Sequence[str],
) -> Explanation:
    """What each group of statistics adds to the probability of the most probable label.

    Args:
        classify: (n, d) rows to (n, c) probabilities.
        told: (d,) the statistics of the clip.
        untold: (d,) what stands for a statistic that is not told.
        groups: Name to columns; at most `MAX_GROUPS`, which have no column in common.
        labels: The c classes.

    Raises:
        ValueError: There are too many groups, or none.
    """
    if not 0 < len(groups) <= MAX_GROUPS:
        raise ValueError(f"there are {len(groups)} groups of statistics, and 1 to {MAX_GROUPS} can be told apart")
    subsets = np.arange(2 ** len(groups))
    member = (subsets[:, None] >> np.arange(len(groups)) & 1).astype(bool)  # (2 ** g, g)
    rows = np.concatenate([classify(part) for part in _coalition_rows(told, untold, list(groups.values()), member)])
    best = int(rows[-1].argmax())
    values = rows[:, best].astype(np.float64)
    size, count = member.sum(axis=1), len(groups)
    weights = np.array([factorial(s) * factorial(count - s - 1) / factorial(count) for s in range(count)])
    shares = {}
    for i, name in enumerate(groups):
        without = subsets[~member[:, i]]
        shares[name] = float(weights[size[without]] @ (values[without | 1 << i] - values[without]))
    return Explanation(labels[best], float(values[-1]), float(values[0]), shares)


def feature_groups(features: ClipFeatures, names: Sequence[str], expressions: Sequence[str]) -> dict[str, Columns]:
    """Groups of the columns of `features.vector(names)`, as fine as `MAX_GROUPS` allows.

    Every statistic is one, and those of expressions are parted by expression instead, all that is known of one
    together; where that is too many, every statistic is one; or else all statistics of a vector.

    Args:
        features: Of any clip.
        names: The statistics that a classifier takes.
        expressions: The classes of the face network.
    """
    fine: dict[str, list[int]] = {}
    whole: dict[str, list[int]] = {}
    coarse: dict[str, list[int]] = {}
    start = 0
    for name in names:
        vector, _, kind = name.rpartition(".")
        for i in range(width := features.statistics[name].size):
            known = vector in ("expression", "logit") and width == len(expressions)
            spoken = f"{vector.replace('.spread', ' between people')}, {_STATISTIC_LABELS[kind]}"
            fine.setdefault(f"expression of {expressions[i]}" if known else spoken, []).append(start + i)
            whole.setdefault(spoken, []).append(start + i)
            coarse.setdefault(vector, []).append(start + i)
        start += width
    found = next((way for way in (fine, whole) if len(way) <= MAX_GROUPS), coarse)
    return {name: np.array(columns) for name, columns in found.items()}


def baseline(model: bytes, width: int) -> FloatArray:
    """(width,) what stands for statistics that are not told: the mean in a classifier file that scales by one, or 0."""
    graph = onnx.load_from_string(model).graph
    for node in graph.node:
        if node.op_type == "Scaler" and "features" in node.input:
            offsets = next((entry.floats for entry in node.attribute if entry.name == "offset"), ())
            if len(offsets) == width:
                return np.array(offsets, np.float32)
    return np.zeros(width, np.float32)


def _coalition_rows(
    told: FloatArray, untold: FloatArray, groups: Sequence[Columns], member: NDArray[np.bool_]
) -> Iterator[FloatArray]:
    """A row for each subset of the groups, some at a time."""
    for start in range(0, len(member), _ROWS):
        part = member[start : start + _ROWS]
        rows = np.tile(untold, (len(part), 1))
        for i, columns in enumerate(groups):
            rows[np.ix_(part[:, i], columns)] = told[columns]
        yield rows
