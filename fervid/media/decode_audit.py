"""Decoding of a video stream, with a comparison of the decoded frames to what the header declares."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias, cast

import av

from fervid.core.errors import CorruptVideo, TruncatedVideo, Undecodable
from fervid.media.container import other_video_streams, raise_notices, start_time
from fervid.media.sampling import Sampling
from fervid.media.timestamps import Clock

_MAX_REORDER = 32  # packets between two frames that are adjacent in presentation order
_TAIL_FRAMES = 4  # the last frames of a clip are always decoded
_RESTART_PACKETS = 4  # packets before a restart of the timestamps that the demuxer may flag as corrupt because of it
_MAX_FRAME_S = 2.0  # a frame may always last this long, whatever the frame rate
_MAX_FRAME_STEPS = 5  # or this many times the usual distance between frames; anything longer is a gap
_TOLERATED_FRACTION = 0.02  # edited clips often have slightly fewer frames than declared

Packet: TypeAlias = "av.Packet[av.VideoStream]"


class DecodeAudit:
    """Decoder of one video stream that counts packets and frames and reports what is missing.

    Use `frames` to decode, then `raise_if_incomplete` after the last frame.

    Attributes:
        origin: Start of the container in seconds of its own clock.
        step: Seconds between two frames, by the average frame rate.
        frame_index: Position of the latest frame in presentation order, counted from 0 and with skipped frames.
    """

    def __init__(
        self,
        path: Path,
        container: av.container.InputContainer,
        stream: av.VideoStream,
        *,
        stream_chosen: bool,
        complete_avi: bool,
    ) -> None:
        """Prepare to decode a stream.

        Args:
            path: The name of the file in error messages.
            container: The open file, before its first packet.
            stream: The stream to decode.
            stream_chosen: Whether the caller chose the stream, so that other streams need no notice.
            complete_avi: Whether the file is an AVI with all of its bytes, so that missing frames are no truncation.
        """
        self._path, self._container, self._stream, self._complete_avi = path, container, stream, complete_avi
        self.origin = start_time(container)
        started, base = stream.start_time, stream.time_base
        self._stream_start = max(0.0, float(started * base) - self.origin) if started is not None and base else 0.0
        self.step = 1 / float(stream.average_rate or 25)
        self._clock = Clock(container, stream)
        self._other_streams = [] if stream_chosen else other_video_streams(container, stream)
        self._recent: list[tuple[float, float]] = []  # start and end of the latest packets, in presentation order
        self._decoded = self._packets = self._corrupt = 0
        self._media_end = 0.0
        self._demux_error = ""
        self._skippable: list[int] = []  # heap of the timestamps of packets that the decoder may have skipped
        self.frame_index = -1

    def frames(self, sampling: Sampling) -> Iterator[av.VideoFrame]:
        """Decode the stream, skipping packets that cannot be decoded.

        Frames that sampling does not need and that no other frame refers to (most B-frames) are not decoded.
        """
        context = self._stream.codec_context
        for packet, needed in mark_needed(self._video_packets(), sampling, self.origin):
            if context is not None:
                context.skip_frame = "DEFAULT" if needed else "NONREF"
            if packet.pts is not None and not packet.size:  # repeats the previous frame
                continue
            self._packets += packet.size > 0
            if not needed and packet.pts is not None:
                heappush(self._skippable, packet.pts)
            try:
                frames = self._stream.decode(packet)
            except av.FFmpegError:
                self._corrupt += not packet.is_corrupt  # `_video_packets` counts flagged packets
                continue
            self._decoded += len(frames)
            self._corrupt += sum(frame.is_corrupt for frame in frames)
            for frame in frames:
                self._count_frame(frame.pts)
                yield frame

    def _count_frame(self, pts: int | None) -> None:
        """Advance `frame_index` to a decoded frame, past the skipped frames before it."""
        self.frame_index += 1
        while pts is not None and self._skippable and self._skippable[0] <= pts:
            self.frame_index += heappop(self._skippable) < pts

    def _video_packets(self) -> Iterator[Packet]:
        """Demux the file; packets of other streams only extend the known duration."""
        restarts = 0
        corrupt_flags: deque[bool] = deque()  # of the latest packets
        try:
            for packet in self._container.demux():
                self._clock.correct(packet)
                stamp = packet.dts if packet.pts is None else packet.pts
                start = end = -math.inf
                if stamp is not None and packet.time_base:
                    start, end = (float(ticks * packet.time_base) for ticks in (stamp, stamp + (packet.duration or 0)))
                self._media_end = max(self._media_end, end)
                if packet.stream is self._stream:
                    insort(self._recent, (start, end))
                    del self._recent[: -3 * _MAX_REORDER]
                    if restarts != self._clock.restarts:  # the demuxer flags packets before a restart, which are intact
                        restarts = self._clock.restarts
                        corrupt_flags.clear()
                    corrupt_flags.append(packet.is_corrupt)
                    if len(corrupt_flags) > _RESTART_PACKETS:
                        self._corrupt += corrupt_flags.popleft()
                    yield cast(Packet, packet)
        except (av.FFmpegError, OSError) as error:
            self._demux_error = str(error.strerror or error)
        self._corrupt += sum(corrupt_flags)

    def bound_end(self, start: float, next_start: float) -> float:
        """Return when a frame ends, in seconds: at the start of the next one, or earlier if a gap follows."""
        if next_start - start <= _MAX_FRAME_S:
            return next_start
        distances = [later - earlier for (earlier, _), (later, _) in pairwise(self._recent)]
        distances += [packet_end - packet_start for packet_start, packet_end in self._recent[-1:]]
        usual = statistics.median_low([distance for distance in distances if 0 < distance < math.inf] or [self.step])
        # The packet before the gap may belong to a frame that was not decoded.
        before_gap = bisect_left(self._recent, (next_start + self.origin - self.step / 2,)) - 1
        start = max(start, self._recent[before_gap][0] - self.origin) if before_gap >= 0 else start
        return min(next_start, start + max(_MAX_FRAME_S, _MAX_FRAME_STEPS * usual))

    def raise_if_incomplete(self, end: float) -> None:
        """Raise an error if frames are missing or corrupt, else the notices about the clip.

        The last frame ends at `end` seconds.

        Raises:
            TruncatedVideo: The file ends before the time or number of frames that its header declares.
            Undecodable: No frame was decoded.
            CorruptVideo: Some packets or frames are corrupt.
            Discontinuity, SeveralStreams: As `raise_notices`.
        """
        self._raise_if_truncated(end)
        if not self._decoded:
            codec = self._stream.codec_context.name if self._stream.codec_context else "unknown"
            raise Undecodable(
                f"{self._path} has a video stream ({codec}) of which no frame can be decoded; convert it to H.264"
            )
        if self._corrupt:
            restarts = f"; {self._clock.describe_restarts()}" if self._clock.restarts else ""
            raise CorruptVideo(f"{self._path} has {self._corrupt} damaged frames; the other frames were used{restarts}")
        self.raise_notices()

    def _raise_if_truncated(self, end: float) -> None:
        # After a restart of the timestamps the declared duration is an estimate from timestamps, hence useless.
        declared = 0.0 if self._clock.restarts else (self._container.duration or 0) / av.time_base
        declared_by_frames = self._stream_start + self._stream.frames * self.step
        tolerance = max(3 * self.step, _TOLERATED_FRACTION * declared)
        time_missing = declared - max(self._media_end - self.origin, end) > tolerance
        packets_missing = self._stream.frames - self._packets > 1 + _TOLERATED_FRACTION * self._stream.frames
        frames_missing = packets_missing and declared_by_frames - end > tolerance
        stopped_early = bool(self._demux_error) and not 0 < declared <= end
        if stopped_early or ((frames_missing or time_missing) and not self._complete_avi):
            reason = f" ({self._demux_error})" if self._demux_error else ""
            declared = max(declared, declared_by_frames)
            header = f"; its header declares {declared:.2f} s" if declared > end else ""
            raise TruncatedVideo(
                f"{self._path} breaks off after {end:.2f} s{reason}{header}; copy or download it again"
            )

    def raise_notices(self) -> None:
        """Raise the notices about the clip, as `fervid.media.container.raise_notices`."""
        raise_notices(self._path, self._clock, self._stream, self._other_streams)


def mark_needed(packets: Iterator[Packet], sampling: Sampling, origin: float) -> Iterator[tuple[Packet, bool]]:
    """Mark the packets whose frames sampling may need.

    A frame is needed if it is the first of its sample slot in presentation order. Packets come in decoding order, so
    each is held back until `_MAX_REORDER` more are known. For a clip of 10 frames a second, sampled at 5::

        packet    I0    P3    B1    B2    P5    B4
        time      0.0   0.3   0.1   0.2   0.5   0.4
        slot      0     1     0     1     2     2
        needed    yes   no    no    yes   no    yes

    The decoder skips B1 alone: P3 and P5 are needed to decode the frames between them. The last `_TAIL_FRAMES` frames
    are always needed, because the end of a clip that breaks off is the end of its last decoded frame. The container
    starts at `origin` seconds.
    """
    waiting: deque[tuple[Packet, float | None]] = deque()
    times: list[float] = []  # of the latest packets, in presentation order

    def pop(tail_start: float = math.inf) -> tuple[Packet, bool]:
        packet, time = waiting.popleft()
        if time is None:
            return packet, True
        slot, position = sampling.slot_index(time), bisect_left(times, time)
        first_of_slot = position == 0 or sampling.slot_index(times[position - 1]) < slot
        return packet, sampling.fps is None or slot < 0 or first_of_slot or time >= tail_start

    for packet in packets:
        time = None
        if packet.pts is not None and packet.time_base:
            time = round(float(packet.pts * packet.time_base) - origin, 6)
            insort(times, time)
            del times[: -3 * _MAX_REORDER]
        waiting.append((packet, time))
        if len(waiting) > _MAX_REORDER:
            yield pop()
    tail = times[-_TAIL_FRAMES:]
    while waiting:
        yield pop(tail[0]) if tail else pop()
