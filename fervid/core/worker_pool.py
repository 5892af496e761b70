"""Work on many things at a time in processes, with the answers in order.

Decoders and models are C libraries, which can bring down the process that they run in. So each worker has a pipe of its
own and no lock with the others: the one whose pipe closes is the one that died, and only what it had in hand is lost.
So it is with one that takes too long or too much memory, which is killed.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from queue import LifoQueue
from typing import Any, NoReturn, TypeVar

from fervid.core.errors import FervidError, InputError, OutOfMemory, TimedOut, UsageError, WorkerCrashed

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")

MAX_QUEUED_PER_WORKER = (
    64  # items for each worker that may be answered before their turn, so that a slow one does not hold them back
)
_STARTUP_TIMEOUT_S = 300.0  # seconds in which a worker has to import and load what it needs
_POLL_S = 0.1  # seconds from one look at what a worker has used to the next
_PAGE = os.sysconf("SC_PAGE_SIZE")
_NAMES = {-number: number.name for number in signal.Signals}
_SPAWN = get_context("spawn")  # a fork would share the threads and locks of models that are loaded already
_spawn_lock = threading.Lock()  # starting a process waits for whichever has ended, and two may not wait for the same
_prestarted: list[tuple[SpawnProcess, Connection]] = []  # started before there is work for them


@dataclass(frozen=True, slots=True)
class Limits:
    """What an item may cost before its worker is killed; None for any amount.

    Attributes:
        seconds: From when a worker has it in hand.
        memory: Bytes that the worker holds at a time, everything counted. Only Linux tells; elsewhere nothing is
            limited.
    """

    seconds: float | None = None
    memory: int | None = None


class WorkerDied(Exception):
    """A worker ended, or was ended, with an item in hand."""

    def __init__(self, how: str, kind: type[InputError] = WorkerCrashed) -> None:
        """Say how.

        Args:
            how: The signal or the limit, as `SIGSEGV` or `60 s`.
            kind: What error this is of the item.
        """
        super().__init__(how, kind)
        self._how, self._kind = how, kind

    def __str__(self) -> str:
        return self._how

    def problem(self, name: object) -> InputError:
        """The error of the file that the worker had in hand.

        Args:
            name: The file.
        """
        if self._kind is TimedOut:
            return TimedOut(
                f"{name} was not answered within {self}; allow more with --timeout, or take a part of it with --end"
            )
        if self._kind is OutOfMemory:
            return OutOfMemory(
                f"{name} took too much memory ({self}); allow more with --memory, try fewer --jobs, or cut it"
            )
        if self._how == "SIGKILL":
            return WorkerCrashed(
                f"{name} ended its process ({self}), as happens when memory runs out; try fewer --jobs, or cut it"
            )
        return WorkerCrashed(
            f"the decoder or a model crashed on {name} ({self}); convert it, as to H.264 in mp4, or report it"
        )


def map_ordered(
    work: Callable[[_Item], _Answer],
    items: Iterable[_Item],
    jobs: int,
    lost: Callable[[_Item, WorkerDied], _Answer],
    limits: Limits = Limits(),
) -> Generator[_Answer]:
    """What `work` makes of each item, in the order of the items.

    At most `MAX_QUEUED_PER_WORKER` items a worker are read ahead, so memory does not grow with their number.
    When the iterator is closed the workers are killed, and when this process dies they end by themselves.

    Args:
        work: Sent to each worker once, and so loads there once what it needs.
        items: What to work on, a few hundred bytes each.
        jobs: Processes at the same time, each started when it is first needed; 0 works in this process, which nothing
            limits and which any crash ends.
        lost: What to answer for an item at which a worker died. One that raises what is no `FervidError` did too.
        limits: What an item may cost.

    Raises:
        UsageError: A worker died before it could work on anything.
    """
    if not jobs:
        yield from map(work, items)
        return
    with _pool(work, jobs, lost, limits) as ask:
        waiting: deque[Future[_Answer]] = deque()
        for item in items:
            waiting.append(ask(item))
            while waiting and (waiting[0].done() or len(waiting) >= MAX_QUEUED_PER_WORKER * jobs):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def map_unordered(
    work: Callable[[_Item], _Answer],
    items: Iterable[_Item | None],
    jobs: int,
    lost: Callable[[_Item, WorkerDied], _Answer],
    limits: Limits = Limits(),
) -> Generator[_Answer]:
    """What `work` makes of each item, as soon as it is made; of items that may come for ever.

    Args:
        work: As for `map_ordered`, and so are all but the next.
        items: What to work on; None in between, whenever what is ready should be given.
        jobs: Processes; 0 works in this one.
        lost: What to answer for an item at which a worker died.
        limits: What an item may cost.

    Raises:
        UsageError: As `map_ordered`.
    """
    if not jobs:
        yield from (work(item) for item in items if item is not None)
        return
    with _pool(work, jobs, lost, limits) as ask:
        working: set[Future[_Answer]] = set()
        for item in items:
            if item is not None:
                working.add(ask(item))
            full = len(working) >= MAX_QUEUED_PER_WORKER * jobs
            ready, working = wait(working, None if full else 0, FIRST_COMPLETED)
            yield from (future.result() for future in ready)
        yield from (future.result() for future in as_completed(working))


@contextmanager
def _pool(
    work: Callable[[_Item], _Answer], jobs: int, lost: Callable[[_Item, WorkerDied], _Answer], limits: Limits
) -> Iterator[Callable[[_Item], Future[_Answer]]]:
    """Processes, as long as the block lasts; what it is given asks the next idle one."""
    workers = [Worker(work, limits) for _ in range(jobs)]
    idle: LifoQueue[Worker] = LifoQueue()
    for worker in workers:
        idle.put(worker)

    def ask(item: _Item) -> _Answer:
        worker = idle.get()
        try:
            answer: _Answer = worker.ask(item)
            return answer
        except WorkerDied as death:
            return lost(item, death)
        finally:
            idle.put(worker)

    threads = ThreadPoolExecutor(jobs, thread_name_prefix="fervid")  # each waits for the worker that it has asked
    try:
        yield lambda item: threads.submit(ask, item)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.kill()
        threads.shutdown()
        for worker in workers:
            worker.bury()
        _stop_prestarted()


def prestart_worker(*modules: str) -> None:
    """Start a process that imports modules, so that the first worker of `map_ordered` need not wait for that."""
    with _spawn_lock:
        _prestarted.append(_spawn(*modules))


class Worker:
    """A process that is started when it is first asked, and anew when it has died; asked from one thread at a time."""

    def __init__(self, work: object, limits: Limits) -> None:
        """Start nothing yet.

        Args:
            work: Sent to the process, which calls what arrives there with each item.
            limits: What an item may cost.
        """
        self._work, self._limits = work, limits
        self._process: SpawnProcess | None = None
        self._pipe: Connection
        self._wanted = True

    def ask(self, item: Any) -> Any:
        """What the process makes of an item; raises what `work` raises there.

        Raises:
            Died: There will be no answer.
            UsageError: The process died before it was ready.
        """
        with _spawn_lock:
            ended = self._process is not None and not self._process.is_alive()
        if ended:  # while it had nothing to do, which no item is to blame for
            self.bury()
        if self._process is None:
            self.start()
        answer, error = self._exchange(item, self._limits)
        if error is not None:
            raise error
        return answer

    def kill(self) -> None:
        """Stop at once and for good."""
        with _spawn_lock:
            self._wanted = False
            if self._process is not None:
                self._process.kill()

    def bury(self) -> str:
        """Leave no zombie of a process that is ending; how it ended."""
        with _spawn_lock:
            process, self._process = self._process, None
            if process is None:
                return "never begun"
            process.join(1)
            process.kill()  # it may have closed its pipe and gone on
            process.join()
            code = process.exitcode
            process.close()
            self._pipe.close()
        return _NAMES.get(code or 0, f"status {code}")

    def start(self) -> None:
        """Begin now, not when it is first asked.

        Raises:
            Died: It was stopped for good.
            UsageError: The process died before it was ready; or whatever `work` raises when it arrives.
        """
        with _spawn_lock:
            if not self._wanted:
                raise WorkerDied("stopped")
            self._process, self._pipe = _prestarted.pop() if _prestarted else _spawn()
        try:
            error = self._exchange(self._work, Limits(_STARTUP_TIMEOUT_S))
        except WorkerDied as death:
            raise UsageError(
                f"a worker process ended before its first clip ({death}); try fewer --jobs, or more memory"
            ) from None
        if error is not None:
            self.bury()
            raise error

    def _exchange(self, message: Any, limits: Limits) -> Any:
        """What the process says to a message.

        Raises:
            Died: It says nothing, or not within the limits.
        """
        end = time.monotonic() + (limits.seconds or math.inf)
        try:
            self._pipe.send(message)
            while not self._pipe.poll(_POLL_S):
                if time.monotonic() > end:
                    self._end(f"{limits.seconds:g} s", TimedOut)
                if limits.memory and self._process and _rss_bytes(self._process) > limits.memory:
                    self._end(f"more than {limits.memory / 1e6:g} MB", OutOfMemory)
            return self._pipe.recv()
        except (EOFError, OSError):
            raise WorkerDied(self.bury()) from None

    def _end(self, how: str, kind: type[InputError]) -> NoReturn:
        if self._process is not None:
            self._process.kill()
        self.bury()
        raise WorkerDied(how, kind)


def _spawn(*modules: str) -> tuple[SpawnProcess, Connection]:
    resource_tracker.ensure_running()  # to start it later would take the mask off again
    ours, theirs = _SPAWN.Pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited: to stop workers is our business
    try:
        with theirs:
            process = _SPAWN.Process(target=_worker_main, args=(theirs, modules), name="fervid-worker", daemon=True)
            process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process, ours


def _stop_prestarted() -> None:
    """Leave no process that nobody needed."""
    with _spawn_lock:
        while _prestarted:
            process, pipe = _prestarted.pop()
            process.kill()
            process.join()
            process.close()
            pipe.close()


def _rss_bytes(process: SpawnProcess) -> int:
    """Bytes of memory; 0 where nobody tells."""
    try:
        return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _worker_main(pipe: Connection, modules: Sequence[str]) -> None:
    """Where a worker begins."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    for module in modules:
        import_module(module)
    with suppress(EOFError, OSError):
        _serve(pipe)


def _exit_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _serve(pipe: Connection) -> None:
    """Receive the work, say that it is here, and answer item after item."""
    try:
        work = pipe.recv()
    except Exception as error:  # noqa: BLE001  raised where the first item is asked for
        pipe.send(_with_traceback(error))
        return
    pipe.send(None)
    while True:
        item = pipe.recv()
        problem: Exception | None = None
        answer = None
        try:
            answer = work(item)
        except FervidError as error:
            problem = _with_traceback(error)
        except MemoryError:
            problem = WorkerDied("MemoryError", OutOfMemory)
        except Exception as error:  # noqa: BLE001  nobody expected it: what this item did to us, and to no other
            where = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__}: {error}, {Path(where.filename).name} line {where.lineno}"
            problem = WorkerDied(" ".join(what.split()))
        pipe.send((answer, problem))


def _with_traceback(error: Exception) -> Exception:
    """With its traceback, which would stay behind."""
    error.add_note("".join(traceback.format_exception(error)))
    return error
