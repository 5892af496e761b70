"""A video file -> upright RGB frames with their presentation time.

`read` is a generator that owns its file: it closes on the last frame, on an error and on an early `break`. Decoding
runs ahead in a thread of its own, by some megabytes and no more, so memory does not depend on the length of a clip.

What `fervid.container` opens it with reaches no other file. Neither size nor length is believed beyond a limit.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

import av
import cv2
import numpy as np

from fervid.ahead import ahead
from fervid.container import (
    PIXELS,
    check,
    contained,
    head_of,
    is_picture,
    limit,
    open_file,
    pictures_of,
    unreadable,
)
from fervid.errors import (
    Damaged,
    InputError,
    NotAVideo,
    TooLong,
    Truncated,
    Undecodable,
)
from fervid.records import Frame
from fervid.sampling import LONGEST, Decoded, Sampling, convert, stretched, turned
from fervid.stills import size

_AHEAD = 24_000_000  # bytes of frames that are decoded before they are asked for
_REORDERED = 32  # packets; those of frames that are shown one after another are no further apart
_LAST = 4  # frames of a clip are decoded in any case

_Packet: TypeAlias = "av.Packet[av.VideoStream]"


def read_pictures(paths: Iterable[str | os.PathLike[str]]) -> Generator[Frame]:
    """Pictures as the frames of a clip, five of them a second.

    Raises:
        InputError: As `read`, for the first picture that cannot be read.
    """
    for number, path in enumerate(paths):
        with closing(read(path)) as frames:
            yield replace(next(frames), time=number / 5, duration=1 / 5)


def read(path: str | os.PathLike[str], sampling: Sampling | None = None, threads: int = 0) -> Generator[Frame]:
    """Frames of a clip in order of presentation; a still image is a clip of one frame.

    The frames share the clip between them: each lasts until the next one that is given, the last until the end.

    Args:
        path: Video or image file, in any format of the decoder; its content counts, not its name.
        sampling: Which frames to give; 5 a second if None.
        threads: How many threads to decode with; 0 leaves it to the decoder.

    Raises:
        InputNotFound, InputUnreadable, EmptyInput: The file cannot be opened.
        NotAVideo, NoVideoStream, Undecodable: It holds no picture.
        TooLarge: A frame has more than `fervid.container.PIXELS`.
        TooLong: Raised after what was looked at, if the clip goes on for longer than `LONGEST`.
        Truncated, Damaged: Raised after the last frame that could be decoded, if some are missing.
    """
    sampling = sampling or Sampling()
    path = Path(path)
    with open_file(path) as file:
        try:
            picture = _read_picture(path, file, sampling) if is_picture(file) else None
        except OSError as error:
            raise unreadable(path, error) from error
        if picture is not None:
            yield picture
        else:
            frames = _sample(_decode(path, file, sampling, threads), sampling)
            yield from ahead(frames, _AHEAD, lambda frame: frame.image.nbytes)


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """A video as the demuxer knows it, and the stream of its pictures: for what goes beside them, such as sound.

    Raises:
        InputNotFound, InputUnreadable, EmptyInput: The file cannot be opened.
        NotAVideo: It is a still image, or holds no video.
        NoVideoStream: It holds no pictures.
    """
    path = Path(path)
    with open_file(path) as file:
        if is_picture(file):
            raise NotAVideo(f"{path} is a still image, which has no frames that follow each other; name a video")
        with contained(path, file) as container:
            yield container, pictures_of(path, container, head_of(file))


def _read_picture(path: Path, file: BinaryIO, sampling: Sampling) -> Frame:
    obey = 0 if sampling.rotate is None else cv2.IMREAD_IGNORE_ORIENTATION
    data = file.read(8 * PIXELS)  # which is enough for the largest in 16 bits without compression
    image = None
    if shape := size(data):
        check(path, *shape)
        with suppress(cv2.error):
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | obey)
    if image is None:
        raise Undecodable(f"{path} starts as an image and cannot be decoded; copy or download it again")
    return Frame(turned(np.asarray(image, np.uint8), sampling.rotate or 0))


def _decode(path: Path, file: BinaryIO, sampling: Sampling, threads: int) -> Generator[Decoded]:
    """Every frame up to `sampling.end`, each once the next tells how long it lasted; then raises what was wrong."""
    with contained(path, file) as container:
        stream = pictures_of(path, container, head_of(file))
        stream.thread_type = "AUTO"
        aspect = limit(path, stream, threads)
        account = _Account(path, container, stream)
        start = end = 0.0
        held: Decoded | None = None
        for frame in account.frames(sampling):
            start = max(start, end if frame.time is None else round(frame.time - account.origin, 6))
            if held is not None:
                yield replace(held, end=start)
                held = None
            if start >= sampling.stop:
                if sampling.stop == sampling.end:
                    return
                raise TooLong(
                    f"{path} goes on for longer than {LONGEST / 3600:g} hours, which were looked at; take another part"
                    " with --start and --end"
                )
            check(path, stretched(frame.width, aspect), frame.height)
            end = start + (float(frame.duration * (frame.time_base or 0)) or account.step)
            held = Decoded(frame, aspect, start, end)
        if held is not None:
            yield held
        account.settle(end)


class _Account:
    """What comes out of a file, against what its header promises."""

    def __init__(self, path: Path, container: av.container.InputContainer, stream: av.VideoStream) -> None:
        self._path, self._container, self._stream = path, container, stream
        self._clip_start = (container.start_time or 0) / av.time_base
        started = stream.start_time
        base = stream.time_base
        self.origin = float(started * base) if started is not None and base else self._clip_start
        self.step = 1 / float(stream.average_rate or 25)  # seconds from one frame to the next, as a rule
        self._given = self._packets = self._broken = 0
        self._media_end = 0.0
        self._stopped = ""

    def frames(self, sampling: Sampling) -> Iterator[av.VideoFrame]:
        """Decode what can be decoded; packets that cannot are counted.

        Frames that are not asked for and that no other is made from, as most B-frames, are not decoded at all.
        """
        context = self._stream.codec_context
        for packet, asked in _asked(self._pictures(), sampling, self.origin):
            if context is not None:
                context.skip_frame = "DEFAULT" if asked else "NONREF"
            self._packets += packet.size > 0
            self._broken += packet.is_corrupt
            try:
                frames = self._stream.decode(packet)
            except av.FFmpegError:
                self._broken += not packet.is_corrupt
                continue
            self._given += len(frames)
            self._broken += sum(frame.is_corrupt for frame in frames)
            yield from frames

    def _pictures(self) -> Iterator[_Packet]:
        """The packets of the video stream; of all others only the time counts."""
        demuxer = self._container.demux()
        while True:
            try:
                packet = next(demuxer)
            except StopIteration:
                return
            except (av.FFmpegError, OSError) as error:
                self._stopped = str(error.strerror or error)
                return
            stamp = packet.dts if packet.pts is None else packet.pts
            if stamp is not None and packet.time_base:
                self._media_end = max(self._media_end, float((stamp + (packet.duration or 0)) * packet.time_base))
            if packet.stream is self._stream:
                yield cast(_Packet, packet)

    def settle(self, end: float) -> None:
        """Raise what is missing, now that the last frame, which ends at `end` seconds, was given.

        A few frames less than promised are the rule with edited clips, and no sign of anything.
        """
        declared = (self._container.duration or 0) / av.time_base
        missing_packets = self._stream.frames - self._packets > 1 + 0.02 * self._stream.frames
        media_end = max(self._media_end, end + self.origin) - self._clip_start
        missing_time = declared - media_end > max(3 * self.step, 0.02 * declared)
        if self._stopped or missing_packets or missing_time:
            reason = f" ({self._stopped})" if self._stopped else ""
            promise = f"; its header promises {declared:.2f} s" if declared > end else ""
            raise Truncated(
                f"{self._path} breaks off after {end:.2f} s{reason}{promise}; copy or download it again for the rest"
            )
        if not self._given:
            codec = self._stream.codec_context.name if self._stream.codec_context else "unknown"
            raise Undecodable(
                f"{self._path} has a video stream ({codec}) of which no frame can be decoded; convert it to H.264"
            )
        if self._broken:
            raise Damaged(f"{self._path} has {self._broken} damaged packets or frames; what surrounds them was used")


def _asked(packets: Iterator[_Packet], sampling: Sampling, origin: float) -> Iterator[tuple[_Packet, bool]]:
    """Every packet, with whether its frame may be asked for, as far as can be told from the times of those around it.

    A frame is the first of its turn unless one that is shown shortly before it is of the same. The last ones tell how
    long the clip is, even if it breaks off.
    """
    waiting: deque[tuple[_Packet, float | None]] = deque()
    times: list[float] = []  # of the packets around the next one, in order

    def leave(late: float = math.inf) -> tuple[_Packet, bool]:
        packet, time = waiting.popleft()
        if time is None:
            return packet, True
        turn, before = sampling.turn(time), bisect_left(times, time)
        first = sampling.fps is None or turn < 0 or before == 0 or sampling.turn(times[before - 1]) < turn
        return packet, first or time >= late

    for packet in packets:
        time = None
        if packet.pts is not None and packet.time_base:
            time = round(float(packet.pts * packet.time_base) - origin, 6)
            insort(times, time)
            del times[: -3 * _REORDERED]
        waiting.append((packet, time))
        if len(waiting) > _REORDERED:
            yield leave()
    while waiting:
        yield leave(*times[-_LAST:][:1])


def _sample(decoded: Iterator[Decoded], sampling: Sampling) -> Generator[Frame]:
    """The frames that were asked for, converted; each once the next is known, because only then is its duration."""
    held: Decoded | None = None
    due: float = 0
    end = 0.0
    try:
        for one in decoded:
            end = min(one.end, sampling.stop)
            turn = sampling.turn(one.start)
            if turn < due and not (held is None and one.end > sampling.start):
                continue
            if held is not None:
                yield convert(held, one.start, sampling)
            held = one
            if sampling.fps is not None:
                due = max(turn, 0) + 1
    except InputError:
        if held is not None:
            yield convert(held, end, sampling)
        raise
    if held is not None:
        yield convert(held, end, sampling)
