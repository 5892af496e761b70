"""Split the observations of a clip into overlapping windows, in one pass."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf

from fervid.analysis.aggregate import ClipObservations
from fervid.analysis.tracker import Tracker, TrackerConfig
from fervid.core.errors import InputError
from fervid.core.records import TIME_EPS_S, Box, FrameObservation, check


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """Length of the windows of a clip, and the step from one to the next, in seconds."""

    length: float = 4.0
    step: float = 1.0

    def __post_init__(self) -> None:
        check(0 < self.length < inf, f"the window length must be above 0 s and finite, got {self.length} s")
        check(
            0 < self.step <= self.length,
            f"the step must be above 0 s and at most the window length ({self.length} s), got {self.step} s",
        )


@dataclass(frozen=True, slots=True)
class TrackedBox:
    """The box of a tracked face in one frame.

    Attributes:
        time: Presentation time of the frame in seconds.
        duration: Seconds of the clip that the frame stands for.
        track: Id of the face's track.
        box: x1, y1, x2, y2 in pixels of the frame.
        area_fraction: Fraction of the frame that the face fills.
    """

    time: float
    duration: float
    track: int
    box: Box
    area_fraction: float


@dataclass(frozen=True, slots=True, eq=False)
class WindowObservations:
    """The observations of one window; people have the same number in all windows of a clip.

    Attributes:
        start: Start in seconds of presentation time.
        end: End in seconds of presentation time.
        clip: Aggregated observations of the window's frames.
        boxes: Tracked faces in those of its frames that are in no earlier window.
        people: Track ids of each person, of all tracks up to the end of the window.
    """

    start: float
    end: float
    clip: ClipObservations
    boxes: Sequence[TrackedBox] = ()
    people: Sequence[Sequence[int]] = ()


class WindowAggregator:
    """Collects frames and returns each window as soon as a frame past its end arrives.

    Only the frames of the current window are kept. A window without frames is left out. People are grouped by what was
    observed up to the end of each window.
    """

    def __init__(self, config: TrackerConfig, spec: WindowSpec, origin: float = 0.0, forget_after: float = inf) -> None:
        """Start with the first window; the parameters are those of `iter_windows`."""
        self._tracker = Tracker(config)
        self._spec, self._origin, self._forget_after = spec, origin, forget_after
        self._index = 0  # of the current window
        self._frames: deque[tuple[FrameObservation, Sequence[int | None]]] = deque()
        self._new_boxes: list[TrackedBox] = []

    @property
    def is_empty(self) -> bool:
        """Whether the current window has no frame; after the first `push` it always has one."""
        return not self._frames

    def push(self, observation: FrameObservation) -> list[WindowObservations]:
        """Add the next frame, and return the windows that end before it."""
        windows = self._close_until(observation.time)
        track_ids = self._tracker.update(
            observation.time, observation.faces, observation.outputs.identity, observation.duration
        )
        self._tracker.compact_if_due()
        self._frames.append((observation, track_ids))
        self._new_boxes += [
            TrackedBox(max(observation.time, self._origin), observation.duration, track, face.box, area_fraction)
            for track, face, area_fraction in zip(track_ids, observation.faces, observation.area_fractions, strict=True)
            if track is not None
        ]
        return windows

    def finish(self, problem: InputError | None = None) -> WindowObservations:
        """Return the last window, which ends with the last frame, and carries the error that ended the clip."""
        last, _ = self._frames[-1]
        end = max(last.time, self._origin) + last.duration  # the frame may have begun before the origin
        return self._close(min(end, self._end), problem)

    @property
    def _start(self) -> float:
        return self._origin + self._index * self._spec.step

    @property
    def _end(self) -> float:
        return self._start + self._spec.length

    def _close_until(self, time: float) -> list[WindowObservations]:
        """Close windows, and skip empty ones, until the current window contains that time."""
        windows = []
        while time >= self._end - TIME_EPS_S:
            if self._frames:
                windows.append(self._close(self._end))
                self._index += 1
            else:
                self._index += max(1, int((time - self._end) // self._spec.step))
            while self._frames and self._frames[0][0].time < self._start - TIME_EPS_S:
                self._frames.popleft()
        return windows

    def _close(self, end: float, problem: InputError | None = None) -> WindowObservations:
        """Aggregate the frames of the current window."""
        clip = ClipObservations(error=problem)
        for observation, track_ids in self._frames:
            clip.add(observation, track_ids)
        self._tracker.prune(self._start - self._forget_after)
        people = self._tracker.with_merged(self._tracker.group_identities())
        clip.finalize_people(self._tracker.with_merged(self._tracker.reliable_identities()))
        boxes = tuple(self._new_boxes)
        self._new_boxes.clear()
        if self._forget_after < inf:  # an endless stream must not accumulate ids
            self._tracker.forget_merged({track for _, track_ids in self._frames for track in track_ids})
        return WindowObservations(self._start, end, clip, boxes, people)


def iter_windows(
    observations: Iterable[FrameObservation],
    config: TrackerConfig,
    spec: WindowSpec,
    origin: float = 0.0,
    forget_after: float = inf,
) -> Iterator[WindowObservations]:
    """Yield the windows of a clip, each as soon as it is complete; windows without frames are left out.

    Args:
        observations: One for each frame, in order of time.
        config: Thresholds for linking faces.
        spec: Length and step of the windows.
        origin: Start of the first window in seconds.
        forget_after: Seconds before the start of a window after which a person who was not seen is forgotten.

    Raises:
        InputError: `observations` raised it before the first frame. If it is raised later, the last window carries it.
    """
    aggregator = WindowAggregator(config, spec, origin, forget_after)
    problem = None
    try:
        for observation in observations:
            yield from aggregator.push(observation)
    except InputError as error:
        if aggregator.is_empty:
            raise
        problem = error
    if not aggregator.is_empty:
        yield aggregator.finish(problem)
