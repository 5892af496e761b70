"""Irregular timestamps: restarts, gaps, repeated frames, late starts."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

import clips
import fervid
import toy_models
from fervid.core import errors
from fervid.core.errors import InputError
from fervid.core.records import Frame
from fervid.media import streams, video
from fervid.media.sampling import Sampling
from fervid.media.timestamps import Clock

EVERY = Sampling(fps=None)
STEP = 1 / 25


def grey(first: int, count: int) -> list[np.ndarray]:
    """Frames whose brightness encodes their number."""
    return [np.full((48, 64, 3), 10 + 5 * i, np.uint8) for i in range(first, first + count)]


def number(frame: Frame) -> int:
    return round((float(frame.image.mean()) - 10) / 5)


def drain(path: Path, sampling: Sampling = EVERY) -> tuple[list[Frame], InputError | None]:
    """Read a file; return its frames and the final error."""
    return collect(video.read_frames(path, sampling))


def drain_stream(path: Path, sampling: Sampling = EVERY) -> tuple[list[Frame], InputError | None]:
    """Read a file as a stream; return its frames and the final error."""
    return collect(streams.read_stream(io.BytesIO(path.read_bytes()), str(path), sampling))


def collect(given: Iterable[Frame]) -> tuple[list[Frame], InputError | None]:
    frames: list[Frame] = []
    try:
        frames.extend(given)
    except InputError as error:
        return frames, error
    return frames, None


def join(path: Path, *parts: Path) -> Path:
    """Concatenate files."""
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


MPEG = {"ts": "libx264", "vob": "mpeg2video", "mpg": "mpeg1video"}


@pytest.mark.parametrize(
    ("suffix", "counts"), [*((suffix, (12, 30)) for suffix in MPEG), ("ts", (3, 2)), ("ts", (10, 10, 10))], ids=str
)
def test_joined_recordings_have_continuous_time(tmp_path: Path, suffix: str, counts: Sequence[int]) -> None:
    firsts = np.cumsum((0, *counts))
    parts = [
        clips.write(tmp_path / f"{first}.{suffix}", grey(first, count), codec=MPEG[suffix])
        for first, count in zip(firsts[:-1].tolist(), counts, strict=True)
    ]
    path = join(tmp_path / f"joined.{suffix}", *parts)
    frames, error = drain(path)
    assert [number(frame) for frame in frames] == list(range(sum(counts)))
    assert [frame.time for frame in frames] == pytest.approx([i * STEP for i in range(sum(counts))], abs=2e-3)
    assert [frame.duration for frame in frames] == pytest.approx([STEP] * sum(counts), abs=2e-3)
    assert type(error) is errors.Discontinuity
    often = "once" if len(counts) == 2 else "2 times"
    assert f"{path} was read completely, but its timestamps start again {often}" in error.message


@pytest.mark.parametrize(
    ("suffix", "sampling"), [*((suffix, EVERY) for suffix in MPEG), ("ts", Sampling(2))], ids=[*MPEG, "two-a-second"]
)
def test_joined_recordings_same_from_file_and_stream(tmp_path: Path, suffix: str, sampling: Sampling) -> None:
    parts = [
        clips.write(tmp_path / f"{i}.{suffix}", clips.smiling(count, 64, 48, 0.4), codec=MPEG[suffix])
        for i, count in enumerate((40, 25))
    ]
    path = join(tmp_path / f"joined.{suffix}", *parts)
    frames, error = drain(path, sampling)
    streamed, told = drain_stream(path, sampling)
    assert type(error) is type(told) is errors.Discontinuity
    assert str(error) == str(told)
    unknown = STEP if suffix == "mpg" else 0.0  # of the second frame, before it is known that the first is no other's
    assert [frame.time for frame in frames] == pytest.approx([frame.time for frame in streamed], abs=unknown + 1e-6)
    assert len(frames) >= 5
    for one, other in zip(frames, streamed, strict=True):
        np.testing.assert_array_equal(one.image, other.image)


@pytest.mark.parametrize("offsets", [(0, 1000), (1000, 0), (80_000, 9000), (5, 30, 5)], ids=str)
def test_joined_recordings_with_any_start_time(tmp_path: Path, offsets: Sequence[int]) -> None:
    parts = [
        clips.write(tmp_path / f"{i}.ts", grey(10 * i, 10), muxer={"output_ts_offset": f"{1_000_000 * offset}"})
        for i, offset in enumerate(offsets)
    ]
    frames, error = drain(join(tmp_path / "joined.ts", *parts))
    assert [number(frame) for frame in frames] == list(range(10 * len(offsets)))
    assert [frame.time for frame in frames] == pytest.approx([i * STEP for i in range(len(frames))], abs=2e-3)
    assert type(error) is errors.Discontinuity


def test_clock_wraparound_is_no_discontinuity(tmp_path: Path) -> None:
    overflow = 2**33 / 90000
    muxer = {"output_ts_offset": f"{round(1e6 * (overflow - 2))}"}
    path = clips.write(tmp_path / "long.ts", grey(0, 50), rate=10, muxer=muxer)
    frames, error = drain(path)
    assert (len(frames), error) == (50, None)
    assert [frame.time for frame in frames] == pytest.approx([i / 10 for i in range(50)], abs=2e-3)


def test_damage_message_mentions_restarts(tmp_path: Path) -> None:
    parts = [clips.write(tmp_path / f"{i}.ts", clips.smiling(50, 160, 128, 0.8)) for i in range(2)]
    data = parts[0].read_bytes()
    at = len(data) // 2 // 188 * 188
    parts[0].write_bytes(data[:at] + data[at + 10 * 188 :])
    _, error = drain(join(tmp_path / "joined.ts", *parts))
    assert type(error) is errors.CorruptVideo
    assert "its timestamps start again once" in error.message


def test_discontinuity_keeps_prediction(tmp_path: Path, toy: fervid.Classifier) -> None:
    parts = [
        clips.write(tmp_path / f"{i}.ts", [toy_models.picture(colour)] * count, rate=10)
        for i, (colour, count) in enumerate(((toy_models.FIRST, 10), (toy_models.SECOND, 30)))
    ]
    result = toy.classify_or_error(join(tmp_path / "joined.ts", *parts))
    assert (result.status, result.label) == ("ok", "second")
    assert result.duration_s == pytest.approx(4, abs=0.02)
    assert result.error is not None
    assert result.error.code == "discontinuity"


GAPS = {
    "after the first frame": ([0, *(600 + i * STEP for i in range(20))], 0),
    "in the middle": ([i * STEP + 600 * (i >= 10) for i in range(20)], 9),
    "before the last frame": ([*(i * STEP for i in range(20)), 600], 19),
    "of two frames": ([0, 600], 0),
    "of three seconds": ([i * STEP + 3 * (i >= 10) for i in range(20)], 9),
}


@pytest.mark.parametrize(
    ("name", "gap", "fps"),
    [
        *(("gap.mkv", gap, None) for gap in GAPS),
        ("gap.mp4", "in the middle", None),
        ("gap.ts", "of three seconds", None),  # after a longer one, its clock counts as started again
        *(("gap.mkv", gap, fps) for gap in ("after the first frame", "in the middle") for fps in (5.0, 0.5)),
    ],
)
def test_gap_is_not_counted_as_duration(tmp_path: Path, name: str, gap: str, fps: float | None) -> None:
    times, before = GAPS[gap]
    path = clips.write(tmp_path / name, grey(0, len(times)), times=times)
    frames, error = drain(path, Sampling(fps=fps))
    assert error is None
    assert frames[-1].time == pytest.approx(times[-1] if fps is None else frames[-1].time, abs=2e-3)
    length = 2.0 + (len(times) - 1) * STEP
    assert sum(frame.duration for frame in frames) == pytest.approx(length, abs=0.06)
    if fps is None:
        assert frames[before].duration == pytest.approx(2.0)


@pytest.mark.parametrize(
    "times",
    [[10.0 * i for i in range(6)], [0, 1.5, 3.4, 5, 6.9], [0, 8, 20, 30, 38]],
    ids=["one in ten seconds", "slow", "slides"],
)
def test_slow_frame_rate_is_no_gap(tmp_path: Path, times: Sequence[float]) -> None:
    frames, error = drain(clips.write(tmp_path / "slow.mkv", grey(0, len(times)), times=times))
    assert error is None
    assert [frame.duration for frame in frames[:-1]] == pytest.approx(np.diff(times), abs=2e-3)


def test_gap_does_not_decide_main_person(tmp_path: Path, toy: fervid.Classifier) -> None:
    colours = [toy_models.FIRST] * 4 + [toy_models.SECOND] * 40
    times = [i / 10 + 600 * (i >= 4) for i in range(len(colours))]
    path = clips.write(tmp_path / "gap.mkv", [toy_models.picture(colour) for colour in colours], times=times)
    result = toy.classify_or_error(path)
    assert (result.label, result.duration_s) == ("second", pytest.approx(6.3, abs=0.07))
    parts = list(toy.timeline(path))
    assert max(part.duration_s or 0 for part in parts) < 6
    assert sum(part.label == "first" for part in parts) == 1


def test_empty_packets_are_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "repeated.nut"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"qmax": "2"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        made = [stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")) for image in grey(0, 20)]
        for packet in (packet for packets in (*made, stream.encode()) for packet in packets):
            repeated = av.Packet(0)
            packet.pts, packet.dts = 2 * (packet.pts or 0), 2 * (packet.dts or 0)
            repeated.stream, repeated.time_base, repeated.pts = stream, packet.time_base, packet.pts + 1
            repeated.dts = repeated.pts
            container.mux([packet, repeated])
    frames, error = drain(path)
    assert error is None
    assert [number(frame) for frame in frames] == list(range(20))
    assert [frame.time for frame in frames] == pytest.approx([2 * i * STEP for i in range(20)], abs=2e-3)
    streamed, error = drain_stream(path)
    assert (len(streamed), error) == (20, None)


@pytest.mark.parametrize(
    ("codec", "kept"),
    [
        ("mpeg4", lambda i: i % 5 != 3),
        ("mpeg4", lambda i: i % 3 == 0),
        ("mpeg4", lambda i: i < 40 or i == 99),
        ("mjpeg", lambda i: i % 5 != 3),
    ],
)
def test_avi_with_dropped_frames_is_complete(tmp_path: Path, codec: str, kept: Callable[[int], bool]) -> None:
    numbers = [i for i in range(100) if kept(i)]
    path = clips.write(tmp_path / "webcam.avi", clips.smiling(len(numbers), 64, 48, 0.4), codec=codec)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        with av.open(str(tmp_path / "dropped.avi"), "w") as dropped:
            stream = dropped.add_stream_from_template(container.streams.video[0])
            for packet, at in zip(packets, numbers, strict=True):
                packet.stream, packet.pts, packet.dts = stream, at, at
                dropped.mux(packet)
    frames, error = drain(tmp_path / "dropped.avi")
    assert error is None
    assert [round(frame.time / STEP) for frame in frames] == numbers


def empty_tail(data: bytes, kept: int) -> bytes:
    """An AVI without sound, with empty chunks after the first frames, as for dropped frames."""
    movi = data.index(b"movi")
    size = int.from_bytes(data[movi - 4 : movi], "little")
    body, index, place, number = b"movi", b"", movi + 4, 0
    while place < movi + size:
        kind, length = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        chunk = data[place + 8 : place + 8 + length] if number < kept else b""
        index += kind + struct.pack("<III", 16, len(body), len(chunk))
        body += kind + struct.pack("<I", len(chunk)) + chunk + b"\0" * (len(chunk) % 2)
        place, number = place + 8 + length + length % 2, number + 1
    made = data[: movi - 4] + struct.pack("<I", len(body)) + body + b"idx1" + struct.pack("<I", len(index)) + index
    return made[:4] + struct.pack("<I", len(made) - 8) + made[8:]


@pytest.mark.parametrize(("lost", "told"), [(0, None), (500, errors.TruncatedVideo)])
def test_avi_with_dropped_tail_is_complete(tmp_path: Path, lost: int, told: type[InputError] | None) -> None:
    path = clips.write(tmp_path / "webcam.avi", clips.smiling(100, 64, 48, 0.4), codec="mjpeg")
    made = empty_tail(path.read_bytes(), 60)
    path.write_bytes(made[: len(made) - lost])
    frames, error = drain(path)
    assert (len(frames), error and type(error)) == (60, told)


def test_sound_is_shifted_with_video() -> None:
    streams = [SimpleNamespace(index=index, average_rate=Fraction(25)) for index in range(2)]
    clock = Clock(SimpleNamespace(format=SimpleNamespace(name="mpegts")), streams[0])
    times = [(0, 0), (1, 0.01), (0, 0.04), (1, 0.05), (1, 0.0), (0, 0.0), (1, 0.05), (0, 0.04)]
    packets = [
        SimpleNamespace(stream=streams[i], time_base=Fraction(1, 1000), pts=ms, dts=ms, duration=40)
        for i, ms in ((index, round(1000 * time)) for index, time in times)
    ]
    for packet in packets:
        clock.correct(packet)
    assert [packet.pts for packet in packets] == [0, 10, 40, 50, 90, 80, 130, 120]
    assert clock.restarts == 1
