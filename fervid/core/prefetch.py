"""Prefetching: a generator that runs ahead in a thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
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


@dataclass(slots=True, eq=False)
class _Buffer(Generic[_Item]):
    """The items between the thread and the consumer; the first fields are arguments of `prefetch`."""

    capacity: int
    cost: Callable[[_Item], int]
    max_wait: Callable[[_Item], float] | None
    on_drop: Callable[[_Item], None]
    changed: threading.Condition = field(default_factory=threading.Condition)
    waiting: deque[_Item] = field(default_factory=deque)
    ended: list[BaseException | None] = field(default_factory=list)  # one entry at the end: the error, if any
    stopped: bool = False

    def fill(self, items: Generator[_Item]) -> None:
        error = None
        try:
            for item in items:
                self._put(item)
                if self.stopped:
                    break
        except BaseException as raised:  # noqa: BLE001  raised again in the consumer
            error = raised
        finally:
            items.close()
            with self.changed:
                self.ended.append(error)
                self.changed.notify()

    def take(self) -> Generator[_Item]:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.waiting or self.ended)
                if not self.waiting:
                    break
                item = self.waiting.popleft()
                self.changed.notify()
            yield item
        if self.ended[0] is not None:
            raise self.ended[0]

    def stop(self) -> None:
        with self.changed:
            self.stopped = True
            self.changed.notify()

    def _put(self, item: _Item) -> None:
        with self.changed:
            if self.max_wait and not self.changed.wait_for(self._has_room, self.max_wait(item)):
                while self.waiting:
                    self.on_drop(self.waiting.popleft())
            self.waiting.append(item)
            self.changed.notify()
            if not self.max_wait:
                self.changed.wait_for(self._has_room)

    def _has_room(self) -> bool:
        return self.stopped or sum(map(self.cost, self.waiting)) < self.capacity
