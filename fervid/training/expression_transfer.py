"""Synthesise expressive faces: transfer the expressions of some people to the neutral faces of others.

The synthetic faces of the fourth ABAW challenge, on which Jeong et al. (arXiv 2207.10025) train, are not public; these
stand in for them. An expressive face, or the average of a few similar ones, is warped onto a neutral face by its
landmarks. Within an oval the finer bands of a Laplacian pyramid are copied (Burt and Adelson, ACM TOG 1983); the
coarser ones, which hold lighting and skin tone, only in part. The neutral face is then multiplied by the ratio of the
result to itself (Liu et al., SIGGRAPH 2001), which preserves its colours, and lit from a random side. Blur, compression
and low resolution are added later by `fervid.training.augment`.

Only training faces of RAF-DB and UTKFace are used. The shipped network decides which faces of UTKFace are neutral, and
estimates age, gender and ethnicity.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fervid.core.array_cache import dataclass_arrays, digest, load_or_compute
from fervid.core.records import FaceOutputs, FloatArray, Image
from fervid.models import registry
from fervid.training.expression_evaluation import run_on_crops
from fervid.training.faces import FaceDataset, make_close_face_finder
from fervid.training.ferplus import CLASSES

EXPRESSIONS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
INDEX = np.array([CLASSES.index(name) for name in EXPRESSIONS])
TEACHER = "mobilenetv1"
MIN_VOTES = 0.6  # share of the votes
MIN_NEUTRAL = 0.6  # predicted probability
MAX_EXPRESSIVE = 900  # faces per expression
MAX_NEUTRAL = 1200  # faces per data set
MIN_FACE = 40  # pixels, in a cached crop
POSE_FRACTION = 6  # the 1/6 of the expressive faces whose pose is closest are candidates
MAX_AVERAGED = 3  # similar expressive faces
PYRAMID_LEVELS = 4
COARSE_WEIGHT = 0.35  # of the expressive face, in the residual below the pyramid
RIGID_LANDMARKS = [0, 1, 2, 4, 5]  # eyes, nose and ears, which no expression moves
REFERENCE_LANDMARKS = np.array([(33, 40), (63, 40), (48, 58), (48, 72)], np.float32)
"""Eyes, nose and mouth in the frame of reference of the oval."""
OVAL_CENTRE = np.array([48, 57], np.float32)
OVAL_AXES = np.array([36, 40], np.float32)
OVAL_EDGE_START = 0.75  # in half axes
OVAL_EDGE_SOFTNESS = 0.16  # in half axes


@dataclass(frozen=True, slots=True, eq=False)
class Synthetic:
    """n synthetic faces.

    Attributes:
        crops: (n, SIDE, SIDE, 3) uint8 RGB, cropped as in `fervid.training.faces`.
        expression: (n,) index into `EXPRESSIONS`.
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
        """Hash pixels and labels with SHA-256."""
        return digest(dataclass_arrays(self))


@dataclass(frozen=True, slots=True, eq=False)
class FacesWithLandmarks:
    """Crops with detected landmarks and the teacher's outputs."""

    crops: Image
    landmarks: FloatArray
    scores: FaceOutputs

    @classmethod
    def detect(cls, faces: FaceDataset, rows: NDArray[np.intp]) -> FacesWithLandmarks:
        """Detect the landmarks of the given rows; drop crops in which no face is detected."""
        find_face = make_close_face_finder(MIN_FACE)
        detections = [(row, find_face(faces.crops[row])) for row in rows]
        kept = np.array([row for row, face in detections if face is not None], np.intp)
        landmarks = [face.landmarks for _, face in detections if face is not None]
        crops = faces.crops[kept]
        return cls(crops, np.array(landmarks, np.float32).reshape(-1, 6, 2), teacher_outputs(crops))


def teacher_outputs(crops: Image) -> FaceOutputs:
    """Run the teacher on cached crops."""
    return run_on_crops(registry.load_model(TEACHER, "face_model"), crops)


def load_synthetic(expressions: FaceDataset, attributes: FaceDataset, each: int, seed: int, cache: Path) -> Synthetic:
    """Load the synthetic training set from the folder `cache`, or make it.

    The sources are training faces with votes, and those of UTKFace; `each` is the number of faces per expression.
    """
    inputs = (expressions.digest(), attributes.digest(), registry.manifest()[TEACHER]["sha256"], each, seed)
    path = cache / f"synthetic-{hashlib.sha256(repr(inputs).encode()).hexdigest()[:16]}.npz"
    return Synthetic(
        **load_or_compute(
            path, lambda: dataclass_arrays(make_synthetic(expressions, attributes, each, np.random.default_rng(seed)))
        )
    )


