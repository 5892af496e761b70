"""Order of results, bounded read-ahead, deaths of workers, limits, and no process left behind."""

from __future__ import annotations

import multiprocessing.resource_tracker
import multiprocessing.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest

import child_processes
from fervid.core import signals, worker_process
from fervid.core.errors import ChecksumMismatch, OutOfMemory, OutputError, TimedOut, UsageError
from fervid.core.worker_pool import MAX_QUEUED_PER_WORKER, map_ordered, map_unordered
from fervid.core.worker_process import Limits, WorkerDied, WorkerProcess, prestart_worker, serve
from worker_functions import (
    RunsWhenUnpickled,
    accepts_interrupts,
    allocate,
    code_of_death,
    delay_or_die,
    describe_death,
    die,
    divide_by_zero,
    exhaust,
    fail,
    hang,
    meet_others,
    pid_and_is_imported,
    raise_checksum_mismatch,
    sleep,
    square,
    unexpected_death,
    wait_for_files,
    wait_for_the_others,
)

# Without workers


@pytest.mark.parametrize("count", [0, 1, 7])
def test_no_jobs_works_lazily_in_process(count: int) -> None:
    done: list[int] = []
    answers = map_ordered(lambda item: (done.append(item), os.getpid())[1], range(count), 0, unexpected_death)
    assert done == []
    for number in range(count):
        assert next(answers) == os.getpid()
        assert done == list(range(number + 1))
    assert list(answers) == []


def test_no_jobs_raises_errors() -> None:
    answers = map_ordered(fail, range(9), 0, unexpected_death)
    assert [next(answers), next(answers)] == [0, 1]
    with pytest.raises(OutputError, match="full"):
        next(answers)
    with pytest.raises(LookupError, match="broke off"):
        list(map_ordered(square, failing_items(), 0, unexpected_death))


def failing_items() -> Iterator[int]:
    yield 1
    raise LookupError("the list broke off")


# With workers


@pytest.fixture(autouse=True)
def no_leftovers() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fervid")]


@pytest.mark.parametrize(("jobs", "count"), [(1, 0), (2, 1), (3, 50)])
def test_results_in_order(jobs: int, count: int) -> None:
    assert list(map_ordered(square, range(count), jobs, unexpected_death)) == [item * item for item in range(count)]


def test_runs_jobs_in_parallel(tmp_path: Path) -> None:
    jobs = 3
    assert all(map_ordered(partial(meet_others, tmp_path, jobs), range(3 * jobs), jobs, unexpected_death))
    assert len(os.listdir(tmp_path)) == jobs
    assert os.getpid() not in map(int, os.listdir(tmp_path))


def test_slow_item_does_not_block_others(tmp_path: Path) -> None:
    answers = map_ordered(
        partial(wait_for_the_others, tmp_path, MAX_QUEUED_PER_WORKER),
        range(3 * MAX_QUEUED_PER_WORKER),
        2,
        unexpected_death,
    )
    assert list(answers) == [True] * 3 * MAX_QUEUED_PER_WORKER


def test_read_ahead_is_bounded() -> None:
    read = 0

    def items() -> Iterator[int]:
        nonlocal read
        while read < 300:
            read += 1
            yield read

    for given, answer in enumerate(map_ordered(abs, items(), 2, unexpected_death), start=1):
        assert answer == given
        assert read <= given + 2 * MAX_QUEUED_PER_WORKER
    assert given == read == 300


def test_death_costs_one_item() -> None:
    deaths = {0: signal.SIGSEGV, 7: signal.SIGKILL, 8: -3, 9: signal.SIGABRT, 19: signal.SIGBUS}
    names = {item: number.name if number > 0 else f"status {-number}" for item, number in deaths.items()}
    answers = list(map_ordered(partial(die, deaths), range(20), 2, describe_death))
    assert answers == [f"{item}: {names[item]}" if item in names else item for item in range(20)]


def test_death_of_idle_worker_costs_nothing() -> None:
    worker = WorkerProcess(square, Limits())
    assert worker.call(2) == 4
    assert worker._process is not None
    worker._process.kill()
    worker._process.join()
    assert worker.call(3) == 9
    worker.stop()
    worker.reap()


def test_memory_error_costs_one_item() -> None:
    assert list(map_ordered(exhaust, range(3), 1, describe_death)) == [0, "1: MemoryError", 2]


def test_timeout_costs_one_item() -> None:
    answers = list(map_ordered(hang, range(3), 1, code_of_death, Limits(seconds=0.5)))
    assert answers == [0, "timeout: 0.5 s", 2]


def test_timeout_starts_when_worker_receives_item() -> None:
    assert list(map_ordered(square, [3] * 80, 1, unexpected_death, Limits(seconds=0.5))) == [9] * 80


