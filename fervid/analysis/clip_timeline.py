"""Windows of a clip -> where each person is at any time, and the predictions for the person over time.

Faces are detected in sampled frames only. Between them, boxes are interpolated linearly; they are smoothed over time
against jitter of the detector.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fervid.analysis.tracker import TrackerConfig
from fervid.analysis.windows import TrackedBox, WindowObservations
from fervid.core.boxes import box_iou
from fervid.core.records import TIME_EPS_S, Box
from fervid.core.results import ErrorInfo, Person

_CENTER_SIGMA_S = 0.08  # standard deviation of the Gaussian that smooths the center of a box
_SIZE_SIGMA_S = 0.25  # the same for the size of a box, which changes more slowly
_MIN_WEIGHT = 0.01  # of the Gaussian, below which neighbours are ignored
_EDGE_S = 0.1  # longest time that a face stays visible before its first and after its last box
_MIN_VISIBLE_S = 0.25  # shortest visible time, unless the clip is shorter; anything shorter would flash
_MIN_IOU = 0.1  # lowest intersection over union of the boxes before and after a gap for a segment to continue
_MIN_DURATION_S = 1e-9  # that frames and windows without a duration count as, for their weight

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class TrackSegment:
    """A time range in which a face is visible without interruption.

    Attributes:
        times: (n,) times of the sampled frames, in seconds of presentation time.
        boxes: (n, 4) x1, y1, x2, y2 in pixels of the frame, smoothed over time.
    """

    times: Float64Array
    boxes: Float64Array

    def box_at(self, time: float) -> Box:
        """Interpolate the box at a time."""
        x1, y1, x2, y2 = (float(np.interp(time, self.times, side)) for side in self.boxes.T)
        return x1, y1, x2, y2


@dataclass(frozen=True, slots=True, eq=False)
class PersonTrack:
    """One person through a clip.

    Attributes:
        id: 0 for the main person, then by decreasing fraction of the frame over time.
        seconds: Time for which the face was seen.
        starts: (k,) times at which the segments start.
        ends: (k,) times at which the segments end.
        segments: k time ranges in which the face is visible.
        times: (m,) centers of the windows in which the person was seen.
        probabilities: (m, c) prediction for the person in each of them.
        attribute_text: Age, gender and ethnicity for display; empty unless they were estimated.
    """

    id: int
    seconds: float
    starts: Float64Array
    ends: Float64Array
    segments: Sequence[TrackSegment]
    times: Float64Array
    probabilities: Float64Array
    attribute_text: str = ""

    def box_at(self, time: float) -> Box | None:
        """Interpolate the box at a time; None while the face is not visible."""
        index = int(np.searchsorted(self.starts, time, side="right")) - 1
        return self.segments[index].box_at(time) if index >= 0 and time < self.ends[index] else None

    def visible_at(self, times: Float64Array) -> NDArray[np.bool_]:
        """Return (n,) whether the face is visible at each time."""
        index = np.searchsorted(self.starts, times, side="right") - 1
        return np.asarray((index >= 0) & (times < self.ends[index]))

    def probabilities_at(self, times: Float64Array) -> Float64Array:
        """Interpolate the (n, c) probabilities between the centers of windows."""
        return np.stack([np.interp(times, self.times, column) for column in self.probabilities.T], axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class ClipTimeline:
    """The people of a clip and their predictions over time.

    Attributes:
        labels: c names, in the order of the probabilities.
        start: Start of the analysed time, in seconds of presentation time.
        end: End of the analysed time.
        people: The main person first.
        error: What is wrong with the clip, for example that it is truncated.
    """

    labels: tuple[str, ...]
    start: float
    end: float
    people: tuple[PersonTrack, ...]
    error: ErrorInfo | None = None


def build_clip_timeline(
    windows: Iterable[tuple[WindowObservations, Sequence[Person]]], labels: Sequence[str], config: TrackerConfig
) -> ClipTimeline:
    """Combine the windows of a clip, in order of time and with the predictions for their people, into a timeline.

    Only one window is kept at a time, and of each face in each frame only its box.
    """
    boxes: list[TrackedBox] = []
    seen: list[tuple[float, Person]] = []  # center of the window and a person in it
    groups: Sequence[Sequence[int]] = ()
    start, end, problem = None, 0.0, None
    for window, people in windows:
        start, end = window.start if start is None else start, window.end
        boxes += window.boxes
        seen += (((window.start + window.end) / 2, person) for person in people)
        groups, error = window.people, window.clip.error
        problem = ErrorInfo(error.code, error.message) if error else None
    start = start or 0.0
    person_of_track = {track: min(group) for group in groups for track in group}
    boxes_of: dict[int, list[TrackedBox]] = defaultdict(list)
    for box in boxes:
        boxes_of[person_of_track[box.track]].append(box)
    # person -> center of window -> the person in that window
    windows_of: dict[int, dict[float, list[Person]]] = defaultdict(lambda: defaultdict(list))
    for center, person in seen:
        windows_of[person_of_track[person.id]][center].append(person)
    tracks = tuple(_person_tracks(boxes_of, windows_of, labels, config, start, end))
    return ClipTimeline(tuple(labels), start, end, tracks, problem)


def _person_tracks(
    boxes_of: Mapping[int, Sequence[TrackedBox]],
    windows_of: Mapping[int, Mapping[float, Sequence[Person]]],
    labels: Sequence[str],
    config: TrackerConfig,
    start: float,
    end: float,
) -> Iterator[PersonTrack]:
    """Yield the track of each person, the main person first.

    Tracks are assigned to people as of the last window, so two people of an earlier window may be one. People without
    a prediction or a segment of visible length are left out, because most are false detections.
    """
    by_size = sorted(boxes_of.keys() & windows_of.keys(), key=lambda person: -_screen_time(boxes_of[person]))
    min_visible, id = min(_MIN_VISIBLE_S, end - start), 0
    for person in by_size:
        bounded = [(segment, *_segment_bounds(segment, end)) for segment in _split_segments(boxes_of[person], config)]
        visible = [(segment, on, off) for segment, on, off in bounded if off - on >= min_visible - TIME_EPS_S]
        if not visible:
            continue
        segments, starts, ends = zip(*visible, strict=True)
        windows = windows_of[person]
        yield PersonTrack(
            id,
            sum(box.duration for box in boxes_of[person]),
            np.array(starts, np.float64),
            np.array(ends, np.float64),
            tuple(map(_smooth_segment, segments)),
            np.array(list(windows), np.float64),
            np.array([_mean_probabilities(in_window, labels) for in_window in windows.values()]),
            _attribute_text([person for in_window in windows.values() for person in in_window]),
        )
        id += 1


def _screen_time(boxes: Sequence[TrackedBox]) -> float:
    """Sum the fraction of the frame that a face fills over time."""
    return sum(box.area_fraction * max(box.duration, _MIN_DURATION_S) for box in boxes)


def _mean_probabilities(people: Sequence[Person], labels: Sequence[str]) -> Float64Array:
    """Average the probabilities of the c labels (c,), weighted by the seconds for which the person was seen."""
    probabilities = [[person.prediction.probabilities[label] for label in labels] for person in people]
    weights = [max(person.seconds, _MIN_DURATION_S) for person in people]
    return np.asarray(np.average(probabilities, axis=0, weights=weights))


def _attribute_text(windows: Sequence[Person]) -> str:
    """Format the median age and the most common gender and ethnicity of a person over all windows."""
    ages = [person.age for person in windows if person.age is not None]
    parts = [f"about {np.median(ages):.0f}"] if ages else []
    for names in ([person.gender for person in windows], [person.ethnicity for person in windows]):
        parts += [name for name, _ in Counter(name for name in names if name is not None).most_common(1)]
    return ", ".join(parts)


def _split_segments(boxes: Sequence[TrackedBox], config: TrackerConfig) -> list[list[TrackedBox]]:
    """Split the boxes of a person at long gaps and at jumps, as at a scene cut."""
    segments: list[list[TrackedBox]] = []
    for box in boxes:
        previous = segments[-1][-1] if segments else None
        if (
            previous is not None
            and box.time - previous.time - previous.duration <= config.max_gap_s
            and (box.track == previous.track or box_iou([box.box], [previous.box])[0, 0] >= _MIN_IOU)
        ):
            segments[-1].append(box)
        else:
            segments.append([box])
    return segments


def _segment_bounds(boxes: Sequence[TrackedBox], clip_end: float) -> tuple[float, float]:
    """Return when a face appears and disappears.

    It appears and disappears halfway between the sampled frames with and without it, or at most `_EDGE_S` from its
    first and last box; at the end of the clip it stays visible.
    """
    first, last = boxes[0], boxes[-1]
    end = last.time + last.duration
    cut_off = min(last.duration / 2, _EDGE_S) if end < clip_end - TIME_EPS_S else 0.0
    return first.time - min(first.duration / 2, _EDGE_S), end - cut_off


def _smooth_segment(segment: Sequence[TrackedBox]) -> TrackSegment:
    times, boxes = np.array([box.time for box in segment]), np.array([box.box for box in segment], np.float64)
    centers = _gaussian_smooth(times, (boxes[:, :2] + boxes[:, 2:]) / 2, _CENTER_SIGMA_S)
    half_sizes = _gaussian_smooth(times, (boxes[:, 2:] - boxes[:, :2]) / 2, _SIZE_SIGMA_S)
    return TrackSegment(times, np.concatenate([centers - half_sizes, centers + half_sizes], axis=1))


def _gaussian_smooth(times: Float64Array, values: Float64Array, sigma: float) -> Float64Array:
    """Smooth values (n, d) over times (n,) with a Gaussian of standard deviation `sigma`."""
    total, weights = values.copy(), np.ones((len(times), 1))
    for offset in range(1, len(times)):
        weight = np.exp(-0.5 * np.square((times[offset:] - times[:-offset]) / sigma))[:, None]
        if weight.max() < _MIN_WEIGHT:
            break
        total[offset:] += weight * values[:-offset]
        total[:-offset] += weight * values[offset:]
        weights[offset:] += weight
        weights[:-offset] += weight
    return np.asarray(total / weights)
