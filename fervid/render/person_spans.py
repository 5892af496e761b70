"""Overlapping windows of a clip -> time spans of each person that do not overlap."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from fervid.core.results import Prediction, WindowResult

TIME_EPS = 1e-6  # seconds; sums of times are not exact

Spans = list[tuple[float, float, Prediction]]  # start, end and prediction


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


def person_spans(windows: Sequence[WindowResult]) -> dict[int, Spans]:
    """Return start, end and prediction of each window by person, the person visible longest first.

    Windows overlap, so each covers the time around its middle, half-way to its neighbours; the first extends to its
    start and the last to its end. Windows in which a person is visible for less than half of the time are gaps, unless
    the person is never visible for longer.
    """
    timed = [
        (window.start_s, window.end_s, window)
        for window in windows
        if window.start_s is not None and window.end_s is not None
    ]
    middles = [(start + end) / 2 for start, end, _ in timed]
    bounds = [(before + after) / 2 for before, after in pairwise(middles)]
    step = min((after - before for before, after in pairwise(middles)), default=math.inf)
    spans: dict[int, Spans] = {}
    seconds: dict[int, float] = {}
    longest: dict[int, float] = {}
    for person in (person for *_, window in timed for person in window.people):
        seconds[person.id] = seconds.get(person.id, 0.0) + person.seconds
        longest[person.id] = max(longest.get(person.id, 0.0), person.seconds)
    for number, (start, end, window) in enumerate(timed):
        left = start if number == 0 else max(bounds[number - 1], middles[number] - step)
        right = end if number == len(timed) - 1 else min(bounds[number], middles[number] + step)
        for person in window.people:
            if person.seconds >= min(window.duration_s or 0.0, longest[person.id]) / 2:
                spans.setdefault(person.id, []).append((left, right, person.prediction))
    return {number: spans[number] for number in sorted(spans, key=lambda number: (-seconds[number], number))}


def label_spans(windows: Sequence[WindowResult]) -> dict[int, list[LabelSpan]]:
    """Return the labels of each person over time, by ascending id: `person_spans`, with equal neighbours merged."""
    return {person: list(_merge_labels(spans)) for person, spans in sorted(person_spans(windows).items())}


def _merge_labels(spans: Spans) -> Iterator[LabelSpan]:
    runs: list[Spans] = []
    for span in spans:
        start, _, prediction = span
        if runs and start - runs[-1][-1][1] <= TIME_EPS and prediction.label == runs[-1][-1][2].label:
            runs[-1].append(span)
        else:
            runs.append([span])
    for run in runs:
        start_ms, end_ms = round(1000 * run[0][0]), round(1000 * run[-1][1])
        confidence = fmean(prediction.confidence for *_, prediction in run)
        yield LabelSpan(start_ms, max(end_ms, start_ms + 1), run[0][2].label, confidence)
