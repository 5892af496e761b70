"""Stills -> what a video would show of them: a face that moves, turns, changes light, blurs and is compressed."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from fervid.core.records import Face, Image

_RANGES = {
    "x": (-0.06, 0.06),  # shares of the box
    "y": (-0.06, 0.06),
    "scale": (-0.1, 0.1),  # of its logarithm
    "roll": (-12.0, 12.0),  # degrees
    "gain": (-0.3, 0.3),  # of its logarithm
    "offset": (-20.0, 20.0),  # grey levels
    "blur": (-0.6, 1.0),  # pixels of standard deviation, below 0 none
}


def simulate_clip(image: Image, face: Face, frames: int, rng: np.random.Generator) -> Iterator[tuple[Image, Face]]:
    """A still as a clip: every quantity follows a smooth random curve, the resolution and compression stay.

    Args:
        image: (h, w, 3) closely cut face.
        face: Where it is in the image.
        frames: How many views to make.
        rng: Source of all randomness.

    Yields:
        Frame and face, as a camera and a detector would give them.
    """
    paths = {name: smooth_curve(frames, low, high, rng) for name, (low, high) in _RANGES.items()}
    height, width = image.shape[:2]
    resolution = float(rng.uniform(0.5, 1.0))
    quality = int(rng.integers(30, 96))
    for t in range(frames):
        at = {name: float(path[t]) for name, path in paths.items()}
        view = cv2.GaussianBlur(image, (0, 0), at["blur"]) if at["blur"] > 0.1 else image
        view = cv2.resize(view, None, fx=resolution, fy=resolution, interpolation=cv2.INTER_AREA)
        view = cv2.resize(view, (width * 2, height * 2), interpolation=cv2.INTER_CUBIC)
        view = np.clip((view - 128.0) * np.exp(at["gain"]) + 128 + at["offset"], 0, 255).astype(np.uint8)
        encoded = cv2.imencode(".jpg", view, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        compressed = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
        yield compressed, _moved(face, at, 2.0)


def smooth_curve(frames: int, low: float, high: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A smooth random path (frames,) between two values: two slow waves around a random level."""
    level = rng.uniform(low, high)
    time = np.linspace(0, 1, frames)
    waves = sum(np.sin(2 * np.pi * (rng.uniform(0.3, 1.5) * time + rng.uniform())) for _ in range(2))
    return np.asarray(np.clip(level + (high - low) / 8 * waves, low, high))


def _moved(face: Face, at: dict[str, float], factor: float) -> Face:
    """The face as a detector that errs by `at` would report it, in a picture `factor` times as large."""
    x1, y1, x2, y2 = face.box
    side = max(x2 - x1, y2 - y1)
    centre = np.array([(x1 + x2) / 2 + at["x"] * side, (y1 + y2) / 2 + at["y"] * side]) * factor
    half = np.array([x2 - x1, y2 - y1]) / 2 * np.exp(at["scale"]) * factor
    angle = np.deg2rad(at["roll"])
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    landmarks = (face.landmarks * factor - centre) @ turn + centre
    left, top, right, bottom = (float(v) for v in (*(centre - half), *(centre + half)))
    return Face((left, top, right, bottom), landmarks.astype(np.float32), face.score)
