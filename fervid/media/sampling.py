"""Which frames of a clip are looked at, and what a decoded one becomes."""

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
"""Most seconds of a clip that are looked at."""

_WIDEST = 4  # width of a picture over its height, or of its height over its width
_TIME_EPS = (
    1e-3  # seconds; Matroska and FLV round times to the millisecond, so a frame can seem to come before its turn
)


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which frames of a clip to look at.

    Attributes:
        fps: Frames a second of presentation time; None for every frame.
        start: Seconds from the start of the clip, as players count them, before which nothing is looked at.
        end: Seconds from the start of the clip at which to stop; None for the end.
        rotate: Degrees clockwise to turn the decoded pictures; None to obey the file.
        stream: Number of the video stream, as ffprobe counts them; None for the default one, then the largest.
        aspect: Width over height of the pictures as they should be shown, upright; None to obey the file.
    """

    fps: float | None = 5.0
    start: float = 0.0
    end: float | None = None
    rotate: int | None = None
    stream: int | None = None
    aspect: float | None = None

    def __post_init__(self) -> None:
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise ValueError(f"frames a second must be a number above 0, not {self.fps}")
        if not 0 <= self.start < math.inf:
            raise ValueError(f"the start must be 0 s or later, not {self.start} s")
        if self.end is not None and not self.end > self.start:
            raise ValueError(f"the end ({self.end} s) must come after the start ({self.start} s)")
        if self.rotate not in (None, 0, 90, 180, 270):
            raise ValueError(f"rotation is 0, 90, 180 or 270, not {self.rotate}")
        if self.stream is not None and self.stream < 0:
            raise ValueError(f"streams are counted from 0, so there is none {self.stream}")
        if self.aspect is not None and not 1 / _WIDEST <= self.aspect <= _WIDEST:
            raise ValueError(f"the aspect ratio is from 1:{_WIDEST} to {_WIDEST}:1, such as 16:9, not {self.aspect:g}")

    @property
    def stop(self) -> float:
        """Seconds from the start of the clip behind which nothing is looked at."""
        longest = self.start + MAX_DURATION_S
        return longest if self.end is None else min(self.end, longest)

    def turn(self, time: float) -> float:
        """Which look it is time for, counted from 0; negative before the start. The first frame of a turn is taken."""
        if self.fps is None:
            return math.inf if time >= self.start else -1
        return math.floor((time - self.start + _TIME_EPS) * self.fps)


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """A decoded frame that has not been converted yet, for most never are."""

    frame: av.VideoFrame
    aspect: float  # width of a pixel over its height
    start: float
    end: float


def to_rgb_frame(decoded: DecodedFrame, duration: float, sampling: Sampling) -> Frame:
    """A decoded frame that stands for so many seconds: RGB, upright, in square pixels."""
    frame = decoded.frame
    width = square_pixel_width(frame.width, decoded.aspect) if sampling.aspect is None else frame.width
    image = np.asarray(frame.to_ndarray(format="rgb24", width=width, height=frame.height, threads=1), np.uint8)
    if sampling.rotate is not None:
        upright = rotate(image, sampling.rotate)
    else:
        matrix = cast("SupportsBytes | None", frame.side_data.get("DISPLAYMATRIX"))
        upright = image if matrix is None else orient(image, struct.unpack("=9i", bytes(matrix)))
    return Frame(reshape(upright, sampling.aspect), decoded.start, duration)


def reshape(image: Image, aspect: float | None) -> Image:
    """A picture, made as wide as an aspect ratio says if there is one; its height stays."""
    if aspect is None:
        return image
    height, width = image.shape[:2]
    wanted = max(1, round(height * aspect))
    shrunk = cv2.INTER_AREA if wanted < width else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (wanted, height), interpolation=shrunk), np.uint8)


def square_pixel_width(width: int, aspect: float) -> int:
    """The width of a frame in square pixels, unless what the file says of them is absurd."""
    return round(width * aspect) if 0.25 <= aspect <= 4 else width


def orient(image: Image, matrix: Sequence[float]) -> Image:
    """A picture as a display matrix says: turned by a multiple of 90 degrees, mirrored, or both.

    Args:
        image: (h, w, 3).
        matrix: Of nine numbers, in rows; a point (x, y) of the picture is shown at (a x + c y, b x + d y), where a and
            b are the first two, c and d the fourth and fifth. Other angles count as the nearest of those; what is no
            turn, as all zeros, says nothing.
    """
    a, b, _, c, d = matrix[:5]
    if a * d == b * c:  # everything would be shown on a line
        return image
    upright = abs(a) + abs(d) >= abs(b) + abs(c)
    to_right, down = (a, d) if upright else (c, b)
    shown = image if upright else image.swapaxes(0, 1)
    return np.ascontiguousarray(shown[:: -1 if down < 0 else 1, :: -1 if to_right < 0 else 1])


def rotate(image: Image, clockwise: int) -> Image:
    """A picture, turned by degrees that are a multiple of 90."""
    quarters = -clockwise // 90 % 4
    return np.ascontiguousarray(np.rot90(image, quarters)) if quarters else image
