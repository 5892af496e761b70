"""The content of an HTML report of `fervid timeline`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from fervid.core.text import escape_control_chars, format_percent
from fervid.render import charts
from fervid.render.person_spans import Span, person_spans
from fervid.render.result_reader import Record
from fervid.render.timeline_chart import draw_person, extent

if TYPE_CHECKING:
    from fervid.analysis.highlights import ClipHighlights, Highlight

UNFOLDED_PEOPLE = 4
"""People of a clip whose charts are visible at once; the charts of the others are folded."""


def build_timelines_view(
    clips: Mapping[str, Sequence[Record]], highlights: Mapping[str, ClipHighlights]
) -> dict[str, Any]:
    """Return the values that `timelines.html` shows, from windows and highlights by path of the clip."""
    return {
        "clips": [_describe_clip(path, windows, highlights.get(path)) for path, windows in clips.items()],
        "unfolded": UNFOLDED_PEOPLE,
    }


def _describe_clip(path: str, windows: Sequence[Record], highlights: ClipHighlights | None) -> dict[str, Any]:
    timed = [window for window in windows if None not in (window["start_s"], window["end_s"])]
    labels = list(dict.fromkeys(label for window in windows for label in window["probabilities"] or ()))
    counts = Counter(window["label"] for window in windows if window["label"] is not None)
    return {
        "path": path,
        "windows": windows,
        "duration": max((window["end_s"] for window in timed), default=0.0),
        "classified": counts.total(),
        "labels": counts.most_common(),
        "errors": list(dict.fromkeys(window["error"]["message"] for window in windows if window["error"])),
        "people": [_describe_person(number, timed, spans, labels) for number, spans in person_spans(timed).items()],
        "highlights": [_describe_highlight(highlight) for highlight in highlights.highlights] if highlights else [],
        "note": highlights.note if highlights else "",
    }


def _describe_person(
    number: int, windows: Sequence[Record], spans: Sequence[Span], labels: Sequence[str]
) -> dict[str, Any]:
    """Return title, chart and table of a person, from the windows of a clip and the spans of the person's chart."""
    people = [
        (window["start_s"], person) for window in windows for person in window["people"] if person["id"] == number
    ]
    counts = Counter(person["label"] for _, person in people)
    label_counts = ", ".join(f"{escape_control_chars(label)} in {count}" for label, count in counts.most_common())
    attributes = _attributes([person for _, person in people])
    estimated = f", estimated {', '.join(attributes)}" if attributes else ""
    colors = {label: f"var(--series-{i % charts.SERIES})" for i, label in enumerate(labels)}
    return {
        "id": number,
        "title": f"Person {number}, seen in {len(people)} of {len(windows)} windows{estimated}",
        "chart": charts.embed_chart(
            draw_person(spans, colors, extent(windows)),
            f"Line chart: probability of each label over time for person {number}. Of {len(people)} windows"
            f" {label_counts}; unfold Person {number} as a table",
        ),
        "heads": ["from", "label", *labels],
        "rows": [
            [
                f"{round(start, 2):g} s",
                person["label"],
                *(format_percent(person["probabilities"].get(label)) for label in labels),
            ]
            for start, person in sorted(people, key=lambda row: row[0])
        ],
    }


def _attributes(windows: Sequence[Record]) -> list[str]:
    """Return the median age and the most common gender and ethnicity, where they were estimated."""
    ages = [window["age"] for window in windows if window["age"] is not None]
    attributes = [f"{median(ages):.0f} years"] if ages else []
    for name in ("gender", "ethnicity"):
        values = Counter(window[name] for window in windows if window[name] is not None)
        attributes += [value for value, _ in values.most_common(1)]
    return attributes


def _describe_highlight(highlight: Highlight) -> dict[str, Any]:
    """Return the window of a highlight, and what contributed to its label, the largest contribution first."""
    explanation = highlight.explanation
    values = explanation.contributions if explanation else {}
    bars: list[dict[str, Any]] = []
    for name in sorted(values, key=lambda name: -abs(values[name])):
        label, points = escape_control_chars(name), f"{100 * values[name]:+.1f} points"
        bars.append({"label": label, "value": values[name], "points": points, "description": f"{label}: {points}"})
    chart = charts.bars(bars, "what it adds to the probability", shares=True, width=220)
    return {
        "window": highlight.record,
        "thumbnails": highlight.thumbnails,
        "note": highlight.note,
        "explanation": explanation,
        "contribution_rows": [(bar["label"], bar["points"]) for bar in bars],
        "chart": charts.embed_chart(chart, f"Bar chart: {charts.join_descriptions(bars)}") if explanation else None,
    }
