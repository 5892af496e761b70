"""Reading of video files: upright RGB frames with their presentation times.

`read_frames` is a generator that owns its file: the file is closed after the last frame, on an error and on an early
`break`. A thread decodes some megabytes ahead, so memory use does not depend on the length of a clip.

Files may be hostile: `fervid.media.container` opens no other file, and frame size and duration are limited.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import av

from fervid.core.errors import ClipTooLong, InputError, UnsupportedFormat
from fervid.core.prefetch import prefetch
from fervid.core.records import Frame
from fervid.media.container import (
    check_frame_size,
    configure_decoder,
    open_container,
    open_file,
    read_error,
    select_video_stream,
)
from fervid.media.decode_audit import DecodeAudit
from fervid.media.file_format import is_complete_avi, is_image, read_header
from fervid.media.image_files import MAX_IMAGE_BYTES, decode_animation, read_image
from fervid.media.image_header import is_animated
from fervid.media.sampling import MAX_DURATION_S, DecodedFrame, Sampling, square_pixel_width, to_rgb_frame

_PREFETCH_BYTES = 24_000_000  # bytes of frames to decode ahead


def read_image_sequence(paths: Iterable[str | os.PathLike[str]]) -> Generator[Frame]:
    """Read images as the frames of a clip, five a second.

    Raises:
        InputError: As `read_frames`, for the first image that cannot be read.
    """
    for number, path in enumerate(paths):
        with closing(read_frames(path)) as frames:
            yield replace(next(frames), time=number / 5, duration=1 / 5)


def read_frames(path: str | os.PathLike[str], sampling: Sampling | None = None, threads: int = 0) -> Generator[Frame]:
    """Read the frames of a clip in presentation order; a still image is a clip of one frame.

    Each frame lasts until the next sampled frame, and the last one until the end. Gaps in the timestamps are not
    counted into the duration of any frame.

    Args:
        path: Video or image file in any format of the decoder, recognised by its content.
        sampling: Which frames to give; 5 a second if None.
        threads: Number of decoder threads; 0 leaves it to the decoder.

    Raises:
        InputNotFound, InputUnreadable, EmptyInput: The file cannot be opened.
        UnsupportedFormat, NoVideoStream, Undecodable: It holds no frame.
        FrameTooLarge: A frame has more than `fervid.media.container.MAX_FRAME_PIXELS`.
        ClipTooLong: Raised after the last frame before `MAX_DURATION_S`, if the clip is longer.
        TruncatedVideo, CorruptVideo: Raised after the last frame that could be decoded, if some are missing.
        Discontinuity: Raised after the last frame, if the timestamps start again.
        SeveralStreams: Raised after the last frame, if there are several streams and `sampling` names none.
    """
    sampling = sampling or Sampling()
    path = Path(path)
    with open_file(path) as file:
        try:
            data = file.read(MAX_IMAGE_BYTES) if is_image(file) else b""
        except OSError as error:
            raise read_error(path, error) from error
        if data and not is_animated(data):
            yield read_image(path, data, sampling)
        else:
            decoded = decode_animation(path, data, _PREFETCH_BYTES) if data else _decode(path, file, sampling, threads)
            yield from prefetch(_resample(decoded, sampling), _PREFETCH_BYTES, lambda frame: frame.image.nbytes)


@contextmanager
def open_video(
    path: str | os.PathLike[str], stream: int | None = None
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Open a video for demuxing, such as to copy its sound, and select its video stream.

    Args:
        path: A video.
        stream: Number of the video stream, as in `Sampling`.

    Raises:
        InputNotFound, InputUnreadable, EmptyInput: The file cannot be opened.
        UnsupportedFormat: It is an image, or no video.
        NoVideoStream: It has no video stream.
    """
    path = Path(path)
    with open_file(path) as file:
        if is_image(file):
            if is_animated(read_header(file)):
                raise UnsupportedFormat(f"{path} is an animated WebP, which cannot be re-encoded; convert it to mp4")
            raise UnsupportedFormat(f"{path} is a still image; name a video")
        with open_container(path, file) as container:
            yield container, select_video_stream(path, container, read_header(file), stream)


def _decode(path: Path, file: BinaryIO, sampling: Sampling, threads: int) -> Generator[DecodedFrame]:
    """Decode every frame up to `sampling.end_time`, then raise what was wrong with the file.

    A frame is given once the next one is decoded, which determines its end.
    """
    with open_container(path, file) as container:
        stream = select_video_stream(path, container, read_header(file), sampling.stream)
        stream.thread_type = "AUTO"
        aspect = configure_decoder(path, stream, threads)
        audit = DecodeAudit(
            path, container, stream, stream_chosen=sampling.stream is not None, complete_avi=is_complete_avi(file)
        )
        start = end = 0.0
        pending: DecodedFrame | None = None
        for frame in audit.frames(sampling):
            start = max(start, end if frame.time is None else round(frame.time - audit.origin, 6))
            if pending is not None:
                yield replace(pending, end=audit.bound_end(pending.start, start))
                pending = None
            if start >= sampling.end_time:
                if sampling.end_time == sampling.end:
                    audit.raise_notices()
                    return
                raise ClipTooLong(
                    f"{path} is longer than {MAX_DURATION_S / 3600:g} hours, of which these were analysed; choose"
                    " another part with --start and --end"
                )
            check_frame_size(path, *_output_size(frame, aspect, sampling))
            end = start + (float(frame.duration * (frame.time_base or 0)) or audit.step)
            pending = DecodedFrame(frame, aspect, start, end, audit.frame_index)
        if pending is not None:
            yield pending
        audit.raise_if_incomplete(end)


def _output_size(frame: av.VideoFrame, aspect: float, sampling: Sampling) -> tuple[int, int]:
    """Return the sides in pixels of the converted frame, in any order."""
    if sampling.aspect is None:
        return square_pixel_width(frame.width, aspect), frame.height
    sideways = (frame.rotation if sampling.rotate is None else sampling.rotate) % 180
    height = frame.width if sideways else frame.height
    return round(height * sampling.aspect), height


def _resample(decoded: Iterator[DecodedFrame], sampling: Sampling) -> Generator[Frame]:
    """Convert the first frame of every sample slot.

    A frame is given when the next slot begins, which determines its duration. The last one is given before an
    `InputError` of the decoder is raised.
    """
    pending: DecodedFrame | None = None
    next_slot: float = 0
    duration = 0.0
    error: InputError | None = None
    try:
        for frame in decoded:
            slot = sampling.slot_index(frame.start)
            if slot >= next_slot or (pending is None and frame.end > sampling.start):
                if pending is not None:
                    yield to_rgb_frame(pending, duration, sampling)
                pending, duration = frame, 0.0
                if sampling.fps is not None:
                    next_slot = max(slot, 0) + 1
            duration += max(0.0, min(frame.end, sampling.end_time) - max(frame.start, sampling.start))
    except InputError as raised:
        error = raised
    if pending is not None:
        yield to_rgb_frame(pending, duration, sampling)
    if error is not None:
        raise error
