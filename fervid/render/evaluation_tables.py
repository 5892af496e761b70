"""Tables of evaluation reports for the terminal, and the plot of the confusion matrix."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from fervid.core.atomic_io import atomic_write
from fervid.core.errors import UsageError
from fervid.core.packages import missing_extra
from fervid.core.text import plural

FIGURES = {"accuracy": "accuracy", "uar": "unweighted average recall", "f1": "macro F1"}
PLOT_SUFFIXES = (".png", ".svg", ".pdf")


def render_report(report: Mapping[str, Any]) -> list[Table]:
    """Return the tables of a model card, of several methods, or of a single evaluation report."""
    if "kind" in report:
        return [_card(report), *(table for name, part in report["figures"].items() for table in _named(name, part))]
    if "methods" in report:
        return _methods(report["methods"])
    rendered = tables(report) if "labels" in report else [_regression({"": report})]
    if note := trained_on(report):
        rendered[0].title = _heading(f"{'Summary' if 'labels' in report else 'Ratings'}: {note}")
    if "against" in report:
        rendered.append(paired_test_table(report["against"]))
    if "adaptive" in report:
        early_exit = _table("Few frames first", "figure", "")
        for name, value in report["adaptive"].items():
            early_exit.add_row(name, _percent(value))
        rendered.append(early_exit)
    return rendered


def trained_on(report: Mapping[str, Any]) -> str:
    """Return a warning that the classifier was trained on some of the clips; empty if it was not."""
    count = report.get("training_clips", 0)
    clips = report["answered"]["count"] if "answered" in report else report["clips"] - report["unanswered"]
    if not count:
        return ""
    return f"trained on {count:,} of these {plural(clips, 'clip')}, no measure of new ones"


def _named(name: str, report: Mapping[str, Any]) -> list[Table]:
    """Return the tables of a report, with its name in the first title."""
    rendered = render_report(report)
    rendered[0].title = _heading(f"{name}: {rendered[0].title}")
    return rendered


def _card(card: Mapping[str, Any]) -> Table:
    heading = _heading(f"{card['kind']} {card['name']}")
    table = Table(title=heading, show_header=False, title_justify="left", box=None, pad_edge=False)
    for key in ("labels", "target", "statistics", "center", "recipe", "data", "adaptive"):
        if key in card:
            value = card[key]
            describe = {"data": _describe_data, "adaptive": _describe_early_exit}.get(key, str)
            table.add_row(key, Text(", ".join(value) if isinstance(value, list) else describe(value)))
    return table


def _describe_data(data: Mapping[str, Any]) -> str:
    clips = data["clips"]
    classes, count = "", clips
    if isinstance(clips, Mapping):
        classes = f" ({', '.join(f'{label} {number:,}' for label, number in clips.items())})"
        count = sum(clips.values())
    people = f" of {plural(data['people'], 'person', 'people')}" if data.get("people") is not None else ""
    parts = [f"{data['name']}: {plural(count, 'clip')}{classes}{people}"]
    if data.get("faceless"):
        parts.append(f"{plural(data['faceless'], 'more shows', 'more show')} no face")
    if data.get("broken"):
        parts.append(f"{data['broken']:,} left out because of errors")
    return "; ".join(parts)


def _describe_early_exit(adaptive: Mapping[str, Any]) -> str:
    return (
        f"looks at {_percent(adaptive['share of frames'])} of the frames, with an accuracy of"
        f" {_percent(adaptive['accuracy'])} instead of {_percent(adaptive['accuracy of all frames'])}"
    )


def _methods(methods: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Return tables with one row per method, as in the papers."""
    first = next(iter(methods.values()))
    if "labels" not in first:
        return [_regression(methods)]
    figures = _table("Clips with a face, and all clips", "method", "accuracy", "UAR", "all: accuracy", "all: UAR")
    recalls = _table("Recall of each class, clips with a face", "method")
    for label in first["labels"]:
        recalls.add_column(Text(label), justify="right")
    for name, report in methods.items():
        parts = (report["answered"], report["all"])
        figures.add_row(name, *(_figure(part[key]) for part in parts for key in ("accuracy", "uar")))
        recalls.add_row(
            name, *("" if share is None else _percent(share) for share in report["answered"]["recall"].values())
        )
    return [figures, recalls]


def _regression(reports: Mapping[str, Mapping[str, Any]]) -> Table:
    table = _table("Ratings", "method", "concordance (CCC)", "mean absolute error", "correlation")
    for name, report in reports.items():
        table.add_row(
            name, *(_figure(report[key], unit="", digits=".3f", factor=1) for key in ("ccc", "mae", "pearson"))
        )
    return table


def tables(report: Mapping[str, Any]) -> list[Table]:
    """Return the summary, the figures of each class and the confusion matrix of an evaluation report.

    Figures of classes are of clips with a face. The confusion matrix is of all clips; those without a prediction are in
    a column `none`. Cells that are too wide for the terminal end in `…`.
    """
    return [_summary(report), _classes(report), _confusion(report)]


