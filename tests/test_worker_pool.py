"""Answers in the order of the items, a bounded number of them ahead, and no process left behind."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

import child_processes
from fervid.core import worker_pool
from fervid.core.errors import ChecksumMismatch, OutOfMemory, OutputError, TimedOut, UsageError
from fervid.core.worker_pool import (
    MAX_QUEUED_PER_WORKER,
    Limits,
    Worker,
    WorkerDied,
    _serve,
    map_ordered,
    map_unordered,
    prestart_worker,
)

# What workers do


def square(item: int) -> int:
    time.sleep(0.01 if item % 3 == 0 else 0)
    return item * item


def seen(path: Path, count: int) -> bool:
    """Whether that many files are in a folder within a minute."""
    deadline = time.monotonic() + 60
    while len(os.listdir(path)) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return len(os.listdir(path)) >= count


def meet(folder: Path, count: int, _: int) -> bool:
    (folder / str(os.getpid())).touch()
    return seen(folder, count)


def wait_for_the_others(folder: Path, count: int, item: int) -> bool:
    if item == 0:
        return seen(folder, count)
    (folder / str(item)).touch()
    return True


def die(of: dict[int, int], item: int) -> int:
    """Of a signal, if the number is one, else with the negative of it as the status."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if of.get(item, 0) > 0:
        os.kill(os.getpid(), of[item])
    if item in of:
        os._exit(-of[item])
    return item


def exhaust(item: int) -> int:
    if item == 1:
        raise MemoryError
    return item


def fail(item: int) -> int:
    if item == 2:
        raise OutputError("the disk is full")
    return item


def sleep(folder: Path, item: int) -> int:
    (folder / str(item)).touch()
    time.sleep(0 if item == 0 else 60)
    return item


def hang(how: str, item: int) -> int:
    """In Python, or in a C library that neither gives the interpreter back nor heeds a signal."""
    if item == 1:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.Signals)
        if how == "sleep":
            time.sleep(600)
        re.fullmatch("(a|aa)+b", "a" * 60)
    return item


def devour(item: int) -> int:
    """2 GB, which take a while; 20 MB are harmless."""
    hoard = [bytearray(b"x" * 10_000_000) for _ in range(200 if item == 1 else 2)]
    time.sleep(30 if item == 1 else 0.3)
    return item * len(hoard[0]) // 10_000_000


def blunder(item: int) -> int:
    return 1 // (item - 1)


def lost(item: int, death: WorkerDied) -> str:
    return f"{item}: {death}"


def told(item: int, death: WorkerDied) -> str:
    return f"{death.problem(item).code}: {death}"


def never(item: object, death: WorkerDied) -> object:
    raise AssertionError(f"{item} was lost: {death}")


def imported(module: str) -> tuple[int, bool]:
    return os.getpid(), module in sys.modules


def heeds_interrupts(_: int) -> bool:
    return signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


