"""Augment cached crops: geometric jitter, colour, low resolution, blur, compression and occlusion.

Probabilities and ranges imitate inference on video: the detector's boxes are off by a few per cent, faces are often
smaller than the network's input, and the video is compressed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fervid.analysis.align import MARGIN
from fervid.core.records import FloatArray, Image
from fervid.training.faces import CROP_FRACTION

MIRRORED = [1, 0, 2, 3, 5, 4]
"""The order of eyes, nose, mouth and ears in a mirrored image."""


@dataclass(frozen=True, slots=True)
class GeometricJitter:
    """A geometric transform of a crop, which imitates errors of the detector.

    Attributes:
        roll: Rotation in degrees.
        zoom: Scale; above 1 the face is larger.
        right: Horizontal shift as a fraction of the side.
        down: Vertical shift as a fraction of the side.
        mirrored: Whether the result is mirrored horizontally.
    """

    roll: float = 0.0
    zoom: float = 1.0
    right: float = 0.0
    down: float = 0.0
    mirrored: bool = False

    @classmethod
    def random(cls, rng: np.random.Generator) -> GeometricJitter:
        """Sample a transform."""
        roll, zoom = rng.uniform(-15, 15), np.exp(rng.uniform(-0.15, 0.15))
        right, down = rng.uniform(-0.05, 0.05, 2)
        return cls(float(roll), float(zoom), float(right), float(down), bool(rng.random() < 0.5))

    def affine_matrix(self, side: int, size: int) -> NDArray[np.float64]:
        """Compute the affine matrix (2, 3) from a cached crop to a view of `size` pixels, without mirroring."""
        scale = size / (side * CROP_FRACTION) * self.zoom
        angle = np.deg2rad(self.roll)
        cos, sin = scale * np.cos(angle), scale * np.sin(angle)
        centre, middle = (side - 1) / 2, (size - 1) / 2
        right, down = self.right * size + middle, self.down * size + middle
        return np.array([[cos, sin, right - (cos + sin) * centre], [-sin, cos, down - (cos - sin) * centre]])

    def transform_landmarks(self, landmarks: FloatArray, side: int, size: int) -> FloatArray:
        """Transform eyes, nose, mouth and ears (6, 2) from pixels of a cached crop to pixels of the view."""
        matrix = self.affine_matrix(side, size)
        result = landmarks @ matrix[:, :2].T + matrix[:, 2]
        if self.mirrored:
            result = np.array([size - 1, 0]) + result[MIRRORED] * np.array([-1, 1])
        return np.asarray(result, np.float32)


NO_JITTER = GeometricJitter()


def augment(crop: Image, size: int, rng: np.random.Generator, strength: float = 1.0, style: float = 0.0) -> Image:
    """Make a random view (size, size, 3) of a cached crop (s, s, 3).

    Args:
        crop: Crop of `fervid.training.faces`.
        size: Side of the view.
        rng: Random generator.
        strength: Factor of the probabilities of low resolution, blur, compression and occlusion.
        style: Probability of `exchange_style`.
    """
    image = crop_to_input(crop, size, GeometricJitter.random(rng))
    if style and rng.random() < style:
        image = exchange_style(image, rng)
    return augment_appearance(image, rng, strength)


def exchange_style(image: Image, rng: np.random.Generator) -> Image:
    """Give a face the style of another data set, so that the style of a set does not predict its classes.

    Colour becomes grey or grey is tinted, the resolution is reduced, and the surroundings are cropped; each with a
    probability of 2/3.
    """
    changes = rng.random(3) < 2 / 3
    if changes[0]:
        image = _tint(image, rng) if is_grey(image) else to_grey(image)
    if changes[1]:
        image = reduce_resolution(image, int(rng.integers(32, 73)))
    if changes[2]:
        image = crop_at_box(image, float(rng.uniform(0.9, 1.0)))
    return image


def simulate_fer2013(image: Image) -> Image:
    """Give a crop (s, s, 3) the style of FER2013: grey, cropped at the box, 48 pixels."""
    return reduce_resolution(crop_at_box(to_grey(image), 0.95), 48)


def to_grey(image: Image) -> Image:
    """Convert to grey in three equal channels."""
    return np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)


def is_grey(image: Image) -> bool:
    """Check whether the channels are equal."""
    return bool((image[..., 0] == image[..., 2]).all())


def reduce_resolution(image: Image, side: int) -> Image:
    """Downscale an image (s, s, 3) to `side` pixels and back."""
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_LINEAR), np.uint8)


def crop_at_box(image: Image, fraction: float) -> Image:
    """Replace the surroundings of a face by replicated borders, as if the image ended at the box.

    Args:
        image: (s, s, 3) crop with the margin of inference around the box.
        fraction: Fraction of the side of the box that is kept.
    """
    side = image.shape[0]
    border = round(side * (1 - fraction / (1 + 2 * MARGIN)) / 2)
    kept = image[border : side - border, border : side - border]
    return np.asarray(cv2.copyMakeBorder(kept, border, border, border, border, cv2.BORDER_REPLICATE), np.uint8)


def _tint(image: Image, rng: np.random.Generator) -> Image:
    """Apply a random gamma per channel to a grey image."""
    ramp = np.linspace(0, 1, 256)[:, None] ** np.exp(rng.uniform(-0.3, 0.3, 3))
    return np.asarray(cv2.LUT(np.ascontiguousarray(image), (ramp * 255).astype(np.uint8)[None]), np.uint8)


def augment_appearance(image: Image, rng: np.random.Generator, strength: float = 1.0) -> Image:
    """Randomly change colour, resolution, blur, compression and occlusion."""
    image = jitter_colour(image, rng)
    if rng.random() < 0.3 * strength:
        image = reduce_resolution(image, int(rng.integers(24, 80)))
    if rng.random() < 0.15 * strength:
        image = _motion_blur(image, rng)
    if rng.random() < 0.2 * strength:
        image = _jpeg_compress(image, rng)
    if rng.random() < 0.3 * strength:
        image = _occlude(image, rng)
    return np.ascontiguousarray(image)


def crop_to_input(crop: Image, size: int, jitter: GeometricJitter = NO_JITTER) -> Image:
    """Cut the input (size, size, 3) of inference out of a cached crop (s, s, 3), with jitter."""
    matrix = jitter.affine_matrix(crop.shape[0], size)
    view = cv2.warpAffine(crop, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(np.ascontiguousarray(view[:, ::-1]) if jitter.mirrored else view, np.uint8)


def crops_to_inputs(crops: Iterable[Image], size: int) -> Image:
    """Cut the inputs (n, size, size, 3) of inference out of cached crops, without jitter."""
    return np.array([crop_to_input(crop, size) for crop in crops], np.uint8).reshape(-1, size, size, 3)


def jitter_colour(image: Image, rng: np.random.Generator) -> Image:
    """Randomly change contrast, brightness, gamma and white balance; sometimes convert to grey."""
    if rng.random() < 0.2:
        image = to_grey(image)
    grey = is_grey(image)
    ramp = np.linspace(0, 1, 256) ** np.exp(rng.uniform(-0.35, 0.35))
    ramp = (ramp - 0.5) * np.exp(rng.uniform(-0.4, 0.25)) + 0.5 + rng.uniform(-0.12, 0.12)
    balance = np.ones(3) if grey else np.exp(rng.uniform(-0.12, 0.12, 3))
    table = np.clip(ramp[:, None] * balance * 255, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(np.ascontiguousarray(image), table[None]), np.uint8)


def _motion_blur(image: Image, rng: np.random.Generator) -> Image:
    length = int(rng.integers(2, 5)) * 2 + 1
    line = np.zeros((length, length), np.float32)
    angle = rng.uniform(0, np.pi)
    reach = (length // 2) * np.array([np.cos(angle), np.sin(angle)])
    ends = [tuple(int(v) for v in np.rint(length // 2 + sign * reach)) for sign in (-1, 1)]
    cv2.line(line, ends[0], ends[1], 1.0)
    return np.asarray(cv2.filter2D(image, -1, line / line.sum()), np.uint8)


def _jpeg_compress(image: Image, rng: np.random.Generator) -> Image:
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 80))]
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR), np.uint8)


def _occlude(image: Image, rng: np.random.Generator) -> Image:
    size = image.shape[0]
    width, height = (rng.uniform(0.12, 0.4, 2) * size).astype(int)
    x, y = int(rng.integers(0, size - width)), int(rng.integers(0, size - height))
    occluded = image.copy()
    occluded[y : y + height, x : x + width] = rng.integers(0, 256, 3) if rng.random() < 0.5 else image.mean(axis=(0, 1))
    return occluded
