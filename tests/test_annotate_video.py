"""Annotated videos: what is drawn, and that times, audio and frames stay as they were."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
import pytest

import clips
import fervid
import toy_models
from fervid.analysis.clip_timeline import ClipTimeline
from fervid.analysis.windows import WindowSpec
from fervid.core import errors
from fervid.media.sampling import Sampling
from fervid.render import annotate_video

CUT = WindowSpec(1, 0.5)


def pictures(count: int, width: int = 256, height: int = 256) -> list[np.ndarray]:
    """One face that stays where it is, in a corner of which the grey tells the number of the picture."""
    found = []
    for number in range(count):
        image = np.zeros((height, width, 3), np.uint8)
        face = toy_models.picture(toy_models.FIRST)[:height, :width]
        image[: face.shape[0], : face.shape[1]] = face
        image[: height // 8, : width // 8] = 20 + 5 * (number % 40)
        found.append(image)
    return found


def sounding(
    path: Path, frames: Sequence[np.ndarray], sound: str = "aac", times: Sequence[float] | None = None, **how: Any
) -> Path:
    """A film at 10 frames a second, with sound of one or more codecs that lasts as long."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(how.get("codec", "libx264"), rate=10, options={"g": "5"})
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = "yuv420p"
        video.codec_context.time_base = Fraction(1, 10) if path.suffix == ".avi" else Fraction(1, 1000)
        pace = how.get("pace", 48000)
        voices = [container.add_stream(name, rate=pace, layout="stereo") for name in sound.split()]
        times = [i / 10 for i in range(len(frames))] if times is None else times
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(1000 * times[number]), Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        for voice in voices:
            for start in range(0, int(pace * (times[-1] + 0.1)), 960):
                wave = np.sin(np.arange(start, start + 960) / 20).astype(np.float32) * 0.2
                frame = av.AudioFrame.from_ndarray(np.stack([wave, wave]), format="fltp", layout="stereo")
                frame.sample_rate, frame.pts, frame.time_base = pace, start, Fraction(1, pace)
                container.mux(voice.encode(frame))
            container.mux(voice.encode())
    return path


class Facts(NamedTuple):
    """What a demuxer and decoder find in a film."""

    times: list[Fraction]
    images: list[np.ndarray]
    sounds: list[list[tuple[Fraction, bytes]]]
    codecs: list[str]
    duration: float
    stream: Any
    rotation: int


def facts(path: Path) -> Facts:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        begin = Fraction(container.start_time or 0, av.time_base)
        sounds: dict[int, list[tuple[Fraction, bytes]]] = {one.index: [] for one in container.streams.audio}
        times, images, rotation = [], [], 0
        for packet in container.demux():
            if packet.stream is stream:
                for frame in stream.decode(packet):
                    times.append(frame.pts * frame.time_base - begin)
                    images.append(frame.to_ndarray(format="rgb24"))
                    rotation = frame.rotation
            elif packet.size and packet.stream.index in sounds:
                sounds[packet.stream.index].append((packet.pts * packet.time_base - begin, bytes(packet)))
        context = stream.codec_context
        kept = {
            "codec": context.name,
            "pix_fmt": context.pix_fmt,
            "base": stream.time_base,
            "rate": stream.average_rate,
            "profile": context.profile,
        }
        codecs = [one.codec_context.name for one in container.streams.audio]
        return Facts(
            times, images, list(sounds.values()), codecs, (container.duration or 0) / av.time_base, kept, rotation
        )


Annotate = Callable[..., tuple[Facts, list[str]]]


