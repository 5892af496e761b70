"""The stages together, on the shipped models: real faces in, one answer out."""

from __future__ import annotations

import os
import pickle
import tempfile
import tracemalloc
from collections.abc import Iterator
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

SHARED = Path(__file__).parents[2] / "shared" / "clips"


def test_path_frames_and_a_turned_copy_agree(classifier: fervid.Classifier, smile: Path, tmp_path: Path) -> None:
    by_path = classifier.classify(smile)
    by_frames = classifier.classify_frames(video.read_frames(smile))
    upright = clips.smiling(30)
    sideways = clips.write(tmp_path / "phone.mp4", [np.rot90(image) for image in upright])
    turned = classifier.classify(clips.turn(sideways, 90))
    assert by_path.label == by_frames.label == turned.label == "happiness"
    assert by_path.probabilities == by_frames.probabilities
    assert by_path.confidence == pytest.approx(turned.confidence, abs=0.1)
    assert len(by_path.people) == len(turned.people) == 1


def test_two_people_side_by_side_are_told_apart_and_the_larger_is_the_main_one(classifier: fervid.Classifier) -> None:
    large, small = clips.portrait(320, 300, 1.8), clips.portrait(200, 300, 0.9)[:, ::-1]
    frames = [fervid.Frame(np.concatenate([small, large], axis=1), i / 5, 0.2) for i in range(8)]
    result = classifier.classify_frames(frames)
    assert [person.id for person in result.people] == [0, 1]
    assert [person.seconds for person in result.people] == [pytest.approx(1.6)] * 2
    alone = classifier.classify_frames(fervid.Frame(large, i / 5, 0.2) for i in range(8))
    assert result.people[0].answer.probabilities == pytest.approx(alone.answer.probabilities, abs=0.2)
    assert result.answer == result.people[0].answer


def test_a_person_who_leaves_and_comes_back_elsewhere_stays_the_same(classifier: fervid.Classifier) -> None:
    left = [clips.portrait(640, 300, 1.5, x=330) for _ in range(4)]
    right = [clips.portrait(640, 300, 1.5, x=120) for _ in range(4)]
    nobody = clips.scenery(10, 640, 300)
    frames = [fervid.Frame(image, i / 5, 0.2) for i, image in enumerate(left + nobody + right)]
    result = classifier.classify_frames(frames)
    assert len(result.people) == 1
    assert result.people[0].seconds == pytest.approx(1.6)
    assert (result.frames_sampled, result.frames_with_face) == (18, 8)


def test_everybody_together_is_another_answer_than_the_main_person(classifier: fervid.Classifier, smile: Path) -> None:
    everybody = fervid.load_classifier(options=fervid.Options(face="all"), threads=2)
    assert everybody.classify(smile).label == "happiness"
    assert everybody.classify(smile).probabilities == pytest.approx(classifier.classify(smile).probabilities, abs=1e-3)


def test_a_still_image_is_a_clip_of_one_frame(classifier: fervid.Classifier) -> None:
    result = classifier.classify_frames([fervid.Frame(clips.portrait())])
    assert (result.label, result.frames_sampled, result.duration_s) == ("happiness", 1, 0.0)


def test_what_cannot_be_answered_is_raised_by_classify_and_told_by_answer(
    classifier: fervid.Classifier, scenery: Path
) -> None:
    for path, error in ((scenery, NoFaceError), (Path("missing.mp4"), InputNotFound)):
        with pytest.raises(error, match=path.name):
            classifier.classify(path)
    with pytest.raises(NoFramesInRange):
        classifier.classify_frames([])
    found = list(classifier.classify_many([scenery, "missing.mp4"]))
    assert [result.status for result in found] == ["no_face", "error"]
    assert found[0].problem is None
    assert found[1].problem.code == "not_found"


