"""A video file -> upright RGB frames with their presentation time.

`read_frames` is a generator that owns its file: it closes on the last frame, on an error and on an early `break`.
Decoding prefetches some megabytes in a thread of its own, so memory does not depend on the length of a clip.

What `fervid.media.container` opens it with reaches no other file. Neither size nor length is believed beyond a limit.
"""

from __future__ import annotations

import math
import os
import statistics
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

import av
import cv2
import numpy as np

from fervid.core.errors import ClipTooLong, CorruptVideo, InputError, TruncatedVideo, Undecodable, UnsupportedFormat
from fervid.core.prefetch import prefetch
from fervid.core.records import Frame, Image
from fervid.media.container import (
    MAX_FRAME_PIXELS,
    beside,
    check_frame_size,
    configure_decoder,
    is_image,
    is_whole_avi,
    open_container,
    open_file,
    read_error,
    read_header,
    select_video_stream,
    start_of,
)
from fervid.media.image_header import image_size, is_animated
from fervid.media.remarks import describe_restarts, remark
from fervid.media.sampling import (
    MAX_DURATION_S,
    DecodedFrame,
    Sampling,
    reshape,
    rotate,
    square_pixel_width,
    to_rgb_frame,
)
from fervid.media.timestamps import Clock

_IMAGE_BYTES = 8 * MAX_FRAME_PIXELS  # enough for the largest in 16 bits without compression
_NO_DELAY_MS, _USUAL_DELAY_MS = 10, 100  # browsers show a frame of an animation for so long that asks for no more
_PREFETCH_BYTES = 24_000_000  # bytes of frames that are decoded before they are asked for
_MAX_REORDER = 32  # packets; those of frames that are shown one after another are no further apart
_TAIL_FRAMES = 4  # frames of a clip are decoded in any case
_SEAM = 4  # packets before timestamps start again that may be taken for damaged ones because of it
_LONGEST_STEP_S = 2.0  # a frame is shown for as long, whatever the distance of frames is as a rule
_STEPS = 5  # and for as many times that distance; what is longer is a gap, in which nothing is seen

_Packet: TypeAlias = "av.Packet[av.VideoStream]"


def read_image_sequence(paths: Iterable[str | os.PathLike[str]]) -> Generator[Frame]:
    """Pictures as the frames of a clip, five of them a second.

    Raises:
        InputError: As `read_frames`, for the first picture that cannot be read.
    """
    for number, path in enumerate(paths):
        with closing(read_frames(path)) as frames:
            yield replace(next(frames), time=number / 5, duration=1 / 5)


def read_frames(path: str | os.PathLike[str], sampling: Sampling | None = None, threads: int = 0) -> Generator[Frame]:
    """Frames of a clip in order of presentation; a still image is a clip of one frame.

    The frames share the clip between them: each lasts until the next one that is given, the last until the end. A gap
    in the clip belongs to none of them.

    Args:
        path: Video or image file, in any format of the decoder; its content counts, not its name.
        sampling: Which frames to give; 5 a second if None.
        threads: How many threads to decode with; 0 leaves it to the decoder.

    Raises:
        InputNotFound, InputUnreadable, EmptyInput: The file cannot be opened.
        NotAVideo, NoVideoStream, Undecodable: It holds no picture.
        TooLarge: A frame has more than `fervid.media.container.MAX_FRAME_PIXELS`.
        TooLong: Raised after what was looked at, if the clip goes on for longer than `MAX_DURATION_S`.
        Truncated, Damaged: Raised after the last frame that could be decoded, if some are missing.
        Discontinuity: Raised after the last frame, if the timestamps start again.
        SeveralStreams: Raised after the last frame, if there was a choice and `sampling` left it open.
    """
    sampling = sampling or Sampling()
    path = Path(path)
    with open_file(path) as file:
        try:
            data = file.read(_IMAGE_BYTES) if is_image(file) else b""
        except OSError as error:
            raise read_error(path, error) from error
        if data and not is_animated(data):
            yield _read_picture(path, data, sampling)
        else:
            decoded = _decode_animation(path, file, data) if data else _decode(path, file, sampling, threads)
            yield from prefetch(_resample(decoded, sampling), _PREFETCH_BYTES, lambda frame: frame.image.nbytes)


