"""What signals do while a process is being started."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

MAX_START_S = 5.0
"""Maximum seconds for which the end of this process waits for the start of another."""
_starting = threading.Lock()


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Handle SIGINT and SIGTERM afterwards, because a half-started process prints a traceback when its parent ends.

    A signal mask would not do: another thread may receive the signal, and the main thread handles it in any case.
    Threads other than the main thread handle no signals; `prevent_process_starts` waits for them.
    """
    if threading.current_thread() is not threading.main_thread():
        with _starting:
            yield
        return
    received: list[signal.Signals] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in handlers.items():
        if handler is not None:  # None: not installed by Python, so it could not be restored
            signal.signal(number, lambda number, _: received.append(signal.Signals(number)))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)
        for number in received:
            signal.raise_signal(number)


def prevent_process_starts() -> None:
    """Wait until no thread is starting a process, and let none start another, before this process ends at once."""
    _starting.acquire(timeout=MAX_START_S)


@contextmanager
def sigint_blocked() -> Iterator[None]:
    """Block SIGINT in this thread, which new processes inherit, on systems that have signal masks."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows: the process ignores it as soon as it runs
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
