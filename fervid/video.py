"""A video file -> upright RGB frames with their presentation time.

`read` is a generator that owns its file: it closes on the last frame, on an error and on an early `break`. Decoding
runs ahead in a thread of its own, by some megabytes and no more, so memory does not depend on the length of a clip.

Clips come from strangers. So no other file is opened, whatever a clip names: only formats are read that hold their
pictures themselves, and no protocol is left to reach others by. Neither size nor length is believed beyond a limit.
"""

from __future__ import annotations

import errno
import math
import os
import re
import stat
import time
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from glob import glob
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, TypeAlias, cast

import av
import cv2
import numpy as np

from fervid.ahead import ahead
from fervid.errors import (
    Damaged,
    EmptyInput,
    InputError,
    InputNotFound,
    InputUnreadable,
    NotAVideo,
    NoVideoStream,
    TooLarge,
    TooLong,
    Truncated,
    Undecodable,
)
from fervid.records import Frame, Image
from fervid.stills import size

SUFFIXES = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov"}
    | {".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"}
)
"""What counts as a video when a folder is searched. A file that is named is opened whatever its suffix."""

PIXELS = 8192 * 8192
"""Most pixels of a frame."""
LONGEST = 24 * 3600.0
"""Most seconds of a clip that are looked at."""

_FORMATS = (
    "asf av1 avi cavsvideo dirac dv flv gif gxf h261 h263 h264 hevc ivf m4v matroska mjpeg mov mpeg mpegts mpegvideo"
    " mxf nsv nut obu ogg rm swf vc1 vvc wtv yuv4mpegpipe"
    " aac ac3 aiff amr ape au caf dts eac3 flac mp3 mpc tta w64 wav wv"  # in order to say that they are sound
    " ico j2k_pipe jpegls_pipe jpegxl_anim jpegxl_pipe pam_pipe pbm_pipe pgm_pipe ppm_pipe qoi_pipe tiff_pipe"
)
_ALONE = {"protocol_whitelist": "", "format_whitelist": _FORMATS.replace(" ", ",")}
_TAGS: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "ignore"}
"""So that text in no known encoding does not matter, which it never does from PyAV 19 on."""
_AT_ONCE = {"analyzeduration": "500000", "fpsprobesize": "0"}  # microseconds and frames for which a stream may wait
_HEAD = 4096  # bytes that tell what a file is
_BACK = 1.0  # seconds by which times of a stream may go back before it counts as one that begins anew
_BINARY = re.compile(rb"[\0-\x08\x0e-\x1f\x7f]")
_PICTURES = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|BM.{4}\0{4}|II\*\0|MM\0\*|RIFF.{4}WEBP", re.DOTALL)
_AHEAD = 24_000_000  # bytes of frames that are decoded before they are asked for
_REORDERED = 32  # packets; those of frames that are shown one after another are no further apart
_LAST = 4  # frames of a clip are decoded in any case
_JITTER = 1e-3  # seconds; Matroska and FLV round times to the millisecond, so a frame can seem to come before its turn

_Packet: TypeAlias = "av.Packet[av.VideoStream]"


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which frames of a clip to look at.

    Attributes:
        fps: Frames a second of presentation time; None for every frame.
        start: Seconds from the start of the clip before which nothing is looked at.
        end: Seconds from the start of the clip at which to stop; None for the end.
        rotate: Degrees clockwise to turn the decoded pictures; None to obey the file.
    """

    fps: float | None = 5.0
    start: float = 0.0
    end: float | None = None
    rotate: int | None = None

    def __post_init__(self) -> None:
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise ValueError(f"frames a second must be a number above 0, not {self.fps}")
        if not 0 <= self.start < math.inf:
            raise ValueError(f"the start must be 0 s or later, not {self.start} s")
        if self.end is not None and not self.end > self.start:
            raise ValueError(f"the end ({self.end} s) must come after the start ({self.start} s)")
        if self.rotate not in (None, 0, 90, 180, 270):
            raise ValueError(f"rotation is 0, 90, 180 or 270, not {self.rotate}")

    @property
    def stop(self) -> float:
        """Seconds from the start of the clip behind which nothing is looked at."""
        longest = self.start + LONGEST
        return longest if self.end is None else min(self.end, longest)

    def turn(self, time: float) -> float:
        """Which look it is time for, counted from 0; negative before the start. The first frame of a turn is taken."""
        if self.fps is None:
            return math.inf if time >= self.start else -1
        return math.floor((time - self.start + _JITTER) * self.fps)


def read_pictures(paths: Iterable[str | os.PathLike[str]], rate: float = 5.0) -> Generator[Frame]:
    """Pictures as the frames of a clip, `rate` of them a second.

    Raises:
        InputError: As `read`, for the first picture that cannot be read.
    """
    for number, path in enumerate(paths):
        with closing(read(path)) as frames:
            yield replace(next(frames), time=number / rate, duration=1 / rate)


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
        TooLarge: A frame has more than `PIXELS`.
        TooLong: Raised after what was looked at, if the clip goes on for longer than `LONGEST`.
        Truncated, Damaged: Raised after the last frame that could be decoded, if some are missing.
    """
    sampling = sampling or Sampling()
    path = Path(path)
    with _open(path) as file:
        try:
            picture = _read_picture(path, file, sampling) if _is_picture(file) else None
        except OSError as error:
            raise _unreadable(path, error) from error
        if picture is not None:
            yield picture
        else:
            frames = _sample(_decode(path, file, sampling, threads), sampling)
            yield from ahead(frames, _AHEAD, lambda frame: frame.image.nbytes)