@contextmanager
def open_video(
    path: str | os.PathLike[str], stream: int | None = None
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """A video as the demuxer knows it, and the stream of its pictures: for what goes beside them, such as sound.

    Args:
        path: A video.
        stream: Number of the video stream, as in `Sampling`.

    Raises:
        InputNotFound, InputUnreadable, EmptyInput: The file cannot be opened.
        NotAVideo: It is a still image, or holds no video.
        NoVideoStream: It holds no pictures.
    """
    path = Path(path)
    with open_file(path) as file:
        if is_image(file):
            if is_animated(read_header(file)):
                raise UnsupportedFormat(
                    f"{path} is an animated WebP, whose frames cannot be written anew; convert it to mp4"
                )
            raise UnsupportedFormat(
                f"{path} is a still image, which has no frames that follow each other; name a video"
            )
        with open_container(path, file) as container:
            yield container, select_video_stream(path, container, read_header(file), stream)


def _decode_animation(path: Path, file: BinaryIO, data: bytes) -> Generator[DecodedFrame]:
    """Every frame of an animated WebP, some at a time, for OpenCV keeps those that it gives."""
    shape = image_size(data) or (0, 0)
    check_frame_size(path, *shape)
    at_once = max(1, _PREFETCH_BYTES // (4 * math.prod(shape) + 1))
    start, count = 0.0, 0
    while images := _animation_part(file, count, at_once):
        for image, duration in images:
            end = start + (duration if duration > _NO_DELAY_MS else _USUAL_DELAY_MS) / 1000
            rgb = np.ascontiguousarray(image[..., 2::-1])
            yield DecodedFrame(av.VideoFrame.from_ndarray(rgb, format="rgb24"), 1.0, start, end)
            start = end
        count += len(images)
    if not count:
        raise Undecodable(f"{path} starts as an animation and cannot be decoded; copy or download it again")


def _animation_part(file: BinaryIO, first: int, count: int) -> list[tuple[Image, int]]:
    """Frames of an animation, (h, w, 3 or 4) in BGR, with their durations in ms; none behind the last one."""
    with suppress(cv2.error):
        # by its descriptor, because OpenCV cannot be given every name
        _, animation = cv2.imreadanimation(f"/dev/fd/{file.fileno()}", start=first, count=count)
        return [(np.asarray(image), int(ms)) for image, ms in zip(animation.frames, animation.durations, strict=True)]
    return []


def _read_picture(path: Path, data: bytes, sampling: Sampling) -> Frame:
    obey = 0 if sampling.rotate is None else cv2.IMREAD_IGNORE_ORIENTATION
    image = None
    if shape := image_size(data):
        check_frame_size(path, *shape)
        with suppress(cv2.error):
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | obey)
    if image is None:
        raise Undecodable(f"{path} starts as an image and cannot be decoded; copy or download it again")
    return Frame(reshape(rotate(np.asarray(image, np.uint8), sampling.rotate or 0), sampling.aspect))


def _decode(path: Path, file: BinaryIO, sampling: Sampling, threads: int) -> Generator[DecodedFrame]:
    """Every frame up to `sampling.end`, each once the next tells how long it lasted; then raises what was wrong."""
    with open_container(path, file) as container:
        stream = select_video_stream(path, container, read_header(file), sampling.stream)
        stream.thread_type = "AUTO"
        aspect = configure_decoder(path, stream, threads)
        account = _DecodeAudit(path, container, stream, chosen=sampling.stream is not None, whole=is_whole_avi(file))
        start = end = 0.0
        held: DecodedFrame | None = None
        for frame in account.frames(sampling):
            start = max(start, end if frame.time is None else round(frame.time - account.origin, 6))
            if held is not None:
                yield replace(held, end=account.bound_end(held.start, start))
                held = None
            if start >= sampling.stop:
                if sampling.stop == sampling.end:
                    account.inform()
                    return
                raise ClipTooLong(
                    f"{path} is longer than {MAX_DURATION_S / 3600:g} hours, of which these were analysed; choose"
                    " another part with --start and --end"
                )
            check_frame_size(path, *_shown_size(frame, aspect, sampling))
            end = start + (float(frame.duration * (frame.time_base or 0)) or account.step)
            held = DecodedFrame(frame, aspect, start, end)
        if held is not None:
            yield held
        account.settle(end)


def _shown_size(frame: av.VideoFrame, aspect: float, sampling: Sampling) -> tuple[int, int]:
    """The two sides in pixels of what becomes of a frame, in any order."""
    if sampling.aspect is None:
        return square_pixel_width(frame.width, aspect), frame.height
    sideways = (frame.rotation if sampling.rotate is None else sampling.rotate) % 180
    height = frame.width if sideways else frame.height
    return round(height * sampling.aspect), height


class _DecodeAudit:
    """What comes out of a file, against what its header promises."""

    def __init__(
        self,
        path: Path,
        container: av.container.InputContainer,
        stream: av.VideoStream,
        *,
        chosen: bool,
        whole: bool,
    ) -> None:
        self._path, self._container, self._stream, self._whole = path, container, stream, whole
        self.origin = start_of(container)
        started, base = stream.start_time, stream.time_base
        self._begin = max(0.0, float(started * base) - self.origin) if started is not None and base else 0.0
        self.step = 1 / float(stream.average_rate or 25)  # seconds from one frame to the next, as a rule
        self._clock = Clock(container, stream)
        self._others = [] if chosen else beside(container, stream)
        self._near: list[tuple[float, float]] = []  # start and end of the packets around the next one, in order
        self._given = self._packets = self._lost = 0
        self._media_end = 0.0
        self._stopped = ""

    def frames(self, sampling: Sampling) -> Iterator[av.VideoFrame]:
        """Decode what can be decoded; packets that cannot are counted.

        Frames that are not asked for and that no other is made from, as most B-frames, are not decoded at all.
        """
        context = self._stream.codec_context
        for packet, asked in _mark_needed(self._pictures(), sampling, self.origin):
            if context is not None:
                context.skip_frame = "DEFAULT" if asked else "NONREF"
            if packet.pts is not None and not packet.size:  # the picture before it, once more
                continue
            self._packets += packet.size > 0
            try:
                frames = self._stream.decode(packet)
            except av.FFmpegError:
                self._lost += not packet.is_corrupt  # which is counted already
                continue
            self._given += len(frames)
            self._lost += sum(frame.is_corrupt for frame in frames)
            yield from frames

    def _pictures(self) -> Iterator[_Packet]:
        """The packets of the video stream; of all others only the time counts."""
        demuxer, restarts = self._container.demux(), 0
        flagged: deque[bool] = deque()  # the newest packets, whether the container takes them to be damaged
        while True:
            try:
                packet = next(demuxer)
            except StopIteration:
                break
            except (av.FFmpegError, OSError) as error:
                self._stopped = str(error.strerror or error)
                break
            self._clock.correct(packet)
            stamp = packet.dts if packet.pts is None else packet.pts
            start = end = -math.inf
            if stamp is not None and packet.time_base:
                start, end = (float(at * packet.time_base) for at in (stamp, stamp + (packet.duration or 0)))
            self._media_end = max(self._media_end, end)
            if packet.stream is self._stream:
                insort(self._near, (start, end))
                del self._near[: -3 * _MAX_REORDER]
                if restarts != self._clock.restarts:  # a seam looks like damage of what comes before it
                    restarts = self._clock.restarts
                    flagged.clear()
                flagged.append(packet.is_corrupt)
                if len(flagged) > _SEAM:
                    self._lost += flagged.popleft()
                yield cast(_Packet, packet)
        self._lost += sum(flagged)

    def bound_end(self, start: float, end: float) -> float:
        """When a frame ends, in seconds, whose next one is shown at `end`: sooner, if there is a gap in between."""
        if end - start <= _LONGEST_STEP_S:
            return end
        distances = [later - sooner for (sooner, _), (later, _) in pairwise(self._near)]
        distances += [last_end - last_start for last_start, last_end in self._near[-1:]]
        usual = statistics.median_low([one for one in distances if 0 < one < math.inf] or [self.step])
        before = bisect_left(self._near, (end + self.origin - self.step / 2,)) - 1  # it may not have been decoded
        start = max(start, self._near[before][0] - self.origin) if before >= 0 else start
        return min(end, start + max(_LONGEST_STEP_S, _STEPS * usual))

    def settle(self, end: float) -> None:
        """Raise what is missing, now that the last frame, which ends at `end` seconds, was given.

        A few frames less than promised are the rule with edited clips, and no sign of anything.
        """
        declared = (
            0.0 if self._clock.restarts else (self._container.duration or 0) / av.time_base
        )  # an estimate by timestamps
        allowed, promised = max(3 * self.step, 0.02 * declared), self._begin + self._stream.frames * self.step
        missing_time = declared - max(self._media_end - self.origin, end) > allowed
        missing_packets = self._stream.frames - self._packets > 1 + 0.02 * self._stream.frames
        missing_pictures = missing_packets and promised - end > allowed
        cut = bool(self._stopped) and not 0 < declared <= end
        if cut or ((missing_pictures or missing_time) and not self._whole):
            reason = f" ({self._stopped})" if self._stopped else ""
            declared = max(declared, promised)
            promise = f"; its header promises {declared:.2f} s" if declared > end else ""
            raise TruncatedVideo(
                f"{self._path} breaks off after {end:.2f} s{reason}{promise}; copy or download it again for the rest"
            )
        if not self._given:
            codec = self._stream.codec_context.name if self._stream.codec_context else "unknown"
            raise Undecodable(
                f"{self._path} has a video stream ({codec}) of which no frame can be decoded; convert it to H.264"
            )
        if self._lost:
            besides = f"; {describe_restarts(self._clock.restarts)}" if self._clock.restarts else ""
            raise CorruptVideo(f"{self._path} has {self._lost} damaged frames; what surrounds them was used{besides}")
        self.inform()

    def inform(self) -> None:
        """Raise what is worth knowing of a file of which all was read that was asked for."""
        remark(self._path, self._clock.restarts, self._stream, self._others)


def _mark_needed(packets: Iterator[_Packet], sampling: Sampling, origin: float) -> Iterator[tuple[_Packet, bool]]:
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
            del times[: -3 * _MAX_REORDER]
        waiting.append((packet, time))
        if len(waiting) > _MAX_REORDER:
            yield leave()
    while waiting:
        yield leave(*times[-_TAIL_FRAMES:][:1])


def _resample(decoded: Iterator[DecodedFrame], sampling: Sampling) -> Generator[Frame]:
    """The frames that were asked for, converted; each once the next is known, because only then is its duration."""
    held: DecodedFrame | None = None
    due: float = 0
    lasts = 0.0
    try:
        for one in decoded:
            turn = sampling.turn(one.start)
            if turn >= due or (held is None and one.end > sampling.start):
                if held is not None:
                    yield to_rgb_frame(held, lasts, sampling)
                held, lasts = one, 0.0
                if sampling.fps is not None:
                    due = max(turn, 0) + 1
            lasts += max(0.0, min(one.end, sampling.stop) - max(one.start, sampling.start))
    except InputError:
        if held is not None:
            yield to_rgb_frame(held, lasts, sampling)
        raise
    if held is not None:
        yield to_rgb_frame(held, lasts, sampling)
