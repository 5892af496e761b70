"""The content of an HTML report of `fervid evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fervid.core.text import escape_control_chars, format_interval, format_percent, plural
from fervid.render import charts
from fervid.render.evaluation_tables import FIGURES, REGRESSION_FIGURES, confusion_cells, trained_on
from fervid.render.result_reader import Record

if TYPE_CHECKING:
    from markupsafe import Markup


def build_evaluation_view(reports: Mapping[str, Record]) -> dict[str, Any]:
    """Return the values that the template `evaluation.html` shows, from evaluations by name."""
    reports = {name.replace("_", " "): report for name, report in reports.items()}
    classifiers = {name: report for name, report in reports.items() if "labels" in report}
    regressors = {name: report for name, report in reports.items() if "labels" not in report}
    return {
        "reports": [_describe_classifier(name, report) for name, report in classifiers.items()],
        "methods": _compare_methods(classifiers) if len(classifiers) > 1 else None,
        "regressions": [{**report, "name": _heading(name, "Ratings", report)} for name, report in regressors.items()],
        "figures": FIGURES,
        "regression_figures": REGRESSION_FIGURES,
    }


def _heading(name: str, default: str, report: Record) -> str:
    heading, note = name or default, trained_on(report)
    return f"{heading}: {note}" if note else heading


def _compare_methods(reports: Mapping[str, Record]) -> dict[str, Any]:
    bars = [_interval_bar(name, report["answered"]["uar"]) for name, report in reports.items()]
    title = "unweighted average recall"
    return {
        "chart": charts.embed_chart(
            charts.bars(bars, title, shares=True, intervals=True),
            f"Bar chart: {title} of each method, {charts.join_descriptions(bars)}; unfold Methods as a table",
        ),
        "rows": [
            [name, *(format_interval(report[part][key]) for part in ("answered", "all") for key in ("accuracy", "uar"))]
            for name, report in reports.items()
        ],
    }


def _describe_classifier(name: str, report: Record) -> dict[str, Any]:
    labels, answered, all_clips = report["labels"], report["answered"], report["all"]
    has_unanswered = any(row[-1] for row in all_clips["confusion"])
    columns = [*labels, "(none)"] if has_unanswered else labels
    bins = [_describe_bin(row) for row in report["calibration"]["bins"]]
    return {
        "comparison": None,
        "early_exit": None,
        **report,
        "name": _heading(name, "Figures", report),
        "confusion_heads": ["truth", *columns],
        "confusion_rows": [
            [label, *row[: len(columns)]] for label, row in zip(labels, all_clips["confusion"], strict=True)
        ],
        "confusion_chart": _confusion_chart(labels, columns, all_clips["confusion"]),
        **_describe_classes(labels, answered),
        "calibration_rows": [
            (
                format_percent(row["confidence"]),
                format_interval({"value": row["accuracy"], "interval": (row["low"], row["high"])}),
                row["count"],
            )
            for row in bins
        ],
        "calibration_chart": charts.embed_chart(
            charts.calibration(bins),
            f"Calibration curve: {charts.join_descriptions(bins, '; ')}; unfold Calibration as a table",
        ),
    }


def _confusion_chart(labels: Sequence[str], columns: Sequence[str], confusion: Sequence[Sequence[int]]) -> Markup:
    cells = confusion_cells(labels, columns, confusion)
    correct = [
        f"{escape_control_chars(label)} {row[i]:,} of {sum(row):,}"
        for i, (label, row) in enumerate(zip(labels, confusion, strict=True))
    ]
    return charts.embed_chart(
        charts.matrix(cells, len(columns)),
        f"Confusion matrix, right answers: {', '.join(correct)}; unfold Confusion as a table",
    )


def _describe_classes(labels: Sequence[str], part: Record) -> dict[str, Any]:
    """Return the table of the classes, and the chart of their recall."""
    rows, bars = [], []
    confusion = part["confusion"]
    for i, (label, counts) in enumerate(zip(labels, confusion, strict=True)):
        clips, predicted = sum(counts), sum(row[i] for row in confusion)
        recall = {"value": part["recall"][label], "interval": _wilson_interval(counts[i], clips)}
        precision = {"value": part["precision"][label], "interval": _wilson_interval(counts[i], predicted)}
        shares = ["" if figure["value"] is None else format_interval(figure) for figure in (recall, precision)]
        rows.append((label, clips, *shares, format_percent(part["f1_each"][label])))
        if recall["value"] is not None:
            bars.append(_interval_bar(label, recall))
    chart = charts.embed_chart(
        charts.bars(bars, "recall", shares=True, intervals=True),
        f"Bar chart: recall of each class, {charts.join_descriptions(bars)}",
    )
    return {"class_rows": rows, "recall_chart": chart}


def _describe_bin(row: Record) -> dict[str, Any]:
    """Return a bin of the calibration curve with its interval and description."""
    confidence, accuracy, count = row["confidence"], row["accuracy"], row["count"]
    low, high = _wilson_interval(round(accuracy * count), count)
    description = f"{format_percent(confidence, 0)} sure, {format_percent(accuracy, 0)} right: {plural(count, 'clip')}"
    return {**row, "low": low, "high": high, "description": description}


def _wilson_interval(correct: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a fraction (Wilson, JASA 22, 1927); 0 to 1 without clips."""
    from scipy.stats import binomtest

    if not count:
        return 0.0, 1.0
    interval = binomtest(int(correct), int(count)).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def _interval_bar(name: str, figure: Record) -> dict[str, Any]:
    """Return a bar of a chart for a figure, with its interval and description."""
    low, high = figure["interval"] or (figure["value"], figure["value"])
    label = escape_control_chars(name)
    description = f"{label}: {format_interval(figure)}"
    return {"label": label, "value": figure["value"], "low": low, "high": high, "description": description}
