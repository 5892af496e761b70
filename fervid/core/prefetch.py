"""Prefetching: a generator that runs ahead in a thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


def prefetch(
    items: Generator[_Item],
    capacity: int = 1,
    cost: Callable[[_Item], int] = lambda item: 1,
    *,
    max_wait: Callable[[_Item], float] | None = None,
    on_drop: Callable[[_Item], None] = lambda item: None,
) -> Generator[_Item]:
    """Run a generator ahead in a thread. An error of the generator is raised after all items before it.

    Args:
        items: The generator.
        capacity: The thread pauses while the total cost of the waiting items is at least this.
        cost: Returns the cost of an item, such as its bytes.
        max_wait: For live sources: the seconds that an item may wait for room, after which it replaces the waiting
            items. Then the thread is not joined at the end, because a live source may block.
        on_drop: Called in the thread with each item that is replaced.
    """
    buffer = _Buffer(capacity, cost, max_wait, on_drop)
    thread = threading.Thread(
        target=buffer.fill, args=(items,), name="fervid-live" if max_wait else "fervid-prefetch", daemon=True
    )
    thread.start()
    try:
        yield from buffer.take()
    finally:
        buffer.stop()
        if max_wait is None:
            thread.join()


class _Buffer(Generic[_Item]):
    """The items between the thread and the consumer."""

    def __init__(
        self,
        capacity: int,
        cost: Callable[[_Item], int],
        max_wait: Callable[[_Item], float] | None,
        on_drop: Callable[[_Item], None],
    ) -> None:
        self._capacity, self._cost, self._max_wait, self._on_drop = capacity, cost, max_wait, on_drop
        self._changed = threading.Condition()
        self._waiting: deque[_Item] = deque()
        self._ended: list[BaseException | None] = []  # one entry at the end: the error of the generator, if any
        self._stop = False

    def fill(self, items: Generator[_Item]) -> None:
        error = None
        try:
            for item in items:
                self._put(item)
                if self._stop:
                    break
        except BaseException as raised:  # noqa: BLE001  raised again in the consumer
            error = raised
        finally:
            items.close()
            with self._changed:
                self._ended.append(error)
                self._changed.notify()

    def take(self) -> Generator[_Item]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    break
                item = self._waiting.popleft()
                self._changed.notify()
            yield item
        if self._ended[0] is not None:
            raise self._ended[0]

    def stop(self) -> None:
        with self._changed:
            self._stop = True
            self._changed.notify()

    def _put(self, item: _Item) -> None:
        with self._changed:
            if self._max_wait and not self._changed.wait_for(self._has_room, self._max_wait(item)):
                while self._waiting:
                    self._on_drop(self._waiting.popleft())
            self._waiting.append(item)
            self._changed.notify()
            if not self._max_wait:
                self._changed.wait_for(self._has_room)

    def _has_room(self) -> bool:
        return self._stop or sum(map(self._cost, self._waiting)) < self._capacity
