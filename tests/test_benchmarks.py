"""Benchmarks: their calculations, checked by hand, and one run of each on a short clip."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import agreement
import annotate
import av
import batch
import numpy as np
import pytest
import reference
import reliability
import speed
import timing
from agreement import Outcome
from stages import POINTS, Stopwatch, stages

import clips
import fervid
import malformed_videos
import parsers
from fervid.analysis.clip_classifier import ClipClassifier
from fervid.core.records import ClipFeatures, Frame
from fervid.media import video
from fervid.models import registry
from kill_resume import Counts

ROWS = [{"base": 1.0, "way": 4.0}, {"base": 10.0, "way": 20.0}, {"base": 2.0, "way": 6.0}]


def test_medians_and_ratios() -> None:
    assert timing.medians(ROWS) == {"base": 2.0, "way": 6.0}
    assert timing.ratios(ROWS, "base") == {"base": 1.0, "way": 3.0}
    assert timing.ratios([*ROWS, {"base": 1.0, "way": 2.0}], "base")["way"] == 2.5, "between the middle two"
    assert timing.ratios(ROWS[:1], "way") == {"base": 0.25, "way": 1.0}
    assert timing.figures(ROWS, "base")["way"] == {"s": 6.0, "times decode": 3.0}
    assert timing.pick_fastest(ROWS, ("way", "base")) == "base"
    assert timing.pick_fastest(ROWS, ("way",)) == "way"


@pytest.mark.parametrize(("value", "figure"), [(0.0, 0.0), (1234.0, 1230.0), (0.0123456, 0.0123), (2.0, 2.0)])
def test_rounded_keeps_three_figures(value: float, figure: float) -> None:
    assert timing.round_figures(value) == figure


def test_paired_alternates_ways() -> None:
    called: list[str] = []
    rows = timing.time_in_turn(
        {"a": lambda: called.append("a"), "b": lambda: (called.append("b"), time.sleep(0.02))}, 3
    )
    assert called == ["a", "b"] * 3
    assert [list(row) for row in rows] == [["a", "b"]] * 3
    assert all(row["b"] >= 0.02 > row["a"] >= 0 for row in rows)


def test_decode_counts_frames(smile: Path) -> None:
    assert timing.decode(smile) == timing.decode(smile, threads=1) == 30


@pytest.mark.slow
def test_once_measures_new_process(smile: Path) -> None:
    pytest.importorskip("resource")
    ballast = np.ones(300_000_000, np.uint8)
    spent = timing.once("decode", smile)
    assert 10 < spent["peak MB"] < 200 < ballast.nbytes / 1e6
    assert 0 <= spent["CPU s"] < 10


@pytest.mark.slow
def test_command_is_timed(capfd: pytest.CaptureFixture[str]) -> None:
    first, whole = timing.command("--version")
    assert 0 < first <= whole
    with pytest.raises(subprocess.CalledProcessError):
        timing.command("classify", "nowhere.mp4")
    assert capfd.readouterr().out == ""


def test_report_describes_machine(tmp_path: Path) -> None:
    timing.save({"clips": []}, tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["clips"] == []
    assert report["machine"]["fervid"] == fervid.__version__
    assert report["machine"]["cpus"] >= 1
    timing.save({}, None)


def test_stopwatch_excludes_nested_calls() -> None:
    now = 0.0

    def spend(seconds: float) -> None:
        nonlocal now
        now += seconds

    stopwatch = Stopwatch(lambda: now)
    inner = stopwatch.wrap("inner", spend)
    outer = stopwatch.wrap("outer", lambda: (spend(1), inner(2), spend(4), inner(8)))
    outer()
    inner(16)
    assert stopwatch.seconds == {"inner": 26, "outer": 5}
    failing = stopwatch.wrap("outer", lambda: (inner(32), spend(64), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        failing()
    assert stopwatch.seconds == {"inner": 58, "outer": 69}


def test_stopwatch_adds_threads() -> None:
    stopwatch = Stopwatch()
    work = stopwatch.wrap("work", lambda: sum(range(100_000)))
    threads = [Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = stopwatch.seconds["work"]
    work()
    assert 0 < alone < stopwatch.seconds["work"]


@pytest.mark.slow
def test_stages_are_timed_and_restored(smile: Path, scenery: Path) -> None:
    before = [getattr(owner, function) for _, owner, function in POINTS]
    found = stages(smile, fervid.Sampling())
    assert found.pop("frames") == 6
    assert next(iter(found)) == "decode, convert"
    spent = {name for name, value in found.items() if value > 0}
    assert {"full detection", "coarse detection", "propagation", "crop", "embed", "track, pool", "classify"} <= spent
    assert [getattr(owner, function) for _, owner, function in POINTS] == before
    nobody = stages(scenery, fervid.Sampling(fps=None))
    assert nobody["embed"] < nobody["full detection"] / 10


@pytest.mark.slow
def test_speed_measures_clip(smile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "command", lambda *arguments: (0.5, 0.75))
    monkeypatch.setattr(speed, "once", lambda way, path: {"CPU s": 1.0, "peak MB": 90.0})
    ways = {name: load() for name, load in timing.WAYS.items()}
    found = speed.measure(smile, ways, 1)
    assert (found["clip"], found["frames"], found["seconds"]) == ("smile.mp4", 30, 1.2)
    assert found["ways"]["decode"]["times decode"] == 1
    assert found["first record s"] == 0.5
    rows = speed.tables([found], "ways")
    assert [row["way"] for row in rows] == ["decode", "default", "every frame"]
    assert all(
        row["peak MB"] == 90 and row["times real time"] == pytest.approx(row["frames/s"] / 25, rel=0.01) for row in rows
    )
    speed.plot([found], tmp_path / "speed.png")
    assert (tmp_path / "speed.png").stat().st_size > 1000
    json.dumps(found)


@pytest.mark.slow
def test_annotate_is_compared_with_transcoding(smile: Path, tmp_path: Path) -> None:
    annotate.encode(smile, tmp_path / "again.mp4", {})
    assert timing.decode(tmp_path / "again.mp4") == 30
    found = annotate.measure(smile, fervid.load_classifier(), 1)
    assert (found["clip"], found["frames"], found["people"], found["seconds"]) == ("smile.mp4", 30, 1, 1.2)
    assert found["ways"][annotate.BASE]["times decode and encode"] == 1
    assert found["ways"][annotate.QUICK]["times with fervid's settings"] == 1
    told = [found["ways"][base] for base in (annotate.BASE, annotate.QUICK)]
    assert all(30 < one["dB"] < 60 and one["MB"] >= 0 for one in told)
    rows = annotate.table([found])
    assert [row["way"] for row in rows] == [
        "decode and encode",
        "with fervid's settings",
        "analyse",
        "draw",
        "annotate",
    ]
    assert all(row["s"] > 0 and row["frames/s"] == pytest.approx(30 / row["s"], rel=0.01) for row in rows)
    json.dumps(found)


def test_speed_refuses_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(SystemExit, match="is empty; copy"):
        speed.measure(tmp_path / "empty.mp4", {"default": fervid.load_classifier().classify_or_error}, 1)


def test_cut(smile: Path, tmp_path: Path) -> None:
    batch.encode_segment(smile, 0.4, 0.6, tmp_path / "piece.mp4")
    frames = list(video.read_frames(tmp_path / "piece.mp4", fervid.Sampling(fps=None)))
    assert len(frames) == 15
    original = list(video.read_frames(smile, fervid.Sampling(fps=None)))[10].image
    assert np.abs(frames[0].image.astype(int) - original).mean() < 3


def test_pieces_are_reproducible(smile: Path, scenery: Path, tmp_path: Path) -> None:
    found = batch.make_segments([smile, scenery], 3, tmp_path, np.random.default_rng(0))
    assert [path.name for path in found] == ["0000.mp4", "0001.mp4", "0002.mp4"]
    assert [batch.duration(path) for path in found] == [1.2, 0.8, 1.2], "a clip that is too short is taken whole"


@pytest.mark.parametrize(("seconds", "turns"), [(1.2, 1), (1.21, 2), (4, 4)])
def test_repeated_has_no_gap(smile: Path, tmp_path: Path, seconds: float, turns: int) -> None:
    target = tmp_path / "long.mp4"
    batch.repeat_video(smile, seconds, target)
    times = [frame.time for frame in video.read_frames(target, fervid.Sampling(fps=None))]
    assert len(times) == 30 * turns
    assert all(later - sooner == pytest.approx(0.04, abs=1e-4) for sooner, later in pairwise(times))
    with av.open(str(target)) as container:
        assert container.streams.video[0].average_rate == Fraction(25)


@pytest.mark.slow
def test_folder_and_long_file_are_timed(smile: Path, tmp_path: Path) -> None:
    rows = batch.folder(batch.make_segments([smile], 3, tmp_path, np.random.default_rng(0)), 1)
    assert [row["way"] for row in rows] == [*batch.DECODERS, "default", "the command"]
    assert {row["files"] for row in rows} == {"3 short clips, 90 frames"}
    assert min(row["times decode"] for row in rows[:2]) == 1
    long = batch.long(smile, "smile", 1)
    assert [(row["files"], row["way"]) for row in long] == [("smile", "decode"), ("smile", "default")]
    assert all(row["peak MB"] > 10 for row in long)


class Even:
    """A network that says the same of every face, and counts them."""

    faces = 0

    def run(self, names: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        assert feed["images"].shape == (1, 3, 224, 224)
        assert feed["images"].dtype == np.float32
        self.faces += 1
        return [np.zeros((1, 8), np.float32)]


def test_reference_averages_all_frames(smile: Path, scenery: Path) -> None:
    find, network = reference.FINDERS["blazeface-back"](), Even()
    assert reference.predict(smile, 0.4, find, network) == pytest.approx(np.full(8, 1 / 8))
    assert network.faces == 10
    assert reference.predict(scenery, 0.2, find, network) is None
    assert len(list(reference.read_frames(smile, 60))) == 30
    image = next(reference.read_frames(smile, 60))
    assert np.abs(image.astype(int) - next(video.read_frames(smile)).image).mean() < 4, "RGB as ours"


def test_mtcnn_keeps_confident_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter([(np.array([[1.0, 2, 3, 4], [5, 6, 7, 8]]), np.array([0.99, 0.8])), (None, [None])])
    made = SimpleNamespace(MTCNN=lambda device: SimpleNamespace(detect=lambda image: next(said)))
    monkeypatch.setitem(sys.modules, "facenet_pytorch", made)
    find = reference.FINDERS["mtcnn"]()
    picture = np.zeros((9, 9, 3), np.uint8)
    assert [find(picture), find(picture)] == [[(1, 2, 3, 4)], []]


def features(mean: list[float]) -> ClipFeatures:
    """All three statistics the same."""
    return ClipFeatures({name: np.array(mean, np.float32) for name in agreement.STATISTICS}, 1)


NOBODY = Outcome(None, None, 10, 0)
GLAD = Outcome("happiness", features([3, 4]), 10, 10)
TURNED = Outcome("happiness", features([4, 3]), 10, 5)
SAD = Outcome("sadness", features([3, 4]), 10, 10)


@pytest.mark.parametrize(
    ("pairs", "faces", "share"),
    [
        ([(GLAD, GLAD)], 1, 1.0),
        ([(GLAD, GLAD), (NOBODY, NOBODY)], 1, 1.0),
        ([(GLAD, NOBODY), (NOBODY, GLAD)], 2, 0.0),
        ([(GLAD, TURNED), (GLAD, SAD), (SAD, SAD), (GLAD, GLAD)], 4, 0.75),
    ],
)
def test_agreement_of_labels(pairs: list[tuple[Outcome, Outcome]], faces: int, share: float) -> None:
    found = agreement.compare(pairs)
    assert (found["clips"], found["faces"], found["agreement"]) == (len(pairs), faces, share)
    low, high = found["interval"]
    assert 0 <= low <= share <= high <= 1
    assert high - low > 0.1, "few clips say little"
    assert agreement.row("these", found)["same label"].startswith(f"{share:.1%} (")


def test_agreement_without_faces() -> None:
    assert agreement.compare([]) == {"clips": 0, "faces": 0, "alone": [0, 0], "frames with a face": []}
    found = agreement.compare([(NOBODY, NOBODY)])
    assert found == {"clips": 1, "faces": 0, "alone": [0, 0], "frames with a face": [0, 0]}
    assert agreement.row("these", found)["same label"] is None


def test_distances_of_clips_with_two_predictions() -> None:
    found = agreement.compare([(GLAD, GLAD), (GLAD, TURNED), (TURNED, GLAD), (GLAD, NOBODY)])
    assert found["alone"] == [1, 0]
    assert found["embedding.std"]["cosine"] == pytest.approx([0.04, 0.04], abs=1e-6)
    assert found["embedding.max"]["relative"] == pytest.approx([np.sqrt(2) / 5] * 2, rel=1e-6)
    assert found["frames with a face"] == [35 / 40, 25 / 40]


def test_distances_of_zero_vectors() -> None:
    none, some = np.zeros(2, np.float32), np.array([0, 2], np.float32)
    assert (
        agreement.cosine_distance(none, none),
        agreement.cosine_distance(some, none),
        agreement.cosine_distance(some, some),
    ) == (0, 1, 0)
    assert agreement.relative_difference(none, none) == agreement.relative_difference(some, some) == 0
    assert agreement.relative_difference(none, some) == 1
    assert agreement.cosine_distance(some, -some) == 2


def test_film_is_reproducible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "RATE", 3)
    monkeypatch.setattr(agreement, "SECONDS", 1)
    still = clips.portrait(48, 48, 0.32, 222, 118)

    def film(seed: int, people: int = 1) -> list[Frame]:
        rng = np.random.default_rng(seed)
        return list(agreement.render_video([still] * people, agreement.render_noise(rng), rng))

    first = film(1)
    assert [frame.time for frame in first] == pytest.approx(np.arange(3) / 3)
    assert {frame.image.shape for frame in first} == {(360, 640, 3)}
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, film(1), strict=True))
    assert not np.array_equal(first[0].image, film(2)[0].image)
    assert len(film(3, 2)) == 3


@pytest.mark.slow
def test_face_in_film_is_tracked() -> None:
    extractor = fervid.load_classifier().extractor
    model = registry.load_model(registry.DEFAULTS["classifier"], "classifier")
    still = clips.portrait(48, 48, 0.4, 222, 118)
    rng = np.random.default_rng(1)
    frames = list(agreement.render_video([still], agreement.render_noise(rng), rng))
    found = agreement.classify_clip(
        lambda one: one.observe_frames(frames), extractor, ClipClassifier(model.session, model.card)
    )
    assert found.frames == 15
    assert found.with_face > 7
    assert found.label in model.card["labels"]
    nobody = [Frame(picture) for picture in agreement.render_noise(rng)]
    found = agreement.classify_clip(
        lambda one: one.observe_frames(nobody), extractor, ClipClassifier(model.session, model.card)
    )
    assert (found.label, found.features, found.with_face) == (None, None, 0)


def test_reliability_table() -> None:
    rows = [("files", reliability.Tally(3, hangs=("a",))), ("soak", reliability.Tally(2, wrong=("b", "c")))]
    found = reliability.table(rows)
    assert [row["what"] for row in found] == ["files", "soak", "all"]
    assert found[-1] == {"what": "all", "cases": 5, "hangs": 1, "crashes": 0, "lost": 0, "wrong": 2}
    assert reliability.table([])[0]["cases"] == 0


def test_reliability_once() -> None:
    def fail(data: bytes) -> None:
        raise KeyError(data)

    assert reliability.once("a", lambda data: False, b"") == reliability.Tally(1)
    assert reliability.once("a/3", fail, b"x") == reliability.Tally(1, crashes=("a/3: KeyError(b'x')",))


@pytest.mark.slow
def test_reliability_suites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsers, "TARGETS", {name: parsers.TARGETS[name] for name in ("csv", "list")})
    monkeypatch.setattr(
        reliability.malformed_videos,
        "cases",
        lambda count: [malformed_videos.case("gif/noise/0"), malformed_videos.case("built/empty")],
    )
    monkeypatch.setattr(reliability, "killed_runs", lambda kills, format: Counts(kills, records=400, torn=2, refused=1))
    rows = {name: list(suite(5)) for name, suite in reliability.SUITES.items()}
    assert [title for title, _ in rows["kills"]] == [
        f"killed and resumed: {f}, 400 records" for f in ("jsonl", "parquet")
    ]
    assert rows["kills"][0][1] == reliability.Tally(
        1, crashes=("killed jsonl: refused",), wrong=("killed jsonl: torn",) * 2
    )
    assert rows["files"] == [("files: built", reliability.Tally(1)), ("files: gif", reliability.Tally(1))]
    assert [title for title, _ in rows["parsers"]] == ["parser: csv", "parser: list"]
    assert [tally for _, tally in rows["parsers"]] == [reliability.Tally(3)] * 2
    assert [title[:12] for title, _ in rows["soak"]] == ["one process:"]
    assert all(tally.failures == () for _, tally in rows["parsers"])
