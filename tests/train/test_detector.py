"""A detector of our own: teachers are read rightly, mosaics keep their faces, cells answer for the right faces."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

import clips
from fervid import models
from fervid.detect import Detector
from fervid.records import Box, Face
from fervid.track import iou
from fervid.train import agreement, celeba, detector, photographs, state
from fervid.train.card import save_with_card
from fervid.train.centerface import CenterFace
from fervid.train.photographs import MIRRORED, Photographs, Seen, mosaic

EYES = np.float32([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])


def face(box: Box, score: float = 0.9) -> Face:
    corner, size = np.array(box[:2]), np.array(box[2:]) - np.array(box[:2])
    return Face(box, (corner + EYES * size).astype(np.float32), score)


def seen(*boxes: Box, sure: bool = True) -> Seen:
    return Seen(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([face(box).landmarks for box in boxes], np.float32).reshape(-1, 5, 2),
        np.full(len(boxes), sure),
    )


@pytest.fixture(scope="module")
def some() -> Photographs:
    """The astronaut, and a wall without a face."""
    portrait = clips.portrait(320, 240, 1.0)
    wall = np.full((200, 300, 3), 90, np.uint8)
    pictures = [cv2.imencode(".jpg", image[..., ::-1])[1].ravel() for image in (portrait, wall)]
    return Photographs(pictures, [seen((110, 60, 190, 140)), seen()])


def teacher(middle: np.ndarray, size: np.ndarray, offset: np.ndarray, points: np.ndarray) -> CenterFace:
    """A teacher that says the same of every picture."""
    shapes: list[tuple[int, ...]] = []

    def run(_: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        shapes.append(next(iter(feed.values())).shape)
        return [middle[None], size[None], offset[None], points[None]]

    session = SimpleNamespace(run=run, get_inputs=lambda: [SimpleNamespace(name="input.1")], shapes=shapes)
    return CenterFace(session, (64,))  # type: ignore[arg-type]


def test_the_teachers_maps_become_a_face_in_pixels_of_the_picture() -> None:
    middle, size, offset, points = (np.zeros((n, 16, 16), np.float32) for n in (1, 2, 2, 10))
    middle[0, 5, 7] = 0.8
    size[:, 5, 7] = np.log([4, 3])
    offset[:, 5, 7] = 0.25, -0.25
    points[:, 5, 7] = EYES[:, ::-1].ravel()
    known = teacher(middle, size, offset, points)
    (found,) = known(np.zeros((128, 96, 3), np.uint8))
    assert known.session.shapes == [(1, 3, 64, 64)]
    x, y = (7 + 0.5 - 0.25) * 4 * 2, (5 + 0.5 + 0.25) * 4 * 2
    assert found.box == pytest.approx((x - 12, y - 16, x + 12, y + 16))
    assert found.score == pytest.approx(0.8)
    np.testing.assert_allclose(found.landmarks, np.array([x - 12, y - 16]) + EYES * (24, 32), rtol=1e-5)


def test_faces_move_with_their_picture_and_change_sides_in_a_mirror() -> None:
    known = seen((10, 20, 50, 60))
    moved = known.moved(np.array([[2.0, 0, 5], [0, 2, -3]]))
    assert moved.boxes.tolist() == [[25, 37, 105, 117]]
    np.testing.assert_allclose(moved.landmarks, known.landmarks * 2 + (5, -3))
    mirrored = known.moved(np.array([[-1.0, 0, 100], [0, 1, 0]]))
    assert mirrored.boxes.tolist() == [[50, 20, 90, 60]]
    np.testing.assert_allclose(mirrored.landmarks[0, 0], (100 - known.landmarks[0, 1, 0], known.landmarks[0, 1, 1]))
    assert sorted(MIRRORED) == list(range(5))


@pytest.mark.parametrize(
    ("box", "there", "sure"),
    [
        ((10, 10, 40, 40), True, True),
        ((-9, 10, 21, 40), True, True),
        ((-15, 10, 15, 40), True, False),
        ((-29, 10, 1, 40), False, False),
        ((50, 50, 55, 55), True, False),
    ],
)
def test_a_face_that_is_cut_off_or_tiny_is_neither_face_nor_background(box: Box, there: bool, sure: bool) -> None:
    left = photographs._visible(seen(box), 100)
    assert len(left.sure) == there
    assert left.sure.any() == sure


def test_a_mosaic_is_made_by_its_seed_and_shows_the_faces_where_it_says(some: Photographs) -> None:
    first, again = (mosaic(some, 160, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1].boxes, again[1].boxes)
    loaded = models.load("blazeface-back", "detector", 2)
    known = Detector(loaded.session, {**loaded.card, "threshold": 0.5}, 40)
    agreed = []
    for seed in range(30):
        image, faces = mosaic(some, 160, np.random.default_rng(seed))
        assert (image.shape, image.dtype) == ((160, 160, 3), np.uint8)
        wanted = [face((*map(float, box),)) for box in faces[faces.sizes > 50].boxes]  # type: ignore[arg-type]
        overlap = iou([face.box for face in wanted], [face.box for face in known(image)])
        agreed += [row.max(initial=0) > 0.4 for row in overlap]
    assert len(agreed) >= 5
    assert np.mean(agreed) > 0.6


def test_photographs_are_labelled_once_and_boxes_follow_the_shipped_detector(tmp_path: Path) -> None:
    paths = []
    for i in range(12):
        paths.append(tmp_path / f"{i}.jpg")
        cv2.imwrite(str(paths[-1]), clips.portrait(320, 240, 0.8 + 0.04 * i)[..., ::-1])
    loaded = models.load("blazeface-back", "detector", 2)
    known = Detector(loaded.session, loaded.card)

    def shifted(image: np.ndarray) -> list[Face]:
        return [
            Face((x1 - 4, y1 - 12, x2 + 4, y2 + 2), np.resize(found.landmarks, (5, 2)), found.score)
            for found in known(image)
            for x1, y1, x2, y2 in [found.box]
        ]

    shifted.sides = (1,)  # type: ignore[attr-defined]
    labelled = Photographs.read(paths, shifted, known, tmp_path / "cache")  # type: ignore[arg-type]
    again = Photographs.read(paths, shifted, known, tmp_path / "cache")  # type: ignore[arg-type]
    assert labelled.digest() == again.digest()
    assert len(labelled) == 12
    for i, faces in enumerate(labelled.seen):
        (found,) = known(labelled.image(i))
        assert np.abs(faces.boxes[0] - found.box).max() < 0.1 * found.size


def test_of_a_film_some_frames_a_second_are_taken(tmp_path: Path) -> None:
    film = clips.write(tmp_path / "film.mp4", [clips.portrait(320, 240, 0.8 + 0.01 * i) for i in range(25)])
    known = agreement.detector("blazeface-back")

    def judge(image: np.ndarray) -> list[Face]:
        return [Face(found.box, np.resize(found.landmarks, (5, 2)), found.score) for found in known(image)]

    judge.sides = (1,)  # type: ignore[attr-defined]
    found = Photographs.read([film], judge, known, tmp_path / "cache")  # type: ignore[arg-type]
    assert [len(faces.sure) for faces in found.seen] == [1, 1, 1, 1]


def test_faces_seen_from_the_side_are_drawn_more_often(some: Photographs) -> None:
    turned = seen((110, 60, 190, 140))
    turned.landmarks[..., 0] = 150 + (turned.landmarks[..., 0] - 150) / 3
    both = Photographs.union([some, Photographs(some.pictures[:1], [turned])])
    assert both.chances.tolist() == pytest.approx([1 / 6, 1 / 6, 4 / 6])


def test_a_photograph_may_fade_into_what_is_behind_it() -> None:
    hard, soft = photographs._cover((40, 60), 0.0), photographs._cover((40, 60), 0.2)
    assert hard.min() == 1
    assert soft[20, 30] == 1
    assert soft[0, 0] == soft[-1, -1] == pytest.approx(0.5 / 8)
    assert (np.diff(soft[20, :8]) > 0).all()


def test_damaged_photographs_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"1 files are damaged, copy them again; the first: .*bad\.jpg"):
        Photographs._find([tmp_path / "bad.jpg"], None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("side", "stride"), [(12, 8), (60, 16), (200, 32)])
def test_the_cells_around_the_middle_of_a_face_answer_for_it_on_the_stride_of_its_size(side: int, stride: int) -> None:
    box = torch.tensor([[160.0 - side / 2, 160.0 - side / 2, 160.0 + side / 2, 160.0 + side / 2]])
    target = detector.wanted(box, torch.zeros(1, 5, 2), torch.tensor([True]), 320)
    strides = torch.cat([torch.full(((320 // s) ** 2,), s) for s in detector.STRIDES])
    assert set(strides[target.face[0]].tolist()) == {stride}
    assert 1 <= target.face.sum() <= 16
    assert target.asked.all()
    assert torch.equal(target.boxes[target.face], box.expand(int(target.face.sum()), 4))


def test_cells_in_a_doubtful_face_are_not_asked_and_an_empty_picture_is_all_background() -> None:
    box, points = torch.tensor([[100.0, 100, 200, 200]]), torch.zeros(1, 5, 2)
    doubtful = detector.wanted(box, points, torch.tensor([False]), 320)
    assert not doubtful.face.any()
    assert 0 < (~doubtful.asked).sum() < 250
    empty = detector.wanted(box[:0], points[:0], torch.tensor([], dtype=torch.bool), 320)
    assert not empty.face.any()
    assert empty.asked.all()


def test_right_answers_cost_next_to_nothing_and_wrong_ones_more() -> None:
    box, points = torch.tensor([[100.0, 100, 200, 200]]), torch.rand(1, 5, 2) * 100 + 100
    target = detector.wanted(box, points, torch.tensor([True]), 320)
    scores = torch.where(target.face, 20.0, -20.0)
    right = detector.Found(scores, target.boxes.clone(), target.landmarks.clone())
    assert detector.loss(right, target) < 1e-4
    for wrong in (
        right._replace(scores=-scores),
        right._replace(boxes=right.boxes + 20),
        right._replace(landmarks=right.landmarks + 20),
    ):
        assert detector.loss(wrong, target) > 0.1


def test_a_run_learns_and_goes_on_after_a_kill(
    some: Photographs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detector, "SAVE_EVERY", 2)
    recipe = detector.Recipe(side=64, steps=6, batch=2, warmup=2)
    whole = list(detector.fit(recipe, some, tmp_path / "whole"))
    assert [row["step"] for row in whole] == [2, 4, 6]
    begun = detector.fit(recipe, some, tmp_path / "killed")
    next(begun)
    begun.close()
    rest = list(detector.fit(recipe, some, tmp_path / "killed"))
    assert [row["loss"] for row in rest] == [row["loss"] for row in whole[1:]]
    ours, theirs = (state.read(tmp_path / name)[2] for name in ("killed", "whole"))
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    with pytest.raises(ValueError, match="of another run: rate differ"):
        list(detector.fit(detector.Recipe(side=64, steps=6, batch=2, warmup=2, rate=1.0), some, tmp_path / "killed"))


def test_the_exported_file_takes_pictures_of_any_size_and_answers_as_torch() -> None:
    import onnxruntime

    torch.manual_seed(0)
    network = detector.FaceDetector(16).eval()
    session = onnxruntime.InferenceSession(detector.to_onnx(network).SerializeToString())
    for shape in ((1, 64, 96, 3), (3, 32, 32, 3), (1, 160, 64, 3)):
        images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        given = session.run(["boxes", "landmarks", "scores"], {"images": images})
        with torch.no_grad():
            expected = detector._Exported(network)(torch.from_numpy(images))
        for ours, theirs in zip(given, expected, strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-3)


def test_agreement_counts_found_false_and_how_far_the_eyes_are_off() -> None:
    picture = np.zeros((100, 100, 3), np.uint8)
    theirs = [face((10, 10, 40, 40)), face((60, 60, 90, 90)), face((60, 10, 70, 20)), face((5, 70, 35, 99), 0.3)]
    ours = [face((12, 10, 42, 40)), face((5, 70, 35, 99)), face((45, 45, 58, 58))]
    judge = type("Judge", (), {"sides": (100,), "__call__": lambda *_: theirs})()
    found = agreement.agreement(lambda _: ours, [picture], judge)
    assert (found["faces"], found["found"], found["false"], found["pictures"]) == (2, 0.5, 1, 1)
    assert found["landmarks"] == pytest.approx(2 / 12, abs=1e-3)


def test_detectors_are_timed_on_the_sizes_that_they_take(tmp_path: Path) -> None:
    card = {**detector.CARD, **detector.OPERATION, "name": "our"}
    save_with_card(detector.to_onnx(detector.FaceDetector(16)), card, tmp_path / "our.onnx")
    known = [agreement.detector(name) for name in ("blazeface-back", str(tmp_path / "our.onnx"))]
    fixed, ours = agreement.milliseconds(known, 96, repeat=2)
    assert np.isnan(fixed)
    assert ours > 0


def test_every_tenth_person_is_held_out(tmp_path: Path) -> None:
    photos = [celeba.Photo(tmp_path / f"{person}.png", person) for person in (3, 10, 20, 21)]
    for photo in photos:
        cv2.imwrite(str(photo.path), np.full((8, 9, 3), photo.person, np.uint8))
    assert [int(picture[0, 0, 0]) for picture in agreement.photographs(photos)] == [10, 20]
