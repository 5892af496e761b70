"""Observations of made-up frames, for tests of aggregation and windows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pytest

from fervid.analysis.aggregate import ClipObservations
from fervid.analysis.tracker import TrackerConfig
from fervid.core.errors import TruncatedVideo
from fervid.core.records import Face, FaceOutputs, FrameObservation

CONFIG = TrackerConfig(new_track_threshold=0.8, min_track_similarity=0.45, min_person_similarity=0.62)
ANNA, BEN = 0, 1
SIDES = {ANNA: 40, BEN: 30}
BROKEN = TruncatedVideo("clip.mp4 breaks off")


def face_outputs(time: float, people: Sequence[int]) -> FaceOutputs:
    """Return outputs with the time as age, the person as gender, and an identity vector for each person."""
    rows = len(people)
    who, when = np.array(people, np.float32), np.full(rows, time, np.float32)
    identity = np.eye(4, dtype=np.float32)[list(people)].reshape(rows, 4)
    return FaceOutputs(np.stack([when, who], 1), np.stack([who, 1 - who], 1), when, who, identity[:, :2], identity)


def observe(time: float, *people: int, duration: float = 0.2, score: float = 0.9, x: float = 0) -> FrameObservation:
    """Return the observation of a 100 x 100 frame with these people side by side."""
    faces = [
        Face((x + 50 * i, 0, x + 50 * i + SIDES[who], SIDES[who]), np.zeros((2, 2), np.float32), score)
        for i, who in enumerate(people)
    ]
    return FrameObservation(time, duration, faces, [face.area / 1e4 for face in faces], face_outputs(time, people))


def observe_all(times: Iterable[float], *people: int, duration: float = 0.2) -> list[FrameObservation]:
    return [observe(time, *people, duration=duration) for time in times]


def broken(frames: Iterable[FrameObservation], error: Exception = BROKEN) -> Iterator[FrameObservation]:
    yield from frames
    raise error


def assert_same(a: ClipObservations, b: ClipObservations) -> None:
    """Assert equal counts and statistics."""
    assert (a.frames, a.frames_with_face, a.error) == (b.frames, b.frames_with_face, b.error)
    assert a.seconds == pytest.approx(b.seconds)
    assert len(a.people) == len(b.people)
    for pools in [(a.group, b.group), *((p.pool, q.pool) for p, q in zip(a.people, b.people, strict=True))]:
        actual, expected = (pool.features() if pool.count else None for pool in pools)
        assert (actual and actual.count) == (expected and expected.count)
        for name, value in (expected.statistics if expected else {}).items():
            assert actual.statistics[name] == pytest.approx(value, rel=1e-6), name
