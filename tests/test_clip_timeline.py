"""Where people are between two looks, what they show there, and who is one person in the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from fervid.analysis.aggregate import WindowSpec, iter_windows
from fervid.analysis.clip_timeline import ClipTimeline, build_clip_timeline
from fervid.analysis.tracker import TrackerConfig
from fervid.core.errors import TruncatedVideo
from fervid.core.records import Box, Face, FaceOutputs, FrameObservation, Person, Prediction

RULE = TrackerConfig(open_score=0.8, same_face=0.45, same_person=0.62)
STEP = 0.2
ANNA, BEN = 0, 1
SECOND = WindowSpec(1, 1)


def see(time: float, *faces: tuple[int, Box], duration: float = STEP) -> FrameObservation:
    """A frame of 100 x 100 with those people in those places."""
    who = [person for person, _ in faces]
    zeros = np.zeros((len(faces), 1), np.float32)
    scores = FaceOutputs(zeros, zeros, zeros[:, 0], zeros[:, 0], zeros, np.eye(3, dtype=np.float32)[who].reshape(-1, 3))
    found = [Face(box, np.zeros((2, 2), np.float32), 0.9) for _, box in faces]
    return FrameObservation(time, duration, found, [face.area / 1e4 for face in found], scores)


def story(
    observed: Iterable[FrameObservation],
    cut: WindowSpec = SECOND,
    answers: Sequence[float] = (0.75,),
    **of_person: object,
) -> ClipTimeline:
    """Told with windows whose answers are these in turn, each the probability of the first of two labels."""

    def told() -> Iterable[object]:
        for i, window in enumerate(iter_windows(observed, RULE, cut)):
            share = answers[i % len(answers)]
            yield (
                window,
                [
                    Person(person.number, person.seconds, Prediction({"a": share, "b": 1 - share}), **of_person)
                    for person in window.seen.people
                ],
            )

    return build_clip_timeline(told(), ("a", "b"), RULE)


def still(count: int, box: Box = (10, 10, 30, 30), who: int = ANNA, start: int = 0) -> list[FrameObservation]:
    return [see(STEP * i, (who, box)) for i in range(start, start + count)]


def test_nobody_is_a_story_too() -> None:
    found = story([see(0.0), see(0.2)])
    assert (found.people, found.labels, found.problem) == ((), ("a", "b"), None)
    assert (found.start, found.end) == (0, pytest.approx(0.4))
    assert story([]).people == ()


def test_between_two_looks_a_face_is_on_the_line_from_one_to_the_other() -> None:
    (anna,) = story([see(STEP * i, (ANNA, (10 + 4 * i, 10, 30 + 4 * i, 30))) for i in range(10)]).people
    for time in np.arange(0.4, 1.4, 0.05):
        x = 10 + 4 * time / STEP
        assert anna.box(time) == pytest.approx((x, 10, x + 20, 30), abs=0.2)


def test_a_tremor_is_smoothed_away_and_the_size_more_than_the_place() -> None:
    rng = np.random.default_rng(0)
    boxes = 30 + np.array([-10, -10, 10, 10]) + rng.normal(0, 1, (40, 4))
    (anna,) = story([see(STEP * i, (ANNA, tuple(box))) for i, box in enumerate(boxes)]).people
    drawn = np.array([anna.box(STEP * i) for i in range(40)])
    jump, before = (np.abs(np.diff(each[:, 2] - each[:, 0])).mean() for each in (drawn, boxes))
    assert jump < before / 3
    assert np.abs(np.diff(drawn[:, 0])).mean() < np.abs(np.diff(boxes[:, 0])).mean()
    assert np.abs(drawn - boxes).max() < 4


def test_a_face_that_is_missed_for_a_moment_does_not_go_out() -> None:
    looks = still(20)
    looks[7] = see(STEP * 7)
    looks[8] = see(STEP * 8)
    (anna,) = story(looks).people
    assert all(anna.box(time) is not None for time in np.arange(0, 4, 0.04))
    assert anna.seen(np.arange(0, 4, 0.04)).all()


def test_a_face_that_stays_away_comes_and_goes_halfway_between_looks() -> None:
    looks = [*still(5), *(see(STEP * i) for i in range(5, 15)), *still(5, start=15)]
    (anna,) = story(looks).people
    assert anna.starts == pytest.approx([-0.1, 2.9])
    assert anna.ends == pytest.approx([0.9, 4.0]), "halfway to the next look, and to the end of the clip"
    assert [anna.box(time) is not None for time in (0, 0.85, 0.95, 2, 2.85, 2.95, 3.99, 4.0)] == [
        *(True, True, False, False, False, True, True, False)
    ]
    assert anna.seen(np.array([-1, 0, 0.85, 0.95, 3.99, 4.0])).tolist() == [False, True, True, False, True, False]
    assert anna.seconds == pytest.approx(2)


def test_after_a_cut_a_box_does_not_slide_to_its_new_place() -> None:
    looks = [*still(5), *still(5, (60, 60, 90, 90), start=5)]
    (anna,) = story(looks).people
    assert len(anna.spans) == 2
    assert anna.box(0.89) == pytest.approx((10, 10, 30, 30))
    assert anna.box(0.91) == pytest.approx((60, 60, 90, 90))


def test_a_face_that_moves_fast_is_followed_and_does_not_blink() -> None:
    looks = [see(STEP * i, (ANNA, (10 + 12 * i, 10, 40 + 12 * i, 40))) for i in range(4)]
    looks[2] = see(STEP * 2)
    (anna,) = story([*looks, *still(5, (58, 10, 88, 40), start=4)]).people
    assert len(anna.spans) == 1


def test_who_is_there_for_a_moment_only_does_not_flash() -> None:
    looks = still(10)
    looks[4] = see(STEP * 4, (ANNA, (10, 10, 30, 30)), (BEN, (60, 60, 90, 90)))
    assert [person.seconds for person in story(looks).people] == pytest.approx([2])
    looks[5] = see(STEP * 5, (ANNA, (10, 10, 30, 30)), (BEN, (60, 60, 90, 90)))
    assert len(story(looks).people) == 2
    (alone,) = story([see(0.0, (ANNA, (10, 10, 30, 30)), duration=0.04)]).people
    assert alone.box(0.03) == pytest.approx((10, 10, 30, 30)), "a clip that is no longer"


def test_who_is_believed_in_no_window_is_not_drawn() -> None:
    looks = [*still(40), see(8.0, (ANNA, (10, 10, 30, 30)), (BEN, (50, 50, 90, 90)), duration=2), *still(5, start=50)]
    assert [person.seconds for person in story(looks).people] == pytest.approx([11.0])


def test_the_main_person_fills_most_of_the_picture_over_time() -> None:
    small, large = (0, 0, 20, 20), (40, 40, 90, 90)
    found = story([see(STEP * i, (BEN, small), *([(ANNA, large)] if i > 3 else [])) for i in range(10)])
    assert [person.id for person in found.people] == [0, 1]
    assert [person.seconds for person in found.people] == pytest.approx([1.2, 2])
    assert found.people[0].box(1.5) == pytest.approx(large)


def test_what_is_shown_changes_gently_from_the_middle_of_one_window_to_the_next() -> None:
    (anna,) = story(still(10), answers=(0.2, 0.8)).people
    assert anna.times == pytest.approx([0.5, 1.5])
    said = anna.says(np.array([0.0, 0.5, 0.75, 1.0, 1.5, 2.0]))
    assert said[:, 0] == pytest.approx([0.2, 0.2, 0.35, 0.5, 0.8, 0.8])
    assert said.sum(axis=1) == pytest.approx(np.ones(6))


def test_two_who_turn_out_to_be_one_are_one_all_along() -> None:
    """Until the third window the second track could be anybody; the answers of both are put together by their time."""
    drift = np.eye(3, dtype=np.float32)[[0]] + np.float32([[0, 1.0, 0]])

    def turned(time: float, box: Box, identity: np.ndarray) -> FrameObservation:
        one = see(time, (ANNA, box))
        columns = (one.scores.embedding, one.scores.expression, one.scores.age, one.scores.gender, one.scores.ethnicity)
        return FrameObservation(one.time, one.duration, one.faces, one.shares, FaceOutputs(*columns, identity))

    anna, ben = np.float32([[1, 0, 0]]), np.float32([[0, 1, 0]])
    looks = [turned(STEP * i, (10, 10, 30, 30), anna if i < 4 else ben if i < 6 else drift) for i in range(30)]
    found = story(looks)
    assert sum(person.seconds for person in found.people) == pytest.approx(6)
    for person in found.people:
        assert len(person.times) == len(set(person.times)) == len(person.probabilities)


def test_what_else_is_known_is_told_in_words() -> None:
    (anna,) = story(still(10), age=31.4, gender="female", ethnicity="white").people
    assert anna.about == "about 31, female, white"
    assert story(still(10)).people[0].about == ""


def test_a_clip_that_breaks_off_is_told_as_far_as_it_goes() -> None:
    def broken() -> Iterable[FrameObservation]:
        yield from still(7)
        raise TruncatedVideo("clip.mp4 breaks off")

    found = story(broken())
    assert (found.problem.code, found.problem.message) == ("truncated", "clip.mp4 breaks off")
    assert found.end == pytest.approx(1.4)
    with pytest.raises(TruncatedVideo):
        story(one for one in broken() if one.time > 99)


def test_pictures_that_last_long_keep_their_boxes() -> None:
    looks = [see(2.0 * i, (ANNA, (10, 10, 30, 30)), duration=2.0) for i in range(4)]
    (anna,) = story(looks, WindowSpec(4, 4)).people
    assert all(anna.box(time) is not None for time in np.arange(0, 7.9, 0.1))
