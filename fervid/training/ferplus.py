"""FER+ from its two public parts: the pictures of FER2013 and the votes of ten annotators (Barsoum et al., 1608.01041).

The folder holds `fer2013new.csv` (microsoft/FERPlus) and `data/FER2013{Train,Valid,Test}/ferNNNNNNN.png`
(tessav/crowd-emotion). The labels that FER2013 had before the votes come with other copies of the same pictures, in
folders by label (darkbit404/FaceExp), and are found again by their pixels.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fervid.analysis.detector import Detector
from fervid.core.records import Face, FloatArray, Image
from fervid.models import registry

CLASSES = ("anger", "contempt", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
COLUMNS = ("anger", "contempt", "disgust", "fear", "happiness", "neutral", "sadness", "surprise", "unknown", "NF")
SPLITS = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}
FIRST_FOLDERS = {  # class -> folder of the pictures that bore it first; contempt was not among them
    "anger": "angry",
    "disgust": "disgust",
    "fear": "fear",
    "happiness": "happy",
    "neutral": "neutral",
    "sadness": "sad",
    "surprise": "surprise",
}
SAME_PICTURE = 5.0  # grey levels of mean difference between two copies of a picture
BORDER = 0.25  # the pictures are cut so close that the detector needs room around them, as a share of their side


@dataclass(frozen=True, slots=True, eq=False)
class FerPlus:
    """One split: n pictures, each with one face and the annotators' votes.

    Attributes:
        images: (n, 48, 48, 3) uint8, grey in three equal channels.
        faces: Where the ordinary detector finds the face; the median face of the split where it finds none.
        votes: (n, 8) shares in the order of `CLASSES`, each row summing to 1.
        found: (n,) whether the detector found the face.
        names: The file name of each picture.
    """

    images: NDArray[np.uint8]
    faces: list[Face]
    votes: FloatArray
    found: NDArray[np.bool_]
    names: tuple[str, ...]

    @property
    def majority(self) -> NDArray[np.bool_]:
        """(n,) whether one class has more than half of the votes."""
        return np.asarray(self.votes.max(axis=1) > 0.5)

    @property
    def labels(self) -> NDArray[np.int64]:
        """(n,) the class with the most votes."""
        return np.asarray(self.votes.argmax(axis=1))


def read_votes(folder: Path) -> dict[str, dict[str, FloatArray]]:
    """Split -> picture name -> votes, cleaned as the FER+ authors do.

    Single stray votes count as none; a row whose largest count is "unknown" or "not a face" is left out.
    """
    splits: dict[str, dict[str, FloatArray]] = {split: {} for split in SPLITS}
    with (folder / "fer2013new.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            counts = np.array([float(row[column]) for column in COLUMNS], np.float32)
            counts[counts <= 1] = 0
            if row["Image name"] and counts.sum() > 0 and counts.argmax() < len(CLASSES):
                votes = counts[: len(CLASSES)]
                splits[row["Usage"]][row["Image name"]] = votes / votes.sum()
    return splits


def read_split(folder: Path, split: str, detector: Detector) -> FerPlus:
    """Read one split, the faces found by the ordinary detector.

    Training pictures whose pixels occur in the other splits are left out.

    Args:
        folder: Where the two parts lie.
        split: `Training`, `PublicTest` (to validate on) or `PrivateTest` (to report).
        detector: The detector of inference.

    Raises:
        FileNotFoundError: Pictures that the votes name are missing; all are counted, the first few named.
    """
    votes = read_votes(folder)
    missing = [
        path for name, names in votes.items() for path in _paths(folder, name, list(names)) if not path.is_file()
    ]
    if missing:
        first = ", ".join(str(path) for path in missing[:3])
        raise FileNotFoundError(f"{len(missing)} pictures are missing below {folder}, the first: {first}")

    def pixels(path: Path) -> Image:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None or image.shape != (48, 48, 3):
            raise ValueError(f"{path} is damaged: it should be a picture of 48x48; copy it again")
        return np.asarray(image, np.uint8)

    seen: set[bytes] = set()
    if split == "Training":
        for other in ("PublicTest", "PrivateTest"):
            seen |= {_digest(pixels(path)) for path in _paths(folder, other, list(votes[other]))}
    images, kept, names = [], [], []
    for name, path in zip(votes[split], _paths(folder, split, list(votes[split])), strict=True):
        image = pixels(path)
        if _digest(image) not in seen:
            images.append(image)
            kept.append(votes[split][name])
            names.append(name)

    with ThreadPoolExecutor(cv2.getNumberOfCPUs()) as pool:
        found = list(pool.map(lambda image: detect_face(image, detector), images))
    if not any(found):
        raise ValueError(f"no face was found in the {len(found)} pictures of {split}; copy them again")
    typical = median_face([face for face in found if face is not None])
    return FerPlus(
        np.stack(images),
        [face or typical for face in found],
        np.stack(kept),
        np.array([face is not None for face in found]),
        tuple(names),
    )


def fer2013_labels(folder: Path, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The label in FER2013, before the votes, of each picture: (n,) numbers of `CLASSES`, -1 where no copy is found.

    Args:
        folder: Holds the folders of `FIRST_FOLDERS`, in any size and order of pictures.
        images: (n, 48, 48, 3) pictures of FER+.

    Raises:
        FileNotFoundError: The folder holds no pictures.
        ValueError: Pictures are damaged; all are counted, the first few named.
    """
    copies, labels, damaged = [], [], []
    for label, name in FIRST_FOLDERS.items():
        for path in sorted((folder / name).glob("*.jpg")):
            if (copy := cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)) is None:
                damaged.append(str(path))
                continue
            copies.append(cv2.resize(copy, images.shape[1:3], interpolation=cv2.INTER_AREA).ravel())
            labels.append(CLASSES.index(label))
    if damaged:
        raise ValueError(f"{len(damaged)} pictures below {folder} are damaged, the first: {', '.join(damaged[:3])}")
    if not copies:
        raise FileNotFoundError(f"{folder} holds no folders {', '.join(FIRST_FOLDERS.values())} of pictures")
    known = np.stack(copies).astype(np.float32)
    length = np.square(known).sum(axis=1)
    found = np.full(len(images), -1)
    for start in range(0, len(images), 1024):
        wanted = images[start : start + 1024, ..., 0].reshape(-1, known.shape[1]).astype(np.float32)
        nearest = (length - 2 * wanted @ known.T).argmin(axis=1)
        same = np.abs(known[nearest] - wanted).mean(axis=1) < SAME_PICTURE
        found[start : start + len(wanted)] = np.where(same, np.array(labels)[nearest], -1)
    return found


