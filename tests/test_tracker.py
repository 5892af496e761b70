"""Faces keep their track id while they can be linked, and tracks are grouped into people by identity."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from fervid.analysis.tracker import Tracker, TrackerConfig, _assign
from fervid.core.records import Face

CONFIG = TrackerConfig(
    new_track_threshold=0.8, min_iou=0.3, max_gap_s=1.0, min_track_similarity=0.45, min_person_similarity=0.62
)
ANNA, BEN, CARL = 0, 1, 2


def embeddings_of(*people: int | tuple[float, ...]) -> np.ndarray:
    """Return one embedding per face: a direction of its own for each person, or the given values."""
    rows = np.zeros((len(people), 4), np.float32)
    for row, person in zip(rows, people, strict=True):
        row[:] = np.eye(4)[person] * 7 if isinstance(person, int) else person
    return rows


def at(degrees: float) -> np.ndarray:
    """Return one embedding between Anna's, at 0 degrees, and Ben's, at 90."""
    return embeddings_of((np.cos(np.radians(degrees)), np.sin(np.radians(degrees)), 0, 0))


def face(x: float, score: float = 0.9, y: float = 0, side: float = 40) -> Face:
    return Face((x, y, x + side, y + side), np.zeros((2, 2), np.float32), score)


def track(*frames: tuple[float, list[tuple[float, int]]], config: TrackerConfig = CONFIG) -> tuple[Tracker, list]:
    """Track frames of (time, [(left edge, person)]); return the tracker and the ids of each frame."""
    tracker = Tracker(config)
    return tracker, [
        tracker.update(time, [face(x) for x, _ in faces], embeddings_of(*(person for _, person in faces)))
        for time, faces in frames
    ]


def test_one_face_keeps_its_id() -> None:
    tracker, numbers = track(*((i / 5, [(4 * i, ANNA)]) for i in range(20)))
    assert numbers == [[0]] * 20
    assert tracker.group_identities() == [[0]]


def test_crossing_faces_keep_their_ids() -> None:
    tracker, numbers = track(*((i / 5, [(10 * i, ANNA), (100 - 10 * i, BEN)]) for i in range(11)))
    assert numbers == [[0, 1]] * 11
    assert tracker.group_identities() == [[0], [1]]


def test_ids_do_not_depend_on_order_of_faces() -> None:
    _, numbers = track((0, [(0, ANNA), (100, BEN)]), (0.2, [(102, BEN), (3, ANNA)]), (0.4, [(104, BEN)]))
    assert numbers == [[0, 1], [1, 0], [1]]


def test_best_assignment_of_all_faces_is_chosen() -> None:
    _, numbers = track((0, [(0, ANNA), (8, ANNA)]), (0.2, [(9, ANNA), (1, ANNA)]))
    assert numbers == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("pause", "numbers", "people"),
    [(1.0, [[0], [0]], [[0]]), (1.1, [[0], [1]], [[0, 1]])],
)
def test_long_gap_starts_track_of_same_person(pause: float, numbers: list[list[int]], people: list[list[int]]) -> None:
    tracker, found = track((3, [(0, ANNA)]), (3 + pause, [(0, ANNA)]))
    assert found == numbers
    assert tracker.group_identities() == people


def test_frames_without_faces_only_count_as_time() -> None:
    _, numbers = track((0, [(0, ANNA)]), (0.4, []), (0.8, [(0, ANNA)]), (1.2, []), (2, [(0, ANNA)]))
    assert numbers == [[0], [], [0], [], [1]]


def test_cut_to_another_face_starts_track() -> None:
    tracker, numbers = track((0, [(0, ANNA)]), (0.2, [(0, BEN)]), (0.4, [(0, BEN)]), (0.6, [(0, ANNA)]))
    assert numbers == [[0], [1], [1], [0]]
    assert tracker.group_identities() == [[0], [1]]


@pytest.mark.parametrize(("cosine", "number"), [(0.46, 0), (0.44, 1), (-1, 1)])
def test_overlap_links_only_similar_faces(cosine: float, number: int) -> None:
    tracker = Tracker(CONFIG)
    tracker.update(0, [face(0)], at(0))
    assert tracker.update(0.2, [face(0)], at(np.degrees(np.arccos(cosine)))) == [number]


@pytest.mark.parametrize(("shift", "number"), [(21, 0), (22, 1), (500, 1)])
def test_jumping_face_starts_track(shift: float, number: int) -> None:
    _, numbers = track((0, [(0, ANNA)]), (0.2, [(shift, ANNA)]))
    assert numbers == [[0], [number]]


def test_unsure_face_continues_track_but_starts_none() -> None:
    tracker = Tracker(CONFIG)
    found = [
        tracker.update(time, [face(0, score)], embeddings_of(ANNA))
        for time, score in [(0, 0.79), (0.2, 0.8), (0.4, 0.5), (0.6, 0.1), (0.8, 0.9), (5, 0.79), (5.2, 0.79)]
    ]
    assert found == [[None], [0], [0], [0], [0], [None], [None]]
    assert tracker.group_identities() == [[0]]


def test_unsure_face_keeps_track_active() -> None:
    tracker = Tracker(CONFIG)
    for i in range(12):
        assert tracker.update(i / 2, [face(15 * i, 0.5 if i else 0.9)], embeddings_of(ANNA)) == [0]


def test_cooccurring_similar_faces_are_two_people() -> None:
    tracker, numbers = track((0, [(0, ANNA), (100, ANNA)]), (0.2, [(0, ANNA)]))
    assert numbers == [[0, 1], [0]]
    assert tracker.group_identities() == [[0], [1]]


def test_cooccurrence_with_one_track_excludes_the_person() -> None:
    tracker, numbers = track(
        (0, [(0, ANNA)]),
        (0.2, [(0, ANNA)]),
        (0.4, [(0, ANNA)]),
        (9, [(0, ANNA), (100, ANNA)]),
        (9.2, [(0, ANNA)]),
        (20, [(300, ANNA)]),
    )
    assert numbers == [[0], [0], [0], [1, 2], [1], [3]]
    people = tracker.group_identities()
    assert people[0] == [0, 1, 3]
    assert people[1] == [2]


def test_tracks_join_most_similar_person_longest_first() -> None:
    tracker, _ = track(
        (0, [(0, ANNA)]),
        *((10 + i / 5, [(0, BEN)]) for i in range(5)),
        *((20 + i / 5, [(0, CARL)]) for i in range(3)),
        (30, [(0, BEN)]),
        *((40 + i / 5, [(0, ANNA)]) for i in range(2)),
    )
    assert tracker.group_identities() == [[1, 3], [2], [4, 0]]


@pytest.mark.parametrize(("cosine", "people"), [(0.65, [[0, 1]]), (0.59, [[0], [1]])])
def test_tracks_are_one_person_from_a_minimum_similarity(cosine: float, people: list[list[int]]) -> None:
    tracker = Tracker(CONFIG)
    tracker.update(0, [face(0)], at(0))
    tracker.update(9, [face(0)], at(np.degrees(np.arccos(cosine))))
    assert tracker.group_identities() == people


def test_track_is_compared_with_mean_of_person() -> None:
    tracker = Tracker(CONFIG)
    for time, degrees in [(0, 0), (0.2, 0), (0.4, 0), (9, 45), (9.2, 45), (20, 60)]:
        tracker.update(time, [face(0)], at(degrees))
    assert tracker.group_identities() == [[0, 1, 2]]


def test_embedding_norms_do_not_matter() -> None:
    tracker = Tracker(CONFIG)
    found = [
        tracker.update(time, [face(0)], length * at(degrees))
        for time, degrees, length in [(0, 0, 1e-3), (0.2, 50, 500), (0.4, -30, 1)]
    ]
    assert found == [[0], [0], [0]]


def test_zero_embeddings_match_nobody() -> None:
    tracker = Tracker(CONFIG)
    assert [tracker.update(i / 5, [face(0)], embeddings_of((0, 0, 0, 0))) for i in range(2)] == [[0], [1]]
    assert tracker.group_identities() == [[0], [1]]


def test_group_identities_has_no_side_effect() -> None:
    tracker, _ = track((0, [(0, ANNA)]), (5, [(0, ANNA)]), (9, [(0, BEN)]))
    assert tracker.group_identities() == tracker.group_identities() == [[0, 1], [2]]
    assert tracker.update(9.2, [face(0)], embeddings_of(BEN)) == [2]


def test_no_faces_are_no_people() -> None:
    tracker = Tracker(CONFIG)
    assert tracker.group_identities() == []
    assert tracker.update(0, [], embeddings_of()) == []
    assert tracker.update(1, [], embeddings_of()) == []
    assert tracker.group_identities() == []


@pytest.mark.parametrize("seed", range(3))
def test_ids_are_consecutive_and_unique_in_frame(seed: int) -> None:
    random = np.random.default_rng(seed)
    tracker, count_so_far, together, time = Tracker(CONFIG), 0, set(), 0.0
    for _ in range(60):
        time += random.choice([0.04, 0.2, 0.9, 1.5])
        count = int(random.integers(0, 6))
        faces = [face(random.uniform(0, 150), random.uniform(0.5, 1), random.uniform(0, 20)) for _ in range(count)]
        numbers = tracker.update(time, faces, embeddings_of(*random.integers(0, 3, count).tolist()))
        given = [number for number in numbers if number is not None]
        assert len(numbers) == count
        assert len(set(given)) == len(given)
        for number in given:
            assert number <= count_so_far
            count_so_far += number == count_so_far
        together |= {(a, b) for a in given for b in given if a != b}
        assert all(number is not None for number, one in zip(numbers, faces, strict=True) if one.score >= 0.8)
    people = tracker.group_identities()
    assert sorted(number for person in people for number in person) == list(range(count_so_far))
    assert not any((a, b) in together for person in people for a in person for b in person)


def test_compact_merges_ended_tracks_of_person_only() -> None:
    # Anna four times, Ben beside her the second time; her last track goes on
    frames = [
        *[(i / 5, [(0, ANNA)]) for i in range(3)],
        *[(10 + i / 5, [(0, ANNA), (100, BEN)]) for i in range(4)],
        *[(20 + i / 5, [(0, BEN)]) for i in range(2)],
        *[(30 + i / 5, [(0, ANNA)]) for i in range(5)],
        *[(40 + i / 5, [(0, ANNA)]) for i in range(1)],
    ]
    tracker, _ = track(*frames)
    before = [set(group) for group in tracker.group_identities()]
    assert (before, len(tracker._tracks)) == ([{0, 1, 4, 5}, {2, 3}], 6)
    assert tracker.compact() == [[0, 1, 4], [2, 3]]
    assert [set(group) for group in tracker.group_identities()] == [{0, 5}, {2}]
    assert tracker.compact() == []
    assert tracker.update(40.2, [face(0)], embeddings_of(ANNA)) == [5]
    assert tracker.update(60.0, [face(0)], embeddings_of(CARL)) == [6]
    assert [set(group) for group in tracker.group_identities()] == [{0, 5}, {2}, {6}]
    assert tracker.compact() == [[0, 5]]


def test_cooccurring_people_stay_separate_after_compact() -> None:
    like = at(20)
    tracker, _ = track(*((10.0 * i, [(0, ANNA)]) for i in range(3)))
    tracker.update(40.0, [face(0), face(100)], np.concatenate([embeddings_of(ANNA), like]))
    tracker.update(60.0, [face(0)], like)
    tracker.compact()
    groups = [set(group) for group in tracker.group_identities()]
    assert len(groups) == 2
    assert not any({0, 4} <= group for group in groups)


def test_prune_drops_people_not_seen_for_long() -> None:
    tracker, _ = track(*((10.0 * i, [(0, ANNA if i else BEN)]) for i in range(4)))
    tracker.prune(25.0)
    assert [set(group) for group in tracker.group_identities()] == [{1, 2, 3}]
    tracker.update(40.0, [], embeddings_of())
    assert tracker.compact() == [[1, 2, 3]]
    tracker.prune(25.0)
    assert tracker.group_identities() == [[1]]
    tracker.prune(31.0)
    assert tracker.group_identities() == []


# Face models without identity vectors


def track_without_identities(*frames: tuple[float, list[float]]) -> tuple[Tracker, list]:
    """Track frames of (time, [left edge]) without embeddings, with the thresholds that the extractor sets for them."""
    tracker = Tracker(TrackerConfig(new_track_threshold=0.8, min_track_similarity=-1.0, min_person_similarity=2.0))
    return tracker, [
        tracker.update(time, [face(x) for x in xs], np.zeros((len(xs), 0), np.float32)) for time, xs in frames
    ]


def test_without_identities_faces_are_linked_by_overlap() -> None:
    tracker, numbers = track_without_identities((0, [0, 100]), (0.2, [104, 4]), (0.4, []), (0.6, [8]), (0.8, [300]))
    assert numbers == [[0, 1], [1, 0], [], [0], [2]]
    assert tracker.group_identities() == [[0], [1], [2]]


def test_without_identities_tracks_are_not_grouped() -> None:
    tracker, numbers = track_without_identities((0, [0]), (1.5, [0]), (3.0, [0]))
    assert numbers == [[0], [1], [2]]
    assert tracker.group_identities() == [[0], [1], [2]]
    assert tracker.compact() == []


@pytest.mark.parametrize("seed", range(3))
def test_assign_maximises_sum_of_gains(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gain = rng.uniform(0.3, 2, rng.integers(1, 7, 2))
    gain[rng.random(gain.shape) < rng.choice([0.3, 0.8])] = 0
    pairs = list(_assign(gain))
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    assert sum(gain[pair] for pair in pairs) == pytest.approx(gain[linear_sum_assignment(gain, maximize=True)].sum())
