"""Read a user's own labelled faces: a folder per class, and faces without a label in `unlabelled/`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fervid.learn import clip_files
from fervid.training import expression_sets
from fervid.training.expression_sets import LabelledImages
from fervid.training.faces import MIN_CLOSE_FACE, ExpressionSet, FaceDataset, crop_all, make_close_face_finder
from fervid.training.ferplus import CLASSES

UNLABELLED = "unlabelled"
MIN_FACES = 10  # per class
VALID_FRACTION = 5  # a fifth of each class


@dataclass(frozen=True, slots=True, eq=False)
class OwnFaces:
    """The faces of a folder.

    Attributes:
        train: Training faces of the classes.
        valid: Validation faces: a fifth of each class.
        unlabelled: Faces without a label; may be empty.
        without_face: Images that were left out, because no face was found.
    """

    train: ExpressionSet
    valid: FaceDataset
    unlabelled: FaceDataset
    without_face: tuple[Path, ...]

    @classmethod
    def read(cls, folder: Path) -> OwnFaces:
        """Read the images of a folder and crop their faces.

        Raises:
            DatasetError: The folder cannot be read.
            ValueError: A folder is not named after a class, images are damaged, or a class has fewer than `MIN_FACES`
                faces.
        """
        paths, labels = list_images(folder)
        crops, rows = crop_all(paths, make_close_face_finder(MIN_CLOSE_FACE))
        found, labels, with_face = [paths[i] for i in rows], labels[rows], set(rows)
        _check_counts(folder, found)
        votes = expression_sets.to_votes(labels) * (labels >= 0)[:, None]
        faces, is_valid = FaceDataset.from_labels(crops, votes=votes), choose_validation(found, labels)
        return cls(
            ExpressionSet.from_faces(faces[(labels >= 0) & ~is_valid]),
            faces[is_valid],
            faces[labels < 0],
            tuple(path for i, path in enumerate(paths) if i not in with_face),
        )

    @property
    def training(self) -> FaceDataset:
        """All faces of training: those with a label, then those without."""
        return FaceDataset.concat([self.train.faces, self.unlabelled])

    def counts(self) -> dict[str, Any]:
        """Count training and validation faces by class, faces without a label, and images without a face."""
        by_class = {
            name: {label: int(count) for label, count in zip(CLASSES, faces.votes.sum(axis=0), strict=True) if count}
            for name, faces in (("training", self.train.faces), ("validation", self.valid))
        }
        return {**by_class, UNLABELLED: len(self.unlabelled), "without_face": len(self.without_face)}


def list_images(folder: Path) -> LabelledImages:
    """List the images of each class folder and of `unlabelled/`.

    Returns:
        n image files, and (n,) indices into `CLASSES`, -1 for images without a label.

    Raises:
        DatasetError: A folder cannot be read.
        ValueError: A folder has another name, or fewer than two are classes.
    """
    names = [path.name for path in clip_files.list_folders(folder)]
    if unknown := [name for name in names if name not in (*CLASSES, UNLABELLED)]:
        raise ValueError(
            f"{folder} has folders that are no class: {', '.join(unknown)}; name them {', '.join(CLASSES)} or"
            f" {UNLABELLED}, or move them (published data sets need --weights)"
        )
    if len({*names} - {UNLABELLED}) < 2:
        raise ValueError(f"{folder} needs two or more folders of images that are named {', '.join(CLASSES)}")
    images = [(path, name) for name in names for path in clip_files.frame_files(folder / name)]
    labels = [CLASSES.index(name) if name in CLASSES else -1 for _, name in images]
    return [path for path, _ in images], np.array(labels, np.int64)


def choose_validation(paths: Sequence[Path], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Choose a part of each class for validation (n,), by a hash of folder and file name; of labels below 0 none."""
    order = np.argsort([hashlib.sha256(f"{path.parent.name}/{path.name}".encode()).hexdigest() for path in paths])
    chosen = np.zeros(len(paths), bool)
    for label in np.unique(labels[labels >= 0]):
        rows = order[labels[order] == label]
        chosen[rows[: len(rows) // VALID_FRACTION]] = True
    return chosen


def _check_counts(folder: Path, found: Sequence[Path]) -> None:
    """Raise if a class folder has too few images with a face."""
    names = [path.parent.name for path in found]
    classes = [name for name in CLASSES if (folder / name).is_dir()]
    if few := [f"{name} {names.count(name)}" for name in classes if names.count(name) < MIN_FACES]:
        raise ValueError(
            f"{folder}: too few images with a face ({', '.join(few)}); each class needs {MIN_FACES} or more, in which"
            f" the face is at least {MIN_CLOSE_FACE} pixels large: add some, or move the class to another folder"
        )
