"""Test synthetic faces: expression, landmarks, and no test faces among their sources."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import clips
from fervid.core.records import FaceOutputs
from fervid.training import augment, expression_transfer, faces
from fervid.training.augment import MIRRORED, GeometricJitter
from fervid.training.dataset_paths import DatasetPaths
from fervid.training.expression_transfer import EXPRESSIONS, FacesWithLandmarks, Synthetic
from fervid.training.faces import SIDE, FaceDataset
from fervid.training.ferplus import CLASSES


@pytest.fixture(scope="module")
def sets(sources: DatasetPaths, cache: Path) -> tuple[FaceDataset, FaceDataset]:
    voted = faces.read_expressions(sources, "rafdb", "train", cache).faces
    return voted, faces.read_utkface(sources.utkface, 2, cache)


@pytest.fixture(scope="module")
def made(sets: tuple[FaceDataset, FaceDataset], tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return expression_transfer.load_synthetic(*sets, 2, 7, tmp_path_factory.mktemp("kept"))


def test_expressions_are_balanced(made: Synthetic) -> None:
    assert made.crops.shape == (12, SIDE, SIDE, 3)
    assert made.expression.tolist() == np.repeat(range(6), 2).tolist()
    assert np.isfinite(made.landmarks).all()
    assert set(made.gender) <= {0, 1}
    assert set(made.ethnicity) <= set(range(5))
    assert ((made.age > 0) & (made.age < 100)).all()


def test_faces_are_reproducible_and_cached(
    sets: tuple[FaceDataset, FaceDataset], made: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = expression_transfer.load_synthetic(*sets, 2, 7, tmp_path)
    assert again.digest() == made.digest()
    other = expression_transfer.load_synthetic(*sets, 2, 8, tmp_path)
    assert other.digest() != made.digest()
    monkeypatch.delattr(expression_transfer, "make_synthetic")
    assert expression_transfer.load_synthetic(*sets, 2, 7, tmp_path).digest() == made.digest()
    assert len(list(tmp_path.iterdir())) == 2


def test_missing_expression_is_named(sets: tuple[FaceDataset, FaceDataset]) -> None:
    voted, pictured = sets
    calm = FaceDataset.from_labels(list(voted.crops), votes=np.eye(8)[[CLASSES.index("neutral")] * len(voted)])
    with pytest.raises(ValueError, match=r"no training face of RAF-DB shows anger"):
        expression_transfer.make_synthetic(calm, pictured, 1, np.random.default_rng(0))


def test_votes_select_faces() -> None:
    fear = CLASSES.index("fear")
    votes = np.zeros((3, 8), np.float32)
    votes[:, fear] = (0.7, 0.3, 1.0)
    some = FaceDataset.from_labels([np.zeros((8, 8, 3), np.uint8)] * 3, votes=votes)
    assert expression_transfer.find_faces(some, fear).tolist() == [0, 2]


def located(crop: np.ndarray) -> FacesWithLandmarks:
    return FacesWithLandmarks.detect(FaceDataset.from_labels([crop]), np.array([0]))


def portrait(x: int = 222, y: int = 120, zoom: float = 0.65) -> np.ndarray:
    return clips.portrait(SIDE, SIDE, zoom, x, y)


def test_picture_without_face_is_left_out() -> None:
    assert len(located(clips.scenery(1, SIDE, SIDE)[0]).crops) == 0


def test_transfer_keeps_light_and_background() -> None:
    own = located(portrait()[..., ::-1].copy())  # blue skin, to tell the colours of the two faces apart
    crop, places = own.crops[0], own.landmarks[0]
    other = 255.0 - crop.mean(axis=2, dtype=np.float32)
    made = expression_transfer.transfer_expression(crop, places, other, 1.0)
    corners = (slice(0, 12), slice(0, 12))
    assert np.abs(made[corners].astype(int) - crop[corners]).max() <= 3
    x, y = places[2].astype(int)
    face = (slice(y - 20, y + 20), slice(x - 20, x + 20))
    before, after = (image[face].astype(float) for image in (crop, made))
    assert np.corrcoef(before.mean(axis=2).ravel(), after.mean(axis=2).ravel())[0, 1] < 0.2
    assert before[..., 2].mean() > before[..., 0].mean()
    assert after[..., 2].mean() > after[..., 0].mean()
    half = expression_transfer.transfer_expression(crop, places, other, 0.5)[face].astype(float)
    assert np.abs(half - before).mean() < np.abs(after - before).mean()


def test_face_is_laid_onto_landmarks_of_another() -> None:
    near, far = located(portrait(zoom=0.7)), located(portrait(210, 132, 0.55))
    laid = expression_transfer._warp_onto(near.crops[0], near.landmarks[0], far.landmarks[0])
    there = located(np.repeat(laid.astype(np.uint8)[..., None], 3, axis=2))
    assert np.abs(near.landmarks[0] - far.landmarks[0]).mean() > 5
    assert np.abs(there.landmarks[0] - far.landmarks[0]).mean() < 2


def test_pose_turns_with_head() -> None:
    front = np.array([[(30, 40), (60, 40), (45, 55), (45, 70), (20, 45), (70, 45)]], np.float32)
    assert np.allclose(expression_transfer.head_pose(front), [[0, 0, 0.5]])
    aside = front.copy()
    aside[0, 2] += (6, 3)
    assert np.allclose(expression_transfer.head_pose(aside), [[0, 0.2, 0.6]])
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
    assert np.allclose(expression_transfer.head_pose(aside @ turn.T), [[angle, 0.2, 0.6]], atol=1e-5)
    assert np.isfinite(expression_transfer.head_pose(np.zeros((1, 6, 2), np.float32))).all()


def test_landmarks_are_where_view_shows_them() -> None:
    crop = portrait()
    places = located(crop).landmarks[0]
    for placement in (
        GeometricJitter(),
        GeometricJitter(10, 1.1, 0.04, -0.03),
        GeometricJitter(-8, 0.95, -0.02, 0.01, mirrored=True),
    ):
        seen = located(augment.crop_to_input(crop, SIDE, placement))
        assert np.abs(seen.landmarks[0] - placement.transform_landmarks(places, SIDE, SIDE)).mean() < 3
    assert [MIRRORED[i] for i in MIRRORED] == list(range(6))


def test_teacher_is_asked_for_nothing() -> None:
    scores = expression_transfer.teacher_outputs(np.zeros((0, SIDE, SIDE, 3), np.uint8))
    assert all(len(getattr(scores, field.name)) == 0 for field in fields(FaceOutputs))


def test_challenge_expressions() -> None:
    assert [CLASSES[i] for i in expression_transfer.INDEX] == list(EXPRESSIONS)
