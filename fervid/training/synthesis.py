"""Makes faces that show what nobody showed: expressions of some people on the neutral faces of others.

The synthetic faces of the fourth ABAW challenge, on which Jeong et al. (arXiv 2207.10025) train, are not public; these
stand in for them. A face that shows an expression, or the average of a few that look alike, is laid onto a neutral
face by its landmarks. Within an oval the finer bands of a Laplacian pyramid are taken over (Burt and Adelson, ACM TOG
1983), and the coarser ones, which hold light and skin, only in part. The neutral face is then lightened and darkened
by the ratio of the result to itself (Liu et al., SIGGRAPH 2001), which keeps its colours, and lit anew from one side.
Blur, compression and low resolution come later, from `fervid.training.augment`.

Only training faces of FER+ and UTKFace are used. Which of UTKFace are neutral, and how old, of which gender and
ethnicity the people of FER+ are, the shipped network tells.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fervid.analysis.face_model import FaceModel
from fervid.core.array_cache import dataclass_arrays, digest, load_or_compute
from fervid.core.records import FaceOutputs, FloatArray, Image
from fervid.models import registry
from fervid.training import augment
from fervid.training.faces import FaceDataset
from fervid.training.ferplus import CLASSES, detect_face, stills_detector

EXPRESSIONS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
INDEX = np.array([CLASSES.index(name) for name in EXPRESSIONS])
TEACHER = "mobilenetv1"
SURE, FIRST = 0.55, 0.35  # what votes, and the first label, must come to for a face to stand for an expression
NEUTRAL = 0.6  # probability
SHOWN, NEUTRALS = 900, 1200  # faces of each expression, and neutral ones of each set, that are used at most
SMALLEST = 40  # pixels that the face of a cached crop has at least
POSED = 6  # of all that show an expression, one in so many is turned like the neutral face
ALIKE = 3  # at most so many are averaged
BANDS, COARSE = 4, 0.35  # of the pyramid, and how much of what is below them is taken over
RIGID = [0, 1, 2, 4, 5]  # eyes, nose and ears, which no expression moves
PLACES = np.array([(33, 40), (63, 40), (48, 58), (48, 72)], np.float32)
"""Eyes, nose and mouth in the frame in which the oval is told."""
MIDDLE, REACH, EDGE = np.array([48, 57], np.float32), np.array([36, 40], np.float32), (0.75, 0.16)
"""Of the oval: its middle, its half axes, and in shares of these where its edge begins and how soft it is."""


@dataclass(frozen=True, slots=True, eq=False)
class Synthetic:
    """n faces that were made.

    Attributes:
        crops: (n, SIDE, SIDE, 3) uint8 RGB, as `fervid.training.faces` keeps them.
        expression: (n,) number in `EXPRESSIONS`.
        landmarks: (n, 6, 2) eyes, nose, mouth and ears in pixels of the crops.
        age: (n,) years.
        gender: (n,) 0 male, 1 female.
        ethnicity: (n,) 0 to 4 in UTKFace's order.
    """

    crops: Image
    expression: NDArray[np.int64]
    landmarks: FloatArray
    age: FloatArray
    gender: NDArray[np.int64]
    ethnicity: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.crops)

    def digest(self) -> str:
        """SHA-256 of pixels and labels."""
        return digest(dataclass_arrays(self))


@dataclass(frozen=True, slots=True, eq=False)
class Located:
    """Faces in which the detector found landmarks, and what the teacher says of each."""

    crops: Image
    landmarks: FloatArray
    scores: FaceOutputs

    @classmethod
    def of(cls, faces: FaceDataset, rows: NDArray[np.intp]) -> Located:
        """Those rows; a face in which none is found is left out."""
        detector = stills_detector(SMALLEST)
        found = [(row, face.landmarks) for row in rows if (face := detect_face(faces.crops[row], detector)) is not None]
        kept = np.array([row for row, _ in found], np.intp)
        places = np.array([landmarks for _, landmarks in found], np.float32).reshape(-1, 6, 2)
        return cls(faces.crops[kept], places, told(faces.crops[kept]))


def told(crops: Image) -> FaceOutputs:
    """What the teacher says of cached crops."""
    model = registry.load_model(TEACHER, "network")
    size = model.card["input"]["size"]
    small = [augment.frame(crop, size) for crop in crops]
    return FaceModel(model.session, model.card)(np.stack(small) if small else np.zeros((0, size, size, 3), np.uint8))


def read(expressions: FaceDataset, attributes: FaceDataset, each: int, seed: int, cache: Path) -> Synthetic:
    """The synthetic training set; it is kept in the folder `cache`.

    Args:
        expressions: Training faces with votes and first labels.
        attributes: Training faces of UTKFace.
        each: How many to make of each expression.
        seed: Of every random choice.
        cache: Folder.
    """
    given = (expressions.digest(), attributes.digest(), registry.manifest()[TEACHER]["sha256"], each, seed)
    path = cache / f"synthetic-{hashlib.sha256(repr(given).encode()).hexdigest()[:16]}.npz"
    return Synthetic(
        **load_or_compute(
            path, lambda: dataclass_arrays(make(expressions, attributes, each, np.random.default_rng(seed)))
        )
    )


def make(expressions: FaceDataset, attributes: FaceDataset, each: int, rng: np.random.Generator) -> Synthetic:
    """So many faces of each expression.

    Raises:
        ValueError: No face shows one of the expressions, or none is neutral.
    """
    shown = [Located.of(expressions, some(rng, standing(expressions, number), SHOWN)) for number in INDEX]
    voted = expressions.votes[:, CLASSES.index("neutral")] > NEUTRAL
    drawn = some(rng, np.arange(len(attributes)), 4 * NEUTRALS)
    calm = told(attributes.crops[drawn]).expression[:, CLASSES.index("neutral")] > NEUTRAL
    neutral = [
        Located.of(expressions, some(rng, np.flatnonzero(voted), NEUTRALS)),
        Located.of(attributes, drawn[calm][:NEUTRALS]),
    ]
    for name, found in zip((*EXPRESSIONS, "neutral"), (*shown, neutral[0]), strict=True):
        if not len(found.crops):
            raise ValueError(f"no training face of FER+ shows {name}; see models/README.md for what belongs there")
    crops, places = (np.concatenate([getattr(part, name) for part in neutral]) for name in ("crops", "landmarks"))
    age, gender, ethnicity = (
        np.concatenate([getattr(part.scores, name) for part in neutral]) for name in ("age", "gender", "ethnicity")
    )
    below = rng.integers(0, len(crops), (len(EXPRESSIONS), each))
    made = [moved(crops[i], places[i], part, rng) for part, rows in zip(shown, below, strict=True) for i in rows]
    rows = below.ravel()
    return Synthetic(
        np.stack(made),
        np.repeat(np.arange(len(EXPRESSIONS)), each),
        places[rows],
        age[rows],
        (gender[rows] < 0.5).astype(np.int64),
        ethnicity[rows].argmax(axis=1),
    )


def standing(faces: FaceDataset, number: int) -> NDArray[np.intp]:
    """The faces that stand for an expression of `CLASSES`, by votes and by first label."""
    return np.flatnonzero(faces.votes[:, number] + FIRST * (faces.first == number) > SURE)


def some(rng: np.random.Generator, rows: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """So many of them at random, or all."""
    return rng.permutation(rows)[:count]


def pose(landmarks: FloatArray) -> FloatArray:
    """How heads are held, from landmarks (n, 6, 2): (n, 3).

    Roll in radians; how far the nose is beside the middle of the eyes, in distances of these, which grows with the
    yaw; and how far down from eyes to mouth it is, which grows with the pitch.
    """
    right, left, nose, mouth = (landmarks[:, i] for i in range(4))
    across = left - right
    length = np.maximum(np.linalg.norm(across, axis=1), 1e-3)
    along = across / length[:, None]
    down = np.stack([-along[:, 1], along[:, 0]], axis=1)
    off, low = nose - (left + right) / 2, mouth - (left + right) / 2
    drop = (low * down).sum(axis=1)
    drop = np.where(np.abs(drop) < 0.1 * length, 0.1 * length, drop)
    return np.stack(
        [np.arctan2(across[:, 1], across[:, 0]), (off * along).sum(axis=1) / length, (off * down).sum(axis=1) / drop],
        axis=1,
    ).astype(np.float32)


def moved(crop: Image, places: FloatArray, shown: Located, rng: np.random.Generator) -> Image:
    """An expression on a neutral face, chosen at random among those that are held like it."""
    yaw = pose(shown.landmarks)[:, 1]
    near = np.argsort(np.abs(yaw - pose(places[None])[0, 1]))[: max(len(yaw) // POSED, 1)]
    first = rng.choice(near)
    count = int(rng.integers(1, ALIKE + 1))
    alike = near[np.argsort(-_likeness(shown.crops[near], shown.crops[first]))[:count]]
    laid = [_laid(shown.crops[i], shown.landmarks[i], places) for i in alike]
    amount = rng.uniform(0.7, 1.0)
    return _lit(transplanted(crop, places, np.mean(laid, axis=0, dtype=np.float32), amount), rng)


def transplanted(crop: Image, places: FloatArray, shown: FloatArray, amount: float) -> Image:
    """The details of another face on this one.

    Args:
        crop: (s, s, 3) uint8 RGB.
        places: (6, 2) its landmarks.
        shown: (s, s) the other in grey, laid onto it.
        amount: How much of its details is taken over, above 0 and up to 1.
    """
    own = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)
    mask = amount * _oval(places, len(crop))
    inside = mask > 0.5 * amount
    even = (shown - shown[inside].mean()) / (shown[inside].std() + 1)
    other = even * (own[inside].std() / 2 + 22) + own[inside].mean()
    blended = np.clip(_blended(own, np.asarray(other, np.float32), mask), 0, 255)
    return np.asarray(np.clip(crop * ((blended + 8) / (own + 8))[..., None], 0, 255), np.uint8)


def _likeness(crops: Image, to: Image) -> FloatArray:
    """(n,) correlation of each face with one, in grey at 16 by 16 pixels."""

    def small(crop: Image) -> FloatArray:
        grey = cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), (16, 16), interpolation=cv2.INTER_AREA)
        even = grey.ravel().astype(np.float32) - grey.mean(dtype=np.float32)
        return np.asarray(even / (np.linalg.norm(even) + 1e-6))

    return np.stack([small(crop) for crop in crops]) @ small(to)


def _similarity(source: FloatArray, target: FloatArray) -> FloatArray:
    """What takes points (n, 2) to others with the least squared error, by turning, scaling and moving: (2, 3)."""
    centre, aim = source.mean(axis=0), target.mean(axis=0)
    (x, y), (u, v) = (source - centre).T, (target - aim).T
    size = max(float((x**2 + y**2).sum()), 1e-6)
    cos, sin = float((x * u + y * v).sum()) / size, float((x * v - y * u).sum()) / size
    turn = np.array([[cos, -sin], [sin, cos]], np.float32)
    return np.column_stack([turn, aim - turn @ centre])


def _laid(crop: Image, places: FloatArray, onto: FloatArray) -> FloatArray:
    """A face in grey, its landmarks where another's are."""
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    matrix = _similarity(places[RIGID], onto[RIGID])
    return cv2.warpAffine(grey, matrix, grey.shape, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)


