"""Work on many things at a time, with the answers in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


def ordered(work: Callable[[_Item], _Answer], items: Iterable[_Item], jobs: int) -> Iterator[_Answer]:
    """What `work` makes of each item, in the order of the items.

    No more than twice as many items as there are workers are read ahead, so memory does not grow with their number.

    Args:
        work: Called in threads, `jobs` at a time; in this one if `jobs` is 1.
        items: What to work on.
        jobs: Items at the same time.
    """
    if jobs == 1:
        yield from map(work, items)
        return
    waiting: deque[Future[_Answer]] = deque()
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="fervid")
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= 2 * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
