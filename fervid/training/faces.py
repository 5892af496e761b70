"""Every data set behind one reader: face crops, and of each the labels that its set knows.

Faces are found by the shipped detector and cut by `fervid.analysis.align`, as at inference, but with more around them
(`MARGIN`), so that `fervid.training.augment` can shift, turn and scale them without an edge. What was cut is kept in a
cache folder under a name that changes with the pictures, the detector and the crop.
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
from fervid.training import celeba, expression_sets, ferplus, utkface
from fervid.training.duplicates import find_duplicates
from fervid.training.ferplus import CLASSES

SIDE = 144
MARGIN = 0.3  # on each side of the box, as a share of its longer side
CROP_FRACTION = (1 + 2 * align.MARGIN) / (1 + 2 * MARGIN)
"""Share of a cached crop's side that inference sees of it."""
PHOTO_SIDE = 512  # more would only cost time
MIN_CLOSE_FACE = 30  # pixels, in images of about 100 that a face fills
MIN_FRAME_FACE = 32  # pixels, in film frames
UNKNOWN = -1


@dataclass(frozen=True, slots=True, eq=False)
class FaceDataset:
    """n faces, each with the labels that are known of it.

    Attributes:
        crops: (n, SIDE, SIDE, 3) uint8 RGB.
        votes: (n, 8) shares in the order of `CLASSES`, a row of zeros where unknown.
        first: (n,) class of FER2013 before the votes.
        age: (n,) years.
        gender: (n,) 0 male, 1 female, as UTKFace counts.
        ethnicity: (n,) 0 to 4 in UTKFace's order.
        person: (n,) a number for each person.

    A label of -1 is unknown.
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
        """Some of them."""
        return FaceDataset(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def of(cls, crops: Sequence[Image], **labels: NDArray[np.generic]) -> FaceDataset:
        """Faces of which only the named labels are known."""
        count = len(crops)
        columns = {name: labels.get(name, np.full(count, UNKNOWN)) for name in cls.__slots__[2:]}
        votes = labels.get("votes", np.zeros((count, len(CLASSES)), np.float32))
        return cls(
            np.stack(crops), np.asarray(votes, np.float32), **{k: v.astype(np.int64) for k, v in columns.items()}
        )

    @classmethod
    def union(cls, parts: Iterable[FaceDataset]) -> FaceDataset:
        """All faces of the parts, in their order."""
        sets = list(parts)
        return cls(*(np.concatenate([getattr(part, field.name) for part in sets]) for field in fields(cls)))

    def digest(self) -> str:
        """SHA-256 of pixels and labels."""
        return digest(dataclass_arrays(self))


@dataclass(frozen=True, slots=True)
class DatasetPaths:
    """Where the data sets lie, each in its folder below one root; models/README.md says how they come there."""

    root: Path

    def __post_init__(self) -> None:
        """Look for all of them.

        Raises:
            FileNotFoundError: Some are missing; all are named.
        """
        places = [self.ferplus, self.first, self.utkface, self.celeba, self.lfw, self.pairs]
        places += [self.rafdb, self.affectnet, self.contempt, self.kerc, self.sfew, self.javased]
        if missing := [str(place) for place in places if not place.exists()]:
            raise FileNotFoundError(
                f"the data sets are not complete, these are missing: {', '.join(missing)};"
                " models/README.md says where each comes from"
            )

    @property
    def ferplus(self) -> Path:
        """Pictures and votes of FER+."""
        return self.root / "ferplus"

    @property
    def first(self) -> Path:
        """The same pictures in folders by their first label."""
        return self.root / "faceexp" / "data"

    @property
    def utkface(self) -> Path:
        """UTKFace."""
        return self.root / "utkface" / "data" / "UTKFace" / "unlabeled"

    @property
    def celeba(self) -> Path:
        """Photographs of known people."""
        return self.root / "celeba"

    @property
    def lfw(self) -> Path:
        """Labeled Faces in the Wild, to test on."""
        return self.root / "lfw"

    @property
    def rafdb(self) -> Path:
        """RAF-DB, basic emotions."""
        return self.root / "rafdb" / "Dataset"

    @property
    def affectnet(self) -> Path:
        """Four classes of AffectNet."""
        return self.root / "affectnet4"

    @property
    def contempt(self) -> Path:
        """Faces with contempt."""
        return self.root / "contempt"

    @property
    def kerc(self) -> Path:
        """Film clips of KERC 2020."""
        return self.root / "kerc"

    @property
    def sfew(self) -> Path:
        """Film stills of SFEW, to test on."""
        return self.root / "sfew" / "code_v2" / "data" / "Images"

    @property
    def javased(self) -> Path:
        """Clips of Java-SED, to develop and test on."""
        return self.root / "javased" / "dataset-resize"

    @property
    def pairs(self) -> Path:
        """Its verification pairs."""
        return self.root / "lfwpairs" / "data" / "pairs.txt"


def read_ferplus(folder: Path, first: Path, split: str, cache: Path) -> FaceDataset:
    """A split of FER+ with its votes and first labels.

    Args:
        folder: See `fervid.training.ferplus`.
        first: Folder of the pictures by first label.
        split: `Training` or `PublicTest`.
        cache: Folder for what was cut.
    """

    def cut() -> FaceDataset:
        found = ferplus.read_split(folder, split, ferplus.stills_detector())
        crops = [
            align.align_face(image, face, SIDE, MARGIN) for image, face in zip(found.images, found.faces, strict=True)
        ]
        return FaceDataset.of(crops, votes=found.votes, first=ferplus.fer2013_labels(first, found.images))

    return _kept(cache, f"ferplus-{split}", [*_listed(folder), *_listed(first)], cut)


def read_utkface(folder: Path, split: int, cache: Path) -> FaceDataset:
    """A split of UTKFace: age, gender and ethnicity. See `fervid.training.utkface`."""

    def cut() -> FaceDataset:
        portraits = utkface.read_split(folder, split)
        detector = ferplus.stills_detector(utkface.MIN_FACE)
        crops, rows = crop_all([p.path for p in portraits], lambda image: ferplus.detect_face(image, detector))
        return FaceDataset.of(
            crops,
            age=np.array([portraits[i].age for i in rows]),
            gender=np.array([portraits[i].gender for i in rows]),
            ethnicity=np.array([portraits[i].race for i in rows]),
        )

    return _kept(cache, f"utkface-{split}", _listed(folder), cut)


def read_celeba(folder: Path, cache: Path) -> FaceDataset:
    """Photographs of known people, the largest face of each. See `fervid.training.celeba`."""

    def cut() -> FaceDataset:
        photos = celeba.read(folder)
        crops, rows = crop_all([photo.path for photo in photos], largest_face(PHOTO_SIDE // 10))
        numbers = np.unique([photo.person for photo in photos], return_inverse=True)[1]
        return FaceDataset.of(crops, person=numbers[rows])

    return _kept(cache, "celeba", _listed(folder), cut)


@dataclass(frozen=True, slots=True, eq=False)
class ExpressionSet:
    """Faces with votes from a set that has some of the eight expressions.

    Attributes:
        faces: n faces; no votes are for other classes than those of the set.
        has: (8,) whether the set has a class.
    """

    faces: FaceDataset
    has: NDArray[np.bool_]

    @classmethod
    def of(cls, known: FaceDataset) -> ExpressionSet:
        """A set that has the classes that occur in the votes."""
        return cls(known, np.asarray(known.votes.any(axis=0)))


EXPRESSION_SETS = ("rafdb", "affectnet")
"""The sets beside FER+; `affectnet` is four classes of AffectNet and contempt from a set of the same look."""


def read_expressions(sources: DatasetPaths, name: str, split: str, cache: Path) -> ExpressionSet:
    """One of `EXPRESSION_SETS`; images in which no face is found are left out, but for those of a test.

    Args:
        sources: Where the sets lie.
        name: Which.
        split: `train`, `valid` or, of `rafdb`, `test`.
        cache: Folder for the crops.

    Raises:
        FileNotFoundError: Images are missing; all are counted, the first few named.
        ValueError: There is no such set, images are damaged, or labels are out of range.
    """
    if name not in EXPRESSION_SETS:
        raise ValueError(f"there is no set of expressions {name!r}; there are {', '.join(EXPRESSION_SETS)}")
    folders = [sources.rafdb] if name == "rafdb" else [sources.affectnet, sources.contempt]

    def cut() -> FaceDataset:
        if name == "rafdb":
            paths, labels = expression_sets.list_rafdb(sources.rafdb, split)
        else:
            paths, labels = expression_sets.list_affectnet(sources.affectnet, sources.contempt, split)
        detector = ferplus.stills_detector(MIN_CLOSE_FACE)
        side = expression_sets.AFFECTNET_SIZE if name == "affectnet" else PHOTO_SIDE
        crops, rows = crop_all(paths, lambda image: ferplus.detect_face(image, detector), longest=side)
        return FaceDataset.of(crops, votes=expression_sets.to_votes(labels[rows]))

    return ExpressionSet.of(_kept(cache, f"{name}-{split}", [f for folder in folders for f in _listed(folder)], cut))


def read_frames(sources: DatasetPaths, cache: Path) -> FaceDataset:
    """The largest face of each film frame of KERC 2020, training part, without its ratings."""

    def cut() -> FaceDataset:
        crops, _ = crop_all(sorted(folder.glob("*.jpg")), largest_face(MIN_FRAME_FACE))
        return FaceDataset.of(crops)

    folder = sources.kerc / "frame_img"
    return _kept(cache, "kerc-frames", _listed(folder), cut)


def read_test_crops(sources: DatasetPaths, cache: Path) -> Image:
    """Faces (n, SIDE, SIDE, 3) of RAF-DB's test, SFEW, and what FER+ is validated and tested on."""
    rafdb = read_expressions(sources, "rafdb", "test", cache).faces

    def cut() -> FaceDataset:
        paths, labels = expression_sets.list_sfew(sources.sfew)
        crops, rows = crop_all(paths, largest_face(MIN_FRAME_FACE))
        return FaceDataset.of(crops, votes=expression_sets.to_votes(labels[rows]))

    sfew = _kept(cache, "sfew", _listed(sources.sfew), cut)
    ferplus_sets = [
        read_ferplus(sources.ferplus, sources.first, split, cache) for split in ("PublicTest", "PrivateTest")
    ]
    return np.concatenate([known.crops for known in (rafdb, sfew, *ferplus_sets)])