def stills_detector(min_face: int = 6) -> Detector:
    """The shipped detector, set to find the one face of a closely cut picture, at least that many pixels large."""
    found = registry.load_model(registry.DEFAULTS["detector"], "detector")
    return Detector(found.session, {**found.card, "threshold": 0.5}, min_face)


def detect_face(image: Image, detector: Detector) -> Face | None:
    """The main face of a closely cut picture, in its own pixels; None if the detector finds none."""
    border = round(max(image.shape[:2]) * BORDER)
    padded = cv2.copyMakeBorder(image, border, border, border, border, cv2.BORDER_REPLICATE)
    faces = detector(np.asarray(padded, np.uint8))
    if not faces:
        return None
    x1, y1, x2, y2 = (v - border for v in faces[0].box)
    return Face((x1, y1, x2, y2), faces[0].landmarks - border, faces[0].score)


def median_face(faces: Sequence[Face]) -> Face:
    """The median of boxes and landmarks."""
    x1, y1, x2, y2 = (float(v) for v in np.median([face.box for face in faces], axis=0))
    return Face((x1, y1, x2, y2), np.median([face.landmarks for face in faces], axis=0).astype(np.float32), 0.0)


def _paths(folder: Path, split: str, names: list[str]) -> list[Path]:
    return [folder / "data" / SPLITS[split] / name for name in names]


def _digest(image: Image) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()
