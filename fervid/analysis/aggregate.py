"""What frames show -> people and their pooled statistics, of a whole clip or of windows of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Literal

from fervid.analysis.pooling import FeaturePooler
from fervid.analysis.tracker import ENOUGH_FRAMES, ENOUGH_SECONDS, Tracker, TrackerConfig
from fervid.core.errors import InputError, NoFaceError, NoFramesInRange
from fervid.core.records import Box, FaceOutputs, FrameObservation

_COMPACT_EVERY = 100  # tracks before those of one person are put together
_JITTER = 1e-6  # seconds; sums of times are not exact


@dataclass(slots=True)
class TrackStats:
    """One track or person, as it grows.

    Attributes:
        number: Of the track; of a person the smallest of all its tracks', also of those that do not occur here.
        pool: Statistics of the face.
        seconds: For how long it was seen.
        area: Share of the picture, summed over frames.
        weight: That times the seconds that each frame lasts.
    """

    number: int = 0
    pool: FeaturePooler = field(default_factory=FeaturePooler)
    seconds: float = 0.0
    area: float = 0.0
    weight: float = 0.0

    @classmethod
    def union(cls, number: int, tracks: Iterable[TrackStats]) -> TrackStats:
        """Several tracks of one person, under that number."""
        parts = list(tracks)
        return cls(
            number,
            FeaturePooler.union(part.pool for part in parts),
            sum(part.seconds for part in parts),
            sum(part.area for part in parts),
            sum(part.weight for part in parts),
        )


@dataclass(slots=True)
class ClipObservations:
    """What the frames of a clip have shown so far.

    Attributes:
        frames: How many were looked at.
        frames_with_face: In how many of them somebody was followed.
        seconds: How long they last together.
        tracks: Every followed face, by its number.
        group: The faces of each frame together that belong to somebody who is believed.
        sure: Tracks that were seen often enough by now to be believed in any case.
        waiting: Frames with other tracks, as numbers and scores of their faces; at the end it is known who is believed.
        people: At the end, the tracks of each person who is believed put together, the main person first.
        problem: Why the frames broke off, if they did.
    """

    frames: int = 0
    frames_with_face: int = 0
    seconds: float = 0.0
    tracks: dict[int, TrackStats] = field(default_factory=dict)
    group: FeaturePooler = field(default_factory=FeaturePooler)
    sure: set[int] = field(default_factory=set)
    waiting: list[tuple[list[int], FaceOutputs]] = field(default_factory=list)
    people: list[TrackStats] = field(default_factory=list)
    problem: InputError | None = None

    def add(self, one: FrameObservation, numbers: Sequence[int | None]) -> None:
        """Count a frame, and pool those of its faces that belong to a track."""
        known = {i: number for i, number in enumerate(numbers) if number is not None}
        for i, number in known.items():
            track = self.tracks.setdefault(number, TrackStats(number))
            track.pool.update_group(one.scores[[i]])
            track.seconds += one.duration
            track.area += one.shares[i]
            track.weight += one.shares[i] * one.duration
        self.frames += 1
        self.frames_with_face += bool(known)
        self.seconds += one.duration
        self.waiting.append((list(known.values()), one.scores[list(known)]))
        self._pool_sure(known.values(), 1)

    def join(self, groups: Iterable[Sequence[int]]) -> None:
        """Let the tracks of each group go on as one, under the first number."""
        kept: dict[int, int] = {}
        for first, *others in groups:
            self.tracks[first] = TrackStats.union(first, (self.tracks[first], *map(self.tracks.pop, others)))
            kept |= dict.fromkeys(others, first)
        self.waiting = [([kept.get(number, number) for number in numbers], scores) for numbers, scores in self.waiting]
        self._pool_sure(list(self.tracks), len(self.waiting))

    def _pool_sure(self, numbers: Iterable[int], newest: int) -> None:
        """Note which of these tracks are sure by now, and pool the frames that need not wait any more.

        Args:
            numbers: Of tracks that have changed.
            newest: How many frames at the end have to be looked at if none of the tracks was unsure before.
        """
        for number in numbers:
            track = self.tracks[number]
            long = track.seconds >= ENOUGH_SECONDS or not self.seconds
            if number not in self.sure and track.pool.count >= ENOUGH_FRAMES and long:
                self.sure.add(number)
                newest = len(self.waiting)
        looked, self.waiting = self.waiting[-newest:], self.waiting[:-newest]
        for one in looked:
            if self.sure.issuperset(one[0]):
                self.group.update_group(one[1])
            else:
                self.waiting.append(one)

    def settle(self, groups: Iterable[Sequence[int]]) -> None:
        """Put the tracks of each person together, as far as they occur here; nobody else's faces are pooled."""
        groups = list(groups)
        believed = {number for group in groups for number in group}
        for numbers, scores in self.waiting:
            self.group.update_group(scores[[i for i, number in enumerate(numbers) if number in believed]])
        self.waiting.clear()
        present = ((min(group), [self.tracks[track] for track in group if track in self.tracks]) for group in groups)
        people = (TrackStats.union(number, tracks) for number, tracks in present if tracks)
        self.people = sorted(people, key=lambda person: (-person.weight, -person.area))

    def pool(self, face: Literal["main", "all"]) -> FeaturePooler | None:
        """The statistics of the main person, or of all together; None if nobody was followed."""
        if not self.people:
            return None
        return self.group if face == "all" else self.people[0].pool

    def problems(self, path: str) -> tuple[InputError | None, InputError | None]:
        """What is wrong with the clip, and why it has no answer: the same, unless it shows no face at all."""
        problem = self.problem
        if not self.frames:
            problem = problem or no_frames_error(path)
        if self.people or not self.frames:
            return problem, problem
        error = NoFaceError(
            f"{path} shows no face in {self.frames} frames;"
            " try more of them (--fps, --every-frame) or smaller faces (--min-face)"
        )
        if self.frames_with_face:
            error = NoFaceError(
                f"{path} shows a face in only {self.frames_with_face} of {self.frames} frames, which may be a mistake;"
                " look at more of them (--fps, --every-frame) or at a part (--start, --end)"
            )
            return problem or error, error
        error.__cause__ = problem
        return problem, error