def make_synthetic(expressions: FaceDataset, attributes: FaceDataset, each: int, rng: np.random.Generator) -> Synthetic:
    """Make `each` faces of every expression.

    Raises:
        ValueError: There is no face with one of the expressions, or no neutral face.
    """
    expressive = [
        FacesWithLandmarks.detect(expressions, sample_rows(rng, find_faces(expressions, number), MAX_EXPRESSIVE))
        for number in INDEX
    ]
    without_expression = find_faces(expressions, CLASSES.index("neutral"))
    candidates = sample_rows(rng, np.arange(len(attributes)), 4 * MAX_NEUTRAL)
    predicted = teacher_outputs(attributes.crops[candidates]).expression[:, CLASSES.index("neutral")] > MIN_NEUTRAL
    neutral = [
        FacesWithLandmarks.detect(expressions, sample_rows(rng, without_expression, MAX_NEUTRAL)),
        FacesWithLandmarks.detect(attributes, candidates[predicted][:MAX_NEUTRAL]),
    ]
    for name, faces in zip((*EXPRESSIONS, "neutral"), (*expressive, neutral[0]), strict=True):
        if not len(faces.crops):
            raise ValueError(f"no training face of RAF-DB shows {name}; see models/README.md for what belongs there")
    crops, landmarks = (np.concatenate([getattr(part, name) for part in neutral]) for name in ("crops", "landmarks"))
    age, gender, ethnicity = (
        np.concatenate([getattr(part.scores, name) for part in neutral]) for name in ("age", "gender", "ethnicity")
    )
    chosen = rng.integers(0, len(crops), (len(EXPRESSIONS), each))
    made = [
        synthesize_face(crops[i], landmarks[i], part, rng)
        for part, rows in zip(expressive, chosen, strict=True)
        for i in rows
    ]
    rows = chosen.ravel()
    return Synthetic(
        np.stack(made),
        np.repeat(np.arange(len(EXPRESSIONS)), each),
        landmarks[rows],
        age[rows],
        (gender[rows] < 0.5).astype(np.int64),
        ethnicity[rows].argmax(axis=1),
    )


def find_faces(faces: FaceDataset, number: int) -> NDArray[np.intp]:
    """Find the faces whose votes agree on class `number` of `CLASSES`."""
    return np.flatnonzero(faces.votes[:, number] > MIN_VOTES)


def sample_rows(rng: np.random.Generator, rows: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """Sample at most `count` rows without replacement."""
    return rng.permutation(rows)[:count]


def head_pose(landmarks: FloatArray) -> FloatArray:
    """Describe head poses by landmarks (n, 6, 2): (n, 3).

    Roll in radians; the horizontal offset of the nose from the midpoint of the eyes in units of the eye distance, which
    grows with yaw; and the vertical position of the nose between eyes (0) and mouth (1), which grows with pitch.
    """
    right, left, nose, mouth = (landmarks[:, i] for i in range(4))
    eye_line = left - right
    eye_distance = np.maximum(np.linalg.norm(eye_line, axis=1), 1e-3)
    along = eye_line / eye_distance[:, None]
    down = np.stack([-along[:, 1], along[:, 0]], axis=1)
    nose_offset, mouth_offset = nose - (left + right) / 2, mouth - (left + right) / 2
    face_height = (mouth_offset * down).sum(axis=1)
    face_height = np.where(np.abs(face_height) < 0.1 * eye_distance, 0.1 * eye_distance, face_height)
    return np.stack(
        [
            np.arctan2(eye_line[:, 1], eye_line[:, 0]),
            (nose_offset * along).sum(axis=1) / eye_distance,
            (nose_offset * down).sum(axis=1) / face_height,
        ],
        axis=1,
    ).astype(np.float32)


def synthesize_face(
    crop: Image, landmarks: FloatArray, expressive: FacesWithLandmarks, rng: np.random.Generator
) -> Image:
    """Transfer an expression to a neutral face from a random expressive face of similar yaw."""
    yaw = head_pose(expressive.landmarks)[:, 1]
    near = np.argsort(np.abs(yaw - head_pose(landmarks[None])[0, 1]))[: max(len(yaw) // POSE_FRACTION, 1)]
    first = rng.choice(near)
    count = int(rng.integers(1, MAX_AVERAGED + 1))
    similar = near[np.argsort(-_correlation(expressive.crops[near], expressive.crops[first]))[:count]]
    warped = [_warp_onto(expressive.crops[i], expressive.landmarks[i], landmarks) for i in similar]
    amount = rng.uniform(0.7, 1.0)
    return _relight(transfer_expression(crop, landmarks, np.mean(warped, axis=0, dtype=np.float32), amount), rng)


def transfer_expression(crop: Image, landmarks: FloatArray, expressive: FloatArray, amount: float) -> Image:
    """Blend the details of another face into a crop.

    Args:
        crop: (s, s, 3) uint8 RGB.
        landmarks: (6, 2) of the crop.
        expressive: (s, s) the other face in grey, warped onto the landmarks.
        amount: Blending weight of the other face's details, above 0 and up to 1.
    """
    own = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)
    mask = amount * _oval_mask(landmarks, len(crop))
    inside = mask > 0.5 * amount
    standardised = (expressive - expressive[inside].mean()) / (expressive[inside].std() + 1)
    other = standardised * (own[inside].std() / 2 + 22) + own[inside].mean()
    blended = np.clip(_blend_pyramids(own, np.asarray(other, np.float32), mask), 0, 255)
    return np.asarray(np.clip(crop * ((blended + 8) / (own + 8))[..., None], 0, 255), np.uint8)


def _correlation(crops: Image, reference: Image) -> FloatArray:
    """(n,) correlation of each crop with the reference, in grey at 16 by 16 pixels."""

    def standardise(crop: Image) -> FloatArray:
        grey = cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), (16, 16), interpolation=cv2.INTER_AREA)
        centred = grey.ravel().astype(np.float32) - grey.mean(dtype=np.float32)
        return np.asarray(centred / (np.linalg.norm(centred) + 1e-6))

    return np.stack([standardise(crop) for crop in crops]) @ standardise(reference)


