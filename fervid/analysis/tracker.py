"""Link faces into tracks, and tracks into people.

Within a shot, faces are linked by the overlap of their boxes. Two thresholds on the detector's score, as in ByteTrack
(Zhang et al., arXiv 2110.06864), let a confident face start a track and an unsure one only continue it. Across gaps and
cuts, tracks are grouped by identity embedding; two tracks that occur in the same frame are never grouped.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fervid.core.boxes import box_iou
from fervid.core.records import TIME_EPS_S, Box, Face, FloatArray

ENOUGH_FRAMES = 3  # in which a person must appear; false detections rarely recur
ENOUGH_SECONDS = 0.5  # for which a person must appear; a false detection often recurs in frames close in time
SHORT_CLIP_FACTOR = 10
"""In clips of fewer than `ENOUGH_FRAMES` times as many frames, a person must appear in one of this many frames."""
COMPACT_EVERY = 100  # new tracks after which the tracks of each person are merged


@dataclass(frozen=True, slots=True)
class TrackerConfig:
    """Thresholds for linking faces; the first three are in model cards.

    Attributes:
        new_track_threshold: Detector score from which a face starts a track.
        min_track_similarity: Lowest cosine similarity to a track's mean embedding at which a face can continue it; a
            lower one at the same place means a scene cut.
        min_person_similarity: Lowest cosine similarity of the mean embeddings of two tracks of one person.
        min_iou: Lowest intersection over union with a track's last box at which a face can continue it.
        max_gap_s: Seconds without a face after which a track has ended.
    """

    new_track_threshold: float
    min_track_similarity: float
    min_person_similarity: float
    min_iou: float = 0.3
    max_gap_s: float = 1.0


@dataclass(slots=True, eq=False)
class _Track:
    embedding_sum: NDArray[np.float64]
    box: Box = (0, 0, 0, 0)
    time: float = 0.0
    seconds: float = 0.0
    count: int = 0
    cooccurring: set[int] = field(default_factory=set)
    merged: list[int] = field(default_factory=list)  # ids of the tracks that were merged into this one


class Tracker:
    """Links the faces of successive frames.

    Memory is one embedding for each track. `compact` reduces it to one for each person, `prune` drops people.
    """

    def __init__(self, config: TrackerConfig) -> None:
        """Start without tracks."""
        self._config = config
        self._tracks: dict[int, _Track] = {}
        self._next_id = 0
        self._active: list[int] = []
        self._frames = self._frames_with_face = 0
        self._seconds = 0.0
        self._compact_at = COMPACT_EVERY

    def update(
        self, time: float, faces: Sequence[Face], embeddings: FloatArray, duration: float = 0.0
    ) -> list[int | None]:
        """Assign the faces of the next frame to tracks.

        Args:
            time: Presentation time of the frame in seconds.
            faces: n faces of the frame.
            embeddings: (n, d) identity vectors. With d = 0, for a face model without them, and a config that accepts
                every similarity, faces are linked by overlap alone.
            duration: Seconds of the clip that the frame stands for; 0 in all frames if unknown.

        Returns:
            n track ids, counted from 0; None for an unsure face that continues no track.
        """
        config, unit = self._config, _l2_normalize(embeddings)
        self._active = [track_id for track_id in self._active if time - self._tracks[track_id].time <= config.max_gap_s]
        assigned: list[int | None] = [None] * len(faces)
        if faces and self._active:
            active = [self._tracks[track_id] for track_id in self._active]
            iou = box_iou([face.box for face in faces], [track.box for track in active])
            similarity = unit @ _l2_normalize(np.stack([track.embedding_sum for track in active])).T
            allowed = (iou >= config.min_iou) & (similarity >= config.min_track_similarity)
            for row, column in _assign(np.where(allowed, iou + similarity, 0)):
                if allowed[row, column]:
                    assigned[row] = self._active[column]
        for i, face in enumerate(faces):
            if assigned[i] is None and face.score >= config.new_track_threshold:
                assigned[i] = self._next_id
                self._active.append(self._next_id)
                self._tracks[self._next_id] = _Track(np.zeros(embeddings.shape[1]))
                self._next_id += 1
            if (track_id := assigned[i]) is not None:
                track = self._tracks[track_id]
                track.box, track.time = face.box, time
                track.embedding_sum += unit[i]
                track.count += 1
                track.seconds += duration
        present = {track_id for track_id in assigned if track_id is not None}
        for track_id in present:
            self._tracks[track_id].cooccurring |= present - {track_id}
        self._frames += 1
        self._seconds += duration
        self._frames_with_face += bool(present)
        return assigned

    def prune(self, before: float) -> None:
        """Drop people who were last seen before that time; if one of them returns, it is a new person."""
        ended = {track_id for track_id, track in self._tracks.items() if track.time < before}
        groups = self.group_identities() if ended else ()
        dropped = {track_id for group in groups if ended.issuperset(group) for track_id in group}
        self._active = [track_id for track_id in self._active if track_id not in dropped]
        self._tracks = {track_id: track for track_id, track in self._tracks.items() if track_id not in dropped}
        for track in self._tracks.values():
            track.cooccurring -= dropped

    def group_identities(self) -> list[list[int]]:
        """Group the tracks of each person, by greedy clustering of their mean embeddings.

        From the longest track to the shortest, each joins the person with the most similar mean embedding, unless the
        similarity is too low or the two occur in the same frame; then it becomes a person of its own.

        Returns:
            Groups of track ids, the person with the longest track first.
        """
        groups: list[list[int]] = []
        sums: NDArray[np.float64] = np.zeros((0, 0))
        for track_id in sorted(self._tracks, key=lambda key: -self._tracks[key].count):
            track = self._tracks[track_id]
            if groups:
                similarity = _l2_normalize(sums) @ _l2_normalize(track.embedding_sum[None])[0]
                similarity[[not track.cooccurring.isdisjoint(group) for group in groups]] = -1
                best = int(similarity.argmax())
                if similarity[best] >= self._config.min_person_similarity:
                    groups[best].append(track_id)
                    sums[best] += track.embedding_sum
                    continue
            sums = np.concatenate([sums.reshape(len(groups), len(track.embedding_sum)), track.embedding_sum[None]])
            groups.append([track_id])
        return groups

    def reliable_identities(self, stride: int = 1) -> list[list[int]]:
        """Return those of `group_identities` that are seen too often to be false detections.

        A person must appear in `ENOUGH_FRAMES` frames and for `ENOUGH_SECONDS`, or, in a short clip, in one of
        `SHORT_CLIP_FACTOR` frames. If nobody does, because the pieces of a person are not recognised after cuts, all
        people are returned if one of `SHORT_CLIP_FACTOR` frames shows a face.

        Args:
            stride: One of this many frames of the clip was analysed. A coarse sampling does not make a clip short, but
                a person in half of the analysed frames is always reliable. 0 returns everybody.
        """
        groups = self.group_identities()
        min_count = min(ENOUGH_FRAMES, self._frames * stride / SHORT_CLIP_FACTOR, self._frames / 2)
        min_fraction_count = self._frames / SHORT_CLIP_FACTOR
        min_seconds = min(ENOUGH_SECONDS, self._seconds / SHORT_CLIP_FACTOR) - TIME_EPS_S
        reliable = []
        for group in groups:
            tracks = [self._tracks[track_id] for track_id in group]
            count, seconds = sum(track.count for track in tracks), sum(track.seconds for track in tracks)
            if count >= min_count and (seconds >= min_seconds or count >= min_fraction_count):
                reliable.append(group)
        shows_faces_often = self._frames_with_face >= max(min_count, min_fraction_count)
        return reliable or (groups if shows_faces_often else [])

    def compact(self) -> list[list[int]]:
        """Merge the ended tracks of each person, so that memory grows with people and not with cuts.

        Returns:
            Groups of track ids; each group goes on as one track under its smallest id.
        """
        ended = (sorted(set(group) - set(self._active)) for group in self.group_identities())
        groups = [group for group in ended if len(group) > 1]
        merged_into = {track_id: group[0] for group in groups for track_id in group}
        for first, *others in groups:
            track = self._tracks[first]
            for other_id in others:
                other = self._tracks.pop(other_id)
                track.merged += [other_id, *other.merged]
                track.embedding_sum += other.embedding_sum
                track.count += other.count
                track.seconds += other.seconds
                track.time = max(track.time, other.time)
                track.cooccurring |= other.cooccurring
        for track in self._tracks.values():
            track.cooccurring = {merged_into.get(track_id, track_id) for track_id in track.cooccurring}
        return groups

    def with_merged(self, groups: Iterable[Sequence[int]]) -> list[list[int]]:
        """Insert after each track id those that `compact` merged into it."""
        return [[member for key in group for member in (key, *self._tracks[key].merged)] for group in groups]

    def forget_merged(self, retained: Container[int | None]) -> None:
        """Forget the ids of all merged tracks but these."""
        for track in self._tracks.values():
            track.merged = [track_id for track_id in track.merged if track_id in retained]

    def compact_if_due(self) -> list[list[int]]:
        """Compact when the number of tracks has doubled, and grown by `COMPACT_EVERY`, since the last time."""
        if len(self._tracks) < self._compact_at:
            return []
        groups = self.compact()
        self._compact_at = 2 * len(self._tracks) + COMPACT_EVERY
        return groups


def _assign(gain: NDArray[np.float64]) -> Iterable[tuple[int, int]]:
    """Return the pairs of rows and columns with the largest sum of gains (n, m); pairs with a gain of 0 do not count.

    If every possible pair is the only one of its row or its column, the greedy choice is optimal and avoids the import
    of scipy, which takes as long as a clip.
    """
    pairs = np.argwhere(gain)
    in_row, in_column = (np.count_nonzero(gain, axis=axis) for axis in (1, 0))
    if ((in_row[pairs[:, 0]] == 1) | (in_column[pairs[:, 1]] == 1)).all():
        chosen: dict[int, int] = {}
        for row, column in sorted(pairs.tolist(), key=lambda pair: -gain[tuple(pair)]):
            if row not in chosen and column not in chosen.values():
                chosen[row] = column
        return chosen.items()
    from scipy.optimize import linear_sum_assignment

    return zip(*linear_sum_assignment(gain, maximize=True), strict=True)


def _l2_normalize(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), np.float64)
