"""Still images and animated WebP files, decoded with OpenCV."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import av
import cv2
import numpy as np

from fervid.core.errors import Undecodable
from fervid.core.records import Frame, Image
from fervid.media.container import MAX_FRAME_PIXELS, check_frame_size
from fervid.media.image_header import image_size
from fervid.media.sampling import DecodedFrame, Sampling, reshape, rotate

MAX_IMAGE_BYTES = 8 * MAX_FRAME_PIXELS
"""Bytes of an image file that are read: enough for the largest one in 16 bits without compression."""
_NO_DELAY_MS = 10  # browsers show animation frames with a delay up to this one
_DEFAULT_DELAY_MS = 100  # for this long


def read_image(path: Path, data: bytes, sampling: Sampling) -> Frame:
    """Decode a still image, given the content of its file; `rotate` and `aspect` of the sampling override it.

    Raises:
        FrameTooLarge: The image has more than `MAX_FRAME_PIXELS`.
        Undecodable: The image is damaged.
    """
    flags = cv2.IMREAD_COLOR_RGB | (0 if sampling.rotate is None else cv2.IMREAD_IGNORE_ORIENTATION)
    image = None
    if size := image_size(data):
        check_frame_size(path, *size)
        with suppress(cv2.error):
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise Undecodable(f"{path} starts as an image and cannot be decoded; copy or download it again")
    return Frame(reshape(rotate(np.asarray(image, np.uint8), sampling.rotate or 0), sampling.aspect))


def decode_animation(path: Path, data: bytes, max_bytes: int) -> Generator[DecodedFrame]:
    """Decode every frame of an animated WebP, given the content of its file.

    At most `max_bytes` of frames are decoded at once, as OpenCV keeps all frames of a call in memory.

    Raises:
        FrameTooLarge: The frames have more than `MAX_FRAME_PIXELS`.
        Undecodable: No frame can be decoded.
    """
    size = image_size(data) or (0, 0)
    check_frame_size(path, *size)
    batch_size = max(1, max_bytes // (4 * math.prod(size) + 1))
    start, count = 0.0, 0
    while images := _decode_animation_part(data, count, batch_size):
        for index, (image, delay_ms) in enumerate(images, start=count):
            end = start + (delay_ms if delay_ms > _NO_DELAY_MS else _DEFAULT_DELAY_MS) / 1000
            rgb = np.ascontiguousarray(image[..., 2::-1])
            yield DecodedFrame(av.VideoFrame.from_ndarray(rgb, format="rgb24"), 1.0, start, end, index)
            start = end
        count += len(images)
    if not count:
        raise Undecodable(f"{path} starts as an animation and cannot be decoded; copy or download it again")


def _decode_animation_part(data: bytes, first: int, count: int) -> list[tuple[Image, int]]:
    """Decode some frames, (h, w, 3 or 4) in BGR, with their delays in ms; none after the last frame."""
    with suppress(cv2.error):
        _, animation = cv2.imdecodeanimation(np.frombuffer(data, np.uint8), start=first, count=count)
        return [(np.asarray(image), int(ms)) for image, ms in zip(animation.frames, animation.durations, strict=True)]
    return []
