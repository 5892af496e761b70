"""The whole pipeline, with the shipped models on rendered faces and with toy models."""

from __future__ import annotations

import functools
import json
import os
import pickle
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import clips
import fervid
import toy_models
from fervid.analysis import pipeline
from fervid.analysis.extractor import Extractor
from fervid.core.errors import (
    InputError,
    InputNotFound,
    ModelIncompatible,
    NoFaceError,
    NoFramesInRange,
    TruncatedVideo,
    UsageError,
)
from fervid.media import video
from fervid.models import registry
from fervid.models.card import ModelKind
from fervid.models.session import Device

SHARED = Path(__file__).parents[2] / "shared" / "clips"
Load = Callable[..., fervid.Classifier]


@pytest.fixture(scope="module")
def load_toy(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Loads a classifier of toy models; `levels` are its early exit levels."""

    @functools.cache
    def family(levels: str) -> dict[str, str]:
        card = {"early_exit": {"levels": json.loads(levels)}} if levels else {}
        return toy_models.family(tmp_path_factory.mktemp("toys"), **card)

    def load(levels: object = None, **options: object) -> fervid.Classifier:
        models = family("" if levels is None else json.dumps(levels))
        given = fervid.Options(**{"min_face": toy_models.FACE, **options})
        return fervid.load_classifier(**models, options=given, threads=1)

    return load


def test_path_frames_and_rotated_copy_agree(classifier: fervid.Classifier, smile: Path, tmp_path: Path) -> None:
    by_path = classifier.classify(smile)
    by_frames = classifier.classify_frames(video.read_frames(smile))
    upright = clips.smiling(30)
    sideways = clips.write(tmp_path / "phone.mp4", [np.rot90(image) for image in upright])
    rotated = classifier.classify(clips.turn(sideways, 90))
    assert by_path.label == by_frames.label == rotated.label == "happiness"
    assert by_path.probabilities == by_frames.probabilities
    assert by_path.confidence == pytest.approx(rotated.confidence, abs=0.1)
    assert len(by_path.people) == len(rotated.people) == 1


def test_larger_of_two_people_is_main_one(classifier: fervid.Classifier) -> None:
    large, small = clips.portrait(320, 300, 1.8), clips.portrait(200, 300, 0.9)[:, ::-1]
    frames = [fervid.Frame(np.concatenate([small, large], axis=1), i / 5, 0.2) for i in range(8)]
    result = classifier.classify_frames(frames)
    assert [person.id for person in result.people] == [0, 1]
    assert [person.seconds for person in result.people] == [pytest.approx(1.6)] * 2
    alone = classifier.classify_frames(fervid.Frame(large, i / 5, 0.2) for i in range(8))
    assert result.people[0].prediction.probabilities == pytest.approx(alone.prediction.probabilities, abs=0.2)
    assert result.prediction == result.people[0].prediction


def test_returning_person_keeps_id(classifier: fervid.Classifier) -> None:
    left = [clips.portrait(640, 300, 1.5, x=330) for _ in range(4)]
    right = [clips.portrait(640, 300, 1.5, x=120) for _ in range(4)]
    nobody = clips.scenery(10, 640, 300)
    frames = [fervid.Frame(image, i / 5, 0.2) for i, image in enumerate(left + nobody + right)]
    result = classifier.classify_frames(frames)
    assert len(result.people) == 1
    assert result.people[0].seconds == pytest.approx(1.6)
    assert (result.frames_sampled, result.frames_with_face) == (18, 8)


def test_face_all_pools_everybody(classifier: fervid.Classifier, smile: Path) -> None:
    everybody = fervid.load_classifier(options=fervid.Options(face="all"), threads=2)
    assert everybody.classify(smile).label == "happiness"
    assert everybody.classify(smile).probabilities == pytest.approx(classifier.classify(smile).probabilities, abs=1e-3)


def test_image_is_a_clip_of_one_frame(classifier: fervid.Classifier) -> None:
    result = classifier.classify_frames([fervid.Frame(clips.portrait())])
    assert (result.label, result.frames_sampled, result.duration_s) == ("happiness", 1, 0.0)


def test_classify_raises_errors_of_records(classifier: fervid.Classifier, scenery: Path) -> None:
    for path, error in ((scenery, NoFaceError), (Path("missing.mp4"), InputNotFound)):
        with pytest.raises(error, match=path.name):
            classifier.classify(path)
    with pytest.raises(NoFramesInRange):
        classifier.classify_frames([])
    no_face, missing = classifier.classify_many([scenery, "missing.mp4"])
    assert (no_face.status, missing.status) == ("no_face", "error")
    assert no_face.error is None
    assert missing.error.code == "not_found"


@pytest.mark.parametrize("path", ["a.mp4", b"a.mp4", Path("a.mp4")], ids=repr)
def test_classify_many_refuses_single_path(classifier: fervid.Classifier, path: str | bytes | Path) -> None:
    with pytest.raises(UsageError, match=r"a\.mp4'.* classify\(\)"):
        classifier.classify_many(path)


def test_file_without_read_permission_is_recorded(classifier: fervid.Classifier) -> None:
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        secret = Path(place, "secret.mp4")
        secret.write_bytes(b"x")
        secret.chmod(0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # root may read everything
        try:
            result = classifier.classify_or_error(secret)
        finally:
            os.seteuid(user)
    assert (result.status, result.error.code) == ("error", "unreadable")


def test_error_in_middle_keeps_frames_before_it(classifier: fervid.Classifier) -> None:
    def frames() -> Iterator[fervid.Frame]:
        yield fervid.Frame(clips.portrait(), 0.0, 0.2)
        raise InputError("the cable fell out; plug it in")

    result = classifier.classify_frames(frames())
    assert (result.status, result.label, result.error.code) == ("ok", "happiness", "input")


def test_memory_is_independent_of_clip_length(load_toy: Load) -> None:
    classifier, image = load_toy(), toy_models.picture(toy_models.FIRST)  # of one thread: more would prefetch

    def peak(count: int) -> int:
        tracemalloc.start()
        classifier.classify_frames(fervid.Frame(image.copy(), i / 5, 0.2) for i in range(count))
        traced = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return traced

    peak(1)
    assert peak(80) < 1.1 * peak(40) + 1e6


@pytest.mark.parametrize(
    ("role", "change"),
    [
        ("classifier", {"face_model_sha256": "0" * 64}),
        ("classifier", {"statistics": ["embedding.median"]}),
        ("classifier", {"statistics": ["embedding.mean"]}),
        ("classifier", {"statistics": 5}),
        ("classifier", {"labels": ["calm"]}),
        ("classifier", {"labels": ["calm"] * 8}),
        ("classifier", {"labels": 5}),
        ("classifier", {"labels": ["calm\ud800", *"abcdefg"]}),
        ("face_model", {"input": {"size": 9}}),
        ("face_model", {"input": 5}),
        ("face_model", {"tracking": {"x": 1}}),
        ("face_model", {"genders": [1]}),
        ("face_model", {"first_age": "x"}),
        ("detector", {"input": {"size": 65}}),
        ("detector", {"threshold": "x"}),
        ("detector", {"smallest_face": 0}),
        ("face_model", {"margin": 9}),
        ("face_model", {"margin": -0.1}),
        ("face_model", {"embedding": 4}),
        ("face_model", {"expressions": ["dark"]}),
        ("face_model", {"input": {"size": "x"}}),
        ("detector", {"new_track_threshold": "x"}),
    ],
)
def test_incompatible_models_are_refused(role: ModelKind, change: dict[str, object]) -> None:
    loaded = {kind: registry.load_model(name, kind) for kind, name in registry.DEFAULTS.items()}
    model = loaded[role]
    loaded[role] = registry.Model(model.identity, model.path, {**model.card, **change}, model.session)
    with pytest.raises(ModelIncompatible, match=rf"{model.identity.name}.*(re-export|again)"):
        pipeline.Classifier(Extractor(loaded["detector"], loaded["face_model"], fervid.Options()), loaded["classifier"])


@pytest.mark.parametrize(("card", "fits"), [({}, False), ({"quantised_from": "f" * 64}, True)], ids=["plain", "int8"])
def test_classifier_fits_quantised_face_model(card: dict[str, str], fits: bool, tmp_path: Path) -> None:
    def trained_on(sha256: str) -> pipeline.Classifier:
        classifier = toy_models.classifier(tmp_path / "classifier.onnx", np.eye(3), face_model_sha256=sha256)
        extractor = Extractor(detector, network, fervid.Options())
        return pipeline.Classifier(extractor, registry.load_model(str(classifier), "classifier"))

    detector = registry.load_model(str(toy_models.detector(tmp_path / "detector.onnx")), "detector")
    network = registry.load_model(str(toy_models.face_model(tmp_path / "face_model.onnx", **card)), "face_model")
    assert trained_on(network.identity.sha256).models["face_model"] == network.identity
    with pytest.raises(ModelIncompatible, match=r"toy-classifier .* 0{12}, not on toy-face_model"):
        trained_on("0" * 64)
    if fits:
        assert trained_on("f" * 64).labels == ("first", "second", "third")
    else:
        with pytest.raises(ModelIncompatible, match=r"f{12}.*--face-model"):
            trained_on("f" * 64)


def test_frame_without_duration_does_not_decide_main_person() -> None:
    classifier = fervid.load_classifier(options=fervid.Options(detection_interval_s=0.0))
    large, small = clips.portrait(320, 300, 1.8), clips.portrait(320, 300, 0.9)[:, ::-1]
    nobody = np.full((300, 320, 3), 128, np.uint8)
    frames = [fervid.Frame(np.concatenate([small, nobody], axis=1), i / 5, 0.2) for i in range(6)]
    frames.insert(3, fervid.Frame(np.concatenate([small, large], axis=1), 0.6, 0.0))
    result = classifier.classify_frames(frames)
    assert [person.seconds for person in result.people] == [pytest.approx(1.2), 0.0]


def test_truncated_clip_without_face_raises_no_face(classifier: fervid.Classifier) -> None:
    def frames() -> Iterator[fervid.Frame]:
        yield fervid.Frame(clips.scenery(1)[0], 0.0, 0.2)
        raise TruncatedVideo("cut.mp4 breaks off")

    with pytest.raises(NoFaceError) as caught:
        classifier.classify_frames(frames())
    assert isinstance(caught.value.__cause__, TruncatedVideo)


def test_group_classifier_classifies_everybody_and_each(tmp_path: Path) -> None:
    network = registry.load_model("mobilenetv1", "face_model")
    path = toy_models.classifier(
        tmp_path / "group.onnx",
        [[1.0, 2.0]] * 8,
        labels=["calm", "lively"],
        statistics=["expression.across_faces.mean"],
        face_model_sha256=network.identity.sha256,
    )
    group = fervid.load_classifier(classifier=str(path), options=fervid.Options(face="all"), threads=2)
    pair = np.concatenate([clips.portrait(200, 300, 0.9)[:, ::-1], clips.portrait(320, 300, 1.8)], axis=1)
    result = group.classify_frames([fervid.Frame(pair)])
    assert result.label in ("calm", "lively")
    assert len(result.people) == 2


LEVELS = [{"stride": stride, "confidence": 0.9} for stride in (8, 4, 2)]


def clip(path: Path, *images: np.ndarray, **options: object) -> Path:
    """Write a clip at 5 frames per second."""
    return clips.write(path, images, rate=5, **options)


def without_time(result: fervid.ClipResult) -> dict[str, object]:
    return {**result.as_dict(), "elapsed_s": None}


def test_labels_option_restricts_predictions(load_toy: Load) -> None:
    frames = [fervid.Frame(toy_models.picture((245, 225, 205)), i / 5, 0.2) for i in range(3)]
    all_labels = load_toy().classify_frames(frames).probabilities
    restricted = load_toy(labels=("third", "second"))
    assert restricted.labels == ("third", "second")
    result = restricted.classify_frames(frames)
    total = all_labels["second"] + all_labels["third"]
    for prediction in (result.prediction, result.people[0].prediction):
        assert list(prediction.probabilities) == ["third", "second"]
        assert prediction.probabilities == pytest.approx(
            {n: all_labels[n] / total for n in ("second", "third")}, rel=1e-5
        )
    assert (max(all_labels, key=all_labels.get), result.label) == ("first", "second")


def test_unknown_label_is_refused(load_toy: Load) -> None:
    with pytest.raises(UsageError, match="toy-classifier has no label calm; it has first, second, third"):
        load_toy(labels=("first", "calm"))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ((), "not none"),
        (("first",), "not first$"),
        (("first", "first"), "not first, first"),
        (("first", "third", "first"), "not first, third, first"),
    ],
)
def test_fewer_than_two_labels_are_refused(load_toy: Load, labels: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError, match=f"--labels .* first, second, third, {words}"):
        load_toy(labels=labels)


def test_classifier_with_centered_features_needs_baseline(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"toy-classifier was trained with --center person .*--baseline person"):
        fervid.load_classifier(**toy_models.family(tmp_path, center="person"))


def test_adaptive_needs_classifier_with_exit_levels(load_toy: Load) -> None:
    with pytest.raises(UsageError, match=r"toy-classifier has no early exits"):
        load_toy(adaptive=True)
    assert load_toy(LEVELS).classify_frames([fervid.Frame(toy_models.picture(toy_models.FIRST))]).label == "first"


@pytest.mark.parametrize("levels", [5, [5], [{}], [{"stride": 0, "confidence": 0.5}], [{"stride": "x"}]], ids=str)
def test_invalid_exit_levels_are_refused(load_toy: Load, levels: object) -> None:
    with pytest.raises(ModelIncompatible, match=r"classifier\.onnx does not match its model card"):
        load_toy(levels, adaptive=True)


EXITS = {
    "sure": (toy_models.FIRST, LEVELS, 5),
    "sure at the second level": (toy_models.FIRST, [{"stride": 8, "confidence": 1.01}, *LEVELS[1:]], 10),
    "sure at the last level": (
        toy_models.FIRST,
        [{"stride": 4, "confidence": 1.01}, {"stride": 2, "confidence": 0.9}],
        20,
    ),
    "one frame": (toy_models.FIRST, [{"stride": 100, "confidence": 0.0}], 1),
    "unsure": (toy_models.NEITHER, LEVELS, 40),
    "sure enough": (toy_models.NEITHER, [{"stride": 8, "confidence": 0.3}], 5),
    "nobody": (None, LEVELS, 40),
    "no levels": (toy_models.NEITHER, [], 40),
}


@pytest.fixture(scope="module")
def eight_seconds(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int, int] | None, Path]:
    """A clip of a face of each colour, and one of none."""
    place = tmp_path_factory.mktemp("clips")
    return {
        colour: clip(place / f"{number}.mp4", *[toy_models.picture(colour)] * 40)
        for number, colour in enumerate((toy_models.FIRST, toy_models.NEITHER, None))
    }


@pytest.mark.parametrize(("name", "face"), [*((name, "main") for name in EXITS), ("sure", "all"), ("unsure", "all")])
def test_adaptive_stops_at_first_confident_level(
    name: str,
    face: str,
    load_toy: Load,
    eight_seconds: dict[tuple[int, int, int] | None, Path],
    crops: list[np.ndarray],
) -> None:
    colour, levels, frames = EXITS[name]
    path = eight_seconds[colour]
    full = load_toy(levels, face=face).classify_or_error(path)
    classifier = load_toy(levels, face=face, adaptive=True)
    crops.clear()
    result = classifier.classify_or_error(path)
    assert (result.status, result.label) == (full.status, full.label)
    assert result.frames_sampled == frames
    assert len(crops) == result.frames_with_face == (frames if colour else 0)
    assert result.duration_s == pytest.approx(8)
    if frames == 40:
        assert without_time(result) == without_time(full)
        assert result.probabilities == full.probabilities


def test_face_missed_at_low_rates_is_found_at_higher_one(
    load_toy: Load, tmp_path: Path, crops: list[np.ndarray]
) -> None:
    images = [toy_models.picture(toy_models.SECOND if i % 4 == 2 else None) for i in range(33)]
    path = clip(tmp_path / "clip.mp4", *images)
    classifier = load_toy(LEVELS, adaptive=True)
    crops.clear()
    result = classifier.classify_or_error(path)
    assert (result.label, result.frames_sampled, result.frames_with_face, len(crops)) == ("second", 17, 8, 8)


def test_higher_rates_can_change_prediction(load_toy: Load, tmp_path: Path, crops: list[np.ndarray]) -> None:
    images = [toy_models.picture(toy_models.NEITHER if i % 4 == 0 else toy_models.THIRD) for i in range(32)]
    path = clip(tmp_path / "clip.mp4", *images)
    levels = [{"stride": 4, "confidence": 0.7}, {"stride": 2, "confidence": 0.99}]
    classifier = load_toy(levels, adaptive=True)
    crops.clear()
    result = classifier.classify_or_error(path)
    assert (result.label, result.frames_sampled, len(crops)) == ("third", 32, 32)
    assert without_time(result) == without_time(load_toy(levels).classify_or_error(path))


@pytest.mark.parametrize(("colour", "few"), [(toy_models.FIRST, True), (toy_models.NEITHER, False), (None, False)])
def test_truncated_clip_exits_early_only_if_confident(
    load_toy: Load, colour: tuple[int, int, int] | None, few: bool, tmp_path: Path
) -> None:
    images = [toy_models.picture(colour) for _ in range(60)]
    path = clip(tmp_path / "cut.mp4", *images, muxer={"movflags": "faststart"}, options={"g": "5"})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])
    full, result = (load_toy(LEVELS, adaptive=adaptive).classify_or_error(path) for adaptive in (False, True))
    assert result.error == full.error
    assert result.error.code == "truncated"
    assert (result.status, result.label) == (full.status, full.label)
    assert (result.frames_sampled < full.frames_sampled) is few
    if not few:
        assert without_time(result) == without_time(full)


def test_adaptive_reads_unreadable_clip_once(load_toy: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clip(tmp_path / "clip.mp4", toy_models.picture(toy_models.FIRST))
    calls, read = [], video.read_frames
    monkeypatch.setattr(video, "read_frames", lambda *arguments: calls.append(arguments) or read(*arguments))
    for name, start in ((tmp_path / "missing.mp4", 0), (path, 9)):
        few, full = (
            load_toy(LEVELS, adaptive=adaptive, sampling=fervid.Sampling(start=start)).classify_or_error(name)
            for adaptive in (True, False)
        )
        assert without_time(few) == without_time(full)
        assert few.status == "error"
    assert len(calls) == 4
    still = load_toy(LEVELS, adaptive=True).classify_or_error(path)
    assert (still.label, still.frames_sampled) == ("first", 1)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared clips are not in the repository")
@pytest.mark.parametrize(
    ("name", "status", "people"),
    [
        ("WolfgangLanger_Pexels.mp4", "ok", {1}),
        ("single_face.mp4", "ok", {1}),
        ("face_noface.mov", "ok", {1}),
        ("no_face.mp4", "no_face", {0}),
        ("woman2.mp4", "ok", {1}),
        ("short_hamilton_clip.mp4", "ok", {3, 4, 5}),
        ("head-pose-face-detection-female-and-male.gif", "ok", {2}),
        ("classroom.gif", "ok", {3, 4}),
        ("face-demographics-walking-and-pause.gif", "ok", {3}),
        ("again.mkv", "ok", {1}),
        ("av1_video.mkv", "no_face", {0}),
        ("h265_10bits.mp4", "no_face", {0}),
    ],
)
def test_real_clips_show_right_number_of_people(
    classifier: fervid.Classifier, name: str, status: str, people: set[int]
) -> None:
    result = classifier.classify_or_error(SHARED / name)
    assert (result.status, result.error) == (status, None)
    assert len(result.people) in people


def test_pickled_classifier_gives_same_record(tmp_path: Path, smile: Path) -> None:
    options = fervid.Options(fervid.Sampling(2.5), attributes=True, labels=("happiness", "sadness"))
    original = fervid.load_classifier(options=options, threads=1)
    unpickled = pickle.loads(pickle.dumps(original.classify_or_error))
    assert unpickled.__self__.models == original.models
    assert unpickled.__self__.options == options
    assert without_time(unpickled(smile)) == without_time(original.classify_or_error(smile))


def test_device_applies_to_detector_and_face_model(monkeypatch: pytest.MonkeyPatch) -> None:
    devices: dict[str, str] = {}

    def load(name: str, kind: ModelKind, threads: int = 1, device: Device = "cpu") -> registry.Model:
        devices[kind] = device
        return load_model(name, kind, threads)

    load_model = registry.load_model
    monkeypatch.setattr(registry, "load_model", load)
    fervid.load_classifier(threads=1, device="auto")
    assert devices == {"detector": "auto", "face_model": "auto", "classifier": "cpu"}
