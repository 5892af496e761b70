"""Opening of files and streams with FFmpeg, in a sandbox, and selection of the video stream, with notices about a clip.

Files may be hostile. FFmpeg opens no other file or URL that a clip names: only self-contained formats are enabled, and
all protocols are disabled. Frames above `MAX_FRAME_PIXELS` are refused.
"""

from __future__ import annotations

import errno
import math
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import av

from fervid.core.errors import (
    Discontinuity,
    EmptyInput,
    FrameTooLarge,
    InputError,
    InputNotFound,
    InputUnreadable,
    NoVideoStream,
    SeveralStreams,
    Undecodable,
)
from fervid.media.file_format import is_encrypted, read_header, unsupported_format_error
from fervid.media.sampling import square_pixel_width
from fervid.media.timestamps import Clock

MAX_FRAME_PIXELS = 8192 * 8192
"""Largest number of pixels of a frame."""
_FORMATS = (
    "apng asf av1 avi cavsvideo dirac dv flv gif gxf h261 h263 h264 hevc ivf m4v matroska mjpeg mov mpeg mpegts"
    " mpegvideo mxf nsv nut obu ogg rm swf vc1 vvc wtv yuv4mpegpipe"
    " aac ac3 aiff amr ape au caf dts eac3 flac mp3 mpc tta w64 wav wv"  # sound, for a better error message
    " ico j2k_pipe jpegls_pipe jpegxl_anim jpegxl_pipe pam_pipe pbm_pipe pgm_pipe ppm_pipe qoi_pipe tiff_pipe"
)
_SANDBOX_OPTIONS = {"protocol_whitelist": "", "format_whitelist": _FORMATS.replace(" ", ",")}
_METADATA_OPTIONS: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "ignore"}
"""Ignore metadata in unknown encodings, which PyAV does by default since version 19."""
_DEFAULT = av.stream.Disposition.default
_COVER_OR_THUMBNAIL = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
_URL = re.compile(r"([a-z][a-z0-9+.-]+):(/.*)", re.IGNORECASE)  # after `Path` has merged the slashes


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        InputNotFound, InputUnreadable, EmptyInput: It cannot be opened, is no regular file, or is empty.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            os.scandir(path).close()  # raises if the folder cannot be listed
            raise InputUnreadable(f"{path} is a folder; name the files in it, or give the folder to `fervid classify`")
        if not stat.S_ISREG(mode):
            raise _not_seekable_error(path)
        file = path.open("rb")
    except FileNotFoundError:
        raise _not_found_error(path) from None
    except (OSError, ValueError) as error:
        raise read_error(path, error) from error
    if not os.fstat(file.fileno()).st_size:
        file.close()
        raise EmptyInput(f"{path} is empty; copy or download it again")
    return file


def _not_seekable_error(path: Path) -> InputUnreadable:
    return InputUnreadable(
        f"{path} is a pipe or a device, which is not seekable; save it to a file, or read it as a stream with"
        " `fervid classify -`"
    )


def _not_found_error(path: Path) -> InputError:
    # Process substitution, as <(...), names a descriptor that a worker process does not have.
    if path.is_relative_to("/dev/fd") or path.is_relative_to("/proc/self/fd"):
        return _not_seekable_error(path)
    if path.is_symlink():
        target = os.readlink(path)
        return InputNotFound(
            f"{path} is a link to {target}, which does not exist; restore {target}, or remove the link"
        )
    if url := _URL.match(path.as_posix()):
        scheme, location = url.groups()
        if scheme.lower() == "file":
            return InputNotFound(f"file://{location} is a URL; name the file by its path")
        return InputNotFound(
            f"{scheme}:/{location} is a URL, and only local files are read; download it, pipe it (ffmpeg -i URL -c"
            " copy -f matroska - | fervid classify -), or use --engine ray"
        )
    return InputNotFound(f"{path} does not exist; check the spelling and the current folder")


def read_error(path: Path, error: OSError | ValueError) -> InputUnreadable:
    """Convert an error of the operating system to `InputUnreadable`."""
    reason = getattr(error, "strerror", None) or error
    return InputUnreadable(f"{path} cannot be read ({reason}); check its permissions and its disk")


def open_container(path: Path, file: BinaryIO) -> av.container.InputContainer:
    """Open the container of a file.

    Raises:
        UnsupportedFormat, TruncatedVideo: FFmpeg does not recognise the format.
        Undecodable: The file is encrypted.
        InputUnreadable: The file cannot be read.
    """
    unnamed = SimpleNamespace(read=file.read, seek=file.seek, tell=file.tell)  # FFmpeg may take a name for a pattern
    try:
        if is_encrypted(file):
            raise Undecodable(f"{path} is encrypted (DRM); get an unencrypted copy")
        return open_sandboxed(unnamed)
    except av.FFmpegError as error:
        raise unsupported_format_error(path, read_header(file)) from error
    except OSError as error:
        if error.errno == errno.EINVAL:  # the file contains an impossible offset
            raise unsupported_format_error(path, read_header(file)) from error
        raise read_error(path, error) from error