def paired_test_table(report: Mapping[str, Any]) -> Table:
    """Return the table of a paired test of two classifiers."""
    note = f"; theirs was trained on {report['training_clips']:,} of them" if report.get("training_clips") else ""
    table = _table(f"Two classifiers on {plural(report['clips'], 'clip')}{note}", "figure", "ours - theirs")
    for name, title in FIGURES.items():
        table.add_row(title, _figure(report["difference"][name], unit=" points", digits="+z.1f"))
    table.add_row("clips only ours answers rightly", f"{report['only_ours']:,}")
    table.add_row("clips only theirs answers rightly", f"{report['only_theirs']:,}")
    table.add_row(f"p ({report['test']})", f"{report['p']:.3f}" if report["p"] >= 0.001 else "< 0.001")
    return table


def plot_confusion_matrix(report: Mapping[str, Any], path: Path, *, force: bool = False) -> None:
    """Plot the confusion matrix of clips with a face: percentages of each row, and counts.

    Args:
        report: An evaluation report of a classifier.
        path: Output file; its suffix, one of `PLOT_SUFFIXES`, selects the format.
        force: Whether an existing file may be replaced.

    Raises:
        UsageError: The suffix is unknown, or matplotlib is not installed.
        OutputError: The file exists, or cannot be written.
    """
    plot = _render_confusion(report, plot_format(path))
    with atomic_write(path, force=force) as file:
        file.write(plot)


def plot_format(path: Path) -> str:
    """Return the format of a plot by the suffix of its file.

    Raises:
        UsageError: The suffix is unknown, or matplotlib is not installed.
    """
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise UsageError(f"{path}: unknown suffix of a plot; use one of {' '.join(PLOT_SUFFIXES)}")
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_extra("--plot", "plot") from error
    return path.suffix.lower().removeprefix(".")


def _summary(report: Mapping[str, Any]) -> Table:
    answered, all_clips = report["answered"], report["all"]
    table = _table("Summary, with 95 % intervals", "figure", "clips with a face", "all clips")
    table.add_row("clips", f"{answered['count']:,}", f"{all_clips['count']:,}")
    for name, title in FIGURES.items():
        table.add_row(title, _figure(answered[name]), _figure(all_clips[name]))
    table.add_row("calibration error", _percent(report["calibration"]["error"]), "")
    return table


def _classes(report: Mapping[str, Any]) -> Table:
    part = report["answered"]
    table = _table("Classes, clips with a face", "label", "clips", "recall", "precision", "F1")
    for label, row in zip(report["labels"], part["confusion"], strict=True):
        figures = (part[name][label] for name in ("recall", "precision", "f1_each"))
        table.add_row(Text(label), f"{sum(row):,}", *("" if value is None else _percent(value) for value in figures))
    return table


def _confusion(report: Mapping[str, Any]) -> Table:
    rows = report["all"]["confusion"]
    names = [*report["labels"], "none"] if any(row[-1] for row in rows) else report["labels"]
    table = _table("Answers, all clips", "truth")
    for name in names:
        table.add_column(Text(name), justify="right", overflow="ellipsis")
    for label, row in zip(report["labels"], rows, strict=True):
        table.add_row(Text(label), *map(str, row[: len(names)]))
    return table


def _table(title: str, first: str, *numeric: str) -> Table:
    table = Table(title=_heading(title), title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column(first, no_wrap=True)
    for head in numeric:
        table.add_column(head, justify="right")
    return table


def _heading(title: str) -> Text:
    return Text(title, "table.title", no_wrap=True, overflow="ignore")


def _figure(figure: Mapping[str, Any], unit: str = " %", digits: str = ".1f", factor: int = 100) -> str:
    """Return a figure with its interval as `76.9 % (73.7 to 80.0)`."""
    value = f"{factor * figure['value']:{digits}}{unit}"
    if figure["interval"] is None:
        return value
    low, high = (f"{factor * end:{digits}}" for end in figure["interval"])
    return f"{value} ({low} to {high})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _render_confusion(report: Mapping[str, Any], format: str) -> bytes:
    from matplotlib.figure import Figure
    from sklearn.metrics import ConfusionMatrixDisplay

    counts = np.array(report["answered"]["confusion"])[:, :-1]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    labels = [
        label.replace("$", r"\$") for label in report["labels"]
    ]  # matplotlib sets text between two $ as a formula
    side = 2.5 + 0.8 * len(labels)
    figure = Figure(figsize=(side, side), dpi=150, layout="constrained")
    axes = figure.subplots()
    display = ConfusionMatrixDisplay(shares, display_labels=labels)
    display.plot(ax=axes, cmap="Blues", colorbar=False, im_kw={"vmin": 0, "vmax": 1})
    for text, share, count in zip(display.text_.flat, shares.flat, counts.flat, strict=True):
        text.set(text=f"{100 * share:.0f} %\n{count:,}" if count else "", color="white" if share > 0.5 else "black")
    axes.set(xlabel="answer", ylabel="truth", title=f"{plural(counts.sum(), 'clip')} with a face")
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor")
    plot = io.BytesIO()
    figure.savefig(plot, format=format)
    return plot.getvalue()
