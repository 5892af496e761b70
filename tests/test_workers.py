"""Answers in the order of the items, a bounded number of them ahead, and no thread left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from fervid.workers import ordered


def settled() -> bool:
    """Whether every worker ends."""
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("fervid")]
    for thread in threads:
        thread.join(10)
    return not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("jobs", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 6, 7, 20])
def test_answers_come_in_the_order_of_the_items_whoever_is_done_first(jobs: int, count: int) -> None:
    def work(item: int) -> int:
        time.sleep(0.01 if item % 3 == 0 else 0)
        return item * item

    assert list(ordered(work, range(count), jobs)) == [item * item for item in range(count)]
    assert settled()


@pytest.mark.parametrize("jobs", [2, 4])
def test_as_many_are_worked_on_at_a_time_as_there_are_jobs(jobs: int) -> None:
    together = threading.Barrier(jobs)
    assert list(ordered(lambda _: together.wait(10) >= 0, range(3 * jobs), jobs)) == [True] * 3 * jobs


def test_one_job_works_in_this_thread_and_only_when_asked() -> None:
    done: list[int] = []
    answers = ordered(lambda item: (done.append(item), threading.current_thread())[1], range(5), 1)
    assert done == []
    assert next(answers) is threading.main_thread()
    assert done == [0]


@pytest.mark.parametrize("jobs", [1, 3])
def test_endless_items_are_not_read_far_ahead(jobs: int) -> None:
    read = 0

    def endless() -> Iterator[int]:
        nonlocal read
        while True:
            read += 1
            yield read

    answers = ordered(lambda item: item, endless(), jobs)
    assert [next(answers) for _ in range(30)] == list(range(1, 31))
    assert read <= 30 + 2 * jobs
    answers.close()
    assert settled()


@pytest.mark.parametrize("jobs", [1, 3])
def test_what_work_raises_comes_in_its_turn_and_ends_the_rest(jobs: int) -> None:
    asked: list[int] = []

    def work(item: int) -> int:
        asked.append(item)
        if item == 2:
            raise KeyError(item)
        return item

    answers = ordered(work, range(100), jobs)
    assert [next(answers), next(answers)] == [0, 1]
    with pytest.raises(KeyError, match="2"):
        next(answers)
    assert settled()
    assert len(asked) <= 3 + 2 * jobs


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_the_items_raise_is_raised(jobs: int) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise LookupError("the list broke off")

    with pytest.raises(LookupError, match="broke off"):
        list(ordered(lambda item: item, items(), jobs))
    assert settled()


def test_leaving_early_does_not_wait_for_what_is_being_worked_on_and_begins_nothing_more() -> None:
    go, asked = threading.Event(), []
    answers = ordered(lambda item: asked.append(item) or item == 0 or go.wait(10), range(10), 2)
    assert next(answers) is True
    started = time.monotonic()
    answers.close()
    assert time.monotonic() - started < 5
    go.set()
    assert settled()
    assert max(asked) == 2
