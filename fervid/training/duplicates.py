"""Find exact and near duplicates of faces between two sets, to keep test faces out of training sets.

A perceptual hash (the signs of low frequencies, Zauner 2010, section 3.2.1) selects candidate pairs; the correlation of
downscaled images confirms them.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from fervid.core.records import FloatArray, Image

SIDE = 32  # pixels, of the downscaled images
FREQUENCIES = 8
MAX_DISTANCE = 8  # of 64 bits
MIN_CORRELATION = 0.97
ROWS = 2048  # compared at a time


def find_duplicates(faces: Image, others: Image) -> NDArray[np.int64]:
    """Find for each face its most similar duplicate among other faces.

    Args:
        faces: (n, s, s, 3) uint8 crops, all made in the same way.
        others: (m, s, s, 3).

    Returns:
        (n,) indices into `others`, -1 without a duplicate.
    """
    reduced, reduced_others = _reduce(faces), _reduce(others)
    hashes, other_hashes = _hash(reduced), _hash(reduced_others)
    units, other_units = _standardise(reduced), _standardise(reduced_others)
    found = np.full(len(faces), -1)
    best = np.full(len(faces), MIN_CORRELATION, np.float32)
    for start in range(0, len(hashes), ROWS):
        close = np.bitwise_count(hashes[start : start + ROWS, None] ^ other_hashes) <= MAX_DISTANCE
        for row, other in zip(*np.nonzero(close), strict=True):
            correlation = float(units[start + row] @ other_units[other])
            if correlation >= best[start + row]:
                found[start + row], best[start + row] = other, correlation
    return found


def _reduce(faces: Image) -> FloatArray:
    """Downscale faces to grey images (n, SIDE, SIDE)."""
    grey = [
        cv2.cvtColor(cv2.resize(face, (SIDE, SIDE), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY) for face in faces
    ]
    return np.asarray(grey, np.float32).reshape(-1, SIDE, SIDE)


def _hash(reduced: FloatArray) -> NDArray[np.uint64]:
    """Compute hashes (n,) of 64 bits: whether each low frequency is above their median."""
    low = np.array([cv2.dct(image)[:FREQUENCIES, :FREQUENCIES].ravel() for image in reduced]).reshape(
        -1, FREQUENCIES**2
    )
    bits = low > np.median(low[:, 1:], axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64).ravel()


def _standardise(reduced: FloatArray) -> FloatArray:
    """Scale rows (n, SIDE * SIDE) to mean 0 and length 1, so that their dot products are correlations."""
    rows = reduced.reshape(-1, SIDE**2)
    rows = rows - rows.mean(axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6), np.float32)
