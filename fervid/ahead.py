"""A generator that runs ahead in a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator
from contextlib import suppress
from typing import TypeVar

_Item = TypeVar("_Item")


def ahead(items: Generator[_Item], depth: int) -> Generator[_Item]:
    """What a generator gives, made in a thread that is at most `depth` items ahead; it is joined on every path.

    What the generator raises is raised here, after everything that came before it.
    """
    ready: queue.Queue[tuple[_Item] | BaseException | None] = queue.Queue(depth)
    stop = threading.Event()

    def offer(item: tuple[_Item] | BaseException | None) -> None:
        while not stop.is_set():
            with suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def work() -> None:
        try:
            for item in items:
                offer((item,))
                if stop.is_set():
                    break
            offer(None)
        except BaseException as error:  # noqa: BLE001  handed over whole and raised where the items are asked for
            offer(error)
        finally:
            items.close()

    thread = threading.Thread(target=work, name="fervid-ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]
    finally:
        stop.set()
        thread.join()
