"""Windows hold exactly the frames between their start and end."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest

from fervid.analysis.aggregate import aggregate_clip
from fervid.analysis.windows import WindowAggregator, WindowObservations, WindowSpec, iter_windows
from fervid.core.errors import TruncatedVideo
from fervid.core.records import FrameObservation
from observations import ANNA, BEN, BROKEN, CONFIG, assert_same, broken, observe, observe_all


@pytest.mark.parametrize(
    ("length", "step", "message"),
    [
        (0, 1, "above 0 s and finite, got 0 s"),
        (-1, 1, "above 0 s and finite"),
        (math.inf, 1, "above 0 s and finite, got inf s"),
        (math.nan, 1, "above 0 s and finite"),
        (4, 0, r"at most the window length \(4 s\), got 0 s"),
        (4, -1, "got -1 s"),
        (4, 4.1, "got 4.1 s"),
        (4, math.nan, "got nan s"),
    ],
)
def test_invalid_window_specs_are_refused(length: float, step: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WindowSpec(length, step)


def test_windows_may_touch_and_overlap() -> None:
    assert (WindowSpec(4, 4).step, WindowSpec(0.1, 0.05).length) == (4, 0.1)
    assert WindowSpec() == WindowSpec(4.0, 1.0)


def split(
    frames: Iterable[FrameObservation], length: float, step: float, origin: float = 0.0
) -> list[WindowObservations]:
    return list(iter_windows(frames, CONFIG, WindowSpec(length, step), origin))


def summarise(parts: Iterable[WindowObservations]) -> list[tuple[float, float, float, float, int]]:
    """Return start, end, time of the first and last frame, and number of frames of each window."""
    found = []
    for part in parts:
        pool = part.clip.group.features().statistics
        first, last = (round(float(pool[f"age.{kind}"][0]), 3) for kind in ("min", "max"))
        found.append((round(part.start, 6), round(part.end, 6), first, last, part.clip.frames))
    return found


CUTS = {
    "one frame": ([0], 4, 1, 0, [(0, 0.2, 0, 0, 1)]),
    "one late frame": ([3], 4, 1, 0, [(0, 3.2, 3, 3, 1)]),
    "shorter than a window": ([0, 1, 2, 3], 4, 1, 0, [(0, 3.2, 0, 3, 4)]),
    "as long as a window": ([0, 1, 2, 3, 3.8], 4, 1, 0, [(0, 4, 0, 3.8, 5)]),
    "a frame longer": ([0, 1, 2, 3, 4], 4, 1, 0, [(0, 4, 0, 3, 4), (1, 4.2, 1, 4, 4)]),
    "touching": ([0, 1, 2, 3, 4, 5], 2, 2, 0, [(0, 2, 0, 1, 2), (2, 4, 2, 3, 2), (4, 5.2, 4, 5, 2)]),
    "overlapping": ([0, 1, 2, 3], 2, 1, 0, [(0, 2, 0, 1, 2), (1, 3, 1, 2, 2), (2, 3.2, 2, 3, 2)]),
    "a gap": ([0, 10], 4, 1, 0, [(0, 4, 0, 0, 1), (7, 10.2, 10, 10, 1)]),
    "a gap of windows": ([0, 10], 4, 4, 0, [(0, 4, 0, 0, 1), (8, 10.2, 10, 10, 1)]),
    "a gap of exactly one window": ([0, 8], 4, 4, 0, [(0, 4, 0, 0, 1), (8, 8.2, 8, 8, 1)]),
    "a late start": ([9], 4, 1, 0, [(6, 9.2, 9, 9, 1)]),
    "a gap and on": ([0, 5, 5.5], 1, 1, 0, [(0, 1, 0, 0, 1), (5, 5.7, 5, 5.5, 2)]),
    "from a start": ([2.9, 3.5, 5], 2, 1, 3, [(3, 5, 2.9, 3.5, 2), (4, 5.2, 5, 5, 1)]),
    "sums that are not exact": (
        [0.1, 0.2, 0.3, 0.4],
        0.2,
        0.1,
        0.1,
        [(0.1, 0.3, 0.1, 0.2, 2), (0.2, 0.4, 0.2, 0.3, 2), (0.3, 0.5, 0.3, 0.4, 2)],
    ),
}


@pytest.mark.parametrize(("times", "length", "step", "origin", "true"), CUTS.values(), ids=CUTS)
def test_windows_are_half_open_intervals(
    times: list[float], length: float, step: float, origin: float, true: list[tuple[float, ...]]
) -> None:
    assert summarise(split(observe_all(times, ANNA), length, step, origin)) == true


@pytest.mark.parametrize("seed", range(4))
def test_random_windows_equal_definition(seed: int) -> None:
    random = np.random.default_rng(seed)
    origin, length = random.choice([0, 0.3]), random.choice([0.4, 1, 2.5])
    step = length * random.choice([1, 0.5, 0.3])
    times = np.cumsum(random.choice([0.04, 0.1, 0.2, 3.3, 7], 60, p=[0.4, 0.3, 0.2, 0.05, 0.05])) + origin - 0.04
    frames = [observe(float(time), *([ANNA] * bool(random.random() < 0.8))) for time in times]
    true, number = [], 0
    while not true or true[-1][1] <= times[-1] + 1e-6:
        lower, upper = (origin + number * step if number else -np.inf), origin + number * step + length
        inside = [f for f in frames if lower - 1e-6 <= f.time < upper - 1e-6]
        number += 1
        if inside:
            true.append((lower, upper, inside))
        elif upper > times[-1] + 1e-6:
            break
    found = split(frames, length, step, origin)
    assert [part.clip.frames for part in found] == [len(inside) for _, _, inside in true]
    for part, (lower, upper, inside) in zip(found, true, strict=True):
        assert part.start == pytest.approx(max(lower, origin))
        assert part.end == pytest.approx(upper if part is not found[-1] else min(upper, times[-1] + 0.2))
        assert_same(part.clip, aggregate_clip(inside, CONFIG))


@pytest.mark.parametrize("start", [4.0, 6.8, 2.0999999])
@pytest.mark.parametrize("noise", [-1e-9, 0, 1e-9])
def test_rounding_errors_do_not_move_frames_to_other_windows(start: float, noise: float) -> None:
    found = split(observe_all([0, start + noise, start + 0.35], ANNA), 0.7, 0.1)
    for part in found:
        inside = [f for f in (0, start, start + 0.35) if part.start - 1e-6 <= f < part.start + 0.7 - 1e-6]
        assert part.clip.frames == len(inside)


def test_windows_without_frames_are_left_out() -> None:
    found = split([observe(0, ANNA), observe(1), observe(2, ANNA), observe(9, ANNA)], 1, 1)
    assert [(part.start, part.clip.frames_with_face) for part in found] == [(0, 1), (1, 0), (2, 1), (9, 1)]


def test_no_frames_give_no_windows() -> None:
    assert split([], 4, 1) == []


def test_people_keep_their_number_across_windows() -> None:
    frames = [
        observe(0, ANNA),
        observe(0.5, ANNA, BEN),
        observe(1.0, BEN),
        observe(10, BEN),
        observe(10.5, ANNA, BEN),
        observe(20, ANNA),
    ]
    found = split(frames, 1, 1)
    who = [{p.number: p.pool.features().statistics["gender.mean"][0] for p in part.clip.people} for part in found]
    assert [part.start for part in found] == [0, 1, 10, 20]
    assert who == [{0: ANNA, 1: BEN}, {1: BEN}, {0: ANNA, 1: BEN}, {0: ANNA}]


def test_tracks_continue_across_windows() -> None:
    found = split([observe(0.8, ANNA), observe(1.0, ANNA, score=0.5), observe(1.2, ANNA, score=0.5)], 1, 1)
    assert [part.clip.frames_with_face for part in found] == [1, 2]


def test_windows_are_yielded_as_soon_as_complete() -> None:
    asked = []

    def frames() -> Iterator[FrameObservation]:
        for one in observe_all(np.arange(0, 100, 0.5), ANNA):
            asked.append(one.time)
            yield one

    parts = iter_windows(frames(), CONFIG, WindowSpec(2, 1))
    for limit in (2, 3, 4):
        assert next(parts).end == limit
        assert asked[-1] == limit
    parts.close()


def test_merging_tracks_does_not_change_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fervid.analysis.tracker.COMPACT_EVERY", 10)
    frames = [
        one
        for shot in range(16)
        for one in observe_all([3 * shot, 3 * shot + 0.2], *((ANNA,), (BEN,), (ANNA, BEN), (BEN, ANNA))[shot % 4])
    ]
    found = split(frames, 4, 2)
    monkeypatch.setattr("fervid.analysis.tracker.COMPACT_EVERY", 10_000)
    apart = split(frames, 4, 2)
    assert len(found) == len(apart)
    for window, other in zip(found, apart, strict=True):
        assert_same(window.clip, other.clip)
        assert [person.number for person in window.clip.people] == [person.number for person in other.clip.people]
        assert window.boxes == other.boxes
        assert sorted(map(sorted, window.people)) == sorted(map(sorted, other.people))
    assert len(found[-1].people) == 2
    assert sum(map(len, found[-1].people)) > 20


def test_only_the_frames_of_one_window_are_in_memory() -> None:
    kept: list[Callable[[], object]] = []
    most = 0

    def frames() -> Iterator[FrameObservation]:
        nonlocal most
        for i in range(400):
            one = observe(i / 5, ANNA)
            kept.append(weakref.ref(one.outputs.embedding))
            yield one
            del one
            most = max(most, sum(ref() is not None for ref in kept))

    assert len(split(frames(), 2, 1)) == 79
    assert most <= 10 + 2


def test_last_window_carries_error() -> None:
    found = split(broken(observe_all([0, 1, 2, 2.5], ANNA)), 2, 1)
    assert [(part.start, part.end, part.clip.frames) for part in found] == [(0, 2, 2), (1, 2.7, 3)]
    assert [part.clip.error for part in found] == [None, BROKEN]


def test_error_before_first_frame_is_raised() -> None:
    with pytest.raises(TruncatedVideo, match="breaks off"):
        split(broken([]), 2, 1)
    with pytest.raises(ZeroDivisionError):
        split(broken([observe(0, ANNA)], ZeroDivisionError()), 2, 1)


def test_person_who_keeps_returning_is_not_forgotten() -> None:
    frames = (observe(0.5 * i, *(() if i % 12 > 3 else (ANNA,)), duration=0.5) for i in range(200))
    found = list(iter_windows(frames, CONFIG, WindowSpec(4, 1), forget_after=60))
    assert {person.number for window in found for person in window.clip.people} == {0}
    assert all(window.clip.people or not window.clip.group.count for window in found)


def test_track_ids_of_forgotten_people_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fervid.analysis.tracker.COMPACT_EVERY", 5)
    who = ([ANNA] * 20 + [BEN] * 20) * 6
    aggregator, kept = WindowAggregator(CONFIG, WindowSpec(4, 2), forget_after=40), []
    for i, person in enumerate(who):
        if aggregator.push(observe(2.0 * i, person)):
            kept.append(sum(bool(track.merged) for track in aggregator._tracker._tracks.values()))
    assert 0 < max(kept) <= 2


def test_frame_that_began_before_origin_counts_from_there() -> None:
    frame = observe(10.0, ANNA, duration=8.0)
    (window,) = iter_windows([frame], CONFIG, WindowSpec(20, 20), origin=12.0)
    assert (window.start, window.end) == (12, 20)
    assert [(look.time, look.duration) for look in window.boxes] == [(12, 8)]


def test_reliability_is_judged_over_clip_not_window() -> None:
    frames = [observe(i / 5, *((ANNA,) if i < 16 or i == 38 else ())) for i in range(40)]
    first, second = iter_windows(frames, CONFIG, WindowSpec(4, 4))
    assert [[person.pool.count for person in part.clip.people] for part in (first, second)] == [[16], [1]]


def test_single_detection_is_reliable_in_no_window() -> None:
    frames = [observe(i / 5, *((ANNA,) if i == 200 else ())) for i in range(428)]
    found = list(iter_windows(frames, CONFIG, WindowSpec(4, 1)))
    assert [len(part.clip.people) for part in found] == [0] * len(found)
    errors = [part.clip.errors_for("clip.mp4")[0] for part in found if part.clip.frames_with_face]
    assert len(errors) == 4
    assert all("only 1 of 20 frames" in problem.message for problem in errors)
