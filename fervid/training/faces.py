"""Readers of all data sets: face crops with the labels of each set.

Faces are detected by the shipped detector and cropped by `fervid.analysis.align` as at inference, but with a larger
margin (`MARGIN`), so that `fervid.training.augment` can shift, rotate and scale them. Crops are cached under a name
that depends on the images, the detector and the crop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fervid.analysis import align
from fervid.analysis.detector import Detector
from fervid.core.array_cache import dataclass_arrays, digest, load_or_compute
from fervid.core.records import Face, FloatArray, Image
from fervid.models import registry
from fervid.training import expression_sets, ferplus, utkface
from fervid.training.dataset_paths import DatasetPaths
from fervid.training.duplicates import find_duplicates
from fervid.training.ferplus import CLASSES

SIDE = 144
MARGIN = 0.3  # on each side of the box, as a fraction of its longer side
CROP_FRACTION = (1 + 2 * align.MARGIN) / (1 + 2 * MARGIN)
"""Side of the inference crop as a fraction of that of a cached crop."""
PHOTO_SIDE = 512  # pixels; larger images are downscaled to save time
MIN_CLOSE_FACE = 30  # pixels, in images of about 100 that a face fills
MIN_FRAME_FACE = 32  # pixels, in film frames
UNKNOWN = -1


@dataclass(frozen=True, slots=True, eq=False)
class FaceDataset:
    """n faces with partial labels; -1 means unknown.

    Attributes:
        crops: (n, SIDE, SIDE, 3) uint8 RGB.
        votes: (n, 8) fractions of the votes in the order of `CLASSES`, rows of zeros where unknown.
        first: (n,) FER2013 label, index into `CLASSES`.
        age: (n,) years.
        gender: (n,) 0 male, 1 female, as in UTKFace.
        ethnicity: (n,) 0 to 4 in UTKFace's order.
        person: (n,) number of the person.
    """

    crops: NDArray[np.uint8]
    votes: FloatArray
    first: NDArray[np.int64]
    age: NDArray[np.int64]
    gender: NDArray[np.int64]
    ethnicity: NDArray[np.int64]
    person: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, rows: slice | NDArray[np.bool_]) -> FaceDataset:
        """Select rows."""
        return FaceDataset(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def from_labels(cls, crops: Sequence[Image], **labels: NDArray[np.generic]) -> FaceDataset:
        """Make a data set with the given labels; all others are unknown."""
        count = len(crops)
        columns = {name: labels.get(name, np.full(count, UNKNOWN)) for name in cls.__slots__[2:]}
        votes = labels.get("votes", np.zeros((count, len(CLASSES)), np.float32))
        return cls(
            np.stack(crops), np.asarray(votes, np.float32), **{k: v.astype(np.int64) for k, v in columns.items()}
        )

    @classmethod
    def concat(cls, parts: Iterable[FaceDataset]) -> FaceDataset:
        """Concatenate data sets."""
        sets = list(parts)
        return cls(*(np.concatenate([getattr(part, field.name) for part in sets]) for field in fields(cls)))

    def digest(self) -> str:
        """Hash pixels and labels with SHA-256."""
        return digest(dataclass_arrays(self))


def read_ferplus(folder: Path, first: Path, split: str, cache: Path) -> FaceDataset:
    """Read a split of FER+, as `ferplus.read_split`, with its votes and, from the folder `first`, FER2013 labels."""

    def crop() -> FaceDataset:
        faces = ferplus.read_split(folder, split, ferplus.stills_detector())
        crops = [
            align.align_face(image, face, SIDE, MARGIN) for image, face in zip(faces.images, faces.faces, strict=True)
        ]
        return FaceDataset.from_labels(crops, votes=faces.votes, first=ferplus.fer2013_labels(first, faces.images))

    return _load_or_crop(cache, f"ferplus-{split}", [*_list_files(folder), *_list_files(first)], crop)


def read_utkface(folder: Path, split: int, cache: Path) -> FaceDataset:
    """Read a split of UTKFace: age, gender and ethnicity. See `fervid.training.utkface`."""

    def crop() -> FaceDataset:
        portraits = utkface.read_split(folder, split)
        crops, rows = crop_all([p.path for p in portraits], make_close_face_finder(utkface.MIN_FACE))
        return FaceDataset.from_labels(
            crops,
            age=np.array([portraits[i].age for i in rows]),
            gender=np.array([portraits[i].gender for i in rows]),
            ethnicity=np.array([portraits[i].race for i in rows]),
        )

    return _load_or_crop(cache, f"utkface-{split}", _list_files(folder), crop)


def read_celeba(folder: Path, cache: Path) -> FaceDataset:
    """Read photographs of CelebA, the largest face of each."""

    def crop() -> FaceDataset:
        paths, people = list_celeba(folder)
        crops, rows = crop_all(paths, make_largest_face_finder(PHOTO_SIDE // 10))
        numbers = np.unique(people, return_inverse=True)[1]
        return FaceDataset.from_labels(crops, person=numbers[rows])

    return _load_or_crop(cache, "celeba", _list_files(folder), crop)


def list_celeba(folder: Path) -> tuple[list[Path], list[int]]:
    """List photographs of a subset of CelebA, uncropped, sorted by name, and the number of the person in each.

    The folder has `identity_CelebA.txt` (lines of image name and person number; it covers all 202,599 images) and, in
    subfolders, some thousands of the images (matush97/faceRecognition; Liu et al., ICCV 2015).

    Raises:
        FileNotFoundError: The identity file is missing.
    """
    lines = (line.partition(" ") for line in (folder / "identity_CelebA.txt").read_text().splitlines())
    people = {name: int(person) for name, _, person in lines if person.strip().isdigit()}
    images = {path.name: path for path in sorted(folder.rglob("*.jpg")) if path.name in people}
    return [images[name] for name in sorted(images)], [people[name] for name in sorted(images)]


@dataclass(frozen=True, slots=True, eq=False)
class ExpressionSet:
    """Faces from a set that has some of the eight expressions.

    Attributes:
        faces: n faces with votes for classes of the set only.
        has: (8,) whether the set has a class.
    """

    faces: FaceDataset
    has: NDArray[np.bool_]

    @classmethod
    def from_faces(cls, faces: FaceDataset) -> ExpressionSet:
        """Make a set with the classes that occur in the votes."""
        return cls(faces, np.asarray(faces.votes.any(axis=0)))


EXPRESSION_SETS = ("rafdb", "affectnet")
"""The sets besides FER+; `affectnet` is four classes of AffectNet, and contempt from a set of similar style."""


def read_expressions(sources: DatasetPaths, name: str, split: str, cache: Path) -> ExpressionSet:
    """Read a split of one of `EXPRESSION_SETS`: `train`, `valid` or, for `rafdb`, `test`.

    Images without a detected face are dropped.

    Raises:
        FileNotFoundError: Images are missing; the message has their number and the first few names.
        ValueError: The set is unknown, images are damaged, or labels are out of range.
    """
    if name not in EXPRESSION_SETS:
        raise ValueError(f"unknown expression set {name!r}; available are {', '.join(EXPRESSION_SETS)}")
    folders = [sources.rafdb] if name == "rafdb" else [sources.affectnet, sources.contempt]

    def crop() -> FaceDataset:
        if name == "rafdb":
            paths, labels = expression_sets.list_rafdb(sources.rafdb, split)
        else:
            paths, labels = expression_sets.list_affectnet(sources.affectnet, sources.contempt, split)
        side = expression_sets.AFFECTNET_SIZE if name == "affectnet" else PHOTO_SIDE
        crops, rows = crop_all(paths, make_close_face_finder(MIN_CLOSE_FACE), longest=side)
        return FaceDataset.from_labels(crops, votes=expression_sets.to_votes(labels[rows]))

    return ExpressionSet.from_faces(
        _load_or_crop(cache, f"{name}-{split}", [f for folder in folders for f in _list_files(folder)], crop)
    )


def read_frames(sources: DatasetPaths, cache: Path) -> FaceDataset:
    """Read the largest face of each frame of KERC 2020, training part, without labels."""

    def crop() -> FaceDataset:
        crops, _ = crop_all(sorted(folder.glob("*.jpg")), make_largest_face_finder(MIN_FRAME_FACE))
        return FaceDataset.from_labels(crops)

    folder = sources.kerc / "frame_img"
    return _load_or_crop(cache, "kerc-frames", _list_files(folder), crop)


def read_test_crops(sources: DatasetPaths, cache: Path) -> Image:
    """Read the crops (n, SIDE, SIDE, 3) of all test sets: RAF-DB test, SFEW, FER+ PublicTest and PrivateTest."""
    rafdb = read_expressions(sources, "rafdb", "test", cache).faces

    def crop() -> FaceDataset:
        paths, labels = expression_sets.list_sfew(sources.sfew)
        crops, rows = crop_all(paths, make_largest_face_finder(MIN_FRAME_FACE))
        return FaceDataset.from_labels(crops, votes=expression_sets.to_votes(labels[rows]))

    sfew = _load_or_crop(cache, "sfew", _list_files(sources.sfew), crop)
    ferplus_sets = [
        read_ferplus(sources.ferplus, sources.fer2013, split, cache) for split in ("PublicTest", "PrivateTest")
    ]
    return np.concatenate([part.crops for part in (rafdb, sfew, *ferplus_sets)])


def is_unseen(faces: FaceDataset, tests: Image, name: str) -> NDArray[np.bool_]:
    """Check that faces are not copies of test faces (n,), and print the number of copies."""
    copies = find_duplicates(faces.crops, tests) >= 0
    print(f"{name}: {copies.sum()} of {len(faces)} faces are copies of test faces and are dropped", flush=True)
    return np.asarray(~copies)


def make_close_face_finder(min_face: int) -> Callable[[Image], Face | None]:
    """Make a function that detects the main face of a tightly cropped image, as `ferplus.detect_face`."""
    detector = ferplus.stills_detector(min_face)
    return lambda image: ferplus.detect_face(image, detector)


def make_largest_face_finder(min_face: int) -> Callable[[Image], Face | None]:
    """Make a function that detects the largest face of an image, at least `min_face` pixels large, or None."""
    model = registry.load_model(registry.DEFAULTS["detector"], "detector")
    detector = Detector(model.session, model.card, min_face)
    return lambda image: max(detector.detect(image), key=lambda face: face.area, default=None)


def crop_all(
    paths: Sequence[Path],
    locate: Callable[[Image], Face | None],
    side: int = SIDE,
    margin: float = MARGIN,
    longest: int = PHOTO_SIDE,
) -> tuple[list[Image], list[int]]:
    """Crop the face of every image; images without a face are skipped.

    Args:
        paths: Image files.
        locate: Detects the face of an image.
        side: Side of the crops in pixels.
        margin: Margin on each side of the box, as a fraction of its longer side.
        longest: Maximum side in pixels; larger images are downscaled first.

    Returns:
        The crops, and for each the index of its image.

    Raises:
        ValueError: Images are damaged (the message has their number and the first few names), or no face was found.
    """

    def crop(path: Path) -> tuple[bool, Image | None]:
        """Return whether the image could be decoded, and its crop if a face was detected."""
        decoded = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        if decoded is None:
            return False, None
        image = _downscale(np.asarray(decoded, np.uint8), longest)
        face = locate(image)
        return True, None if face is None else align.align_face(image, face, side, margin)

    with ThreadPoolExecutor(cv2.getNumberOfCPUs()) as pool:
        results = list(pool.map(crop, paths))
    damaged = [str(path) for path, (readable, _) in zip(paths, results, strict=True) if not readable]
    rows = [i for i, (_, face) in enumerate(results) if face is not None]
    crops = [face for _, face in results if face is not None]
    if damaged:
        raise ValueError(f"{len(damaged)} images are damaged, copy them again; the first: {', '.join(damaged[:3])}")
    if not crops:
        raise ValueError(f"no face was found in {len(paths)} images; check that they show faces")
    return crops, rows


def _downscale(image: Image, longest: int) -> Image:
    """Downscale an image to a maximum side."""
    scale = longest / max(image.shape[:2])
    return (
        image if scale >= 1 else np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
    )


def _list_files(folder: Path) -> list[tuple[str, int]]:
    """List name and size of all files below a folder.

    Raises:
        FileNotFoundError: The folder has no files.
    """
    files = sorted((str(path.relative_to(folder)), path.stat().st_size) for path in folder.rglob("*") if path.is_file())
    if not files:
        raise FileNotFoundError(f"{folder} has no files; see models/README.md for what belongs there")
    return files


def _load_or_crop(
    cache: Path, name: str, files: Sequence[tuple[str, int]], crop: Callable[[], FaceDataset]
) -> FaceDataset:
    detector = registry.manifest()[registry.DEFAULTS["detector"]]["sha256"]
    key = hashlib.sha256(repr((files, detector, SIDE, MARGIN)).encode()).hexdigest()[:16]
    return FaceDataset(**load_or_compute(cache / f"{name}-{key}.npz", lambda: dataclass_arrays(crop())))


def read_unseen(sources: DatasetPaths, cache: Path) -> tuple[FaceDataset, FaceDataset]:
    """Read the training faces of RAF-DB and of UTKFace, without copies of test faces."""
    tests = read_test_crops(sources, cache)
    rafdb = read_expressions(sources, "rafdb", "train", cache).faces
    utkface = read_utkface(sources.utkface, 2, cache)
    return rafdb[is_unseen(rafdb, tests, "rafdb")], utkface[is_unseen(utkface, tests, "utkface")]
