"""Aggregate the observations of frames into people and their pooled statistics."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from fervid.analysis.pooling import FeaturePooler
from fervid.analysis.tracker import ENOUGH_FRAMES, ENOUGH_SECONDS, Tracker, TrackerConfig
from fervid.core.errors import InputError, NoFaceError, NoFramesInRange
from fervid.core.records import ClipFeatures, FaceOutputs, FrameObservation


@dataclass(slots=True)
class TrackStats:
    """Accumulated statistics of one track or person.

    Attributes:
        number: Track id; for a person the smallest of `track_ids`.
        pool: Statistics of the face.
        seconds: How long the face was visible.
        area: Sum over frames of the fraction of the frame that the face fills.
        weight: The same sum, weighted by the seconds that each frame lasts.
        track_ids: For a person, the ids of all its tracks, including those outside the window.
    """

    number: int = 0
    pool: FeaturePooler = field(default_factory=FeaturePooler)
    seconds: float = 0.0
    area: float = 0.0
    weight: float = 0.0
    track_ids: Sequence[int] = ()

    @classmethod
    def combine(cls, number: int, tracks: Iterable[TrackStats], track_ids: Sequence[int] = ()) -> TrackStats:
        """Combine the tracks of one person under the given number."""
        parts = list(tracks)
        return cls(
            number,
            FeaturePooler.combine(part.pool for part in parts),
            sum(part.seconds for part in parts),
            sum(part.area for part in parts),
            sum(part.weight for part in parts),
            track_ids,
        )


@dataclass(slots=True)
class ClipObservations:
    """Accumulated observations of a clip or window.

    Attributes:
        frames: Frames that were analysed.
        frames_with_face: Those of them with a tracked face.
        seconds: Total duration of the frames.
        tracks: Statistics of each track, by its id.
        group: Statistics of the faces of all reliable people together, frame by frame.
        reliable: Ids of tracks that are long enough to be no false detection, whatever follows.
        pending: Frames that show other tracks, as track ids and outputs of their faces. They enter `group` when their
            tracks become reliable, or at the end.
        people: The reliable people, the main person first; set by `finalize_people`.
        error: Why reading the frames stopped early, if it did.
    """

    frames: int = 0
    frames_with_face: int = 0
    seconds: float = 0.0
    tracks: dict[int, TrackStats] = field(default_factory=dict)
    group: FeaturePooler = field(default_factory=FeaturePooler)
    reliable: set[int] = field(default_factory=set)
    pending: list[tuple[list[int], FaceOutputs]] = field(default_factory=list)
    people: list[TrackStats] = field(default_factory=list)
    error: InputError | None = None

    def add(self, observation: FrameObservation, track_ids: Sequence[int | None]) -> None:
        """Count a frame, and pool those of its faces that belong to a track."""
        tracked = {i: track_id for i, track_id in enumerate(track_ids) if track_id is not None}
        for i, track_id in tracked.items():
            track = self.tracks.setdefault(track_id, TrackStats(track_id))
            track.pool.update_group(observation.outputs[[i]])
            track.seconds += observation.duration
            track.area += observation.area_fractions[i]
            track.weight += observation.area_fractions[i] * observation.duration
        self.frames += 1
        self.frames_with_face += bool(tracked)
        self.seconds += observation.duration
        self.pending.append((list(tracked.values()), observation.outputs[list(tracked)]))
        self._pool_reliable(tracked.values(), 1)

    def merge_tracks(self, groups: Iterable[Sequence[int]]) -> None:
        """Merge the tracks of each group into one, under its first id."""
        merged_into: dict[int, int] = {}
        for first, *others in groups:
            self.tracks[first] = TrackStats.combine(first, (self.tracks[first], *map(self.tracks.pop, others)))
            merged_into |= dict.fromkeys(others, first)
        self.pending = [
            ([merged_into.get(track_id, track_id) for track_id in track_ids], outputs)
            for track_ids, outputs in self.pending
        ]
        self._pool_reliable(list(self.tracks), len(self.pending))

    def _pool_reliable(self, track_ids: Iterable[int], newest: int) -> None:
        """Update `reliable`, and move frames with reliable tracks only from `pending` to `group`.

        Args:
            track_ids: Tracks that have changed.
            newest: How many frames at the end of `pending` to check if no track has become reliable; otherwise all are
                checked.
        """
        for track_id in track_ids:
            track = self.tracks[track_id]
            is_long = track.seconds >= ENOUGH_SECONDS or not self.seconds
            if track_id not in self.reliable and track.pool.count >= ENOUGH_FRAMES and is_long:
                self.reliable.add(track_id)
                newest = len(self.pending)
        to_check, self.pending = self.pending[-newest:], self.pending[:-newest]
        for frame_tracks, outputs in to_check:
            if self.reliable.issuperset(frame_tracks):
                self.group.update_group(outputs)
            else:
                self.pending.append((frame_tracks, outputs))

    def finalize_people(self, groups: Iterable[Sequence[int]]) -> None:
        """Set `people` and complete `group`.

        Args:
            groups: Track ids of each reliable person; ids that do not occur here are ignored.
        """
        groups = list(groups)
        reliable = {track_id for group in groups for track_id in group}
        for track_ids, outputs in self.pending:
            self.group.update_group(outputs[[i for i, track_id in enumerate(track_ids) if track_id in reliable]])
        self.pending.clear()
        present = ((group, [self.tracks[track] for track in group if track in self.tracks]) for group in groups)
        people = (TrackStats.combine(min(group), tracks, group) for group, tracks in present if tracks)
        self.people = sorted(people, key=lambda person: (-person.weight, -person.area))

    def pool(self, face: Literal["main", "all"]) -> FeaturePooler | None:
        """Return the statistics of the main person or of all together; None if there is nobody."""
        if not self.people:
            return None
        return self.group if face == "all" else self.people[0].pool

    def select_features(self, names: Container[str]) -> tuple[ClipFeatures, ...]:
        """Return the statistics of those names for each person."""
        people = [person.pool.features() for person in self.people]
        return tuple(
            ClipFeatures({name: vector for name, vector in person.statistics.items() if name in names}, person.count)
            for person in people
        )

    def errors_for(self, path: str) -> tuple[InputError | None, InputError | None]:
        """Return the error of the clip and the error that explains a missing prediction.

        They differ only if the clip shows no face at all, which is no error of the clip. Messages name the path.
        """
        problem = self.error
        if not self.frames:
            problem = problem or no_frames_error(path)
        if self.people or not self.frames:
            return problem, problem
        error = NoFaceError(
            f"{path} shows no face in {self.frames} frames;"
            " try more frames (--fps, --every-frame) or smaller faces (--min-face)"
        )
        if self.frames_with_face:
            error = NoFaceError(
                f"{path} shows a face in only {self.frames_with_face} of {self.frames} frames, which may be a false"
                " detection; try more frames (--fps, --every-frame) or a part of the clip (--start, --end)"
            )
            return problem or error, error
        error.__cause__ = problem
        return problem, error


def no_frames_error(path: str) -> NoFramesInRange:
    """Create the error for a clip without a frame in the requested range."""
    return NoFramesInRange(f"{path} has no frame in the requested time range; check --start and --end")


def aggregate_clip(
    observations: Iterable[FrameObservation],
    config: TrackerConfig,
    stride: int = 1,
    on_frame: Callable[[FrameObservation, Sequence[int | None]], None] | None = None,
) -> ClipObservations:
    """Track the faces of a clip and pool each person; memory grows with people, not with frames or cuts.

    Args:
        observations: One for each frame, in order of time. An `InputError` from it ends the clip and is kept as its
            problem.
        config: Thresholds for linking faces.
        stride: One of this many frames of the clip is observed; 0 makes everybody reliable.
        on_frame: Called with each frame and the track ids of its faces, which `TrackStats` of people name in the end.
    """
    tracker, clip = Tracker(config), ClipObservations()
    try:
        for observation in observations:
            track_ids = tracker.update(
                observation.time, observation.faces, observation.outputs.identity, observation.duration
            )
            clip.add(observation, track_ids)
            if on_frame:
                on_frame(observation, track_ids)
            if groups := tracker.compact_if_due():
                clip.merge_tracks(groups)
    except InputError as error:
        clip.error = error
    clip.finalize_people(tracker.with_merged(tracker.reliable_identities(stride)))
    return clip
