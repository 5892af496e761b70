"""People and their statistics, of a whole clip and of windows that are exactly what lies in them."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

import numpy as np
import pytest

import fervid.analysis.aggregate as gather_module
from fervid.analysis.aggregate import (
    ClipObservations,
    TrackStats,
    WindowObservations,
    WindowSpec,
    aggregate_clip,
    iter_windows,
)
from fervid.analysis.pooling import FeaturePooler
from fervid.analysis.tracker import TrackerConfig
from fervid.core.errors import InputError, NoFaceError, NoFramesInRange, TruncatedVideo
from fervid.core.records import Face, FaceOutputs, FrameObservation

RULE = TrackerConfig(open_score=0.8, same_face=0.45, same_person=0.62)
ANNA, BEN = 0, 1
SIDES = {ANNA: 40, BEN: 30}
GONE = TruncatedVideo("clip.mp4 breaks off")


def scores(time: float, people: Sequence[int]) -> FaceOutputs:
    """Rows in which the age says when it was, the gender who, and whose identity is a direction of its own."""
    rows = len(people)
    who, when = np.array(people, np.float32), np.full(rows, time, np.float32)
    identity = np.eye(4, dtype=np.float32)[list(people)].reshape(rows, 4)
    return FaceOutputs(np.stack([when, who], 1), np.stack([who, 1 - who], 1), when, who, identity[:, :2], identity)


def see(time: float, *people: int, duration: float = 0.2, score: float = 0.9, x: float = 0) -> FrameObservation:
    """A frame of 100 x 100 with those people side by side."""
    faces = [
        Face((x + 50 * i, 0, x + 50 * i + SIDES[who], SIDES[who]), np.zeros((2, 2), np.float32), score)
        for i, who in enumerate(people)
    ]
    return FrameObservation(time, duration, faces, [face.area / 1e4 for face in faces], scores(time, people))


def at(times: Iterable[float], *people: int, duration: float = 0.2) -> list[FrameObservation]:
    return [see(time, *people, duration=duration) for time in times]


def broken(frames: Iterable[FrameObservation], error: Exception = GONE) -> Iterator[FrameObservation]:
    yield from frames
    raise error


def same(a: ClipObservations, b: ClipObservations) -> None:
    """The same in every count and every statistic."""
    assert (a.frames, a.frames_with_face, a.problem) == (b.frames, b.frames_with_face, b.problem)
    assert a.seconds == pytest.approx(b.seconds)
    assert len(a.people) == len(b.people)
    for pools in [(a.group, b.group), *((p.pool, q.pool) for p, q in zip(a.people, b.people, strict=True))]:
        found, true = (pool.features() if pool.count else None for pool in pools)
        assert (found and found.count) == (true and true.count)
        for name, value in (true.statistics if true else {}).items():
            assert found.statistics[name] == pytest.approx(value, rel=1e-6), name


@pytest.mark.parametrize("count", [0, 1, 7])
def test_a_face_is_pooled_over_all_its_frames(count: int) -> None:
    seen = aggregate_clip(at(np.arange(count) / 5, ANNA), RULE)
    assert (seen.frames, seen.frames_with_face, seen.problem) == (count, count, None)
    assert seen.seconds == pytest.approx(0.2 * count)
    assert [person.pool.count for person in seen.people] == [count][:count]
    if count:
        by_hand = FeaturePooler()
        by_hand.update(scores_of(np.arange(count) / 5))
        found = seen.people[0].pool.features().statistics
        for name, value in by_hand.features().statistics.items():
            assert found[name] == pytest.approx(value, rel=1e-6), name


def scores_of(times: Sequence[float]) -> FaceOutputs:
    rows = [scores(time, [ANNA]) for time in times]
    names = ("embedding", "expression", "age", "gender", "ethnicity", "identity")
    return FaceOutputs(*(np.concatenate([getattr(row, name) for row in rows]) for name in names))


def test_each_person_is_pooled_alone_and_the_group_frame_by_frame() -> None:
    seen = aggregate_clip([see(0, ANNA, BEN), see(0.2, ANNA), see(0.4), see(0.6, ANNA, BEN)], RULE)
    assert (seen.frames, seen.frames_with_face) == (4, 3)
    anna, ben = seen.people
    assert (anna.pool.count, ben.pool.count, seen.group.count) == (3, 2, 3)
    assert anna.pool.features().statistics["gender.max"] == ANNA
    assert ben.pool.features().statistics["gender.min"] == BEN
    group = seen.group.features().statistics
    assert group["gender.mean"] == pytest.approx([(0.5 + 0 + 0.5) / 3])
    assert group["gender.spread.mean"] == pytest.approx([(0.5 + 0 + 0.5) / 3])


def test_a_doubtful_face_that_belongs_to_nobody_counts_nowhere() -> None:
    seen = aggregate_clip([see(0, ANNA, score=0.5), see(0.2, ANNA), see(0.4, ANNA, score=0.5)], RULE)
    assert (seen.frames, seen.frames_with_face) == (3, 2)
    assert seen.group.count == seen.people[0].pool.count == 2
    assert seen.people[0].seconds == pytest.approx(0.4)


def test_who_fills_most_of_the_picture_over_time_comes_first() -> None:
    briefly, long = at([0, 0.2], ANNA), at([5, 5.2, 5.4, 5.6], BEN)
    seen = aggregate_clip(briefly + long, RULE)
    assert [person.pool.features().statistics["gender.mean"][0] for person in seen.people] == [BEN, ANNA]
    assert [person.seconds for person in seen.people] == pytest.approx([0.8, 0.4])
    assert [person.weight for person in seen.people] == pytest.approx([0.8 * 0.09, 0.4 * 0.16])


def test_in_frames_without_duration_the_larger_one_comes_first() -> None:
    seen = aggregate_clip([see(0, BEN, ANNA, duration=0)], RULE)
    assert [person.pool.features().statistics["gender.mean"][0] for person in seen.people] == [ANNA, BEN]


def test_pieces_of_one_person_are_put_together() -> None:
    seen = aggregate_clip(at([0, 0.2], ANNA) + at([9, 9.2], BEN) + at([20], ANNA), RULE)
    assert [(person.number, person.pool.count) for person in seen.people] == [(0, 3), (1, 2)]
    assert sorted(seen.tracks) == [0, 1, 2]


def test_a_union_adds_up_and_leaves_its_parts_as_they_were() -> None:
    parts = [TrackStats(4, seconds=1, area=2, weight=3), TrackStats(2, seconds=10, area=20, weight=30)]
    for part in parts:
        part.pool.update(scores(part.number, [ANNA]))
    whole = TrackStats.union(1, iter(parts))
    assert (whole.number, whole.seconds, whole.area, whole.weight, whole.pool.count) == (1, 11, 22, 33, 2)
    assert [part.pool.count for part in parts] == [1, 1]


def test_only_tracks_that_occur_are_put_together_under_the_number_of_all() -> None:
    seen = ClipObservations()
    seen.add(see(0, ANNA), [7])
    seen.add(see(0.2, BEN), [5])
    seen.settle([[9, 7, 2], [1, 3], [5]])
    assert [(person.number, person.pool.count) for person in seen.people] == [(2, 1), (5, 1)]


def test_the_statistics_are_those_of_the_main_person_or_of_all() -> None:
    seen = aggregate_clip([see(0, ANNA, BEN)], RULE)
    assert seen.pool("main") is seen.people[0].pool
    assert seen.pool("all") is seen.group
    nobody = aggregate_clip([see(0)], RULE)
    assert nobody.pool("main") is nobody.pool("all") is None


@pytest.mark.parametrize(
    ("frames", "problem", "wrong", "unanswered", "cause"),
    [
        ([], None, NoFramesInRange, NoFramesInRange, type(None)),
        ([], GONE, TruncatedVideo, TruncatedVideo, type(None)),
        ([see(0)], None, type(None), NoFaceError, type(None)),
        ([see(0)], GONE, TruncatedVideo, NoFaceError, TruncatedVideo),
        ([see(0, ANNA)], None, type(None), type(None), None),
        ([see(0, ANNA)], GONE, TruncatedVideo, TruncatedVideo, type(None)),
    ],
    ids=["nothing", "nothing, broken", "nobody", "nobody, broken", "somebody", "somebody, broken"],
)
def test_what_is_wrong_and_why_there_is_no_answer(
    frames: list[FrameObservation], problem: InputError | None, wrong: type, unanswered: type, cause: type | None
) -> None:
    seen = aggregate_clip(frames, RULE)
    seen.problem = problem
    found, error = seen.problems("clip.mp4")
    assert (type(found), type(error)) == (wrong, unanswered)
    if error is not None:
        assert "clip.mp4" in error.message
        assert type(error.__cause__) is cause


def test_faceless_clips_are_told_what_to_try() -> None:
    assert (
        aggregate_clip([see(0), see(1)], RULE)
        .problems("a.mp4")[1]
        .message.startswith("a.mp4 shows no face in 2 frames; try")
    )
    assert "--start" in aggregate_clip([], RULE).problems("a.mp4")[1].message


def test_a_clip_that_breaks_off_keeps_what_came_before() -> None:
    seen = aggregate_clip(broken(at([0, 0.2], ANNA)), RULE)
    assert (seen.frames, len(seen.people), seen.problem) == (2, 1, GONE)
    with pytest.raises(ZeroDivisionError):
        aggregate_clip(broken([see(0, ANNA)], ZeroDivisionError()), RULE)


@pytest.mark.parametrize(
    ("length", "step", "said"),
    [
        (0, 1, "longer than 0 s, not 0 s"),
        (-1, 1, "longer than 0 s"),
        (math.inf, 1, "longer than 0 s, not inf s"),
        (math.nan, 1, "longer than 0 s"),
        (4, 0, r"at most the window \(4 s\), not 0 s"),
        (4, -1, "not -1 s"),
        (4, 4.1, "not 4.1 s"),
        (4, math.nan, "not nan s"),
    ],
)
def test_windows_that_cannot_be_are_refused(length: float, step: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        WindowSpec(length, step)


def test_windows_may_touch_and_overlap() -> None:
    assert (WindowSpec(4, 4).step, WindowSpec(0.1, 0.05).length) == (4, 0.1)
    assert WindowSpec() == WindowSpec(4.0, 1.0)


def cut(
    frames: Iterable[FrameObservation], length: float, step: float, origin: float = 0.0
) -> list[WindowObservations]:
    return list(iter_windows(frames, RULE, WindowSpec(length, step), origin))


def told(parts: Iterable[WindowObservations]) -> list[tuple[float, float, float, float, int]]:
    """From, to, time of the first and of the last frame, and how many."""
    found = []
    for part in parts:
        pool = part.seen.group.features().statistics
        first, last = (round(float(pool[f"age.{kind}"][0]), 3) for kind in ("min", "max"))
        found.append((round(part.start, 6), round(part.end, 6), first, last, part.seen.frames))
    return found


@pytest.mark.parametrize(
    ("times", "length", "step", "origin", "true"),
    [
        ([0], 4, 1, 0, [(0, 0.2, 0, 0, 1)]),
        ([3], 4, 1, 0, [(0, 3.2, 3, 3, 1)]),
        ([0, 1, 2, 3], 4, 1, 0, [(0, 3.2, 0, 3, 4)]),
        ([0, 1, 2, 3, 3.8], 4, 1, 0, [(0, 4, 0, 3.8, 5)]),
        ([0, 1, 2, 3, 4], 4, 1, 0, [(0, 4, 0, 3, 4), (1, 4.2, 1, 4, 4)]),
        ([0, 1, 2, 3, 4, 5], 2, 2, 0, [(0, 2, 0, 1, 2), (2, 4, 2, 3, 2), (4, 5.2, 4, 5, 2)]),
        ([0, 1, 2, 3], 2, 1, 0, [(0, 2, 0, 1, 2), (1, 3, 1, 2, 2), (2, 3.2, 2, 3, 2)]),
        ([0, 10], 4, 1, 0, [(0, 4, 0, 0, 1), (7, 10.2, 10, 10, 1)]),
        ([0, 10], 4, 4, 0, [(0, 4, 0, 0, 1), (8, 10.2, 10, 10, 1)]),
        ([0, 8], 4, 4, 0, [(0, 4, 0, 0, 1), (8, 8.2, 8, 8, 1)]),
        ([9], 4, 1, 0, [(6, 9.2, 9, 9, 1)]),
        ([0, 5, 5.5], 1, 1, 0, [(0, 1, 0, 0, 1), (5, 5.7, 5, 5.5, 2)]),
        ([2.9, 3.5, 5], 2, 1, 3, [(3, 5, 2.9, 3.5, 2), (4, 5.2, 5, 5, 1)]),
        (
            [0.1, 0.2, 0.3, 0.4],
            0.2,
            0.1,
            0.1,
            [(0.1, 0.3, 0.1, 0.2, 2), (0.2, 0.4, 0.2, 0.3, 2), (0.3, 0.5, 0.3, 0.4, 2)],
        ),
    ],
    ids=[
        "one frame",
        "one late frame",
        "shorter than a window",
        "as long as a window",
        "a frame longer",
        "touching",
        "overlapping",
        "a gap",
        "a gap of windows",
        "a gap of exactly one window",
        "a late start",
        "a gap and on",
        "from a start",
        "sums that are not exact",
    ],
)
def test_a_window_holds_the_frames_from_its_start_to_before_its_end(
    times: list[float], length: float, step: float, origin: float, true: list[tuple[float, ...]]
) -> None:
    assert told(cut(at(times, ANNA), length, step, origin)) == true


@pytest.mark.parametrize("seed", range(25))
def test_windows_are_those_of_the_definition(seed: int) -> None:
    random = np.random.default_rng(seed)
    origin, length = random.choice([0, 0.3]), random.choice([0.4, 1, 2.5])
    step = length * random.choice([1, 0.5, 0.3])
    times = np.cumsum(random.choice([0.04, 0.1, 0.2, 3.3, 7], 60, p=[0.4, 0.3, 0.2, 0.05, 0.05])) + origin - 0.04
    frames = [see(float(time), *([ANNA] * bool(random.random() < 0.8))) for time in times]
    true, number = [], 0
    while not true or true[-1][1] <= times[-1] + 1e-6:
        lower, upper = (origin + number * step if number else -np.inf), origin + number * step + length
        inside = [f for f in frames if lower - 1e-6 <= f.time < upper - 1e-6]
        number += 1
        if inside:
            true.append((lower, upper, inside))
        elif upper > times[-1] + 1e-6:
            break
    found = cut(frames, length, step, origin)
    assert [part.seen.frames for part in found] == [len(inside) for _, _, inside in true]
    for part, (lower, upper, inside) in zip(found, true, strict=True):
        assert part.start == pytest.approx(max(lower, origin))
        assert part.end == pytest.approx(upper if part is not found[-1] else min(upper, times[-1] + 0.2))
        same(part.seen, aggregate_clip(inside, RULE))


@pytest.mark.parametrize("start", [4.0, 6.8, 2.0999999])
@pytest.mark.parametrize("noise", [-1e-9, 0, 1e-9])
def test_a_frame_after_a_gap_lies_in_its_window_though_times_are_not_exact(start: float, noise: float) -> None:
    found = cut(at([0, start + noise, start + 0.35], ANNA), 0.7, 0.1)
    for part in found:
        inside = [f for f in (0, start, start + 0.35) if part.start - 1e-6 <= f < part.start + 0.7 - 1e-6]
        assert part.seen.frames == len(inside)


def test_a_window_without_a_face_is_there_and_one_without_a_frame_is_not() -> None:
    found = cut([see(0, ANNA), see(1), see(2, ANNA), see(9, ANNA)], 1, 1)
    assert [(part.start, part.seen.frames_with_face) for part in found] == [(0, 1), (1, 0), (2, 1), (9, 1)]


def test_no_frames_are_no_windows() -> None:
    assert cut([], 4, 1) == []


def test_people_keep_their_number_from_window_to_window() -> None:
    frames = [see(0, ANNA), see(0.5, ANNA, BEN), see(1.0, BEN), see(10, BEN), see(10.5, ANNA, BEN), see(20, ANNA)]
    found = cut(frames, 1, 1)
    who = [{p.number: p.pool.features().statistics["gender.mean"][0] for p in part.seen.people} for part in found]
    assert [part.start for part in found] == [0, 1, 10, 20]
    assert who == [{0: ANNA, 1: BEN}, {1: BEN}, {0: ANNA, 1: BEN}, {0: ANNA}]


def test_a_doubtful_face_goes_on_from_the_window_before() -> None:
    found = cut([see(0.8, ANNA), see(1.0, ANNA, score=0.5), see(1.2, ANNA, score=0.5)], 1, 1)
    assert [part.seen.frames_with_face for part in found] == [1, 2]


def test_a_window_is_given_as_soon_as_it_is_over() -> None:
    asked = []

    def frames() -> Iterator[FrameObservation]:
        for one in at(np.arange(0, 100, 0.5), ANNA):
            asked.append(one.time)
            yield one

    parts = iter_windows(frames(), RULE, WindowSpec(2, 1))
    for limit in (2, 3, 4):
        assert next(parts).end == limit
        assert asked[-1] == limit
    parts.close()


def test_windows_of_a_film_with_many_cuts_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [
        one
        for shot in range(140)
        for one in at([3 * shot, 3 * shot + 0.2], *((ANNA,), (BEN,), (ANNA, BEN), (BEN, ANNA))[shot % 4])
    ]
    found = cut(frames, 4, 2)
    monkeypatch.setattr(gather_module, "_COMPACT_EVERY", 10_000)
    apart = cut(frames, 4, 2)
    assert len(found) == len(apart)
    for one, other in zip(found, apart, strict=True):
        same(one.seen, other.seen)
        assert [person.number for person in one.seen.people] == [person.number for person in other.seen.people]
        assert one.looks == other.looks
        assert sorted(map(sorted, one.people)) == sorted(map(sorted, other.people))
    assert len(found[-1].people) == 2
    assert sum(map(len, found[-1].people)) > 200


def test_only_the_frames_of_one_window_are_kept() -> None:
    kept: list[Callable[[], object]] = []
    most = 0

    def frames() -> Iterator[FrameObservation]:
        nonlocal most
        for i in range(400):
            one = see(i / 5, ANNA)
            kept.append(weakref.ref(one.scores.embedding))
            yield one
            del one
            most = max(most, sum(ref() is not None for ref in kept))

    assert len(cut(frames(), 2, 1)) == 79
    assert most <= 10 + 2


def test_a_clip_that_breaks_off_says_so_in_its_last_window() -> None:
    found = cut(broken(at([0, 1, 2, 2.5], ANNA)), 2, 1)
    assert [(part.start, part.end, part.seen.frames) for part in found] == [(0, 2, 2), (1, 2.7, 3)]
    assert [part.seen.problem for part in found] == [None, GONE]


def test_a_clip_that_breaks_off_before_its_first_frame_raises() -> None:
    with pytest.raises(TruncatedVideo, match="breaks off"):
        cut(broken([]), 2, 1)
    with pytest.raises(ZeroDivisionError):
        cut(broken([see(0, ANNA)], ZeroDivisionError()), 2, 1)


@pytest.mark.parametrize("cuts", [99, 100, 101, 350])
def test_memory_grows_with_people_and_not_with_cuts(cuts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def frames() -> Iterator[FrameObservation]:
        return (see(10.0 * i + j / 5, (ANNA, BEN)[i % 2]) for i in range(cuts) for j in range(2))

    most = []
    plain = ClipObservations.add

    def counted(seen: ClipObservations, *what: object) -> None:
        plain(seen, *what)
        most.append(len(seen.tracks))

    monkeypatch.setattr(ClipObservations, "add", counted)
    seen = aggregate_clip(frames(), RULE)
    assert max(most) <= 110
    monkeypatch.setattr("fervid.analysis.aggregate._COMPACT_EVERY", 10**9)
    same(seen, aggregate_clip(frames(), RULE))
    assert [person.number for person in seen.people] == [0, 1]


def test_who_comes_back_again_and_again_is_not_forgotten() -> None:
    frames = (see(0.5 * i, *(() if i % 12 > 3 else (ANNA,)), duration=0.5) for i in range(1200))
    found = list(iter_windows(frames, RULE, WindowSpec(4, 1), memory=60))
    assert {person.number for window in found for person in window.seen.people} == {0}
    assert all(window.seen.people or not window.seen.group.count for window in found)


def test_of_people_who_are_forgotten_not_even_the_numbers_of_their_tracks_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fervid.analysis.aggregate._COMPACT_EVERY", 5)
    who = ([ANNA] * 20 + [BEN] * 20) * 6
    parts = iter_windows((see(2.0 * i, person) for i, person in enumerate(who)), RULE, WindowSpec(4, 2), memory=40)
    assert isinstance(parts, Generator)
    kept = [len(parts.gi_frame.f_locals["joined"]) for _ in parts]
    assert 0 < max(kept) <= 2


def test_what_began_before_the_first_window_lasts_from_its_start() -> None:
    frame = see(10.0, ANNA, duration=8.0)
    (window,) = iter_windows([frame], RULE, WindowSpec(20, 20), origin=12.0)
    assert (window.start, window.end) == (12, 20)
    assert [(look.time, look.duration) for look in window.looks] == [(12, 8)]


# Who is believed


@pytest.mark.parametrize(
    ("frames", "with_face", "believed"),
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
def test_a_person_needs_evidence_in_proportion_to_the_clip(frames: int, with_face: int, believed: bool) -> None:
    seen = aggregate_clip([see(i / 5, *((ANNA,) if i < with_face else ())) for i in range(frames)], RULE)
    assert (len(seen.people), seen.frames, seen.frames_with_face) == (believed, frames, with_face)
    assert (seen.pool("main") is None) == (seen.pool("all") is None) == (not believed)
    problem, error = seen.problems("clip.mp4")
    assert (problem is error is None) == believed
    if not believed:
        assert isinstance(problem, NoFaceError)
        assert problem is error
        assert f"shows a face in only {with_face} of {frames} frames" in problem.message


@pytest.mark.parametrize(("with_face", "believed"), [(3, False), (14, False), (15, True)])
def test_a_person_is_seen_for_half_a_second_however_many_frames_that_are(with_face: int, believed: bool) -> None:
    frames = [see(i / 30, *((ANNA,) if i < with_face else ()), duration=1 / 30) for i in range(900)]
    assert bool(aggregate_clip(frames, RULE).people) == believed


def test_frames_without_duration_are_counted_alone() -> None:
    frames = [see(0, *((ANNA,) if i < 3 else ()), duration=0) for i in range(428)]
    seen = aggregate_clip(frames, RULE)
    assert (len(seen.people), seen.group.count) == (1, 3)


@pytest.mark.parametrize("many", [1, 100], ids=["joined", "apart"])
def test_who_is_not_believed_is_in_no_group(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fervid.analysis.aggregate._COMPACT_EVERY", many)
    frames = [see(i / 5, ANNA, *((BEN,) if i in (1, 200) else ())) for i in range(428)]
    alone = aggregate_clip([see(i / 5, ANNA) for i in range(428)], RULE)
    found, true = (seen.pool("all").features() for seen in (aggregate_clip(frames, RULE), alone))
    assert found.count == true.count
    for name, value in true.statistics.items():
        assert found.statistics[name] == pytest.approx(value, rel=1e-6), name


def test_who_is_believed_at_the_end_is_in_the_group_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fervid.analysis.aggregate._COMPACT_EVERY", 1)
    seen = aggregate_clip(
        [see(5.0 * i, ANNA, *((BEN,) if i in (1, 50, 90) else ()), duration=5) for i in range(100)], RULE
    )
    assert (len(seen.people), seen.group.count) == (2, 100)
    assert seen.group.features().statistics["gender.mean"] == pytest.approx([3 * 0.5 / 100])
    assert seen.waiting == []


def test_few_frames_wait_for_what_is_known_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    most, plain = [], ClipObservations.add

    def counted(seen: ClipObservations, *what: object) -> None:
        plain(seen, *what)
        most.append(len(seen.waiting))

    monkeypatch.setattr(ClipObservations, "add", counted)
    aggregate_clip((see(i / 5, ANNA, *((BEN,) if i % 50 == 0 else ())) for i in range(1000)), RULE)
    assert max(most) <= 3 + 20


def test_a_clip_without_any_face_has_no_problem_in_its_record() -> None:
    problem, error = aggregate_clip([see(i / 5) for i in range(428)], RULE).problems("clip.mp4")
    assert (problem, type(error)) == (None, NoFaceError)


def test_a_person_who_is_not_believed_does_not_become_the_main_person() -> None:
    frames = [see(i / 5, BEN if 10 <= i < 15 else ANNA, duration=5 if i == 99 else 0.2) for i in range(15)]
    flash = [see(i / 5, *((ANNA,) if i == 50 else ()), duration=90 if i == 50 else 0.2) for i in range(20, 100)]
    believed = aggregate_clip(frames[10:] + flash, RULE)
    assert [person.pool.features().statistics["gender.mean"][0] for person in believed.people] == [BEN]
    assert len(aggregate_clip(frames, RULE).people) == 2


def test_pieces_of_a_person_are_evidence_together() -> None:
    frames = [see(3.0 * i, *((ANNA,) if i in (20, 50, 90) else ()), duration=3) for i in range(100)]
    assert [person.pool.count for person in aggregate_clip(frames, RULE).people] == [3]


@pytest.mark.parametrize(("every", "people"), [(10, 10), (12, 0)])
def test_where_nobody_is_known_again_everybody_is_believed_if_a_tenth_of_the_frames_shows_a_face(
    every: int, people: int
) -> None:
    unknown = TrackerConfig(open_score=0.8, same_face=-1.0, same_person=2.0)
    frames = [see(2.0 * i, *(() if i % every else (ANNA,)), duration=2) for i in range(100)]
    assert len(aggregate_clip(frames, unknown).people) == people


@pytest.mark.parametrize(
    ("frames", "with_face", "stride", "believed"),
    [(5, 1, 1, True), (5, 1, 8, False), (5, 3, 8, True), (1, 1, 40, True), (2, 1, 8, True), (54, 1, 8, False)],
)
def test_a_coarse_look_makes_no_clip_short(frames: int, with_face: int, stride: int, believed: bool) -> None:
    looks = [see(i * stride / 5, *((ANNA,) if i < with_face else ()), duration=stride / 5) for i in range(frames)]
    assert bool(aggregate_clip(looks, RULE, stride).people) == believed


def test_a_person_who_is_seldom_in_a_window_and_often_in_the_clip_is_believed_there() -> None:
    frames = [see(i / 5, *((ANNA,) if i < 16 or i == 38 else ())) for i in range(40)]
    first, second = iter_windows(frames, RULE, WindowSpec(4, 4))
    assert [[person.pool.count for person in part.seen.people] for part in (first, second)] == [[16], [1]]


def test_a_face_in_one_frame_of_a_clip_is_believed_in_none_of_its_windows() -> None:
    frames = [see(i / 5, *((ANNA,) if i == 200 else ())) for i in range(428)]
    found = list(iter_windows(frames, RULE, WindowSpec(4, 1)))
    assert [len(part.seen.people) for part in found] == [0] * len(found)
    told = [part.seen.problems("clip.mp4")[0] for part in found if part.seen.frames_with_face]
    assert len(told) == 4
    assert all("only 1 of 20 frames" in problem.message for problem in told)
