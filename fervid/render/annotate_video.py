"""Output of a video with the predictions drawn on it: the same frames, times and sound, upright, as H.264 in mp4.

Frames are decoded, annotated and encoded one by one, with a short queue between these steps, and audio packets are
interleaved with them, so memory use does not depend on the length of the video.
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
from fervid.media.sampling import Sampling
from fervid.media.video import open_video, read_frames
from fervid.render.audio import AudioCopier
from fervid.render.overlay import FrameAnnotator
from fervid.render.overlay_layout import OverlayLayout

SUFFIX = ".mp4"
CODEC = "libx264"
ENCODER_OPTIONS = {"preset": "veryfast", "crf": "20"}
"""Options of the encoder: the quality of its defaults in half of the time (benchmarks/annotate.py)."""

MAX_ENCODED_SIDE = 16384  # pixels of a side that the encoder accepts

_QUEUE_FRAMES = 4  # annotated frames that wait for the encoder
_BT601, _LIMITED = 6, 1  # colour space and range of what OpenCV converts to
_MAX_TIMESCALE = 2**31  # ticks per second in mp4


def validate_target(
    source: str | os.PathLike[str], target: Path, *, stream: int | None = None, force: bool = False
) -> None:
    """Check that an annotated video can be written, before the clip is analysed.

    `stream` is the index of the video stream, as in `Sampling`; with `force` an existing file may be replaced.

    Raises:
        UsageError: The target does not end in .mp4 or is the source, or PyAV lacks the encoder.
        OutputError: The target exists.
        InputError: The source is not a video.
    """
    if target.suffix.lower() != SUFFIX:
        raise UsageError(f"{target}: videos are written as H.264 in mp4; use a name that ends in {SUFFIX}")
    if os.path.realpath(source) in (os.path.realpath(target), str(partial_path(target))):
        raise UsageError(f"the output {target} would overwrite the input {source}; use another name")
    if CODEC not in av.codecs_available:
        raise UsageError(f"PyAV lacks the encoder {CODEC}; pip install --force-reinstall av")
    check_overwrite(target, force=force)
    with open_video(source, stream):
        pass


def annotate(
    source: str | os.PathLike[str],
    target: Path,
    timeline: ClipTimeline,
    sampling: Sampling,
    *,
    threads: int = 0,
    force: bool = False,
    on_progress: Callable[[float], None] = lambda seconds: None,
) -> list[str]:
    """Write a copy of a video with boxes, labels and probabilities of all people, and a chart below.

    A truncated video is written as far as it can be read. On any other error no file is left behind.

    Args:
        source: Input video.
        target: Output video; written atomically.
        timeline: People of the video and their probabilities.
        sampling: Time range and rotation; its frame rate is ignored, as every frame is written.
        threads: Threads of the decoder and the encoder; 0 for their defaults.
        force: Whether an existing file may be replaced.
        on_progress: Called after each frame with the seconds of video written.

    Returns:
        Warnings: the video is truncated, its sound was re-encoded, no face was found.

    Raises:
        UsageError: The target does not end in .mp4, or is the source.
        InputError: The source is not a video, its frames are too large for H.264, or none can be read.
        OutputError: The target exists, or cannot be written.
    """
    validate_target(source, target, stream=sampling.stream, force=force)
    with open_video(source, sampling.stream) as (container, video), atomic_write(target, force=force) as file:
        try:
            options = {"movflags": "faststart"}
            tick = video.time_base
            base = Fraction(tick.numerator, tick.denominator) if tick else Fraction(1, 90000)
            if base.denominator < _MAX_TIMESCALE:
                options["video_track_timescale"] = str(base.denominator)
            with av.open(file.name, "w", format="mp4", options=options) as output:
                stream = _add_video_stream(output, video, base, threads)
                audio = AudioCopier(container, video, output, sampling)
                frames = read_frames(source, replace(sampling, fps=None), threads)
                annotated = _annotated_frames(source, frames, timeline)
                problem = _encode(output, stream, annotated, base, sampling.start, audio, on_progress)
        except BaseException as error:
            file.truncate(0)
            if isinstance(error, av.FFmpegError):
                raise OutputError(
                    f"{target} cannot be written ({error.strerror}); check the disk, or convert {source} first"
                ) from error
            raise
    notes = [*([problem] if problem else []), *(f"{source}: {note}" for note in audio.notes)]
    if not timeline.people:
        notes.append(f"{source}: no face found; try more frames (--fps, --every-frame) or smaller faces (--min-face)")
    return notes


def _add_video_stream(
    target: av.container.OutputContainer, source: av.VideoStream, base: Fraction, threads: int
) -> av.VideoStream:
    """Add a video stream that browsers can play, with the time base of the source; its size is set later."""
    stream = cast(av.VideoStream, target.add_stream(CODEC, rate=source.average_rate or 25, options=ENCODER_OPTIONS))
    context, source_context = stream.codec_context, source.codec_context
    context.pix_fmt, context.time_base, context.thread_count = "yuv420p", base, threads
    context.colorspace, context.color_range = _BT601, _LIMITED
    if source_context is not None:
        context.color_primaries, context.color_trc = source_context.color_primaries, source_context.color_trc
    return stream


def _encode(
    target: av.container.OutputContainer,
    stream: av.VideoStream,
    frames: Generator[tuple[Frame, av.VideoFrame]],
    base: Fraction,
    begin: float,
    audio: AudioCopier,
    on_progress: Callable[[float], None],
) -> str:
    """Write all frames of the source, from `begin` seconds on, and the audio between them.

    Returns:
        Why the source could not be read to its end; empty if it could.

    Raises:
        InputError: No frame could be read.
    """
    problem, last_pts = "", -1
    with closing(prefetch(frames, _QUEUE_FRAMES)) as annotated:
        try:
            for frame, output in annotated:
                time = max(0.0, frame.time - begin)
                output.pts = round(time / base)
                if output.pts <= last_pts:  # the frame is displayed for no time
                    continue
                if last_pts < 0:
                    stream.width, stream.height = output.width, output.height
                last_pts = output.pts
                output.time_base, output.duration = base, round(frame.duration / base)
                target.mux(list(audio.packets_until(time)))
                target.mux(stream.encode(output))
                on_progress(time + frame.duration)
        except InputError as error:
            if last_pts < 0:
                raise
            problem = error.message
    target.mux(stream.encode())
    target.mux(list(audio.packets_until(math.inf)))
    return problem


def _annotated_frames(
    source: str | os.PathLike[str], frames: Generator[Frame], timeline: ClipTimeline
) -> Generator[tuple[Frame, av.VideoFrame]]:
    """Yield each frame with the annotated frame.

    Raises:
        FrameTooLarge: The annotated frames exceed the size limit of H.264.
    """
    annotator = None
    with closing(frames):
        for frame in frames:
            if annotator is None:
                height, width = frame.image.shape[:2]
                layout = OverlayLayout.of(width, height, len(timeline.labels))
                annotator = FrameAnnotator(timeline, layout)
                canvas_width, canvas_height = layout.size
                if max(canvas_width, canvas_height) > MAX_ENCODED_SIDE:
                    raise FrameTooLarge(
                        f"{source}: frames of {width} x {height} pixels with a chart below exceed the limit of H.264,"
                        f" {MAX_ENCODED_SIDE} pixels per side; scale the video down"
                    )
                # The arrays are reused, because allocating them takes longer than drawing.
                canvas = np.empty((canvas_height, canvas_width, 3), np.uint8)
                planes = np.empty((canvas_height * 3 // 2, canvas_width), np.uint8)
            annotator(frame.image, frame.time, canvas)
            cv2.cvtColor(canvas, cv2.COLOR_RGB2YUV_I420, planes)
            yield frame, av.VideoFrame.from_ndarray(planes, format="yuv420p")
