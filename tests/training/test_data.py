"""Test reading, cleaning, cropping and caching of the data sets, and the errors on incomplete ones."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import clips
import mini_datasets
from fervid.analysis.align import align_face
from fervid.analysis.detector import Detector
from fervid.analysis.face_model import preprocess
from fervid.core.records import Face
from fervid.training import augment, faces, ferplus, lfw, utkface
from fervid.training.augment import GeometricJitter
from fervid.training.dataset_paths import DatasetPaths
from fervid.training.export import card
from fervid.training.faces import FaceDataset
from fervid.training.ferplus import CLASSES
from fervid.training.network import to_tensor

ASTRONAUT = Face((158, 58, 282, 182), np.float32([[196, 104], [246, 98]]), 0.9)


def test_votes_are_cleaned_as_published(sources: DatasetPaths) -> None:
    votes = ferplus.read_votes(sources.ferplus)
    assert list(votes["Training"]) == [f"fer000000{i}.png" for i in (0, 1, 3, 4, 5, 6, 7, 8, 9)]
    first = dict(zip(CLASSES, votes["Training"]["fer0000000.png"], strict=True))
    assert first["happiness"] == 1.0
    shared = dict(zip(CLASSES, votes["PrivateTest"]["fer0000013.png"], strict=True))
    assert (shared["neutral"], shared["sadness"], shared["fear"]) == pytest.approx((0.4, 0.4, 0.2))
    assert votes["PublicTest"]["fer0000010.png"].sum() == pytest.approx(1)


def test_copies_in_other_splits_are_dropped(sources: DatasetPaths, detector: Detector) -> None:
    train = ferplus.read_split(sources.ferplus, "Training", detector)
    assert "fer0000003.png" in ferplus.read_votes(sources.ferplus)["Training"]
    assert train.names == tuple(f"fer000000{i}.png" for i in (0, 1, 4, 5, 6, 7, 8, 9))
    assert train.detected.all()
    assert train.majority.tolist() == [True, False, *[True] * 6]
    assert [CLASSES[label] for label in train.labels[[0, 2, 7]]] == ["happiness", "contempt", "anger"]
    assert ferplus.read_split(sources.ferplus, "PublicTest", detector).names == ("fer0000010.png", "fer0000011.png")


def test_missing_and_damaged_stills_are_named(copied: DatasetPaths, detector: Detector) -> None:
    place = copied.ferplus / "data" / "FER2013Train"
    (place / "fer0000001.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"fer0000001\.png is damaged"):
        ferplus.read_split(copied.ferplus, "Training", detector)
    for picture in place.iterdir():
        picture.unlink()
    with pytest.raises(FileNotFoundError, match=r"9 images are missing.*: \S+fer0000000\.png, \S+1\.png, \S+3\.png$"):
        ferplus.read_split(copied.ferplus, "PublicTest", detector)


def test_first_labels_are_matched_by_pixels(sources: DatasetPaths) -> None:
    stills = np.stack([np.repeat(mini_datasets.still(i)[..., None], 3, axis=2) for i in (13, 8, 4, 6, 5)])
    found = ferplus.fer2013_labels(sources.fer2013, stills)
    assert [CLASSES[label] if label >= 0 else None for label in found] == [None, "fear", None, "surprise", "disgust"]


def test_missing_first_labels_are_reported(copied: DatasetPaths) -> None:
    stills = np.zeros((1, 48, 48, 3), np.uint8)
    damaged = [copied.fer2013 / "angry" / "im0000009.jpg", copied.fer2013 / "happy" / "im0000014.jpg"]
    for path in damaged:
        path.write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=rf"2 images .* the first: {damaged[0]}, {damaged[1]}$"):
        ferplus.fer2013_labels(copied.fer2013, stills)
    with pytest.raises(FileNotFoundError, match=r"has no images in folders angry, disgust, .*, surprise"):
        ferplus.fer2013_labels(copied.utkface, stills)


def test_portraits_are_split_by_hash(tmp_path: Path) -> None:
    names = [f"{age}_{age % 2}_{age % 5}_2017{age:04}.jpg.chip.jpg" for age in range(1, 60)]
    for name in [*names, "61_1_20170109.jpg.chip.jpg"]:
        (tmp_path / name).write_bytes(name.encode())
    splits = [utkface.read_split(tmp_path, split) for split in (0, 1, 2)]
    assert sum(map(len, splits)) == 59
    assert all(hashlib.sha256(p.path.name.encode()).digest()[0] % 10 == 0 for p in splits[0])
    copy = splits[0][0]
    (tmp_path / f"99_{copy.path.name.split('_', 1)[1]}").write_bytes(copy.path.read_bytes())
    assert sum(len(utkface.read_split(tmp_path, split)) for split in (0, 1, 2)) == 59
    assert (copy.gender, copy.race) == (copy.age % 2, copy.age % 5)


def test_photos_must_be_listed_and_present(sources: DatasetPaths) -> None:
    paths, people = faces.list_celeba(sources.celeba)
    assert [path.name for path in paths] == ["000007.jpg", "000012.jpg", "000020.jpg", "000031.jpg"]
    assert people == [31, 2880, 5, 2880]
    with pytest.raises(FileNotFoundError, match=r"identity_CelebA\.txt"):
        faces.list_celeba(sources.utkface)


def test_lfw_pairs_have_folds(sources: DatasetPaths) -> None:
    assert lfw.read_pairs(sources.pairs) == [
        lfw.Pair("Ann_Lee_0001.jpg", "Ann_Lee_0003.jpg", True, 0),
        lfw.Pair("Ann_Lee_0001.jpg", "Bo_0001.jpg", False, 0),
        lfw.Pair("Bo_0001.jpg", "Bo_0002.jpg", True, 1),
        lfw.Pair("Ann_Lee_0003.jpg", "Bo_0002.jpg", False, 1),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 1\nAnn 1 2\n", "announces 2 pairs and has 1"),
        ("1 1\nAnn 1 2\nAnn 1 Bo 1\nBo 1 2\n", "announces 2 pairs and has 3"),
        ("1 1\nAnn 1 2\nAnn 1 Bo 1 2\n", "'Ann 1 Bo 1 2' names no pair"),
        ("1 1\nAnn 1 2\nBo 1\n", "'Bo 1' names no pair"),
        ("1 1\nAnn 1 two\nAnn 1 Bo 1\n", "'Ann 1 two' names no pair"),
        ("1 1\nAnn 1 2\nAnn Bo 1 1\n", "'Ann Bo 1 1' names no pair"),
        ("Ann 1 2\nAnn 1 Bo 1\n", "does not begin with"),
        ("", "does not begin with"),
    ],
)
def test_truncated_pairs_are_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"pairs\.txt.*{said}"):
        lfw.read_pairs(path)


def test_fold_threshold_comes_from_other_folds() -> None:
    same = [True, True, False, False] * 2
    pairs = [lfw.Pair("a", "b", same[i], i // 4) for i in range(8)]
    likeness = np.float32([0.9, 0.8, 0.1, 0.2, 0.5, 0.4, 0.3, 0.85])
    # fold 0 uses the threshold 0.4, the best of fold 1, where 0.85 is wrong; fold 1 uses 0.8, the best of fold 0
    assert lfw.correct_pairs(likeness, pairs).tolist() == [True, True, True, True, False, False, True, False]


def test_dataset_paths_name_all_missing_sets(copied: DatasetPaths, tmp_path: Path) -> None:
    places = (copied.ferplus, copied.fer2013, copied.utkface, copied.celeba, copied.lfw, copied.pairs)
    assert all(place.exists() and place.is_relative_to(copied.root) for place in places)
    for gone in (copied.utkface, copied.lfw):
        shutil.rmtree(gone)
    with pytest.raises(FileNotFoundError, match=rf"these data sets are missing: {copied.utkface}, {copied.lfw};"):
        DatasetPaths(copied.root)
    with pytest.raises(FileNotFoundError) as caught:
        DatasetPaths(tmp_path / "nowhere")
    assert all(str(tmp_path / "nowhere" / place.relative_to(copied.root)) in str(caught.value) for place in places)


def test_faces_have_labels_of_their_set_only(sources: DatasetPaths, cache: Path) -> None:
    stills = faces.read_ferplus(sources.ferplus, sources.fer2013, "Training", cache)
    assert stills.votes.sum(axis=1) == pytest.approx(np.ones(8))
    assert stills.first.tolist() == [4, 6, -1, 2, 7, 5, 3, 0]
    portraits = faces.read_utkface(sources.utkface, 2, cache)
    found = zip(portraits.age, portraits.gender, portraits.ethnicity, strict=True)
    assert sorted(found) == [(1, 0, 0), (33, 1, 1), (52, 0, 2), (109, 1, 3)]
    people = faces.read_celeba(sources.celeba, cache)
    assert len(people) == 3, "one shows no face"
    assert people.person[1] == people.person[2] != people.person[0]
    for known, part in (("votes first", stills), ("age gender ethnicity", portraits), ("person", people)):
        assert part.crops.shape == (len(part), faces.SIDE, faces.SIDE, 3)
        for name in {"first", "age", "gender", "ethnicity", "person"} - set(known.split()):
            assert getattr(part, name).tolist() == [faces.UNKNOWN] * len(part)
    assert not np.any(portraits.votes) | np.any(people.votes)


def test_still_is_cropped_at_detected_face(sources: DatasetPaths, cache: Path, detector: Detector) -> None:
    split = ferplus.read_split(sources.ferplus, "PublicTest", detector)
    kept = faces.read_ferplus(sources.ferplus, sources.fer2013, "PublicTest", cache)
    for image, face, cut in zip(split.images, split.faces, kept.crops, strict=True):
        seen = augment.crop_to_input(cut, 96).astype(float)
        assert np.abs(seen - align_face(image, face, 96)).mean() < 2


def test_split_without_faces_is_refused(
    sources: DatasetPaths, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ferplus, "detect_face", lambda *_: None)
    with pytest.raises(ValueError, match=r"no face was found in the \d+ images of PublicTest"):
        ferplus.read_split(sources.ferplus, "PublicTest", detector)


def test_crops_are_cached_until_image_changes(copied: DatasetPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = copied.root / "kept"
    first = faces.read_utkface(copied.utkface, 1, cache)
    with monkeypatch.context() as patched:
        patched.setattr(faces, "crop_all", lambda *_: pytest.fail("cut again"))
        again = faces.read_utkface(copied.utkface, 1, cache)
    for field in fields(FaceDataset):
        before, after = getattr(first, field.name), getattr(again, field.name)
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)
    assert first.digest() == again.digest()
    next(copied.utkface.glob("35_*")).unlink()
    assert faces.read_utkface(copied.utkface, 1, cache).age.tolist() == [27]
    assert len(list(cache.iterdir())) == 2
    assert not list(cache.glob("*.partial*"))


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no files"):
        faces.read_celeba(tmp_path, tmp_path / "cache")
    (tmp_path / "identity_CelebA.txt").write_text("000001.jpg 3\n")
    with pytest.raises(ValueError, match="no face was found in 0 images"):
        faces.read_celeba(tmp_path, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("column", [field.name for field in fields(FaceDataset)])
def test_digest_changes_with_one_value(column: str) -> None:
    some = mini_datasets.faces(9, 1, "votes", "first", "age", "gender", "ethnicity", "person")
    changed = getattr(some, column).copy()
    changed.flat[-1] += 1
    assert replace(some).digest() == some.digest() != replace(some, **{column: changed}).digest()


def test_union_keeps_faces_and_labels_in_order() -> None:
    voted, aged = mini_datasets.faces(3, 1, "votes", "first"), mini_datasets.faces(2, 2, "age")
    both = FaceDataset.concat([voted, aged])
    assert len(both) == 5
    np.testing.assert_array_equal(both.crops, np.concatenate([voted.crops, aged.crops]))
    np.testing.assert_array_equal(both.votes, np.concatenate([voted.votes, np.zeros((2, 8))]))
    assert both.first.tolist() == [*voted.first, -1, -1]
    assert both.age.tolist() == [-1, -1, -1, *aged.age]


def test_damaged_photos_are_counted(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.jpg" for i in range(6)]
    for path in paths:
        path.write_bytes(b"not a picture")
    cv2.imwrite(str(paths[2]), clips.portrait())
    named = ", ".join(str(paths[i]) for i in (0, 1, 3))
    with pytest.raises(ValueError, match=f"5 images are damaged.*the first: {named}$"):
        faces.crop_all(paths, lambda _: None)


def test_crops_of_large_images(tmp_path: Path) -> None:
    paths, seen = [tmp_path / f"{i}.png" for i in range(3)], []
    for path, size in zip(paths, [(100, 80), (2048, 1024), (60, 700)], strict=True):
        cv2.imwrite(str(path), np.full((*size, 3), (10, 20, 30), np.uint8))

    def locate(image: np.ndarray) -> Face | None:
        seen.append(image.shape)
        return None if image.shape[0] == 512 else Face((10, 10, 30, 30), np.float32([[15, 20], [25, 20]]), 1.0)

    cut, rows = faces.crop_all(paths, locate, 24, 0.0)
    assert (sorted(seen), rows) == ([(44, 512, 3), (100, 80, 3), (512, 256, 3)], [0, 2])
    assert [np.unique(one.reshape(-1, 3), axis=0).tolist() for one in cut] == [[[30, 20, 10]]] * 2


@pytest.mark.parametrize("size", [96, 112, 160, 224])
@pytest.mark.parametrize("face", [ASTRONAUT, replace(ASTRONAUT, landmarks=np.float32([[200, 130], [240, 100]]))])
def test_unaugmented_view_equals_inference_crop(face: Face, size: int) -> None:
    kept = align_face(clips.astronaut(), face, faces.SIDE, faces.MARGIN)
    expected = align_face(clips.astronaut(), face, size).astype(float)
    assert np.abs(augment.crop_to_input(kept, size) - expected).mean() < 3
    assert np.abs(augment.crop_to_input(kept, size, GeometricJitter(right=0.02)) - expected).mean() > 5
    assert np.abs(augment.crop_to_input(kept, size, GeometricJitter(zoom=1.05)) - expected).mean() > 5


def test_frame_shows_errors_of_detector() -> None:
    kept = align_face(clips.astronaut(), ASTRONAUT, faces.SIDE, faces.MARGIN)
    plain = augment.crop_to_input(kept, 100).astype(float)
    moved = augment.crop_to_input(kept, 100, GeometricJitter(right=0.1, down=-0.05)).astype(float)
    assert np.abs(moved[:90, 15:] - plain[5:95, 5:90]).mean() < 1
    half = augment.crop_to_input(kept, 100, GeometricJitter(zoom=2.0))[::2, ::2].astype(float)
    assert np.abs(half - cv2.resize(plain[25:75, 25:75], (50, 50))).mean() < 6
    upright = augment.crop_to_input(kept, 100, GeometricJitter(roll=30.0))
    turn = cv2.getRotationMatrix2D((49.5, 49.5), 30.0, 1)
    again = cv2.warpAffine(np.uint8(plain), turn, (100, 100)).astype(float)
    assert np.abs(upright[30:70, 30:70] - again[30:70, 30:70]).mean() < 2


def test_augmentation_depends_on_seed_only() -> None:
    kept = align_face(clips.astronaut(), ASTRONAUT, faces.SIDE, faces.MARGIN)
    before = kept.copy()
    views = [augment.augment(kept, 48, np.random.default_rng(seed)) for seed in range(60)]
    assert all(view.shape == (48, 48, 3) and view.dtype == np.uint8 and view.flags.c_contiguous for view in views)
    assert len({view.tobytes() for view in views}) == 60
    np.testing.assert_array_equal(kept, before)
    np.testing.assert_array_equal(views, [augment.augment(kept, 48, np.random.default_rng(seed)) for seed in range(60)])
    grey = augment.augment(np.repeat(kept[..., :1], 3, axis=2), 48, np.random.default_rng(3))
    assert (grey[..., 0] == grey[..., 2]).mean() > 0.8, "a colour balance would tint it"


def test_training_scales_pixels_like_inference() -> None:
    crops = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    np.testing.assert_array_equal(to_tensor(crops).numpy(), preprocess(crops, card("any", mini_datasets.network(), 16)))