@pytest.fixture
def annotate(toy: fervid.Classifier, tmp_path: Path) -> Annotate:
    """What becomes of a film, and what is said of it."""

    def call(source: Path, sampling: Sampling = Sampling()) -> tuple[Facts, list[str]]:  # noqa: B008
        options = fervid.Options(sampling, min_face=toy_models.FACE)
        classifier = fervid.Classifier(
            type(toy.extractor)(toy.extractor.detector, toy.extractor.face_model, options, 1), toy._classifier
        )
        target = tmp_path / "annotated.mp4"
        notes = annotate_video.annotate(source, target, classifier.build_timeline(source, CUT), sampling, force=True)
        assert not list(tmp_path.glob("*.partial"))
        data = target.read_bytes()
        assert 0 < data.index(b"moov") < data.index(b"mdat"), "players begin before all has arrived"
        return facts(target), notes

    return call


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of two seconds."""
    return sounding(tmp_path_factory.mktemp("source") / "film.mp4", pictures(20))


@pytest.fixture(scope="module")
def story(toy: fervid.Classifier, source: Path) -> ClipTimeline:
    return toy.build_timeline(source, CUT)


def same_times(given: Facts, made: Facts, within: float = 1e-6) -> None:
    assert len(made.times) == len(given.times)
    assert [float(time) for time in made.times] == pytest.approx([float(time) for time in given.times], abs=within)


def test_times_sound_and_clock_stay_as_they_were(annotate: Annotate, tmp_path: Path) -> None:
    times = [0, 0.1, 0.15, 0.4, 0.41, 0.9, 1.3, 1.32, 1.4, 1.77, 2.0, 2.4]
    source = sounding(tmp_path / "film.mp4", pictures(12), times=times)
    given, (made, notes) = facts(source), annotate(source)
    same_times(given, made)
    assert notes == []
    assert made.stream["base"] == given.stream["base"]
    assert made.sounds == given.sounds
    assert len(made.sounds[0]) > 50
    assert made.duration == pytest.approx(given.duration, abs=0.11)
    assert (made.stream["codec"], made.stream["pix_fmt"], made.rotation) == ("h264", "yuv420p", 0)


@pytest.mark.parametrize("name", ["late.mp4", "late.ts"])
def test_late_video_keeps_its_times(annotate: Annotate, toy: fervid.Classifier, tmp_path: Path, name: str) -> None:
    source = sounding(tmp_path / name, pictures(12), times=[3 + i / 10 for i in range(12)])
    given, (made, _) = facts(source), annotate(source)
    same_times(given, made, 2e-3)
    assert float(made.times[0]) == pytest.approx(3, abs=0.05)
    story = toy.build_timeline(source, CUT)
    (person,) = story.people
    assert person.starts[0] == pytest.approx(3, abs=0.16)
    assert person.ends[-1] == pytest.approx(4.2, abs=0.1)
    cut, _ = annotate(source, Sampling(start=3.5, end=4))
    assert len(cut.times) in (5, 6)
    left = (cut.images[0].shape[1] - 256) // 4 * 2
    grey = cut.images[-1][8:24, left + 8 : left + 24].mean()
    assert grey == pytest.approx(20 + 5 * 9, abs=6)


def test_frames_are_kept(annotate: Annotate, source: Path) -> None:
    given, (made, _) = facts(source), annotate(source)
    same_times(given, made)
    assert made.duration == pytest.approx(given.duration, abs=0.03)
    assert made.stream["rate"] == given.stream["rate"]
    for before, after in zip(given.images, made.images, strict=True):
        left = (after.shape[1] - 256) // 4 * 2
        corner = np.abs(before[4:28, 4:28].astype(int) - after[4:28, left + 4 : left + 28]).mean()
        assert corner < 3, "neither another frame nor other colours"


def test_box_is_around_face_in_every_frame(annotate: Annotate, source: Path) -> None:
    made, _ = annotate(source)
    x, y = 2 * toy_models.FACE, 112
    left = (made.images[0].shape[1] - 256) // 4 * 2
    for image in made.images:
        rows, columns = image[y - 12 : y + 28].astype(int), image[:, left + x - 12 : left + x + 28].astype(int)
        assert (np.ptp(rows, axis=2) > 60).any(), "coloured lines above and below"
        assert (np.ptp(columns, axis=2) > 60).any()
    assert np.ptp([float(image[100:140].mean()) for image in made.images]) < 3, "it does not flicker"


def test_turned_films_come_out_upright(annotate: Annotate, tmp_path: Path) -> None:
    frames = [np.ascontiguousarray(image[:, :192]) for image in pictures(6)]
    plain = clips.write(tmp_path / "plain.mp4", [np.rot90(image) for image in frames], rate=10)
    made, _ = annotate(clips.turn(plain, 90))
    assert made.rotation == 0
    image = made.images[3]
    left = (image.shape[1] - 192) // 4 * 2
    difference = np.abs(image[180:250, left : left + 192].astype(int) - frames[3][180:250]).mean()
    assert difference < 4
    assert image.shape[0] > 256


def test_mirrored_films_come_out_as_players_show_them(annotate: Annotate, tmp_path: Path) -> None:
    matrix, shown = clips.ORIENTATIONS["mirrored-and-turned-left"]
    frames = [np.ascontiguousarray(image[:, :192]) for image in pictures(6)]
    path = clips.orient(clips.write(tmp_path / "plain.mp4", frames, rate=10), *matrix)
    made, _ = annotate(path)
    assert made.rotation == 0
    expected = shown(frames[3])
    height, width = expected.shape[:2]
    left = (made.images[3].shape[1] - width) // 4 * 2
    difference = np.abs(made.images[3][:height, left : left + width].astype(int) - expected)
    assert np.median(difference) < 4


@pytest.mark.parametrize(("width", "height"), [(255, 253), (64, 48)])
def test_odd_and_small_pictures_come_out_even(width: int, height: int, annotate: Annotate, tmp_path: Path) -> None:
    source = clips.write(tmp_path / "odd.mkv", pictures(4, width, height), codec="ffv1", rate=10)
    made, _ = annotate(source)
    assert [side % 2 for side in made.images[0].shape[:2]] == [0, 0]
    assert made.images[0].shape[1] >= width
    assert len(made.images) == 4


@pytest.mark.parametrize(
    ("name", "codec", "note"),
    [
        ("film.mkv", "libopus", ""),
        ("film.avi", "libmp3lame", ""),
        ("film.ts", "aac", ""),
        ("film.mkv", "aac ac3", ""),
        ("film.mkv", "mp2", "re-encoded as AAC, as players do not support mp2 in mp4"),
    ],
)
def test_sound_is_copied_or_encoded_anew(name: str, codec: str, note: str, annotate: Annotate, tmp_path: Path) -> None:
    source = sounding(tmp_path / name, pictures(12), codec, codec="mpeg4" if name.endswith("avi") else "libx264")
    given, (made, notes) = facts(source), annotate(source)
    same_times(given, made, 2e-3)
    assert len(made.sounds) == len(given.sounds)
    for before, after in zip(given.sounds, made.sounds, strict=True):
        if not note:
            pairs = zip(before, after, strict=True)
            assert all(old.endswith(new) for (_, old), (_, new) in pairs), "but for headers of MPEG-TS"
            assert [float(time) for time, _ in after] == pytest.approx([float(time) for time, _ in before], abs=2e-3)
        assert float(after[-1][0]) == pytest.approx(float(before[-1][0]), abs=0.06)
    assert made.codecs == (["aac"] if note else given.codecs)
    assert [part in notes[0] for part in (note, str(source))] == [True, True] if note else notes == [], notes


def unsteady(path: Path, change: Callable[[int], int]) -> Path:
    """Give the sound of a Matroska file other times: what `change` makes of the number of each block, times 20 ms."""
    data, count, at = bytearray(path.read_bytes()), 0, 0
    with av.open(str(path)) as container:
        for packet in container.demux(audio=0):
            if packet.size:
                at = data.index(bytes(packet), at)
                data[at - 3 : at - 1] = struct.pack(">h", 20 * change(count))  # from the start of the only cluster
                count += 1
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("codec", "change"),
    [
        ("pcm_s16le", lambda i: i // 2 * 2),
        ("aac", lambda i: i - 20 * (i >= 30)),
        ("aac", lambda i: 0),
        ("pcm_s16le", lambda i: max(0, 40 - i)),
    ],
    ids=["repeat", "run back once", "stand still", "run backwards"],
)
def test_nonmonotonic_audio_times_are_repaired(
    annotate: Annotate, tmp_path: Path, codec: str, change: Callable[[int], int]
) -> None:
    source = unsteady(sounding(tmp_path / "film.mkv", pictures(12), codec), change)
    with av.open(str(source)) as container:
        stated = [packet.pts for packet in container.demux(audio=0) if packet.size]
    assert any(later <= sooner for sooner, later in pairwise(stated))
    made, notes = annotate(source)
    assert len(made.images) == 12
    times = [float(time) for time, _ in made.sounds[0]]
    assert all(sooner < later for sooner, later in pairwise(times))
    assert len(times) > 40
    assert times[-1] < 2.5
    assert "timestamps of its sound repeat or run" in notes[-1]


def test_sound_of_another_pace_is_resampled(annotate: Annotate, tmp_path: Path) -> None:
    source = sounding(tmp_path / "film.mkv", pictures(12), "pcm_s16le", pace=37800)
    given, (made, notes) = facts(source), annotate(source)
    assert (made.codecs, len(notes)) == (["aac"], 1)
    assert float(made.sounds[0][-1][0]) == pytest.approx(float(given.sounds[0][-1][0]), abs=0.06)


@pytest.mark.parametrize(("name", "codec"), [("film.gif", "gif"), ("film.webm", "libvpx-vp9"), ("film.flv", "flv")])
def test_other_containers_become_mp4(name: str, codec: str, annotate: Annotate, tmp_path: Path) -> None:
    source = clips.write(tmp_path / name, pictures(8), codec=codec, rate=10)
    given, (made, notes) = facts(source), annotate(source)
    same_times(given, made, 2e-3)
    assert (made.sounds, notes) == ([], [])


def test_part_begins_at_zero_with_audio(annotate: Annotate, source: Path) -> None:
    given, (made, _) = facts(source), annotate(source, Sampling(start=0.5, end=1.5))
    assert [float(time) for time in made.times] == pytest.approx([i / 10 for i in range(10)], abs=1e-3)
    left = (made.images[0].shape[1] - 256) // 4 * 2
    assert made.images[0][8:24, left + 8 : left + 24].mean() == pytest.approx(20 + 5 * 5, abs=2.5)
    assert made.duration == pytest.approx(1.0, abs=0.05)
    inside = [data for time, data in given.sounds[0] if 0.5 <= time < 1.5]
    assert [data for _, data in made.sounds[0]] == inside
    assert float(made.sounds[0][0][0]) < 0.03


def test_clip_without_face_is_written(annotate: Annotate, tmp_path: Path) -> None:
    source = clips.write(tmp_path / "empty.mp4", clips.scenery(5, 64, 48), rate=10)
    made, notes = annotate(source)
    assert len(made.images) == 5
    assert "no face found" in notes[0]
    assert "--min-face" in notes[0]


def test_truncated_clip_is_written_up_to_the_end(annotate: Annotate, tmp_path: Path) -> None:
    frames = [np.random.default_rng(i).integers(0, 60, (256, 256, 3), np.uint8) for i in range(30)]
    for image in frames:
        image[112:128, 32:48] = toy_models.FIRST
    whole = clips.write(tmp_path / "whole.mp4", frames, rate=10, options={"g": "5"}, muxer={"movflags": "faststart"})
    given = facts(whole)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.7)])
    made, notes = annotate(cut)
    assert 10 < len(made.times) < 30
    assert made.times == given.times[: len(made.times)]
    assert "breaks off after" in notes[0]


def test_frames_of_zero_duration_are_dropped(
    annotate: Annotate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = clips.write(tmp_path / "film.mp4", pictures(6), rate=10)
    read = annotate_video.read_frames

    def doubled(*given: Any) -> Any:
        for frame in read(*given):
            yield frame
            yield frame

    monkeypatch.setattr(annotate_video, "read_frames", doubled)
    assert len(annotate(source)[0].times) == 6


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_annotation_leaves_no_file(
    error: type[BaseException], source: Path, story: ClipTimeline, tmp_path: Path
) -> None:
    before = threading.active_count()
    (tmp_path / "old.mp4").write_text("old")

    def on_progress(seconds: float) -> None:
        if seconds > 1:
            raise error

    for name in ("new.mp4", "old.mp4"):
        with pytest.raises(error):
            annotate_video.annotate(source, tmp_path / name, story, Sampling(), force=True, on_progress=on_progress)
    assert [path.name for path in tmp_path.iterdir()] == ["old.mp4"]
    assert (tmp_path / "old.mp4").read_text() == "old"
    assert threading.active_count() == before


def test_progress_reaches_end(source: Path, story: ClipTimeline, tmp_path: Path) -> None:
    times: list[float] = []
    annotate_video.annotate(source, tmp_path / "new.mp4", story, Sampling(), on_progress=times.append)
    assert len(times) == 20
    assert all(sooner < later for sooner, later in pairwise(times))
    assert times[-1] == pytest.approx(2, abs=0.11)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("out.avi", errors.UsageError, "ends in .mp4"),
        ("out", errors.UsageError, "ends in .mp4"),
        ("film.mp4", errors.UsageError, "overwrite the input"),
        ("there.mp4", errors.OutputError, "exists"),
        ("nowhere/out.mp4", errors.OutputError, "cannot be written"),
    ],
)
def test_unwritable_output_is_refused(
    name: str, error: type[Exception], words: str, source: Path, story: ClipTimeline, tmp_path: Path
) -> None:
    (tmp_path / "there.mp4").write_text("mine")
    before, target = source.read_bytes(), source if name == source.name else tmp_path / name
    with pytest.raises(error, match=words):
        annotate_video.annotate(source, target, story, Sampling())
    assert source.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["there.mp4"]


def test_encoder_errors_are_reported(
    toy: fervid.Classifier, source: Path, story: ClipTimeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = clips.write(tmp_path / "wide.mkv", clips.scenery(2, 16386, 16), codec="ffv1")
    with pytest.raises(errors.FrameTooLarge, match="scale the video down"):
        annotate_video.annotate(wide, tmp_path / "out.mp4", toy.build_timeline(wide, CUT), Sampling())
    monkeypatch.setattr(annotate_video, "ENCODER_OPTIONS", {"preset": "none such"})
    with pytest.raises(errors.OutputError, match="cannot be written"):
        annotate_video.annotate(source, tmp_path / "out.mp4", story, Sampling())
    assert [path.name for path in tmp_path.iterdir()] == ["wide.mkv"]


def test_missing_encoder_is_reported_early(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotate_video.av, "codecs_available", {"mpeg4"})
    with pytest.raises(errors.UsageError, match="libx264"):
        annotate_video.validate_target(source, tmp_path / "out.mp4")


def test_cover_is_not_annotated(tmp_path: Path) -> None:
    path = tmp_path / "album.mp3"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("libmp3lame", rate=48000, layout="stereo")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(pictures(1)[0][:64, :64], format="rgb24")))
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 9600), np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 48000
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    with pytest.raises(errors.NoVideoStream):
        annotate_video.validate_target(path, tmp_path / "out.mp4")


def test_invalid_input_is_refused(toy: fervid.Classifier, source: Path, story: ClipTimeline, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "still.png"), pictures(1)[0])
    animation = cv2.Animation()
    animation.frames, animation.durations = pictures(2), np.array([100, 100], np.int32)
    cv2.imwriteanimation(str(tmp_path / "moves.webp"), animation)
    clips.write_sound(tmp_path / "sound.m4a")
    (tmp_path / "text.mp4").write_text("no film" * 99)
    for name, error in (
        ("still.png", errors.UnsupportedFormat),
        ("moves.webp", errors.UnsupportedFormat),
        ("sound.m4a", errors.NoVideoStream),
        ("text.mp4", errors.UnsupportedFormat),
        ("missing.mp4", errors.InputNotFound),
    ):
        with pytest.raises(error):
            annotate_video.annotate(tmp_path / name, tmp_path / "out.mp4", story, Sampling())
        assert not (tmp_path / "out.mp4").exists()
    with pytest.raises(errors.NoFramesInRange):
        fervid.load_classifier(
            detector=str(toy.extractor.detector.path),
            face_model=str(toy.extractor.face_model.path),
            classifier=str(toy._classifier.path),
            options=fervid.Options(Sampling(start=99), min_face=toy_models.FACE),
        ).build_timeline(source)


def test_encoder_queue_is_bounded(toy: fervid.Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = clips.write(tmp_path / "film.mp4", pictures(60), rate=10)
    story, ahead, most, read = toy.build_timeline(source, CUT), 0, 0, annotate_video.read_frames

    def counted(*given: Any) -> Any:
        nonlocal ahead
        for frame in read(*given):
            ahead += 1
            yield frame

    def on_progress(_: float) -> None:
        nonlocal ahead, most
        most = max(most, ahead)
        ahead -= 1

    monkeypatch.setattr(annotate_video, "read_frames", counted)
    annotate_video.annotate(source, tmp_path / "new.mp4", story, Sampling(), on_progress=on_progress)
    assert most <= 8
