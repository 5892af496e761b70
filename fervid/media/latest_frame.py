"""The newest frame of a live source, so that processing stays current.

A thread reads the source. A source that is ahead of real time, such as a file in a pipe, has to wait; of a source that
is ahead of the analysis only the newest frame is kept, and the others are dropped.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Generator

from fervid.core.records import Frame

MAX_WAIT_S = 0.5
"""Seconds that a frame may wait for the analysis, relative to the frame with the least delay."""


class LatestFrameSource:
    """A live source of which stale frames are dropped.

    Attributes:
        name: The name of the source in records.
    """

    def __init__(self, name: str, source: Generator[Frame], max_wait: float = MAX_WAIT_S) -> None:
        """Prepare a source; `frames` starts to read it.

        Args:
            name: The name of the source in records.
            source: Frames in order of time, each as soon as it arrives.
            max_wait: Seconds that a frame may wait before the next one replaces it; 0 for sources that are never ahead
                of real time, such as cameras.
        """
        self.name = name
        self._source, self._max_wait = source, max_wait
        self._changed = threading.Condition()
        self._waiting: list[tuple[Frame, float]] = []  # at most one frame, with its time of arrival
        self._earliest = math.inf  # smallest difference between arrival and presentation time
        self._dropped: deque[float] = deque()  # times of the dropped frames
        self._counted_until = 0.0
        self._arrived_at = time.monotonic()
        self._ended: list[BaseException | None] = []  # one entry at the end: the error of the source, if any
        self._stop = False

    def frames(self) -> Generator[Frame]:
        """Give the newest frame, again and again, until the source ends.

        Raises:
            InputError: The error of the source, after its last frame.
        """
        threading.Thread(target=self._read, name="fervid-live", daemon=True).start()  # not joined: it may block
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting or self._ended)
                    if not self._waiting:
                        break
                    frame, self._arrived_at = self._waiting.pop()
                    self._changed.notify()
                yield frame
            if self._ended[0] is not None:
                raise self._ended[0]
        finally:
            with self._changed:
                self._stop = True
                self._changed.notify()

    def dropped_between(self, start: float, end: float) -> int:
        """Count the frames dropped in a window, and those dropped between the previous window and this one.

        Args:
            start: Start of the window in seconds; windows must be queried in order.
            end: End of the window in seconds.
        """
        with self._changed:
            while self._dropped and self._dropped[0] < min(start, self._counted_until):
                self._dropped.popleft()
            self._counted_until = end
            return sum(dropped_at < end for dropped_at in self._dropped)

    def latency(self) -> float:
        """Return the seconds since the arrival of the latest frame that `frames` gave."""
        return time.monotonic() - self._arrived_at

    def _read(self) -> None:
        error = None
        try:
            for frame in self._source:
                if self._offer(frame):
                    break
        except BaseException as raised:  # noqa: BLE001  raised again in `frames`
            error = raised
        finally:
            self._source.close()
            with self._changed:
                self._ended.append(error)
                self._changed.notify()

    def _offer(self, frame: Frame) -> bool:
        """Replace the waiting frame, once it is taken or `max_wait` is over; return whether to stop reading."""
        now = time.monotonic()
        with self._changed:
            self._earliest = min(self._earliest, now - frame.time)
            wait = self._earliest + frame.time + self._max_wait - now
            self._changed.wait_for(lambda: not self._waiting or self._stop, max(0.0, wait))
            self._dropped.extend(old.time for old, _ in self._waiting)
            self._waiting = [(frame, now)]
            self._changed.notify()
            return self._stop