@pytest.mark.parametrize("one", ["a.mp4", b"a.mp4", Path("a.mp4")], ids=repr)
def test_one_path_is_not_taken_for_many_of_a_letter(classifier: fervid.Classifier, one: str | bytes | Path) -> None:
    with pytest.raises(UsageError, match=r"a\.mp4'.* is one path; call classify"):
        classifier.classify_many(one)


def test_a_file_that_may_not_be_read_is_told(classifier: fervid.Classifier) -> None:
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        secret = Path(place, "secret.mp4")
        secret.write_bytes(b"x")
        secret.chmod(0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # root may read everything
        try:
            result = classifier.answer(secret)
        finally:
            os.seteuid(user)
    assert (result.status, result.problem.code) == ("error", "unreadable")


def test_an_error_in_the_middle_keeps_what_came_before(classifier: fervid.Classifier) -> None:
    def frames() -> Iterator[fervid.Frame]:
        yield fervid.Frame(clips.portrait(), 0.0, 0.2)
        raise InputError("the cable fell out; plug it in")

    result = classifier.classify_frames(frames())
    assert (result.status, result.label, result.problem.code) == ("ok", "happiness", "input")


def test_memory_does_not_grow_with_the_clip() -> None:
    classifier = fervid.load_classifier(
        options=fervid.Options(min_face=60), threads=1
    )  # more work ahead, as far as there is time

    def peak(count: int) -> int:
        image = clips.portrait(160, 120, 0.8)
        tracemalloc.start()
        classifier.classify_frames(fervid.Frame(image.copy(), i / 5, 0.2) for i in range(count))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(40)
    assert peak(240) < 1.1 * peak(40) + 1e6


@pytest.mark.parametrize(
    ("role", "change"),
    [
        ("classifier", {"network_sha256": "0" * 64}),
        ("classifier", {"statistics": ["embedding.median"]}),
        ("classifier", {"statistics": ["embedding.mean"]}),
        ("classifier", {"statistics": 5}),
        ("classifier", {"labels": ["calm"]}),
        ("classifier", {"labels": ["calm"] * 8}),
        ("classifier", {"labels": 5}),
        ("classifier", {"labels": ["calm\ud800", *"abcdefg"]}),
        ("network", {"input": {"size": 9}}),
        ("network", {"input": 5}),
        ("network", {"same_person": {"x": 1}}),
        ("network", {"genders": [1]}),
        ("network", {"first_age": "x"}),
        ("detector", {"input": {"size": 65}}),
        ("detector", {"threshold": "x"}),
        ("detector", {"smallest_face": 0}),
        ("network", {"margin": 9}),
    ],
)
def test_models_that_do_not_belong_together_are_refused(role: registry.Kind, change: dict[str, object]) -> None:
    loaded = {kind: registry.load_model(name, kind) for kind, name in registry.DEFAULTS.items()}
    one = loaded[role]
    loaded[role] = registry.Model(one.identity, one.path, {**one.card, **change}, one.session)
    with pytest.raises(ModelIncompatible, match=rf"{one.identity.name}.*again"):
        pipeline.Classifier(Extractor(loaded["detector"], loaded["network"], fervid.Options()), loaded["classifier"])


@pytest.mark.parametrize(("card", "fits"), [({}, False), ({"quantised_from": "f" * 64}, True)], ids=["plain", "int8"])
def test_a_classifier_fits_the_network_that_its_own_was_quantised_to(
    card: dict[str, str], fits: bool, tmp_path: Path
) -> None:
    def fitted_on(sha256: str) -> pipeline.Classifier:
        classifier = toy_models.classifier(tmp_path / "classifier.onnx", np.eye(3), network_sha256=sha256)
        extractor = Extractor(detector, network, fervid.Options())
        return pipeline.Classifier(extractor, registry.load_model(str(classifier), "classifier"))

    detector = registry.load_model(str(toy_models.detector(tmp_path / "detector.onnx")), "detector")
    network = registry.load_model(str(toy_models.network(tmp_path / "network.onnx", **card)), "network")
    assert fitted_on(network.identity.sha256).models["network"] == network.identity
    with pytest.raises(ModelIncompatible, match=r"toy-classifier was fitted on network 0{12}, not on toy-network"):
        fitted_on("0" * 64)
    if fits:
        assert fitted_on("f" * 64).labels == ("first", "second", "third")
    else:
        with pytest.raises(ModelIncompatible, match=r"fitted on network f{12}.*fit it again, or name its network"):
            fitted_on("f" * 64)


def test_a_frame_of_no_duration_does_not_make_its_person_the_main_one() -> None:
    classifier = fervid.load_classifier(options=fervid.Options(detect_every=0.0))
    large, small = clips.portrait(320, 300, 1.8), clips.portrait(320, 300, 0.9)[:, ::-1]
    nobody = np.full((300, 320, 3), 128, np.uint8)
    frames = [fervid.Frame(np.concatenate([small, nobody], axis=1), i / 5, 0.2) for i in range(6)]
    frames.insert(3, fervid.Frame(np.concatenate([small, large], axis=1), 0.6, 0.0))
    result = classifier.classify_frames(frames)
    assert [person.seconds for person in result.people] == [pytest.approx(1.2), 0.0]


def test_a_faceless_clip_that_breaks_off_is_no_face_for_both(classifier: fervid.Classifier) -> None:
    def frames() -> Iterator[fervid.Frame]:
        yield fervid.Frame(clips.scenery(1)[0], 0.0, 0.2)
        raise TruncatedVideo("cut.mp4 breaks off")

    with pytest.raises(NoFaceError) as caught:
        classifier.classify_frames(frames())
    assert isinstance(caught.value.__cause__, TruncatedVideo)


def test_a_classifier_of_groups_answers_for_everybody_and_for_each(tmp_path: Path) -> None:
    network = registry.load_model("mobilenetv1", "network")
    path = toy_models.classifier(
        tmp_path / "group.onnx",
        [[1.0, 2.0]] * 8,
        labels=["calm", "lively"],
        statistics=["expression.spread.mean"],
        network_sha256=network.identity.sha256,
    )
    group = fervid.load_classifier(classifier=str(path), options=fervid.Options(face="all"), threads=2)
    pair = np.concatenate([clips.portrait(200, 300, 0.9)[:, ::-1], clips.portrait(320, 300, 1.8)], axis=1)
    result = group.classify_frames([fervid.Frame(pair)])
    assert result.label in ("calm", "lively")
    assert len(result.people) == 2


LEVELS = [{"stride": stride, "confidence": 0.9} for stride in (8, 4, 2)]


def toy(folder: Path, levels: object = None, **options: object) -> fervid.Classifier:
    """A classifier of toy models; `levels` makes an adaptive rate possible."""
    family = toy_models.family(folder, **({} if levels is None else {"adaptive": {"levels": levels}}))
    return fervid.load_classifier(
        **family, options=fervid.Options(**{"min_face": toy_models.FACE, **options}), threads=1
    )


def clip(path: Path, *images: np.ndarray, **how: object) -> Path:
    """Five of the images a second."""
    return clips.write(path, images, rate=5, **how)


def told(result: fervid.ClipResult) -> dict[str, object]:
    return {**result.as_dict(), "elapsed_s": None}


def test_only_the_labels_that_are_asked_for_are_answered(tmp_path: Path) -> None:
    frames = [fervid.Frame(toy_models.picture((245, 225, 205)), i / 5, 0.2) for i in range(3)]
    every = toy(tmp_path).classify_frames(frames).probabilities
    some = toy(tmp_path, labels=("third", "second"))
    assert some.labels == ("third", "second")
    result = some.classify_frames(frames)
    whole = every["second"] + every["third"]
    for answer in (result.answer, result.people[0].answer):
        assert list(answer.probabilities) == ["third", "second"]
        assert answer.probabilities == pytest.approx({n: every[n] / whole for n in ("second", "third")}, rel=1e-5)
    assert (max(every, key=every.get), result.label) == ("first", "second")


def test_labels_that_the_classifier_does_not_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="toy-classifier has no label calm; it has first, second, third"):
        toy(tmp_path, labels=("first", "calm"))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ((), "not none"),
        (("first",), "not first$"),
        (("first", "first"), "not first, first"),
        (("first", "third", "first"), "not first, third, first"),
    ],
)
def test_fewer_than_two_labels_are_refused_and_it_is_said_which_there_are(
    tmp_path: Path, labels: tuple[str, ...], words: str
) -> None:
    with pytest.raises(UsageError, match=f"two or more different ones of first, second, third, {words}"):
        toy(tmp_path, labels=labels)


