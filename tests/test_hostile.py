"""Malformed files: each costs one record with a correct error, in bounded time and memory, and harms no other."""

from __future__ import annotations

import hashlib
import math
import sys
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import psutil
import pytest

import fervid
import malformed_videos
import reliability_trials
from fervid.batch.runner import RunConfig
from fervid.core.errors import InputError
from fervid.core.results import ClipResult, ErrorInfo, Prediction
from fervid.core.schema import record_json_schema
from fervid.media.sampling import Sampling
from fervid.media.video import read_frames

MANY, AT_ONCE = 2600, 200
TURNS = range(0, MANY, AT_ONCE)
SAMPLE = malformed_videos.cases(260)[::8]
"""Built and damaged files of every kind; `make test-slow` tries all of `MANY`."""


@pytest.fixture(scope="module")
def single() -> fervid.Classifier:
    """The shipped models with one thread each."""
    return fervid.load_classifier(threads=1)


def attempt(cases: list[malformed_videos.Case], classifier: fervid.Classifier, folder: Path) -> None:
    """Classify them in two workers with bounded memory."""
    peaks = reliability_trials.Peaks()
    found = reliability_trials.attempt(cases, classifier, folder, RunConfig(2), peaks)
    assert found == reliability_trials.Tally(len(cases))
    assert len(peaks.of) == 2, "no worker was started anew"
    assert max(peaks.of.values()) < reliability_trials.ROOM


def test_malformed_files_cost_one_record_each(single: fervid.Classifier, tmp_path: Path) -> None:
    assert len(SAMPLE) == 33
    attempt(SAMPLE, single, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("start", TURNS)
def test_thousands_of_malformed_files_cost_one_record_each(
    start: int, single: fervid.Classifier, tmp_path: Path
) -> None:
    cases = malformed_videos.cases(MANY)
    assert len(cases) == len(TURNS) * AT_ONCE >= 2000
    attempt(cases[start : start + AT_ONCE], single, tmp_path)


# Frames and windows


def look(case: malformed_videos.Case, path: Path, sampling: Sampling) -> None:
    """Read a file and check what `read_frames` guarantees."""
    given, last, problem = 0, 0.0, None
    try:
        for frame in read_frames(path, sampling, 2):
            assert last <= frame.time < math.inf, case.name
            assert 0 <= frame.duration < math.inf, case.name
            given, last = given + 1, frame.time
    except InputError as error:
        problem = error
    assert given or problem, f"{case.name} gives neither a frame nor a reason"
    assert case.allowed.permits("ok" if given else "error", problem and problem.code), f"{case.name}: {problem}"
    if problem:
        assert problem.message.startswith(str(path))
        assert "\n" not in problem.message.removeprefix(str(path))


def open_files() -> int:
    """Count the open files of this process; 0 on Windows, where other handles come and go."""
    return 0 if sys.platform == "win32" else psutil.Process().num_fds()


def looked_at(cases: list[malformed_videos.Case], folder: Path) -> None:
    """Read sampled and all frames; check that no file and no thread is left."""
    for case in cases:
        path, before = case.write(folder), (open_files(), threading.active_count())
        for sampling in (Sampling(), Sampling(None)):
            look(case, path, sampling)
        assert (open_files(), threading.active_count()) == before, case.name
        path.unlink()


def test_frames_of_malformed_files_are_in_order(tmp_path: Path) -> None:
    looked_at(SAMPLE, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("start", TURNS)
def test_frames_of_thousands_of_malformed_files_are_in_order(start: int, tmp_path: Path) -> None:
    looked_at(malformed_videos.cases(MANY)[start : start + AT_ONCE], tmp_path)


def test_malformed_timestamps_give_few_windows(single: fervid.Classifier, tmp_path: Path) -> None:
    validator = jsonschema.Draft202012Validator(record_json_schema("timeline"))
    for name in malformed_videos.BUILT:
        if name.startswith(("fps", "steps", "times", "scale", "step", "lasts", "grows", "no_frame")):
            case = malformed_videos.built(f"built/{name}")
            found = list(single.timeline(case.write(tmp_path)))
            assert 1 <= len(found) < 60, case.name
            for window in found:
                validator.validate(window.as_dict())


# The generator


def test_cases_are_distinct_and_reproducible() -> None:
    cases = malformed_videos.cases(MANY)
    assert len({case.name for case in cases}) == len(cases)
    assert all(malformed_videos.case(case.name).name == case.name for case in cases)
    made = {hashlib.sha256(case.make()).digest() for case in SAMPLE}
    assert len(made) > 0.8 * len(SAMPLE), "damages change the file"
    assert made == {hashlib.sha256(malformed_videos.case(case.name).make()).digest() for case in SAMPLE}


@pytest.mark.parametrize("name", malformed_videos.SEEDS)
def test_seeds_are_valid_clips(name: str, single: fervid.Classifier, tmp_path: Path) -> None:
    path = tmp_path / f"seed{malformed_videos.SEEDS[name][0]}"
    path.write_bytes(malformed_videos.seed(name))
    result = single.classify_or_error(path)
    assert (result.status, result.error) == ("ok", None)
    assert len(list(read_frames(path, Sampling(None)))) == (12 if result.duration_s else 1)


def test_parts_are_found() -> None:
    kinds = {
        name: {part.kind for part in malformed_videos.parts(malformed_videos.seed(name))}
        for name in malformed_videos.SEEDS
    }
    assert {b"moov", b"mdat", b"stsz", b"stco", b"elst"} <= kinds["mp4-h264"]
    assert b"moof" in kinds["mp4-parts"]
    assert {bytes.fromhex("1c53bb6b"), bytes.fromhex("a3"), bytes.fromhex("2ad7b1")} <= kinds["mkv-h264"]
    assert {b"idx1", b"avih", b"strh", b"00dc"} <= kinds["avi-mpeg4"]
    assert {b"IHDR", b"IEND"} <= kinds["png"]
    for name in malformed_videos.SEEDS:
        data = malformed_videos.seed(name)
        assert len(malformed_videos.parts(data)) > 1
        assert all(0 <= part.start <= part.body <= part.stop <= len(data) for part in malformed_videos.parts(data))


def test_damages_accept_any_bytes() -> None:
    for name, (damage, *_) in malformed_videos.DAMAGES.items():
        for data in (b"\0", b"RIFF", b"\x1a\x45\xdf\xa3", bytes(300), b"\0\0\0\x08ftyp"):
            assert isinstance(damage(data, np.random.default_rng(0)), bytes), f"{name} {data!r}"


# The verdict

OK = ClipResult("a", "ok", Prediction({"calm": 1.0}))


def failed(code: str, message: str = "it is so") -> ClipResult:
    return ClipResult("a", "error", error=ErrorInfo(code, message))


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        (OK, ""),
        (replace(OK, error=ErrorInfo("not_a_video", "how")), "wrong"),
        (replace(OK, duration_s=math.inf), "wrong"),
        (replace(OK, path="b"), "wrong"),
        (replace(OK, elapsed_s=31.0), "hangs"),
        (failed("not_a_video", ""), "wrong"),
        (failed("not_found"), "wrong"),
        (failed("timeout"), "hangs"),
        (failed("crashed"), "crashes"),
        (None, "lost"),
    ],
    ids=repr,
)
def test_judge(result: ClipResult | None, verdict: str) -> None:
    found = reliability_trials.judge([malformed_videos.case("gif/noise/0")], ["a"], [result] if result else [])
    assert found.cases == 1
    assert [name for name in ("hangs", "crashes", "lost", "wrong") if getattr(found, name)] == [verdict][: len(verdict)]
    assert len(found.failures) == bool(verdict)
    assert found.failures == () or found.failures[0].startswith("gif/noise/0")


