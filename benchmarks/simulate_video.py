"""Simulate video from still images: motion, rotation, changes of light, blur and compression."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from fervid.core.records import Face, Image

_RANGES = {
    "x": (-0.06, 0.06),  # fractions of the box
    "y": (-0.06, 0.06),
    "scale": (-0.1, 0.1),  # logarithm
    "roll": (-12.0, 12.0),  # degrees
    "gain": (-0.3, 0.3),  # logarithm
    "offset": (-20.0, 20.0),  # grey levels
    "blur": (-0.6, 1.0),  # standard deviation in pixels, none below 0
}


def simulate_clip(image: Image, face: Face, frames: int, rng: np.random.Generator) -> Iterator[tuple[Image, Face]]:
    """Make a clip of a tightly cropped face (h, w, 3); yield its frames and faces, as from a camera and a detector.

    Parameters follow smooth random curves; resolution and quality are constant.
    """
    curves = {name: smooth_curve(frames, low, high, rng) for name, (low, high) in _RANGES.items()}
    height, width = image.shape[:2]
    resolution = float(rng.uniform(0.5, 1.0))
    quality = int(rng.integers(30, 96))
    for t in range(frames):
        values = {name: float(curve[t]) for name, curve in curves.items()}
        view = cv2.GaussianBlur(image, (0, 0), values["blur"]) if values["blur"] > 0.1 else image
        view = cv2.resize(view, None, fx=resolution, fy=resolution, interpolation=cv2.INTER_AREA)
        view = cv2.resize(view, (width * 2, height * 2), interpolation=cv2.INTER_CUBIC)
        view = np.clip((view - 128.0) * np.exp(values["gain"]) + 128 + values["offset"], 0, 255).astype(np.uint8)
        encoded = cv2.imencode(".jpg", view, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        compressed = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
        yield compressed, _transform_face(face, values, 2.0)


def smooth_curve(frames: int, low: float, high: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Make a smooth random curve (frames,) between two values: two slow sine waves around a random level."""
    level = rng.uniform(low, high)
    time = np.linspace(0, 1, frames)
    waves = sum(np.sin(2 * np.pi * (rng.uniform(0.3, 1.5) * time + rng.uniform())) for _ in range(2))
    return np.asarray(np.clip(level + (high - low) / 8 * waves, low, high))


def _transform_face(face: Face, values: dict[str, float], factor: float) -> Face:
    """Apply shift, scale and roll to a face, in an image enlarged by `factor`."""
    x1, y1, x2, y2 = face.box
    side = max(x2 - x1, y2 - y1)
    centre = np.array([(x1 + x2) / 2 + values["x"] * side, (y1 + y2) / 2 + values["y"] * side]) * factor
    half = np.array([x2 - x1, y2 - y1]) / 2 * np.exp(values["scale"]) * factor
    angle = np.deg2rad(values["roll"])
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    landmarks = (face.landmarks * factor - centre) @ turn + centre
    left, top, right, bottom = (float(v) for v in (*(centre - half), *(centre + half)))
    return Face((left, top, right, bottom), landmarks.astype(np.float32), face.score)
