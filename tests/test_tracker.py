"""Faces keep their number while they can be followed, and people are put together by what they look like."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from fervid.analysis import tracker as track
from fervid.analysis.tracker import Tracker, TrackerConfig, box_iou
from fervid.core.records import Box, Face

RULE = TrackerConfig(open_score=0.8, overlap=0.3, gap=1.0, same_face=0.45, same_person=0.62)
ANNA, BEN, CARL = 0, 1, 2


def look(*people: int | tuple[float, ...]) -> np.ndarray:
    """One embedding a face: a direction of its own for each person, or the given values."""
    rows = np.zeros((len(people), 4), np.float32)
    for row, person in zip(rows, people, strict=True):
        row[:] = np.eye(4)[person] * 7 if isinstance(person, int) else person
    return rows


def at(degrees: float) -> np.ndarray:
    """One embedding in a direction between Anna's, at 0, and Ben's, at 90."""
    return look((np.cos(np.radians(degrees)), np.sin(np.radians(degrees)), 0, 0))


def face(x: float, score: float = 0.9, y: float = 0, side: float = 40) -> Face:
    return Face((x, y, x + side, y + side), np.zeros((2, 2), np.float32), score)


def follow(*frames: tuple[float, list[tuple[float, int]]], rule: TrackerConfig = RULE) -> tuple[Tracker, list]:
    """Frames of (time, [(left edge, person)]) -> the tracker and the numbers of each frame."""
    tracker = Tracker(rule)
    return tracker, [
        tracker.update(time, [face(x) for x, _ in faces], look(*(person for _, person in faces)))
        for time, faces in frames
    ]


def test_one_face_through_time_keeps_its_number() -> None:
    tracker, numbers = follow(*((i / 5, [(4 * i, ANNA)]) for i in range(20)))
    assert numbers == [[0]] * 20
    assert tracker.people() == [[0]]


def test_two_faces_that_cross_keep_their_numbers() -> None:
    tracker, numbers = follow(*((i / 5, [(10 * i, ANNA), (100 - 10 * i, BEN)]) for i in range(11)))
    assert numbers == [[0, 1]] * 11
    assert tracker.people() == [[0], [1]]


def test_numbers_follow_the_faces_when_their_order_in_the_frame_changes() -> None:
    _, numbers = follow((0, [(0, ANNA), (100, BEN)]), (0.2, [(102, BEN), (3, ANNA)]), (0.4, [(104, BEN)]))
    assert numbers == [[0, 1], [1, 0], [1]]


def test_the_best_pairing_of_all_faces_is_taken() -> None:
    _, numbers = follow((0, [(0, ANNA), (8, ANNA)]), (0.2, [(9, ANNA), (1, ANNA)]))
    assert numbers == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("pause", "numbers", "people"),
    [
        (0.9, [[0], [0]], [[0]]),
        (1.0, [[0], [0]], [[0]]),
        (1.1, [[0], [1]], [[0, 1]]),
        (60, [[0], [1]], [[0, 1]]),
    ],
)
def test_a_gap_longer_than_the_rule_opens_a_track_that_joins_the_same_person(
    pause: float, numbers: list[list[int]], people: list[list[int]]
) -> None:
    tracker, found = follow((3, [(0, ANNA)]), (3 + pause, [(0, ANNA)]))
    assert found == numbers
    assert tracker.people() == people


def test_frames_without_faces_count_as_time_and_nothing_else() -> None:
    _, numbers = follow((0, [(0, ANNA)]), (0.4, []), (0.8, [(0, ANNA)]), (1.2, []), (2, [(0, ANNA)]))
    assert numbers == [[0], [], [0], [], [1]]


def test_a_cut_to_another_face_at_the_same_place_opens_a_track() -> None:
    tracker, numbers = follow((0, [(0, ANNA)]), (0.2, [(0, BEN)]), (0.4, [(0, BEN)]), (0.6, [(0, ANNA)]))
    assert numbers == [[0], [1], [1], [0]]
    assert tracker.people() == [[0], [1]]


@pytest.mark.parametrize(("cosine", "number"), [(0.5, 0), (0.46, 0), (0.44, 1), (0, 1), (-1, 1)])
def test_overlap_counts_only_for_faces_that_are_alike(cosine: float, number: int) -> None:
    tracker = Tracker(RULE)
    tracker.update(0, [face(0)], at(0))
    assert tracker.update(0.2, [face(0)], at(np.degrees(np.arccos(cosine)))) == [number]


@pytest.mark.parametrize(("shift", "number"), [(0, 0), (21, 0), (22, 1), (40, 1), (500, 1)])
def test_a_face_that_jumps_too_far_opens_a_track(shift: float, number: int) -> None:
    _, numbers = follow((0, [(0, ANNA)]), (0.2, [(shift, ANNA)]))
    assert numbers == [[0], [number]]


def test_a_doubtful_face_opens_nothing_and_continues_a_track() -> None:
    tracker = Tracker(RULE)
    found = [
        tracker.update(time, [face(0, score)], look(ANNA))
        for time, score in [(0, 0.79), (0.2, 0.8), (0.4, 0.5), (0.6, 0.1), (0.8, 0.9), (5, 0.79), (5.2, 0.79)]
    ]
    assert found == [[None], [0], [0], [0], [0], [None], [None]]
    assert tracker.people() == [[0]]


def test_a_doubtful_face_keeps_a_track_alive_and_moves_it() -> None:
    tracker = Tracker(RULE)
    for i in range(12):
        assert tracker.update(i / 2, [face(15 * i, 0.5 if i else 0.9)], look(ANNA)) == [0]


def test_two_people_alike_who_are_seen_side_by_side_are_never_joined() -> None:
    tracker, numbers = follow((0, [(0, ANNA), (100, ANNA)]), (0.2, [(0, ANNA)]))
    assert numbers == [[0, 1], [0]]
    assert tracker.people() == [[0], [1]]


def test_whoever_was_seen_beside_one_track_of_a_person_is_not_that_person() -> None:
    tracker, numbers = follow(
        (0, [(0, ANNA)]),
        (0.2, [(0, ANNA)]),
        (0.4, [(0, ANNA)]),
        (9, [(0, ANNA), (100, ANNA)]),
        (9.2, [(0, ANNA)]),
        (20, [(300, ANNA)]),
    )
    assert numbers == [[0], [0], [0], [1, 2], [1], [3]]
    people = tracker.people()
    assert people[0] == [0, 1, 3]
    assert people[1] == [2]


def test_people_are_joined_with_whom_they_resemble_most_the_longest_track_first() -> None:
    tracker, _ = follow(
        (0, [(0, ANNA)]),
        *((10 + i / 5, [(0, BEN)]) for i in range(5)),
        *((20 + i / 5, [(0, CARL)]) for i in range(3)),
        (30, [(0, BEN)]),
        *((40 + i / 5, [(0, ANNA)]) for i in range(2)),
    )
    assert tracker.people() == [[1, 3], [2], [4, 0]]


@pytest.mark.parametrize(("cosine", "people"), [(0.65, [[0, 1]]), (0.59, [[0], [1]])])
def test_tracks_are_one_person_from_a_least_likeness(cosine: float, people: list[list[int]]) -> None:
    tracker = Tracker(RULE)
    tracker.update(0, [face(0)], at(0))
    tracker.update(9, [face(0)], at(np.degrees(np.arccos(cosine))))
    assert tracker.people() == people


def test_a_track_is_compared_with_the_mean_of_a_person_not_with_one_track() -> None:
    tracker = Tracker(RULE)
    for time, degrees in [(0, 0), (0.2, 0), (0.4, 0), (9, 45), (9.2, 45), (20, 60)]:
        tracker.update(time, [face(0)], at(degrees))
    assert tracker.people() == [[0, 1, 2]]


def test_the_length_of_an_embedding_does_not_count() -> None:
    tracker = Tracker(RULE)
    found = [
        tracker.update(time, [face(0)], length * at(degrees))
        for time, degrees, length in [(0, 0, 1e-3), (0.2, 50, 500), (0.4, -30, 1)]
    ]
    assert found == [[0], [0], [0]]


def test_an_embedding_of_zeros_is_like_nobody() -> None:
    tracker = Tracker(RULE)
    assert [tracker.update(i / 5, [face(0)], look((0, 0, 0, 0))) for i in range(2)] == [[0], [1]]
    assert tracker.people() == [[0], [1]]


def test_asking_for_the_people_changes_nothing() -> None:
    tracker, _ = follow((0, [(0, ANNA)]), (5, [(0, ANNA)]), (9, [(0, BEN)]))
    assert tracker.people() == tracker.people() == [[0, 1], [2]]
    assert tracker.update(9.2, [face(0)], look(BEN)) == [2]


def test_no_faces_are_no_people() -> None:
    tracker = Tracker(RULE)
    assert tracker.people() == []
    assert tracker.update(0, [], look()) == []
    assert tracker.update(1, [], look()) == []
    assert tracker.people() == []


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_numbers_are_consecutive_and_unique_in_a_frame(seed: int) -> None:
    random = np.random.default_rng(seed)
    tracker, known, together, time = Tracker(RULE), 0, set(), 0.0
    for _ in range(60):
        time += random.choice([0.04, 0.2, 0.9, 1.5])
        count = int(random.integers(0, 6))
        faces = [face(random.uniform(0, 150), random.uniform(0.5, 1), random.uniform(0, 20)) for _ in range(count)]
        numbers = tracker.update(time, faces, look(*random.integers(0, 3, count).tolist()))
        given = [number for number in numbers if number is not None]
        assert len(numbers) == count
        assert len(set(given)) == len(given)
        for number in given:
            assert number <= known
            known += number == known
        together |= {(a, b) for a in given for b in given if a != b}
        assert all(number is not None for number, one in zip(numbers, faces, strict=True) if one.score >= 0.8)
    people = tracker.people()
    assert sorted(number for person in people for number in person) == list(range(known))
    assert not any((a, b) in together for person in people for a in person for b in person)


@pytest.mark.parametrize(
    ("a", "b", "value"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1),
        ((0, 0, 10, 10), (10, 0, 20, 10), 0),
        ((0, 0, 10, 10), (30, 30, 40, 40), 0),
        ((0, 0, 10, 10), (5, 0, 15, 10), 1 / 3),
        ((0, 0, 10, 10), (5, 5, 15, 15), 25 / 175),
        ((0, 0, 10, 10), (2, 2, 7, 7), 0.25),
        ((-5, -5, 5, 5), (0, 0, 10, 10), 25 / 175),
    ],
)
def test_iou_of_two_boxes(a: Box, b: Box, value: float) -> None:
    assert box_iou([a], [b]) == pytest.approx(np.array([[value]]))
    assert box_iou([b], [a]) == pytest.approx(np.array([[value]]))


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (0, 2), (2, 0), (1, 3), (3, 1), (2, 2)])
def test_iou_has_a_row_and_a_column_for_each_box(rows: int, columns: int) -> None:
    a, b = [(i, 0, i + 10, 10) for i in range(rows)], [(0, i, 10, i + 10) for i in range(columns)]
    found = box_iou(a, b)
    assert found.shape == (rows, columns)
    assert all(found[i, j] == pytest.approx(box_iou([a[i]], [b[j]])[0, 0]) for i in range(rows) for j in range(columns))


def test_tracks_of_a_person_that_are_over_are_joined_for_good_and_nothing_else_changes() -> None:
    # Anna four times, Ben beside her the second time; her last track goes on
    frames = [
        *[(i / 5, [(0, ANNA)]) for i in range(3)],
        *[(10 + i / 5, [(0, ANNA), (100, BEN)]) for i in range(4)],
        *[(20 + i / 5, [(0, BEN)]) for i in range(2)],
        *[(30 + i / 5, [(0, ANNA)]) for i in range(5)],
        *[(40 + i / 5, [(0, ANNA)]) for i in range(1)],
    ]
    tracker, _ = follow(*frames)
    before = [set(group) for group in tracker.people()]
    assert (before, len(tracker)) == ([{0, 1, 4, 5}, {2, 3}], 6)
    assert tracker.join() == [[0, 1, 4], [2, 3]]
    assert [set(group) for group in tracker.people()] == [{0, 5}, {2}]
    assert tracker.join() == []
    assert tracker.update(40.2, [face(0)], look(ANNA)) == [5]
    assert tracker.update(60.0, [face(0)], look(CARL)) == [6]
    assert [set(group) for group in tracker.people()] == [{0, 5}, {2}, {6}]
    assert tracker.join() == [[0, 5]]


def test_people_who_were_seen_side_by_side_stay_apart_after_joining() -> None:
    like = at(20)
    tracker, _ = follow(*((10.0 * i, [(0, ANNA)]) for i in range(3)))
    tracker.update(40.0, [face(0), face(100)], np.concatenate([look(ANNA), like]))
    tracker.update(60.0, [face(0)], like)
    tracker.join()
    groups = [set(group) for group in tracker.people()]
    assert len(groups) == 2
    assert not any({0, 4} <= group for group in groups)


def test_only_people_who_were_not_seen_for_long_are_forgotten() -> None:
    tracker, _ = follow(*((10.0 * i, [(0, ANNA if i else BEN)]) for i in range(4)))
    tracker.forget(25.0)
    assert [set(group) for group in tracker.people()] == [{1, 2, 3}]
    tracker.update(40.0, [], look())
    assert tracker.join() == [[1, 2, 3]]
    tracker.forget(25.0)
    assert tracker.people() == [[1]]
    tracker.forget(31.0)
    assert tracker.people() == []


# Networks that know no identities


def faceless(*frames: tuple[float, list[float]]) -> tuple[Tracker, list]:
    """Frames of (time, [left edge]) without embeddings, followed as `extract` says."""
    tracker = Tracker(TrackerConfig(open_score=0.8, same_face=-1.0, same_person=2.0))
    return tracker, [
        tracker.update(time, [face(x) for x in xs], np.zeros((len(xs), 0), np.float32)) for time, xs in frames
    ]


def test_without_identities_faces_are_followed_by_overlap() -> None:
    tracker, numbers = faceless((0, [0, 100]), (0.2, [104, 4]), (0.4, []), (0.6, [8]), (0.8, [300]))
    assert numbers == [[0, 1], [1, 0], [], [0], [2]]
    assert tracker.people() == [[0], [1], [2]]


def test_without_identities_nobody_is_known_again() -> None:
    tracker, numbers = faceless((0, [0]), (1.5, [0]), (3.0, [0]))
    assert numbers == [[0], [1], [2]]
    assert tracker.people() == [[0], [1], [2]]
    assert tracker.join() == []


@pytest.mark.parametrize("seed", range(20))
def test_the_sum_of_what_pairs_gain_is_the_largest_whoever_competes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gain = rng.uniform(0.3, 2, rng.integers(1, 7, 2))
    gain[rng.random(gain.shape) < rng.choice([0.3, 0.8])] = 0
    pairs = list(track._assign(gain))
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    assert sum(gain[pair] for pair in pairs) == pytest.approx(gain[linear_sum_assignment(gain, maximize=True)].sum())