def test_judge_uses_allowed_codes() -> None:
    whole, never = malformed_videos.case("built/one_frame.gif"), malformed_videos.case("built/sound.mp4")
    assert reliability_trials.judge([whole], ["a"], [OK]).failures == ()
    assert reliability_trials.judge([whole], ["a"], [replace(OK, error=ErrorInfo("damaged", "bad"))]).wrong
    assert reliability_trials.judge([never], ["a"], [OK]).wrong
    assert reliability_trials.judge([never], ["a"], [failed("no_video_stream")]).failures == ()


def test_attempt_notices_harmed_clip(tmp_path: Path) -> None:
    class Forgetful:
        """Gives another label to the clip after a GIF."""

        def classify_or_error(self, path: str) -> ClipResult:
            label = "fear" if getattr(self, "last", "").endswith(".gif") else "calm"
            self.last = path
            return ClipResult(path, "ok", Prediction({label: 1.0}))

    cases = [malformed_videos.case(name) for name in ("gif/flip_bit/0", "png/flip_bit/0")]
    found = reliability_trials.attempt(cases, Forgetful(), tmp_path, RunConfig())
    assert found == reliability_trials.Tally(2, wrong=("gif/flip_bit/0: the next clip was harmed",))
    assert found + found == reliability_trials.Tally(4, wrong=2 * found.wrong)


# One process for all

HELD = reliability_trials.Held(200.0, 9, 12)


@pytest.mark.parametrize(
    ("last", "found"),
    [
        (HELD, ""),
        (replace(HELD, memory=209.9), ""),
        (replace(HELD, memory=210.1), "memory grew from 200 MB to 210 MB"),
        (replace(HELD, handles=10), "handles grew from 9 to 10"),
        (replace(HELD, threads=13), "threads grew from 12 to 13"),
        (replace(HELD, threads=11), ""),  # one of before had not ended yet
    ],
)
def test_leaks(last: reliability_trials.Held, found: str) -> None:
    assert reliability_trials.leaks(HELD, last) == ((found,) if found else ())


def test_memory_and_handles_do_not_grow(single: fervid.Classifier, tmp_path: Path) -> None:
    first, last = reliability_trials.soak(single, tmp_path, 33, 22)
    assert reliability_trials.leaks(first, last, 0.3) == ()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_and_handles_do_not_grow_over_thousands(classifier: fervid.Classifier, tmp_path: Path) -> None:
    assert reliability_trials.leaks(*reliability_trials.soak(classifier, tmp_path, 2000)) == ()


# What was found with them


@pytest.mark.parametrize("far", [2**45, 2**62])
def test_fragment_offset_beyond_file_is_truncated(far: int, tmp_path: Path) -> None:
    data = malformed_videos.seed("mp4-parts")
    last = [part for part in malformed_videos.parts(data) if part.kind == b"traf"][-1]
    place = last.body + 16  # of the base of its offsets, in its first box
    path = tmp_path / "astray.mp4"
    path.write_bytes(data[:place] + far.to_bytes(8) + data[place + 8 :])
    with pytest.raises(InputError) as raised:
        list(read_frames(path))
    assert raised.value.code == "truncated"


@pytest.mark.parametrize("turned", [False, True])
def test_thin_image_needs_little_memory(turned: bool, single: fervid.Classifier) -> None:
    line = np.zeros((2, 16_384, 3), np.uint8)
    tracemalloc.start()
    try:
        assert single.extractor._face_detector.detect(line.swapaxes(0, 1).copy() if turned else line) == []
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