class Loading:
    """Calls a function where it arrives."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        """Call it with these arguments."""
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, ...]:
        return self.call

    def __call__(self, item: int) -> int:
        return item


def refuse(*_: object) -> None:
    raise ChecksumMismatch("the model was replaced")


# In this process


@pytest.mark.parametrize("count", [0, 1, 7])
def test_without_workers_everything_is_done_in_this_process_and_only_when_asked(count: int) -> None:
    done: list[int] = []
    answers = map_ordered(lambda item: (done.append(item), os.getpid())[1], range(count), 0, never)
    assert done == []
    for number in range(count):
        assert next(answers) == os.getpid()
        assert done == list(range(number + 1))
    assert list(answers) == []


def test_without_workers_what_work_and_items_raise_is_raised() -> None:
    answers = map_ordered(fail, range(9), 0, never)
    assert [next(answers), next(answers)] == [0, 1]
    with pytest.raises(OutputError, match="full"):
        next(answers)
    with pytest.raises(LookupError, match="broke off"):
        list(map_ordered(square, breaking_off(), 0, never))


def breaking_off() -> Iterator[int]:
    yield 1
    raise LookupError("the list broke off")


# In workers


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fervid")]


@pytest.mark.parametrize(("jobs", "count"), [(1, 0), (1, 5), (2, 1), (3, 50)])
def test_answers_come_in_the_order_of_the_items_whoever_is_done_first(jobs: int, count: int) -> None:
    assert list(map_ordered(square, range(count), jobs, never)) == [item * item for item in range(count)]


@pytest.mark.parametrize("jobs", [1, 3])
def test_as_many_are_worked_on_at_a_time_as_there_are_jobs(jobs: int, tmp_path: Path) -> None:
    assert all(map_ordered(partial(meet, tmp_path, jobs), range(3 * jobs), jobs, never))
    assert len(os.listdir(tmp_path)) == jobs
    assert os.getpid() not in map(int, os.listdir(tmp_path))


def test_a_slow_one_does_not_hold_back_the_others(tmp_path: Path) -> None:
    answers = map_ordered(
        partial(wait_for_the_others, tmp_path, MAX_QUEUED_PER_WORKER), range(3 * MAX_QUEUED_PER_WORKER), 2, never
    )
    assert list(answers) == [True] * 3 * MAX_QUEUED_PER_WORKER


def test_thousands_of_items_are_not_read_far_ahead() -> None:
    read = 0

    def items() -> Iterator[int]:
        nonlocal read
        while read < 5000:
            read += 1
            yield read

    for given, answer in enumerate(map_ordered(abs, items(), 2, never), start=1):
        assert answer == given
        assert read <= given + 2 * MAX_QUEUED_PER_WORKER
    assert given == read == 5000


def test_a_worker_that_dies_costs_what_it_had_in_hand_and_nothing_else() -> None:
    deaths = {0: signal.SIGSEGV, 7: signal.SIGKILL, 8: -3, 9: signal.SIGABRT, 19: signal.SIGBUS}
    names = {item: number.name if number > 0 else f"status {-number}" for item, number in deaths.items()}
    answers = list(map_ordered(partial(die, deaths), range(20), 2, lost))
    assert answers == [f"{item}: {names[item]}" if item in names else item for item in range(20)]


def test_a_worker_that_dies_with_nothing_in_hand_costs_nothing() -> None:
    worker = Worker(square, Limits())
    assert worker.ask(2) == 4
    assert worker._process is not None
    worker._process.kill()
    worker._process.join()
    assert worker.ask(3) == 9
    worker.kill()
    worker.bury()


def test_what_needs_more_memory_than_there_is_costs_itself_alone() -> None:
    assert list(map_ordered(exhaust, range(3), 1, lost)) == [0, "1: MemoryError", 2]


@pytest.mark.parametrize("how", ["sleep", "in C"])
def test_what_hangs_is_given_up_and_the_next_is_answered(how: str) -> None:
    answers = list(map_ordered(partial(hang, how), range(3), 1, told, Limits(seconds=1.5)))
    assert answers == [0, "timeout: 1.5 s", 2]


def test_the_time_of_an_item_begins_when_a_worker_has_it() -> None:
    assert list(map_ordered(square, [3] * 200, 1, never, Limits(seconds=1.5))) == [9] * 200


def test_what_eats_memory_is_given_up_and_the_next_is_answered() -> None:
    answers = list(map_ordered(devour, range(3), 1, told, Limits(memory=300_000_000)))
    assert answers == [0, "memory: more than 300 MB", 2]


def test_where_nobody_tells_memory_is_not_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "Path", lambda _: Path("there is no such system"))
    assert list(map_ordered(devour, [0], 1, never, Limits(memory=1))) == [0]


def test_what_nobody_expected_costs_itself_alone_and_says_where_it_was() -> None:
    one, two, three = map_ordered(blunder, range(3), 1, told)
    assert (one, three) == (-1, 1)
    assert two.startswith("crashed: ZeroDivisionError: integer division or modulo by zero, test_worker_pool.py line ")


def test_a_worker_that_never_begins_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "_STARTUP_TIMEOUT_S", 0.5)
    with pytest.raises(UsageError, match=r"ended before its first clip \(0.5 s\)"):
        list(map_ordered(Loading(time.sleep, 60), range(2), 1, never))


def test_a_process_that_is_prepared_is_the_first_worker() -> None:
    prestart_worker("colorsys", "quopri")
    (first,) = [process.pid for process in multiprocessing.active_children()]
    found = list(map_ordered(imported, ["colorsys", "quopri", "tabnanny"], 1, never))
    assert found == [(first, True), (first, True), (first, False)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_process_that_nobody_needed_is_not_left_behind(jobs: int) -> None:
    prestart_worker("colorsys")
    assert list(map_ordered(square, [], jobs, never)) == []


def test_a_process_is_prepared_with_interrupts_left_to_its_parent() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    prestart_worker("colorsys")
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert list(map_ordered(heeds_interrupts, [0], 1, never)) == [False]


def test_what_work_raises_comes_in_its_turn_with_where_it_was_raised() -> None:
    answers = map_ordered(fail, range(100), 2, never)
    assert [next(answers), next(answers)] == [0, 1]
    with pytest.raises(OutputError, match="full") as raised:
        next(answers)
    assert "in fail" in raised.value.__notes__[0]


def test_what_the_items_raise_is_raised() -> None:
    with pytest.raises(LookupError, match="broke off"):
        list(map_ordered(square, breaking_off(), 1, never))


def test_what_cannot_be_loaded_is_told() -> None:
    with pytest.raises(ChecksumMismatch, match="replaced"):
        list(map_ordered(Loading(refuse), range(9), 2, never))


def test_workers_that_die_before_they_can_work_end_it_all() -> None:
    with pytest.raises(UsageError, match=r"before its first clip \(status 5\).*--jobs"):
        list(map_ordered(Loading(os._exit, 5), range(9), 2, never))


def test_leaving_early_does_not_wait_for_what_is_being_worked_on_and_begins_nothing_more(tmp_path: Path) -> None:
    answers = map_ordered(partial(sleep, tmp_path), range(10), 2, never)
    assert next(answers) == 0
    assert seen(tmp_path, 3)
    started = time.monotonic()
    answers.close()
    assert time.monotonic() - started < 10
    assert sorted(os.listdir(tmp_path)) == ["0", "1", "2"]


def test_leaving_at_once_leaves_nothing_behind(tmp_path: Path) -> None:
    answers = map_ordered(square, range(3), 3, never)
    assert next(answers) == 0
    answers.close()
    map_ordered(square, range(3), 3, never).close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_process_that_started_them(number: int, tmp_path: Path) -> None:
    code = (
        "from functools import partial; from pathlib import Path; from test_worker_pool import *;"
        f"list(ordered(partial(sleep, Path({str(tmp_path)!r})), range(3), 2, never))"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, start_new_session=True, stderr=subprocess.PIPE
    )
    assert seen(tmp_path, 3)
    assert len(child_processes.alive(run.pid)) >= 3
    run.send_signal(number)
    assert child_processes.gone(run.pid)
    assert run.communicate(timeout=10)[1] == b""


@contextmanager
def serving(work: Callable[[int], int]) -> Iterator[Connection]:
    """A worker in this process, which has its work."""
    ours, theirs = multiprocessing.Pipe()
    ended: list[type[BaseException]] = []

    def serve() -> None:
        try:
            _serve(theirs)
        except EOFError as error:
            ended.append(type(error))

    thread = threading.Thread(target=serve)
    thread.start()
    with theirs:
        with ours:
            ours.send(work)
            assert ours.recv() is None
            yield ours
        thread.join(10)
    assert ended == [EOFError]


def test_a_worker_loads_its_work_and_answers_until_the_pipe_is_closed() -> None:
    with serving(fail) as pipe:
        for item in (1, 2, 3):
            pipe.send(item)
        assert pipe.recv() == (1, None)
        answer, problem = pipe.recv()
        assert (answer, type(problem)) == (None, OutputError)
        assert pipe.recv() == (3, None)


@pytest.mark.parametrize(
    ("work", "code", "said"),
    [(exhaust, "memory", "MemoryError"), (blunder, "crashed", "ZeroDivisionError: .*, test_worker_pool.py line")],
)
def test_a_worker_tells_what_an_item_did_to_it_and_goes_on(work: Callable[[int], int], code: str, said: str) -> None:
    with serving(work) as pipe:
        pipe.send(1)
        pipe.send(0)
        answer, death = pipe.recv()
        assert (answer, death.problem("a.mp4").code) == (None, code)
        assert re.match(said, str(death))
        assert pipe.recv()[1] is None


def test_a_worker_that_cannot_load_its_work_says_why_and_ends() -> None:
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        ours.send(Loading(refuse))
        _serve(theirs)
        assert isinstance(ours.recv(), ChecksumMismatch)


@pytest.mark.parametrize(
    ("death", "code", "said"),
    [
        (WorkerDied("SIGSEGV"), "crashed", r"crashed on a\.mp4 \(SIGSEGV\); convert it"),
        (WorkerDied("status 1"), "crashed", r"\(status 1\)"),
        (WorkerDied("SIGKILL"), "crashed", r"a\.mp4 ended its process \(SIGKILL\).*memory.*--jobs"),
        (WorkerDied("60 s", TimedOut), "timeout", r"a\.mp4 was not answered within 60 s.*--timeout.*--end"),
        (
            WorkerDied("MemoryError", OutOfMemory),
            "memory",
            r"a\.mp4 took too much memory \(MemoryError\).*--memory.*--jobs",
        ),
    ],
)
def test_a_death_is_an_error_of_its_file(death: WorkerDied, code: str, said: str) -> None:
    problem = death.problem("a.mp4")
    assert problem.code == code
    assert re.search(said, problem.message)


def last_or_first(number: int) -> int:
    if not number:
        time.sleep(0.5)
    if number == 3:
        os.kill(os.getpid(), 9)
    return number


def test_answers_come_when_they_are_ready_and_not_in_turn() -> None:
    def items() -> Iterator[int | None]:
        yield from (None, 0, 1, None, 2, 3)
        deadline = time.monotonic() + 20
        while len(found) < 4 and time.monotonic() < deadline:
            yield None
            time.sleep(0.01)
        yield 4

    found: list[int] = []
    for answer in map_unordered(last_or_first, items(), 2, lambda number, death: -number):
        found.append(answer)  # noqa: PERF402  items look at it
    assert (sorted(found), found[-1]) == ([-3, 0, 1, 2, 4], 4)
    assert found[0] != 0


def test_no_more_than_some_wait_for_an_answer_even_if_nobody_pauses() -> None:
    begun: list[int] = []

    def items() -> Iterator[int]:
        for number in range(MAX_QUEUED_PER_WORKER + 20):
            begun.append(number)
            yield number

    answers = map_unordered(abs, items(), 1, never)
    first = next(answers)
    assert len(begun) <= MAX_QUEUED_PER_WORKER
    assert sorted([first, *answers]) == list(range(MAX_QUEUED_PER_WORKER + 20))
