"""Photographs with the faces that a teacher sees in them, and training pictures for a detector pieced together of them.

Boxes are turned into those of the shipped detector, whose crops the face network knows: a linear function of the
teacher's box and landmarks, fitted on faces that both find.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fervid import video
from fervid.cache import Arrays, columns, kept
from fervid.detect import Detector
from fervid.errors import InputError
from fervid.records import Face, Floats, Image
from fervid.sampling import Sampling
from fervid.train import augment
from fervid.train.centerface import CenterFace

SIDE = 448  # longer side of a kept photograph
SURE = 0.5  # teacher's scores from which a face counts; below, it is neither face nor background
LANDMARKS = 5
PAIRS = 4000  # faces that both detectors find, to learn the one's boxes from the other's
SMALLEST, LARGEST = 9.0, 300.0  # pixels that a face is scaled to
MIRRORED = [1, 0, 2, 4, 3]
ASIDE = 0.25  # eyes that are less apart than this share of the box belong to a face seen from the side
RARE = 4.0  # how much likelier a picture with such a face is drawn than another
FRAMES = Sampling(fps=4)


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """The faces of one picture.

    Attributes:
        boxes: (n, 4).
        landmarks: (n, 5, 2) eyes, nose, corners of the mouth.
        sure: (n,) whether it is a face; if not it might be one.
    """

    boxes: Floats
    landmarks: Floats
    sure: NDArray[np.bool_]

    def moved(self, matrix: NDArray[np.float64]) -> Seen:
        """The faces after an affine map (2, 3) that keeps shapes; boxes stay upright."""
        scale = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
        centre = (self.boxes[:, :2] + self.boxes[:, 2:]) / 2 @ matrix[:, :2].T + matrix[:, 2]
        half = (self.boxes[:, 2:] - self.boxes[:, :2]) / 2 * scale
        landmarks = self.landmarks @ matrix[:, :2].T + matrix[:, 2]
        if np.linalg.det(matrix[:, :2]) < 0:
            landmarks = landmarks[:, MIRRORED]
        return Seen(
            np.concatenate([centre - half, centre + half], axis=1).astype(np.float32),
            landmarks.astype(np.float32),
            self.sure,
        )

    def __getitem__(self, rows: NDArray[np.bool_]) -> Seen:
        """Some of the faces."""
        return Seen(self.boxes[rows], self.landmarks[rows], self.sure[rows])

    @property
    def sizes(self) -> Floats:
        """(n,) square root of the area of each box."""
        return np.sqrt(np.prod(np.clip(self.boxes[:, 2:] - self.boxes[:, :2], 0, None), axis=1))

    @property
    def aside(self) -> NDArray[np.bool_]:
        """(n,) whether a face is surely one and seen from the side."""
        apart = np.abs(self.landmarks[:, 1, 0] - self.landmarks[:, 0, 0])
        return self.sure & (apart < ASIDE * self.sizes)

    @classmethod
    def union(cls, parts: Iterable[Seen]) -> Seen:
        """All faces of the parts."""
        sets = list(parts)
        return cls(*(np.concatenate([getattr(s, name) for s in sets]) for name in ("boxes", "landmarks", "sure")))


@dataclass(frozen=True, slots=True, eq=False)
class Photographs:
    """Pictures as JPEG bytes, with their faces."""

    pictures: Sequence[NDArray[np.uint8]]
    seen: Sequence[Seen]
    chances: Floats = field(init=False)

    def __post_init__(self) -> None:
        """Work out the chance (n,) of each picture to be drawn."""
        weight = np.array([RARE if faces.aside.any() else 1.0 for faces in self.seen])
        object.__setattr__(self, "chances", weight / weight.sum())

    def __len__(self) -> int:
        return len(self.pictures)

    @classmethod
    def union(cls, parts: Iterable[Photographs]) -> Photographs:
        """All pictures of the parts."""
        sets = list(parts)
        return cls([p for part in sets for p in part.pictures], [s for part in sets for s in part.seen])

    def digest(self) -> str:
        """SHA-256 of pictures and faces."""
        found = hashlib.sha256()
        for picture, faces in zip(self.pictures, self.seen, strict=True):
            for column in (picture, faces.boxes, faces.landmarks, faces.sure):
                found.update(np.ascontiguousarray(column).data)
        return found.hexdigest()

    def image(self, number: int) -> Image:
        """One picture, (h, w, 3) uint8 RGB."""
        return np.asarray(cv2.imdecode(self.pictures[number], cv2.IMREAD_COLOR_RGB), np.uint8)

    def half(self, number: int) -> Image:
        """The same at half its size, in half the time."""
        return np.asarray(cv2.imdecode(self.pictures[number], cv2.IMREAD_REDUCED_COLOR_2), np.uint8)[..., ::-1]

    @classmethod
    def read(cls, paths: Sequence[Path], teacher: CenterFace, known: Detector, cache: Path) -> Photographs:
        """Shrink pictures and let the teacher find their faces; what it found is kept in the folder `cache`.

        Args:
            paths: Pictures, and videos, of which some frames a second are taken.
            teacher: Finds the faces.
            known: The detector whose boxes the face network was trained on.
            cache: Folder to keep the result in.

        Raises:
            ValueError: Files are damaged; all are counted, the first few named.
        """
        listed = repr([(path.name, path.stat().st_size) for path in paths]), tuple(teacher.sides), SIDE, FRAMES
        path = cache / f"photographs-{hashlib.sha256(repr(listed).encode()).hexdigest()[:16]}.npz"
        stored = kept(path, lambda: cls._find(paths, teacher, known)._columns())
        starts, ends = (np.cumsum(stored[name])[:-1] for name in ("lengths", "counts"))
        seen = (np.split(stored[name], ends) for name in ("boxes", "landmarks", "sure"))
        return cls(np.split(stored["bytes"], starts), [Seen(*row) for row in zip(*seen, strict=True)])

    @classmethod
    def _find(cls, paths: Sequence[Path], teacher: CenterFace, known: Detector) -> Photographs:
        pictures, found, damaged = [], [], []
        both: list[tuple[Face, Face]] = []
        for path in paths:
            try:
                frames = [frame.image for frame in video.read(path, FRAMES)]
            except InputError:
                damaged.append(str(path))
                continue
            for frame in frames:
                scale = min(1.0, SIDE / max(frame.shape[:2]))
                image = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
                faces = teacher(np.asarray(image, np.uint8))
                if len(both) < PAIRS:
                    both += _pairs(faces, known(np.asarray(image, np.uint8)))
                pictures.append(cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1].ravel())
                found.append(_seen(faces))
        if damaged:
            raise ValueError(f"{len(damaged)} files are damaged, copy them again; the first: {damaged[:3]}")
        weight = np.linalg.lstsq(_described(_seen([teachers for teachers, _ in both])), _relative(both), rcond=None)[0]
        return cls(pictures, [_converted(seen, weight) for seen in found])

    def _columns(self) -> Arrays:
        return {
            "bytes": np.concatenate(self.pictures),
            "lengths": np.array([len(picture) for picture in self.pictures]),
            "counts": np.array([len(faces.sure) for faces in self.seen]),
            **columns(Seen.union(self.seen)),
        }


def mosaic(photographs: Photographs, side: int, rng: np.random.Generator) -> tuple[Image, Seen]:
    """A training picture (side, side, 3) of one, four or nine parts of photographs, and the faces in it.

    Faces are scaled evenly over sizes; every part may be turned, mirrored and shifted over the border of its place, and
    some show no face. The whole is dimmed, blurred and compressed as video is.
    """
    grid = int(rng.choice([1, 2, 3], p=[0.35, 0.4, 0.25]))
    edges = np.linspace(0, side, grid + 1).astype(int)
    canvas = np.empty((side, side, 3), np.uint8)
    parts = []
    for top, bottom in pairwise(edges):
        for left, right in pairwise(edges):
            number = int(rng.choice(len(photographs), p=photographs.chances))
            behind = _background(photographs, -(-side // grid), rng)
            part, faces = _part(photographs.image(number), photographs.seen[number], behind, rng)
            canvas[top:bottom, left:right] = part[: bottom - top, : right - left]
            parts.append(faces.moved(np.array([[1, 0, left], [0, 1, top]], np.float64)))
    return augment.stream(augment.light(canvas, rng), rng), Seen.union(parts)


def _background(photographs: Photographs, side: int, rng: np.random.Generator) -> Image:
    """(side, side, 3) of a photograph where it shows no face: clothes, hands, walls; or one colour."""
    number = int(rng.integers(len(photographs)))
    image, boxes = photographs.half(number), photographs.seen[number].boxes / 2
    height, width = image.shape[:2]
    for _ in range(4):
        extent = int(rng.uniform(0.15, 0.6) * min(height, width))
        x, y = int(rng.integers(0, width - extent + 1)), int(rng.integers(0, height - extent + 1))
        apart = (boxes[:, :2] > (x + extent, y + extent)) | (boxes[:, 2:] < (x, y))
        if extent and apart.any(axis=1).all():
            return np.asarray(cv2.resize(image[y : y + extent, x : x + extent], (side, side)), np.uint8)
    return np.full((side, side, 3), rng.integers(0, 256, 3), np.uint8)


def _part(image: Image, seen: Seen, behind: Image, rng: np.random.Generator) -> tuple[Image, Seen]:
    """A view of a photograph, as large as what is `behind` it, and those of its faces that it shows."""
    side = len(behind)
    height, width = image.shape[:2]
    if len(seen.sure) and rng.random() < 0.9:
        number = int(rng.integers(len(seen.sure)))
        wanted = np.exp(rng.uniform(np.log(SMALLEST), np.log(min(LARGEST, 0.95 * side))))
        scale = min(wanted / max(seen.sizes[number], 1.0), 1.6)
        centre = seen.boxes[number].reshape(2, 2).mean(axis=0)
        reach = max(side - seen.sizes[number] * scale, 0) / 2
    else:
        scale = side / min(height, width) * np.exp(rng.uniform(-0.5, 0.7))
        centre, reach = rng.uniform(0, 1, 2) * (width, height), side / 4
    if scale < 0.5:
        shrink = 2 * scale
        image = np.asarray(cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA), np.uint8)
        actual = np.array([image.shape[1] / width, image.shape[0] / height])
        seen = seen.moved(np.array([[actual[0], 0, 0], [0, actual[1], 0]]))
        centre, scale = centre * actual, 0.5
    angle = np.deg2rad(rng.normal(0, 12))
    mirror = -1 if rng.random() < 0.5 else 1
    turn = scale * np.array([[np.cos(angle) * mirror, np.sin(angle)], [-np.sin(angle) * mirror, np.cos(angle)]])
    shift = side / 2 + rng.uniform(-1, 1, 2) * reach - turn @ centre
    matrix = np.column_stack([turn, shift])
    to_pixels = matrix.copy()
    to_pixels[:, 2] += turn @ (0.5, 0.5) - 0.5  # from edges to the middles of pixels
    view = cv2.warpAffine(image, to_pixels, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    cover = _cover(image.shape[:2], 0.0 if rng.random() < 0.3 else rng.uniform(0.05, 0.2))
    share = cv2.warpAffine(cover, to_pixels, (side, side), flags=cv2.INTER_LINEAR)[..., None]
    return np.asarray(view * share + behind * (1 - share), np.uint8), _visible(seen.moved(matrix), side)


def _cover(shape: tuple[int, ...], fade: float) -> Floats:
    """How much of a photograph shows at each pixel: all, but less towards its edge, so that none is left to see.

    Args:
        shape: Height and width.
        fade: Over how much of the shorter side it fades.
    """
    width = max(fade * min(shape[:2]), 1e-3)
    rows, columns = (np.clip((np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5) / width, 0, 1) for n in shape[:2])
    return np.asarray(np.minimum.outer(rows, columns), np.float32)


def _visible(seen: Seen, side: int) -> Seen:
    """The faces of which a part of a picture shows something; unsure where it is less than two thirds."""
    inside = np.clip(seen.boxes, 0, side)
    shown = np.prod(inside[:, 2:] - inside[:, :2], axis=1) / np.maximum(seen.sizes**2, 1e-6)
    seen = Seen(seen.boxes, seen.landmarks, seen.sure & (shown > 2 / 3) & (seen.sizes >= 0.8 * SMALLEST))
    return seen[shown > 0.1]


def _seen(faces: Sequence[Face]) -> Seen:
    return Seen(
        np.array([face.box for face in faces], np.float32).reshape(-1, 4),
        np.array([face.landmarks for face in faces], np.float32).reshape(-1, LANDMARKS, 2),
        np.array([face.score >= SURE for face in faces], bool),
    )


def _pairs(teachers: Sequence[Face], known: Sequence[Face]) -> list[tuple[Face, Face]]:
    """Faces that both find, surely: the centre of each lies in the middle half of the other, at a like size."""
    return [
        (a, b)
        for a in teachers
        for b in known
        if a.score >= 2 / 3 and 0.5 < a.area / b.area < 2 and _off(a, b) < 0.25 and b.size > 40
    ]


def _off(a: Face, b: Face) -> float:
    centres = [np.array(face.box).reshape(2, 2).mean(axis=0) for face in (a, b)]
    return float(np.abs(centres[0] - centres[1]).max() / a.size)


def _described(seen: Seen) -> NDArray[np.float64]:
    """(n, 13) the teacher's landmarks and proportions in units of its box, and a constant."""
    centre, size = _frame(seen.boxes)
    landmarks = (seen.landmarks - centre[:, None]) / size[:, None]
    proportions = (seen.boxes[:, 2:] - seen.boxes[:, :2]) / size
    return np.column_stack([landmarks.reshape(-1, 2 * LANDMARKS), proportions, np.ones(len(size))])


def _relative(both: Sequence[tuple[Face, Face]]) -> NDArray[np.float64]:
    """(n, 4) the other detector's boxes in units of the teacher's."""
    centre, size = _frame(np.array([teacher.box for teacher, _ in both]))
    return (np.array([known.box for _, known in both]) - np.tile(centre, 2)) / size


def _converted(seen: Seen, weight: NDArray[np.floating]) -> Seen:
    centre, size = _frame(seen.boxes)
    boxes = (_described(seen) @ weight) * size + np.tile(centre, 2)
    return Seen(boxes.astype(np.float32), seen.landmarks, seen.sure)


def _frame(boxes: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres (n, 2) and sizes (n, 1) of boxes."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return (boxes[:, :2] + boxes[:, 2:]) / 2.0, np.sqrt(np.prod(sides, axis=1, keepdims=True, dtype=np.float64))
