"""Boxes and predictions between sampled frames, and the merging of tracks into people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from fervid.analysis.clip_timeline import ClipTimeline, build_clip_timeline
from fervid.analysis.tracker import TrackerConfig
from fervid.analysis.windows import WindowSpec, iter_windows
from fervid.core.errors import TruncatedVideo
from fervid.core.records import Box, Face, FaceOutputs, FrameObservation
from fervid.core.results import Person, Prediction

CONFIG = TrackerConfig(new_track_threshold=0.8, min_track_similarity=0.45, min_person_similarity=0.62)
STEP = 0.2
ANNA, BEN = 0, 1
SECOND = WindowSpec(1, 1)


def observe(time: float, *faces: tuple[int, Box], duration: float = STEP) -> FrameObservation:
    """Observe a frame of 100 x 100 pixels with these people in these boxes."""
    who = [person for person, _ in faces]
    zeros = np.zeros((len(faces), 1), np.float32)
    scores = FaceOutputs(zeros, zeros, zeros[:, 0], zeros[:, 0], zeros, np.eye(3, dtype=np.float32)[who].reshape(-1, 3))
    detections = [Face(box, np.zeros((2, 2), np.float32), 0.9) for _, box in faces]
    return FrameObservation(time, duration, detections, [face.area / 1e4 for face in detections], scores)


def timeline_of(
    observations: Iterable[FrameObservation],
    spec: WindowSpec = SECOND,
    probabilities: Sequence[float] = (0.75,),
    **attributes: object,
) -> ClipTimeline:
    """Build the timeline of windows that have these probabilities of the first of two labels, in turn."""

    def windows() -> Iterable[object]:
        for i, window in enumerate(iter_windows(observations, CONFIG, spec)):
            p = probabilities[i % len(probabilities)]
            yield (
                window,
                [
                    Person(person.number, person.seconds, Prediction({"a": p, "b": 1 - p}), **attributes)
                    for person in window.clip.people
                ],
            )

    return build_clip_timeline(windows(), ("a", "b"), CONFIG)


def still(count: int, box: Box = (10, 10, 30, 30), who: int = ANNA, start: int = 0) -> list[FrameObservation]:
    return [observe(STEP * i, (who, box)) for i in range(start, start + count)]


def test_clip_without_people() -> None:
    timeline = timeline_of([observe(0.0), observe(0.2)])
    assert (timeline.people, timeline.labels, timeline.error) == ((), ("a", "b"), None)
    assert (timeline.start, timeline.end) == (0, pytest.approx(0.4))
    assert timeline_of([]).people == ()


def test_boxes_are_interpolated_linearly() -> None:
    (anna,) = timeline_of([observe(STEP * i, (ANNA, (10 + 4 * i, 10, 30 + 4 * i, 30))) for i in range(10)]).people
    for time in np.arange(0.4, 1.4, 0.05):
        x = 10 + 4 * time / STEP
        assert anna.box_at(time) == pytest.approx((x, 10, x + 20, 30), abs=0.2)


def test_jitter_is_smoothed_in_size_more_than_in_position() -> None:
    rng = np.random.default_rng(0)
    boxes = 30 + np.array([-10, -10, 10, 10]) + rng.normal(0, 1, (40, 4))
    (anna,) = timeline_of([observe(STEP * i, (ANNA, tuple(box))) for i, box in enumerate(boxes)]).people
    drawn = np.array([anna.box_at(STEP * i) for i in range(40)])
    jump, before = (np.abs(np.diff(each[:, 2] - each[:, 0])).mean() for each in (drawn, boxes))
    assert jump < before / 3
    assert np.abs(np.diff(drawn[:, 0])).mean() < np.abs(np.diff(boxes[:, 0])).mean()
    assert np.abs(drawn - boxes).max() < 4


def test_short_gap_is_bridged() -> None:
    frames = still(20)
    frames[7] = observe(STEP * 7)
    frames[8] = observe(STEP * 8)
    (anna,) = timeline_of(frames).people
    assert all(anna.box_at(time) is not None for time in np.arange(0, 4, 0.04))
    assert anna.visible_at(np.arange(0, 4, 0.04)).all()


def test_long_gap_splits_halfway_between_frames() -> None:
    frames = [*still(5), *(observe(STEP * i) for i in range(5, 15)), *still(5, start=15)]
    (anna,) = timeline_of(frames).people
    assert anna.starts == pytest.approx([-0.1, 2.9])
    assert anna.ends == pytest.approx([0.9, 4.0]), "halfway to the next frame, and to the end of the clip"
    assert [anna.box_at(time) is not None for time in (0, 0.85, 0.95, 2, 2.85, 2.95, 3.99, 4.0)] == [
        *(True, True, False, False, False, True, True, False)
    ]
    assert anna.visible_at(np.array([-1, 0, 0.85, 0.95, 3.99, 4.0])).tolist() == [False, True, True, False, True, False]
    assert anna.seconds == pytest.approx(2)


def test_box_jumps_at_scene_cut() -> None:
    frames = [*still(5), *still(5, (60, 60, 90, 90), start=5)]
    (anna,) = timeline_of(frames).people
    assert len(anna.segments) == 2
    assert anna.box_at(0.89) == pytest.approx((10, 10, 30, 30))
    assert anna.box_at(0.91) == pytest.approx((60, 60, 90, 90))


def test_fast_face_is_one_segment() -> None:
    frames = [observe(STEP * i, (ANNA, (10 + 12 * i, 10, 40 + 12 * i, 40))) for i in range(4)]
    frames[2] = observe(STEP * 2)
    (anna,) = timeline_of([*frames, *still(5, (58, 10, 88, 40), start=4)]).people
    assert len(anna.segments) == 1


def test_person_seen_briefly_is_left_out() -> None:
    frames = still(10)
    frames[4] = observe(STEP * 4, (ANNA, (10, 10, 30, 30)), (BEN, (60, 60, 90, 90)))
    assert [person.seconds for person in timeline_of(frames).people] == pytest.approx([2])
    frames[5] = observe(STEP * 5, (ANNA, (10, 10, 30, 30)), (BEN, (60, 60, 90, 90)))
    assert len(timeline_of(frames).people) == 2
    (alone,) = timeline_of([observe(0.0, (ANNA, (10, 10, 30, 30)), duration=0.04)]).people
    assert alone.box_at(0.03) == pytest.approx((10, 10, 30, 30)), "a clip that is no longer"


def test_person_without_prediction_is_left_out() -> None:
    frames = [
        *still(40),
        observe(8.0, (ANNA, (10, 10, 30, 30)), (BEN, (50, 50, 90, 90)), duration=2),
        *still(5, start=50),
    ]
    assert [person.seconds for person in timeline_of(frames).people] == pytest.approx([11.0])


def test_main_person_fills_most_of_frame_over_time() -> None:
    small, large = (0, 0, 20, 20), (40, 40, 90, 90)
    timeline = timeline_of([observe(STEP * i, (BEN, small), *([(ANNA, large)] if i > 3 else [])) for i in range(10)])
    assert [person.id for person in timeline.people] == [0, 1]
    assert [person.seconds for person in timeline.people] == pytest.approx([1.2, 2])
    assert timeline.people[0].box_at(1.5) == pytest.approx(large)


def test_probabilities_are_interpolated_between_window_centers() -> None:
    (anna,) = timeline_of(still(10), probabilities=(0.2, 0.8)).people
    assert anna.times == pytest.approx([0.5, 1.5])
    interpolated = anna.probabilities_at(np.array([0.0, 0.5, 0.75, 1.0, 1.5, 2.0]))
    assert interpolated[:, 0] == pytest.approx([0.2, 0.2, 0.35, 0.5, 0.8, 0.8])
    assert interpolated.sum(axis=1) == pytest.approx(np.ones(6))


def test_tracks_merged_late_are_one_person_throughout() -> None:
    """The tracks are merged in the third window; their earlier predictions are averaged by window."""
    drift = np.eye(3, dtype=np.float32)[[0]] + np.float32([[0, 1.0, 0]])

    def with_identity(time: float, box: Box, identity: np.ndarray) -> FrameObservation:
        frame = observe(time, (ANNA, box))
        columns = (
            frame.outputs.embedding,
            frame.outputs.expression,
            frame.outputs.age,
            frame.outputs.gender,
            frame.outputs.ethnicity,
        )
        return FrameObservation(
            frame.time, frame.duration, frame.faces, frame.area_fractions, FaceOutputs(*columns, identity)
        )

    anna, ben = np.float32([[1, 0, 0]]), np.float32([[0, 1, 0]])
    frames = [with_identity(STEP * i, (10, 10, 30, 30), anna if i < 4 else ben if i < 6 else drift) for i in range(30)]
    timeline = timeline_of(frames)
    assert sum(person.seconds for person in timeline.people) == pytest.approx(6)
    for person in timeline.people:
        assert len(person.times) == len(set(person.times)) == len(person.probabilities)


def test_attribute_text() -> None:
    (anna,) = timeline_of(still(10), age=31.4, gender="female", ethnicity="white").people
    assert anna.attribute_text == "about 31, female, white"
    assert timeline_of(still(10)).people[0].attribute_text == ""


def test_truncated_clip_has_a_timeline_and_a_problem() -> None:
    def broken() -> Iterable[FrameObservation]:
        yield from still(7)
        raise TruncatedVideo("clip.mp4 breaks off")

    timeline = timeline_of(broken())
    assert (timeline.error.code, timeline.error.message) == ("truncated", "clip.mp4 breaks off")
    assert timeline.end == pytest.approx(1.4)
    with pytest.raises(TruncatedVideo):
        timeline_of(frame for frame in broken() if frame.time > 99)


def test_long_frames_keep_their_boxes() -> None:
    frames = [observe(2.0 * i, (ANNA, (10, 10, 30, 30)), duration=2.0) for i in range(4)]
    (anna,) = timeline_of(frames, WindowSpec(4, 4)).people
    assert all(anna.box_at(time) is not None for time in np.arange(0, 7.9, 0.1))
