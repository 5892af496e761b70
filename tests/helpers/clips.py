"""Make the clips of the tests: the public-domain astronaut photograph, with camera motion, in any container."""

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
    """Read the photograph (512, 512, 3) RGB: one smiling face of about 120 pixels, its centre near (222, 118)."""
    return skimage.data.astronaut()


FEATURES = ((203, 101), (248, 103), (224, 128), (223, 149), (179, 110), (272, 113))  # eyes, nose, mouth, ears
MOVED = (  # offsets in pixels, of each person
    ((0, 0),) * 6,
    ((13, -14), (8, -9), (12, 14), (-12, 13), (-13, 2), (12, -1)),
    ((-10, -5), (10, -9), (4, 10), (-13, -8), (-7, 14), (5, 11)),
    ((13, 11), (-8, 14), (-14, -14), (-2, -14), (-9, 14), (-2, 5)),
    ((5, -14), (-8, -11), (1, -8), (0, 14), (-14, 2), (14, 7)),
    ((13, -10), (0, 2), (14, 14), (14, -14), (14, 3), (-14, -14)),
    ((16, 6), (-16, 6), (-14, 16), (16, 16), (-15, -3), (-1, 13)),
    ((11, -16), (16, -8), (-13, -11), (4, -13), (9, -14), (10, -5)),
)


@cache
def sitter(person: int) -> np.ndarray:
    """Return the astronaut, or for numbers 1 to 7 her face warped so far that it counts as another person."""
    y, x = np.mgrid[:512, :512].astype(np.float32)
    from_x, from_y = x.copy(), y.copy()
    for (at_x, at_y), (by_x, by_y) in zip(FEATURES, MOVED[person], strict=True):
        near = np.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / 450)
        from_x, from_y = from_x - by_x * near, from_y - by_y * near
    return cv2.remap(astronaut(), from_x, from_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def portrait(
    width: int = 320, height: int = 240, zoom: float = 1.6, x: float = 222, y: float = 130, person: int = 0
) -> np.ndarray:
    """Render a view (height, width, 3) of the photograph of `sitter`; a view pixel covers `zoom` photograph pixels."""
    matrix = np.array([[zoom, 0, width / 2 - zoom * x], [0, zoom, height / 2 - zoom * y]])
    return cv2.warpAffine(sitter(person), matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)


def smiling(frames: int, width: int = 320, height: int = 240, zoom: float = 1.6, person: int = 0) -> list[np.ndarray]:
    """Render frames of a camera that drifts around the face."""
    views = (
        (zoom * (1 + 0.05 * np.sin(turn)), 222 + 8 * np.cos(turn), 130 + 5 * np.sin(turn))
        for turn in np.linspace(0, 2 * np.pi, frames, endpoint=False)
    )
    return [portrait(width, height, *view, person) for view in views]


def scenery(frames: int, width: int = 320, height: int = 240) -> list[np.ndarray]:
    """Render frames without a face: a moving colour gradient."""
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
    """Write a file with audio only."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        for start in range(0, int(seconds * 16000), 1024):
            wave = np.sin(np.arange(start, start + 1024) / 20).astype(np.float32)[None] * 0.2
            frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def orient(path: Path, a: float, b: float, c: float, d: float) -> Path:
    """Write a display matrix into an mp4: players then show the point (x, y) at (a x + c y, b x + d y)."""
    data = bytearray(path.read_bytes())
    header = data.index(b"tkhd")
    version = data[header + 4]
    matrix = header + 4 + (4 + 20 if version == 0 else 4 + 32) + 16
    first, second, third, fourth = (round(65536 * value) for value in (a, b, c, d))
    struct.pack_into(">9i", data, matrix, first, second, 0, third, fourth, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def turn(path: Path, clockwise: int) -> Path:
    """Write a display matrix into an mp4: players then rotate the video clockwise by that many degrees."""
    a, b = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[clockwise]
    return orient(path, a, b, -b, a)


ORIENTATIONS = {
    "as-stored": ((1, 0, 0, 1), lambda image: image),
    "turned-right": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "turned-round": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "turned-left": ((0, -1, 1, 0), np.rot90),
    "mirrored": ((-1, 0, 0, 1), np.fliplr),
    "upside-down": ((1, 0, 0, -1), np.flipud),
    "mirrored-and-turned-left": ((0, 1, 1, 0), lambda image: np.rot90(np.fliplr(image))),
    "mirrored-and-turned-right": ((0, -1, -1, 0), lambda image: np.rot90(np.fliplr(image), -1)),
}
"""Display matrices of the eight orientations of an image, each with the transformation of the image."""
