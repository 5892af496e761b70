"""Selection of frames by time, and conversion of decoded frames to upright RGB in square pixels."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, SupportsBytes, cast

import cv2
import numpy as np

from fervid.core.records import Frame, Image

if TYPE_CHECKING:
    import av

MAX_DURATION_S = 24 * 3600.0
"""Seconds of a clip that are read at most."""

_MAX_ASPECT = 4.0  # longer side of a frame over the shorter one
_MAX_PIXEL_ASPECT = 4.0  # longer side of a pixel over the shorter one; a larger value in a file is ignored
_ROUNDING_S = 1e-3  # Matroska and FLV round times to milliseconds, so a frame may be early by that much


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which frames of a clip to read.

    Attributes:
        fps: Frames per second of presentation time; None for every frame.
        start: Seconds from the start of the clip at which to begin.
        end: Seconds from the start of the clip at which to stop; None for the end of the clip.
        rotate: Degrees clockwise by which to rotate the decoded frames; None for the rotation in the file.
        stream: Number of the video stream, as ffprobe counts them; None for the default one, then the largest.
        aspect: Width over height of the upright frames; None for the aspect ratio in the file.
    """

    fps: float | None = 5.0
    start: float = 0.0
    end: float | None = None
    rotate: int | None = None
    stream: int | None = None
    aspect: float | None = None

    def __post_init__(self) -> None:
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise ValueError(f"the frame rate must be a number above 0, not {self.fps}")
        if not 0 <= self.start < math.inf:
            raise ValueError(f"the start must be 0 s or later, not {self.start} s")
        if self.end is not None and not self.end > self.start:
            raise ValueError(f"the end ({self.end} s) must come after the start ({self.start} s)")
        if self.rotate not in (None, 0, 90, 180, 270):
            raise ValueError(f"the rotation must be 0, 90, 180 or 270 degrees, not {self.rotate}")
        if self.stream is not None and self.stream < 0:
            raise ValueError(f"the stream number must be 0 or more, not {self.stream}")
        if self.aspect is not None and not 1 / _MAX_ASPECT <= self.aspect <= _MAX_ASPECT:
            raise ValueError(
                f"the aspect ratio must be 1:{_MAX_ASPECT:g} to {_MAX_ASPECT:g}:1, such as 16:9, not {self.aspect:g}"
            )

    @property
    def end_time(self) -> float:
        """Seconds from the start of the clip at which reading stops, at the latest after `MAX_DURATION_S`."""
        latest = self.start + MAX_DURATION_S
        return latest if self.end is None else min(self.end, latest)

    def slot_index(self, time: float) -> float:
        """Return the index of the sample slot at a time, negative before the start.

        A slot lasts `1 / fps` seconds, and its first frame is sampled. Without `fps` every frame is: the slot after
        the start is infinite. Times are in seconds from the start of the clip.
        """
        if self.fps is None:
            return math.inf if time >= self.start else -1
        return math.floor((time - self.start + _ROUNDING_S) * self.fps)


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """A decoded frame before its conversion to RGB, which only sampled frames need.

    Attributes:
        frame: The frame as decoded.
        aspect: Width of a pixel over its height.
        start: Seconds from the start of the clip.
        end: Seconds from the start of the clip.
        index: Position among all frames of the file, counted from 0.
    """

    frame: av.VideoFrame
    aspect: float
    start: float
    end: float
    index: int = 0


def to_rgb_frame(decoded: DecodedFrame, duration: float, sampling: Sampling) -> Frame:
    """Convert a decoded frame, which stands for `duration` seconds, to RGB, upright and with square pixels.

    `rotate` and `aspect` of the sampling override the file.
    """
    frame = decoded.frame
    width = square_pixel_width(frame.width, decoded.aspect) if sampling.aspect is None else frame.width
    image = np.asarray(frame.to_ndarray(format="rgb24", width=width, height=frame.height, threads=1), np.uint8)
    if sampling.rotate is not None:
        upright = rotate(image, sampling.rotate)
    else:
        matrix = cast("SupportsBytes | None", frame.side_data.get("DISPLAYMATRIX"))
        upright = image if matrix is None else orient(image, struct.unpack("=9i", bytes(matrix)))
    return Frame(reshape(upright, sampling.aspect), decoded.start, duration, decoded.index)


def reshape(image: Image, aspect: float | None) -> Image:
    """Resize an image to an aspect ratio by its width; None leaves it unchanged."""
    if aspect is None:
        return image
    height, width = image.shape[:2]
    new_width = max(1, round(height * aspect))
    interpolation = cv2.INTER_AREA if new_width < width else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (new_width, height), interpolation=interpolation), np.uint8)


def square_pixel_width(width: int, aspect: float) -> int:
    """Return the width of a frame in square pixels; an implausible pixel aspect ratio is ignored."""
    return round(width * aspect) if 1 / _MAX_PIXEL_ASPECT <= aspect <= _MAX_PIXEL_ASPECT else width


def orient(image: Image, matrix: Sequence[float]) -> Image:
    """Rotate by a multiple of 90 degrees and mirror an image, as a display matrix says.

    Args:
        image: (h, w, 3).
        matrix: Nine numbers a, b, u, c, d, v, x, y, w in rows. A point (x, y) of the image moves to
            (a x + c y, b x + d y). Other angles are rounded to a multiple of 90 degrees; a singular matrix is ignored.
    """
    a, b, _, c, d = matrix[:5]
    if a * d == b * c:
        return image
    keeps_axes = abs(a) + abs(d) >= abs(b) + abs(c)
    x_sign, y_sign = (a, d) if keeps_axes else (c, b)
    oriented = image if keeps_axes else image.swapaxes(0, 1)
    return np.ascontiguousarray(oriented[:: -1 if y_sign < 0 else 1, :: -1 if x_sign < 0 else 1])


def rotate(image: Image, clockwise: int) -> Image:
    """Rotate an image clockwise by a multiple of 90 degrees."""
    quarter_turns = -clockwise // 90 % 4
    return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image
