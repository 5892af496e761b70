"""Prefetching: order, capacity, errors and cleanup."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import closing

import pytest

from fervid.core.prefetch import prefetch


class Source:
    """A counting generator that records how far it was read and whether it was closed."""

    def __init__(self, count: int, error: BaseException | None = None) -> None:
        """Prepare to give `count` items, then raise."""
        self.given, self.closed = 0, False
        self.items = self._items(count, error)

    def _items(self, count: int, error: BaseException | None) -> Generator[int | None]:
        try:
            for number in range(count):
                self.given += 1
                yield number or None  # None is an item like any other
            if error is not None:
                raise error
        finally:
            self.closed = True


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "fervid-prefetch"]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 50])
def test_items_keep_order(count: int) -> None:
    source = Source(count)
    assert [item or 0 for item in prefetch(source.items, 2)] == list(range(count))
    assert (source.closed, threads()) == (True, [])


@pytest.mark.parametrize(("capacity", "cost", "most"), [(4, 1, 4), (9, 3, 3), (1, 5, 1)])
def test_capacity_is_respected(capacity: int, cost: int, most: int) -> None:
    source = Source(1000)
    with closing(prefetch(source.items, capacity, lambda item: cost)) as items:
        next(items)
        time.sleep(0.1)
        assert source.given == most + 1  # waiting, and taken
    assert (source.closed, threads()) == (True, [])


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt(), StopAsyncIteration()])
def test_error_comes_after_items(error: BaseException) -> None:
    source, items = Source(3, error), []
    with pytest.raises(type(error)):
        items.extend(prefetch(source.items, 1))
    assert (items, source.closed, threads()) == ([None, 1, 2], True, [])


def test_unused_generator_starts_no_thread() -> None:
    source = Source(3)
    prefetch(source.items, 1).close()
    assert (source.given, threads()) == (0, [])
