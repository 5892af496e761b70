"""Work on many things at a time in processes, with the answers in order.

Decoders and models are C libraries, which can bring down the process that they run in. So each worker has a pipe of its
own and no lock with the others: the one whose pipe closes is the one that died, and only what it had in hand is lost.
"""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from queue import LifoQueue
from typing import Any, TypeVar

from fervid.errors import Crashed, UsageError

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")

AHEAD = 64  # items for each worker that may be answered before their turn, so that a slow one does not hold them back
_NAMES = {-number: number.name for number in signal.Signals}
_SPAWN = get_context("spawn")  # a fork would share the threads and locks of models that are loaded already
_births = threading.Lock()  # starting a process waits for whichever has ended, and two may not wait for the same


def ordered(
    work: Callable[[_Item], _Answer], items: Iterable[_Item], jobs: int, lost: Callable[[_Item, str], _Answer]
) -> Generator[_Answer]:
    """What `work` makes of each item, in the order of the items.

    No more than `AHEAD` items for each worker are read ahead, so memory does not grow with their number. When the
    iterator is closed the workers are killed, and when this process dies they end by themselves.

    Args:
        work: Sent to each worker once, and so loads there once what it needs.
        items: What to work on, a few hundred bytes each.
        jobs: Processes at the same time, each started when it is first needed; 0 works in this process.
        lost: What to answer for an item at which a worker died, and how it did, as `SIGSEGV`.

    Raises:
        UsageError: A worker died before it could work on anything.
    """
    if not jobs:
        yield from map(work, items)
        return
    workers = [_Worker(work) for _ in range(jobs)]
    idle: LifoQueue[_Worker] = LifoQueue()
    for worker in workers:
        idle.put(worker)

    def ask(item: _Item) -> _Answer:
        worker = idle.get()
        try:
            answer: _Answer = worker.ask(item)
            return answer
        except _Died as death:
            return lost(item, str(death))
        finally:
            idle.put(worker)

    waiting: deque[Future[_Answer]] = deque()
    threads = ThreadPoolExecutor(jobs, thread_name_prefix="fervid")  # each waits for the worker that it has asked
    try:
        for item in items:
            waiting.append(threads.submit(ask, item))
            while waiting and (waiting[0].done() or len(waiting) >= AHEAD * jobs):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.kill()
        threads.shutdown()
        for worker in workers:
            worker.bury()


def crash(name: object, how: str) -> Crashed:
    """The error of the file at which a worker died.

    Args:
        name: The file.
        how: As `ordered` tells it.
    """
    if how in ("SIGKILL", "MemoryError"):
        return Crashed(
            f"{name} ended its process ({how}), as happens when memory runs out; try fewer --jobs, or cut it"
        )
    return Crashed(f"the decoder or a model crashed on {name} ({how}); convert it, as to H.264 in mp4, or report it")


class _Died(Exception):
    """The worker died, and how."""


class _Worker:
    """A process that is started when it is first asked, and anew when it has died; asked from one thread at a time."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self._work = work
        self._process: SpawnProcess | None = None
        self._pipe: Connection
        self._wanted = True

    def ask(self, item: Any) -> Any:
        """What the process makes of an item; raises what `work` raises there.

        Raises:
            _Died: There will be no answer.
            UsageError: The process died before it was ready.
        """
        if self._process is None:
            self._start()
        try:
            self._pipe.send(item)
            answer, error = self._pipe.recv()
        except (EOFError, OSError):
            raise _Died(self.bury()) from None
        if isinstance(error, MemoryError):
            raise _Died("MemoryError")
        if error is not None:
            raise error
        return answer

    def kill(self) -> None:
        """Stop at once and for good."""
        with _births:
            self._wanted = False
            if self._process is not None:
                self._process.kill()

    def bury(self) -> str:
        """Leave no zombie of a process that is ending; how it ended."""
        with _births:
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

    def _start(self) -> None:
        with _births:
            if not self._wanted:
                raise _Died("stopped")
            resource_tracker.ensure_running()  # to start it later would take the mask off again
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited: to stop workers is our business
            self._pipe, theirs = _SPAWN.Pipe()
            with theirs:
                process = _SPAWN.Process(target=_main, args=(theirs,), name="fervid-worker", daemon=True)
                process.start()
            self._process = process
        try:
            self._pipe.send(self._work)
            error = self._pipe.recv()
        except (EOFError, OSError):
            how = self.bury()
            raise UsageError(
                f"a worker process ended before its first clip ({how}); try fewer --jobs, or more memory"
            ) from None
        if error is not None:
            self.bury()
            raise error


def _main(pipe: Connection) -> None:
    """Where a worker begins."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    with suppress(EOFError, OSError):
        _serve(pipe)


def _leave_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _serve(pipe: Connection) -> None:
    """Receive the work, say that it is here, and answer item after item."""
    try:
        work = pipe.recv()
    except Exception as error:  # noqa: BLE001  raised where the first item is asked for
        pipe.send(_told(error))
        return
    pipe.send(None)
    while True:
        item = pipe.recv()
        try:
            answer, problem = work(item), None
        except Exception as error:  # noqa: BLE001  raised where the answer is asked for
            answer, problem = None, _told(error)
        pipe.send((answer, problem))


def _told(error: Exception) -> Exception:
    """With its traceback, which would stay behind."""
    error.add_note("".join(traceback.format_exception(error)))
    return error
