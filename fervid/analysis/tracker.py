"""Faces over time -> people.

Within a shot a face is followed by overlap; two thresholds on the detector's score (as in ByteTrack, Zhang et al.,
arXiv 2110.06864) let a sure face open a track and a doubtful one only continue it. Across gaps and cuts the pieces
are put together by identity embedding, never two that were seen in the same frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fervid.core.records import Box, Face, FloatArray

ENOUGH_FRAMES = 3
"""Frames in which a person has to be seen. A mistake of the detector is seldom made again."""
ENOUGH_SECONDS = 0.5
"""For which a person has to be seen. Frames that follow each other closely repeat a mistake of the detector."""
SHORT_CLIP_FACTOR = 10
"""In fewer frames than that times `ENOUGH_FRAMES`, a person has to be seen in one of so many."""
_JITTER = 1e-6  # seconds; sums of times are not exact


@dataclass(frozen=True, slots=True)
class TrackerConfig:
    """When two faces are the same person.

    Attributes:
        open_score: Detector score from which a face opens a track; the detector's card knows it.
        same_face: Least cosine similarity to the track's mean embedding for overlap to count; lower means a cut. This
            and the next are in the card of the network.
        same_person: Least cosine similarity of mean embeddings for two tracks to be one person.
        overlap: Least intersection over union with the last box of a track.
        gap: Seconds after which overlap means nothing.
    """

    open_score: float
    same_face: float
    same_person: float
    overlap: float = 0.3
    gap: float = 1.0


class _Track:
    __slots__ = ("beside", "box", "count", "seconds", "time", "total")

    def __init__(self, width: int) -> None:
        self.box: Box = (0, 0, 0, 0)
        self.time = self.seconds = 0.0
        self.total: NDArray[np.float64] = np.zeros(width)
        self.count = 0
        self.beside: set[int] = set()


class Tracker:
    """Links the faces of successive frames. Its memory is one embedding a track; `join` makes it one a person."""

    def __init__(self, rule: TrackerConfig) -> None:
        """Start without tracks."""
        self._rule = rule
        self._tracks: dict[int, _Track] = {}
        self._begun = 0
        self._live: list[int] = []
        self._frames = self._frames_with_face = 0
        self._seconds = 0.0

    def __len__(self) -> int:
        """How many tracks are kept apart."""
        return len(self._tracks)

    def update(
        self, time: float, faces: Sequence[Face], embeddings: FloatArray, duration: float = 0.0
    ) -> list[int | None]:
        """Assign the faces of the next frame.

        Args:
            time: Its presentation time in seconds.
            faces: n faces of the frame.
            embeddings: (n, d) identity vectors of the network; d is 0 if it knows none, and faces then are followed by
                overlap alone.
            duration: Seconds of the clip that the frame stands for; 0 in all frames if that is not known.

        Returns:
            n track numbers, counted from 0; None for a doubtful face that continues no track.
        """
        rule, unit = self._rule, _l2_normalize(embeddings)
        self._live = [t for t in self._live if time - self._tracks[t].time <= rule.gap]
        assigned: list[int | None] = [None] * len(faces)
        if faces and self._live:
            overlap = box_iou([face.box for face in faces], [self._tracks[t].box for t in self._live])
            alike = unit @ _l2_normalize(np.stack([self._tracks[t].total for t in self._live])).T
            possible = (overlap >= rule.overlap) & (alike >= rule.same_face)
            for row, column in _assign(np.where(possible, overlap + alike, 0)):
                if possible[row, column]:
                    assigned[row] = self._live[column]
        for i, face in enumerate(faces):
            if assigned[i] is None and face.score >= rule.open_score:
                assigned[i] = self._begun
                self._live.append(self._begun)
                self._tracks[self._begun] = _Track(embeddings.shape[1])
                self._begun += 1
            if (number := assigned[i]) is not None:
                track = self._tracks[number]
                track.box, track.time = face.box, time
                track.total += unit[i]
                track.count += 1
                track.seconds += duration
        present = {number for number in assigned if number is not None}
        for number in present:
            self._tracks[number].beside |= present - {number}
        self._frames += 1
        self._seconds += duration
        self._frames_with_face += bool(present)
        return assigned

    def forget(self, before: float) -> None:
        """Let go of people who were last seen before that time; who of them comes back is somebody else."""
        over = {number for number, track in self._tracks.items() if track.time < before}
        gone = {number for group in (self.people() if over else ()) if over.issuperset(group) for number in group}
        self._live = [number for number in self._live if number not in gone]
        self._tracks = {number: track for number, track in self._tracks.items() if number not in gone}
        for track in self._tracks.values():
            track.beside -= gone

    def people(self) -> list[list[int]]:
        """Tracks of the same person, put together.

        From the longest to the shortest, a track joins the person whose mean embedding is most like its own, unless
        none is alike enough or the two were seen side by side; then it is a person of its own.

        Returns:
            Groups of track numbers, the person with the longest track first.
        """
        groups: list[list[int]] = []
        totals: NDArray[np.float64] = np.zeros((0, 0))
        for number in sorted(self._tracks, key=lambda t: -self._tracks[t].count):
            track = self._tracks[number]
            if groups:
                alike = _l2_normalize(totals) @ _l2_normalize(track.total[None])[0]
                alike[[not track.beside.isdisjoint(group) for group in groups]] = -1
                best = int(alike.argmax())
                if alike[best] >= self._rule.same_person:
                    groups[best].append(number)
                    totals[best] += track.total
                    continue
            totals = np.concatenate([totals.reshape(len(groups), len(track.total)), track.total[None]])
            groups.append([number])
        return groups

    def believed(self, stride: int = 1) -> list[list[int]]:
        """Those of `people` who were seen often enough to be no mistake of the detector.

        Somebody is who was seen in `ENOUGH_FRAMES` and for `ENOUGH_SECONDS`, or in one of `SHORT_CLIP_FACTOR` frames
        of a clip of fewer. If nobody was, because nobody is known again after a cut, everybody is believed if one of
        `SHORT_CLIP_FACTOR` frames shows a face.

        Args:
            stride: Of how many frames of the clip one was looked at. A coarse look does not make a clip short, but half
                of what it shows will do. With 0, everybody is believed.
        """
        people = self.people()
        least = min(ENOUGH_FRAMES, self._frames * stride / SHORT_CLIP_FACTOR, self._frames / 2)
        part = self._frames / SHORT_CLIP_FACTOR
        long = min(ENOUGH_SECONDS, self._seconds / SHORT_CLIP_FACTOR) - _JITTER
        sure = []
        for group in people:
            tracks = [self._tracks[number] for number in group]
            count, seconds = sum(track.count for track in tracks), sum(track.seconds for track in tracks)
            if count >= least and (seconds >= long or count >= part):
                sure.append(group)
        often = self._frames_with_face >= max(least, part)
        return sure or (people if often else [])

    def join(self) -> list[list[int]]:
        """Put tracks of the same person that are over together for good: memory then grows with people, not with cuts.

        Returns:
            Groups of track numbers; each goes on as one track under the smallest of them.
        """
        over = (sorted(set(group) - set(self._live)) for group in self.people())
        groups = [group for group in over if len(group) > 1]
        kept = {number: group[0] for group in groups for number in group}
        for first, *others in groups:
            track = self._tracks[first]
            for other in map(self._tracks.pop, others):
                track.total += other.total
                track.count += other.count
                track.seconds += other.seconds
                track.time = max(track.time, other.time)
                track.beside |= other.beside
        for track in self._tracks.values():
            track.beside = {kept.get(number, number) for number in track.beside}
        return groups


def _assign(gain: NDArray[np.float64]) -> Iterable[tuple[int, int]]:
    """The pairs of rows and columns whose gains (n, m) have the largest sum; a gain of 0 is no pair."""
    pairs = np.argwhere(gain)
    in_row, in_column = (np.count_nonzero(gain, axis=axis) for axis in (1, 0))
    if ((in_row[pairs[:, 0]] == 1) | (in_column[pairs[:, 1]] == 1)).all():  # who competes does so for one place alone
        found: dict[int, int] = {}
        for row, column in sorted(pairs.tolist(), key=lambda pair: -gain[tuple(pair)]):
            if row not in found and column not in found.values():
                found[row] = column
        return found.items()
    from scipy.optimize import linear_sum_assignment  # takes as long to import as a clip to answer

    return zip(*linear_sum_assignment(gain, maximize=True), strict=True)


def box_iou(a: Sequence[Box], b: Sequence[Box]) -> FloatArray:
    """Intersection over union of every box of `a` with every box of `b`: (len(a), len(b))."""
    first, second = np.array(a, np.float32).reshape(-1, 1, 4), np.array(b, np.float32).reshape(1, -1, 4)
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    shared = np.prod(np.clip(sides, 0, None), axis=-1)
    areas = [np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1) for boxes in (first, second)]
    return np.asarray(shared / (areas[0] + areas[1] - shared), np.float32)


def _l2_normalize(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), np.float64)
