"""A file or a stream -> its container, and the stream of its pictures.

Clips come from strangers. So no other file is opened, whatever a clip names: only formats are read that hold their
pictures themselves, and no protocol is left to reach others by. The size of a picture is not believed beyond a limit.
"""

from __future__ import annotations

import errno
import math
import os
import re
import stat
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import av

from fervid.core.errors import (
    EmptyInput,
    FrameTooLarge,
    InputError,
    InputNotFound,
    InputUnreadable,
    NoVideoStream,
    TruncatedVideo,
    Undecodable,
    UnsupportedFormat,
)
from fervid.media.image_header import is_animated
from fervid.media.sampling import square_pixel_width

MAX_FRAME_PIXELS = 8192 * 8192
"""Most pixels of a frame."""
_FORMATS = (
    "apng asf av1 avi cavsvideo dirac dv flv gif gxf h261 h263 h264 hevc ivf m4v matroska mjpeg mov mpeg mpegts"
    " mpegvideo mxf nsv nut obu ogg rm swf vc1 vvc wtv yuv4mpegpipe"
    " aac ac3 aiff amr ape au caf dts eac3 flac mp3 mpc tta w64 wav wv"  # in order to say that they are sound
    " ico j2k_pipe jpegls_pipe jpegxl_anim jpegxl_pipe pam_pipe pbm_pipe pgm_pipe ppm_pipe qoi_pipe tiff_pipe"
)
_SANDBOX_OPTIONS = {"protocol_whitelist": "", "format_whitelist": _FORMATS.replace(" ", ",")}
_METADATA_OPTIONS: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "ignore"}
"""So that text in no known encoding does not matter, which it never does from PyAV 19 on."""
_DEFAULT = av.stream.Disposition.default
_PICTURES_BESIDE = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
HEADER_BYTES = 4096
"""Bytes that tell what a file is."""
_IMAGE_HEADER_BYTES = 2**20  # in which an image says whether it moves
_BINARY = re.compile(rb"[\0-\x08\x0e-\x1f\x7f]")
_HTML = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL
)
_URL = re.compile(r"([a-z][a-z0-9+.-]+):(/.*)", re.IGNORECASE)
"""Of a URL, what a path keeps: one slash."""
_ENCRYPTED_FILE = re.compile(rb"Salted__|-----BEGIN PGP MESSAGE|age-encryption\.org/")
_ENCRYPTED_MP4 = re.compile(rb"(?:encv|drmi)\0{7}\x01")
_ENCRYPTED_ASF = bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e")
_INDEX_BYTES = 1 << 24
_BOXES = 1000  # of an mp4, before and including its index
_IMAGE_MAGIC = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|BM.{4}\0{4}|II\*\0|MM\0\*|RIFF.{4}WEBP", re.DOTALL)


def open_file(path: Path) -> BinaryIO:
    """A file that can be read back and forth.

    Raises:
        InputNotFound, InputUnreadable, EmptyInput: It cannot be opened.
    """
    try:
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            os.scandir(path).close()  # which may be refused
            raise InputUnreadable(f"{path} is a folder; name the files in it, or give the folder to `fervid classify`")
        if not stat.S_ISREG(kind):
            raise _unseekable(path)
        file = path.open("rb")
    except FileNotFoundError:
        raise _absent(path) from None
    except (OSError, ValueError) as error:
        raise read_error(path, error) from error
    if not os.fstat(file.fileno()).st_size:
        file.close()
        raise EmptyInput(f"{path} is empty; copy or download it again")
    return file


def _unseekable(path: Path) -> InputUnreadable:
    return InputUnreadable(
        f"{path} is a pipe or a device, and a video is read back and forth; save it to a file, or follow it as"
        " it comes, with `fervid classify -`"
    )


def _absent(path: Path) -> InputError:
    """What to say of a name that is no file."""
    if path.is_relative_to("/dev/fd") or path.is_relative_to("/proc/self/fd"):  # no other process has it, as of <(...)
        return _unseekable(path)
    if path.is_symlink():
        target = os.readlink(path)
        return InputNotFound(f"{path} is a link to {target}, which does not exist; restore that, or remove the link")
    if url := _URL.match(str(path)):
        scheme, rest = url.groups()
        if scheme.lower() == "file":
            return InputNotFound(f"file://{rest} is a URL; name the file by its path")
        return InputNotFound(
            f"{scheme}:/{rest} is a URL, and files of this machine are read; download it, pipe it (ffmpeg -i URL -c"
            " copy -f matroska - | fervid classify -), or let --engine ray read it"
        )
    return InputNotFound(f"{path} does not exist; check the spelling and the current folder")