def test_memory_limit_costs_one_item() -> None:
    answers = list(map_ordered(allocate, range(3), 1, code_of_death, Limits(memory=300_000_000)))
    assert answers == [0, "memory: more than 300 MB", 2]


def test_unknown_memory_is_below_every_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(pid: int) -> psutil.Process:
        raise psutil.AccessDenied(pid)

    monkeypatch.setattr(psutil, "Process", denied)
    assert list(map_ordered(allocate, [0], 1, unexpected_death, Limits(memory=1))) == [0]


def test_unexpected_error_costs_one_item_and_names_line() -> None:
    one, two, three = map_ordered(divide_by_zero, range(3), 1, code_of_death)
    assert (one, three) == (-1, 1)
    assert two.startswith("crashed: ZeroDivisionError: integer division or modulo by zero, worker_functions.py line ")


def test_startup_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "_STARTUP_TIMEOUT_S", 0.5)
    with pytest.raises(UsageError, match=r"ended before its first clip \(0.5 s\)"):
        list(map_ordered(RunsWhenUnpickled(time.sleep, 60), range(2), 1, unexpected_death))


def test_prestarted_process_is_used_first() -> None:
    prestart_worker("colorsys", "quopri")
    (first,) = [process.pid for process in multiprocessing.active_children()]
    found = list(map_ordered(pid_and_is_imported, ["colorsys", "quopri", "tabnanny"], 1, unexpected_death))
    assert found == [(first, True), (first, True), (first, False)]


def test_unused_prestarted_process_is_stopped() -> None:
    prestart_worker("colorsys")
    assert list(map_ordered(square, [], 2, unexpected_death)) == []


def test_prestarted_process_ignores_interrupts() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    prestart_worker("colorsys")
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert list(map_ordered(accepts_interrupts, [0], 1, unexpected_death)) == [False]


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no signals between processes")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_process_starts_is_handled_afterwards(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted_spawn(*arguments: object) -> int:
        started.append(psutil.Process(spawn(*arguments)))
        signal.raise_signal(number)
        return started[0].pid

    def terminate(*_: object) -> None:
        handled.append(number)
        raise SystemExit(143)

    started: list[psutil.Process] = []
    handled: list[signal.Signals] = []
    multiprocessing.resource_tracker.ensure_running()  # starts a process too
    spawn = multiprocessing.util.spawnv_passfds
    monkeypatch.setattr(multiprocessing.util, "spawnv_passfds", interrupted_spawn)
    previous = signal.signal(number, terminate)
    try:
        with suppress(SystemExit):
            prestart_worker()
    finally:
        signal.signal(number, previous)
    assert handled == [number]
    while multiprocessing.active_children():  # it ends because its pipe was closed
        time.sleep(0.01)
    assert "Traceback" not in capfd.readouterr().err


def test_process_end_waits_until_thread_has_started_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def start() -> None:
        with signals.signals_deferred():
            starting.set()
            started.wait()

    monkeypatch.setattr(signals, "_starting", threading.Lock())
    starting, started = threading.Event(), threading.Event()
    with ThreadPoolExecutor(2) as threads:
        threads.submit(start)
        starting.wait()
        end = threads.submit(signals.prevent_process_starts)
        assert wait([end], 0.05).not_done
        started.set()
        assert end.result() is None


def test_error_of_work_comes_in_order_with_traceback() -> None:
    answers = map_ordered(fail, range(100), 2, unexpected_death)
    assert [next(answers), next(answers)] == [0, 1]
    with pytest.raises(OutputError, match="full") as raised:
        next(answers)
    assert "in fail" in raised.value.__notes__[0]


def test_error_of_items_is_raised() -> None:
    with pytest.raises(LookupError, match="broke off"):
        list(map_ordered(square, failing_items(), 1, unexpected_death))


def test_error_while_unpickling_is_raised() -> None:
    with pytest.raises(ChecksumMismatch, match="replaced"):
        list(map_ordered(RunsWhenUnpickled(raise_checksum_mismatch), range(9), 2, unexpected_death))


def test_death_at_startup_is_usage_error() -> None:
    with pytest.raises(UsageError, match=r"before its first clip \(status 5\).*--jobs"):
        list(map_ordered(RunsWhenUnpickled(os._exit, 5), range(9), 2, unexpected_death))


def test_closing_early_stops_running_items(tmp_path: Path) -> None:
    answers = map_ordered(partial(sleep, tmp_path), range(10), 2, unexpected_death)
    assert next(answers) == 0
    assert wait_for_files(tmp_path, 3)
    started = time.monotonic()
    answers.close()
    assert time.monotonic() - started < 10
    assert sorted(os.listdir(tmp_path)) == ["0", "1", "2"]