def stream(file: BinaryIO, name: str, sampling: Sampling | None = None, threads: int = 0) -> Generator[Frame]:
    """Frames of a stream, each as soon as it has come; how long one lasts is not known by then, and is what is due.

    Args:
        file: Gives what has come by now, and can be read forwards only: a pipe without a buffer.
        name: What messages call it.
        sampling: Which frames to give; 5 a second if None. Its start and end mean nothing here.
        threads: As for `read`.

    Raises:
        EmptyInput, NotAVideo, NoVideoStream, Undecodable: It holds no picture.
        TooLarge: A frame has more than `PIXELS`.
        Truncated: Raised after the last frame, if it broke off.
    """
    sampling, pipe, due = sampling or Sampling(), _Pipe(file), -1.0
    try:
        container = av.open(SimpleNamespace(read=pipe.read), "r", options=_ALONE | _AT_ONCE, **_TAGS)
    except (av.FFmpegError, OSError) as error:
        raise _unfollowable(name, pipe.head) from error
    with container:
        pictures = _pictures(name, container, pipe.head)
        pictures.thread_type = "SLICE"  # frames that are decoded in several threads come later
        for one in _arriving(name, container, pictures, threads, pipe.head):
            if (turn := sampling.turn(one.start)) >= due:
                due = turn + 1
                yield _convert(one, one.start + (1 / sampling.fps if sampling.fps else one.end - one.start), sampling)


def camera(number: int, sampling: Sampling | None = None) -> Generator[Frame]:
    """Frames of a camera of this machine, each as soon as it has come.

    Args:
        number: Counted from 0, as the system does.
        sampling: As for `stream`; the pictures are turned only if it says so.

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
            if (turn := sampling.turn(now)) >= due:
                due, length, last = turn + 1, 1 / sampling.fps if sampling.fps else now - last, now
                image = np.asarray(cv2.cvtColor(device.retrieve()[1], cv2.COLOR_BGR2RGB), np.uint8)
                yield Frame(_turned(image, sampling.rotate or 0), now, length)
        raise Truncated(f"camera {number} gives no more pictures; check that it is still plugged in")
    finally:
        device.release()


class _Pipe:
    """Remembers how it began."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.head = file, b""

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.head += data[: _HEAD - len(self.head)]
        return data


def _unfollowable(name: str, head: bytes) -> InputError:
    if not head:
        return EmptyInput(f"{name} is empty; what should have written to it ended before, and may say why")
    if _is_mp4(head):
        return NotAVideo(
            f"{name} is mp4 with its index behind the pictures, so it cannot be read as it comes; send Matroska (ffmpeg"
            " -f matroska) or mp4 in fragments (-movflags frag_keyframe+empty_moov)"
        )
    return _refusal(name, head)


