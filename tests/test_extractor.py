"""Frames go through detector, crop and network in batches, and what they show is what each shows alone."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import clips
import toy_models
from fervid.analysis.aggregate import aggregate_clip
from fervid.analysis.extractor import Extractor, Options, as_incompatible_model, load_extractor
from fervid.analysis.face_model import BATCH
from fervid.core.errors import CorruptVideo, InputError, InputNotFound, ModelIncompatible, ModelNotFound, TruncatedVideo
from fervid.core.records import Frame, FrameObservation
from fervid.media.sampling import Sampling
from fervid.models import registry


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return toy_models.family(tmp_path_factory.mktemp("toys"))


def extractor(family: dict[str, str], **options: object) -> Extractor:
    wanted = Options(**{"min_face": toy_models.FACE, "detect_every": 0.0, **options})
    return load_extractor(network=family["network"], detector=family["detector"], options=wanted, threads=1)


def moving(count: int) -> list[np.ndarray]:
    """One face that changes its colour from frame to frame."""
    return [toy_models.picture((255, 210 + i % 40, 210)) for i in range(count)]


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven seconds at five frames a second."""
    return clips.write(tmp_path_factory.mktemp("long") / "long.mp4", moving(35), rate=5)


def frames(images: Sequence[np.ndarray]) -> list[Frame]:
    return [Frame(image, i / 5, 0.2) for i, image in enumerate(images)]


def same(a: Sequence[FrameObservation], b: Sequence[FrameObservation]) -> None:
    assert [(one.time, len(one.faces)) for one in a] == [(one.time, len(one.faces)) for one in b]
    for one, other in zip(a, b, strict=True):
        assert one.duration == pytest.approx(other.duration)
        assert one.shares == other.shares
        assert [face.box for face in one.faces] == [face.box for face in other.faces]
        assert one.scores.embedding == pytest.approx(other.scores.embedding, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"face": "both"}, "main or all, not 'both'"),
        ({"min_face": 7}, "at least 8 pixels to be found, not 7"),
        ({"adaptive": True, "sampling": Sampling(None)}, "cannot look at every frame"),
        ({"detect_every": -1.0}, "looks every 0 s or more, not -1.0 s"),
        ({"detect_every": float("nan")}, "looks every 0 s or more, not nan s"),
    ],
)
def test_options_that_make_no_sense_are_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Options(**change)


@pytest.mark.parametrize(
    "change",
    [{}, {"face": "all"}, {"min_face": 8}, {"labels": ("calm", "angry")}, {"adaptive": True}],
    ids=str,
)
def test_options_that_make_sense_are_taken(change: dict[str, object]) -> None:
    assert all(getattr(Options(**change), name) == value for name, value in change.items())


@pytest.mark.parametrize("count", [0, 1, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH + 1])
def test_every_frame_shows_in_a_batch_what_it_shows_alone(family: dict[str, str], count: int) -> None:
    ready, given = extractor(family), frames(moving(count))
    together = list(ready.observe(given))
    assert [one.time for one in together] == [frame.time for frame in given]
    same(together, [one for frame in given for one in ready.observe([frame])])


@pytest.mark.parametrize(
    "faces",
    [[0], [0] * 20, [1, 0, 2], [0, 4, 0, 4, 0, 1], [4, 4, 4, 4], [3, 3, 3, 3, 3]],
    ids=lambda faces: " ".join(map(str, faces)) if isinstance(faces, list) else None,
)
def test_rows_of_scores_belong_to_the_faces_of_their_frame(
    family: dict[str, str], faces: list[int], crops: list[np.ndarray]
) -> None:
    ready = extractor(family)
    crops.clear()
    colours = [toy_models.FIRST, toy_models.SECOND, toy_models.THIRD, toy_models.NEITHER]
    observed = list(ready.observe(frames([toy_models.picture(*colours[:count]) for count in faces])))
    assert [len(one.faces) for one in observed] == [len(one.scores) for one in observed] == faces
    assert len(crops) == sum(faces)
    for one in observed:
        for face, share, row in zip(one.faces, one.shares, one.scores.embedding, strict=True):
            number = round((face.box[0] / toy_models.FACE - 2) / 4)
            assert int(row.argmax()) == (0 if number == 3 else number)
            assert share == pytest.approx((toy_models.FACE / 256) ** 2)


def test_no_more_frames_are_read_than_a_batch_needs(family: dict[str, str]) -> None:
    read = 0

    def endless() -> Iterator[Frame]:
        nonlocal read
        while True:
            read += 1
            yield Frame(
                toy_models.picture(toy_models.FIRST, toy_models.SECOND, toy_models.THIRD, toy_models.NEITHER),
                read / 5,
                0.2,
            )

    stream = extractor(family).observe(endless())
    next(stream)
    assert read == BATCH // 4
    stream.close()


