"""A worker process: how it is started, called, stopped and reaped, with limits on time and memory."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, NoReturn

from fervid.core.errors import FervidError, InputError, OutOfMemory, TimedOut, UsageError, WorkerCrashed
from fervid.core.signals import sigint_blocked, signals_deferred

_STARTUP_TIMEOUT_S = 300.0  # in which a worker has to import modules and load models
_POLL_S = 0.1  # interval between two checks of the limits
_SIGNAL_NAMES = {-number: number.name for number in signal.Signals}
_SPAWN = get_context("spawn")  # a fork would share threads and locks of models that are already loaded
_spawn_lock = threading.Lock()  # starting a process reaps dead ones, and two threads must not reap the same one
_prestarted: list[tuple[SpawnProcess, Connection]] = []


@dataclass(frozen=True, slots=True)
class Limits:
    """What one item may cost before its worker is killed; None for no limit.

    Attributes:
        seconds: Wall-clock time from when a worker receives the item.
        memory: Bytes of resident memory of the worker.
    """

    seconds: float | None = None
    memory: int | None = None


NO_LIMITS = Limits()


class WorkerDied(Exception):
    """A worker died, or was killed, while it worked on an item."""

    def __init__(self, reason: str, kind: type[InputError] = WorkerCrashed) -> None:
        """Keep the reason.

        Args:
            reason: The signal, exit status or limit, such as `SIGSEGV` or `60 s`.
            kind: The class of the error that the item gets.
        """
        super().__init__(reason, kind)
        self._reason, self._kind = reason, kind

    def __str__(self) -> str:
        return self._reason

    def to_input_error(self, name: object) -> InputError:
        """Convert this to the error of a file.

        Args:
            name: The file that the worker was processing.
        """
        if self._kind is TimedOut:
            return TimedOut(
                f"{name} was not analysed within {self}; raise --timeout, or analyse a part with --start and --end"
            )
        if self._kind is OutOfMemory:
            return OutOfMemory(
                f"{name} took too much memory ({self}); raise --memory, use fewer --jobs, or split the clip"
            )
        if self._reason == "SIGKILL":
            return WorkerCrashed(
                f"the process that analysed {name} was killed ({self}), usually for lack of memory; use fewer --jobs,"
                " or split the clip"
            )
        return WorkerCrashed(
            f"the decoder or a model crashed on {name} ({self}); convert it, e.g. to H.264 in mp4, or report a bug"
        )


def prestart_worker(*modules: str) -> None:
    """Start a process that imports modules, so that the first worker does not have to wait for that."""
    with _spawn_lock:
        _prestarted.append(_spawn(*modules))


def stop_prestarted() -> None:
    """Kill the processes of `prestart_worker` that no worker has used."""
    with _spawn_lock:
        while _prestarted:
            process, pipe = _prestarted.pop()
            process.kill()
            process.join()
            process.close()
            pipe.close()


class WorkerProcess:
    """A process that applies a function to items, started at the first call and again after it died.

    `call` and `reap` must not run in two threads at once; `stop` may run in any thread.
    """

    def __init__(self, work: object, limits: Limits) -> None:
        """Prepare a worker without starting its process.

        Args:
            work: The function, which is pickled and sent to the process.
            limits: What an item may cost.
        """
        self._work, self._limits = work, limits
        self._process: SpawnProcess | None = None
        self._pipe: Connection
        self._stopped = False

    def call(self, item: Any) -> Any:
        """Return the result of an item, or raise what the function raised.

        Raises:
            WorkerDied: The worker died, exceeded a limit, or was stopped.
            UsageError: The worker died before its first item.
        """
        with _spawn_lock:
            died_idle = self._process is not None and not self._process.is_alive()
        if died_idle:  # which this item did not cause
            self.reap()
        if self._process is None:
            self.start()
        result, error = self._request(item, self._limits)
        if error is not None:
            raise error
        return result

    def stop(self) -> None:
        """Kill the process and start no other."""
        with _spawn_lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def reap(self) -> str:
        """Wait for the process to end, kill it if it does not, and return the signal or exit status."""
        with _spawn_lock:
            process, self._process = self._process, None
            if process is None:
                return "never started"
            process.join(1)
            process.kill()  # it may have closed its pipe without exiting
            process.join()
            code = process.exitcode
            process.close()
            self._pipe.close()
        return _SIGNAL_NAMES.get(code or 0, f"status {code}")

    def start(self) -> None:
        """Start the process and send it the function.

        Raises:
            WorkerDied: The worker was stopped.
            UsageError: The process died before it was ready.
            Exception: Raised while the process unpickled the function.
        """
        with _spawn_lock:
            if self._stopped:
                raise WorkerDied("stopped")
            self._process, self._pipe = _prestarted.pop() if _prestarted else _spawn()
        try:
            error = self._request(self._work, Limits(_STARTUP_TIMEOUT_S))
        except WorkerDied as death:
            raise UsageError(
                f"a worker process ended before its first clip ({death}); try fewer --jobs, or more memory"
            ) from None
        if error is not None:
            self.reap()
            raise error

    def _request(self, message: Any, limits: Limits) -> Any:
        """Send a message and wait for the reply.

        Raises:
            WorkerDied: The process died or exceeded a limit.
        """
        deadline = time.monotonic() + (limits.seconds or math.inf)
        try:
            self._pipe.send(message)
            while not self._pipe.poll(_POLL_S):
                if time.monotonic() > deadline:
                    self._kill_and_raise(f"{limits.seconds:g} s", TimedOut)
                if limits.memory and self._process and _rss_bytes(self._process) > limits.memory:
                    self._kill_and_raise(f"more than {limits.memory / 1e6:g} MB", OutOfMemory)
            return self._pipe.recv()
        except (EOFError, OSError):
            raise WorkerDied(self.reap()) from None

    def _kill_and_raise(self, reason: str, kind: type[InputError]) -> NoReturn:
        if self._process is not None:
            self._process.kill()
        self.reap()
        raise WorkerDied(reason, kind)


def _spawn(*modules: str) -> tuple[SpawnProcess, Connection]:
    """Start a process that ignores SIGINT, because the parent stops its workers; return it and its pipe."""
    if os.name == "posix":
        resource_tracker.ensure_running()  # starting it together with the process would unblock SIGINT again
    ours, theirs = _SPAWN.Pipe()
    with signals_deferred(), sigint_blocked(), theirs:
        process = _SPAWN.Process(target=_worker_main, args=(theirs, modules), name="fervid-worker", daemon=True)
        process.start()
    return process, ours


def _rss_bytes(process: SpawnProcess) -> int:
    """Return the resident memory of a process in bytes; 0 if unknown."""
    import psutil  # imported while the worker is busy

    try:
        return int(psutil.Process(process.pid).memory_info().rss)
    except psutil.Error:
        return 0


# In the worker process


def _worker_main(pipe: Connection, modules: Sequence[str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    for module in modules:
        import_module(module)
    with suppress(EOFError, OSError):
        serve(pipe)


def _exit_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def serve(pipe: Connection) -> None:
    """Receive the function, confirm with None or an error, then reply to each item with (result, error).

    Raises:
        EOFError, OSError: The pipe was closed.
    """
    try:
        work = pipe.recv()
    except Exception as raised:  # noqa: BLE001  raised again in `WorkerProcess.start`
        pipe.send(_with_traceback(raised))
        return
    pipe.send(None)
    while True:
        item = pipe.recv()
        result, error = None, None
        try:
            result = work(item)
        except FervidError as raised:
            error = _with_traceback(raised)
        except MemoryError:
            error = WorkerDied("MemoryError", OutOfMemory)
        except Exception as raised:  # noqa: BLE001  a bug: costs this item only
            frame = traceback.extract_tb(raised.__traceback__)[-1]
            reason = f"{type(raised).__name__}: {raised}, {Path(frame.filename).name} line {frame.lineno}"
            error = WorkerDied(" ".join(reason.split()))
        pipe.send((result, error))


def _with_traceback(error: Exception) -> Exception:
    """Add the traceback as a note, because it is not pickled."""
    error.add_note("".join(traceback.format_exception(error)))
    return error
