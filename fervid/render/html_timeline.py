"""The content of an HTML report of `fervid timeline`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from fervid.core.text import escape_control_chars
from fervid.render import charts
from fervid.render.html_format import embed_chart, list_models
from fervid.render.person_spans import Span, person_spans
from fervid.render.result_reader import Record
from fervid.render.timeline_chart import draw_person, extent

if TYPE_CHECKING:
    from markupsafe import Markup

    from fervid.analysis.explain import Explanation
    from fervid.analysis.highlights import ClipHighlights, Highlight
    from fervid.analysis.thumbnails import Thumbnail

UNFOLDED_PEOPLE = 4
"""People of a clip whose charts are visible at once; the charts of the others are folded."""


@dataclass(frozen=True, slots=True, eq=False)
class PersonView:
    """One person of a clip.

    Attributes:
        id: Number of the person.
        visible_windows: Windows in which the person is visible.
        windows: Windows of the clip.
        attribute_text: Estimated attributes as text, or empty.
        chart: Probability of each label over time.
        labels: Labels in the order of the probabilities in `rows`.
        rows: Start, label and probabilities of each window.
    """

    id: int
    visible_windows: int
    windows: int
    attribute_text: str
    chart: Markup
    labels: list[str]
    rows: list[tuple[float, str, list[float | None]]]


@dataclass(frozen=True, slots=True, eq=False)
class WindowView:
    """A row of the table of windows; `people` are pairs of id and label."""

    start: float | None
    end: float | None
    status: str
    label: str | None
    confidence: float | None
    people: list[tuple[int, str]]
    error_code: str | None


@dataclass(frozen=True, slots=True, eq=False)
class HighlightView:
    """The most confident window of a label.

    Attributes:
        label: Its label.
        confidence: Its confidence.
        start: Its start in seconds.
        end: Its end in seconds.
        thumbnails: Frames of the window.
        note: A warning, or empty.
        explanation: Why the window has the label; None if that is unknown.
        contributions: Features and what each adds to the probability, the largest first.
        chart: The contributions as bars; None if they are unknown.
    """

    label: str
    confidence: float
    start: float
    end: float
    thumbnails: Sequence[Thumbnail]
    note: str
    explanation: Explanation | None
    contributions: list[tuple[str, float]]
    chart: Markup | None


@dataclass(frozen=True, slots=True, eq=False)
class ClipView:
    """One clip.

    Attributes:
        path: Path of the clip.
        windows: All windows.
        duration: End of the last window in seconds.
        classified: Number of windows with a label.
        labels: Labels and their number of windows, the most frequent first.
        errors: Messages of errors, each once.
        people: People, the longest visible first.
        highlights: Most confident window of each label.
        note: Why there are no highlights, or empty.
    """

    path: str
    windows: list[WindowView]
    duration: float
    classified: int
    labels: list[tuple[str, int]]
    errors: list[str]
    people: list[PersonView]
    highlights: list[HighlightView]
    note: str


@dataclass(frozen=True, slots=True, eq=False)
class TimelinesView:
    """Values that the template `timelines.html` shows; `unfolded` is the number of people that are not folded."""

    clips: list[ClipView]
    unfolded: int
    models: list[list[tuple[str, str, str]]]


def build_timelines_view(
    clips: Mapping[str, Sequence[Record]], highlights: Mapping[str, ClipHighlights]
) -> TimelinesView:
    """Build the content of a report from the windows and the highlights of each clip, by path."""
    return TimelinesView(
        [_clip(path, windows, highlights.get(path)) for path, windows in clips.items()],
        UNFOLDED_PEOPLE,
        list_models([window for windows in clips.values() for window in windows]),
    )


def _clip(path: str, windows: Sequence[Record], highlights: ClipHighlights | None) -> ClipView:
    timed = [window for window in windows if None not in (window["start_s"], window["end_s"])]
    labels = list(dict.fromkeys(label for window in windows for label in window["probabilities"] or ()))
    duration = max((window["end_s"] for window in timed), default=0.0)
    counts = Counter(window["label"] for window in windows if window["label"] is not None)
    return ClipView(
        path=path,
        windows=[_window(window) for window in windows],
        duration=duration,
        classified=sum(counts.values()),
        labels=counts.most_common(),
        errors=list(dict.fromkeys(window["error"]["message"] for window in windows if window["error"])),
        people=[_person(number, timed, spans, labels) for number, spans in person_spans(timed).items()],
        highlights=[_highlight(highlight) for highlight in highlights.highlights] if highlights else [],
        note=highlights.note if highlights else "",
    )


def _window(window: Record) -> WindowView:
    return WindowView(
        start=window["start_s"],
        end=window["end_s"],
        status=window["status"].replace("_", " "),
        label=window["label"],
        confidence=window["confidence"],
        people=[(person["id"], person["label"]) for person in window["people"]],
        error_code=window["error"]["code"] if window["error"] else None,
    )


def _person(number: int, windows: Sequence[Record], spans: Sequence[Span], labels: Sequence[str]) -> PersonView:
    """Build the view of a person from the windows of a clip and the spans of the person's chart."""
    people = [
        (window["start_s"], person) for window in windows for person in window["people"] if person["id"] == number
    ]
    counts = Counter(person["label"] for _, person in people)
    label_counts = ", ".join(f"{escape_control_chars(label)} in {count}" for label, count in counts.most_common())
    attributes = _attributes([person for _, person in people])
    colors = {label: charts.series_color(i) for i, label in enumerate(labels)}
    return PersonView(
        id=number,
        visible_windows=len(people),
        windows=len(windows),
        attribute_text=f", estimated {', '.join(attributes)}" if attributes else "",
        chart=embed_chart(
            draw_person(spans, colors, extent(windows)),
            f"Line chart: probability of each label over time for person {number}. Of {len(people)} windows"
            f" {label_counts}; unfold Person {number} as a table",
        ),
        labels=list(labels),
        rows=[
            (start, person["label"], [person["probabilities"].get(label) for label in labels])
            for start, person in sorted(people, key=lambda row: row[0])
        ],
    )


def _attributes(windows: Sequence[Record]) -> list[str]:
    """Return the median age and the most common gender and ethnicity, where they were estimated."""
    ages = [window["age"] for window in windows if window["age"] is not None]
    attributes = [f"{median(ages):.0f} years"] if ages else []
    for name in ("gender", "ethnicity"):
        values = [window[name] for window in windows if window[name] is not None]
        if values:
            attributes.append(Counter(values).most_common(1)[0][0])
    return attributes


def _highlight(highlight: Highlight) -> HighlightView:
    record, explanation = highlight.record, highlight.explanation
    contributions = dict(explanation.contributions) if explanation else {}
    sorted_contributions = sorted(contributions.items(), key=lambda item: -abs(item[1]))
    return HighlightView(
        label=record["label"],
        confidence=record["confidence"],
        start=record["start_s"],
        end=record["end_s"],
        thumbnails=highlight.thumbnails,
        note=highlight.note,
        explanation=explanation,
        contributions=sorted_contributions,
        chart=_contribution_chart(sorted_contributions) if explanation else None,
    )


def _contribution_chart(contributions: Sequence[tuple[str, float]]) -> Markup:
    bars = [
        {
            "label": escape_control_chars(name),
            "value": value,
            "description": f"{escape_control_chars(name)}: {100 * value:+.1f} points",
        }
        for name, value in contributions
    ]
    return embed_chart(
        charts.bars(bars, "what it adds to the probability", shares=True, width=220),
        f"Bar chart: {', '.join(str(bar['description']) for bar in bars)}",
    )