def test_a_classifier_of_centred_features_is_refused_and_the_baseline_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"toy-classifier was trained with --center person .*--baseline person"):
        fervid.load_classifier(**toy_models.family(tmp_path, center="person"))


def test_a_classifier_that_cannot_be_asked_early_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="toy-classifier was fitted without --adaptive"):
        toy(tmp_path, adaptive=True)
    assert toy(tmp_path, LEVELS).classify_frames([fervid.Frame(toy_models.picture(toy_models.FIRST))]).label == "first"


@pytest.mark.parametrize("levels", [5, [5], [{}], [{"stride": 0, "confidence": 0.5}], [{"stride": "x"}]], ids=str)
def test_levels_that_cannot_be_are_the_fault_of_the_classifier(levels: object, tmp_path: Path) -> None:
    with pytest.raises(ModelIncompatible, match=r"classifier\.onnx does not do what its card says"):
        toy(tmp_path, levels, adaptive=True)


@pytest.mark.parametrize(
    ("colour", "levels", "frames"),
    [
        (toy_models.FIRST, LEVELS, 5),
        (toy_models.FIRST, [{"stride": 8, "confidence": 1.01}, *LEVELS[1:]], 10),
        (toy_models.FIRST, [{"stride": 4, "confidence": 1.01}, {"stride": 2, "confidence": 0.9}], 20),
        (toy_models.FIRST, [{"stride": 100, "confidence": 0.0}], 1),
        (toy_models.NEITHER, LEVELS, 40),
        (toy_models.NEITHER, [{"stride": 8, "confidence": 0.3}], 5),
        (None, LEVELS, 40),
        (toy_models.NEITHER, [], 40),
    ],
    ids=[
        "sure",
        "sure at the second level",
        "sure at the last level",
        "one frame",
        "unsure",
        "sure enough",
        "nobody",
        "no levels",
    ],
)
@pytest.mark.parametrize("face", ["main", "all"])
def test_an_adaptive_rate_looks_at_no_more_frames_than_it_takes_to_be_sure(
    colour: tuple[int, int, int] | None,
    levels: list[dict[str, float]],
    frames: int,
    face: str,
    tmp_path: Path,
    crops: list[np.ndarray],
) -> None:
    path = clip(tmp_path / "clip.mp4", *[toy_models.picture(colour)] * 40)
    whole = toy(tmp_path, levels, face=face).answer(path)
    classifier = toy(tmp_path, levels, face=face, adaptive=True)
    crops.clear()
    result = classifier.answer(path)
    assert (result.status, result.label) == (whole.status, whole.label)
    assert result.frames_sampled == frames
    assert len(crops) == result.frames_with_face == (frames if colour else 0)
    assert result.duration_s == pytest.approx(8)
    if frames == 40:
        assert told(result) == told(whole)
        assert result.probabilities == whole.probabilities


