"""The content of an HTML report of `fervid evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fervid.core.text import escape_control_chars, format_interval, format_percent, plural
from fervid.render import charts
from fervid.render.evaluation_tables import FIGURES, confusion_cells, trained_on
from fervid.render.html_format import embed_chart
from fervid.render.result_reader import Record

if TYPE_CHECKING:
    from markupsafe import Markup

_REGRESSION_FIGURES = {"ccc": "concordance (CCC)", "mae": "mean absolute error", "pearson": "correlation"}


@dataclass(frozen=True, slots=True, eq=False)
class MethodsView:
    """Several methods side by side: a chart, and accuracy and UAR of each on clips with a face and on all clips."""

    chart: Markup
    rows: list[tuple[str, list[Record]]]


@dataclass(frozen=True, slots=True, eq=False)
class RegressionView:
    """The evaluation of a regressor; `figures` are pairs of title and figure."""

    name: str
    clips: int
    unanswered: int
    figures: list[tuple[str, Record]]


@dataclass(frozen=True, slots=True, eq=False)
class ClassView:
    """The figures of one class, with Wilson intervals."""

    label: str
    clips: int
    recall: float | None
    precision: float | None
    f1: float | None
    recall_interval: tuple[float, float]
    precision_interval: tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False)
class ReportView:
    """The evaluation of a classifier.

    Attributes:
        name: Heading.
        clips: Number of clips.
        answered: Number of clips with a face.
        figures: Title, figure on clips with a face, figure on all clips.
        calibration_error: Expected calibration error.
        columns: Column heads of the confusion matrix.
        confusion_rows: Label and counts of each row of that matrix.
        confusion_chart: The matrix as a chart.
        classes: Figures of each class.
        recall_chart: Recall of each class.
        bins: Bins of the calibration curve.
        calibration_chart: The calibration curve.
        against: Comparison with another classifier, if there is one.
        adaptive: Figures of early exits, if there are any.
    """

    name: str
    clips: int
    answered: int
    figures: list[tuple[str, Record, Record]]
    calibration_error: float
    columns: list[str]
    confusion_rows: list[tuple[str, list[int]]]
    confusion_chart: Markup
    classes: list[ClassView]
    recall_chart: Markup
    bins: list[dict[str, Any]]
    calibration_chart: Markup
    against: Record | None
    adaptive: Mapping[str, float] | None


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationView:
    """Values that the template `evaluation.html` shows; an evaluation names no models."""

    reports: list[ReportView]
    methods: MethodsView | None
    regressions: list[RegressionView]
    models: tuple[()] = ()


def build_evaluation_view(reports: Mapping[str, Record]) -> EvaluationView:
    """Build the content of a report from evaluations by name."""
    reports = {name.replace("_", " "): report for name, report in reports.items()}
    classifiers = {name: report for name, report in reports.items() if "labels" in report}
    regressors = {name: report for name, report in reports.items() if "labels" not in report}
    return EvaluationView(
        reports=[_report(name, report) for name, report in classifiers.items()],
        methods=_methods(classifiers) if len(classifiers) > 1 else None,
        regressions=[
            RegressionView(
                _heading(name, "Ratings", report),
                report["clips"],
                report["unanswered"],
                [(title, report[key]) for key, title in _REGRESSION_FIGURES.items()],
            )
            for name, report in regressors.items()
        ],
    )


def _heading(name: str, default: str, report: Record) -> str:
    note = trained_on(report)
    return f"{name or default}: {note}" if note else name


def _methods(reports: Mapping[str, Record]) -> MethodsView:
    bars = [
        _interval_bar(name, report["answered"]["uar"]["value"], report["answered"]["uar"]["interval"])
        for name, report in reports.items()
    ]
    title = "unweighted average recall"
    return MethodsView(
        embed_chart(
            charts.bars(bars, title, shares=True, intervals=True),
            f"Bar chart: {title} of each method, {_join_descriptions(bars)}; unfold Methods as a table",
        ),
        [
            (name, [report[part][key] for part in ("answered", "all") for key in ("accuracy", "uar")])
            for name, report in reports.items()
        ],
    )


def _report(name: str, report: Record) -> ReportView:
    labels, answered, all_clips = report["labels"], report["answered"], report["all"]
    confusion = all_clips["confusion"]
    has_unanswered = any(row[-1] for row in confusion)
    columns = [*labels, "(none)"] if has_unanswered else list(labels)
    classes = [_class(i, label, answered) for i, label in enumerate(labels)]
    recall_bars = [
        _interval_bar(view.label, view.recall, view.recall_interval) for view in classes if view.recall is not None
    ]
    bins = [_calibration_bin(row) for row in report["calibration"]["bins"]]
    return ReportView(
        name=_heading(name, "Figures", report),
        clips=report["clips"],
        answered=answered["count"],
        figures=[(title, answered[key], all_clips[key]) for key, title in FIGURES.items()],
        calibration_error=report["calibration"]["error"],
        columns=columns,
        confusion_rows=[(label, row[: len(columns)]) for label, row in zip(labels, confusion, strict=True)],
        confusion_chart=_confusion_chart(labels, columns, confusion),
        classes=classes,
        recall_chart=embed_chart(
            charts.bars(recall_bars, "recall", shares=True, intervals=True),
            f"Bar chart: recall of each class, {_join_descriptions(recall_bars)}",
        ),
        bins=bins,
        calibration_chart=embed_chart(
            charts.calibration(bins),
            f"Calibration curve: {_join_descriptions(bins, '; ')}; unfold Calibration as a table",
        ),
        against=report.get("comparison"),
        adaptive=report.get("early_exit"),
    )


def _confusion_chart(labels: Sequence[str], columns: Sequence[str], confusion: Sequence[Sequence[int]]) -> Markup:
    cells = confusion_cells(labels, columns, confusion)
    correct = [
        f"{escape_control_chars(label)} {row[i]:,} of {sum(row):,}"
        for i, (label, row) in enumerate(zip(labels, confusion, strict=True))
    ]
    return embed_chart(
        charts.matrix(cells, len(columns)),
        f"Confusion matrix, right answers: {', '.join(correct)}; unfold Confusion as a table",
    )


def _class(index: int, label: str, part: Record) -> ClassView:
    """Return the figures of a class, with intervals that take clips as independent."""
    confusion = part["confusion"]
    correct = confusion[index][index]
    clips, predicted = sum(confusion[index]), sum(row[index] for row in confusion)
    return ClassView(
        label=label,
        clips=clips,
        recall=part["recall"][label],
        precision=part["precision"][label],
        f1=part["f1_each"][label],
        recall_interval=_wilson_interval(correct, clips),
        precision_interval=_wilson_interval(correct, predicted),
    )


def _calibration_bin(row: Record) -> dict[str, Any]:
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
    interval = binomtest(int(min(correct, count)), int(count)).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def _interval_bar(name: str, value: float, interval: Sequence[float] | None) -> dict[str, Any]:
    """Return a bar of a chart with its interval and description."""
    low, high = interval or (value, value)
    label = escape_control_chars(name)
    description = f"{label}: {format_interval({'value': value, 'interval': interval})}"
    return {"label": label, "value": value, "low": low, "high": high, "description": description}


def _join_descriptions(rows: Sequence[Mapping[str, Any]], separator: str = ", ") -> str:
    return separator.join(row["description"] for row in rows)