def read_error(path: Path, error: OSError | ValueError) -> InputUnreadable:
    """What to say of a file that the system does not give."""
    reason = getattr(error, "strerror", None) or error
    return InputUnreadable(f"{path} cannot be read ({reason}); check its permissions and its disk")


def is_image(file: BinaryIO) -> bool:
    """Whether a file, at its beginning, is a still image, or a moving one that no demuxer reads."""
    head = file.read(_IMAGE_HEADER_BYTES)
    file.seek(0)
    return _IMAGE_MAGIC.match(head) is not None and not (is_animated(head) and not is_webp(head))


def is_webp(head: bytes) -> bool:
    """Whether that is how WebP begins."""
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def open_container(path: Path, file: BinaryIO) -> av.container.InputContainer:
    """What a file holds.

    Raises:
        NotAVideo, Truncated: It cannot be told.
        Undecodable: It is encrypted.
        InputUnreadable: The disk fails.
    """
    nameless = SimpleNamespace(read=file.read, seek=file.seek, tell=file.tell)  # a name can be taken for a pattern
    try:
        if _is_encrypted(file):
            raise Undecodable(f"{path} is encrypted (DRM); ask where it comes from for one that is not")
        return open_sandboxed(nameless)
    except av.FFmpegError as error:
        raise unsupported_format_error(path, read_header(file)) from error
    except OSError as error:
        if error.errno == errno.EINVAL:  # the clip says that it goes on where no file can
            raise unsupported_format_error(path, read_header(file)) from error
        raise read_error(path, error) from error


def open_sandboxed(source: object, **options: str) -> av.container.InputContainer:
    """What can be read holds, and what no other file has to be opened for.

    Args:
        source: Has `read`, and `seek` and `tell` if it goes back and forth.
        options: Of the demuxer, besides.

    Raises:
        av.FFmpegError, OSError: It cannot be told.
    """
    container: av.container.InputContainer = av.open(
        source, "r", options=_SANDBOX_OPTIONS | options, **_METADATA_OPTIONS
    )
    return container


def moving(container: av.container.InputContainer) -> list[av.VideoStream]:
    """The video streams; the cover of an album is none, nor are thumbnails, nor is a single picture beside others."""
    streams = [stream for stream in container.streams.video if not stream.disposition & _PICTURES_BESIDE]
    return [stream for stream in streams if stream.frames != 1] or streams


def beside(container: av.container.InputContainer, taken: av.VideoStream) -> list[av.VideoStream]:
    """The video streams that might be looked at instead of the one that is."""
    return [stream for stream in moving(container) if stream.index != taken.index]


def select_video_stream(
    path: Path | str, container: av.container.InputContainer, head: bytes, wanted: int | None = None
) -> av.VideoStream:
    """The video stream to look at: as ffmpeg chooses, one that is flagged as default, then the largest.

    Args:
        path: What messages call it.
        container: What a file holds; an index that breaks off may promise nothing at all.
        head: How it begins.
        wanted: Number of the stream among all of the container, as ffprobe counts them; None to choose.

    Raises:
        NoVideoStream: There is none, or none of that number.
        InputError: It cannot be told what the file holds.
    """
    streams = moving(container)
    if wanted is not None and streams:
        streams = [stream for stream in container.streams.video if stream.index == wanted]
        if not streams:
            numbers = ", ".join(str(stream.index) for stream in container.streams.video)
            raise NoVideoStream(
                f"{path} has no video stream {wanted}, only {numbers}; choose one of them with --stream"
            )
    if streams:
        return max(streams, key=lambda stream: (bool(stream.disposition & _DEFAULT), math.prod(frame_size(stream))))
    kinds = {stream.type for stream in container.streams} - {"video"}
    if not kinds - {"data"}:
        raise unsupported_format_error(path, head)
    raise NoVideoStream(
        f"{path} has no video stream, only {' and '.join(sorted(kinds))}; fervid reads faces, not sound"
    )


def start_of(container: av.container.InputContainer) -> float:
    """When a container starts, in seconds of its own clock: what players call 0."""
    return (container.start_time or 0) / av.time_base


