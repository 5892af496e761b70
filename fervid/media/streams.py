"""What does not wait -> frames, each as soon as it has come: a stream that is read forwards only, or a camera.

How long a frame lasts is not known by then, and is what is due.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import suppress
from glob import glob
from types import SimpleNamespace
from typing import BinaryIO

import av
import cv2
import numpy as np

from fervid.core.errors import EmptyInput, InputError, InputNotFound, TruncatedVideo, Undecodable, UnsupportedFormat
from fervid.core.records import Frame
from fervid.media.container import (
    HEADER_BYTES,
    beside,
    check_frame_size,
    configure_decoder,
    is_mp4,
    open_sandboxed,
    select_video_stream,
    start_of,
    unsupported_format_error,
)
from fervid.media.remarks import remark
from fervid.media.sampling import DecodedFrame, Sampling, reshape, rotate, square_pixel_width, to_rgb_frame
from fervid.media.timestamps import Clock

_LOW_LATENCY_OPTIONS = {
    "analyzeduration": "500000",
    "fpsprobesize": "0",
}  # microseconds and frames for which a stream may wait
_LONGEST_STEP_S = 1.0  # what comes later than this after a frame does not tell how long the next one lasts


def read_stream(file: BinaryIO, name: str, sampling: Sampling | None = None, threads: int = 0) -> Generator[Frame]:
    """Frames of a stream, each as soon as it has come; how long one lasts is not known by then, and is what is due.

    Args:
        file: Gives what has come by now, and can be read forwards only: a pipe without a buffer.
        name: What messages call it.
        sampling: Which frames to give; 5 a second if None. A stream is followed from its first frame to its last.
        threads: As for `read`.

    Raises:
        EmptyInput, NotAVideo, NoVideoStream, Undecodable: It holds no picture.
        TooLarge: A frame has more than `fervid.media.container.MAX_FRAME_PIXELS`.
        Truncated: Raised after the last frame, if it broke off.
        Discontinuity, SeveralStreams: Raised after the last frame, as `fervid.media.video.read_frames` does.
    """
    sampling, pipe, due = sampling or Sampling(), _HeaderRecorder(file), -1.0
    try:
        container = open_sandboxed(SimpleNamespace(read=pipe.read), **_LOW_LATENCY_OPTIONS)
    except (av.FFmpegError, OSError) as error:
        raise _stream_error(name, pipe.head) from error
    with container:
        pictures = select_video_stream(name, container, pipe.head, sampling.stream)
        pictures.thread_type = "SLICE"  # frames that are decoded in several threads come later
        clock = Clock(container, pictures)
        for one in _decode_stream(name, container, pictures, clock, threads, pipe.head):
            if (turn := sampling.turn(one.start)) >= due:
                due = turn + 1
                yield to_rgb_frame(one, 1 / sampling.fps if sampling.fps else one.end - one.start, sampling)
        remark(name, clock.restarts, pictures, beside(container, pictures) if sampling.stream is None else [])


def read_camera(number: int, sampling: Sampling | None = None) -> Generator[Frame]:
    """Frames of a camera of this machine, each as soon as it has come.

    Args:
        number: Counted from 0, as the system does.
        sampling: As for `read_stream`; the pictures are turned only if it says so.

    Raises:
        InputNotFound: There is no such camera, or it cannot be opened.
        Truncated: It gives no more pictures.
    """
    sampling, device, due = sampling or Sampling(), cv2.VideoCapture(number), -1.0
    begun, last = time.monotonic(), 0.0
    try:
        if not device.isOpened():
            there = " ".join(sorted(glob("/dev/video*"))) or "none"
            raise InputNotFound(
                f"camera {number} cannot be opened (there are: {there}); check that it is plugged in, that you may"
                " read it (on Linux the group video), and that nobody else uses it"
            )
        device.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        while device.grab():
            now = time.monotonic() - begun
            if (turn := sampling.turn(now)) < due:
                continue
            whole, picture = device.retrieve()
            if whole:  # a damaged one is left out, the next is as good
                due, length, last = turn + 1, 1 / sampling.fps if sampling.fps else now - last, now
                image = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)
                yield Frame(reshape(rotate(image, sampling.rotate or 0), sampling.aspect), now, length)
        raise TruncatedVideo(f"camera {number} gives no more pictures; check that it is still plugged in")
    finally:
        device.release()


class _HeaderRecorder:
    """Remembers how it began."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.head = file, b""

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.head += data[: HEADER_BYTES - len(self.head)]
        return data


def _stream_error(name: str, head: bytes) -> InputError:
    if not head:
        return EmptyInput(f"{name} is empty; what should have written to it ended before, and may say why")
    if is_mp4(head):
        return UnsupportedFormat(
            f"{name} is mp4 with its index behind the pictures, so it cannot be read as it comes; send Matroska (ffmpeg"
            " -f matroska) or mp4 in fragments (-movflags frag_keyframe+empty_moov)"
        )
    return unsupported_format_error(name, head)


def _decode_stream(
    name: str,
    container: av.container.InputContainer,
    pictures: av.VideoStream,
    clock: Clock,
    threads: int,
    head: bytes,
) -> Generator[DecodedFrame]:
    """Every frame of a stream. Times go on where a source begins anew; damaged packets are what a network loses."""
    aspect, step = configure_decoder(name, pictures, threads), 1 / float(pictures.average_rate or 25)
    origin, now, stopped = start_of(container), -step, ""
    packets = container.demux(pictures)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError) as error:
            stopped = str(error.strerror or error)
            break
        if packet is None:
            break
        clock.correct(packet)
        if packet.pts is not None and not packet.size:  # the picture before it, once more
            continue
        frames: list[av.VideoFrame] = []
        with suppress(av.FFmpegError):
            frames = pictures.decode(packet)
        for frame in frames:
            check_frame_size(name, square_pixel_width(frame.width, aspect), frame.height)
            before, now = now, max(now, now + step if frame.time is None else round(frame.time - origin, 6))
            step = now - before if 0 < now - before < _LONGEST_STEP_S else step
            yield DecodedFrame(frame, aspect, now, now + step)
    if now < 0:
        none = Undecodable(f"{name} has a video stream of which no frame can be decoded; send H.264")
        raise _stream_error(name, head) if is_mp4(head) else none
    if stopped:
        raise TruncatedVideo(f"{name} broke off after {now:.2f} s ({stopped}); start what sends it again")