def _arriving(
    name: str, container: av.container.InputContainer, pictures: av.VideoStream, threads: int, head: bytes
) -> Generator[_Decoded]:
    """Every frame of a stream. Times go on where a source begins anew; damaged packets are what a network loses."""
    aspect, step = float(pictures.sample_aspect_ratio or 1), 1 / float(pictures.average_rate or 25)
    if pictures.codec_context is not None:
        _check(name, _stretched(pictures.codec_context.width, aspect), pictures.codec_context.height)
        pictures.codec_context.thread_count = threads
        pictures.codec_context.options = {"max_pixels": str(2 * PIXELS)}
    origin, now, stopped = math.nan, -step, ""
    packets = container.demux(pictures)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError) as error:
            stopped = str(error.strerror or error)
            break
        if packet is None:
            break
        frames: list[av.VideoFrame] = []
        with suppress(av.FFmpegError):
            frames = pictures.decode(packet)
        for frame in frames:
            _check(name, _stretched(frame.width, aspect), frame.height)
            if frame.time is not None and not frame.time - origin >= now - _BACK:
                origin = frame.time - now - step
            before, now = now, max(now, now + step if frame.time is None else round(frame.time - origin, 6))
            step = now - before if 0 < now - before < _BACK else step
            yield _Decoded(frame, aspect, now, now + step)
    if now < 0:
        none = Undecodable(f"{name} has a video stream of which no frame can be decoded; send H.264")
        raise _unfollowable(name, head) if _is_mp4(head) else none
    if stopped:
        raise Truncated(f"{name} broke off after {now:.2f} s ({stopped}); start what sends it again")


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """A video as the demuxer knows it, and the stream of its pictures: for what goes beside them, such as sound.

    Raises:
        InputNotFound, InputUnreadable, EmptyInput: The file cannot be opened.
        NotAVideo: It is a still image, or holds no video.
        NoVideoStream: It holds no pictures.
    """
    path = Path(path)
    with _open(path) as file:
        if _is_picture(file):
            raise NotAVideo(f"{path} is a still image, which has no frames that follow each other; name a video")
        with _container(path, file) as container:
            yield container, _pictures(path, container, _head(file))


def _open(path: Path) -> BinaryIO:
    try:
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            raise InputUnreadable(f"{path} is a folder; name the files in it, or give the folder to `fervid classify`")
        if not stat.S_ISREG(kind):
            raise InputUnreadable(
                f"{path} is a pipe or a device, and a video is read back and forth; save it to a file, or follow it as"
                " it comes, with `fervid classify -`"
            )
        file = path.open("rb")
    except FileNotFoundError:
        raise InputNotFound(f"{path} does not exist; check the spelling and the current folder") from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not os.fstat(file.fileno()).st_size:
        file.close()
        raise EmptyInput(f"{path} is empty; copy or download it again")
    return file


def _unreadable(path: Path, error: OSError | ValueError) -> InputUnreadable:
    reason = getattr(error, "strerror", None) or error
    return InputUnreadable(f"{path} cannot be read ({reason}); check its permissions and its disk")


def _is_picture(file: BinaryIO) -> bool:
    head = file.read(12)
    file.seek(0)
    return _PICTURES.match(head) is not None


def _read_picture(path: Path, file: BinaryIO, sampling: Sampling) -> Frame:
    obey = 0 if sampling.rotate is None else cv2.IMREAD_IGNORE_ORIENTATION
    data = file.read(8 * PIXELS)  # which is enough for the largest in 16 bits without compression
    image = None
    if shape := size(data):
        _check(path, *shape)
        with suppress(cv2.error):
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | obey)
    if image is None:
        raise Undecodable(f"{path} starts as an image and cannot be decoded; copy or download it again")
    return Frame(_turned(np.asarray(image, np.uint8), sampling.rotate or 0))


def _check(path: Path | str, width: int, height: int) -> None:
    if width * height > PIXELS:
        raise TooLarge(
            f"{path} has pictures of {width} x {height} pixels, and more than {PIXELS} are not decoded; scale it down"
        )


@dataclass(frozen=True, slots=True)
class _Decoded:
    """A decoded frame that has not been converted yet, for most never are."""

    frame: av.VideoFrame
    aspect: float  # width of a pixel over its height
    start: float
    end: float


def _container(path: Path, file: BinaryIO) -> av.container.InputContainer:
    nameless = SimpleNamespace(read=file.read, seek=file.seek, tell=file.tell)  # a name can be taken for a pattern
    try:
        container: av.container.InputContainer = av.open(nameless, "r", options=_ALONE, **_TAGS)
        return container
    except av.FFmpegError as error:
        raise _refusal(path, _head(file)) from error
    except OSError as error:
        if error.errno == errno.EINVAL:  # the clip says that it goes on where no file can
            raise _refusal(path, _head(file)) from error
        raise _unreadable(path, error) from error


