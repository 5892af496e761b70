"""List the images and labels of sets that have some of the eight expressions, one label per face.

RAF-DB (Li, Deng and Du, CVPR 2017) in its official split; four classes of AffectNet at 96 pixels; contempt from a set
of similar style; SFEW and Java-SED. models/README.md has their sources and terms.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fervid.training.ferplus import CLASSES

RAFDB_CLASSES = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
AFFECTNET_FOLDERS = {"fear": "fear", "happy": "happiness", "neutral": "neutral", "sad": "sadness"}
SFEW_FOLDERS = {
    "Angry": "anger",
    "Disgust": "disgust",
    "Fear": "fear",
    "Happy": "happiness",
    "Neutral": "neutral",
    "Sad": "sadness",
    "Surprise": "surprise",
}
JAVASED_CODES = {
    "01": "neutral",
    "02": "sadness",
    "03": "happiness",
    "04": "surprise",
    "05": "fear",
    "06": "anger",
}
JAVASED_ACTORS = ("01", "02", "03", "04", "05")
"""The actors of the development set; the others are reserved for the final test."""
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
AFFECTNET_SIZE = 96  # pixels; contempt is downscaled to it, so that sharpness does not reveal the class

LabelledImages = tuple[list[Path], NDArray[np.int64]]
"""n image files, and (n,) indices into `CLASSES`."""


def list_rafdb(folder: Path, split: str) -> LabelledImages:
    """List the images of RAF-DB basic.

    Args:
        folder: Has `{train,test}_labels.csv` and `aligned/{train,test}/{train,test}_images/`.
        split: `train` (nine tenths of the official training images), `valid` (the other tenth) or `test` (official).

    Raises:
        FileNotFoundError: Images are missing; the message has their number and the first few names.
        ValueError: The table lacks its columns, or labels are not 1 to 7; the message has their number
            and the first few.
    """
    part = "test" if split == "test" else "train"
    table = folder / f"{part}_labels.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"image", "label"} <= rows[0].keys():
        raise ValueError(f"{table} has no columns image,label; copy it again")
    known = {str(number): CLASSES.index(name) for number, name in enumerate(RAFDB_CLASSES, 1)}
    if wrong := [f"{row['image']}: {row['label']}" for row in rows if row["label"] not in known]:
        raise ValueError(f"{table}: {len(wrong)} labels are not 1 to 7, the first: {', '.join(wrong[:3])}")
    chosen = [row for row in rows if split == "test" or _is_valid(row["image"]) == (split == "valid")]
    paths = [folder / "aligned" / part / f"{part}_images" / row["image"] for row in chosen]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise FileNotFoundError(f"{len(missing)} images of {table} are missing, the first: {', '.join(missing[:3])}")
    return paths, np.array([known[row["label"]] for row in chosen])


def list_affectnet(folder: Path, contempt: Path, split: str) -> LabelledImages:
    """List the images of four classes of AffectNet, and of `contempt/` from a set of similar style.

    The split is `train` (nine tenths) or `valid`.

    Raises:
        FileNotFoundError: A folder has no images.
    """
    folders = {folder / name: label for name, label in AFFECTNET_FOLDERS.items()}
    paths, labels = list_folders({**folders, contempt / "contempt": "contempt"})
    chosen = [i for i, path in enumerate(paths) if _is_valid(path.name) == (split == "valid")]
    return [paths[i] for i in chosen], labels[chosen]


def list_sfew(folder: Path) -> LabelledImages:
    """List the film stills of SFEW, used for evaluation only (Dhall et al., ICCVW 2011).

    The folder has a folder per class. Images that occur in two classes are skipped.

    Raises:
        FileNotFoundError: A folder has no images.
    """
    paths, labels = list_folders({folder / name: label for name, label in SFEW_FOLDERS.items()})
    digests = [hashlib.sha256(path.read_bytes()).digest() for path in paths]
    chosen = [i for i, digest in enumerate(digests) if digests.count(digest) == 1]
    return [paths[i] for i in chosen], labels[chosen]


def list_javased(folder: Path) -> tuple[list[Path], NDArray[np.int64], list[str]]:
    """List the clips of the development actors of Java-SED.

    Returns:
        Paths, (n,) indices into `CLASSES`, and the actor of each clip.

    Raises:
        FileNotFoundError: There are no clips of these actors.
    """
    clips = [path for path in sorted(folder.glob("*.mp4")) if path.name[:2] in JAVASED_ACTORS]
    if not clips:
        raise FileNotFoundError(f"{folder} holds no clips of actors 01 to 05, as 01-01-01_01.mp4")
    labels = [CLASSES.index(JAVASED_CODES[path.name.split("-")[2][:2]]) for path in clips]
    return clips, np.array(labels), [path.name[:2] for path in clips]


def list_folders(folders: Mapping[Path, str]) -> LabelledImages:
    """List the images of folders with their class, sorted by name within each folder.

    Raises:
        FileNotFoundError: A folder has no images.
    """
    paths: list[Path] = []
    labels: list[int] = []
    for folder, label in folders.items():
        images = sorted(path for path in folder.glob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        if not images:
            raise FileNotFoundError(f"{folder} holds no images; models/README.md says where they come from")
        paths += images
        labels += [CLASSES.index(label)] * len(images)
    return paths, np.array(labels)


def to_votes(labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Convert indices (n,) into `CLASSES` to one-hot rows (n, 8)."""
    return np.eye(len(CLASSES), dtype=np.float32)[labels]


def _is_valid(name: str) -> bool:
    """Check whether an image belongs to the validation tenth."""
    return hashlib.sha256(name.encode()).digest()[0] % 10 == 1