def no_frames_error(path: str) -> NoFramesInRange:
    """What is wrong with a clip of which there was no frame to look at."""
    return NoFramesInRange(f"{path} has no frame in the time that was asked for; check --start and --end")


def aggregate_clip(observed: Iterable[FrameObservation], rule: TrackerConfig, stride: int = 1) -> ClipObservations:
    """Follow the faces of a clip and pool each person; memory grows with neither frames nor cuts, only with people.

    Args:
        observed: What the frames show, in order of time.
        rule: When two faces are one person.
        stride: Of how many frames of the clip one is among them; 0 if everybody is believed.
    """
    tracker, seen, many = Tracker(rule), ClipObservations(), _COMPACT_EVERY
    try:
        for one in observed:
            seen.add(one, tracker.update(one.time, one.faces, one.scores.identity, one.duration))
            if len(tracker) >= many:
                seen.join(tracker.join())
                many = 2 * len(tracker) + _COMPACT_EVERY
    except InputError as error:
        seen.problem = error
    seen.settle(tracker.believed(stride))
    return seen


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """How a clip is cut into windows: each `length` seconds long, one every `step` seconds."""

    length: float = 4.0
    step: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.length < float("inf"):
            raise ValueError(f"a window must last longer than 0 s, not {self.length} s")
        if not 0 < self.step <= self.length:
            raise ValueError(f"the step must be above 0 s and at most the window ({self.length} s), not {self.step} s")