def test_closing_at_once(tmp_path: Path) -> None:
    answers = map_ordered(square, range(3), 2, unexpected_death)
    assert next(answers) == 0
    answers.close()
    map_ordered(square, range(3), 2, unexpected_death).close()


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_workers_exit_with_parent(name: str, tmp_path: Path) -> None:
    code = (
        "from functools import partial; from pathlib import Path; from worker_functions import *;"
        "from fervid.core.worker_pool import map_ordered;"
        f"list(map_ordered(partial(sleep, Path({str(tmp_path)!r})), range(3), 2, unexpected_death))"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
        stderr=subprocess.PIPE,
    )
    assert wait_for_files(tmp_path, 3)
    assert len(child_processes.alive(run.pid)) >= 3
    run.send_signal(signal.Signals[name])
    assert child_processes.gone(run.pid)
    assert run.communicate(timeout=10)[1] == b""


@contextmanager
def served(work: Callable[[int], int]) -> Iterator[Connection]:
    """Serve a function in a thread of this process; yield our end of the pipe."""
    ours, theirs = multiprocessing.Pipe()
    ended: list[type[BaseException]] = []

    def run() -> None:
        try:
            serve(theirs)
        except EOFError as error:
            ended.append(type(error))

    thread = threading.Thread(target=run)
    thread.start()
    with theirs:
        with ours:
            ours.send(work)
            assert ours.recv() is None
            yield ours
        thread.join(10)
    assert ended == [EOFError]


def test_serve_until_pipe_closes() -> None:
    with served(fail) as pipe:
        for item in (1, 2, 3):
            pipe.send(item)
        assert pipe.recv() == (1, None)
        answer, problem = pipe.recv()
        assert (answer, type(problem)) == (None, OutputError)
        assert pipe.recv() == (3, None)


@pytest.mark.parametrize(
    ("work", "code", "words"),
    [
        (exhaust, "memory", "MemoryError"),
        (divide_by_zero, "crashed", "ZeroDivisionError: .*, worker_functions.py line"),
    ],
)
def test_serve_reports_error_and_continues(work: Callable[[int], int], code: str, words: str) -> None:
    with served(work) as pipe:
        pipe.send(1)
        pipe.send(0)
        answer, death = pipe.recv()
        assert (answer, death.to_input_error("a.mp4").code) == (None, code)
        assert re.match(words, str(death))
        assert pipe.recv()[1] is None


def test_serve_reports_unpickling_error() -> None:
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        ours.send(RunsWhenUnpickled(raise_checksum_mismatch))
        serve(theirs)
        assert isinstance(ours.recv(), ChecksumMismatch)


@pytest.mark.parametrize(
    ("death", "code", "words"),
    [
        (WorkerDied("SIGSEGV"), "crashed", r"crashed on a\.mp4 \(SIGSEGV\); convert it"),
        (WorkerDied("status 1"), "crashed", r"\(status 1\)"),
        (WorkerDied("SIGKILL"), "crashed", r"a\.mp4 was killed \(SIGKILL\).*memory.*--jobs"),
        (WorkerDied("60 s", TimedOut), "timeout", r"a\.mp4 was not analysed within 60 s.*--timeout.*--end"),
        (
            WorkerDied("MemoryError", OutOfMemory),
            "memory",
            r"a\.mp4 took too much memory \(MemoryError\).*--memory.*--jobs",
        ),
    ],
)
def test_death_as_input_error(death: WorkerDied, code: str, words: str) -> None:
    problem = death.to_input_error("a.mp4")
    assert problem.code == code
    assert re.search(words, problem.message)


def test_unordered_results_come_when_ready() -> None:
    def items() -> Iterator[int | None]:
        yield from (None, 0, 1, None, 2, 3)
        deadline = time.monotonic() + 20
        while len(found) < 4 and time.monotonic() < deadline:
            yield None
            time.sleep(0.01)
        yield 4

    found: list[int] = []
    for answer in map_unordered(delay_or_die, items(), 2, lambda number, death: -number):
        found.append(answer)  # noqa: PERF402  items look at it
    assert (sorted(found), found[-1]) == ([-3, 0, 1, 2, 4], 4)
    assert found[0] != 0


def test_unordered_read_ahead_is_bounded() -> None:
    begun: list[int] = []

    def items() -> Iterator[int]:
        for number in range(MAX_QUEUED_PER_WORKER + 20):
            begun.append(number)
            yield number

    answers = map_unordered(abs, items(), 1, unexpected_death)
    first = next(answers)
    assert len(begun) <= MAX_QUEUED_PER_WORKER
    assert sorted([first, *answers]) == list(range(MAX_QUEUED_PER_WORKER + 20))
