"""Parallel map over processes that survives crashes, timeouts and excessive memory use.

Decoders and models are C libraries, which can crash the process that they run in. Each worker process has a pipe of
its own and shares no lock with the others: if its pipe closes, that worker died, and only its current item is lost.
Workers that exceed a limit are killed, with the same effect.

::

    map_ordered / map_unordered      reads items, gives results
      └─ _pool                       one thread per worker process; each item takes an idle worker from a LIFO queue
           └─ WorkerProcess.call     sends the item through the pipe, waits for the result or a limit
                └─ _worker_main      in the process: receives the function once, then item after item
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager
from queue import LifoQueue
from typing import TypeVar

from fervid.core.worker_process import NO_LIMITS, Limits, WorkerDied, WorkerProcess, stop_prestarted

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

MAX_QUEUED_PER_WORKER = 64
"""Items per worker that are read ahead of the next result, so that a slow item does not block the other workers."""


def map_ordered(
    work: Callable[[_Item], _Result],
    items: Iterable[_Item],
    jobs: int,
    on_death: Callable[[_Item, WorkerDied], _Result],
    limits: Limits = NO_LIMITS,
) -> Generator[_Result]:
    """Apply a function to each item in worker processes; results come in the order of the items.

    At most `MAX_QUEUED_PER_WORKER` items per worker are read ahead, so memory use does not depend on their number.
    Closing the generator kills the workers. If this process dies, the workers exit by themselves.

    Args:
        work: The function, pickled once per worker, so that unpickling can load what it needs.
        items: The items, pickled; a few hundred bytes each.
        jobs: Number of processes, each started when first needed; 0 works in this process, without limits and without
            protection from crashes.
        on_death: Gives the result of an item at which the worker died, or raised anything but a `FervidError`.
        limits: What an item may cost.

    Raises:
        UsageError: A worker died before its first item.
        FervidError: Raised by `work`.
    """
    if not jobs:
        yield from map(work, items)
        return
    with _pool(work, jobs, on_death, limits) as submit:
        waiting: deque[Future[_Result]] = deque()
        for item in items:
            waiting.append(submit(item))
            while waiting and (waiting[0].done() or len(waiting) >= MAX_QUEUED_PER_WORKER * jobs):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def map_unordered(
    work: Callable[[_Item], _Result],
    items: Iterable[_Item | None],
    jobs: int,
    on_death: Callable[[_Item, WorkerDied], _Result],
    limits: Limits = NO_LIMITS,
) -> Generator[_Result]:
    """Apply a function to each item in worker processes; results come as soon as they are ready.

    Args:
        work: As for `map_ordered`.
        items: The items, possibly without end; None gives the results that are ready without adding an item.
        jobs: Number of processes; 0 works in this process.
        on_death: As for `map_ordered`.
        limits: What an item may cost.

    Raises:
        UsageError, FervidError: As `map_ordered`.
    """
    if not jobs:
        yield from (work(item) for item in items if item is not None)
        return
    with _pool(work, jobs, on_death, limits) as submit:
        running: set[Future[_Result]] = set()
        for item in items:
            if item is not None:
                running.add(submit(item))
            full = len(running) >= MAX_QUEUED_PER_WORKER * jobs
            ready, running = wait(running, None if full else 0, FIRST_COMPLETED)
            yield from (future.result() for future in ready)
        yield from (future.result() for future in as_completed(running))


@contextmanager
def _pool(
    work: Callable[[_Item], _Result], jobs: int, on_death: Callable[[_Item, WorkerDied], _Result], limits: Limits
) -> Iterator[Callable[[_Item], Future[_Result]]]:
    """Create worker processes, and stop them at the end; yield the function that submits an item."""
    workers = [WorkerProcess(work, limits) for _ in range(jobs)]
    idle: LifoQueue[WorkerProcess] = LifoQueue()  # the last one used is reused first, so that no more start than needed
    for worker in workers:
        idle.put(worker)

    def call(item: _Item) -> _Result:
        worker = idle.get()
        try:
            result: _Result = worker.call(item)
            return result
        except WorkerDied as death:
            return on_death(item, death)
        finally:
            idle.put(worker)

    threads = ThreadPoolExecutor(jobs, thread_name_prefix="fervid")  # each waits for one worker at a time
    try:
        yield lambda item: threads.submit(call, item)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.stop()
        threads.shutdown()
        for worker in workers:
            worker.reap()
        stop_prestarted()