@pytest.mark.parametrize("count", [0, 1, BATCH - 1, BATCH, BATCH + 1])
def test_frames_that_break_off_show_what_they_show_first(family: dict[str, str], count: int) -> None:
    def broken() -> Iterator[Frame]:
        yield from frames(moving(count))
        raise CorruptVideo("holes")

    stream = extractor(family).observe(broken())
    assert [next(stream).time for _ in range(count)] == [i / 5 for i in range(count)]
    with pytest.raises(CorruptVideo, match="holes"):
        next(stream)


def test_a_clip_is_watched_at_the_rate_of_the_options(family: dict[str, str], long: Path) -> None:
    times = [one.time for one in extractor(family, sampling=Sampling(2.5, 1, 3)).watch(long)]
    assert times == pytest.approx([1.0, 1.4, 1.8, 2.2, 2.6], abs=0.2)
    assert len(list(extractor(family).watch(long))) == 35


def test_a_clip_that_is_left_early_is_closed(family: dict[str, str], long: Path) -> None:
    stream = extractor(family).watch(long)
    next(stream)
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "fervid-ahead"]


def test_what_a_clip_shows_is_gathered_with_its_problem(family: dict[str, str], long: Path) -> None:
    ready = extractor(family)
    seen = ready.look(long)
    assert (seen.frames, len(seen.people), seen.problem) == (35, 1, None)
    found = aggregate_clip(ready.watch(long), ready.rule).people[0].pool.features().statistics
    for name, value in seen.people[0].pool.features().statistics.items():
        assert found[name] == pytest.approx(value), name
    missing = ready.look("missing.mp4")
    assert (missing.frames, type(missing.problem)) == (0, InputNotFound)
    with pytest.raises(InputNotFound):
        next(ready.watch("missing.mp4"))


@pytest.mark.parametrize("stride", [1, 2, 4, 8, 100])
def test_a_stride_takes_every_so_many_th_of_the_sampled_frames(family: dict[str, str], long: Path, stride: int) -> None:
    ready = extractor(family)
    every = list(ready.watch(long))
    found = list(ready.refine(str(long), stride, {}))
    assert [one.time for one in found] == [one.time for one in every][::stride]
    assert sum(one.duration for one in found) == pytest.approx(7)
    same([replace(one, duration=0.2) for one in found], every[::stride])


@pytest.mark.parametrize("rate", [3, 24, 30, 50])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_finer_stride_looks_only_at_what_is_new(
    family: dict[str, str], rate: int, suffix: str, tmp_path: Path, crops: list[np.ndarray]
) -> None:
    clip = clips.write(tmp_path / f"clip.{suffix}", moving(3 * rate + 1), rate=rate)
    ready = extractor(family, sampling=Sampling(5, 0.3))
    every = list(ready.watch(clip))
    crops.clear()
    known: dict[float, FrameObservation] = {}
    before: set[float] = set()
    for stride in (8, 4, 2, 1):
        times = {one.time for one in ready.refine(str(clip), stride, known)}
        assert before <= times == known.keys()
        assert len(crops) == len(known)
        before = times
    same(list(ready.refine(str(clip), 1, known)), every)
    assert len(crops) == len(every)


def test_what_breaks_off_is_refined_as_far_as_it_goes(family: dict[str, str], tmp_path: Path) -> None:
    whole = clips.write(tmp_path / "whole.mp4", moving(40), rate=5, muxer={"movflags": "faststart"})
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.7)])
    ready = extractor(family)
    known: dict[float, FrameObservation] = {}
    counts = []
    for stride in (4, 1):
        seen = aggregate_clip(ready.refine(str(cut), stride, known), ready.rule)
        assert isinstance(seen.problem, TruncatedVideo)
        counts.append(seen.frames)
    assert 0 < counts[0] < counts[1] == ready.look(cut).frames < 40
    with pytest.raises(InputNotFound):
        next(ready.refine("missing.mp4", 4, known))


def test_models_are_loaded_by_name_or_path(family: dict[str, str]) -> None:
    ready = extractor(family)
    assert (ready.detector.identity.name, ready.network.identity.name) == ("toy-detector", "toy-network")
    assert ready.options == Options(min_face=toy_models.FACE, detect_every=0.0)
    assert load_extractor(threads=1).options == Options()
    with pytest.raises(ModelNotFound, match="no-such-model"):
        load_extractor(network="no-such-model")


