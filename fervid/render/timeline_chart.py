"""The windows of a clip as charts: probabilities of each person over time, with gaps while the face is not visible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fervid.core.records import TIME_EPS_S
from fervid.core.results import WindowResult
from fervid.core.text import escape_control_chars, format_percent
from fervid.render import charts
from fervid.render.colors import assign_colors
from fervid.render.person_spans import Record, Span, person_spans

MAX_PEOPLE = 6  # of more people, those visible longest are plotted
_MIN_DURATION_S = 1e-3  # of the time axis, for still images


def plot_timeline(windows: Sequence[WindowResult], path: Path, *, force: bool = False) -> None:
    """Plot the windows of one clip to a file whose suffix, one of `charts.PLOT_SUFFIXES`, selects the format.

    Each person has lines for the probabilities, a band in the colour of the label, and gaps where the face was not
    visible. The prediction of a window is drawn in its middle. The plot of a clip without a face says so.

    Raises:
        UsageError: The suffix is unknown, or vl-convert is not installed.
        OutputError: The file exists, or cannot be written.
    """
    records = [window.as_dict() for window in windows]
    spans = person_spans(records)
    labels = list(next(iter(spans.values()))[0].person["probabilities"]) if spans else []
    people = [
        {"title": f"person {number}", **draw_person(spans[number], assign_colors(labels), extent(records))}
        for number in list(spans)[:MAX_PEOPLE]
    ]
    title = [Path(windows[0].path).name] if windows else []
    if len(spans) > MAX_PEOPLE:
        title.append(f"the {MAX_PEOPLE} of {len(spans)} people visible longest")
    title += [window.error.code for window in windows if window.error][-1:]
    chart = {
        "title": {"text": escape_control_chars(", ".join(title)), "anchor": "middle"},
        "vconcat": people or [charts.message("no face found")],
        "resolve": {"scale": {"color": "shared", "strokeDash": "shared"}},
    }
    charts.write_plot(chart, path, force=force)


def draw_person(spans: Sequence[Span], colors: Mapping[str, str], time: tuple[float, float]) -> charts.Chart:
    """Draw the probabilities of one person from `person_spans`, on the time axis of `extent` in seconds."""
    points: list[dict[str, Any]] = []
    bands: list[dict[str, Any]] = []
    for i, span in enumerate(spans):
        start, end, probabilities = span.window["start_s"], span.window["end_s"], span.person["probabilities"]
        interrupted = i > 0 and span.start - spans[i - 1].end > TIME_EPS_S
        for label in colors:
            point = {"label": escape_control_chars(label)}
            points += [{**point, "time": span.start, "value": None}] * interrupted
            points.append({**point, "time": (start + end) / 2, "value": probabilities.get(label)})
        best = sorted(probabilities.items(), key=lambda item: -item[1])[:3]
        text = ", ".join(f"{escape_control_chars(label)} {format_percent(value, 0)}" for label, value in best)
        description = f"{round(start, 2):g} to {round(end, 2):g} s: {text}"
        band = {"from": span.start, "to": span.end, "label": escape_control_chars(span.person["label"])}
        bands.append({**band, "description": description})
    return charts.timeline(points, bands, {escape_control_chars(label): colors[label] for label in colors}, time)


def extent(windows: Sequence[Record]) -> tuple[float, float]:
    """Return the start of the first window and the end of the last in seconds."""
    times = [time for window in windows for time in (window["start_s"], window["end_s"]) if time is not None]
    start, end = (min(times), max(times)) if times else (0.0, 0.0)
    return start, max(end, start + _MIN_DURATION_S)
