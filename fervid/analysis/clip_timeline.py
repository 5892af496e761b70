"""Windows of a clip -> where each person is at any moment, and what the person shows then.

Faces are looked at some times a second only. In between they are where a line from one look to the next leads, and
small tremors of the detector are smoothed away, so what is drawn by it does not flicker.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fervid.analysis.aggregate import TrackedBox, WindowObservations
from fervid.analysis.tracker import TrackerConfig, box_iou
from fervid.core.records import Box, ErrorInfo, Person

_CENTRE = 0.08  # seconds, standard deviation of the weights over which the middle of a box is smoothed
_SIZE = 0.25  # and its size, which changes more slowly
_MIN_WEIGHT = 0.01  # weights below that are none
_EDGE_S = 0.1  # seconds at most: halfway between a look at a face and one that does not find it, it comes or goes
_MIN_VISIBLE_S = 0.25  # seconds; who is there for less is not shown, unless the clip is no longer
_SHARED = 0.1  # intersection over union of the boxes before and after a gap: the face is still about there
_SOON = 1e-6  # seconds; sums of times are not exact

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class TrackSegment:
    """A time through which a face is seen without a break.

    Attributes:
        times: (n,) of the looks, in seconds of presentation time.
        boxes: (n, 4) x1, y1, x2, y2 in pixels of the frame, smoothed.
    """

    times: FloatArray
    boxes: FloatArray

    def box(self, time: float) -> Box:
        """Where the face is at that time."""
        x1, y1, x2, y2 = (float(np.interp(time, self.times, side)) for side in self.boxes.T)
        return x1, y1, x2, y2


@dataclass(frozen=True, slots=True, eq=False)
class PersonTrack:
    """One person through a clip.

    Attributes:
        id: 0 for the main person, then by falling share of the picture over time.
        seconds: For how long the face was seen.
        starts: (k,) times at which the face comes into view.
        ends: (k,) times at which it goes again.
        spans: k, where it is in between.
        times: (m,) middles of the windows in which the person was seen.
        probabilities: (m, c) what the classifier says of the person in each.
        about: Age, gender and ethnicity in words, empty unless they were asked for.
    """

    id: int
    seconds: float
    starts: FloatArray
    ends: FloatArray
    spans: Sequence[TrackSegment]
    times: FloatArray
    probabilities: FloatArray
    about: str = ""

    def box(self, time: float) -> Box | None:
        """Where the face is at that time; None while it is not seen."""
        number = int(np.searchsorted(self.starts, time, side="right")) - 1
        return self.spans[number].box(time) if number >= 0 and time < self.ends[number] else None

    def seen(self, times: FloatArray) -> NDArray[np.bool_]:
        """(n,) whether the face is seen at each of those times."""
        number = np.searchsorted(self.starts, times, side="right") - 1
        return np.asarray((number >= 0) & (times < self.ends[number]))

    def says(self, times: FloatArray) -> FloatArray:
        """(n, c) probabilities at each of those times, between the answers of the windows around it."""
        return np.stack([np.interp(times, self.times, column) for column in self.probabilities.T], axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class ClipTimeline:
    """Who is where in a clip, and what they show as it goes on.

    Attributes:
        labels: c names, in the order of the probabilities.
        start: Where looking began, in seconds of presentation time.
        end: Where it ended.
        people: The main person first.
        problem: What was wrong with the clip, if it breaks off.
    """

    labels: tuple[str, ...]
    start: float
    end: float
    people: tuple[PersonTrack, ...]
    problem: ErrorInfo | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _WindowPrediction:
    """What a window says of a person."""

    middle: float
    person: Person
    probabilities: FloatArray


def build_clip_timeline(
    parts: Iterable[tuple[WindowObservations, Sequence[Person]]], labels: Sequence[str], rule: TrackerConfig
) -> ClipTimeline:
    """Put the windows of a clip together.

    Args:
        parts: Each window in order, with what the classifier says of the people in it. Of the windows themselves no
            more than one is kept, and of each face in each frame only where it was.
        labels: Of the classifier.
        rule: When a face goes on and when it begins anew.
    """
    looks: list[TrackedBox] = []
    said: list[_WindowPrediction] = []
    groups: Sequence[Sequence[int]] = ()
    begin, end, problem = None, 0.0, None
    for part, people in parts:
        begin, end = part.start if begin is None else begin, part.end
        looks += part.looks
        middle = (part.start + part.end) / 2
        said += [
            _WindowPrediction(middle, one, np.array([one.answer.probabilities[label] for label in labels]))
            for one in people
        ]
        groups, error = part.people, part.seen.problem
        problem = ErrorInfo(error.code, error.message) if error else None
    begin = begin or 0.0
    everybody = tuple(_people(looks, said, groups, rule, begin, end))
    return ClipTimeline(tuple(labels), begin, end, everybody, problem)


def _people(
    looks: Sequence[TrackedBox],
    said: Sequence[_WindowPrediction],
    groups: Sequence[Sequence[int]],
    rule: TrackerConfig,
    begin: float,
    end: float,
) -> Iterable[PersonTrack]:
    """Everybody, once it is known which tracks are of one person; what was two people by then is one now.

    Who was never believed, or comes and goes in a moment, is left out: it is a mistake more often than a person, and
    it would flash.
    """
    person = {track: min(group) for group in groups for track in group}
    mine: dict[int, list[TrackedBox]] = {}
    for look in looks:
        mine.setdefault(person[look.track], []).append(look)
    answers: dict[int, dict[float, list[_WindowPrediction]]] = {}
    for one in said:
        answers.setdefault(person[one.person.id], {}).setdefault(one.middle, []).append(one)
    ranked = sorted(
        mine.keys() & answers.keys(),
        key=lambda number: -sum(look.share * max(look.duration, 1e-9) for look in mine[number]),
    )
    flash, rank = min(_MIN_VISIBLE_S, end - begin), -1
    for number in ranked:
        parts = [part for part in _split_segments(mine[number], rule) if _duration(part, end) >= flash - _SOON]
        if not parts:
            continue
        rank, windows = rank + 1, answers[number]
        starts, ends = zip(*(_segment_bounds(part, end) for part in parts), strict=True)
        yield PersonTrack(
            rank,
            sum(look.duration for look in mine[number]),
            np.array(starts, np.float64),
            np.array(ends, np.float64),
            tuple(map(_span, parts)),
            np.array(list(windows), np.float64),
            np.array([_weighted_mean(ones) for ones in windows.values()]),
            _about([one.person for ones in windows.values() for one in ones]),
        )


def _weighted_mean(parts: Sequence[_WindowPrediction]) -> FloatArray:
    """The mean of several answers, each by the seconds that it stands for."""
    weights = [max(one.person.seconds, 1e-9) for one in parts]
    return np.asarray(np.average([one.probabilities for one in parts], axis=0, weights=weights))


def _about(windows: Sequence[Person]) -> str:
    """The middle of a person's ages in all windows, and what was said most often of the rest."""
    ages = [person.age for person in windows if person.age is not None]
    named = (
        Counter(name for name in names if name is not None).most_common(1)
        for names in ([person.gender for person in windows], [person.ethnicity for person in windows])
    )
    return ", ".join([*([f"about {np.median(ages):.0f}"] if ages else []), *(found[0][0] for found in named if found)])


