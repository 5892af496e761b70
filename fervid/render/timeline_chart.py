"""Plot of the windows of a clip: probabilities of each person over time, and when nobody was visible."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fervid.core.atomic_io import atomic_write
from fervid.core.results import WindowResult
from fervid.render.colors import assign_colors
from fervid.render.evaluation_tables import plot_format
from fervid.render.person_spans import TIME_EPS, Spans, person_spans

MAX_PEOPLE = 6  # of more people, those visible longest are drawn
_WIDTH = 10.0  # inches
_PERSON_HEIGHT = 2.1  # inches
_BAND = 0.16  # height of the band below the axis, in units of the axis
_MIN_DURATION_S = 1e-3  # of the time axis, for still images
_LINE_STYLES = ("-", "--", "-.", ":")  # of consecutive labels, beside their colours


def plot_timeline(windows: Sequence[WindowResult], path: Path, *, force: bool = False) -> None:
    """Plot the windows of one clip.

    Each person has lines for the probabilities, a band in the colour of the label, and gaps where the face was not
    visible. The prediction of a window is drawn in its middle. The plot of a clip without a face says so.

    Args:
        windows: Windows of the clip, as from `Classifier.timeline`.
        path: Output file; its suffix, one of `evaluation_tables.PLOT_SUFFIXES`, selects the format.
        force: Whether an existing file may be replaced.

    Raises:
        UsageError: The suffix is unknown, or matplotlib is not installed.
        OutputError: The file exists, or cannot be written.
    """
    plot = _render(windows, plot_format(path))
    with atomic_write(path, force=force) as file:
        file.write(plot)


def _render(windows: Sequence[WindowResult], format: str) -> bytes:
    from matplotlib.figure import Figure

    spans = person_spans(windows)
    people = list(spans)[:MAX_PEOPLE]
    figure = Figure(figsize=(_WIDTH, 1.1 + _PERSON_HEIGHT * max(1, len(people))), dpi=150, layout="constrained")
    axes = figure.subplots(max(1, len(people)), sharex=True, squeeze=False)[:, 0]
    labels = list(next(iter(spans.values()))[0][2].probabilities) if spans else []
    for axis, person in zip(axes, people, strict=False):
        _draw_person(axis, person, spans[person], labels)
    _decorate(figure, axes, windows, len(spans))
    if labels:
        handles, _ = axes[0].get_legend_handles_labels()
        names = list(map(_escape_math, labels))
        figure.legend(handles, names, loc="outside lower center", ncols=min(8, len(labels)), frameon=False)
    else:
        axes[0].text(0.5, 0.5, "no face found", transform=axes[0].transAxes, ha="center", va="center", color="0.4")
    plot = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # labels may contain letters that the font lacks
        figure.savefig(plot, format=format)
    return plot.getvalue()


def _draw_person(axis: Any, person: int, spans: Spans, labels: Sequence[str]) -> None:
    """Draw lines and a band for one person; the hatched background remains where the person is not visible."""
    label_colors = assign_colors(labels)
    runs: list[Spans] = []
    for span in spans:
        if runs and span[0] - runs[-1][-1][1] <= TIME_EPS:
            runs[-1].append(span)
        else:
            runs.append([span])
    for run in runs:
        axis.axvspan(run[0][0], run[-1][1], color="white", zorder=0.5, linewidth=0)
        axis.broken_barh(
            [(left, right - left) for left, right, _ in run],
            (-_BAND, 0.75 * _BAND),
            facecolors=[label_colors[prediction.label] for *_, prediction in run],
            linewidth=0,
        )
    for number, label in enumerate(labels):
        times: list[float] = []
        values: list[float] = []
        for run in runs:
            middles = [(left + right) / 2 for left, right, _ in run]
            probabilities = [prediction.probabilities[label] for *_, prediction in run]
            times += [run[0][0], *middles, run[-1][1], math.nan]
            values += [probabilities[0], *probabilities, probabilities[-1], math.nan]
        axis.plot(
            times,
            values,
            _LINE_STYLES[number % len(_LINE_STYLES)],
            color=label_colors[label],
            label=label,
            linewidth=1.6,
        )
    axis.set_title(f"person {person}", loc="left", fontsize="medium")


def _decorate(figure: Any, axes: Any, windows: Sequence[WindowResult], people: int) -> None:
    """Add the background and scale of each axis, the time below the last, and the title above the first."""
    times = [time for window in windows for time in (window.start_s, window.end_s) if time is not None]
    start, end = (min(times), max(times)) if times else (0.0, 0.0)
    end = max(end, start + _MIN_DURATION_S)
    for axis in axes:
        axis.axvspan(start, end, facecolor="0.96", edgecolor="0.85", hatch="//", zorder=0, linewidth=0)
        axis.set(ylim=(-_BAND, 1.02), xlim=(start, end), ylabel="probability")
        axis.set_yticks([0, 0.5, 1])
        axis.grid(axis="y", color="0.85", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("seconds; hatched where the face was not visible")
    title = [Path(windows[0].path).name] if windows else []
    if people > MAX_PEOPLE:
        title.append(f"the {MAX_PEOPLE} of {people} people visible longest")
    title += [window.problem.code for window in windows if window.problem][-1:]
    figure.suptitle(_escape_math(", ".join(title)), fontsize="large")


def _escape_math(text: str) -> str:
    """Escape $, which starts a formula in matplotlib, and replace unprintable characters."""
    printable = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return printable.replace("$", r"\$")