def test_a_face_that_coarse_rates_miss_is_found_by_a_finer_one(tmp_path: Path, crops: list[np.ndarray]) -> None:
    images = [toy_models.picture(toy_models.SECOND if i % 4 == 2 else None) for i in range(33)]
    path = clip(tmp_path / "clip.mp4", *images)
    classifier = toy(tmp_path, LEVELS, adaptive=True)
    crops.clear()
    result = classifier.answer(path)
    assert (result.label, result.frames_sampled, result.frames_with_face, len(crops)) == ("second", 17, 8, 8)


def test_what_finer_rates_show_changes_the_answer(tmp_path: Path, crops: list[np.ndarray]) -> None:
    images = [toy_models.picture(toy_models.NEITHER if i % 4 == 0 else toy_models.THIRD) for i in range(32)]
    path = clip(tmp_path / "clip.mp4", *images)
    levels = [{"stride": 4, "confidence": 0.7}, {"stride": 2, "confidence": 0.99}]
    classifier = toy(tmp_path, levels, adaptive=True)
    crops.clear()
    result = classifier.answer(path)
    assert (result.label, result.frames_sampled, len(crops)) == ("third", 32, 32)
    assert told(result) == told(toy(tmp_path, levels).answer(path))


@pytest.mark.parametrize(("colour", "few"), [(toy_models.FIRST, True), (toy_models.NEITHER, False), (None, False)])
def test_a_clip_that_breaks_off_is_answered_early_only_if_that_is_sure(
    colour: tuple[int, int, int] | None, few: bool, tmp_path: Path
) -> None:
    images = [toy_models.picture(colour) for _ in range(60)]
    path = clip(tmp_path / "cut.mp4", *images, muxer={"movflags": "faststart"}, options={"g": "5"})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])
    whole, result = (toy(tmp_path, LEVELS, adaptive=adaptive).answer(path) for adaptive in (False, True))
    assert result.problem == whole.problem
    assert result.problem.code == "truncated"
    assert (result.status, result.label) == (whole.status, whole.label)
    assert (result.frames_sampled < whole.frames_sampled) is few
    if not few:
        assert told(result) == told(whole)


