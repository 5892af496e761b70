"""Figures of a model card: one measured value of a model, with where and how it was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value of a model.

    Attributes:
        dataset: Name of the data set.
        split: Part of the data set.
        protocol: How it was measured, e.g. `cross-validated by person`.
        metric: Name of the metric; that of a class ends in its label, as in `recall.anger`.
        value: The value; rates are fractions.
        interval: Lower and upper end of the 95 % interval; None if it is unknown.
    """

    dataset: str
    split: str
    protocol: str
    metric: str
    value: float
    interval: Sequence[float] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Convert to the plain JSON types of a card."""
        return asdict(self)


def list_figures(scores: Mapping[str, Any], dataset: str, split: str, protocol: str) -> list[Figure]:
    """List scores, which were measured with that protocol on that split of a data set, as figures.

    The scores are by metric: a number, `{"value", "interval"}` as `metrics.bootstrap` gives it, or numbers by class, of
    which None is left out.
    """
    figures = []
    for metric, score in scores.items():
        if not isinstance(score, Mapping):
            figures.append(Figure(dataset, split, protocol, metric, score))
        elif "interval" in score:
            figures.append(Figure(dataset, split, protocol, metric, score["value"], score["interval"]))
        else:
            figures += [
                Figure(dataset, split, protocol, f"{metric}.{name}", value)
                for name, value in score.items()
                if value is not None
            ]
    return figures


def list_report_figures(report: Mapping[str, Any], dataset: str, split: str, protocol: str) -> list[Figure]:
    """List the main scores of a report of `metrics.evaluate` or `metrics.evaluate_regression` as figures."""
    if "labels" not in report:
        return list_figures(report, dataset, split, protocol)
    figures = []
    for part, clips in (("answered", "clips with a face"), ("all", "all clips")):
        scores = {name: report[part][name] for name in ("accuracy", "f1", "recall")}
        scores |= {"mean_recall": report[part]["uar"], "clips": report[part]["count"]}
        if part == "answered":
            scores["calibration_error"] = report["calibration"]["error"]
        figures += list_figures(scores, dataset, split, f"{protocol}, {clips}")
    return figures


def find_figure(figures: Iterable[Mapping[str, Any]], **keys: str) -> Mapping[str, Any] | None:
    """Return the first figure of a card that has these values, e.g. `dataset="SFEW", metric="accuracy"`, or None."""
    return next((figure for figure in figures if keys.items() <= figure.items()), None)
