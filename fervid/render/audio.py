"""The sound of a film -> that of another: its packets as they are, or encoded anew where mp4 has no place for them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias, cast

import av

from fervid.media.timestamps import Clock

COPYABLE_CODECS = frozenset({"aac", "ac3", "alac", "eac3", "flac", "mp3", "mp3float", "opus"})
"""Decoders of the sound that mp4 files carry and players expect in them; other sound is encoded anew as AAC."""


_LEAST_S = 1e-3  # that a part of the sound lasts
_UNSTEADY = "times of its sound repeat or run backwards, so that one part was put behind the other there"
_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # of AAC; other sound is resampled

_Packet: TypeAlias = "av.Packet[av.AudioStream]"


@dataclass(frozen=True, slots=True)
class TimeRange:
    """What is taken of a film, in seconds of its demuxer's clock.

    Attributes:
        begin: What becomes time 0.
        end: Where it ends.
        whole: Whether the film is taken from its beginning, with what comes before time 0 too.
    """

    begin: float
    end: float = math.inf
    whole: bool = True


class AudioCopier:
    """The sound of a film that is being written.

    Attributes:
        notes: What is worth saying about it.
    """

    def __init__(
        self,
        source: av.container.InputContainer,
        pictures: av.VideoStream,
        target: av.container.OutputContainer,
        part: TimeRange,
    ) -> None:
        """Add a stream to the target for each one of the source.

        Args:
            source: The film that was.
            pictures: Its video stream, which sets the clock.
            target: The film that comes.
            part: What of it is taken.
        """
        self.notes: list[str] = []
        self._part = part
        self._targets: dict[int, av.AudioStream] = {}
        self._anew: set[int] = set()
        self._last: dict[int, int] = {}  # newest time of each stream, in ticks of its packets or frames
        self._lengths: dict[int, int] = {}  # and how long that part lasts
        for stream in source.streams.audio:
            name = stream.codec_context.name if stream.codec_context else "unknown"
            if name in COPYABLE_CODECS:
                self._targets[stream.index] = target.add_stream_from_template(stream)
            elif stream.codec_context and stream.rate:
                added = target.add_stream(
                    "aac",
                    rate=stream.rate if stream.rate in _RATES else _RATES[-1],
                    layout="mono" if stream.channels == 1 else "stereo",
                )
                self._targets[stream.index] = added
                self._anew.add(stream.index)
                self.notes.append(
                    f"its sound ({name}) was encoded anew as AAC, because players expect no {name} in mp4"
                )
            else:
                self.notes.append(f"its sound ({name}) was left out, because it cannot be decoded")
        self._packets = self._taken(source, pictures) if self._targets else iter(())
        self._next: tuple[float, list[_Packet]] | None = next(self._packets, None)

    def until(self, time: float) -> Iterator[_Packet]:
        """What is to be written before the frame at that time, in seconds of the new film."""
        while self._next is not None and self._next[0] <= time:
            yield from self._next[1]
            self._next = next(self._packets, None)

    def _taken(
        self, source: av.container.InputContainer, pictures: av.VideoStream
    ) -> Iterator[tuple[float, list[_Packet]]]:
        streams = [stream for stream in source.streams.audio if stream.index in self._targets]
        packets, clock, time = source.demux([pictures, *streams]), Clock(source, pictures), 0.0
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.FFmpegError, OSError):  # of a film that breaks off its pictures tell
                break
            clock.correct(packet)
            if packet.stream is pictures or packet.pts is None or not packet.time_base:
                continue
            time = float(packet.pts * packet.time_base) - self._part.begin
            if time >= self._part.end - self._part.begin or (time < 0 and not self._part.whole):
                continue
            yield time, self._made(cast(_Packet, packet))
        for index in self._anew:
            yield time, list(self._targets[index].encode())

    def _made(self, packet: _Packet) -> list[_Packet]:
        """What becomes of a packet of the source."""
        stream = packet.stream
        target = self._targets[stream.index]
        shift = round(self._part.begin / (packet.time_base or 1))
        if stream.index not in self._anew:
            packet.pts = (packet.pts or 0) - shift
            packet.dts = packet.pts if packet.dts is None else packet.dts - shift
            steady = self._steady(stream.index, packet.dts, packet.duration or 0, packet.time_base)
            if steady != packet.dts:
                packet.pts = packet.dts = steady
            packet.stream = target
            return [packet]
        made: list[_Packet] = []
        try:
            frames = stream.decode(packet)
        except av.FFmpegError:  # a moment of silence
            return made
        for frame in frames:
            if frame.pts is not None and frame.time_base:
                length = round(frame.samples / frame.sample_rate / frame.time_base)
                frame.pts = self._steady(stream.index, frame.pts - shift, length, frame.time_base)
            made += target.encode(frame)
        return made

    def _steady(self, index: int, time: int, length: int, tick: Fraction | None) -> int:
        """The time of the next part of a stream: where the last one ended, if it is no later than that began.

        Args:
            index: Of the stream.
            time: What the film says, in ticks.
            length: How long the part lasts, in ticks; 0 if nobody knows.
            tick: Seconds that one lasts.
        """
        last, least = self._last.get(index), max(1, round(_LEAST_S / (tick or _LEAST_S)))
        if last is not None and time <= last:
            time = last + self._lengths.get(index, least)
            if _UNSTEADY not in self.notes:
                self.notes.append(_UNSTEADY)
        self._last[index], self._lengths[index] = time, max(length, least)
        return time
