"""How far a run is: a bar for people, JSON Lines for programs, both on standard error."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal, TypeVar

from tqdm import tqdm

from fervid.core.text import escape_control_chars

Progress = Literal["auto", "bar", "none", "json"]
_Result = TypeVar("_Result")
_BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{remaining} left, {rate_noinv_fmt}{postfix}]"
_COUNT = "{n_fmt} clips [{elapsed}{postfix}]"  # of what has no end
_NAMED_FAILURES = 5  # clips whose names a summary lists
_EVERY = 1.0  # seconds between two lines of JSON about bytes, or about a film


def track_clips(
    results: Iterable[_Result], total: int | None, kind: Progress, failed: Callable[[_Result], bool]
) -> Generator[_Result]:
    """Pass the results on and tell how many are done and how many failed.

    While a result is worked on outside, there is no bar: what is written to the same terminal stands in its place.

    Args:
        results: One per clip.
        total: How many there will be; None if nobody knows.
        kind: `auto` is a bar if standard error is a terminal and there is more than one clip.
        failed: Whether one counts as a failure.
    """
    started, failures = time.monotonic(), 0
    bar = kind == "bar" or (kind == "auto" and sys.stderr.isatty() and (total is None or total > 1))
    form = _COUNT if total is None else _BAR
    with tqdm(total=total, unit="clip", file=sys.stderr, disable=not bar, dynamic_ncols=True, bar_format=form) as line:
        line.set_postfix(failed=failures)
        for done, result in enumerate(results, start=1):
            failures += failed(result)
            with line.external_write_mode(sys.stdout) if bar and sys.stdout.isatty() else nullcontext():
                yield result
            line.set_postfix(failed=failures, refresh=False)
            line.update()
            if kind == "json":
                event = {"event": "progress", "done": done, "total": total, "failed": failures}
                event["elapsed_s"] = round(time.monotonic() - started, 3)
                print(json.dumps(event), file=sys.stderr, flush=True)


def log(message: str) -> None:
    """Write a line above the bar, if there is one."""
    tqdm.write(f"fervid: {escape_control_chars(message)}", file=sys.stderr)


def note(message: str, kind: Progress) -> None:
    """Say something about a whole run: a line for people, an event for programs, nothing with `none`.

    Args:
        message: What; nothing is said of an empty one.
        kind: How to say it.
    """
    if not message:
        return
    if kind == "json":
        print(json.dumps({"event": "note", "message": message}), file=sys.stderr, flush=True)
    elif kind != "none":
        log(message)


class Summary:
    """What a run that wrote to a file has come to."""

    def __init__(self, unit: Literal["clip", "window", "evaluation"]) -> None:
        """Begin to count records and time.

        Args:
            unit: What a record is of.
        """
        self._unit, self._started = unit, time.monotonic()
        self._statuses: Counter[str] = Counter()
        self._failed: list[str] = []
        self._earlier = 0

    def add(self, path: str, status: str, *, failed: bool, earlier: bool = False) -> None:
        """Count a record.

        Args:
            path: The clip.
            status: Of the record.
            failed: Whether it counts as a failure.
            earlier: Whether the record was there already.
        """
        self._statuses[status] += 1
        self._earlier += earlier
        if failed and path not in self._failed[-1:]:
            self._failed.append(path)

    @property
    def failures(self) -> int:
        """How many clips failed."""
        return len(self._failed)

    def tell(self, output: object, kind: Progress, what: str = "records are") -> None:
        """Say it on standard error: a line for people, an event for programs, nothing with `none`.

        Args:
            output: Where that is which was written.
            kind: How to say it.
            what: Subject and verb of the sentence that says where.
        """
        total, elapsed = self._statuses.total(), time.monotonic() - self._started
        if kind == "json":
            event = {"event": "summary", f"{self._unit}s": total, "statuses": self._statuses}
            event |= {"answered_before": self._earlier, "failed": self.failures}
            event |= {"elapsed_s": round(elapsed, 3), "output": str(output)}
            print(json.dumps(event), file=sys.stderr, flush=True)
            return
        parts = [
            f"{_counted(total, self._unit)} in {_spoken(elapsed)}"
            + (f" ({self._earlier} answered before)" if self._earlier else ""),
            ", ".join(f"{count} {status}" for status, count in self._statuses.items()),
        ]
        message = ": ".join(filter(None, parts))
        if self._failed:
            more = self.failures - _NAMED_FAILURES
            names = ", ".join(self._failed[:_NAMED_FAILURES])
            message += f"; failed: {names}{f' and {more} more' if more > 0 else ''}"
        note(f"{message}; {what} in {output}", kind)


def _counted(number: int, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}"


def _spoken(seconds: float) -> str:
    """`3.2 s`, `2 min 3 s` or `1 h 2 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def track_seconds(total: float, kind: Progress) -> Iterator[Callable[[float], None]]:
    """What is to be told how many seconds of a film are done.

    Args:
        total: Seconds that it lasts.
        kind: `auto` is a bar if standard error is a terminal.
    """
    bar, told = kind == "bar" or (kind == "auto" and sys.stderr.isatty()), time.monotonic()
    with tqdm(total=round(total, 1), unit="s", file=sys.stderr, disable=not bar, dynamic_ncols=True) as line:

        def tell(done: float) -> None:
            nonlocal told
            line.update(min(done, total) - line.n)
            if kind == "json" and time.monotonic() >= told + _EVERY:
                told = time.monotonic()
                event = {"event": "progress", "done": round(done, 3), "total": round(total, 3)}
                print(json.dumps(event), file=sys.stderr, flush=True)

        yield tell


def track_bytes(parts: Iterable[bytes], begun: int, total: int | None, kind: Progress) -> Iterator[bytes]:
    """Pass the parts of a file on and tell how much of it has arrived.

    Args:
        parts: As they come.
        begun: Bytes that were there already.
        total: How many there will be, if that is known.
        kind: `auto` is a bar if standard error is a terminal.
    """
    bar = kind == "bar" or (kind == "auto" and sys.stderr.isatty())
    done, told = begun, time.monotonic()
    with tqdm(
        total=total, initial=begun, unit="B", unit_scale=True, file=sys.stderr, disable=not bar, dynamic_ncols=True
    ) as line:
        for part in parts:
            done += len(part)
            yield part
            line.update(len(part))
            if kind == "json" and (time.monotonic() >= told + _EVERY or done == total):
                told = time.monotonic()
                print(json.dumps({"event": "progress", "done": done, "total": total}), file=sys.stderr, flush=True)
