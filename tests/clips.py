"""Builds the clips of the tests: the public-domain astronaut photograph, moved by a camera, in any container."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import cv2
import numpy as np
import skimage.data

PIXELS = {"gif": "rgb8", "cinepak": "rgb24", "libx265": "yuv420p10le", "mjpeg": "yuvj420p"}


@cache
def astronaut() -> np.ndarray:
    """(512, 512, 3) RGB; one smiling face of about 120 pixels, its centre near (222, 118)."""
    return skimage.data.astronaut()


def portrait(width: int = 320, height: int = 240, zoom: float = 1.6, x: float = 222, y: float = 130) -> np.ndarray:
    """A (height, width, 3) view of the astronaut, `zoom` picture pixels for one of the photograph's."""
    matrix = np.array([[zoom, 0, width / 2 - zoom * x], [0, zoom, height / 2 - zoom * y]])
    return cv2.warpAffine(astronaut(), matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)


def smiling(frames: int, width: int = 320, height: int = 240, zoom: float = 1.6) -> list[np.ndarray]:
    """A camera that drifts around the face."""
    turns = np.linspace(0, 2 * np.pi, frames, endpoint=False)
    return [
        portrait(width, height, zoom * (1 + 0.05 * np.sin(turn)), 222 + 8 * np.cos(turn), 130 + 5 * np.sin(turn))
        for turn in turns
    ]


def scenery(frames: int, width: int = 320, height: int = 240) -> list[np.ndarray]:
    """No face: a colour gradient that moves."""
    ramp = np.linspace(0, 255, width, dtype=np.uint8)
    row = np.stack([ramp, ramp[::-1], np.full_like(ramp, 90)], -1)
    return [np.ascontiguousarray(np.broadcast_to(np.roll(row, 3 * i, 0), (height, width, 3))) for i in range(frames)]


def write(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    codec: str = "libx264",
    rate: int = 25,
    times: Sequence[float] | None = None,
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
) -> Path:
    """Encode frames; `times` in seconds makes the frame rate variable."""
    with av.open(str(path), "w", options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = PIXELS.get(codec, "yuv420p")
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(times[i] * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path: Path, seconds: float = 0.5) -> Path:
    """A file with sound and no pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        for start in range(0, int(seconds * 16000), 1024):
            wave = np.sin(np.arange(start, start + 1024) / 20).astype(np.float32)[None] * 0.2
            frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turn(path: Path, clockwise: int) -> Path:
    """Write a display matrix into an mp4: players then turn the pictures clockwise by that many degrees."""
    data = bytearray(path.read_bytes())
    header = data.index(b"tkhd")
    version = data[header + 4]
    matrix = header + 4 + (4 + 20 if version == 0 else 4 + 32) + 16
    one = 1 << 16
    a, b = {0: (one, 0), 90: (0, one), 180: (-one, 0), 270: (0, -one)}[clockwise]
    struct.pack_into(">9i", data, matrix, a, b, 0, -b, a, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path
