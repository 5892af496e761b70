"""Correction of packet timestamps that start again, as in joined recordings, to a continuous clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import av

Packet: TypeAlias = "av.Packet[Any]"

_MAX_BACKWARD_S = 1.0  # a larger step back is a restart
_MAX_FORWARD_S = 10.0  # a larger step ahead in an MPEG stream is a restart, as in ffmpeg
_MPEG = ("mpeg", "mpegts")  # formats whose clock starts at any time and wraps around


@dataclass(slots=True)
class _Run:
    """State of a stream since the last restart of its timestamps.

    Attributes:
        step: Seconds from one packet to the next.
        end: End of the latest packet, in corrected seconds.
        offset: Seconds to add to its timestamps.
        number: Number of restarts so far.
        first: Smallest decoding timestamp in seconds; None before the first packet.
        last: Latest decoding timestamp in seconds; None before the first packet.
    """

    step: float
    end: float
    offset: float = 0.0
    number: int = 0
    first: float | None = None
    last: float | None = None


class Clock:
    """Corrector of packet timestamps: after a restart they continue where they were.

    The video stream sets the offsets. Other streams are shifted equally, so that sound stays in sync.
    """

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream) -> None:
        """Start before the first packet of a container, of which `stream` is the video stream."""
        self._video_index = stream.index
        self._step = 1 / float(stream.average_rate or 25)
        self._max_forward = _MAX_FORWARD_S if container.format.name in _MPEG else float("inf")
        self._offsets = [0.0]
        self._runs: dict[int, _Run] = {}

    @property
    def restarts(self) -> int:
        """Number of restarts of the video stream so far."""
        return len(self._offsets) - 1

    def describe_restarts(self) -> str:
        """Describe how often the timestamps start again, for messages."""
        count = "once" if self.restarts == 1 else f"{self.restarts} times"
        return f"its timestamps start again {count}, as in joined recordings, and were continued from there"

    def correct(self, packet: Packet) -> None:
        """Shift the timestamps of the next packet in place."""
        stamp, base = packet.dts if packet.pts is None else packet.pts, packet.time_base
        if stamp is None or not base:
            return
        index, start = packet.stream.index, float(stamp * base)
        run = self._runs.setdefault(index, _Run(step=self._step, end=start))
        if packet.dts is not None:  # decoding timestamps increase, presentation timestamps need not
            time = float(packet.dts * base)
            if self._is_restart(run, time):
                run.first, run.offset, run.number = time, run.end - start, run.number + 1
                if index == self._video_index:
                    self._offsets.append(run.offset)
            elif run.last is not None and time > run.last:
                run.step = time - run.last
            run.first, run.last = time if run.first is None else min(run.first, time), time
        if run.number < len(self._offsets):
            run.offset = self._offsets[run.number]
        run.end = max(run.end, start + run.offset + (float(packet.duration * base) if packet.duration else run.step))
        if shift := round(run.offset / base):
            packet.pts = packet.pts if packet.pts is None else packet.pts + shift
            packet.dts = packet.dts if packet.dts is None else packet.dts + shift

    def _is_restart(self, run: _Run, time: float) -> bool:
        """Whether a packet starts a new run: it is far back, far ahead, or back at the start of the run."""
        if run.first is None or run.last is None:
            return False
        backward = run.last - time
        return backward > _MAX_BACKWARD_S or -backward > self._max_forward or (backward > 0 and time <= run.first)
