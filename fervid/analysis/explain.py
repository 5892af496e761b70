"""Clip features and a classifier -> how much each statistic contributed to the predicted probability.

Shapley values (Shapley 1953; Lundberg and Lee, arXiv 1705.07874) of groups of statistics: how much a group adds to the
probability of the label, averaged over all orders of adding groups. Groups that are not added yet have a baseline
value: the training mean if the classifier standardises its features, else 0, which contributes nothing to a linear
model. With at most a dozen groups, the classifier can be run on every subset, so the values are exact for any kind of
classifier. They add up to the probability of the label less the baseline probability.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import factorial

import numpy as np
import onnx
from numpy.typing import NDArray

from fervid.core.records import ClipFeatures, FloatArray

MAX_GROUPS = 12  # each doubles the work
_STATISTIC_LABELS = {"mean": "mean", "std": "change over time", "min": "lowest", "max": "highest"}
_BATCH_ROWS = 1024

Columns = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Explanation:
    """How much each group of statistics contributed to a prediction.

    Attributes:
        label: The predicted label.
        confidence: Its probability.
        baseline_probability: Its probability when all features have their baseline values.
        contributions: What each group adds, by name; the sum is `confidence` less `baseline_probability`.
    """

    label: str
    confidence: float
    baseline_probability: float
    contributions: Mapping[str, float]


def explain(
    classify: Callable[[FloatArray], FloatArray],
    features: FloatArray,
    baseline: FloatArray,
    groups: Mapping[str, Columns],
    labels: Sequence[str],
) -> Explanation:
    """Compute what each group of statistics adds to the probability of the predicted label.

    Args:
        classify: Function from rows (n, d) to probabilities (n, c).
        features: (d,) features of the clip.
        baseline: (d,) values of the features that are left out.
        groups: Disjoint sets of columns by name, at most `MAX_GROUPS`.
        labels: The c classes.

    Raises:
        ValueError: There are no groups, or too many.
    """
    if not 0 < len(groups) <= MAX_GROUPS:
        raise ValueError(f"expected 1 to {MAX_GROUPS} groups of statistics, got {len(groups)}")
    subsets = np.arange(2 ** len(groups))  # bit i says whether group i is added
    member = (subsets[:, None] >> np.arange(len(groups)) & 1).astype(bool)  # (2 ** g, g)
    batches = _coalition_rows(features, baseline, list(groups.values()), member)
    probabilities = np.concatenate([classify(batch) for batch in batches])
    best = int(probabilities[-1].argmax())
    values = probabilities[:, best].astype(np.float64)
    size, count = member.sum(axis=1), len(groups)
    weights = np.array([factorial(s) * factorial(count - s - 1) / factorial(count) for s in range(count)])
    contributions = {}
    for i, name in enumerate(groups):
        without = subsets[~member[:, i]]
        contributions[name] = float(weights[size[without]] @ (values[without | 1 << i] - values[without]))
    return Explanation(labels[best], float(values[-1]), float(values[0]), contributions)


def feature_groups(features: ClipFeatures, names: Sequence[str], expressions: Sequence[str]) -> dict[str, Columns]:
    """Group the columns of `features.vector(names)`, as finely as `MAX_GROUPS` allows.

    The finest grouping has a group for each expression, with all its statistics, and one for each other statistic. The
    next has a group for each statistic, and the coarsest one for each vector, with all its statistics.

    Args:
        features: Features of any clip.
        names: The statistics that a classifier takes.
        expressions: Expression classes of the face model.

    Returns:
        Columns of each group, by a name to display.
    """
    groupings: list[dict[str, list[int]]] = [{}, {}, {}]  # the finest first
    start = 0
    for name in names:
        vector, _, kind = name.rpartition(".")
        statistic = f"{vector.replace('.across_faces', ' between people')}, {_STATISTIC_LABELS[kind]}"
        width = features.statistics[name].size
        is_expression = vector in ("expression", "logit") and width == len(expressions)
        for i in range(width):
            finest = f"expression of {expressions[i]}" if is_expression else statistic
            for grouping, group in zip(groupings, (finest, statistic, vector), strict=True):
                grouping.setdefault(group, []).append(start + i)
        start += width
    groups = next((grouping for grouping in groupings if len(grouping) <= MAX_GROUPS), groupings[-1])
    return {name: np.array(columns) for name, columns in groups.items()}


def baseline_features(model: bytes, width: int) -> FloatArray:
    """Return the (width,) feature values that stand for features left out.

    They are the means in the classifier's scaler, or 0 if it has none of that width.
    """
    graph = onnx.load_from_string(model).graph
    for node in graph.node:
        if node.op_type == "Scaler" and "features" in node.input:
            offsets = next((entry.floats for entry in node.attribute if entry.name == "offset"), ())
            if len(offsets) == width:
                return np.array(offsets, np.float32)
    return np.zeros(width, np.float32)


def _coalition_rows(
    features: FloatArray, baseline: FloatArray, groups: Sequence[Columns], member: NDArray[np.bool_]
) -> Iterator[FloatArray]:
    """Yield batches of rows, a row for each subset of the groups (2 ** g, g)."""
    for start in range(0, len(member), _BATCH_ROWS):
        batch = member[start : start + _BATCH_ROWS]
        rows = np.tile(baseline, (len(batch), 1))
        for i, columns in enumerate(groups):
            rows[np.ix_(batch[:, i], columns)] = features[columns]
        yield rows
