"""The newest frame of a live source, so that processing stays current.

A source that is ahead of real time, such as a file in a pipe, has to wait; of a source that
is ahead of the analysis only the newest frame is kept, and the others are dropped.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Generator
from contextlib import closing

from fervid.core.prefetch import prefetch
from fervid.core.records import Frame

MAX_WAIT_S = 0.5  # that a frame may wait for the analysis, relative to the frame with the least delay


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
        self._lock = threading.Lock()
        self._earliest = math.inf  # smallest difference between arrival and presentation time
        self._dropped: deque[float] = deque()  # times of the dropped frames
        self._counted_until = 0.0
        self._arrived_at = time.monotonic()

    def frames(self) -> Generator[Frame]:
        """Give the newest frame, again and again, until the source ends.

        Raises:
            InputError: The error of the source, after its last frame.
        """
        with closing(prefetch(self._arrivals(), max_wait=self._remaining_wait, on_drop=self._drop)) as newest:
            for frame, self._arrived_at in newest:
                yield frame

    def dropped_between(self, start: float, end: float) -> int:
        """Count the frames dropped in a window, and those dropped between the previous window and this one.

        Args:
            start: Start of the window in seconds; windows must be queried in order.
            end: End of the window in seconds.
        """
        with self._lock:
            while self._dropped and self._dropped[0] < min(start, self._counted_until):
                self._dropped.popleft()
            self._counted_until = end
            return sum(dropped_at < end for dropped_at in self._dropped)

    def latency(self) -> float:
        """Return the seconds since the arrival of the latest frame that `frames` gave."""
        return time.monotonic() - self._arrived_at

    def _arrivals(self) -> Generator[tuple[Frame, float]]:
        """Yield each frame with its time of arrival."""
        with closing(self._source):
            for frame in self._source:
                now = time.monotonic()
                self._earliest = min(self._earliest, now - frame.time)
                yield frame, now

    def _remaining_wait(self, arrival: tuple[Frame, float]) -> float:
        frame, arrived_at = arrival
        return max(0.0, self._earliest + frame.time + self._max_wait - arrived_at)

    def _drop(self, arrival: tuple[Frame, float]) -> None:
        with self._lock:
            self._dropped.append(arrival[0].time)
