"""Read FER+: the images of FER2013 with the votes of ten annotators (Barsoum et al., arXiv 1608.01041).

The folder holds `fer2013new.csv` (microsoft/FERPlus) and `data/FER2013{Train,Valid,Test}/ferNNNNNNN.png`
(tessav/crowd-emotion). The original labels of FER2013 come with other copies of the same images, in folders by label
(darkbit404/FaceExp), which are matched by their pixels.
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
FER2013_FOLDERS = {  # class -> folder; FER2013 has no contempt
    "anger": "angry",
    "disgust": "disgust",
    "fear": "fear",
    "happiness": "happy",
    "neutral": "neutral",
    "sadness": "sad",
    "surprise": "surprise",
}
MAX_COPY_DIFFERENCE = 5.0  # maximum mean difference of two copies, in grey levels
BORDER = 0.25  # added around the tightly cropped images for the detector, as a fraction of their side


@dataclass(frozen=True, slots=True, eq=False)
class FerPlus:
    """One split: n images, each with one face and its votes.

    Attributes:
        images: (n, 48, 48, 3) uint8, grey in three equal channels.
        faces: The detected faces; the median face of the split where none is detected.
        votes: (n, 8) fractions of the votes in the order of `CLASSES`; rows sum to 1.
        detected: (n,) whether the face was detected.
        names: File names of the images.
    """

    images: NDArray[np.uint8]
    faces: list[Face]
    votes: FloatArray
    detected: NDArray[np.bool_]
    names: tuple[str, ...]

    @property
    def majority(self) -> NDArray[np.bool_]:
        """Whether one class has more than half of the votes (n,)."""
        return np.asarray(self.votes.max(axis=1) > 0.5)

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class with the most votes (n,)."""
        return np.asarray(self.votes.argmax(axis=1))


def read_votes(folder: Path) -> dict[str, dict[str, FloatArray]]:
    """Read the votes by split and file name, cleaned as by the FER+ authors.

    Single votes are removed; rows whose largest count is "unknown" or "not a face" are dropped.
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
    """Read one split and detect its faces.

    The splits are `Training`, `PublicTest` (validation) and `PrivateTest` (test). Training images with the same pixels
    as an image of the other splits are dropped.

    Raises:
        FileNotFoundError: Images are missing; the message has their number and the first few names.
        ValueError: An image is damaged, or no face is detected in any image.
    """
    votes = read_votes(folder)
    missing = [
        path for name, names in votes.items() for path in _paths(folder, name, list(names)) if not path.is_file()
    ]
    if missing:
        first = ", ".join(str(path) for path in missing[:3])
        raise FileNotFoundError(f"{len(missing)} images are missing below {folder}, the first: {first}")

    def pixels(path: Path) -> Image:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None or image.shape != (48, 48, 3):
            raise ValueError(f"{path} is damaged: expected an image of 48x48 pixels; copy it again")
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
        detections = list(pool.map(lambda image: detect_face(image, detector), images))
    if not any(detections):
        raise ValueError(f"no face was found in the {len(detections)} images of {split}; copy them again")
    typical = median_face([face for face in detections if face is not None])
    return FerPlus(
        np.stack(images),
        [face or typical for face in detections],
        np.stack(kept),
        np.array([face is not None for face in detections]),
        tuple(names),
    )


def fer2013_labels(folder: Path, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Find the original FER2013 labels (n,) of images: indices into `CLASSES`, -1 without a matching copy.

    Args:
        folder: Folder with the folders of `FER2013_FOLDERS`; the size and order of their images do not matter.
        images: (n, 48, 48, 3) images of FER+.

    Raises:
        FileNotFoundError: The folder has no images.
        ValueError: Images are damaged; the message has their number and the first few names.
    """
    copies, labels, damaged = [], [], []
    for label, name in FER2013_FOLDERS.items():
        for path in sorted((folder / name).glob("*.jpg")):
            if (copy := cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)) is None:
                damaged.append(str(path))
                continue
            copies.append(cv2.resize(copy, images.shape[1:3], interpolation=cv2.INTER_AREA).ravel())
            labels.append(CLASSES.index(label))
    if damaged:
        raise ValueError(f"{len(damaged)} images below {folder} are damaged, the first: {', '.join(damaged[:3])}")
    if not copies:
        raise FileNotFoundError(f"{folder} has no images in folders {', '.join(FER2013_FOLDERS.values())}")
    candidates = np.stack(copies).astype(np.float32)
    length = np.square(candidates).sum(axis=1)
    result = np.full(len(images), -1)
    for start in range(0, len(images), 1024):
        queries = images[start : start + 1024, ..., 0].reshape(-1, candidates.shape[1]).astype(np.float32)
        nearest = (length - 2 * queries @ candidates.T).argmin(axis=1)
        same = np.abs(candidates[nearest] - queries).mean(axis=1) < MAX_COPY_DIFFERENCE
        result[start : start + len(queries)] = np.where(same, np.array(labels)[nearest], -1)
    return result


def stills_detector(min_face: int = 6) -> Detector:
    """Load the shipped detector for tightly cropped images of one face, at least `min_face` pixels large."""
    model = registry.load_model(registry.DEFAULTS["detector"], "detector")
    return Detector(model.session, {**model.card, "threshold": 0.5}, min_face)


def detect_face(image: Image, detector: Detector) -> Face | None:
    """Detect the main face of a tightly cropped image, in its pixels; None if there is none."""
    border = round(max(image.shape[:2]) * BORDER)
    padded = cv2.copyMakeBorder(image, border, border, border, border, cv2.BORDER_REPLICATE)
    faces = detector.detect(np.asarray(padded, np.uint8))
    if not faces:
        return None
    x1, y1, x2, y2 = (v - border for v in faces[0].box)
    return Face((x1, y1, x2, y2), faces[0].landmarks - border, faces[0].score)


def median_face(faces: Sequence[Face]) -> Face:
    """Compute the median of boxes and landmarks."""
    x1, y1, x2, y2 = (float(v) for v in np.median([face.box for face in faces], axis=0))
    return Face((x1, y1, x2, y2), np.median([face.landmarks for face in faces], axis=0).astype(np.float32), 0.0)


def _paths(folder: Path, split: str, names: list[str]) -> list[Path]:
    return [folder / "data" / SPLITS[split] / name for name in names]


def _digest(image: Image) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()
