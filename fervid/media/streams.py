"""Reading of live sources: pipes, which cannot be rewound, and cameras.

Each frame is given as soon as it arrives. The next frame is not known by then, so its duration is the expected one.
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
    check_frame_size,
    configure_decoder,
    open_sandboxed,
    other_video_streams,
    raise_notices,
    select_video_stream,
    start_time,
)
from fervid.media.file_format import HEADER_BYTES, is_mp4, unsupported_format_error
from fervid.media.sampling import DecodedFrame, Sampling, reshape, rotate, square_pixel_width, to_rgb_frame
from fervid.media.timestamps import Clock

_LOW_LATENCY_OPTIONS = {
    "analyzeduration": "500000",  # microseconds of a stream to analyse before its first frame
    "fpsprobesize": "0",  # frames to analyse
}
_MAX_STEP_S = 1.0  # a longer distance between two frames is a gap, not the frame rate


def read_stream(file: BinaryIO, name: str, sampling: Sampling | None = None, threads: int = 0) -> Generator[Frame]:
    """Read the frames of a stream, each as soon as it arrives.

    Args:
        file: An unbuffered file, which need not be seekable, such as a pipe.
        name: The name of the stream in messages.
        sampling: Which frames to give; 5 a second if None. It cannot set `start` and `end`.
        threads: As for `fervid.media.video.read_frames`.

    Raises:
        EmptyInput, UnsupportedFormat, NoVideoStream, Undecodable: It holds no frame.
        FrameTooLarge: A frame has more than `fervid.media.container.MAX_FRAME_PIXELS`.
        TruncatedVideo: Raised after the last frame, if the stream broke off.
        Discontinuity, SeveralStreams: Raised after the last frame, as `fervid.media.video.read_frames` does.
    """
    sampling, recorder, next_slot = sampling or Sampling(), _HeaderRecorder(file), -1.0
    try:
        container = open_sandboxed(SimpleNamespace(read=recorder.read), **_LOW_LATENCY_OPTIONS)
    except (av.FFmpegError, OSError) as error:
        raise _stream_error(name, recorder.header) from error
    with container:
        stream = select_video_stream(name, container, recorder.header, sampling.stream)
        stream.thread_type = "SLICE"  # frame threads delay the frames
        clock = Clock(container, stream)
        for frame in _decode_stream(name, container, stream, clock, threads, recorder.header):
            if (slot := sampling.slot_index(frame.start)) >= next_slot:
                next_slot = slot + 1
                yield to_rgb_frame(frame, 1 / sampling.fps if sampling.fps else frame.end - frame.start, sampling)
        others = other_video_streams(container, stream) if sampling.stream is None else []
        raise_notices(name, clock, stream, others)


def read_camera(number: int, sampling: Sampling | None = None) -> Generator[Frame]:
    """Read the frames of a local camera, each as soon as it arrives.

    Args:
        number: Number of the camera, as the system counts them from 0.
        sampling: As for `read_stream`.

    Raises:
        InputNotFound: There is no such camera, or it cannot be opened.
        TruncatedVideo: The camera stopped.
    """
    sampling, device, next_slot = sampling or Sampling(), cv2.VideoCapture(number), -1.0
    opened_at, last = time.monotonic(), 0.0
    try:
        if not device.isOpened():
            cameras = f" (cameras: {' '.join(names)})" if (names := sorted(glob("/dev/video*"))) else ""
            raise InputNotFound(
                f"camera {number} cannot be opened{cameras}; check that it is plugged in, that you may read it (on"
                " Linux: group video; on macOS and Windows: the privacy settings), and that no other program uses it"
            )
        device.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        while device.grab():
            now = time.monotonic() - opened_at
            if (slot := sampling.slot_index(now)) < next_slot:
                continue
            retrieved, bgr = device.retrieve()
            if retrieved:  # skip a damaged frame and take the next one for this slot
                next_slot, duration, last = slot + 1, 1 / sampling.fps if sampling.fps else now - last, now
                image = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
                yield Frame(reshape(rotate(image, sampling.rotate or 0), sampling.aspect), now, duration)
        raise TruncatedVideo(f"camera {number} stopped sending frames; check that it is still plugged in")
    finally:
        device.release()


class _HeaderRecorder:
    """Reader of a file that keeps the first bytes for error messages."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.header = file, b""

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.header += data[: HEADER_BYTES - len(self.header)]
        return data


def _stream_error(name: str, header: bytes) -> InputError:
    if not header:
        return EmptyInput(f"{name} is empty: the producing command exited without output; check its error message")
    if is_mp4(header):
        return UnsupportedFormat(
            f"{name} is mp4 with its index at the end, which cannot be streamed; send Matroska (ffmpeg"
            " -f matroska) or fragmented mp4 (-movflags frag_keyframe+empty_moov)"
        )
    return unsupported_format_error(name, header)


def _decode_stream(
    name: str,
    container: av.container.InputContainer,
    stream: av.VideoStream,
    clock: Clock,
    threads: int,
    header: bytes,
) -> Generator[DecodedFrame]:
    """Decode every frame; damaged packets, as a network loses some, are skipped without an error."""
    aspect, step = configure_decoder(name, stream, threads), 1 / float(stream.average_rate or 25)
    origin, now, demux_error = start_time(container), -step, ""
    try:
        for packet in container.demux(stream):
            clock.correct(packet)
            if packet.pts is not None and not packet.size:  # repeats the previous frame
                continue
            frames: list[av.VideoFrame] = []
            with suppress(av.FFmpegError):
                frames = stream.decode(packet)
            for frame in frames:
                check_frame_size(name, square_pixel_width(frame.width, aspect), frame.height)
                previous, now = now, max(now, now + step if frame.time is None else round(frame.time - origin, 6))
                step = now - previous if 0 < now - previous < _MAX_STEP_S else step
                yield DecodedFrame(frame, aspect, now, now + step)
    except (av.FFmpegError, OSError) as error:
        demux_error = str(error.strerror or error)
    if now < 0:
        if is_mp4(header):
            raise _stream_error(name, header)
        raise Undecodable(f"{name} has a video stream of which no frame can be decoded; send H.264")
    if demux_error:
        raise TruncatedVideo(f"{name} broke off after {now:.2f} s ({demux_error}); restart the sender")
