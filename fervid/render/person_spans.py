"""Overlapping windows of a clip -> time spans of each person that do not overlap."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from fervid.core.records import TIME_EPS_S
from fervid.core.results import WindowResult

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """The time for which a window stands in a chart, in seconds, and what the window says of a person."""

    start: float
    end: float
    window: Record
    person: Record


@dataclass(frozen=True, slots=True)
class LabelSpan:
    """A time range in which a person shows one label.

    Attributes:
        start_ms: Start in milliseconds of presentation time.
        end_ms: End in milliseconds, at least one after the start.
        label: The label.
        confidence: Mean confidence of the windows that were merged.
    """

    start_ms: int
    end_ms: int
    label: str
    confidence: float


def person_spans(windows: Sequence[Record]) -> dict[int, list[Span]]:
    """Return the spans of each person by id, the person visible longest first.

    Windows overlap, so each stands for the time around its middle, half-way to its neighbours; the first extends to its
    start and the last to its end. Windows in which a person is visible for less than half of the time are gaps, unless
    the person is never visible for longer.
    """
    timed = [window for window in windows if None not in (window["start_s"], window["end_s"])]
    middles = [(window["start_s"] + window["end_s"]) / 2 for window in timed]
    bounds = [(before + after) / 2 for before, after in pairwise(middles)]
    step = min((after - before for before, after in pairwise(middles)), default=math.inf)
    spans: dict[int, list[Span]] = {}
    seconds: dict[int, list[float]] = {}
    for person in (person for window in timed for person in window["people"]):
        seconds.setdefault(person["id"], []).append(person["seconds"])
    for i, window in enumerate(timed):
        left = window["start_s"] if i == 0 else max(bounds[i - 1], middles[i] - step)
        right = window["end_s"] if i == len(timed) - 1 else min(bounds[i], middles[i] + step)
        for person in window["people"]:
            if person["seconds"] >= min(window["duration_s"] or 0.0, max(seconds[person["id"]])) / 2:
                spans.setdefault(person["id"], []).append(Span(left, right, window, person))
    return {number: spans[number] for number in sorted(spans, key=lambda number: (-sum(seconds[number]), number))}


def label_spans(windows: Sequence[WindowResult]) -> dict[int, list[LabelSpan]]:
    """Return the labels of each person over time, by ascending id: `person_spans`, with equal neighbours merged."""
    spans = person_spans([window.as_dict() for window in windows])
    return {person: list(_merge_labels(spans[person])) for person in sorted(spans)}


def _merge_labels(spans: Sequence[Span]) -> Iterator[LabelSpan]:
    runs: list[list[Span]] = []
    for span in spans:
        last = runs[-1][-1] if runs else None
        if last and span.start - last.end <= TIME_EPS_S and span.person["label"] == last.person["label"]:
            runs[-1].append(span)
        else:
            runs.append([span])
    for run in runs:
        start_ms, end_ms = round(1000 * run[0].start), round(1000 * run[-1].end)
        confidence = fmean(span.person["probabilities"][span.person["label"]] for span in run)
        yield LabelSpan(start_ms, max(end_ms, start_ms + 1), run[0].person["label"], confidence)
