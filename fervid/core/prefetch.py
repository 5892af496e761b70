"""A generator that runs ahead in a thread of its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from typing import TypeVar

_Item = TypeVar("_Item")


def prefetch(items: Generator[_Item], room: int, size: Callable[[_Item], int] = lambda item: 1) -> Generator[_Item]:
    """What a generator gives, made in a thread that runs ahead; it is joined on every path.

    What the generator raises is raised here, after everything that came before it.

    Args:
        items: What to run ahead.
        room: No more is made while what waits is as large as that.
        size: Of an item.
    """
    changed = threading.Condition()
    waiting: deque[_Item] = deque()
    ended: list[BaseException | None] = []  # at the end one entry: what was raised, if anything
    stop = False

    def work() -> None:
        error = None
        try:
            for item in items:
                with changed:
                    waiting.append(item)
                    changed.notify()
                    changed.wait_for(lambda: stop or sum(map(size, waiting)) < room)
                if stop:
                    break
        except BaseException as raised:  # noqa: BLE001  handed over whole and raised where the items are asked for
            error = raised
        finally:
            items.close()
            with changed:
                ended.append(error)
                changed.notify()

    thread = threading.Thread(target=work, name="fervid-ahead", daemon=True)
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
