"""Timestamps of packets -> a clock that goes on where they start again, as in recordings that were joined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import av

Packet: TypeAlias = "av.Packet[Any]"

_BACK_S = 1.0  # by which the times of a stream may run back before they count as starting again
_FORWARD_S = 10.0  # by which those of MPEG streams may run ahead, as for ffmpeg
_MPEG = ("mpeg", "mpegts")  # formats whose clock begins anywhere, and wraps


@dataclass(slots=True)
class _Run:
    """A stream from where its times started last; `end` alone is a time of the clock.

    Attributes:
        step: Seconds from one packet to the next.
        end: When all that was seen of it by now has been shown.
        offset: Seconds to add to its times.
        number: How often its times started again by now.
        first: Smallest time to decode by; None before there is one.
        last: The newest time to decode by.
    """

    step: float
    end: float
    offset: float = 0.0
    number: int = 0
    first: float | None = None
    last: float | None = None


class Clock:
    """Corrects the times of packets, so that they go on where they start again.

    The stream of pictures sets the clock: the others are shifted as it is, so that sound stays with its pictures.
    """

    def __init__(self, container: av.container.InputContainer, pictures: av.VideoStream) -> None:
        """Begin before the first packet of a container.

        Args:
            container: Whose packets will be corrected.
            pictures: The stream that sets the clock.
        """
        self._pictures = pictures.index
        self._step = 1 / float(pictures.average_rate or 25)
        self._ahead = _FORWARD_S if container.format.name in _MPEG else float("inf")
        self._offsets = [0.0]
        self._runs: dict[int, _Run] = {}

    @property
    def restarts(self) -> int:
        """How often the times of the pictures have started again."""
        return len(self._offsets) - 1

    def correct(self, packet: Packet) -> None:
        """Shift the times of the next packet in place."""
        stamp, base = packet.dts if packet.pts is None else packet.pts, packet.time_base
        if stamp is None or not base:
            return
        index, shown = packet.stream.index, float(stamp * base)
        run = self._runs.setdefault(index, _Run(step=self._step, end=shown))
        if packet.dts is not None:  # those to decode by run on, whatever the order of what is shown
            time = float(packet.dts * base)
            if self._starts_again(run, time):
                run.first, run.offset, run.number = time, run.end - shown, run.number + 1
                if index == self._pictures:
                    self._offsets.append(run.offset)
            elif run.last is not None and time > run.last:
                run.step = time - run.last
            run.first, run.last = time if run.first is None else min(run.first, time), time
        if run.number < len(self._offsets):
            run.offset = self._offsets[run.number]
        run.end = max(run.end, shown + run.offset + (float(packet.duration * base) if packet.duration else run.step))
        if shift := round(run.offset / base):
            packet.pts = packet.pts if packet.pts is None else packet.pts + shift
            packet.dts = packet.dts if packet.dts is None else packet.dts + shift

    def _starts_again(self, run: _Run, time: float) -> bool:
        """Whether a packet begins a new run: far back, far ahead, or back where the run began."""
        if run.first is None or run.last is None:
            return False
        back = run.last - time
        return back > _BACK_S or -back > self._ahead or (back > 0 and time <= run.first)