def _fit_similarity(source: FloatArray, target: FloatArray) -> FloatArray:
    """Fit the similarity transform (2, 3) that maps points (n, 2) to others with the least squared error."""
    source_centre, target_centre = source.mean(axis=0), target.mean(axis=0)
    (x, y), (u, v) = (source - source_centre).T, (target - target_centre).T
    size = max(float((x**2 + y**2).sum()), 1e-6)
    cos, sin = float((x * u + y * v).sum()) / size, float((x * v - y * u).sum()) / size
    rotation = np.array([[cos, -sin], [sin, cos]], np.float32)
    return np.column_stack([rotation, target_centre - rotation @ source_centre])


def _warp_onto(crop: Image, landmarks: FloatArray, target: FloatArray) -> FloatArray:
    """Warp a face in grey so that its landmarks lie on those of another."""
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    matrix = _fit_similarity(landmarks[RIGID_LANDMARKS], target[RIGID_LANDMARKS])
    return cv2.warpAffine(grey, matrix, grey.shape, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)


def _oval_mask(landmarks: FloatArray, side: int) -> FloatArray:
    """(side, side) mask of the face, 1 inside, with a Gaussian falloff to 0 at the edge."""
    matrix = _fit_similarity(landmarks[: len(REFERENCE_LANDMARKS)], REFERENCE_LANDMARKS)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    offset = np.stack([x, y], axis=-1) @ matrix[:, :2].T + matrix[:, 2] - OVAL_CENTRE
    beyond = np.maximum(np.linalg.norm(offset / OVAL_AXES, axis=-1) - OVAL_EDGE_START, 0)
    return np.asarray(np.exp(-((beyond / OVAL_EDGE_SOFTNESS) ** 2)), np.float32)


def _blend_pyramids(own: FloatArray, other: FloatArray, mask: FloatArray) -> FloatArray:
    """Blend the Laplacian bands of `other` into `own` by the mask, and the coarse residual by `COARSE_WEIGHT`."""
    bands = []
    for _ in range(PYRAMID_LEVELS):
        reduced = [np.asarray(cv2.pyrDown(image), np.float32) for image in (own, other)]
        own_band, other_band = (
            image - cv2.pyrUp(small, dstsize=image.shape[::-1])
            for image, small in zip((own, other), reduced, strict=True)
        )
        bands.append(own_band + (other_band - own_band) * mask)
        (own, other), mask = reduced, np.asarray(cv2.pyrDown(mask), np.float32)
    result = own + COARSE_WEIGHT * (other - own) * mask
    for band in reversed(bands):
        result = cv2.pyrUp(result, dstsize=band.shape[::-1]) + band
    return np.asarray(result, np.float32)


def _relight(image: Image, rng: np.random.Generator) -> Image:
    """Add a brightness gradient in a random direction."""
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.35)
    steps = np.linspace(-1, 1, len(image), dtype=np.float32)
    ramp = 1 + strength * (np.cos(angle) * steps + np.sin(angle) * steps[:, None])
    return np.asarray(np.clip(image * ramp[..., None], 0, 255), np.uint8)
