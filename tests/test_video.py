"""Reading of clips: formats, times, orientation, limits and errors."""

from __future__ import annotations

import ctypes
import io
import os
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

import clips
from fervid.core import errors
from fervid.core.errors import InputError
from fervid.core.records import Frame
from fervid.media import container, decode_audit, inputs, video
from fervid.media.decode_audit import DecodeAudit
from fervid.media.sampling import Sampling, orient
from fervid.media.streams import read_stream
from fervid.media.video import read_frames

EVERY = Sampling(fps=None)
COUNT = 12
FORMATS = {
    "mp4-h264": ("clip.mp4", "libx264"),
    "mp4-h265-10bit": ("clip.mp4", "libx265"),
    "webm-vp8": ("clip.webm", "libvpx"),
    "webm-vp9": ("clip.webm", "libvpx-vp9"),
    "mkv-av1": ("clip.mkv", "libsvtav1"),
    "avi-mpeg4": ("clip.avi", "mpeg4"),
    "avi-cinepak": ("clip.avi", "cinepak"),
    "flv": ("clip.flv", "flv"),
    "mpg-mpeg1": ("clip.mpg", "mpeg1video"),
    "mov-mpeg4": ("clip.mov", "mpeg4"),
    "gif": ("clip.gif", "gif"),
    "no-suffix-of-a-video": ("clip.txt", "libx264"),
}


def steps(count: int, width: int = 64, height: int = 48) -> list[np.ndarray]:
    """Flat grey frames whose brightness encodes their number."""
    return [np.full((height, width, 3), 10 + 20 * i, np.uint8) for i in range(count)]


def number(frame: Frame) -> int:
    return round((float(frame.image.mean()) - 10) / 20)


def drain(path: Path, sampling: Sampling = EVERY) -> tuple[list[Frame], InputError | None]:
    """Read a file; return its frames and the final error."""
    frames = []
    try:
        for frame in read_frames(path, sampling):
            frames.append(frame)  # noqa: PERF402
    except InputError as error:
        return frames, error
    return frames, None


def differs(image: np.ndarray, other: np.ndarray) -> float:
    """Mean difference in grey levels; infinite when the shapes differ."""
    return float(np.abs(image.astype(int) - other).mean()) if image.shape == other.shape else np.inf


@pytest.fixture(scope="module", params=FORMATS.values(), ids=FORMATS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 12 frames at 25 a second."""
    name, codec = request.param
    path = tmp_path_factory.mktemp("whole") / name
    writable = path.with_suffix(".mp4") if path.suffix == ".txt" else path
    return clips.write(writable, steps(COUNT), codec=codec).rename(path)


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 1 s, 25 frames."""
    return clips.write(tmp_path_factory.mktemp("second") / "second.mp4", clips.scenery(25, 64, 48))


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    return clips.portrait(160, 128, 0.8)


def test_formats(whole: Path) -> None:
    frames, error = drain(whole)
    assert error is None
    assert [frame.time for frame in frames] == pytest.approx([i / 25 for i in range(COUNT)], abs=1e-3)
    assert [frame.duration for frame in frames] == pytest.approx([1 / 25] * COUNT, abs=2e-3)
    assert [number(frame) for frame in frames] == [frame.index for frame in frames] == list(range(COUNT))
    assert {frame.image.shape for frame in frames} == {(48, 64, 3)}


SAMPLINGS = [Sampling(), Sampling(1), Sampling(7, 0.3), Sampling(12.5, 0.31, 1.44), Sampling(24.9), Sampling(40), EVERY]


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("b.mp4", "libx264", {"bf": "3", "g": "30"}),
        ("pyramid.mkv", "libx264", {"bf": "8", "x264-params": "b-pyramid=normal:ref=5:b-adapt=0", "g": "48"}),
        ("b.mpg", "mpeg2video", {"bf": "2", "g": "12"}),
        ("b.avi", "mpeg4", {"bf": "2"}),
        ("b.ts", "libx265", {}),
    ],
)
def test_skipped_frames_do_not_change_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, codec: str, options: dict[str, str]
) -> None:
    path = clips.write(tmp_path / name, clips.smiling(60, 64, 48, 0.4), codec=codec, options=options)
    skipping = [drain(path, sampling) for sampling in SAMPLINGS]
    monkeypatch.setattr(decode_audit, "mark_needed", lambda packets, *_: ((packet, True) for packet in packets))
    for sampling, (frames, error) in zip(SAMPLINGS, skipping, strict=True):
        wanted, same_error = drain(path, sampling)
        assert (type(error), len(frames)) == (type(same_error), len(wanted)), sampling
        for one, other in zip(frames, wanted, strict=True):
            assert (one.time, one.index, one.duration) == (other.time, other.index, pytest.approx(other.duration)), (
                sampling
            )
            np.testing.assert_array_equal(one.image, other.image)


def test_unneeded_frames_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clips.write(tmp_path / "b.mp4", clips.smiling(100, 64, 48, 0.4), options={"x264-params": "b-pyramid=none"})
    decoded = []
    plain = DecodeAudit.frames

    def counted(account: DecodeAudit, sampling: Sampling) -> Iterator[object]:
        for frame in plain(account, sampling):
            decoded.append(frame)
            yield frame

    monkeypatch.setattr(DecodeAudit, "frames", counted)
    assert len(drain(path, Sampling(5))[0]) == 20
    assert 20 <= len(decoded) < 70


@pytest.mark.parametrize(
    ("suffix", "sampling"),
    [
        *((suffix, Sampling()) for suffix in (".png", ".jpg", ".webp", ".bmp", ".tiff", ".txt")),
        (".png", EVERY),
        (".png", Sampling(start=3, end=4)),
    ],
)
def test_still_image(tmp_path: Path, portrait: np.ndarray, suffix: str, sampling: Sampling) -> None:
    path = tmp_path / f"still{suffix}"
    data = cv2.imencode(".png" if suffix == ".txt" else suffix, portrait[..., ::-1])[1]
    path.write_bytes(data.tobytes())
    frames, error = drain(path, sampling)
    assert error is None
    assert [(frame.time, frame.duration) for frame in frames] == [(0, 0)]
    assert differs(frames[0].image, portrait) < 3


