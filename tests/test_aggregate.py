"""Aggregation of frames into people and their statistics, for whole clips."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from fervid.analysis.aggregate import ClipObservations, TrackStats, aggregate_clip
from fervid.analysis.tracker import COMPACT_EVERY, TrackerConfig
from fervid.core.errors import InputError, NoFaceError, NoFramesInRange, TruncatedVideo
from fervid.core.records import FrameObservation
from observations import ANNA, BEN, BROKEN, CONFIG, assert_same, broken, face_outputs, observe, observe_all


@pytest.mark.parametrize("count", [0, 1, 7])
def test_face_is_pooled_over_its_frames(count: int) -> None:
    seen = aggregate_clip(observe_all(np.arange(count) / 5, ANNA), CONFIG)
    assert (seen.frames, seen.frames_with_face, seen.error) == (count, count, None)
    assert seen.seconds == pytest.approx(0.2 * count)
    assert [person.pool.count for person in seen.people] == [count][:count]
    if count:
        found = seen.people[0].pool.features().statistics
        for name in ("embedding", "expression", "age", "identity"):
            rows = np.array([getattr(face_outputs(i / 5, [ANNA]), name)[0] for i in range(count)])
            for kind in ("mean", "std", "min", "max"):
                assert found[f"{name}.{kind}"] == pytest.approx(getattr(rows, kind)(axis=0), rel=1e-6), name


def test_people_are_pooled_alone_and_the_group_by_frame() -> None:
    seen = aggregate_clip([observe(0, ANNA, BEN), observe(0.2, ANNA), observe(0.4), observe(0.6, ANNA, BEN)], CONFIG)
    assert (seen.frames, seen.frames_with_face) == (4, 3)
    anna, ben = seen.people
    assert (anna.pool.count, ben.pool.count, seen.group.count) == (3, 2, 3)
    assert anna.pool.features().statistics["gender.max"] == ANNA
    assert ben.pool.features().statistics["gender.min"] == BEN
    group = seen.group.features().statistics
    assert group["gender.mean"] == pytest.approx([(0.5 + 0 + 0.5) / 3])
    assert group["gender.across_faces.mean"] == pytest.approx([(0.5 + 0 + 0.5) / 3])


def test_unsure_face_without_track_is_not_counted() -> None:
    seen = aggregate_clip([observe(0, ANNA, score=0.5), observe(0.2, ANNA), observe(0.4, ANNA, score=0.5)], CONFIG)
    assert (seen.frames, seen.frames_with_face) == (3, 2)
    assert seen.group.count == seen.people[0].pool.count == 2
    assert seen.people[0].seconds == pytest.approx(0.4)


def test_main_person_fills_most_area_over_time() -> None:
    briefly, long = observe_all([0, 0.2], ANNA), observe_all([5, 5.2, 5.4, 5.6], BEN)
    seen = aggregate_clip(briefly + long, CONFIG)
    assert [person.pool.features().statistics["gender.mean"][0] for person in seen.people] == [BEN, ANNA]
    assert [person.seconds for person in seen.people] == pytest.approx([0.8, 0.4])
    assert [person.weight for person in seen.people] == pytest.approx([0.8 * 0.09, 0.4 * 0.16])


def test_main_person_is_larger_without_durations() -> None:
    seen = aggregate_clip([observe(0, BEN, ANNA, duration=0)], CONFIG)
    assert [person.pool.features().statistics["gender.mean"][0] for person in seen.people] == [ANNA, BEN]


def test_tracks_of_one_person_are_combined() -> None:
    seen = aggregate_clip(observe_all([0, 0.2], ANNA) + observe_all([9, 9.2], BEN) + observe_all([20], ANNA), CONFIG)
    assert [(person.number, person.pool.count) for person in seen.people] == [(0, 3), (1, 2)]
    assert sorted(seen.tracks) == [0, 1, 2]
    assert [sorted(person.track_ids) for person in seen.people] == [[0, 2], [1]]


def test_people_name_the_tracks_that_were_merged_on_the_way() -> None:
    visits = [observe(2.0 * i, ANNA) for i in range(2 * COMPACT_EVERY)]
    tracks: list[int | None] = []
    seen = aggregate_clip(visits, CONFIG, on_frame=lambda _, ids: tracks.extend(ids))
    (anna,) = seen.people
    assert len(seen.tracks) < len(tracks) == len(set(tracks)) == 2 * COMPACT_EVERY
    assert set(anna.track_ids) == set(tracks)


def test_combine_adds_up_and_leaves_its_parts_unchanged() -> None:
    parts = [TrackStats(4, seconds=1, area=2, weight=3), TrackStats(2, seconds=10, area=20, weight=30)]
    for part in parts:
        part.pool.update_group(face_outputs(part.number, [ANNA]))
    whole = TrackStats.combine(1, iter(parts))
    assert (whole.number, whole.seconds, whole.area, whole.weight, whole.pool.count) == (1, 11, 22, 33, 2)
    assert [part.pool.count for part in parts] == [1, 1]


def test_people_get_smallest_id_of_all_their_tracks() -> None:
    seen = ClipObservations()
    seen.add(observe(0, ANNA), [7])
    seen.add(observe(0.2, BEN), [5])
    seen.finalize_people([[9, 7, 2], [1, 3], [5]])
    assert [(person.number, person.pool.count) for person in seen.people] == [(2, 1), (5, 1)]


def test_pool_returns_main_person_or_group() -> None:
    seen = aggregate_clip([observe(0, ANNA, BEN)], CONFIG)
    assert seen.pool("main") is seen.people[0].pool
    assert seen.pool("all") is seen.group
    nobody = aggregate_clip([observe(0)], CONFIG)
    assert nobody.pool("main") is nobody.pool("all") is None


@pytest.mark.parametrize(
    ("frames", "problem", "wrong", "unanswered", "cause"),
    [
        ([], None, NoFramesInRange, NoFramesInRange, type(None)),
        ([], BROKEN, TruncatedVideo, TruncatedVideo, type(None)),
        ([observe(0)], None, type(None), NoFaceError, type(None)),
        ([observe(0)], BROKEN, TruncatedVideo, NoFaceError, TruncatedVideo),
        ([observe(0, ANNA)], None, type(None), type(None), None),
        ([observe(0, ANNA)], BROKEN, TruncatedVideo, TruncatedVideo, type(None)),
    ],
    ids=["nothing", "nothing, broken", "nobody", "nobody, broken", "somebody", "somebody, broken"],
)
def test_errors_of_clip_and_of_its_prediction(
    frames: list[FrameObservation], problem: InputError | None, wrong: type, unanswered: type, cause: type | None
) -> None:
    seen = aggregate_clip(frames, CONFIG)
    seen.error = problem
    found, error = seen.errors_for("clip.mp4")
    assert (type(found), type(error)) == (wrong, unanswered)
    if error is not None:
        assert "clip.mp4" in error.message
        assert type(error.__cause__) is cause


def test_errors_name_options_to_try() -> None:
    assert (
        aggregate_clip([observe(0), observe(1)], CONFIG)
        .errors_for("a.mp4")[1]
        .message.startswith("a.mp4 shows no face in 2 frames; try")
    )
    assert "--start" in aggregate_clip([], CONFIG).errors_for("a.mp4")[1].message


def test_truncated_clip_keeps_its_first_frames() -> None:
    seen = aggregate_clip(broken(observe_all([0, 0.2], ANNA)), CONFIG)
    assert (seen.frames, len(seen.people), seen.error) == (2, 1, BROKEN)
    with pytest.raises(ZeroDivisionError):
        aggregate_clip(broken([observe(0, ANNA)], ZeroDivisionError()), CONFIG)


@pytest.mark.parametrize("cuts", [99, 101])
def test_memory_does_not_grow_with_cuts(cuts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def frames() -> Iterator[FrameObservation]:
        return (observe(10.0 * i + j / 5, (ANNA, BEN)[i % 2]) for i in range(cuts) for j in range(2))

    most = []
    plain = ClipObservations.add

    def counted(seen: ClipObservations, *what: object) -> None:
        plain(seen, *what)
        most.append(len(seen.tracks))

    monkeypatch.setattr(ClipObservations, "add", counted)
    seen = aggregate_clip(frames(), CONFIG)
    assert max(most) <= 110
    monkeypatch.setattr("fervid.analysis.tracker.COMPACT_EVERY", 10**9)
    assert_same(seen, aggregate_clip(frames(), CONFIG))
    assert [person.number for person in seen.people] == [0, 1]


# Reliable people


@pytest.mark.parametrize(
    ("frames", "with_face", "reliable"),
    [
        (1, 1, True),
        (2, 1, True),
        (3, 1, True),
        (10, 1, True),
        (11, 1, False),
        (20, 2, True),
        (21, 2, False),
        (30, 3, True),
        (428, 1, False),
        (428, 2, False),
        (428, 3, True),
    ],
)
def test_person_must_appear_in_fraction_of_short_clip(frames: int, with_face: int, reliable: bool) -> None:
    seen = aggregate_clip([observe(i / 5, *((ANNA,) if i < with_face else ())) for i in range(frames)], CONFIG)
    assert (len(seen.people), seen.frames, seen.frames_with_face) == (reliable, frames, with_face)
    assert (seen.pool("main") is None) == (seen.pool("all") is None) == (not reliable)
    problem, error = seen.errors_for("clip.mp4")
    assert (problem is error is None) == reliable
    if not reliable:
        assert isinstance(problem, NoFaceError)
        assert problem is error
        assert f"shows a face in only {with_face} of {frames} frames" in problem.message


@pytest.mark.parametrize(("with_face", "reliable"), [(14, False), (15, True)])
def test_person_must_appear_for_half_second(with_face: int, reliable: bool) -> None:
    frames = [observe(i / 30, *((ANNA,) if i < with_face else ()), duration=1 / 30) for i in range(900)]
    assert bool(aggregate_clip(frames, CONFIG).people) == reliable


def test_frames_without_duration_are_only_counted() -> None:
    frames = [observe(0, *((ANNA,) if i < 3 else ()), duration=0) for i in range(428)]
    seen = aggregate_clip(frames, CONFIG)
    assert (len(seen.people), seen.group.count) == (1, 3)


@pytest.mark.parametrize("many", [1, 100], ids=["joined", "apart"])
def test_unreliable_people_are_not_in_group(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fervid.analysis.tracker.COMPACT_EVERY", many)
    frames = [observe(i / 5, ANNA, *((BEN,) if i in (1, 200) else ())) for i in range(428)]
    alone = aggregate_clip([observe(i / 5, ANNA) for i in range(428)], CONFIG)
    found, true = (seen.pool("all").features() for seen in (aggregate_clip(frames, CONFIG), alone))
    assert found.count == true.count
    for name, value in true.statistics.items():
        assert found.statistics[name] == pytest.approx(value, rel=1e-6), name


def test_people_who_become_reliable_late_are_in_all_of_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fervid.analysis.tracker.COMPACT_EVERY", 1)
    seen = aggregate_clip(
        [observe(5.0 * i, ANNA, *((BEN,) if i in (1, 50, 90) else ()), duration=5) for i in range(100)], CONFIG
    )
    assert (len(seen.people), seen.group.count) == (2, 100)
    assert seen.group.features().statistics["gender.mean"] == pytest.approx([3 * 0.5 / 100])
    assert seen.pending == []


def test_few_frames_are_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    most, plain = [], ClipObservations.add

    def counted(seen: ClipObservations, *what: object) -> None:
        plain(seen, *what)
        most.append(len(seen.pending))

    monkeypatch.setattr(ClipObservations, "add", counted)
    aggregate_clip((observe(i / 5, ANNA, *((BEN,) if i % 50 == 0 else ())) for i in range(300)), CONFIG)
    assert max(most) <= 3 + 20


def test_clip_without_faces_has_no_error_of_its_own() -> None:
    problem, error = aggregate_clip([observe(i / 5) for i in range(428)], CONFIG).errors_for("clip.mp4")
    assert (problem, type(error)) == (None, NoFaceError)


def test_unreliable_person_is_never_main_person() -> None:
    frames = [observe(i / 5, BEN if 10 <= i < 15 else ANNA, duration=5 if i == 99 else 0.2) for i in range(15)]
    flash = [observe(i / 5, *((ANNA,) if i == 50 else ()), duration=90 if i == 50 else 0.2) for i in range(20, 100)]
    reliable = aggregate_clip(frames[10:] + flash, CONFIG)
    assert [person.pool.features().statistics["gender.mean"][0] for person in reliable.people] == [BEN]
    assert len(aggregate_clip(frames, CONFIG).people) == 2


def test_tracks_of_person_count_together() -> None:
    frames = [observe(3.0 * i, *((ANNA,) if i in (20, 50, 90) else ()), duration=3) for i in range(100)]
    assert [person.pool.count for person in aggregate_clip(frames, CONFIG).people] == [3]


@pytest.mark.parametrize(("every", "people"), [(10, 10), (12, 0)])
def test_without_identities_everybody_is_reliable_if_faces_are_frequent(every: int, people: int) -> None:
    unknown = TrackerConfig(new_track_threshold=0.8, min_track_similarity=-1.0, min_person_similarity=2.0)
    frames = [observe(2.0 * i, *(() if i % every else (ANNA,)), duration=2) for i in range(100)]
    assert len(aggregate_clip(frames, unknown).people) == people


@pytest.mark.parametrize(
    ("frames", "with_face", "stride", "reliable"),
    [(5, 1, 1, True), (5, 1, 8, False), (5, 3, 8, True), (1, 1, 40, True), (2, 1, 8, True), (54, 1, 8, False)],
)
def test_coarse_sampling_does_not_make_clip_short(frames: int, with_face: int, stride: int, reliable: bool) -> None:
    looks = [observe(i * stride / 5, *((ANNA,) if i < with_face else ()), duration=stride / 5) for i in range(frames)]
    assert bool(aggregate_clip(looks, CONFIG, stride).people) == reliable
