"""The extractor gives the same observations in batches, at any stride and for each frame alone."""

from __future__ import annotations

import mmap
import os
import platform
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
from fervid.analysis.compatibility import as_incompatible_model
from fervid.analysis.extractor import Extractor, load_extractor
from fervid.analysis.face_model import BATCH
from fervid.analysis.options import Options
from fervid.core.errors import CorruptVideo, InputError, InputNotFound, ModelIncompatible, ModelNotFound, TruncatedVideo
from fervid.core.records import Frame, FrameObservation
from fervid.media.sampling import Sampling
from fervid.models import registry


def extractor(family: dict[str, str], **options: object) -> Extractor:
    merged = Options(**{"min_face": toy_models.FACE, "detection_interval_s": 0.0, **options})
    return load_extractor(face_model=family["face_model"], detector=family["detector"], options=merged, threads=1)


def changing_faces(count: int) -> list[np.ndarray]:
    """Images of one face whose colour changes with every frame."""
    return [toy_models.picture((255, 210 + i % 40, 210)) for i in range(count)]


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 7 s at 5 frames per second."""
    return clips.write(tmp_path_factory.mktemp("long") / "long.mp4", changing_faces(35), rate=5)


def frames(images: Sequence[np.ndarray]) -> list[Frame]:
    return [Frame(image, i / 5, 0.2) for i, image in enumerate(images)]


def assert_same(a: Sequence[FrameObservation], b: Sequence[FrameObservation]) -> None:
    assert [(observation.time, len(observation.faces)) for observation in a] == [
        (observation.time, len(observation.faces)) for observation in b
    ]
    for observation, other in zip(a, b, strict=True):
        assert observation.duration == pytest.approx(other.duration)
        assert observation.area_fractions == other.area_fractions
        assert [face.box for face in observation.faces] == [face.box for face in other.faces]
        assert observation.outputs.embedding == pytest.approx(other.outputs.embedding, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"face": "both"}, "'both'"),
        ({"min_face": 7}, "min-face.* not 7"),
        ({"adaptive": True, "sampling": Sampling(None)}, "--adaptive .*--every-frame"),
        ({"detection_interval_s": -1.0}, "detection_interval_s .*-1.0"),
        ({"detection_interval_s": float("nan")}, "detection_interval_s .*nan"),
    ],
)
def test_invalid_options_raise(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(**change)


@pytest.mark.parametrize(
    "change", [{}, {"face": "all"}, {"min_face": 8}, {"labels": ("calm", "angry")}, {"adaptive": True}], ids=str
)
def test_valid_options_are_kept(change: dict[str, object]) -> None:
    assert all(getattr(Options(**change), name) == value for name, value in change.items())


@pytest.mark.parametrize("count", [0, 1, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH + 1])
def test_batches_match_single_frames(family: dict[str, str], count: int) -> None:
    ready, inputs = extractor(family), frames(changing_faces(count))
    together = list(ready.observe_frames(inputs))
    assert [observation.time for observation in together] == [frame.time for frame in inputs]
    assert_same(together, [observation for frame in inputs for observation in ready.observe_frames([frame])])


@pytest.mark.parametrize(
    "faces",
    [[0], [0] * 20, [1, 0, 2], [0, 4, 0, 4, 0, 1], [4, 4, 4, 4], [3, 3, 3, 3, 3]],
    ids=lambda faces: " ".join(map(str, faces)) if isinstance(faces, list) else None,
)
def test_outputs_belong_to_faces_of_their_frame(
    family: dict[str, str], faces: list[int], crops: list[np.ndarray]
) -> None:
    ready = extractor(family)
    crops.clear()
    colours = [toy_models.FIRST, toy_models.SECOND, toy_models.THIRD, toy_models.NEITHER]
    observed = list(ready.observe_frames(frames([toy_models.picture(*colours[:count]) for count in faces])))
    assert (
        [len(observation.faces) for observation in observed]
        == [len(observation.outputs) for observation in observed]
        == faces
    )
    assert len(crops) == sum(faces)
    for observation in observed:
        for face, share, row in zip(
            observation.faces, observation.area_fractions, observation.outputs.embedding, strict=True
        ):
            number = round((face.box[0] / toy_models.FACE - 2) / 4)
            assert int(row.argmax()) == (0 if number == 3 else number)
            assert share == pytest.approx((toy_models.FACE / 256) ** 2)


def test_one_batch_of_frames_is_read_at_a_time(family: dict[str, str]) -> None:
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

    stream = extractor(family).observe_frames(endless())
    next(stream)
    assert read == BATCH // 4
    stream.close()


@pytest.mark.parametrize("count", [0, 1, BATCH - 1, BATCH, BATCH + 1])
def test_error_follows_frames_before_it(family: dict[str, str], count: int) -> None:
    def broken() -> Iterator[Frame]:
        yield from frames(changing_faces(count))
        raise CorruptVideo("holes")

    stream = extractor(family).observe_frames(broken())
    assert [next(stream).time for _ in range(count)] == [i / 5 for i in range(count)]
    with pytest.raises(CorruptVideo, match="holes"):
        next(stream)


def test_clip_is_sampled_at_rate_of_options(family: dict[str, str], long_clip: Path) -> None:
    times = [
        observation.time for observation in extractor(family, sampling=Sampling(2.5, 1, 3)).iter_observations(long_clip)
    ]
    assert times == pytest.approx([1.0, 1.4, 1.8, 2.2, 2.6], abs=0.2)
    assert len(list(extractor(family).iter_observations(long_clip))) == 35


def test_closing_early_stops_prefetch_thread(family: dict[str, str], long_clip: Path) -> None:
    stream = extractor(family).iter_observations(long_clip)
    next(stream)
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "fervid-prefetch"]


def test_observe_clip_aggregates_observations_and_keeps_error(family: dict[str, str], long_clip: Path) -> None:
    ready = extractor(family)
    clip = ready.observe_clip(long_clip)
    assert (clip.frames, len(clip.people), clip.error) == (35, 1, None)
    aggregated = aggregate_clip(ready.iter_observations(long_clip), ready.tracker_config)
    expected = aggregated.people[0].pool.features().statistics
    for name, value in clip.people[0].pool.features().statistics.items():
        assert expected[name] == pytest.approx(value), name
    missing = ready.observe_clip("missing.mp4")
    assert (missing.frames, type(missing.error)) == (0, InputNotFound)
    with pytest.raises(InputNotFound):
        next(ready.iter_observations("missing.mp4"))


@pytest.mark.parametrize("stride", [1, 4, 100])
def test_stride_takes_every_nth_sampled_frame(family: dict[str, str], long_clip: Path, stride: int) -> None:
    ready = extractor(family)
    every = list(ready.iter_observations(long_clip))
    strided = list(ready.observe_at_stride(str(long_clip), stride, {}))
    assert [observation.time for observation in strided] == [observation.time for observation in every][::stride]
    assert sum(observation.duration for observation in strided) == pytest.approx(7)
    assert_same([replace(observation, duration=0.2) for observation in strided], every[::stride])


@pytest.mark.parametrize(("suffix", "rate"), [("mp4", 3), ("mkv", 24), ("mp4", 50)])
def test_finer_stride_analyses_only_new_frames(
    family: dict[str, str], suffix: str, rate: int, tmp_path: Path, crops: list[np.ndarray]
) -> None:
    clip = clips.write(tmp_path / f"clip.{suffix}", changing_faces(3 * rate + 1), rate=rate)
    ready = extractor(family, sampling=Sampling(5, 0.3))
    every = list(ready.iter_observations(clip))
    crops.clear()
    cache: dict[float, FrameObservation] = {}
    before: set[float] = set()
    for stride in (8, 4, 2, 1):
        times = {observation.time for observation in ready.observe_at_stride(str(clip), stride, cache)}
        assert before <= times == cache.keys()
        assert len(crops) == len(cache)
        before = times
    assert_same(list(ready.observe_at_stride(str(clip), 1, cache)), every)
    assert len(crops) == len(every)


def test_stride_reads_truncated_clip_up_to_its_end(family: dict[str, str], tmp_path: Path) -> None:
    whole = clips.write(tmp_path / "whole.mp4", changing_faces(40), rate=5, muxer={"movflags": "faststart"})
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.7)])
    ready = extractor(family)
    cache: dict[float, FrameObservation] = {}
    counts = []
    for stride in (4, 1):
        clip = aggregate_clip(ready.observe_at_stride(str(cut), stride, cache), ready.tracker_config)
        assert isinstance(clip.error, TruncatedVideo)
        counts.append(clip.frames)
    assert 0 < counts[0] < counts[1] == ready.observe_clip(cut).frames < 40
    with pytest.raises(InputNotFound):
        next(ready.observe_at_stride("missing.mp4", 4, cache))


def test_load_extractor_accepts_names_and_paths(family: dict[str, str]) -> None:
    ready = extractor(family)
    assert (ready.detector.identity.name, ready.face_model.identity.name) == ("toy-detector", "toy-face_model")
    assert ready.options == Options(min_face=toy_models.FACE, detection_interval_s=0.0)
    assert load_extractor(threads=1).options == Options()
    with pytest.raises(ModelNotFound, match="no-such-model"):
        load_extractor(face_model="no-such-model")


def test_as_incompatible_model_converts_model_errors_only(family: dict[str, str]) -> None:
    model = registry.load_model(family["face_model"], "face_model")
    message = r"face_model.onnx does not match its model card \(first\); re-export it"
    with pytest.raises(ModelIncompatible, match=message), as_incompatible_model(model):
        raise ValueError("first\nsecond")
    with pytest.raises(InputError), as_incompatible_model(model):
        raise InputError("a clip")


def test_opencv_gets_one_thread_and_the_face_model_half(family: dict[str, str]) -> None:
    before = cv2.getNumThreads()
    try:
        for threads, half in ((1, 1), (2, 1), (3, 1), (4, 2)):
            cv2.setNumThreads(2)
            ready = load_extractor(face_model=family["face_model"], detector=family["detector"], threads=threads)
            assert (cv2.getNumThreads(), ready.face_model.threads) == (1, half)
    finally:
        cv2.setNumThreads(before)


PAGE_FAULTS = """
import resource, sys
import fervid

