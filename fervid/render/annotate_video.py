"""A film with what is known of it drawn on: frames, times and sound as they were, upright, H.264 in mp4.

Pictures are decoded, drawn on and encoded frame by frame, each in a thread that runs a little ahead, and the sound
passes by them packet by packet, so memory does not depend on the length of the film.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import cv2
import numpy as np

from fervid.analysis.clip_timeline import ClipTimeline
from fervid.core.atomic_io import atomic_write, check_overwrite, partial_path
from fervid.core.errors import FrameTooLarge, InputError, OutputError, UsageError
from fervid.core.prefetch import prefetch
from fervid.core.records import Frame
from fervid.media.container import start_of
from fervid.media.sampling import Sampling
from fervid.media.video import open_video, read_frames
from fervid.render.audio import AudioCopier, TimeRange
from fervid.render.overlay import FrameAnnotator, OverlayLayout

SUFFIX = ".mp4"
CODEC = "libx264"
ENCODER_OPTIONS = {"preset": "veryfast", "crf": "20"}
"""Of the encoder: as near to the film as what it gives unasked, in half of the time (benchmarks/annotate.py)."""

MAX_ENCODED_SIDE = 16384  # pixels of a side that the encoder takes

_PAINTED = 4  # frames that wait for the encoder
_BT601, _LIMITED = 6, 1  # what OpenCV converts to, and what is written whatever was read
_TIMESCALE = 2**31  # ticks a second, more than which mp4 cannot count


def validate_target(
    source: str | os.PathLike[str], target: Path, *, stream: int | None = None, force: bool = False
) -> None:
    """Refuse what cannot be written, before a film is looked at.

    Args:
        source: The film.
        target: What to write.
        stream: Number of its video stream, as in `Sampling`.
        force: Whether an existing file may be replaced.

    Raises:
        UsageError: The name does not end in .mp4, or would overwrite the film; or there is no encoder.
        OutputError: The file exists.
        InputError: The source is no video.
    """
    if target.suffix.lower() != SUFFIX:
        raise UsageError(f"{target}: films are written as H.264 in mp4; choose a name that ends in {SUFFIX}")
    if os.path.realpath(source) in (os.path.realpath(target), str(partial_path(target))):
        raise UsageError(f"the output {target} would overwrite the input {source}; choose another name")
    if CODEC not in av.codecs_available:
        raise UsageError(f"films are written with {CODEC}, which this PyAV lacks; pip install --force-reinstall av")
    check_overwrite(target, force=force)
    with open_video(source, stream):
        pass


def annotate(
    source: str | os.PathLike[str],
    target: Path,
    story: ClipTimeline,
    sampling: Sampling,
    *,
    threads: int = 0,
    force: bool = False,
    passed: Callable[[float], None] = lambda seconds: None,
) -> list[str]:
    """Write a film with everybody's box, label and probabilities, and a chart under it.

    A film that breaks off is written as far as it could be read. One that cannot be written for another reason leaves
    nothing behind.

    Args:
        source: The film.
        target: What to write; appears whole or not at all.
        story: Who is where in it, and what they show.
        sampling: Which part of it, and how it is turned; every frame is written.
        threads: Of decoder and encoder; 0 leaves it to them.
        force: Whether an existing file may be replaced.
        passed: Told, after each frame, how many seconds of the film are written.

    Returns:
        What is worth saying about it: that it breaks off, that its sound was encoded anew, that it shows no face.

    Raises:
        UsageError: The name does not end in .mp4, or would overwrite the film.
        InputError: It is no video, its pictures are too large for H.264, or nothing of it could be read.
        OutputError: The file exists, or cannot be written.
    """
    validate_target(source, target, stream=sampling.stream, force=force)
    with open_video(source, sampling.stream) as (container, pictures), atomic_write(target, force=force) as file:
        try:
            options = {"movflags": "faststart"}
            tick = pictures.time_base
            base = Fraction(tick.numerator, tick.denominator) if tick else Fraction(1, 90000)
            if base.denominator < _TIMESCALE:
                options["video_track_timescale"] = str(base.denominator)
            with av.open(file.name, "w", format="mp4", options=options) as written:
                part = _part(container, sampling)
                stream = _stream(written, pictures, base, threads)
                sound = AudioCopier(container, pictures, written, part)
                frames = _annotated_frames(source, read_frames(source, replace(sampling, fps=None), threads), story)
                problem = _encode(written, stream, frames, base, sampling.start, sound, passed)
        except BaseException as error:
            file.truncate(0)
            if isinstance(error, av.FFmpegError):
                raise OutputError(
                    f"{target} cannot be written ({error.strerror}); check the disk, or convert {source} first"
                ) from error
            raise
    notes = [*([problem] if problem else []), *(f"{source}: {note}" for note in sound.notes)]
    if not story.people:
        notes.append(f"{source} shows no face; try more frames (--fps, --every-frame) or smaller faces (--min-face)")
    return notes


def _part(container: av.container.InputContainer, sampling: Sampling) -> TimeRange:
    """What is taken of a film."""
    begin = start_of(container)
    end = math.inf if sampling.end is None else begin + sampling.end
    return TimeRange(begin + sampling.start, end, whole=not sampling.start)


def _stream(
    target: av.container.OutputContainer, pictures: av.VideoStream, base: Fraction, threads: int
) -> av.VideoStream:
    """A stream for pictures that browsers show, with the clock of those that were read; its size is still open."""
    stream = cast(av.VideoStream, target.add_stream(CODEC, rate=pictures.average_rate or 25, options=ENCODER_OPTIONS))
    context, known = stream.codec_context, pictures.codec_context
    context.pix_fmt, context.time_base, context.thread_count = "yuv420p", base, threads
    context.colorspace, context.color_range = _BT601, _LIMITED
    if known is not None:
        context.color_primaries, context.color_trc = known.color_primaries, known.color_trc
    return stream


def _encode(
    target: av.container.OutputContainer,
    stream: av.VideoStream,
    frames: Generator[tuple[Frame, av.VideoFrame]],
    base: Fraction,
    begin: float,
    sound: AudioCopier,
    passed: Callable[[float], None],
) -> str:
    """Write all of a film from `begin`, in seconds, on; why it breaks off, if it does.

    Raises:
        InputError: There was no frame.
    """
    problem, last = "", -1
    with closing(prefetch(frames, _PAINTED)) as painted:
        try:
            for frame, picture in painted:
                time = max(0.0, frame.time - begin)
                picture.pts = round(time / base)
                if picture.pts <= last:  # shown for no time
                    continue
                if last < 0:
                    stream.width, stream.height = picture.width, picture.height
                last = picture.pts
                picture.time_base, picture.duration = base, round(frame.duration / base)
                target.mux(list(sound.until(time)))
                target.mux(stream.encode(picture))
                passed(frame.time + frame.duration)
        except InputError as error:
            if last < 0:
                raise
            problem = error.message
    target.mux(stream.encode())
    target.mux(list(sound.until(math.inf)))
    return problem


def _annotated_frames(
    source: str | os.PathLike[str], frames: Generator[Frame], story: ClipTimeline
) -> Generator[tuple[Frame, av.VideoFrame]]:
    """Each frame, and what is shown of it.

    Raises:
        TooLarge: No H.264 can hold them.
    """
    painter = None
    with closing(frames):
        for frame in frames:
            if painter is None:
                height, width = frame.image.shape[:2]
                painter = FrameAnnotator(story, OverlayLayout.of(width, height, len(story.labels)))
                wide, high = painter.size
                if max(wide, high) > MAX_ENCODED_SIDE:
                    raise FrameTooLarge(
                        f"{source} has pictures of {width} x {height} pixels, and with a chart under them they would"
                        f" have more than H.264 takes, {MAX_ENCODED_SIDE} at a side; scale it down"
                    )
                canvas = np.empty((high, wide, 3), np.uint8)  # one for all: new memory costs more than what is drawn
                planes = np.empty((high * 3 // 2, wide), np.uint8)
            painter(frame.image, frame.time, canvas)
            cv2.cvtColor(canvas, cv2.COLOR_RGB2YUV_I420, planes)
            yield frame, av.VideoFrame.from_ndarray(planes, format="yuv420p")