def _decode(path: Path, file: BinaryIO, sampling: Sampling, threads: int) -> Generator[_Decoded]:
    """Every frame up to `sampling.end`, each once the next tells how long it lasted; then raises what was wrong."""
    with _container(path, file) as container:
        stream = _pictures(path, container, _head(file))
        stream.thread_type = "AUTO"
        aspect = float(stream.sample_aspect_ratio or 1)
        if stream.codec_context is not None:  # None for a codec that nobody knows
            _check(path, _stretched(stream.codec_context.width, aspect), stream.codec_context.height)
            stream.codec_context.thread_count = threads
            stream.codec_context.options = {"max_pixels": str(2 * PIXELS)}  # of those that turn out larger, with edges
        account = _Account(path, container, stream)
        start = end = 0.0
        held: _Decoded | None = None
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
            _check(path, _stretched(frame.width, aspect), frame.height)
            end = start + (float(frame.duration * (frame.time_base or 0)) or account.step)
            held = _Decoded(frame, aspect, start, end)
        if held is not None:
            yield held
        account.settle(end)


class _Account:
    """What comes out of a file, against what its header promises."""

    def __init__(self, path: Path, container: av.container.InputContainer, stream: av.VideoStream) -> None:
        self._path, self._container, self._stream = path, container, stream
        self._clip_start = (container.start_time or 0) / av.time_base
        started = stream.start_time
        self.origin = self._clip_start if started is None else float(started * (stream.time_base or 0))
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


def _sample(decoded: Iterator[_Decoded], sampling: Sampling) -> Generator[Frame]:
    """The frames that were asked for, converted; each once the next is known, because only then is its duration."""
    held: _Decoded | None = None
    due: float = 0
    end = 0.0
    try:
        for one in decoded:
            end = min(one.end, sampling.stop)
            turn = sampling.turn(one.start)
            if turn < due and not (held is None and one.end > sampling.start):
                continue
            if held is not None:
                yield _convert(held, one.start, sampling)
            held = one
            if sampling.fps is not None:
                due = max(turn, 0) + 1
    except InputError:
        if held is not None:
            yield _convert(held, end, sampling)
        raise
    if held is not None:
        yield _convert(held, end, sampling)


def _convert(decoded: _Decoded, until: float, sampling: Sampling) -> Frame:
    frame = decoded.frame
    width = _stretched(frame.width, decoded.aspect)
    image = np.asarray(frame.to_ndarray(format="rgb24", width=width, height=frame.height, threads=1), np.uint8)
    degrees = sampling.rotate if sampling.rotate is not None else -round(frame.rotation / 90) * 90
    return Frame(_turned(image, degrees), decoded.start, max(0.0, until - max(decoded.start, sampling.start)))


def _stretched(width: int, aspect: float) -> int:
    """The width of a frame in square pixels, unless what the file says of them is absurd."""
    return round(width * aspect) if 0.25 <= aspect <= 4 else width


def _turned(image: Image, clockwise: int) -> Image:
    quarters = -clockwise // 90 % 4
    return np.ascontiguousarray(np.rot90(image, quarters)) if quarters else image


def _pictures(path: Path | str, container: av.container.InputContainer, head: bytes) -> av.VideoStream:
    """The video stream; the cover of an album is none, and an index that breaks off may promise nothing at all."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    kinds = {stream.type for stream in container.streams} - {"video"}
    if not kinds - {"data"}:
        raise _refusal(path, head)
    raise NoVideoStream(
        f"{path} has no video stream, only {' and '.join(sorted(kinds))}; fervid reads faces, not sound"
    )


def _head(file: BinaryIO) -> bytes:
    """How a file begins; its position stays."""
    place = file.tell()
    file.seek(0)
    head = file.read(_HEAD)
    file.seek(place)
    return head


def _is_mp4(head: bytes) -> bool:
    return head[4:8] == b"ftyp"


def _refusal(path: Path | str, head: bytes) -> InputError:
    if _is_mp4(head):
        return Truncated(f"{path} breaks off before its index, so nothing can be decoded; copy or download it again")
    if not _BINARY.search(head):
        return NotAVideo(
            f"{path} is no video or image but text, and if that is a playlist, no file that it names is opened; name"
            " the videos themselves"
        )
    return NotAVideo(f"{path} is no video or image that can be read; check it with a player, or convert it to mp4")