@pytest.mark.parametrize(
    ("rotate", "clockwise"), [(None, 90), (0, 0), (90, 90)], ids=["obeys-exif", "as-stored", "given"]
)
def test_exif_rotation(tmp_path: Path, portrait: np.ndarray, rotate: int | None, clockwise: int) -> None:
    jpeg = cv2.imencode(".jpg", portrait[..., ::-1])[1].tobytes()
    turn_right = bytes.fromhex("4d4d002a00000008 0001 0112 0003 00000001 0006 0000 00000000")
    exif = b"Exif\0\0" + turn_right
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:])
    frame = next(read_frames(path, Sampling(rotate=rotate)))
    assert differs(frame.image, np.rot90(portrait, -clockwise // 90)) < 3


@pytest.mark.parametrize(
    ("name", "codec"), [("v.mp4", "libx264"), ("v.mkv", "libx264"), ("v.webm", "libvpx"), ("v.gif", "gif")]
)
def test_variable_frame_rate(tmp_path: Path, name: str, codec: str) -> None:
    times = [0, 0.04, 0.08, 0.5, 0.52, 2.0, 2.3]
    path = clips.write(tmp_path / name, steps(7), codec=codec, times=times)
    frames, error = drain(path)
    assert error is None
    assert [frame.time for frame in frames] == pytest.approx(times, abs=1e-3)
    assert [frame.duration for frame in frames[:-1]] == pytest.approx(np.diff(times), abs=2e-3)
    assert [number(frame) for frame in frames] == list(range(7))

    cut, _ = drain(path, Sampling(fps=None, start=1.0, end=1.5))
    assert [(number(frame), frame.time, frame.duration) for frame in cut] == [(4, 0.52, pytest.approx(0.5))]


SAMPLES = {
    "10 of 25": (10, [0, 3, 5, 8, 10, 13, 15, 18, 20, 23]),
    "the clip's own": (25, list(range(25))),
    "24 of 25": (24, [0, *range(2, 25)]),
    "more than there are": (1000, list(range(25))),
    "every frame": (None, list(range(25))),
    "one in an hour": (1 / 3600, [0]),
}


@pytest.mark.parametrize(("fps", "chosen"), SAMPLES.values(), ids=SAMPLES)
def test_sampling_takes_first_frame_of_each_slot(second: Path, fps: float | None, chosen: list[int]) -> None:
    frames, error = drain(second, Sampling(fps=fps))
    assert error is None
    assert [round(frame.time * 25) for frame in frames] == [frame.index for frame in frames] == chosen
    assert sum(frame.duration for frame in frames) == pytest.approx(1.0)
    ends = [frame.time + frame.duration for frame in frames]
    assert ends == pytest.approx([*(frame.time for frame in frames[1:]), 1.0])


@pytest.mark.parametrize("name", ["c.mp4", "c.mkv", "c.flv"])
def test_rounded_times_lose_no_samples(tmp_path: Path, name: str) -> None:
    codec = "flv" if name == "c.flv" else "libx264"
    path = clips.write(tmp_path / name, clips.scenery(60, 64, 48), codec=codec, rate=60)
    for fps in (60, 30, 20, 3):
        frames, _ = drain(path, Sampling(fps=fps))
        assert [frame.time for frame in frames] == pytest.approx([i / fps for i in range(fps)], abs=2e-3)


@pytest.mark.parametrize(
    ("sampling", "times"),
    [
        (Sampling(None, start=0.5), [i / 25 for i in range(12, 25)]),
        (Sampling(None, end=0.5), [i / 25 for i in range(13)]),
        (Sampling(None, start=0.2, end=0.4), [i / 25 for i in range(5, 10)]),
        (Sampling(5, start=0.3), [0.28, 0.52, 0.72, 0.92]),
        (Sampling(5, start=0.3, end=0.7), [0.28, 0.52]),
        (Sampling(5, end=0.01), [0]),
        (Sampling(5, end=99), [i / 5 for i in range(5)]),
        (Sampling(1, start=0.97), [0.96]),
    ],
    ids=lambda value: f"{value.fps}fps-{value.start}-{value.end}" if isinstance(value, Sampling) else "",
)
def test_start_and_end(second: Path, sampling: Sampling, times: list[float]) -> None:
    frames, error = drain(second, sampling)
    assert error is None
    assert [frame.time for frame in frames] == pytest.approx(times, abs=1e-6)
    length = min(1.0, sampling.end or 1.0) - sampling.start
    assert sum(frame.duration for frame in frames) == pytest.approx(length, abs=1e-6)


def test_start_after_clip_gives_no_frame(second: Path) -> None:
    assert drain(second, Sampling(start=1.0)) == ([], None)


@pytest.mark.parametrize(
    "bad",
    [
        {"fps": 0},
        {"fps": float("nan")},
        {"fps": float("inf")},
        {"start": -0.1},
        {"start": float("nan")},
        {"start": float("inf")},
        {"end": 0},
        {"end": float("nan")},
        {"start": 2, "end": 2},
        {"rotate": 45},
        {"rotate": 360},
        {"stream": -1},
        {"aspect": 0},
        {"aspect": 5},
        {"aspect": float("nan")},
    ],
    ids=str,
)
def test_invalid_sampling(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=str(list(bad.values())[-1])):
        Sampling(**bad)


@pytest.mark.parametrize(("matrix", "shown"), clips.ORIENTATIONS.values(), ids=clips.ORIENTATIONS)
def test_display_matrix(
    tmp_path: Path, portrait: np.ndarray, matrix: tuple[float, ...], shown: Callable[[np.ndarray], np.ndarray]
) -> None:
    path = clips.orient(clips.write(tmp_path / "mirrored.mp4", [portrait] * 3), *matrix)
    frames, _ = drain(path)
    assert [differs(frame.image, shown(portrait)) < 6 for frame in frames] == [True] * 3
    given = next(read_frames(path, Sampling(rotate=90)))
    assert differs(given.image, np.rot90(portrait, -1)) < 6


@pytest.mark.parametrize("matrix", [(0, 0, 0, 0), (1, 0, 0, 0), (1, 1, 1, 1), (-1, 2, -1, 2)], ids=str)
def test_singular_display_matrix_is_ignored(portrait: np.ndarray, matrix: tuple[float, ...]) -> None:
    a, b, c, d = matrix
    np.testing.assert_array_equal(orient(portrait, (a, b, 0, c, d, 0, 0, 0, 1)), portrait)


def test_zero_display_matrix_is_ignored(tmp_path: Path, portrait: np.ndarray) -> None:
    path = clips.orient(clips.write(tmp_path / "zeros.mp4", [portrait] * 3), 0, 0, 0, 0)
    assert differs(next(read_frames(path)).image, portrait) < 6


@pytest.mark.parametrize(("degrees", "clockwise"), [(-44, 0), (46, 90), (170, 180), (-100, 270)])
def test_angles_are_rounded(portrait: np.ndarray, degrees: float, clockwise: int) -> None:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    shown = orient(portrait, (cosine, sine, 0, -sine, cosine, 0, 0, 0, 1))
    np.testing.assert_array_equal(shown, np.rot90(portrait, -clockwise // 90))


def write_streams(path: Path, sizes: Sequence[tuple[int, int]], default: Sequence[int]) -> Path:
    """A clip of several video streams of 10 frames, whose grey tells their number; those in `default` are flagged."""
    with av.open(str(path), "w") as container:
        streams = []
        for width, height in sizes:
            stream = container.add_stream("mpeg2video" if path.suffix == ".ts" else "libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            flagged = len(streams) in default
            stream.disposition = av.stream.Disposition.default if flagged else av.stream.Disposition(0)
            streams.append(stream)
        for i in range(10):
            for index, (stream, (width, height)) in enumerate(zip(streams, sizes, strict=True)):
                image = np.full((height, width, 3), 50 + 100 * index, np.uint8)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = i, Fraction(1, 25)
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    return path


SMALL, LARGE = (64, 48), (128, 96)


@pytest.mark.parametrize(
    ("name", "sizes", "default", "chosen"),
    [
        ("two.mkv", (SMALL, LARGE), (0,), 0),
        ("two.mkv", (SMALL, LARGE), (0, 1), 1),
        ("two.mp4", (SMALL, SMALL), (0, 1), 0),
        ("two.ts", (SMALL, LARGE), (), 1),
        ("two.ts", (LARGE, SMALL), (), 0),
    ],
    ids=str,
)
def test_default_or_largest_stream_is_selected(
    tmp_path: Path, name: str, sizes: Sequence[tuple[int, int]], default: Sequence[int], chosen: int
) -> None:
    path = write_streams(tmp_path / name, sizes, default)
    frames, error = drain(path)
    assert len(frames) == 10
    assert [round((float(frame.image.mean()) - 50) / 100) for frame in frames] == [chosen] * 10
    assert frames[0].image.shape[1::-1] == sizes[chosen]
    assert type(error) is errors.SeveralStreams
    (width, height), (other, _) = sizes[chosen], sizes[1 - chosen]
    assert f"has 2 video streams, and {chosen} ({width} x {height}) was used, not {1 - chosen} ({other}" in str(error)
    assert type(drain(path, Sampling(end=0.1))[1]) is errors.SeveralStreams


def test_several_streams_in_pipe(tmp_path: Path) -> None:
    path = write_streams(tmp_path / "two.mkv", (SMALL, LARGE), (1,))
    _, error = drain(path)
    with pytest.raises(errors.SeveralStreams) as told:
        list(read_stream(io.BytesIO(path.read_bytes()), str(path), EVERY))
    assert str(told.value) == str(error)
    chosen = read_stream(io.BytesIO(path.read_bytes()), str(path), Sampling(fps=None, stream=0))
    assert len(list(chosen)) == 10


@pytest.mark.parametrize("name", ["two.mkv", "two.ts"])
def test_chosen_stream(tmp_path: Path, name: str) -> None:
    path = write_streams(tmp_path / name, (SMALL, LARGE), (1,))
    for wanted, size in enumerate((SMALL, LARGE)):
        frames, error = drain(path, Sampling(fps=None, stream=wanted))
        assert (len(frames), error) == (10, None)
        assert frames[0].image.shape[1::-1] == size
        with path.open("rb", buffering=0) as file:
            streamed = next(read_stream(file, "-", Sampling(stream=wanted)))
        np.testing.assert_array_equal(streamed.image, frames[0].image)


def test_missing_stream_lists_existing_ones(tmp_path: Path, second: Path) -> None:
    for path, there in ((write_streams(tmp_path / "two.mkv", (SMALL, LARGE), (1,)), "0, 1"), (second, "0")):
        frames, error = drain(path, Sampling(stream=7))
        assert (frames, type(error)) == ([], errors.NoVideoStream)
        assert f"{path} has no video stream 7, only {there};" in str(error)


def test_cover_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "covered.mp4"
    with av.open(str(path), "w") as container:
        cover, film = container.add_stream("mjpeg", rate=1), container.add_stream("libx264", rate=25)
        cover.width, cover.height, cover.pix_fmt = 256, 192, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        film.width, film.height, film.pix_fmt = 64, 48, "yuv420p"
        container.mux(cover.encode(av.VideoFrame.from_ndarray(steps(1, 256, 192)[0], format="rgb24")))
        for image in steps(10):
            container.mux(film.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(cover.encode())
        container.mux(film.encode())
    frames, error = drain(path)
    assert ([number(frame) for frame in frames], error) == (list(range(10)), None)


@pytest.mark.parametrize(("in_file", "clockwise"), [(90, 0), (0, 90), (90, 180), (90, 270)])
def test_rotation_option(tmp_path: Path, portrait: np.ndarray, in_file: int, clockwise: int) -> None:
    stored = np.rot90(portrait, clockwise // 90)
    path = clips.turn(clips.write(tmp_path / "turned.mp4", [stored] * 3), in_file)
    frame = next(read_frames(path, Sampling(rotate=clockwise)))
    assert differs(frame.image, portrait) < 6


@pytest.mark.parametrize(("name", "codec"), [("c.mp4", "libx264"), ("c.avi", "cinepak"), ("c.png", "png")])
def test_rgb_order(tmp_path: Path, name: str, codec: str) -> None:
    colour = (200, 120, 30)
    image = np.full((48, 64, 3), colour, np.uint8)
    path = tmp_path / name
    if codec == "png":
        path.write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
    else:
        clips.write(path, [image] * 2, codec=codec)
    assert next(read_frames(path)).image.mean((0, 1)) == pytest.approx(colour, abs=12)


@pytest.mark.parametrize(
    ("aspect", "clockwise", "shape"),
    [("2/1", 0, (128, 320, 3)), ("1/2", 0, (128, 80, 3)), ("2/1", 90, (320, 128, 3)), ("8/1", 0, (128, 160, 3))],
    ids=["wide", "narrow", "wide-and-turned", "absurd"],
)
def test_non_square_pixels(
    tmp_path: Path, portrait: np.ndarray, aspect: str, clockwise: int, shape: tuple[int, int, int]
) -> None:
    path = clips.write(tmp_path / "wide.mp4", [portrait] * 2, options={"aspect": aspect})
    frame = next(read_frames(clips.turn(path, clockwise)))
    assert frame.image.shape == shape


@pytest.mark.parametrize(
    ("aspect", "width", "clockwise"), [(16 / 9, 228, 0), (0.5, 64, 0), (1.25, 160, 90), (16 / 9, 228, 180)]
)
def test_aspect_option(tmp_path: Path, portrait: np.ndarray, aspect: float, width: int, clockwise: int) -> None:
    stored = np.rot90(portrait, clockwise // 90)
    path = clips.turn(clips.write(tmp_path / "squeezed.mp4", [stored] * 2, options={"aspect": "2/1"}), clockwise)
    frame = next(read_frames(path, Sampling(aspect=aspect)))
    assert differs(frame.image, cv2.resize(portrait, (width, 128), interpolation=cv2.INTER_AREA)) < 6
    still = tmp_path / "still.png"
    still.write_bytes(cv2.imencode(".png", portrait[..., ::-1])[1].tobytes())
    assert next(read_frames(still, Sampling(aspect=aspect))).image.shape == (128, width, 3)


def test_aspect_option_counts_for_size_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clips.write(tmp_path / "wide.mp4", steps(2))
    for allowed, count in ((192 * 48, 2), (192 * 48 - 1, 0)):
        monkeypatch.setattr(container, "MAX_FRAME_PIXELS", allowed)
        assert len(drain(path, Sampling(fps=None, aspect=4))[0]) == count


def write_animation(path: Path, durations: Sequence[int], first: int = 0) -> Path:
    """Flat grey pictures as an animated image, each shown for so many ms."""
    animation = cv2.Animation()
    animation.frames = [np.ascontiguousarray(image) for image in steps(first + len(durations))[first:]]
    animation.durations = np.array(durations, np.int32)
    assert cv2.imwriteanimation(str(path), animation)
    return path


@pytest.mark.parametrize(
    ("suffix", "ahead"), [*((suffix, 24_000_000) for suffix in (".webp", ".png", ".avif", ".gif")), (".webp", 1)]
)
def test_animated_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, ahead: int) -> None:
    monkeypatch.setattr(video, "_PREFETCH_BYTES", ahead)
    path = write_animation(tmp_path / f"moves{suffix}", [100, 40, 200, 60, 500, 100])
    frames, error = drain(path)
    assert error is None
    assert [number(frame) for frame in frames] == list(range(6))
    assert [frame.time for frame in frames] == pytest.approx([0, 0.1, 0.14, 0.34, 0.4, 0.9], abs=2e-3)
    assert [frame.duration for frame in frames[:-1]] == pytest.approx([0.1, 0.04, 0.2, 0.06, 0.5], abs=2e-3)
    few, _ = drain(path, Sampling(2, start=0.1))
    assert [number(frame) for frame in few] == [1, 5]


def test_animation_without_delay(tmp_path: Path) -> None:
    frames, _ = drain(write_animation(tmp_path / "hasty.webp", [0, 5, 10, 0]))
    assert [frame.time for frame in frames] == pytest.approx([0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize("name", ["moves.webp", b"\xff.webp", "moves%d.webp", "moves.txt"], ids=repr)
def test_animation_file_names(tmp_path: Path, name: str | bytes) -> None:
    path = tmp_path / (os.fsdecode(name) if isinstance(name, bytes) else name)
    write_animation(tmp_path / "written.webp", [100] * 3).rename(path)
    assert len(drain(path)[0]) == 3


def test_damaged_or_large_animation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_animation(tmp_path / "moves.webp", [100] * 6)
    (tmp_path / "zeros.webp").write_bytes(path.read_bytes()[:48] + bytes(400))
    frames, error = drain(tmp_path / "zeros.webp")
    assert (frames, type(error)) == ([], errors.Undecodable)
    monkeypatch.setattr(container, "MAX_FRAME_PIXELS", 64 * 48 - 1)
    assert type(drain(path)[1]) is errors.FrameTooLarge


def write_with_sound(path: Path, frames: int, codec: str, late: float) -> Path:
    """A clip whose pictures begin `late` seconds after its sound."""
    with av.open(str(path), "w") as container:
        pictures = container.add_stream(codec, rate=25)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        noise = container.add_stream("aac", rate=48000, layout="mono")
        for i, image in enumerate(steps(frames)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = i + round(25 * late), Fraction(1, 25)
            container.mux(pictures.encode(frame))
        for start in range(0, int((frames / 25 + late) * 48000), 1024):
            wave = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            wave.sample_rate, wave.pts = 48000, start
            container.mux(noise.encode(wave))
        container.mux(pictures.encode())
        container.mux(noise.encode())
    return path


@pytest.mark.parametrize(
    ("name", "codec", "late"),
    [
        ("s.mp4", "libx264", 0.0),
        ("s.mp4", "libx264", 1.0),
        ("s.mkv", "libx264", 1.0),
        ("s.ts", "libx264", 1.0),
        ("s.flv", "flv", 1.0),
    ],
)
def test_time_starts_with_container(tmp_path: Path, name: str, codec: str, late: float) -> None:
    path = write_with_sound(tmp_path / name, 10, codec, late)
    frames, error = drain(path)
    assert error is None
    with av.open(str(path)) as demuxed:
        start = Fraction(demuxed.start_time or 0, av.time_base)
        players = [float(frame.pts * frame.time_base - start) for frame in demuxed.decode(video=0)]
    assert players == pytest.approx([late + i / 25 for i in range(10)], abs=0.03)  # an encoder of sound begins earlier
    assert [frame.time for frame in frames] == pytest.approx(players, abs=1e-3)
    assert sum(frame.duration for frame in frames) == pytest.approx(0.4, abs=2e-3)


INDEX_FIRST = {"movflags": "faststart"}
CUTS = [
    ("front.mp4", "libx264", INDEX_FIRST),
    ("front.mov", "mpeg4", INDEX_FIRST),
    ("cut.mkv", "libx264", {}),
    ("cut.webm", "libvpx", {}),
    ("cut.avi", "mpeg4", {}),
    ("pictures.avi", "mjpeg", {}),
    ("cut.flv", "flv", {}),
]


@pytest.fixture(scope="module", params=CUTS, ids=lambda cut: cut[0])
def broken_off(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A clip of 50 frames: the whole file, and its first 60 percent."""
    name, codec, muxer = request.param
    place = tmp_path_factory.mktemp("cut")
    path = clips.write(place / f"whole-{name}", clips.smiling(50, 160, 128, 0.8), codec=codec, muxer=muxer)
    data = path.read_bytes()
    (place / name).write_bytes(data[: len(data) * 6 // 10])
    return path, place / name


def test_truncated_file_gives_frames_then_error(broken_off: tuple[Path, Path]) -> None:
    path, cut = broken_off
    frames, error = drain(cut)
    complete, no_error = drain(path)
    assert no_error is None
    assert 0 < len(frames) < len(complete) == 50
    assert type(error) is errors.TruncatedVideo
    end = frames[-1].time + frames[-1].duration
    assert f"{cut} breaks off after {end:.2f} s" in error.message
    assert "again" in error.message
    assert differs(frames[0].image, complete[0].image) < 1

    few, same = drain(cut, Sampling(fps=1 / 60))
    assert [frame.duration for frame in few] == [pytest.approx(end)]
    assert str(same) == str(error)


@pytest.mark.parametrize("broken_off", [CUTS[0], CUTS[2], CUTS[4]], indirect=True, ids=lambda cut: cut[0])
def test_end_before_damage_raises_nothing(broken_off: tuple[Path, Path]) -> None:
    _, cut = broken_off
    frames, error = drain(cut, Sampling(None, end=0.04))
    assert (len(frames), error) == (1, None)


@pytest.mark.parametrize(("name", "share"), [("late.mp4", 0.1), ("late.mov", 0.5)])
def test_mp4_cut_before_index(tmp_path: Path, name: str, share: float) -> None:
    path = clips.write(tmp_path / name, clips.smiling(10, 160, 128), codec="mpeg4")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    frames, error = drain(path)
    assert (frames, type(error)) == ([], errors.TruncatedVideo)
    assert f"{path} breaks off before its index" in str(error)


@pytest.mark.parametrize("kept", range(8, 700, 200))
def test_mp4_cut_within_index(second: Path, tmp_path: Path, kept: int) -> None:
    data = second.read_bytes()
    path = tmp_path / "index.mp4"
    path.write_bytes(data[: data.index(b"moov") + kept])
    frames, error = drain(path)
    assert (frames, type(error)) == ([], errors.TruncatedVideo)


def blank(path: Path, start: float, end: float, box: bytes = b"mdat") -> Path:
    """Overwrite a part of the media data with zeros, given as shares of it."""
    data = bytearray(path.read_bytes())
    at = data.index(box)
    size = int.from_bytes(data[at - 4 : at], "big") - 8
    begin, stop = (at + 4 + int(share * size) for share in (start, end))
    data[begin:stop] = bytes(stop - begin)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "codec"), [("holes.mp4", "libx264"), ("holes.mov", "mpeg4"), ("pictures.mov", "mjpeg")]
)
def test_damage_in_middle(tmp_path: Path, name: str, codec: str) -> None:
    path = clips.write(tmp_path / name, clips.smiling(50, 160, 128, 0.8), codec=codec)
    frames, error = drain(blank(path, 0.5, 0.6))
    assert type(error) is errors.CorruptVideo
    assert str(path) in str(error)
    assert "damaged" in str(error)
    assert 25 < len(frames) < 50
    assert frames[-1].time == pytest.approx(49 / 25)
    assert sum(frame.duration for frame in frames) == pytest.approx(2.0)


def lose(data: bytes, at: int) -> bytes:
    return data[:at] + data[at + 10 * 188 :]


def overwrite(data: bytes, at: int) -> bytes:
    return data[:at] + bytes(60) + data[at + 60 :]


@pytest.mark.parametrize(
    ("name", "codec", "harm"),
    [("h.ts", "libx264", lose), ("h.avi", "mpeg4", overwrite)],
    ids=["packets-flagged-by-the-container", "frames-flagged-by-the-decoder"],
)
def test_small_damage_is_reported(tmp_path: Path, name: str, codec: str, harm: Callable[[bytes, int], bytes]) -> None:
    path = clips.write(tmp_path / name, clips.smiling(50, 160, 128, 0.8), codec=codec)
    data = path.read_bytes()
    path.write_bytes(harm(data, len(data) // 2 // 188 * 188))
    frames, error = drain(path)
    assert len(frames) > 40
    assert type(error) is errors.CorruptVideo


def unknown_codec(path: Path) -> Path:
    data = path.read_bytes()
    at = data.rindex(b"avc1")
    path.write_bytes(data[:at] + b"zzzz" + data[at + 4 :])
    return path


@pytest.mark.parametrize(
    "spoil", [unknown_codec, lambda path: blank(path, 0, 1)], ids=["unknown-codec", "nothing-but-zeros"]
)
def test_undecodable_video(tmp_path: Path, spoil: Callable[[Path], Path]) -> None:
    path = spoil(clips.write(tmp_path / "dark.mp4", clips.scenery(10)))
    frames, error = drain(path)
    assert (frames, type(error)) == ([], errors.Undecodable)
    assert str(path) in str(error)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_truncated_image(tmp_path: Path, portrait: np.ndarray, suffix: str) -> None:
    data = cv2.imencode(suffix, portrait)[1].tobytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(data[: len(data) // 2])
    frames, error = drain(path)
    assert (frames, type(error)) == ([], errors.Undecodable)
    assert str(path) in str(error)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".mp4", ".webm"])
def test_pixel_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    path = tmp_path / f"large{suffix}"
    (image,) = steps(1, 160, 128)
    if suffix in inputs.VIDEO_SUFFIXES:
        clips.write(path, [image], codec="libvpx" if suffix == ".webm" else "libx264")
    else:
        path.write_bytes(cv2.imencode(suffix, image)[1].tobytes())
    monkeypatch.setattr(container, "MAX_FRAME_PIXELS", 160 * 128)
    frames, error = drain(path)
    assert (len(frames), error) == (1, None)
    monkeypatch.setattr(container, "MAX_FRAME_PIXELS", 160 * 128 - 1)
    frames, error = drain(path)
    assert (frames, type(error)) == ([], errors.FrameTooLarge)
    assert f"{path} has frames of 160 x 128 pixels, and at most 20479 are" in error.message


def test_huge_image_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "huge.bmp"
    path.write_bytes(struct.pack("<2sI4xI3I2H24x", b"BM", 54, 54, 40, 40_000, 40_000, 1, 24))
    monkeypatch.setattr(cv2, "imdecode", None)
    frames, error = drain(path)
    assert (frames, type(error)) == ([], errors.FrameTooLarge)


def test_pixel_limit_counts_stretched_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clips.write(tmp_path / "wide.mp4", steps(2), options={"aspect": "4/1"})
    for allowed, count in ((256 * 48, 2), (256 * 48 - 1, 0)):
        monkeypatch.setattr(container, "MAX_FRAME_PIXELS", allowed)
        assert len(drain(path)[0]) == count


@pytest.mark.parametrize(("allowed", "expected"), [(7000, errors.FrameTooLarge), (5000, errors.CorruptVideo)])
def test_frames_that_grow_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: int, expected: type[InputError]
) -> None:
    """Those that are far too large are refused by the decoder."""
    small = clips.write(tmp_path / "small.ts", clips.scenery(12, 64, 48))
    large = clips.write(tmp_path / "large.ts", clips.scenery(12, 128, 96))
    path = tmp_path / "grows.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    assert {frame.image.shape for frame in drain(path)[0]} == {(48, 64, 3), (96, 128, 3)}
    monkeypatch.setattr(container, "MAX_FRAME_PIXELS", allowed)
    frames, error = drain(path)
    assert {frame.image.shape for frame in frames} == {(48, 64, 3)}
    assert 8 < len(frames) <= 12
    assert type(error) is expected


DAY = 86_400.0
GAP = 5.0  # seconds that a frame lasts before a gap, if the frames before are a second apart


@pytest.mark.parametrize(
    ("times", "sampling", "expected", "too_long"),
    [
        ([0, 1, DAY - 1], EVERY, [1, GAP, 0.04], False),
        ([0, 1, DAY + 0.5], EVERY, [1, GAP], True),
        ([0, 1, DAY + 0.5], Sampling(None, end=1.5), [1, 0.5], False),
        ([0, 1, DAY + 0.5], Sampling(None, end=DAY), [1, GAP], False),
        ([0, 1, DAY + 0.5], Sampling(None, end=DAY + 9), [1, GAP], True),
        ([0, 1, DAY + 0.5], Sampling(None, start=1), [GAP, 0.04], False),
        ([0, 1, 2 * DAY], Sampling(5, start=0.5), [0.5, GAP], True),
    ],
)
def test_duration_limit(
    tmp_path: Path, times: list[float], sampling: Sampling, expected: list[float], too_long: bool
) -> None:
    path = clips.write(tmp_path / "long.mkv", steps(3), times=times)
    frames, error = drain(path, sampling)
    assert [frame.duration for frame in frames] == pytest.approx(expected, abs=0.05)
    assert type(error) is (errors.ClipTooLong if too_long else type(None))
    assert error is None or f"{path} is longer than 24 hours" in error.message


@pytest.mark.parametrize(("sampling", "count"), [(EVERY, 12), (Sampling(), 1)])
def test_constant_timestamps(tmp_path: Path, sampling: Sampling, count: int) -> None:
    path = tmp_path / "still.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for image in steps(COUNT):
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                packet.pts = packet.dts = packet.duration = 0
                container.mux(packet)
    frames, error = drain(path, sampling)
    assert (len(frames), error) == (count, None)
    assert {frame.time for frame in frames} == {0}
    assert sum(frame.duration for frame in frames) < 0.1


# What names other files


class Watch:
    """Tells whether a file was opened, whoever did it."""

    def __init__(self, path: Path) -> None:
        """Begin."""
        libc = ctypes.CDLL(None)
        self._events = libc.inotify_init1(os.O_NONBLOCK)
        assert libc.inotify_add_watch(self._events, os.fsencode(path), 0x20) >= 0

    def noticed(self) -> bool:
        """Whether it was opened since one last asked."""
        try:
            return bool(os.read(self._events, 65536))
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self._events)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[tuple[Path, Watch]]:
    """A clip that nobody may open."""
    if sys.platform != "linux":
        pytest.skip("only Linux tells which files were opened")
    path = clips.write(tmp_path / "canary.ts", clips.scenery(12, 160, 128))
    watch = Watch(path)
    yield path, watch
    watch.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A server to which nobody may come."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def came(server: socket.socket) -> bool:
    try:
        server.accept()[0].close()
    except BlockingIOError:
        return False
    return True


PLAYLISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n{0}\n#EXT-X-ENDLIST\n",
    "m3u8 with a key": '#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-KEY:METHOD=AES-128,URI="{0}"\n#EXTINF:1,\n{0}\n',
    "m3u8 of streams": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{0}\n",
    "ffconcat": "ffconcat version 1.0\nfile '{0}'\nduration 1\n",
    "mpd": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet'
    ' mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{0}</BaseURL></Representation></AdaptationSet>'
    "</Period></MPD>\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\na=control:{0}\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "asx": '<asx version="3.0"><entry><ref href="{0}"/></entry></asx>\n',
    "pls": "[playlist]\nFile1={0}\nNumberOfEntries=1\n",
    "smil": '<smil><body><video src="{0}"/></body></smil>\n',
    "rtsp": "RTSPtextRTSP://{0}\n",
    "qtl": '<?xml version="1.0"?>\n<?quicktime type="application/x-quicktime-media-link"?>\n<embed src="{0}"/>\n',
    "srt": "1\n00:00:00,000 --> 00:00:01,000\n{0}\n\n",
    "tedcaptions": '{{"captions":[{{"duration":1,"content":"{0}","startOfParagraph":true,"startTime":0}}]}}\n',
    "ffmetadata": ";FFMETADATA1\ntitle={0}\n",
}


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [*((kind, kind.split()[0]) for kind in PLAYLISTS), *((kind, "mp4") for kind in ("m3u8", "ffconcat", "sdp"))],
)
def test_playlist_entries_are_not_opened(
    tmp_path: Path, canary: tuple[Path, Watch], listener: socket.socket, kind: str, suffix: str
) -> None:
    secret, watch = canary
    path = tmp_path / f"list.{suffix}"
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/a.ts"
    for name in (secret, secret.name, secret.as_uri(), f"concat:{secret}", address):
        path.write_text(PLAYLISTS[kind].format(name))
        frames, error = drain(path)
        assert (frames, type(error)) == ([], errors.UnsupportedFormat)
        assert "files that a playlist names are not opened" in error.message
        assert (watch.noticed(), came(listener)) == (False, False)


@pytest.mark.parametrize("kind", ["m3u8", "ffconcat"])
def test_playlists_work_without_sandbox(tmp_path: Path, canary: tuple[Path, Watch], kind: str) -> None:
    secret, watch = canary
    path = tmp_path / f"list.{kind}"
    path.write_text(PLAYLISTS[kind].format(secret.name))
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == 12
    assert watch.noticed()


def within(data: bytes, name: bytes, box: bytes) -> bytes:
    """A QuickTime file with another data reference of its video; everything that holds it grows with it."""
    at = data.index(b"dref") - 4
    old = int.from_bytes(data[at + 12 + 4 : at + 12 + 8], "big")
    new = bytearray(data[: at + 16] + struct.pack(">I4sI", 12 + len(box), name, 0) + box + data[at + 16 + old :])
    for holder in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        start = data.index(holder) - 4
        length = int.from_bytes(data[start : start + 4], "big") + 12 + len(box) - old
        new[start : start + 4] = length.to_bytes(4, "big")
    return bytes(new)


def alias(path: Path) -> bytes:
    """What the Macintosh called the place of a file."""
    name = os.fsencode(path)
    name += bytes(len(name) % 2)
    return struct.pack(">10xB27s12xB63s16xHH16xHH", 0, b"", 0, b"", 1, 1, 2, len(name)) + name + b"\xff\xff\0\0"


def test_mov_references_are_not_opened(tmp_path: Path, canary: tuple[Path, Watch], listener: socket.socket) -> None:
    secret, watch = canary
    movie = clips.write(tmp_path / "plain.mov", steps(3), codec="mpeg4").read_bytes()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/a.mov\0".encode()
    path = tmp_path / "refers.mov"
    for name, box in (
        (b"alis", alias(secret)),
        (b"url ", address),
        (b"url ", secret.as_uri().encode() + b"\0"),
        (b"urn ", b"a\0" + address),
    ):
        path.write_bytes(within(movie, name, box))
        drain(path)
        assert (watch.noticed(), came(listener)) == (False, False)
    path.write_bytes(within(movie, b"alis", alias(secret)))
    with av.open(str(path), options={"enable_drefs": "1", "use_absolute_path": "1"}):
        assert watch.noticed()  # so it is what it pretends to be


def test_linked_matroska_is_not_followed(tmp_path: Path, canary: tuple[Path, Watch]) -> None:
    secret, watch = canary
    path = clips.write(tmp_path / "first.mkv", steps(3))
    data = path.read_bytes()
    at = data.index(b"\xec", data.index(b"\x11\x4d\x9b\x74"))  # room that was left empty
    width = 9 - data[at + 1].bit_length()
    room = 1 + width + (int.from_bytes(data[at + 1 : at + 1 + width], "big") & (1 << 7 * width) - 1)
    linked = b"\x3e\x83\xbb" + bytes([0x80 | len(secret.name)]) + secret.name.encode()
    info = b"\x15\x49\xa9\x66" + bytes([0x80 | len(linked)]) + linked
    info += b"\xec" + bytes([0x80 | room - len(info) - 2]) + bytes(room - len(info) - 2)
    path.write_bytes(data[:at] + info + data[at + room :])
    frames, error = drain(path)
    assert (len(frames), error) == (3, None)
    assert not watch.noticed()


@pytest.mark.parametrize("name", ["shot%d.dpx", "shot*.dpx", "concat:shot1.dpx", "http:shot.dpx"])
def test_file_named_like_pattern_or_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, canary: tuple[Path, Watch], name: str
) -> None:
    secret, watch = canary
    secret.rename(tmp_path / "shot1.dpx")
    (tmp_path / name).write_bytes(b"SDPX" + bytes(4096))
    monkeypatch.chdir(tmp_path)
    assert type(drain(Path(name))[1]) is errors.UnsupportedFormat
    assert not watch.noticed()
    clips.write(tmp_path / "a.mp4", steps(3)).rename(tmp_path / name)
    assert len(drain(Path(name))[0]) == 3
    assert not watch.noticed()


def write_album(path: Path) -> Path:
    """Sound with a cover, which the format stores as a video stream."""
    with av.open(str(path), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=16000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        wave = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        wave.sample_rate, wave.pts = 16000, 0
        container.mux(sound.encode(wave))
        container.mux(cover.encode(av.VideoFrame.from_ndarray(steps(1)[0], format="rgb24")))
        container.mux(cover.encode())
        container.mux(sound.encode())
    return path


def filled(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def folder(path: Path) -> None:
    path.mkdir()


def loop(path: Path) -> None:
    path.symlink_to(path)


REFUSED = {
    "missing": ("a.mp4", lambda _: None, errors.InputNotFound),
    "dangling link": ("a.mp4", lambda path: path.symlink_to("gone"), errors.InputNotFound),
    "link to itself": ("a.mp4", loop, errors.InputUnreadable),
    "folder": ("a.mp4", folder, errors.InputUnreadable),
    "file as a folder": ("a.mp4/b.mp4", lambda path: path.parent.touch(), errors.InputUnreadable),
    "name too long": ("a" * 300, lambda _: None, errors.InputUnreadable),
    "NUL in the name": ("a\0.mp4", lambda _: None, errors.InputUnreadable),
    "empty": ("a.mp4", filled(b""), errors.EmptyInput),
    "one byte": ("a.mp4", filled(b"x"), errors.UnsupportedFormat),
    "random": ("a.mp4", filled(np.random.default_rng(0).bytes(10_000)), errors.UnsupportedFormat),
    "text": ("a.mp4", filled(b"This is a letter, not a film.\n" * 50), errors.UnsupportedFormat),
    "sound": ("a.m4a", clips.write_sound, errors.NoVideoStream),
    "sound named as video": (
        "a.mp4",
        lambda path: clips.write_sound(path.with_suffix(".m4a")).rename(path),
        errors.NoVideoStream,
    ),
    "sound with a cover": ("a.m4a", write_album, errors.NoVideoStream),
}
if sys.platform == "win32":  # only administrators make links, and other errors are reported
    for unusual in ("dangling link", "link to itself", "file as a folder", "name too long", "NUL in the name"):
        del REFUSED[unusual]


@pytest.mark.parametrize(("name", "make", "expected"), REFUSED.values(), ids=REFUSED)
def test_unsupported_files(
    tmp_path: Path, name: str, make: Callable[[Path], object], expected: type[InputError]
) -> None:
    path = tmp_path / name
    make(path)
    frames, error = drain(path)
    assert (frames, type(error)) == ([], expected)
    assert str(path) in str(error)


def test_unreadable_file(second: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(errors.InputUnreadable, match=rf"{re.escape(str(second))} cannot be read \(Permission denied\)"):
        next(read_frames(second))


class FailingDisk(io.FileIO):
    """A file of which only the first reads succeed."""

    good = 0

    def read(self, size: int = -1) -> bytes:
        """Bytes, as long as the disk is good."""
        self.good -= 1
        if self.good < 0:
            raise OSError(5, "Input/output error")
        return super().read(size)


@pytest.mark.parametrize(
    ("good", "expected"), [(0, errors.InputUnreadable), (1, errors.InputUnreadable), (5, errors.TruncatedVideo)]
)
def test_disk_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: int, expected: type[InputError]) -> None:
    path = clips.write(tmp_path / "long.mkv", clips.smiling(40), codec="mjpeg", muxer={"live": "1"})
    monkeypatch.setattr(FailingDisk, "good", good)
    monkeypatch.setattr(Path, "open", lambda path, _: FailingDisk(os.fspath(path)))
    _, error = drain(path)
    assert type(error) is expected
    assert str(path) in str(error)
    assert "Input/output error" in str(error)


def test_pipe_is_refused(second: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, second.read_bytes()[:4096])
    os.close(writer)
    try:
        with pytest.raises(errors.InputUnreadable, match="is a pipe"):
            next(read_frames(f"/dev/fd/{reader}"))
    finally:
        os.close(reader)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[io.BufferedReader]:
    """The files that are opened during a test."""
    files: list[io.BufferedReader] = []
    original = Path.open

    def remember(path: Path, mode: str) -> io.BufferedReader:
        files.append(original(path, mode))
        return files[-1]

    monkeypatch.setattr(Path, "open", remember)
    return files


def decoding() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "fervid-prefetch"]


def leave(frames: Iterator[Frame]) -> None:
    for _ in frames:
        break


def fail(frames: Iterator[Frame]) -> None:
    for _ in frames:
        raise KeyError("consumer")


def exhaust(frames: Iterator[Frame]) -> None:
    for _ in frames:
        pass


@pytest.mark.parametrize(("consume", "fps"), [(leave, None), (fail, None), (exhaust, None), (leave, 5.0)])
def test_no_thread_or_file_is_left(
    second: Path, opened: list[io.BufferedReader], consume: Callable[[Iterator[Frame]], None], fps: float | None
) -> None:
    frames = read_frames(second, Sampling(fps=fps))
    try:
        consume(frames)
    except KeyError:
        pass
    finally:
        frames.close()
    assert decoding() == []
    assert [file.closed for file in opened] == [True]


def test_dropped_generator_cleans_up(second: Path, opened: list[io.BufferedReader]) -> None:
    leave(read_frames(second, EVERY))
    assert decoding() == []
    assert [file.closed for file in opened] == [True]


def test_unused_generator_opens_nothing(second: Path, opened: list[io.BufferedReader]) -> None:
    read_frames(second).close()
    assert opened == []


@pytest.mark.parametrize(
    "content",
    [b"", b"This is a letter, not a film.\n" * 50, b"\x89PNG\r\n\x1a\nno more"],
    ids=["empty", "text", "image"],
)
def test_refused_file_is_closed(tmp_path: Path, opened: list[io.BufferedReader], content: bytes) -> None:
    path = tmp_path / "refused.mp4"
    path.write_bytes(content)
    assert drain(path)[1] is not None
    assert decoding() == []
    assert [file.closed for file in opened] == [True] * len(opened)


def test_unexpected_error_reaches_caller(
    second: Path, monkeypatch: pytest.MonkeyPatch, opened: list[io.BufferedReader]
) -> None:
    def explode(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(video, "to_rgb_frame", explode)
    with pytest.raises(MemoryError):
        next(read_frames(second))
    assert decoding() == []
    assert [file.closed for file in opened] == [True]


def test_slow_consumer_limits_prefetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clips.write(tmp_path / "long.mp4", clips.scenery(100, 64, 48))
    converted: list[float] = []
    original = video.to_rgb_frame

    def count(decoded: Any, until: float, sampling: Sampling) -> Frame:
        converted.append(until)
        return original(decoded, until, sampling)

    monkeypatch.setattr(video, "to_rgb_frame", count)
    monkeypatch.setattr(video, "_PREFETCH_BYTES", 3 * 64 * 48 * 3)
    frames = read_frames(path, EVERY)
    for taken in range(1, 4):
        next(frames)
        time.sleep(0.1)
        assert len(converted) <= taken + 3
    assert len(converted) > taken
    frames.close()
    assert len(converted) < 100
    assert decoding() == []


def test_two_clips_at_once(second: Path) -> None:
    pairs = list(zip(read_frames(second, EVERY), read_frames(second, EVERY), strict=True))
    assert [first.time for first, _ in pairs] == [other.time for _, other in pairs]
    assert decoding() == []
