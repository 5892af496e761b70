"""Make labelled clips with faces for the toy models, and feature tables and data sets without clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import toy_models
from fervid.analysis.extractor import Extractor
from fervid.analysis.options import Options
from fervid.analysis.pooling import STATISTICS
from fervid.learn.dataset import Dataset
from fervid.learn.dataset_layouts import Sample
from fervid.learn.feature_extraction import IDENTITY
from fervid.learn.feature_table import FeatureTable
from fervid.learn.labeled_features import LabeledFeatures, label_features
from fervid.models import registry

YELLOW, CYAN, MAGENTA = (255, 255, 0), (0, 255, 255), (255, 0, 255)
"""Faces of three people, less similar than `min_person_similarity` of the toy face model."""

ABOUT = {
    "face": "main",
    "face_model": "toy-face_model",
    "face_model_sha256": "0" * 64,
    "expressions": ["dark", "bright"],
    "detector": "toy-detector",
    "min_person_similarity": 0.62,
}


def picture(*colours: Sequence[float]) -> np.ndarray:
    """Draw an image (256, 256, 3), black, with a face of 16 pixels per colour, one below the other."""
    image = np.zeros((256, 256, 3), np.uint8)
    for i, colour in enumerate(colours):
        image[32 + 32 * i : 48 + 32 * i, 80:96] = colour
    return image


def frames(folder: Path, colours: Sequence[Sequence[float] | None], name: str = "{}.png") -> Path:
    """Write a folder with an image per colour; None draws no face."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, colour in enumerate(colours):
        image = picture() if colour is None else picture(colour)
        assert cv2.imwrite(str(folder / name.format(i)), image[..., ::-1])
    return folder


def detector(place: Path, **card: Any) -> Path:
    """Write a detector that finds the faces of `picture`."""
    return toy_models.detector(place / "detector.onnx", **{"new_track_threshold": 0.5, "smallest_face": 0.04, **card})


def face_model(place: Path, **card: Any) -> Path:
    """Write a face model whose embedding and identity are the mean colour, 0 to 1."""
    scaled = {"size": 8, "colour": "RGB", "mean": [0.0] * 3, "scale": [1 / 255] * 3}
    return toy_models.face_model(place / "face_model.onnx", **{"input": scaled, **card})


def extractor(place: Path, options: Options | None = None, **card: Any) -> Extractor:
    """Combine both; `card` is that of the network."""
    found = registry.load_model(str(detector(place)), "detector")
    return Extractor(found, registry.load_model(str(face_model(place, **card)), "face_model"), options or Options())


def samples(
    labels: Sequence[str | None],
    people: Sequence[str | None] | None = None,
    splits: Sequence[str | None] | None = None,
    ratings: Sequence[Mapping[str, float]] | None = None,
) -> tuple[Sample, ...]:
    """Make samples of files that do not exist."""
    n = len(labels)
    columns = (labels, people or [None] * n, splits or [None] * n, ratings or [{}] * n)
    return tuple(Sample(Path(f"{i}.mp4"), *row, source=f"list:{i}") for i, row in enumerate(zip(*columns, strict=True)))


def table(
    clips: Sequence[Sample], means: np.ndarray, *, noise: float = 0.1, strides: Sequence[int] = (), seed: int = 0
) -> FeatureTable:
    """Make features of clips: three values per statistic, scattered around `means` (n, 3)."""
    rng = np.random.default_rng(seed)

    def statistics() -> dict[str, np.ndarray]:
        names = [f"{name}.{kind}" for name in ("embedding", "expression") for kind in STATISTICS]
        columns = {name: rng.normal(1, noise, (len(clips), 3)).astype(np.float32) for name in names}
        for matrix in columns.values():
            matrix += means.astype(np.float32)
        return columns

    people = sorted({str(sample.person) for sample in clips})
    identity = np.eye(len(people), dtype=np.float32)[[people.index(str(sample.person)) for sample in clips]]
    coarse = {stride: statistics() for stride in strides}
    return FeatureTable(tuple(clips), {**statistics(), IDENTITY: identity}, np.full(len(clips), 16), ABOUT, coarse)


def told_apart(
    labels: Sequence[str] = ("calm", "joy"), people: int = 6, each: int = 2, **more: Any
) -> tuple[tuple[Sample, ...], FeatureTable]:
    """Make clips of people, `each` per label; the value with the index of the label is higher in all statistics."""
    rows = [(label, f"p{person}") for person in range(people) for label in labels for _ in range(each)]
    clips = samples([label for label, _ in rows], [person for _, person in rows])
    return clips, table(clips, 3 * np.eye(3)[[labels.index(label) for label, _ in rows]], **more)


def known(
    labels: Sequence[str] = ("calm", "joy"),
    no_face_samples: Sequence[Sample] = (),
    target: str | None = None,
    **more: Any,
) -> LabeledFeatures:
    """Make these clips with their labels."""
    clips, features = told_apart(labels, **more)
    return label_features(
        Dataset("set", (*clips, *no_face_samples)),
        replace(features, no_face_samples=tuple(no_face_samples)),
        target=target,
    )


def parted(no_face_samples: Sequence[Sample] = (), held: Sequence[str] = ("val",), **more: Any) -> LabeledFeatures:
    """Make clips of eight people, the last two of whom are held out."""
    clips, features = told_apart(people=8, **more)
    splits = {"p6": held[0], "p7": held[-1]}
    clips = tuple(replace(clip, split=splits.get(clip.person, "train")) for clip in clips)
    return label_features(
        Dataset("set", (*clips, *no_face_samples)),
        replace(features, samples=clips, no_face_samples=tuple(no_face_samples)),
    )


def rated(count: int = 30, no_face_samples: Sequence[Sample] = (), **more: Any) -> LabeledFeatures:
    """Make clips of ten people whose valence grows with the first value."""
    values = np.linspace(1, 9, count)
    people = [f"p{i % 10}" for i in range(count)]
    clips = samples([None] * count, people, ratings=[{"valence": value} for value in values])
    features = table(clips, (values - 5)[:, None] * [1, 0, 0], **more)
    return label_features(
        Dataset("set", (*clips, *no_face_samples)),
        replace(features, no_face_samples=tuple(no_face_samples)),
        target="valence",
    )