def frame_size(stream: av.VideoStream) -> tuple[int, int]:
    """Width and height in pixels of the pictures of a stream; 0 for a codec that nobody knows."""
    context = stream.codec_context
    return (context.width, context.height) if context else (0, 0)


def configure_decoder(path: Path | str, pictures: av.VideoStream, threads: int) -> float:
    """Say how a stream may be decoded: with so many threads, and no picture above `MAX_FRAME_PIXELS`, edges aside.

    Returns:
        The width of a pixel over its height.

    Raises:
        TooLarge: The stream says that they are larger.
    """
    aspect = float(pictures.sample_aspect_ratio or 1)
    if (context := pictures.codec_context) is not None:  # None for a codec that nobody knows
        check_frame_size(path, square_pixel_width(context.width, aspect), context.height)
        context.thread_count = threads
        context.options = {"max_pixels": str(2 * MAX_FRAME_PIXELS)}  # of those that turn out larger, with edges
    return aspect


def check_frame_size(path: Path | str, width: int, height: int) -> None:
    """Refuse a picture of more than `MAX_FRAME_PIXELS`.

    Raises:
        TooLarge: It is.
    """
    if width * height > MAX_FRAME_PIXELS:
        raise FrameTooLarge(
            f"{path} has frames of {width} x {height} pixels, and at most {MAX_FRAME_PIXELS} are decoded; scale it down"
        )


def read_header(file: BinaryIO) -> bytes:
    """How a file begins; its position stays."""
    place = file.tell()
    file.seek(0)
    head = file.read(HEADER_BYTES)
    file.seek(place)
    return head


def is_whole_avi(file: BinaryIO) -> bool:
    """Whether a file is an AVI that has all of the bytes which it says; its position stays.

    Frames that it lacks nevertheless were dropped when it was written: their chunks are empty, and no demuxer gives
    those.
    """
    before, end = file.tell(), file.seek(0, os.SEEK_END)
    place = 0
    while len(box := _read_at(file, place, 12)) == 12 and box[:4] == b"RIFF" and box[8:] in (b"AVI ", b"AVIX"):
        size = int.from_bytes(box[4:8], "little")
        place += 8 + size + size % 2
        if size < 4 or place > end + size % 2:
            place = 0
            break
    file.seek(before)
    return place > 0


def _is_encrypted(file: BinaryIO) -> bool:
    """Whether the pictures of an mp4 or asf are encrypted; its position is then the beginning."""
    head, place = read_header(file), 0
    if not is_mp4(head):
        return _ENCRYPTED_ASF in head
    for _ in range(_BOXES):
        if len(box := _read_at(file, place, 16)) < 16:
            break
        size, kind, long_size = struct.unpack(">I4sQ", box)
        size = long_size if size == 1 else size
        if kind == b"moov":
            index = _read_at(file, place, min(size, _INDEX_BYTES))
            file.seek(0)
            return _ENCRYPTED_MP4.search(index) is not None
        if size < 8:
            break
        place += size
    file.seek(0)
    return False


def _read_at(file: BinaryIO, place: int, size: int) -> bytes:
    file.seek(place)
    return file.read(size)


def is_mp4(head: bytes) -> bool:
    """Whether that is how mp4 begins."""
    return head[4:8] == b"ftyp"


def unsupported_format_error(path: Path | str, head: bytes) -> InputError:
    """What to say of something that begins like that and cannot be read."""
    if is_mp4(head):
        return TruncatedVideo(
            f"{path} breaks off before its index, so nothing can be decoded; copy or download it again"
        )
    if head.startswith(b"version https://git-lfs.github.com/"):
        return UnsupportedFormat(
            f"{path} is a pointer of Git LFS instead of the video itself; fetch that with `git lfs pull`"
        )
    if _ENCRYPTED_FILE.match(head):
        return UnsupportedFormat(f"{path} is encrypted; decrypt it first")
    if _HTML.match(head):
        return UnsupportedFormat(
            f"{path} is an HTML page, as a site sends instead of a video that needs a login or is gone; open it in a"
            " browser, and download the video itself"
        )
    if not _BINARY.search(head):
        return UnsupportedFormat(
            f"{path} is no video or image but text, and if that is a playlist, no file that it names is opened; name"
            " the videos themselves"
        )
    return UnsupportedFormat(
        f"{path} is no video or image that can be read; check it with a player, or convert it to mp4"
    )