def _oval(places: FloatArray, side: int) -> FloatArray:
    """(side, side) 1 on the face, falling to 0 around it."""
    matrix = _similarity(places[: len(PLACES)], PLACES)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    off = np.stack([x, y], axis=-1) @ matrix[:, :2].T + matrix[:, 2] - MIDDLE
    begins, softness = EDGE
    beyond = np.maximum(np.linalg.norm(off / REACH, axis=-1) - begins, 0)
    return np.asarray(np.exp(-((beyond / softness) ** 2)), np.float32)


def _blended(own: FloatArray, other: FloatArray, mask: FloatArray) -> FloatArray:
    """The finer bands of `other` where `mask` is 1, of `own` where it is 0; the coarsest mostly of `own`."""
    bands = []
    for _ in range(BANDS):
        below = [np.asarray(cv2.pyrDown(image), np.float32) for image in (own, other)]
        fine, wanted = (
            image - cv2.pyrUp(small, dstsize=image.shape[::-1])
            for image, small in zip((own, other), below, strict=True)
        )
        bands.append(fine + (wanted - fine) * mask)
        (own, other), mask = below, np.asarray(cv2.pyrDown(mask), np.float32)
    result = own + COARSE * (other - own) * mask
    for band in reversed(bands):
        result = cv2.pyrUp(result, dstsize=band.shape[::-1]) + band
    return np.asarray(result, np.float32)


def _lit(image: Image, rng: np.random.Generator) -> Image:
    """Lighter from one side."""
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.35)
    steps = np.linspace(-1, 1, len(image), dtype=np.float32)
    ramp = 1 + strength * (np.cos(angle) * steps + np.sin(angle) * steps[:, None])
    return np.asarray(np.clip(image * ramp[..., None], 0, 255), np.uint8)
