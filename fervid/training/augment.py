"""A cached crop -> one view of it as a video might show it: moved, turned, dimmed, blurred, compressed, half hidden.

Chances and ranges are written for faces that were cut by the ordinary detector: its box errs by some per cent, faces
in video are often smaller than the network's input, and the stream was compressed.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fervid.analysis.align import MARGIN
from fervid.core.records import FloatArray, Image
from fervid.training.faces import CROP_FRACTION

MIRRORED = [1, 0, 2, 3, 5, 4]
"""Which of eyes, nose, mouth and ears each of them is in a mirror."""


@dataclass(frozen=True, slots=True)
class GeometricJitter:
    """How a detector that erred would have cut a face.

    Attributes:
        roll: Degrees.
        zoom: Above 1 the face fills more of the view.
        right: Shift in shares of the view.
        down: Likewise.
        mirrored: Left and right are exchanged, last of all.
    """

    roll: float = 0.0
    zoom: float = 1.0
    right: float = 0.0
    down: float = 0.0
    mirrored: bool = False

    @classmethod
    def random(cls, rng: np.random.Generator) -> GeometricJitter:
        """One that is likely."""
        roll, zoom = rng.uniform(-15, 15), np.exp(rng.uniform(-0.15, 0.15))
        right, down = rng.uniform(-0.05, 0.05, 2)
        return cls(float(roll), float(zoom), float(right), float(down), bool(rng.random() < 0.5))

    def matrix(self, side: int, size: int) -> NDArray[np.float64]:
        """What takes pixels of a cached crop of that side to those of the view, before the mirror: (2, 3)."""
        scale = size / (side * CROP_FRACTION) * self.zoom
        angle = np.deg2rad(self.roll)
        cos, sin = scale * np.cos(angle), scale * np.sin(angle)
        centre, middle = (side - 1) / 2, (size - 1) / 2
        right, down = self.right * size + middle, self.down * size + middle
        return np.array([[cos, sin, right - (cos + sin) * centre], [-sin, cos, down - (cos - sin) * centre]])

    def landmarks(self, places: FloatArray, side: int, size: int) -> FloatArray:
        """Eyes, nose, mouth and ears (6, 2) in pixels of a cached crop, in those of the view."""
        matrix = self.matrix(side, size)
        seen = places @ matrix[:, :2].T + matrix[:, 2]
        if self.mirrored:
            seen = np.array([size - 1, 0]) + seen[MIRRORED] * np.array([-1, 1])
        return np.asarray(seen, np.float32)


NO_JITTER = GeometricJitter()


def augment(crop: Image, size: int, rng: np.random.Generator, often: float = 1.0, style: float = 0.0) -> Image:
    """One random view (size, size, 3) of a cached crop (s, s, 3).

    Args:
        crop: What `fervid.training.faces` keeps.
        size: Side of the view.
        rng: Source of all randomness.
        often: Factor of the chances of low resolution, blur, compression and occlusion.
        style: Chance that the face is shown as another data set would show it (`exchange_style`).
    """
    image = frame(crop, size, GeometricJitter.random(rng))
    if style and rng.random() < style:
        image = exchange_style(image, rng)
    return augment_appearance(image, rng, often)


def exchange_style(image: Image, rng: np.random.Generator) -> Image:
    """Show a face in the manner of another data set, so that the look of a set does not tell its classes.

    Colour becomes grey, or grey is tinted; the resolution is reduced; and it is cut at the box. Each happens in two of
    three cases.
    """
    exchanged = rng.random(3) < 2 / 3
    if exchanged[0]:
        image = _tinted(image, rng) if is_grey(image) else to_grey(image)
    if exchanged[1]:
        image = reduce_resolution(image, int(rng.integers(32, 73)))
    if exchanged[2]:
        image = cut_at_box(image, float(rng.uniform(0.9, 1.0)))
    return image


def as_fer2013(image: Image) -> Image:
    """A crop (s, s, 3) as FER2013 would show that face: grey, cut at the box, 48 pixels."""
    return reduce_resolution(cut_at_box(to_grey(image), 0.95), 48)


def to_grey(image: Image) -> Image:
    """The image in three equal channels."""
    return np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)


def is_grey(image: Image) -> bool:
    """Whether the channels are equal."""
    return bool((image[..., 0] == image[..., 2]).all())


def reduce_resolution(image: Image, side: int) -> Image:
    """The image (s, s, 3) averaged down to `side` pixels and scaled up again."""
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_LINEAR), np.uint8)


def cut_at_box(image: Image, fraction: float) -> Image:
    """Repeat the border of the middle of a crop outwards, as where a picture ends at the face.

    Args:
        image: (s, s, 3) a face with the margin of inference around its box.
        fraction: Of the side of the box that is kept.
    """
    side = image.shape[0]
    border = round(side * (1 - fraction / (1 + 2 * MARGIN)) / 2)
    kept = image[border : side - border, border : side - border]
    return np.asarray(cv2.copyMakeBorder(kept, border, border, border, border, cv2.BORDER_REPLICATE), np.uint8)


def _tinted(image: Image, rng: np.random.Generator) -> Image:
    """A grey image with a curve of its own for each channel."""
    ramp = np.linspace(0, 1, 256)[:, None] ** np.exp(rng.uniform(-0.3, 0.3, 3))
    return np.asarray(cv2.LUT(np.ascontiguousarray(image), (ramp * 255).astype(np.uint8)[None]), np.uint8)


def augment_appearance(image: Image, rng: np.random.Generator, often: float = 1.0) -> Image:
    """The light, resolution, blur, compression and occlusion of some video."""
    image = jitter_colour(image, rng)
    if rng.random() < 0.3 * often:
        image = reduce_resolution(image, int(rng.integers(24, 80)))
    image = video_artifacts(image, rng, often)
    if rng.random() < 0.3 * often:
        image = _occlusion(image, rng)
    return np.ascontiguousarray(image)


def video_artifacts(image: Image, rng: np.random.Generator, often: float = 1.0) -> Image:
    """Sometimes the blur of motion, and the blocks of compression."""
    if rng.random() < 0.15 * often:
        image = _motion(image, rng)
    if rng.random() < 0.2 * often:
        image = _compression(image, rng)
    return image


def frame(crop: Image, size: int, placement: GeometricJitter = NO_JITTER) -> Image:
    """What inference would see of a cached crop (s, s, 3), if its detector erred by that much: (size, size, 3)."""
    matrix = placement.matrix(crop.shape[0], size)
    seen = cv2.warpAffine(crop, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(np.ascontiguousarray(seen[:, ::-1]) if placement.mirrored else seen, np.uint8)


def jitter_colour(image: Image, rng: np.random.Generator) -> Image:
    """Contrast, brightness, gamma and white balance by one table a channel; sometimes grey."""
    if rng.random() < 0.2:
        image = to_grey(image)
    grey = is_grey(image)
    ramp = np.linspace(0, 1, 256) ** np.exp(rng.uniform(-0.35, 0.35))
    ramp = (ramp - 0.5) * np.exp(rng.uniform(-0.4, 0.25)) + 0.5 + rng.uniform(-0.12, 0.12)
    balance = np.ones(3) if grey else np.exp(rng.uniform(-0.12, 0.12, 3))
    table = np.clip(ramp[:, None] * balance * 255, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(np.ascontiguousarray(image), table[None]), np.uint8)


def _motion(image: Image, rng: np.random.Generator) -> Image:
    length = int(rng.integers(2, 5)) * 2 + 1
    line = np.zeros((length, length), np.float32)
    angle = rng.uniform(0, np.pi)
    reach = (length // 2) * np.array([np.cos(angle), np.sin(angle)])
    ends = [tuple(int(v) for v in np.rint(length // 2 + sign * reach)) for sign in (-1, 1)]
    cv2.line(line, ends[0], ends[1], 1.0)
    return np.asarray(cv2.filter2D(image, -1, line / line.sum()), np.uint8)


def _compression(image: Image, rng: np.random.Generator) -> Image:
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 80))]
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR), np.uint8)


def _occlusion(image: Image, rng: np.random.Generator) -> Image:
    size = image.shape[0]
    width, height = (rng.uniform(0.12, 0.4, 2) * size).astype(int)
    x, y = int(rng.integers(0, size - width)), int(rng.integers(0, size - height))
    hidden = image.copy()
    hidden[y : y + height, x : x + width] = rng.integers(0, 256, 3) if rng.random() < 0.5 else image.mean(axis=(0, 1))
    return hidden