def test_with_an_adaptive_rate_what_cannot_be_read_is_tried_once_and_told_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = clip(tmp_path / "clip.mp4", toy_models.picture(toy_models.FIRST))
    tried, read = [], video.read_frames
    monkeypatch.setattr(video, "read_frames", lambda *how: tried.append(how) or read(*how))
    for name, start in ((tmp_path / "missing.mp4", 0), (path, 9)):
        few, whole = (
            toy(tmp_path, LEVELS, adaptive=adaptive, sampling=fervid.Sampling(start=start)).answer(name)
            for adaptive in (True, False)
        )
        assert told(few) == told(whole)
        assert few.status == "error"
    assert len(tried) == 4
    still = toy(tmp_path, LEVELS, adaptive=True).answer(path)
    assert (still.label, still.frames_sampled) == ("first", 1)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared clips are not part of the repository")
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
def test_real_clips_show_as_many_people_as_are_there(
    classifier: fervid.Classifier, name: str, status: str, people: set[int]
) -> None:
    result = classifier.answer(SHARED / name)
    assert (result.status, result.problem) == (status, None)
    assert len(result.people) in people


def test_a_classifier_that_is_sent_answers_the_same(tmp_path: Path, smile: Path) -> None:
    options = fervid.Options(fervid.Sampling(2.5), attributes=True, labels=("happiness", "sadness"))
    here = fervid.load_classifier(options=options, threads=1)
    there = pickle.loads(pickle.dumps(here.answer))
    assert there.__self__.models == here.models
    assert there.__self__.options == options
    plain = [{**answer(smile).as_dict(), "elapsed_s": 0} for answer in (here.answer, there)]
    assert plain[0] == plain[1]


def test_the_device_is_that_of_detector_and_network(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, str] = {}

    def load(name: str, kind: registry.Kind, threads: int = 1, device: registry.Device = "cpu") -> registry.Model:
        asked[kind] = device
        return known(name, kind, threads)

    known = registry.load_model
    monkeypatch.setattr(registry, "load_model", load)
    fervid.load_classifier(threads=1, device="auto")
    assert asked == {"detector": "auto", "network": "auto", "classifier": "cpu"}
