"""Prefetching: a generator that runs ahead in a thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from typing import TypeVar

_Item = TypeVar("_Item")


def prefetch(items: Generator[_Item], capacity: int, cost: Callable[[_Item], int] = lambda item: 1) -> Generator[_Item]:
    """Run a generator ahead in a thread, which is joined when this generator ends or is closed.

    An error of the generator is raised after all items before it.

    Args:
        items: The generator.
        capacity: The thread pauses while the total cost of the waiting items is at least this.
        cost: Returns the cost of an item, such as its bytes.
    """
    changed = threading.Condition()
    waiting: deque[_Item] = deque()
    ended: list[BaseException | None] = []  # one entry at the end: the error of the generator, if any
    stop = False

    def run() -> None:
        error = None
        try:
            for item in items:
                with changed:
                    waiting.append(item)
                    changed.notify()
                    changed.wait_for(lambda: stop or sum(map(cost, waiting)) < capacity)
                if stop:
                    break
        except BaseException as raised:  # noqa: BLE001  raised again in the consumer
            error = raised
        finally:
            items.close()
            with changed:
                ended.append(error)
                changed.notify()

    thread = threading.Thread(target=run, name="fervid-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            with changed:
                changed.wait_for(lambda: waiting or ended)
                if not waiting:
                    break
                item = waiting.popleft()
                changed.notify()
            yield item
        if ended[0] is not None:
            raise ended[0]
    finally:
        with changed:
            stop = True
            changed.notify()
        thread.join()
