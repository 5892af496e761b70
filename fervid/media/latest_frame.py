"""Frames that come whether anybody is ready or not -> the newest of them, whenever one is asked for.

A source is read in a thread of its own. One that is ahead of real time, as a file in a pipe is, has to wait; of one
that has fallen behind only the newest frame is kept, so that an answer is never about long ago.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Generator

from fervid.core.records import Frame

MAX_WAIT_S = 0.5
"""Seconds that a frame of a stream may wait, measured against the one that came earliest for its time."""


class LatestFrameSource:
    """A source and how well it is kept up with.

    Attributes:
        name: What records call it.
    """

    def __init__(self, name: str, source: Generator[Frame], patience: float = MAX_WAIT_S) -> None:
        """Begin with nothing; the source is read from the first frame that is asked for.

        Args:
            name: What records call it.
            source: Frames in order of time, each as soon as it has come.
            patience: Seconds that a frame may wait; 0 for what is never ahead of time, as a camera.
        """
        self.name = name
        self._source, self._patience = source, patience
        self._changed = threading.Condition()
        self._waiting: list[tuple[Frame, float]] = []  # one at most, with the time at which it came
        self._earliest = math.inf
        self._dropped: deque[float] = deque()
        self._reached = 0.0
        self._came = time.monotonic()
        self._ended: list[BaseException | None] = []
        self._stop = False

    def frames(self) -> Generator[Frame]:
        """The newest frame again and again, until the source ends.

        Raises:
            InputError: What the source raised, after its last frame.
        """
        threading.Thread(target=self._read, name="fervid-live", daemon=True).start()  # it may wait for ever
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting or self._ended)
                    if not self._waiting:
                        break
                    frame, self._came = self._waiting.pop()
                    self._changed.notify()
                yield frame
            if self._ended[0] is not None:
                raise self._ended[0]
        finally:
            with self._changed:
                self._stop = True
                self._changed.notify()

    def missed(self, start: float, end: float) -> int:
        """How many frames of a window were dropped, those between the last window and this one included.

        Args:
            start: Seconds; windows are asked for in order.
            end: Seconds.
        """
        with self._changed:
            while self._dropped and self._dropped[0] < min(start, self._reached):
                self._dropped.popleft()
            self._reached = end
            return sum(moment < end for moment in self._dropped)

    def since(self) -> float:
        """Seconds since the frame came that was given last."""
        return time.monotonic() - self._came

    def _read(self) -> None:
        error = None
        try:
            for frame in self._source:
                if self._put(frame):
                    break
        except BaseException as raised:  # noqa: BLE001  handed over whole and raised where the frames are asked for
            error = raised
        finally:
            self._source.close()
            with self._changed:
                self._ended.append(error)
                self._changed.notify()

    def _put(self, frame: Frame) -> bool:
        """Hand a frame over, at the latest when it would be late; whether nobody wants more."""
        now = time.monotonic()
        with self._changed:
            self._earliest = min(self._earliest, now - frame.time)
            in_time = self._earliest + frame.time + self._patience - now
            self._changed.wait_for(lambda: not self._waiting or self._stop, max(0.0, in_time))
            self._dropped.extend(old.time for old, _ in self._waiting)
            self._waiting = [(frame, now)]
            self._changed.notify()
            return self._stop
