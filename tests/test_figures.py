"""Figures of a model card."""

from __future__ import annotations

import numpy as np

from fervid.learn.figures import Figure, find_figure, list_figures, list_report_figures
from fervid.learn.metrics import evaluate_regression
from html_pages import report


def test_scores_are_listed_by_metric_and_class() -> None:
    scores = {"accuracy": {"value": 0.5, "interval": [0.4, 0.6]}, "recall": {"anger": 0.25, "fear": None}, "images": 8}
    assert list_figures(scores, "SFEW", "all", "original images") == [
        Figure("SFEW", "all", "original images", "accuracy", 0.5, [0.4, 0.6]),
        Figure("SFEW", "all", "original images", "recall.anger", 0.25),
        Figure("SFEW", "all", "original images", "images", 8),
    ]


def test_report_figures_tell_clips_with_a_face_from_all() -> None:
    one = report()
    figures = [figure.as_dict() for figure in list_report_figures(one, "set", "val", "held out")]
    for part, clips in (("answered", "clips with a face"), ("all", "all clips")):
        found = find_figure(figures, protocol=f"held out, {clips}", metric="mean_recall")
        assert found is not None
        assert (found["value"], found["interval"]) == (one[part]["uar"]["value"], one[part]["uar"]["interval"])
    assert find_figure(figures, metric="unknown") is None


def test_regression_figures() -> None:
    one = evaluate_regression(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 2.5]))
    metrics = [figure.metric for figure in list_report_figures(one, "set", "val", "held out")]
    assert metrics == ["clips", "unanswered", "ccc", "mae", "pearson"]