def open_sandboxed(source: object, **options: str) -> av.container.InputContainer:
    """Open a container that cannot make FFmpeg open other files or URLs.

    Args:
        source: An object with `read`, and `seek` and `tell` if it is seekable.
        options: Further options of the demuxer.

    Raises:
        av.FFmpegError, OSError: The source cannot be read, or its format is not recognised.
    """
    container: av.container.InputContainer = av.open(
        source, "r", options=_SANDBOX_OPTIONS | options, **_METADATA_OPTIONS
    )
    return container


def _video_streams(container: av.container.InputContainer) -> list[av.VideoStream]:
    """Return the video streams except covers, thumbnails and, if there are longer ones, streams of one frame."""
    streams = [stream for stream in container.streams.video if not stream.disposition & _COVER_OR_THUMBNAIL]
    return [stream for stream in streams if stream.frames != 1] or streams


def other_video_streams(container: av.container.InputContainer, selected: av.VideoStream) -> list[av.VideoStream]:
    """Return the video streams except the selected one."""
    return [stream for stream in _video_streams(container) if stream.index != selected.index]


def select_video_stream(
    path: Path | str, container: av.container.InputContainer, header: bytes, index: int | None = None
) -> av.VideoStream:
    """Select a video stream: by number, or as ffmpeg does, a default one first, then the largest.

    Args:
        path: The name of the file or stream in messages.
        container: The open container; without any stream if its index is truncated.
        header: The first bytes of the file.
        index: Number of the stream among all streams of the container, as ffprobe counts them; None to choose.

    Raises:
        NoVideoStream: There is no video stream, or none of that number.
        InputError: The container has no stream at all, as `unsupported_format_error`.
    """
    streams = _video_streams(container)
    if index is not None and streams:
        streams = [stream for stream in container.streams.video if stream.index == index]
        if not streams:
            numbers = ", ".join(str(stream.index) for stream in container.streams.video)
            raise NoVideoStream(f"{path} has no video stream {index}, only {numbers}; choose one of them with --stream")
    if streams:
        return max(streams, key=lambda stream: (bool(stream.disposition & _DEFAULT), math.prod(_frame_size(stream))))
    kinds = {stream.type for stream in container.streams} - {"video"}
    if not kinds - {"data"}:
        raise unsupported_format_error(path, header)
    raise NoVideoStream(
        f"{path} has no video stream, only {' and '.join(sorted(kinds))}; fervid reads faces, not sound"
    )


def start_time(container: av.container.InputContainer) -> float:
    """Return the start of a container in seconds of its own clock, which players show as 0."""
    return (container.start_time or 0) / av.time_base


def _frame_size(stream: av.VideoStream) -> tuple[int, int]:
    """Return width and height in pixels of the frames of a stream; 0 for an unknown codec."""
    context = stream.codec_context
    return (context.width, context.height) if context else (0, 0)


def raise_notices(path: Path | str, clock: Clock, selected: av.VideoStream, others: Sequence[av.VideoStream]) -> None:
    """Raise the most important notice about a clip or stream that was read completely, if there is one.

    Raises:
        Discontinuity: The timestamps start again.
        SeveralStreams: There are other streams.
    """
    if clock.restarts:
        raise Discontinuity(
            f"{path} was read completely, but {clock.describe_restarts()}; split it if its parts are separate clips"
        )
    if others:
        chosen, *left = ("{} ({} x {})".format(stream.index, *_frame_size(stream)) for stream in (selected, *others))
        raise SeveralStreams(
            f"{path} has {1 + len(others)} video streams, and {chosen} was used, not {', '.join(left)};"
            " choose with --stream"
        )


def configure_decoder(path: Path | str, stream: av.VideoStream, threads: int) -> float:
    """Set the number of threads and the frame size limit of a decoder.

    Returns:
        The width of a pixel over its height.

    Raises:
        FrameTooLarge: The stream declares frames of more than `MAX_FRAME_PIXELS`.
    """
    aspect = float(stream.sample_aspect_ratio or 1)
    if (context := stream.codec_context) is not None:  # None for an unknown codec
        check_frame_size(path, square_pixel_width(context.width, aspect), context.height)
        context.thread_count = threads
        context.options = {"max_pixels": str(2 * MAX_FRAME_PIXELS)}  # decoders count padding too
    return aspect


def check_frame_size(path: Path | str, width: int, height: int) -> None:
    """Check that a frame has at most `MAX_FRAME_PIXELS`.

    Raises:
        FrameTooLarge: It has more.
    """
    if width * height > MAX_FRAME_PIXELS:
        raise FrameTooLarge(
            f"{path} has frames of {width} x {height} pixels, and at most {MAX_FRAME_PIXELS} are decoded; scale it down"
        )