classifier = fervid.load_classifier(options=fervid.Options(sampling=fervid.Sampling(fps=None)), threads=2)
for path in sys.argv[1:]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    classifier.classify_or_error(path)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries manage memory differently")
def test_memory_of_frames_is_reused(tmp_path: Path) -> None:
    path = str(clips.write(tmp_path / "wide.mp4", clips.smiling(20, 1280, 720)))
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "LD_PRELOAD"))}
    command = [sys.executable, "-c", PAGE_FAULTS, *[path] * 2]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=plain)
    pages = 1280 * 720 * 3 / mmap.PAGESIZE
    assert min(map(int, done.stdout.split())) < 20 * pages / 1.5


SQUEEZED = {"to half its width": (0.5, 1.6), "to twice its width": (2.0, 4.5)}


def write_squeezed(path: Path, squeeze: float, zoom: float) -> Path:
    """Write 2 s of one face at 640 x 360, stored `squeeze` times as wide."""
    image = clips.portrait(640, 360, zoom, 222, 125)
    stored = cv2.resize(image, (round(640 * squeeze), 360), interpolation=cv2.INTER_AREA)
    return clips.write(path, [stored] * 10, rate=5)


@pytest.mark.parametrize(("squeeze", "zoom"), SQUEEZED.values(), ids=SQUEEZED)
def test_faceless_clip_is_retried_with_stretched_frames(tmp_path: Path, squeeze: float, zoom: float) -> None:
    path = write_squeezed(tmp_path / "squeezed.mp4", squeeze, zoom)
    stages = load_extractor(threads=1)
    assert not aggregate_clip(stages.observe_frames(stages._read(path, Sampling())), stages.tracker_config).people
    observed = list(stages.iter_observations(path))
    (person,) = aggregate_clip(observed, stages.tracker_config).people
    assert person.seconds == pytest.approx(2)
    assert [observation.time for observation in observed] == pytest.approx([i / 5 for i in range(10)])
    for observation in observed:
        x1, _, x2, _ = observation.faces[0].box
        assert (x1 + x2) / 2 == pytest.approx(320 * squeeze, abs=0.1 * 640 * squeeze), "in pixels of the frame"
        assert observation.faces[0].landmarks[0, 0] < (x1 + x2) / 2 < observation.faces[0].landmarks[1, 0]


def test_given_aspect_ratio_disables_stretching(tmp_path: Path) -> None:
    path = write_squeezed(tmp_path / "squeezed.mp4", *SQUEEZED["to twice its width"])
    given = load_extractor(options=Options(Sampling(aspect=16 / 9)), threads=1)
    assert len(given.observe_clip(path).people) == 1
    wrong = load_extractor(options=Options(Sampling(aspect=32 / 9)), threads=1)
    assert wrong.observe_clip(path).people == []
    assert wrong.observe_stretched(path) == []


def test_truncated_scenery_shows_no_face_when_stretched(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "empty.mp4", clips.scenery(50), muxer={"movflags": "faststart"}, options={"g": "5"})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.8)])
    clip = load_extractor(threads=1).observe_clip(path)
    assert clip.people == []
    assert (clip.frames > 5, type(clip.error)) == (True, TruncatedVideo)
