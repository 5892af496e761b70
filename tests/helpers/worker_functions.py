"""Functions that the workers of test_worker_pool run; a worker imports this module and not pytest."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fervid.core.errors import ChecksumMismatch, OutputError
from fervid.core.worker_process import WorkerDied


def square(item: int) -> int:
    time.sleep(0.01 if item % 3 == 0 else 0)
    return item * item


def wait_for_files(path: Path, count: int) -> bool:
    """Wait up to a minute for that many files in a folder; return whether they appeared."""
    deadline = time.monotonic() + 60
    while len(os.listdir(path)) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return len(os.listdir(path)) >= count


def meet_others(folder: Path, count: int, _: int) -> bool:
    (folder / str(os.getpid())).touch()
    return wait_for_files(folder, count)


def wait_for_the_others(folder: Path, count: int, item: int) -> bool:
    if item == 0:
        return wait_for_files(folder, count)
    (folder / str(item)).touch()
    return True


def die(of: dict[int, int], item: int) -> int:
    """Die of the signal of an item, or exit with its negative as the status."""
    with suppress(ImportError):  # Windows writes no core files
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if of.get(item, 0) > 0:
        os.kill(os.getpid(), of[item])
    if item in of:
        os._exit(-of[item])
    return item


def exhaust(item: int) -> int:
    if item == 1:
        raise MemoryError
    return item


def fail(item: int) -> int:
    if item == 2:
        raise OutputError("the disk is full")
    return item


def sleep(folder: Path, item: int) -> int:
    (folder / str(item)).touch()
    time.sleep(0 if item == 0 else 60)
    return item


def hang(item: int) -> int:
    """Hang at item 1 in C code that holds the interpreter lock and ignores signals."""
    if item == 1:
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.Signals)
        re.fullmatch("(a|aa)+b", "a" * 60)
    return item


def allocate(item: int) -> int:
    """Allocate 2 GB slowly for item 1, 20 MB for the others."""
    blocks = [bytearray(b"x" * 10_000_000) for _ in range(200 if item == 1 else 2)]
    time.sleep(30 if item == 1 else 0.3)
    return item * len(blocks[0]) // 10_000_000


def divide_by_zero(item: int) -> int:
    return 1 // (item - 1)


def describe_death(item: int, death: WorkerDied) -> str:
    return f"{item}: {death}"


def code_of_death(item: int, death: WorkerDied) -> str:
    return f"{death.to_input_error(item).code}: {death}"


def unexpected_death(item: object, death: WorkerDied) -> object:
    raise AssertionError(f"the worker of {item} died: {death}")


def pid_and_is_imported(module: str) -> tuple[int, bool]:
    return os.getpid(), module in sys.modules


def accepts_interrupts(_: int) -> bool:
    return signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


class RunsWhenUnpickled:
    """A function that calls another one when it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        """Store the call."""
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, ...]:
        return self.call

    def __call__(self, item: int) -> int:
        return item


def raise_checksum_mismatch(*_: object) -> None:
    raise ChecksumMismatch("the model was replaced")


def delay_or_die(number: int) -> int:
    if not number:
        time.sleep(0.5)
    if number == 3:
        os.kill(os.getpid(), 9)
    return number
