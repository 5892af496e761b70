"""Copying of audio streams from one video to another, re-encoded where mp4 cannot hold the codec."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import TypeAlias, cast

import av

from fervid.media.container import start_time
from fervid.media.sampling import Sampling
from fervid.media.timestamps import Clock

COPYABLE_CODECS = frozenset({"aac", "ac3", "alac", "eac3", "flac", "mp3", "mp3float", "opus"})
"""Codecs that mp4 players support; other audio is re-encoded as AAC."""

_MIN_DURATION_S = 1e-3  # of a packet or frame
_REPAIRED_TIMES = "timestamps of its sound repeat or run backwards; those parts were placed one after the other"
_SAMPLE_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # of AAC; others are resampled

_Packet: TypeAlias = "av.Packet[av.AudioStream]"


class AudioCopier:
    """Copies the audio streams of a video into a video that is being written.

    Attributes:
        notes: Warnings, such as that audio was re-encoded.
    """

    def __init__(
        self,
        source: av.container.InputContainer,
        video: av.VideoStream,
        target: av.container.OutputContainer,
        sampling: Sampling,
    ) -> None:
        """Add a stream to the target for each audio stream of the source.

        The video stream corrects the clock of the audio. The audio of the time range in `sampling` is copied, and if
        that starts with the video, audio before its time 0 too.
        """
        self.notes: list[str] = []
        self._from_beginning = not sampling.start
        self._begin = start_time(source) + sampling.start  # as the end in seconds of the demuxer's clock
        self._end = math.inf if sampling.end is None else start_time(source) + sampling.end
        self._targets: dict[int, av.AudioStream] = {}
        self._reencoded: set[int] = set()
        self._last: dict[int, tuple[int, int]] = {}  # time and duration of the newest packet of each stream, in ticks
        for stream in source.streams.audio:
            name = stream.codec_context.name if stream.codec_context else "unknown"
            if name in COPYABLE_CODECS:
                self._targets[stream.index] = target.add_stream_from_template(stream)
            elif stream.codec_context and stream.rate:
                added = target.add_stream(
                    "aac",
                    rate=stream.rate if stream.rate in _SAMPLE_RATES else _SAMPLE_RATES[-1],
                    layout="mono" if stream.channels == 1 else "stereo",
                )
                self._targets[stream.index] = added
                self._reencoded.add(stream.index)
                self.notes.append(f"its sound ({name}) was re-encoded as AAC, as players do not support {name} in mp4")
            else:
                self.notes.append(f"its sound ({name}) was dropped, as it cannot be decoded")
        self._packets = self._timed_packets(source, video) if self._targets else iter(())
        self._next: tuple[float, list[_Packet]] | None = next(self._packets, None)

    def packets_until(self, time: float) -> Iterator[_Packet]:
        """Yield the packets to write before the frame at that time, in seconds of the output."""
        while self._next is not None and self._next[0] <= time:
            yield from self._next[1]
            self._next = next(self._packets, None)

    def _timed_packets(
        self, source: av.container.InputContainer, video: av.VideoStream
    ) -> Iterator[tuple[float, list[_Packet]]]:
        """Yield times of the output, each with the packets to write then."""
        streams = [stream for stream in source.streams.audio if stream.index in self._targets]
        packets, clock, time = source.demux([video, *streams]), Clock(source, video), 0.0
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.FFmpegError, OSError):  # a truncated file is reported by the reader of its frames
                break
            clock.correct(packet)
            if packet.stream is video or packet.pts is None or not packet.time_base:
                continue
            time = float(packet.pts * packet.time_base) - self._begin
            if time >= self._end - self._begin or (time < 0 and not self._from_beginning):
                continue
            yield time, self._convert(cast(_Packet, packet))
        for index in self._reencoded:
            yield time, list(self._targets[index].encode())

    def _convert(self, packet: _Packet) -> list[_Packet]:
        """Return the packets of the target that replace a packet of the source."""
        stream = packet.stream
        target = self._targets[stream.index]
        shift = round(self._begin / (packet.time_base or 1))
        if stream.index not in self._reencoded:
            packet.pts = (packet.pts or 0) - shift
            packet.dts = packet.pts if packet.dts is None else packet.dts - shift
            dts = self._increasing_time(stream.index, packet.dts, packet.duration or 0, packet.time_base)
            if dts != packet.dts:
                packet.pts = packet.dts = dts
            packet.stream = target
            return [packet]
        packets: list[_Packet] = []
        try:
            frames = stream.decode(packet)
        except av.FFmpegError:  # leaves a short silence
            return packets
        for frame in frames:
            if frame.pts is not None and frame.time_base:
                duration = round(frame.samples / frame.sample_rate / frame.time_base)
                frame.pts = self._increasing_time(stream.index, frame.pts - shift, duration, frame.time_base)
            packets += target.encode(frame)
        return packets

    def _increasing_time(self, index: int, time: int, duration: int, tick: Fraction | None) -> int:
        """Return the time of the next packet of a stream; if it does not increase, the end of the packet before.

        Times and durations are in ticks of `tick` seconds; a duration of 0 is unknown.
        """
        last = self._last.get(index)
        if last is not None and time <= last[0]:
            time = sum(last)  # its end
            if _REPAIRED_TIMES not in self.notes:
                self.notes.append(_REPAIRED_TIMES)
        min_duration = max(1, round(_MIN_DURATION_S / (tick or _MIN_DURATION_S)))
        self._last[index] = (time, max(duration, min_duration))
        return time