def is_unseen(known: FaceDataset, tests: Image, name: str) -> NDArray[np.bool_]:
    """(n,) whether a face is no copy of a test face; how many are is printed."""
    copies = find_duplicates(known.crops, tests) >= 0
    print(f"{name}: {copies.sum()} of {len(known)} faces are copies of test faces and are left out", flush=True)
    return np.asarray(~copies)


def largest_face(min_face: int) -> Callable[[Image], Face | None]:
    """A function that finds the largest face of an image, of at least that many pixels, or None."""
    loaded = registry.load_model(registry.DEFAULTS["detector"], "detector")
    detector = Detector(loaded.session, loaded.card, min_face)
    return lambda image: max(detector(image), key=lambda face: face.area, default=None)


def crop_all(
    paths: Sequence[Path],
    locate: Callable[[Image], Face | None],
    side: int = SIDE,
    margin: float = MARGIN,
    longest: int = PHOTO_SIDE,
) -> tuple[list[Image], list[int]]:
    """Crops, and the number of the picture that each is from; a picture without a face gives none.

    Args:
        paths: Image files.
        locate: Finds the face.
        side: Of the crops in pixels.
        margin: Around the box, on each side, as a share of its longer side.
        longest: Side in pixels that larger images are reduced to first.

    Raises:
        ValueError: Pictures are damaged; all are counted, the first few named. Or no face was found at all.
    """

    def cut(path: Path) -> tuple[bool, Image | None]:
        """Whether the picture is whole, and the crop if it shows a face."""
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        if picture is None:
            return False, None
        image = _shrunk(np.asarray(picture, np.uint8), longest)
        face = locate(image)
        return True, None if face is None else align.align_face(image, face, side, margin)

    with ThreadPoolExecutor(cv2.getNumberOfCPUs()) as pool:
        found = list(pool.map(cut, paths))
    damaged = [str(path) for path, (whole, _) in zip(paths, found, strict=True) if not whole]
    rows = [i for i, (_, crop) in enumerate(found) if crop is not None]
    crops = [crop for _, crop in found if crop is not None]
    if damaged:
        raise ValueError(f"{len(damaged)} pictures are damaged, copy them again; the first: {', '.join(damaged[:3])}")
    if not crops:
        raise ValueError(f"no face was found in {len(paths)} pictures; see models/README.md for what belongs there")
    return crops, rows


def _shrunk(image: Image, longest: int) -> Image:
    """The picture with a longer side of at most that many pixels."""
    scale = longest / max(image.shape[:2])
    return (
        image if scale >= 1 else np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
    )


def _listed(folder: Path) -> list[tuple[str, int]]:
    """Name and size of every file below a folder.

    Raises:
        FileNotFoundError: There is none.
    """
    files = sorted((str(path.relative_to(folder)), path.stat().st_size) for path in folder.rglob("*") if path.is_file())
    if not files:
        raise FileNotFoundError(f"{folder} holds no files; see models/README.md for what belongs there")
    return files


def _kept(cache: Path, name: str, files: Sequence[tuple[str, int]], cut: Callable[[], FaceDataset]) -> FaceDataset:
    detector = registry.manifest()[registry.DEFAULTS["detector"]]["sha256"]
    key = hashlib.sha256(repr((files, detector, SIDE, MARGIN)).encode()).hexdigest()[:16]
    return FaceDataset(**load_or_compute(cache / f"{name}-{key}.npz", lambda: dataclass_arrays(cut())))