def _split_segments(looks: Sequence[TrackedBox], rule: TrackerConfig) -> list[list[TrackedBox]]:
    """The looks, cut where the face was away for long, or is suddenly somewhere else as after a cut."""
    parts: list[list[TrackedBox]] = []
    before = None
    for look in looks:
        goes_on = (
            before is not None
            and look.time - before.time - before.duration <= rule.gap
            and (look.track == before.track or box_iou([look.box], [before.box])[0, 0] >= _SHARED)
        )
        if goes_on:
            parts[-1].append(look)
        else:
            parts.append([look])
        before = look
    return parts


def _segment_bounds(looks: Sequence[TrackedBox], over: float) -> tuple[float, float]:
    """When a face comes and goes: halfway to the looks before and after its own, but for the end of the clip."""
    first, last = looks[0], looks[-1]
    end = last.time + last.duration
    left = min(last.duration / 2, _EDGE_S) if end < over - _SOON else 0.0
    return first.time - min(first.duration / 2, _EDGE_S), end - left


def _duration(looks: Sequence[TrackedBox], over: float) -> float:
    start, end = _segment_bounds(looks, over)
    return end - start


def _span(looks: Sequence[TrackedBox]) -> TrackSegment:
    times, boxes = np.array([look.time for look in looks]), np.array([look.box for look in looks], np.float64)
    centres = _gaussian_smooth(times, (boxes[:, :2] + boxes[:, 2:]) / 2, _CENTRE)
    halves = _gaussian_smooth(times, (boxes[:, 2:] - boxes[:, :2]) / 2, _SIZE)
    return TrackSegment(times, np.concatenate([centres - halves, centres + halves], axis=1))


def _gaussian_smooth(times: FloatArray, values: FloatArray, sigma: float) -> FloatArray:
    """Values (n, d) averaged with their neighbours in time, whose weights are a normal distribution."""
    total, weights = values.copy(), np.ones((len(times), 1))
    for apart in range(1, len(times)):
        weight = np.exp(-0.5 * np.square((times[apart:] - times[:-apart]) / sigma))[:, None]
        if weight.max() < _MIN_WEIGHT:
            break
        total[apart:] += weight * values[:-apart]
        total[:-apart] += weight * values[apart:]
        weights[apart:] += weight
        weights[:-apart] += weight
    return np.asarray(total / weights)