@pytest.mark.parametrize(
    ("role", "change"),
    [
        ("network", {"margin": -0.1}),
        ("network", {"embedding": 4}),
        ("network", {"expressions": ["dark"]}),
        ("network", {"input": {"size": 9}}),
        ("network", {"input": {"size": "x"}}),
        ("network", {"same_person": {"same_face": 0.5}}),
        ("detector", {"input": {}}),
        ("detector", {"threshold": "x"}),
        ("detector", {"open_score": "x"}),
    ],
)
def test_a_model_that_does_not_do_what_its_card_says_is_named(
    family: dict[str, str], role: str, change: dict[str, object]
) -> None:
    loaded = {kind: registry.load_model(family[kind], kind) for kind in ("detector", "network")}
    one = loaded[role]
    loaded[role] = registry.Model(one.identity, one.path, {**one.card, **change}, one.session)
    with pytest.raises(ModelIncompatible, match=rf"{role}.*export it again"):
        Extractor(loaded["detector"], loaded["network"], Options())


def test_a_fault_of_a_model_is_told_in_one_line_and_other_errors_are_left_alone(family: dict[str, str]) -> None:
    model = registry.load_model(family["network"], "network")
    said = r"network.onnx does not do what its card says \(first\); export it"
    with pytest.raises(ModelIncompatible, match=said), as_incompatible_model(model):
        raise ValueError("first\nsecond")
    with pytest.raises(InputError), as_incompatible_model(model):
        raise InputError("a clip")


def test_pictures_are_scaled_in_one_thread_and_the_network_gets_half_of_them(family: dict[str, str]) -> None:
    before = cv2.getNumThreads()
    try:
        for threads, half in ((1, 1), (2, 1), (3, 1), (4, 2)):
            cv2.setNumThreads(2)
            ready = load_extractor(network=family["network"], detector=family["detector"], threads=threads)
            assert (cv2.getNumThreads(), ready.network.threads) == (1, half)
    finally:
        cv2.setNumThreads(before)


AGAIN = """
import resource, sys
import fervid

classifier = fervid.load_classifier(options=fervid.Options(sampling=fervid.Sampling(fps=None)), threads=2)
for path in sys.argv[1:]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    classifier.answer(path)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep what they like")
def test_the_memory_of_frames_is_used_again(tmp_path: Path) -> None:
    path = str(clips.write(tmp_path / "wide.mp4", clips.smiling(40, 1280, 720)))
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "LD_PRELOAD"))}
    command = [sys.executable, "-c", AGAIN, *[path] * 4]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=plain)
    pages = 1280 * 720 * 3 / resource.getpagesize()
    assert min(map(int, done.stdout.split())) < 40 * pages / 4


SQUEEZED = {"to half its width": (0.5, 1.6), "to twice its width": (2.0, 4.5)}


def write_squeezed(path: Path, squeeze: float, zoom: float) -> Path:
    """Two seconds of one face, in pictures that were so many times as wide when they were 640 x 360."""
    image = clips.portrait(640, 360, zoom, 222, 125)
    stored = cv2.resize(image, (round(640 * squeeze), 360), interpolation=cv2.INTER_AREA)
    return clips.write(path, [stored] * 10, rate=5)


@pytest.mark.parametrize(("squeeze", "zoom"), SQUEEZED.values(), ids=SQUEEZED)
def test_a_clip_that_shows_nobody_is_looked_at_again_with_pictures_stretched(
    tmp_path: Path, squeeze: float, zoom: float
) -> None:
    path = write_squeezed(tmp_path / "squeezed.mp4", squeeze, zoom)
    looking = load_extractor(threads=1)
    assert not aggregate_clip(looking.observe(looking._read(path, Sampling())), looking.rule).people
    observed = list(looking.watch(path))
    (person,) = aggregate_clip(observed, looking.rule).people
    assert person.seconds == pytest.approx(2)
    assert [one.time for one in observed] == pytest.approx([i / 5 for i in range(10)])
    for one in observed:
        x1, _, x2, _ = one.faces[0].box
        assert (x1 + x2) / 2 == pytest.approx(320 * squeeze, abs=0.1 * 640 * squeeze), "in pixels of the frame"
        assert one.faces[0].landmarks[0, 0] < (x1 + x2) / 2 < one.faces[0].landmarks[1, 0]


def test_a_given_aspect_ratio_shows_who_was_squeezed_and_nothing_else_is_tried(tmp_path: Path) -> None:
    path = write_squeezed(tmp_path / "squeezed.mp4", *SQUEEZED["to twice its width"])
    given = load_extractor(options=Options(Sampling(aspect=16 / 9)), threads=1)
    assert len(given.look(path).people) == 1
    wrong = load_extractor(options=Options(Sampling(aspect=32 / 9)), threads=1)
    assert wrong.look(path).people == []
    assert wrong.restretch(path) == []


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
def test_scenery_shows_nobody_however_it_is_stretched(tmp_path: Path, cut: bool) -> None:
    path = clips.write(tmp_path / "empty.mp4", clips.scenery(50), muxer={"movflags": "faststart"}, options={"g": "5"})
    if cut:
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.8)])
    seen = load_extractor(threads=1).look(path)
    assert seen.people == []
    assert (seen.frames > 5, type(seen.problem)) == (True, TruncatedVideo if cut else type(None))
