"""Frames stretched sideways, to find faces in files whose pixel aspect ratio is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace

import numpy as np

from fervid.core.errors import InputError
from fervid.core.records import Face, Frame, Image
from fervid.media.sampling import reshape

STRETCHES = (16 / 9, 9 / 16)  # factors by which the width of a frame is scaled
PROBE_FPS = 1.0  # frame rate at which the factors are tried
_MIN_PROBE_HITS = 2  # frames with a face that a factor needs to be chosen, in clips that have as many


def stretch_frame(frame: Frame, stretch: float) -> Frame:
    """Scale the width of a frame by `stretch`."""
    height, width = frame.image.shape[:2]
    return replace(frame, image=reshape(frame.image, stretch * width / height))


def unstretch_face(face: Face, stretch: float) -> Face:
    """Map a face of a stretched frame to pixels of the original frame."""
    x1, y1, x2, y2 = face.box
    scale = np.array([stretch, 1], np.float32)
    return replace(face, box=(x1 / stretch, y1, x2 / stretch, y2), landmarks=face.landmarks / scale)


def find_stretch(frames: Iterable[Frame], has_face: Callable[[Image], bool]) -> float | None:
    """Return the factor that makes faces visible in most frames; None if none does in enough of them.

    Args:
        frames: Frames of a clip, read until a factor has enough hits; an `InputError` ends them.
        has_face: Whether the detector finds a face in an image.
    """
    count, hits = 0, dict.fromkeys(STRETCHES, 0)
    with suppress(InputError):
        for frame in frames:
            count += 1
            for stretch in STRETCHES:
                hits[stretch] += has_face(stretch_frame(frame, stretch).image)
            if max(hits.values()) >= _MIN_PROBE_HITS:
                break
    best = max(STRETCHES, key=lambda stretch: hits[stretch])
    return best if hits[best] and hits[best] >= min(count, _MIN_PROBE_HITS) else None