@dataclass(frozen=True, slots=True)
class TrackedBox:
    """Where a face was in one frame.

    Attributes:
        time: Of the frame, in seconds of presentation time.
        duration: Seconds of the clip that the frame stands for.
        track: Number of the track that the face belongs to.
        box: x1, y1, x2, y2 in pixels of the frame.
        share: Of the picture that it fills.
    """

    time: float
    duration: float
    track: int
    box: Box
    share: float


@dataclass(frozen=True, slots=True, eq=False)
class WindowObservations:
    """What was seen from `start` to `end`, in seconds of presentation time; people keep their number over windows.

    Attributes:
        start: Where it begins.
        end: Where it ends.
        seen: Everything in between, put together.
        looks: Where each face was, in those of its frames that lie in no window before.
        people: All tracks up to the end, those of one person together, as far as can be told by then.
    """

    start: float
    end: float
    seen: ClipObservations
    looks: Sequence[TrackedBox] = ()
    people: Sequence[Sequence[int]] = ()


def iter_windows(
    observed: Iterable[FrameObservation], rule: TrackerConfig, cut: WindowSpec, origin: float = 0.0, memory: float = inf
) -> Iterator[WindowObservations]:
    """The windows of a clip, each as soon as it is over; of the frames only those of one window are kept.

    A window in which no frame lies is left out, and the last one ends with the clip. Tracks are put together to people
    by what was seen so far.

    Args:
        observed: What the frames show, in order of time.
        rule: When two faces are one person.
        cut: Length and step.
        origin: Where the first window begins, in seconds.
        memory: Seconds before a window after which a person who was not seen is forgotten.

    Raises:
        InputError: The frames broke off before the first of them; later, the last window carries it.
    """
    tracker = Tracker(rule)
    kept: deque[tuple[FrameObservation, Sequence[int | None]]] = deque()
    looks: list[TrackedBox] = []
    joined: dict[int, list[int]] = {}  # tracks that go on under the number of another
    number, problem, many = 0, None, _COMPACT_EVERY

    def window(limit: float) -> WindowObservations:
        nonlocal joined
        seen = ClipObservations(problem=problem)
        for one, tracks in kept:
            seen.add(one, tracks)
        tracker.forget(origin + number * cut.step - memory)
        believed, people = (
            [[one for track in group for one in (track, *joined.get(track, ()))] for group in groups]
            for groups in (tracker.believed(), tracker.people())
        )
        new = tuple(looks)
        seen.settle(believed)
        looks.clear()
        if memory < inf:  # then not even the numbers of tracks that are over may add up
            shown = {track for _, tracks in kept for track in tracks}
            left = {first: [other for other in others if other in shown] for first, others in joined.items()}
            joined = {first: others for first, others in left.items() if others}
        return WindowObservations(origin + number * cut.step, limit, seen, new, people)

    try:
        for one in observed:
            while one.time >= (limit := origin + number * cut.step + cut.length) - _JITTER:
                if kept:
                    yield window(limit)
                number += 1 if kept else max(1, int((one.time - limit) // cut.step))
                while kept and kept[0][0].time < origin + number * cut.step - _JITTER:
                    kept.popleft()
            tracks = tracker.update(one.time, one.faces, one.scores.identity, one.duration)
            if len(tracker) >= many:
                for first, *others in tracker.join():
                    for other in others:
                        joined.setdefault(first, []).extend((other, *joined.pop(other, ())))
                many = 2 * len(tracker) + _COMPACT_EVERY
            kept.append((one, tracks))
            looks += [
                TrackedBox(max(one.time, origin), one.duration, track, face.box, share)
                for track, face, share in zip(tracks, one.faces, one.shares, strict=True)
                if track is not None
            ]
    except InputError as error:
        if not kept:
            raise
        problem = error
    if kept:
        last = kept[-1][0]
        end = max(last.time, origin) + last.duration  # a frame may have begun before
        yield window(min(end, origin + number * cut.step + cut.length))
