"""Frames of a clip as small JPEG images for HTML pages."""

from __future__ import annotations

import base64
from contextlib import closing
from dataclasses import dataclass, replace

import cv2

from fervid.analysis.options import Options
from fervid.core.errors import InputError
from fervid.core.records import Frame, Image
from fervid.media import video

THUMBNAIL_PX = 320  # longer side of a thumbnail
_TIME_EPS = 1e-3  # seconds by which the time of a frame may differ from the requested time


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A frame of a clip.

    Attributes:
        time: Its time in seconds.
        url: A `data:` URL of a JPEG; None if the frame cannot be read any more.
    """

    time: float
    url: str | None


def read_thumbnail(path: str, time: float, options: Options) -> Thumbnail:
    """Read the frame at a time, upright and with square pixels."""
    sampling = replace(options.sampling, fps=None, start=max(0.0, time - _TIME_EPS), end=time + _TIME_EPS)
    try:
        with closing(video.read_frames(path, sampling)) as frames:
            frame: Frame | None = next((frame for frame in frames if frame.time >= time - _TIME_EPS), None)
            return Thumbnail(time, _jpeg_data_url(frame.image) if frame else None)
    except InputError:
        return Thumbnail(time, None)


def _jpeg_data_url(image: Image) -> str:
    scale = min(1.0, THUMBNAIL_PX / max(image.shape[:2]))
    size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    data = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"
