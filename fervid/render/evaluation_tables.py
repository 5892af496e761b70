"""Tables of evaluation reports for the terminal, and the plot of the confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from fervid.core.text import escape_control_chars, format_interval, format_percent, plural
from fervid.render import charts

FIGURES = {"accuracy": "accuracy", "uar": "unweighted average recall", "f1": "macro F1"}
REGRESSION_FIGURES = {"ccc": "concordance (CCC)", "mae": "mean absolute error", "pearson": "correlation"}


def render_report(report: Mapping[str, Any]) -> list[Table]:
    """Return the tables of what `train` prints, of several methods, or of a single evaluation report."""
    if "kind" in report:
        rendered = [_card(report)]
        for name, part in report["evaluations"].items():
            first, *others = render_report(part)
            first.title = _heading(f"{name.replace('_', ' ')}: {first.title}")
            rendered += [first, *others]
        return rendered
    if "methods" in report:
        return _methods(report["methods"])
    rendered = tables(report) if "labels" in report else [_regression({"": report})]
    if note := trained_on(report):
        rendered[0].title = _heading(f"{'Summary' if 'labels' in report else 'Ratings'}: {note}")
    if "comparison" in report:
        rendered.append(paired_test_table(report["comparison"]))
    if "early_exit" in report:
        early_exit = _table("Few frames first", "figure", "")
        for name, value in report["early_exit"].items():
            early_exit.add_row(name.replace("_", " "), format_percent(value))
        rendered.append(early_exit)
    return rendered


def trained_on(report: Mapping[str, Any]) -> str:
    """Return a warning that the classifier was trained on some of the clips; empty if it was not."""
    count = report.get("training_clips", 0)
    clips = report["answered"]["count"] if "answered" in report else report["clips"] - report["unanswered"]
    if not count:
        return ""
    return f"trained on {count:,} of these {plural(clips, 'clip')}, so figures are too high"


def _card(card: Mapping[str, Any]) -> Table:
    heading = _heading(f"{card['kind']} {card['name']}")
    table = Table(title=heading, show_header=False, title_justify="left", box=None, pad_edge=False)
    for key in ("labels", "target", "statistics", "center", "recipe", "data", "early_exit"):
        if key in card:
            value = card[key]
            describe = {"data": _describe_data, "early_exit": _describe_early_exit}.get(key, str)
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
    if data.get("no_face"):
        parts.append(f"{plural(data['no_face'], 'more shows', 'more show')} no face")
    if data.get("unreadable"):
        parts.append(f"{data['unreadable']:,} left out because of errors")
    return "; ".join(parts)


def _describe_early_exit(adaptive: Mapping[str, Any]) -> str:
    return (
        f"looks at {format_percent(adaptive['frame_fraction'])} of the frames, with an accuracy of"
        f" {format_percent(adaptive['accuracy'])} instead of {format_percent(adaptive['full_rate_accuracy'])}"
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
        figures.add_row(name, *(format_interval(part[key]) for part in parts for key in ("accuracy", "uar")))
        recalls.add_row(name, *(format_percent(share) for share in report["answered"]["recall"].values()))
    return [figures, recalls]


def _regression(reports: Mapping[str, Mapping[str, Any]]) -> Table:
    table = _table("Ratings", "method", *REGRESSION_FIGURES.values())
    for name, report in reports.items():
        table.add_row(name, *(format_interval(report[key], factor=1, unit="", digits=3) for key in REGRESSION_FIGURES))
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
        table.add_row(title, format_interval(report["difference"][name], unit=" points", plus="+"))
    table.add_row("clips that only ours classifies correctly", f"{report['only_a_correct']:,}")
    table.add_row("clips that only theirs classifies correctly", f"{report['only_b_correct']:,}")
    table.add_row(f"p ({report['test']})", f"{report['p']:.3f}" if report["p"] >= 0.001 else "< 0.001")
    return table


def plot_confusion_matrix(report: Mapping[str, Any], path: Path, *, force: bool = False) -> None:
    """Plot the confusion matrix of clips with a face: percentages of each row, and counts.

    The suffix of the path, one of `charts.PLOT_SUFFIXES`, selects the format.

    Raises:
        UsageError: The suffix is unknown, or vl-convert is not installed.
        OutputError: The file exists, or cannot be written.
    """
    cells = confusion_cells(report["labels"], report["labels"], report["answered"]["confusion"])
    for cell in cells:
        cell["count"] = f"{format_percent(cell['share'], 0)}\n{cell['count']:,}" if cell["count"] else ""
    title = f"{plural(report['answered']['count'], 'clip')} with a face"
    charts.write_plot({"title": title, **charts.matrix(cells, len(report["labels"]), lines=2)}, path, force=force)


def confusion_cells(
    labels: Sequence[str], columns: Sequence[str], confusion: Sequence[Sequence[int]]
) -> list[dict[str, Any]]:
    """Return the cells of a confusion matrix for `charts.matrix`."""
    cells = []
    for label, row in zip(labels, confusion, strict=True):
        for column, count in zip(columns, row, strict=False):
            truth, answer = escape_control_chars(label), escape_control_chars(column)
            description = f"{truth}, answered {answer}: {plural(count, 'clip')} of {sum(row)}"
            share = count / max(sum(row), 1)
            cells.append({"row": truth, "column": answer, "count": count, "share": share, "description": description})
    return cells


def _summary(report: Mapping[str, Any]) -> Table:
    answered, all_clips = report["answered"], report["all"]
    table = _table("Summary, with 95 % intervals", "figure", "clips with a face", "all clips")
    table.add_row("clips", f"{answered['count']:,}", f"{all_clips['count']:,}")
    for name, title in FIGURES.items():
        table.add_row(title, format_interval(answered[name]), format_interval(all_clips[name]))
    table.add_row("calibration error", format_percent(report["calibration"]["error"]), "")
    return table


def _classes(report: Mapping[str, Any]) -> Table:
    part = report["answered"]
    table = _table("Classes, clips with a face", "label", "clips", "recall", "precision", "F1")
    for label, row in zip(report["labels"], part["confusion"], strict=True):
        figures = (part[name][label] for name in ("recall", "precision", "f1_each"))
        table.add_row(Text(label), f"{sum(row):,}", *map(format_percent, figures))
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
