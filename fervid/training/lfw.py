"""Read the verification pairs of Labeled Faces in the Wild, used to test identities only (Huang et al., 2007).

The folder has images as `PERSON/PERSON_NNNN.jpg`, at any depth. `pairs.txt` has ten folds of 300 pairs of the same
person and 300 pairs of different people (the file of the unrestricted protocol).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fervid.core.records import Face, FloatArray, Image
from fervid.training.faces import crop_all
from fervid.training.ferplus import stills_detector

MIN_FACE = 50  # pixels, in images of 250


@dataclass(frozen=True, slots=True)
class Pair:
    """Two images by name, whether they show the same person, and their fold."""

    first: str
    second: str
    same: bool
    fold: int


def read_pairs(path: Path) -> list[Pair]:
    """Read the pairs in the order of the file.

    Raises:
        ValueError: A line is neither `person n m` nor `person n person m`, or the file does not have the
            number of lines in its header.
    """
    lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    header = lines.pop(0) if lines else []
    if len(header) != 2 or not all(number.isdecimal() for number in header):
        raise ValueError(f"{path} does not begin with the numbers of folds and of pairs in each; copy it again")
    folds, half = (int(number) for number in header)
    if len(lines) != folds * half * 2:
        raise ValueError(f"{path} announces {folds * half * 2} pairs and has {len(lines)}; copy it again")
    pairs = []
    for number, line in enumerate(lines):
        if len(line) not in (3, 4) or not (line[1].isdecimal() and line[-1].isdecimal()):
            raise ValueError(f"{path}: {' '.join(line)!r} names no pair")
        person, one, *other = line
        who, two = other if len(other) == 2 else (person, other[0])
        first, second = f"{person}_{int(one):04d}.jpg", f"{who}_{int(two):04d}.jpg"
        pairs.append(Pair(first, second, len(line) == 3, number // (half * 2)))
    return pairs


def crop_images(folder: Path, names: list[str], size: int, margin: float) -> tuple[Image, float]:
    """Crop the images with these names (n, size, size, 3), and compute the fraction with a detected face.

    Raises:
        FileNotFoundError: Images are missing; the message has their number and the first few names.
        ValueError: Images are damaged.
    """
    paths = {path.name: path for path in folder.rglob("*.jpg")}
    if missing := [name for name in names if name not in paths]:
        raise FileNotFoundError(
            f"{len(missing)} pictures are missing below {folder}, the first: {', '.join(missing[:3])}"
        )
    find_face = make_central_face_finder()
    found: list[bool] = []

    def locate(image: Image) -> Face:
        face = find_face(image)
        found.append(face is not None)
        return face or _default_face(image)

    crops, _ = crop_all([paths[name] for name in names], locate, size, margin)
    return np.stack(crops), sum(found) / len(names)


def make_central_face_finder() -> Callable[[Image], Face | None]:
    """Make a function that detects the face nearest to the centre of an image, which is the labelled one."""
    detector = stills_detector(MIN_FACE)

    def find(image: Image) -> Face | None:
        height, width = image.shape[:2]

        def distance(face: Face) -> float:
            x1, y1, x2, y2 = face.box
            return abs(x1 + x2 - width) + abs(y1 + y2 - height)

        return min(detector.detect(image), key=distance, default=None)

    return find


def _default_face(image: Image) -> Face:
    """Return the usual position of the face in LFW's funneled images, for images without a detected face."""
    height, width = image.shape[:2]
    eyes = np.array([[0.42, 0.46], [0.58, 0.46]], np.float32) * (width, height)
    return Face((0.31 * width, 0.31 * height, 0.69 * width, 0.69 * height), eyes.astype(np.float32), 0.0)


def correct_pairs(similarity: FloatArray, pairs: list[Pair]) -> NDArray[np.bool_]:
    """Classify pairs by similarity (n,) with the threshold that is best on the other folds; return which are right."""
    same, fold = np.array([p.same for p in pairs]), np.array([p.fold for p in pairs])
    right = np.zeros(len(pairs), bool)
    for number in np.unique(fold):
        tested = fold == number
        candidates = np.unique(similarity[~tested])
        others = np.sort(similarity[~tested & same]), np.sort(similarity[~tested & ~same])
        correct = len(others[0]) - np.searchsorted(others[0], candidates) + np.searchsorted(others[1], candidates)
        right[tested] = (similarity[tested] >= candidates[correct.argmax()]) == same[tested]
    return right
