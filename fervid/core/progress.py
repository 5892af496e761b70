"""Progress and summary of a run on standard error: a bar and text, or JSON Lines."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal, TypeVar

from tqdm import tqdm

from fervid.core.text import escape_control_chars, plural

Progress = Literal["auto", "bar", "none", "json"]
_Result = TypeVar("_Result")
_BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{remaining} left, {rate_noinv_fmt}{postfix}]"
_COUNTER = "{n_fmt} clips [{elapsed}{postfix}]"  # if the total is unknown
_MAX_NAMED_FAILURES = 5  # in the summary
_EVENT_INTERVAL_S = 1.0  # between two JSON events about bytes or seconds


def track_clips(
    results: Iterable[_Result], total: int | None, kind: Progress, failed: Callable[[_Result], bool]
) -> Generator[_Result]:
    """Pass on results and show how many clips are done and how many failed.

    The bar is hidden while the caller handles a result, so that it can write to the same terminal.

    Args:
        results: One result per clip.
        total: Number of clips; None if unknown.
        kind: `auto` shows a bar if standard error is a terminal and there is more than one clip.
        failed: Whether a result counts as a failure.
    """
    started, failures = time.monotonic(), 0
    bar = kind == "bar" or (kind == "auto" and sys.stderr.isatty() and (total is None or total > 1))
    bar_format = _COUNTER if total is None else _BAR
    with tqdm(
        total=total, unit="clip", file=sys.stderr, disable=not bar, dynamic_ncols=True, bar_format=bar_format
    ) as line:
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
    """Write a line to standard error, above the bar if there is one."""
    tqdm.write(f"fervid: {escape_control_chars(message)}", file=sys.stderr)


def note(message: str, kind: Progress) -> None:
    """Write a note about the whole run: a line of text, or an event with `json`; nothing with `none`.

    Args:
        message: The note; an empty one is not written.
        kind: The progress mode.
    """
    if not message:
        return
    if kind == "json":
        print(json.dumps({"event": "note", "message": message}), file=sys.stderr, flush=True)
    elif kind != "none":
        log(message)


class Summary:
    """Counter of the records of a run that writes to a file."""

    def __init__(self, unit: Literal["clip", "window", "evaluation"]) -> None:
        """Start to count records and time.

        Args:
            unit: What a record describes.
        """
        self._unit, self._started = unit, time.monotonic()
        self._statuses: Counter[str] = Counter()
        self._failed: list[str] = []
        self._earlier = 0

    def add(self, path: str, status: str, *, failed: bool, earlier: bool = False) -> None:
        """Count a record.

        Args:
            path: The clip.
            status: The status of the record.
            failed: Whether the record counts as a failure.
            earlier: Whether the record is from an earlier run.
        """
        self._statuses[status] += 1
        self._earlier += earlier
        if failed and path not in self._failed[-1:]:
            self._failed.append(path)

    @property
    def failures(self) -> int:
        """Number of clips that failed."""
        return len(self._failed)

    def log(self, output: object, kind: Progress, subject: str = "records are") -> None:
        """Write the summary to standard error: a line of text, or an event with `json`; nothing with `none`.

        Args:
            output: The file that was written.
            kind: The progress mode.
            subject: Subject and verb of the clause about the output.
        """
        total, elapsed = self._statuses.total(), time.monotonic() - self._started
        if kind == "json":
            event = {"event": "summary", f"{self._unit}s": total, "statuses": self._statuses}
            event |= {"finished_before": self._earlier, "failed": self.failures}
            event |= {"elapsed_s": round(elapsed, 3), "output": str(output)}
            print(json.dumps(event), file=sys.stderr, flush=True)
            return
        parts = [
            f"{plural(total, self._unit)} in {_format_duration(elapsed)}"
            + (f" ({self._earlier} from an earlier run)" if self._earlier else ""),
            ", ".join(f"{count} {status}" for status, count in self._statuses.items()),
        ]
        message = ": ".join(filter(None, parts))
        if self._failed:
            more = self.failures - _MAX_NAMED_FAILURES
            names = ", ".join(self._failed[:_MAX_NAMED_FAILURES])
            message += f"; failed: {names}{f' and {more} more' if more > 0 else ''}"
        note(f"{message}; {subject} in {output}", kind)


def _format_duration(seconds: float) -> str:
    """Format a duration, such as `3.2 s`, `2 min 3 s` or `1 h 2 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, full_seconds = divmod(round(seconds), 60)
    return f"{minutes} min {full_seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def track_seconds(total: float, kind: Progress) -> Iterator[Callable[[float], None]]:
    """Show progress in seconds of a clip; yield the callback that takes the seconds done so far.

    Args:
        total: Duration of the clip in seconds.
        kind: `auto` shows a bar if standard error is a terminal.
    """
    bar, last_event = kind == "bar" or (kind == "auto" and sys.stderr.isatty()), time.monotonic()
    with tqdm(total=round(total, 1), unit="s", file=sys.stderr, disable=not bar, dynamic_ncols=True) as line:

        def update(done: float) -> None:
            nonlocal last_event
            line.update(min(done, total) - line.n)
            if kind == "json" and time.monotonic() >= last_event + _EVENT_INTERVAL_S:
                last_event = time.monotonic()
                event = {"event": "progress", "done": round(done, 3), "total": round(total, 3)}
                print(json.dumps(event), file=sys.stderr, flush=True)

        yield update


def track_bytes(chunks: Iterable[bytes], total: int | None, kind: Progress) -> Iterator[bytes]:
    """Pass on the chunks of a download and show how much has arrived.

    Args:
        chunks: The chunks as they arrive.
        total: Size of the file in bytes; None if unknown.
        kind: `auto` shows a bar if standard error is a terminal.
    """
    bar = kind == "bar" or (kind == "auto" and sys.stderr.isatty())
    done, last_event = 0, time.monotonic()
    with tqdm(total=total, unit="B", unit_scale=True, file=sys.stderr, disable=not bar, dynamic_ncols=True) as line:
        for chunk in chunks:
            done += len(chunk)
            yield chunk
            line.update(len(chunk))
            if kind == "json" and (time.monotonic() >= last_event + _EVENT_INTERVAL_S or done == total):
                last_event = time.monotonic()
                print(json.dumps({"event": "progress", "done": done, "total": total}), file=sys.stderr, flush=True)
