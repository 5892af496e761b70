"""Streams and cameras: records are written as windows end, from the latest frames."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import cv2
import jsonschema
import live as benchmark
import numpy as np
import pytest
from typer.testing import CliRunner, Result

import clips
import fervid
import toy_models
from fervid.analysis.tracker import Tracker, TrackerConfig
from fervid.analysis.windows import WindowSpec
from fervid.cli import app
from fervid.core.errors import (
    Discontinuity,
    EmptyInput,
    FramesDropped,
    FrameTooLarge,
    InputError,
    InputNotFound,
    NoVideoStream,
    TruncatedVideo,
    Undecodable,
    UnsupportedFormat,
)
from fervid.core.records import Frame
from fervid.core.schema import record_json_schema
from fervid.media import container, streams, video
from fervid.media.latest_frame import MAX_WAIT_S, LatestFrameSource
from fervid.media.sampling import Sampling

FORMS = list(benchmark.MUXERS)
EVERY = Sampling(fps=None)


@pytest.fixture(scope="module")
def sent(moods: Path) -> dict[str, bytes]:
    """The bytes of that clip in each format that can be sent."""
    found = {}
    for form in FORMS:
        file = io.BytesIO()
        list(benchmark.send(moods, form, file, pace=1000))
        found[form] = file.getvalue()
    return found


@pytest.mark.parametrize("form", FORMS)
def test_stream_gives_same_frames_as_file(form: str, sent: dict[str, bytes], moods: Path) -> None:
    for sampling in (EVERY, Sampling(fps=2.5), Sampling(fps=1, rotate=90)):
        there = list(video.read_frames(moods, sampling))
        found = list(streams.read_stream(io.BytesIO(sent[form]), "-", sampling))
        assert [frame.time for frame in found] == pytest.approx([frame.time for frame in there], abs=2e-3)
        assert all(np.array_equal(a.image, b.image) for a, b in zip(found, there, strict=True))
        assert {round(frame.duration, 3) for frame in found[1:]} == {0.2 if sampling.fps is None else 1 / sampling.fps}


class Arriving(io.RawIOBase):
    """A pipe that gives a few bytes a time, and says how many it has given."""

    def __init__(self, data: bytes, step: int = 500) -> None:
        """Give that, so much a time."""
        self._data, self._step, self.given = data, step, 0

    def read(self, size: int = -1) -> bytes:
        part = self._data[self.given : self.given + min(size, self._step)]
        self.given += len(part)
        return part


def test_frame_arrives_before_next_is_sent(sent: dict[str, bytes]) -> None:
    pipe = Arriving(sent["mpegts"])
    given = [pipe.given for _ in streams.read_stream(pipe, "-", EVERY)]
    assert len(given) == 30
    assert given[-8] < len(sent["mpegts"])


def test_restarted_stream_has_continuous_time(sent: dict[str, bytes]) -> None:
    found: list[float] = []
    with pytest.raises(Discontinuity, match="its timestamps start again once"):
        found.extend(frame.time for frame in streams.read_stream(io.BytesIO(2 * sent["mpegts"]), "-", EVERY))
    assert len(found) > 50
    assert all(0 < later - earlier < 0.5 for earlier, later in pairwise(found))


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", EmptyInput, "exited without output"),
        (b"no video\n" * 99, UnsupportedFormat, "is text"),
        (
            b"ffconcat version 1.0\nfile '/etc/passwd'\n",
            UnsupportedFormat,
            "files that a playlist names are not opened",
        ),
        (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", UnsupportedFormat, "files that a playlist names are not opened"),
        (bytes(range(256)) * 64, UnsupportedFormat, "is not a video or image"),
    ],
)
def test_unsupported_stream(data: bytes, error: type[InputError], words: str) -> None:
    with pytest.raises(error, match=f"standard input.*{words}"):
        list(streams.read_stream(io.BytesIO(data), "standard input"))


def test_stream_without_video(tmp_path: Path) -> None:
    clips.write_sound(tmp_path / "sound.ts")
    with pytest.raises(NoVideoStream, match="only audio"):
        list(streams.read_stream(io.BytesIO((tmp_path / "sound.ts").read_bytes()), "-"))
    noise = np.random.default_rng(1).integers(0, 256, (8, 240, 320, 3), np.uint8)
    clips.write(tmp_path / "long.mp4", list(noise))
    with pytest.raises(UnsupportedFormat, match="frag_keyframe"):
        list(streams.read_stream(io.BytesIO((tmp_path / "long.mp4").read_bytes()), "-"))


def test_undecodable_or_large_stream(sent: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "MAX_FRAME_PIXELS", 100)
    with pytest.raises(FrameTooLarge):
        list(streams.read_stream(io.BytesIO(sent["matroska"]), "-"))
    monkeypatch.undo()
    head = sent["matroska"].index(b"\x1f\x43\xb6\x75")  # the first cluster
    with pytest.raises(UnsupportedFormat):
        list(streams.read_stream(io.BytesIO(sent["matroska"][:head]), "-"))
    headers, middle = 3 * 188, len(sent["mpegts"]) // 188 // 2 * 188  # without the keyframe that the rest refers to
    with pytest.raises(Undecodable):
        list(streams.read_stream(io.BytesIO(sent["mpegts"][:headers] + sent["mpegts"][middle:]), "-"))


def test_truncated_stream_gives_frames_then_error(sent: dict[str, bytes]) -> None:
    class Breaking(Arriving):
        def read(self, size: int = -1) -> bytes:
            if self.given > len(self._data) * 0.8:
                raise OSError(5, "Input/output error")
            return super().read(size)

    found: list[Frame] = []
    with pytest.raises(TruncatedVideo, match="broke off after"):
        found.extend(streams.read_stream(Breaking(sent["mpegts"]), "-", EVERY))
    assert len(found) > 15


class Device:
    """As much of a camera of OpenCV as is used: some pictures, in blue."""

    left: ClassVar[int] = 0

    def __init__(self, number: int) -> None:
        """The camera 0 is there."""
        self._there, self.released = number == 0, False

    def isOpened(self) -> bool:  # noqa: N802
        return self._there

    def set(self, name: int, value: float) -> None:
        assert (name, value) == (cv2.CAP_PROP_BUFFERSIZE, 1)

    def grab(self) -> bool:
        Device.left -= 1
        time.sleep(0.01)
        return Device.left >= 0

    def retrieve(self) -> tuple[bool, np.ndarray | None]:
        if Device.left == 20:
            return False, None
        return True, np.full((20, 30, 3), (255, 0, 0), np.uint8)

    def release(self) -> None:
        self.released = True


def test_camera_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", Device)
    for sampling, least, most, shape in (
        (EVERY, 39, 39, (20, 30, 3)),  # one is damaged
        (Sampling(fps=20, rotate=90), 5, 13, (30, 20, 3)),
    ):
        Device.left = 40
        found: list[Frame] = []
        with pytest.raises(TruncatedVideo, match="camera 0"):
            found.extend(streams.read_camera(0, sampling))
        assert least <= len(found) <= most
        assert found[0].image.shape == shape
        assert found[0].image[0, 0].tolist() == [0, 0, 255]
        assert all(earlier.time < later.time for earlier, later in pairwise(found))
        assert all(frame.duration > 0 for frame in found)


def test_missing_camera() -> None:
    with pytest.raises(InputNotFound, match=r"camera 97 cannot be opened.*plugged in"):
        list(streams.read_camera(97))


BLACK = np.zeros((8, 8, 3), np.uint8)


def frames(count: int, before: float = 0.0) -> Generator[Frame]:
    """Ten frames a second, that long after one another."""
    for number in range(count):
        time.sleep(before)
        yield Frame(BLACK, number / 10, 0.1)


def test_fast_source_waits() -> None:
    source = LatestFrameSource("-", frames(50))
    found = []
    for frame in source.frames():
        time.sleep(0.001)
        found.append(frame.time)
    assert len(found) == 50
    assert source.dropped_between(0, 99) == 0


def test_slow_consumer_gets_newest_frame() -> None:
    begun = time.monotonic()
    source = LatestFrameSource("-", frames(60, 0.02))  # as if its clock ran five times as fast
    source._earliest = begun - 99  # and it were behind already
    found = []
    for frame in source.frames():
        time.sleep(0.1)
        found.append(frame.time)
        assert source.latency() < 0.1 + 0.02 + 0.2
    assert len(found) < 30
    missed = source.dropped_between(0, 3) + source.dropped_between(3, 6)
    assert missed + len(found) == 60
    assert source.dropped_between(6, 9) == 0


@pytest.mark.parametrize(("max_wait", "waits"), [(0.0, False), (60.0, True)])
def test_camera_drops_are_counted(max_wait: float, waits: bool) -> None:
    ended = threading.Event()

    def camera() -> Generator[Frame]:
        yield from frames(9)
        ended.set()

    source = LatestFrameSource("camera:0", camera(), max_wait)
    given = source.frames()
    found = [next(given)]
    assert ended.wait(0.3 if waits else 30) is not waits
    found += given
    assert found[-1].time == 0.8
    assert (len(found) == 9) is waits
    assert source.dropped_between(0, 99) + len(found) == 9


def test_drops_between_windows_count_for_next() -> None:
    source = LatestFrameSource("-", iter_of())
    source._dropped.extend([0.5, 1.5, 2.5, 3.5, 4.5])
    assert source.dropped_between(0, 1) == 1
    assert source.dropped_between(3, 4) == 3
    assert source.dropped_between(3.5, 4.5) == 1, "as far as windows overlap, what is dropped is in both"
    assert source.dropped_between(4, 5) == 1


def test_max_wait() -> None:
    source = LatestFrameSource("-", iter_of(Frame(BLACK, 0.0), Frame(BLACK, 0.0), Frame(BLACK, 0.1), Frame(BLACK, 0.2)))
    given = source.frames()
    next(given)
    time.sleep(MAX_WAIT_S + 0.4)
    assert next(given).time > 0
    given.close()


def iter_of(*given: Frame) -> Generator[Frame]:
    yield from given


def test_source_error_comes_after_frames() -> None:
    closed = []

    def breaking() -> Generator[Frame]:
        try:
            yield Frame(BLACK)
            raise TruncatedVideo("broke off")
        finally:
            closed.append(True)

    given = LatestFrameSource("-", breaking()).frames()
    next(given)
    with pytest.raises(TruncatedVideo, match="broke off"):
        next(given)
    assert closed == [True]
    early = LatestFrameSource("-", frames(10**6, 0.001)).frames()
    next(early)
    early.close()
    deadline = time.monotonic() + 5
    while any(thread.name == "fervid-live" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_each_window_of_stream_has_its_answer(toy: fervid.Classifier, sent: dict[str, bytes]) -> None:
    for form in FORMS:
        source = LatestFrameSource("-", streams.read_stream(io.BytesIO(sent[form]), "-"))
        parts = list(toy.classify_stream(source, WindowSpec(2, 2)))
        assert [(part.start_s, part.label) for part in parts] == [(0, "first"), (2, "second"), (4, "third")]
        assert [part.end_s for part in parts] == pytest.approx([2, 4, 6], abs=2e-3)
        assert all((part.path, part.status, part.error) == ("-", "ok", None) for part in parts)
        assert [part.frames_sampled for part in parts] == [10, 10, 10]
        assert all(0 < part.elapsed_s < 2 for part in parts)


def test_window_is_told_while_stream_goes_on(toy: fervid.Classifier) -> None:
    going = threading.Event()

    def waiting() -> Generator[Frame]:
        for number in range(11):
            yield Frame(toy_models.picture(toy_models.FIRST), number / 5, 0.2)
        assert going.wait(20)

    parts = toy.classify_stream(LatestFrameSource("-", waiting()), WindowSpec(2, 2))
    assert next(parts).label == "first"
    going.set()
    assert len(list(parts)) == 1


def test_what_was_dropped_is_told(toy: fervid.Classifier) -> None:
    given = [Frame(toy_models.picture(toy_models.FIRST), number / 5, 0.2) for number in range(20)]
    source = LatestFrameSource("-", iter_of(*given[:5], *given[8:]))
    source._dropped.extend((1.0, 1.2, 1.4))
    first, second = toy.classify_stream(source, WindowSpec(2, 2))
    assert first.error is not None
    assert first.error.code == FramesDropped.code == "dropped"
    assert first.error.message.startswith("3 of 10 frames were dropped")
    assert second.error is None


def test_dropped_frames_are_told_before_what_is_only_worth_knowing(toy: fervid.Classifier) -> None:
    def joined() -> Generator[Frame]:
        yield from (Frame(toy_models.picture(toy_models.FIRST), number / 5, 0.2) for number in range(9))
        raise Discontinuity("- was read completely")

    source = LatestFrameSource("-", joined(), max_wait=600.0)
    source._dropped.append(1.0)
    (window,) = toy.classify_stream(source, WindowSpec(2, 2))
    assert window.error is not None
    assert window.error.code == "dropped"
    assert window.error.message.startswith("1 of 10 frames were dropped")
    assert window.error.message.endswith("; - was read completely")


def test_people_who_left_are_forgotten() -> None:
    tracker = Tracker(TrackerConfig(0.5, -1.0, 2.0))
    face = fervid.core.records.Face((0, 0, 9, 9), np.zeros((2, 2), np.float32), 0.9)
    for moment in range(100):
        tracker.update(moment * 10.0, [face], np.zeros((1, 0), np.float32))
        tracker.prune(moment * 10.0 - 50)
        assert len(tracker._tracks) <= 6
    assert tracker.group_identities()[0] == [94]


def run(command: str, *arguments: object, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(app.app, [command, *map(str, arguments)], input=stdin)


@pytest.fixture
def flags(family: dict[str, str]) -> list[str]:
    return [*toy_models.flags(family), f"--min-face={toy_models.FACE}"]


def records(text: str) -> list[dict]:
    found = [json.loads(line) for line in text.splitlines()]
    for record in found:
        jsonschema.validate(record, record_json_schema("timeline"))
    return found


def test_standard_input_is_followed(flags: list[str], sent: dict[str, bytes], tmp_path: Path) -> None:
    result = run("classify", "-", *flags, stdin=sent["matroska"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert [(r["start_s"], r["path"], r["status"]) for r in records(result.stdout)] == [
        (0, "-", "ok"),
        (1, "-", "ok"),
        (2, "-", "ok"),
    ]
    output = tmp_path / "out.jsonl"
    result = run("timeline", "-", *flags, "--window", 2, "--step", 2, "-o", output, stdin=sent["mpegts"])
    assert (result.exit_code, result.stdout, os.listdir(tmp_path)) == (0, "", ["out.jsonl"])
    assert [r["label"] for r in records(output.read_text())] == ["first", "second", "third"]
    assert run("timeline", "-", *flags, "-o", output, stdin=sent["mpegts"]).exit_code == 2
    assert run("timeline", "-", *flags, "-o", output, "--force", stdin=b"").exit_code == 1
    assert [r["error"]["code"] for r in records(output.read_text())] == ["empty_file"]
    table = run("timeline", "-", *flags, "--format", "table", "--progress", "json", stdin=sent["mp4"])
    assert table.stdout.splitlines()[-1] == "3 windows: 3 ok"
    assert len(table.stderr.splitlines()) == 3
    assert run("classify", "-", *flags, "--exit-zero", stdin=b"x").exit_code == 0


def test_stdin_reports_discontinuity_as_a_file_does(
    flags: list[str], sent: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        LatestFrameSource.__init__, "__defaults__", (600.0,)
    )  # a busy machine drops frames, which is told instead
    path = tmp_path / "joined.ts"
    path.write_bytes(2 * sent["mpegts"])
    whole = ("--window", 100, "--step", 100)
    (file,) = records(run("timeline", path, *flags, *whole).stdout)
    streamed = run("timeline", "-", *flags, *whole, stdin=path.read_bytes())
    (stream,) = records(streamed.stdout)
    assert streamed.exit_code == 0
    assert file["error"]["code"] == stream["error"]["code"] == "discontinuity"
    assert stream["error"]["message"] == file["error"]["message"].replace(str(path), "standard input")
    same = ("status", "label", "confidence", "frames_sampled", "frames_with_face", "start_s", "end_s")
    assert {name: stream[name] for name in same} == {name: file[name] for name in same}


def test_camera_that_is_not_there_is_a_record_and_status_1(flags: list[str]) -> None:
    for command in ("classify", "timeline"):
        result = run(command, "--camera", 97, *flags)
        (record,) = records(result.stdout)
        assert (result.exit_code, record["path"], record["error"]["code"]) == (1, "camera:97", "not_found")


WRONG = (
    "classify - clip.mp4 | classify --camera 0 clip.mp4 | classify --camera -1 | classify - --resume -o a.jsonl"
    " | classify - --from-file - | classify - --adaptive | classify - --engine ray | classify - --address auto"
    " | classify - -o a.csv | classify - --format parquet | timeline - --format json | timeline - --start 1"
    " | timeline --camera 0 --window 0"
)


@pytest.mark.parametrize("arguments", WRONG.split(" | "))
def test_wrong_usage_is_status_2(arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments.split())
    assert (result.exit_code, result.stdout, os.listdir(tmp_path)) == (2, "", [])


def test_terminal_is_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    from fervid.cli import stream

    for stdin in (None, SimpleNamespace(isatty=lambda: True)):
        monkeypatch.setattr(stream.sys, "stdin", stdin)
        with pytest.raises(fervid.core.errors.UsageError, match="ffmpeg"):
            stream.classify_stream(
                *(None, WindowSpec(), fervid.Options()),
                **dict.fromkeys(("output", "run", "models")),
            )
        monkeypatch.undo()


@pytest.fixture
def following(flags: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    code = "from fervid.cli.app import main\nif __name__ == '__main__': main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "timeline", "-", *flags, "--window", "1", "--step", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    yield process
    process.kill()
    process.communicate()


def test_interrupt_ends_what_waits_for_stream(following: subprocess.Popen[bytes], sent: dict[str, bytes]) -> None:
    following.stdin.write(sent["mpegts"][: len(sent["mpegts"]) // 2])
    following.stdin.flush()
    assert json.loads(following.stdout.readline())["label"] == "first"
    following.send_signal(signal.SIGINT)
    _, said = following.communicate(timeout=20)
    assert (following.returncode, said.count(b"\n"), b"interrupted" in said) == (130, 1, True)


def test_latency_is_counted_from_last_frame_of_window() -> None:
    assert benchmark.latencies({0.0: 10.0, 0.9: 11.0, 1.0: 11.5}, [(1.0, 11.25), (2.0, 12.0)]) == [0.25, 0.5]


@pytest.mark.slow
def test_benchmark_measures_clip(moods: Path, flags: list[str]) -> None:
    found = benchmark.measure(moods, "mpegts", [*flags, "--window", "1"], pace=4)
    assert found["windows"] == 6
    assert 0 < found["median ms"] < 3000
