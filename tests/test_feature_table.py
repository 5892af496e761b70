"""Features are extracted once per clip and cached without identities."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clips
import feature_fixtures
import fervid
from feature_fixtures import CYAN, MAGENTA, YELLOW
from fervid.analysis.extractor import Extractor
from fervid.analysis.options import Options
from fervid.core.errors import DatasetError, OutputError, TimedOut, TruncatedVideo, UsageError
from fervid.core.records import ClipFeatures
from fervid.core.worker_process import WorkerDied
from fervid.learn import feature_extraction
from fervid.learn.dataset_layouts import Sample
from fervid.learn.feature_extraction import IDENTITY, ClipFeaturesRow, compute_clip_features, extract_features
from fervid.learn.feature_table import FeatureTable
from fervid.media.sampling import Sampling
from fervid.media.video import read_image_sequence


@pytest.fixture
def extractor(tmp_path: Path) -> Extractor:
    return feature_fixtures.extractor(tmp_path)


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the clips that were looked at."""
    names: list[str] = []

    def watched(path: Path, *more: object) -> dict[int, ClipFeatures | None]:
        names.append(path.name)
        return compute_clip_features(path, *more)

    monkeypatch.setattr(feature_extraction, "compute_clip_features", watched)
    return names


@pytest.fixture
def four(tmp_path: Path) -> list[Sample]:
    """Folders of frames: three people, and nobody."""
    colours = {"a": YELLOW, "b": CYAN, "c": MAGENTA, "nobody": None}
    return [sample(feature_fixtures.frames(tmp_path / "four" / name, [colour] * 2)) for name, colour in colours.items()]


def sample(path: Path) -> Sample:
    return Sample(path, "joy", "Ann", "train", {"valence": 2.5}, "list.csv:2")


def same(some: ClipFeatures | None, others: ClipFeatures | None) -> bool:
    if some is None or others is None:
        return some is others
    return some.count == others.count and all(
        np.array_equal(value, others.statistics[name]) for name, value in some.statistics.items()
    )


# The cache


def test_second_run_uses_cache(four: list[Sample], extractor: Extractor, tmp_path: Path, looked: list[str]) -> None:
    cache = tmp_path / "deep" / "cache"
    first = list(extract_features(four, extractor, cache, strides=(2,)))
    assert looked == ["a", "b", "c", "nobody"]
    second = list(extract_features(four, extractor, cache, strides=(2,)))
    assert len(looked) == 4
    for one, other in zip(first, second, strict=True):
        assert one.sample == other.sample
        assert same(one.features, other.features)
        assert one.by_stride.keys() == other.by_stride.keys()
        assert all(same(value, other.by_stride[stride]) for stride, value in one.by_stride.items())
        assert (one.error and one.error.message) == (other.error and other.error.message)
    assert [row.error and row.error.code for row in second] == [None, None, None, "no_face"]
    assert sorted(path.suffix for path in cache.iterdir()) == [".npz"] * 4


def test_cache_key_is_content(four: list[Sample], extractor: Extractor, tmp_path: Path) -> None:
    copied = tmp_path / "copied.png"
    copied.write_bytes((four[0].path / "0.png").read_bytes())
    original = replace(four[0], path=four[0].path / "0.png")
    rows = list(extract_features([original, sample(copied), *four, sample(tmp_path / "missing")], extractor))
    digests = [row.digest for row in rows]
    assert digests[0] == digests[1] == hashlib.sha256(copied.read_bytes()).hexdigest()[:16]
    assert digests[-1] == ""
    assert len(set(digests)) == 6
    assert [row.digest for row in extract_features(four, extractor, tmp_path / "cache")] == digests[2:-1]
    table = FeatureTable.from_rows(rows, feature_fixtures.ABOUT)
    assert table.digests == tuple(digests[:5])
    assert table[np.array([2, 0])].digests == (digests[2], digests[0])
    assert [one.path.name for one in table.unreadable_samples] == ["missing"]
    table.save(tmp_path / "f.npz")
    again = FeatureTable.load(tmp_path / "f.npz")
    assert (again.digests, again.unreadable_samples) == (table.digests, table.unreadable_samples)


def test_features_without_digests_load(four: list[Sample], extractor: Extractor, tmp_path: Path) -> None:
    FeatureTable.from_rows(extract_features(four, extractor), feature_fixtures.ABOUT).save(tmp_path / "f.npz")
    with np.load(tmp_path / "f.npz") as stored:
        old = {name: stored[name] for name in stored if name not in ("digests", "unreadable")}
        few = dict(stored) | {"digests": np.array('["a"]')}
    np.savez(tmp_path / "old.npz", **old)
    np.savez(tmp_path / "few.npz", **few)
    assert FeatureTable.load(tmp_path / "old.npz").digests == ()
    with pytest.raises(DatasetError, match="damaged"):
        FeatureTable.load(tmp_path / "few.npz")


def test_no_cache_extracts_again(four: list[Sample], extractor: Extractor, looked: list[str]) -> None:
    for _ in range(2):
        list(extract_features(four[:1], extractor))
    assert looked == ["a", "a"]


def changed_byte(place: Path, patch: pytest.MonkeyPatch) -> Extractor:
    path = place / "four" / "a" / "1.png"
    path.write_bytes(path.read_bytes() + b"\0")
    return feature_fixtures.extractor(place)


def another_version(place: Path, patch: pytest.MonkeyPatch) -> Extractor:
    patch.setattr(feature_extraction, "FEATURE_VERSION", 0)
    return feature_fixtures.extractor(place)


@pytest.mark.parametrize(
    "change",
    [
        changed_byte,
        another_version,
        lambda place, _: feature_fixtures.extractor(place, Options(Sampling(2.0))),
        lambda place, _: feature_fixtures.extractor(place, Options(face="all")),
        lambda place, _: feature_fixtures.extractor(place, Options(min_face=9)),
        lambda place, _: feature_fixtures.extractor(
            place, tracking={"min_track_similarity": 0.4, "min_person_similarity": 0.7}
        ),
    ],
    ids=["byte", "version", "sampling", "faces", "size", "face_model"],
)
def test_changed_settings_extract_again(
    change: Callable[[Path, pytest.MonkeyPatch], Extractor],
    four: list[Sample],
    tmp_path: Path,
    looked: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    list(extract_features(four[:1], feature_fixtures.extractor(tmp_path), tmp_path / "cache"))
    for _ in range(2):
        list(extract_features(four[:1], change(tmp_path, monkeypatch), tmp_path / "cache"))
        if change is changed_byte:
            break
    assert looked == ["a", "a"]


def test_another_detector_and_other_strides_look_again(
    four: list[Sample], extractor: Extractor, tmp_path: Path, looked: list[str]
) -> None:
    cache = tmp_path / "cache"
    list(extract_features(four[:1], extractor, cache))
    list(extract_features(four[:1], extractor, cache, strides=(4, 2)))
    feature_fixtures.detector(tmp_path, name="another")
    loaded = feature_extraction.Extractor(
        fervid.models.registry.load_model(str(tmp_path / "detector.onnx"), "detector"), extractor.face_model, Options()
    )
    list(extract_features(four[:1], loaded, cache))
    assert looked == ["a"] * 3


def test_interrupted_run_continues(four: list[Sample], extractor: Extractor, tmp_path: Path, looked: list[str]) -> None:
    run = extract_features(four, extractor, tmp_path / "cache")
    assert [next(run).sample.path.name for _ in range(2)] == ["a", "b"]
    run.close()
    assert [row.sample.path.name for row in extract_features(four, extractor, tmp_path / "cache")] == [
        "a",
        "b",
        "c",
        "nobody",
    ]
    assert looked == ["a", "b", "c", "nobody"]


def test_moved_clip_uses_cache(four: list[Sample], extractor: Extractor, tmp_path: Path, looked: list[str]) -> None:
    cache = tmp_path / "cache"
    video = clips.write(tmp_path / "v.mp4", [feature_fixtures.picture(YELLOW)] * 4)
    list(extract_features([four[0], sample(video)], extractor, cache))
    moved = [sample(four[0].path.rename(tmp_path / "elsewhere")), sample(video.rename(tmp_path / "w.avi"))]
    rows = list(extract_features(moved, extractor, cache))
    assert looked == ["a", "v.mp4"]
    assert [row.sample for row in rows] == moved


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: b"no features at all",
        lambda data: data.replace(b"1/count", b"1/mount"),
        lambda data: data.replace(b"'shape': (3,)", b"'shape': (3,3"),
        lambda data: data.replace(b"<f4", b"|O8"),
        lambda data: b"PK\5\6" + bytes(18),
    ],
    ids=["empty", "half", "cut", "text", "names", "header", "pickle", "another archive"],
)
def test_damaged_file_of_cache_is_replaced(
    damage: Callable[[bytes], bytes], four: list[Sample], extractor: Extractor, tmp_path: Path, looked: list[str]
) -> None:
    (whole,) = extract_features(four[:1], extractor, tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_bytes(damage(kept.read_bytes()))
    for _ in range(2):
        (row,) = extract_features(four[:1], extractor, tmp_path / "cache")
        assert same(row.features, whole.features)
    assert looked == ["a", "a"]
    assert list((tmp_path / "cache").iterdir()) == [kept]


def test_unwritable_cache_is_reported(four: list[Sample], extractor: Extractor, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        list(extract_features(four[:1], extractor, tmp_path / "cache"))


# Clips


def test_folder_of_frames_is_a_clip(extractor: Extractor, tmp_path: Path) -> None:
    colours = [YELLOW] * 9 + [(200, 255, 30), None]
    path = feature_fixtures.frames(tmp_path / "clip", colours)
    (path / "notes.txt").touch()
    found = compute_clip_features(path, extractor, (1, 10))
    assert (found[1].count, found[10].count) == (10, 1)
    assert found[1].statistics["embedding.min"][0] < 0.9 * found[1].statistics["embedding.max"][0]
    assert found[10].statistics["embedding.std"].tolist() == [0, 0, 0]
    by_pattern = compute_clip_features(path / "*.png", extractor, (1,))
    assert same(by_pattern[1], found[1])
    by_hand = [path / f"{i}.png" for i in range(11)]
    assert len(list(extractor.observe_frames(read_image_sequence(by_hand)))) == 11


def test_video_equals_its_frames(extractor: Extractor, tmp_path: Path) -> None:
    video = clips.write(tmp_path / "v.mp4", [feature_fixtures.picture(YELLOW)] * 10, rate=5, options={"crf": "0"})
    (by_video, by_frames) = (
        compute_clip_features(path, extractor, (1,))[1]
        for path in (video, feature_fixtures.frames(tmp_path / "f", [YELLOW] * 10))
    )
    assert by_video.count == by_frames.count == 10
    assert by_video.statistics["embedding.mean"] == pytest.approx(by_frames.statistics["embedding.mean"], abs=0.1)


@pytest.mark.parametrize(("face", "spread"), [("main", False), ("all", True)])
def test_only_used_statistics_are_kept(face: str, spread: bool, tmp_path: Path) -> None:
    path = feature_fixtures.frames(tmp_path / "clip", [YELLOW] * 2)
    found = compute_clip_features(path, feature_fixtures.extractor(tmp_path, Options(face=face)), (1,))[1]
    names = {
        f"{name}.{kind}" for name in ("embedding", "expression", "logit") for kind in ("mean", "std", "min", "max")
    }
    groups = {name.replace(".", ".across_faces.") for name in names} if spread else set()
    assert set(found.statistics) == names | groups | {IDENTITY}


def test_coarse_features_are_of_every_so_many_frames(extractor: Extractor, tmp_path: Path) -> None:
    path = feature_fixtures.frames(tmp_path / "late", [None, YELLOW, None, YELLOW])
    (row,) = extract_features([sample(path)], extractor, strides=(2, 3))
    assert row.features.count == 2
    assert {stride: value and value.count for stride, value in row.by_stride.items()} == {2: None, 3: 1}


@pytest.mark.parametrize("cached", [True, False])
def test_unreadable_clips_are_reported(cached: bool, extractor: Extractor, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video\n" * 20)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n, and no more")
    os.mkfifo(tmp_path / "pipe.mp4")
    names = ("missing.mp4", "empty.mp4", "text.mp4", "pipe.mp4", "nothing", "broken")
    good = feature_fixtures.frames(tmp_path / "good", [YELLOW])
    given = [sample(tmp_path / name) for name in names] + [sample(good)]
    rows = list(extract_features(given, extractor, tmp_path / "cache" if cached else None))
    codes = ["not_found", "empty_file", "not_a_video", "unreadable", "unreadable", "undecodable", None]
    assert [row.error and row.error.code for row in rows] == codes
    assert all(row.features is None and row.sample.path.name in row.error.message for row in rows[:-1])


def test_permission_error_is_reported(extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = feature_fixtures.frames(tmp_path / "clip", [YELLOW]) / "0.png"

    def refuse(*_: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(feature_extraction.hashlib, "file_digest", refuse)
    (row,) = extract_features([sample(path)], extractor, tmp_path / "cache")
    assert row.error.code == "unreadable"
    assert "Permission denied" in row.error.message


@pytest.mark.parametrize(("colour", "answered"), [(YELLOW, True), (None, False)])
def test_truncated_clip_with_face_counts(
    colour: tuple[int, int, int] | None, answered: bool, extractor: Extractor, tmp_path: Path
) -> None:
    image = feature_fixtures.picture() if colour is None else feature_fixtures.picture(colour)
    whole = clips.write(tmp_path / "whole.mp4", [image] * 40, muxer={"movflags": "faststart"})
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.8)])
    (row,) = extract_features([sample(cut)], extractor, tmp_path / "cache")
    assert isinstance(row.error, TruncatedVideo) != answered
    assert (row.features is not None) == answered


@pytest.mark.parametrize("jobs", [0, 2])
def test_rows_come_in_order_of_clips(
    jobs: int,
    four: list[Sample],
    extractor: Extractor,
    tmp_path: Path,
    through_pickle: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feature_extraction, "map_ordered", through_pickle)
    rows = list(extract_features(iter(four * 3), extractor, tmp_path / "cache", jobs))
    assert [row.sample for row in rows] == four * 3
    assert [row.features is None for row in rows] == [False, False, False, True] * 3
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_crash_and_timeout_are_reported(
    four: list[Sample], extractor: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths = {"b": WorkerDied("SIGSEGV"), "c": WorkerDied("2 s", TimedOut)}

    def lose(
        work: Callable[[Sample], Any],
        items: Iterable[Sample],
        _jobs: int,
        on_death: Callable[..., Any],
        _limits: object,
    ) -> Iterator[Any]:
        for item in items:
            death = deaths.get(item.path.name)
            yield on_death(item, death) if death else work(item)

    monkeypatch.setattr(feature_extraction, "map_ordered", lose)
    rows = list(extract_features(four, extractor, jobs=1))
    assert [row.sample for row in rows] == four
    assert [row.error and row.error.code for row in rows] == [None, "crashed", "timeout", "no_face"]
    assert all(str(row.sample.path) in row.error.message for row in rows[1:3])


# Tables


def row(name: str, *values: float, by_stride: dict[int, ClipFeatures | None] | None = None) -> ClipFeaturesRow:
    return ClipFeaturesRow(sample(Path(name)), clip(*values) if values else None, by_stride or {})


def clip(*values: float) -> ClipFeatures:
    mean = np.array(values, np.float32)
    return ClipFeatures({"embedding.mean": mean, "embedding.std": mean / 10, IDENTITY: mean}, len(values))


def test_table_has_a_row_for_each_clip_with_a_face() -> None:
    rows = [row("a", 1, 2, by_stride={2: clip(5, 6)}), row("b"), row("c", 3, 4, by_stride={2: None})]
    table = FeatureTable.from_rows(iter(rows), feature_fixtures.ABOUT)
    assert [one.path.name for one in table.samples] == ["a", "c"]
    assert table.counts.tolist() == [2, 2]
    assert table.matrix(["embedding.std", "embedding.mean"]) == pytest.approx(
        np.array([[0.1, 0.2, 1, 2], [0.3, 0.4, 3, 4]])
    )
    assert table.matrix(["embedding.mean"], 2) == pytest.approx(np.array([[5, 6], [np.nan] * 2]), nan_ok=True)
    for part in (table[np.array([False, True])], table[np.array([1])]):
        assert [one.path.name for one in part.samples] == ["c"]
        assert part.matrix(["embedding.mean"]).tolist() == [[3, 4]]
        assert np.isnan(part.matrix(["embedding.mean"], 2)).all()
        assert part.counts.tolist() == [2]
    assert table[np.array([False, False])].matrix(["embedding.mean"]).shape == (0, 2)


def test_no_face_at_all_is_an_error() -> None:
    with pytest.raises(DatasetError, match=r"no clip shows a face.*--min-face"):
        FeatureTable.from_rows([row("a")], feature_fixtures.ABOUT)


@pytest.fixture
def table() -> FeatureTable:
    """Two clips, one of them without label and person."""
    found = FeatureTable.from_rows([row("a b.mp4", 1, 2), row("ä.mp4", 3, 4)], feature_fixtures.ABOUT)
    return replace(found, samples=(found.samples[0], Sample(Path("ä.mp4"), None, ratings={"arousal": 1.0})))


def test_npz_and_back(table: FeatureTable, tmp_path: Path) -> None:
    table.save(tmp_path / "f.npz")
    back = FeatureTable.load(tmp_path / "f.npz")
    assert back.samples == table.samples
    assert back.provenance == table.provenance
    assert back.counts.tolist() == table.counts.tolist()
    assert back.by_stride == {}
    assert back.statistics.keys() == table.statistics.keys() - {IDENTITY}
    assert all(np.array_equal(matrix, table.statistics[name]) for name, matrix in back.statistics.items())
    back.save(tmp_path / "g.npz")
    assert (tmp_path / "g.npz").read_bytes() == (tmp_path / "f.npz").read_bytes()
    with np.load(tmp_path / "f.npz") as stored:
        assert not [name for name in stored if "identity" in name]


def test_parquet_has_a_row_for_each_clip(table: FeatureTable, tmp_path: Path) -> None:
    parquet = importlib.import_module("pyarrow.parquet")
    odd = Sample(Path(os.fsdecode(b"caf\xe9.mp4")), "joy")
    replace(table, samples=(table.samples[0], odd)).save(tmp_path / "f.parquet")
    stored = parquet.read_table(tmp_path / "f.parquet")
    first, second = stored.to_pylist()
    plain = {"path": "a b.mp4", "label": "joy", "person": "Ann", "split": "train", "valence": 2.5, "frames": 2}
    lists = {name: matrix[0].tolist() for name, matrix in table.statistics.items() if name != IDENTITY}
    assert first == plain | lists
    assert (second["path"], second["person"], second["valence"]) == ("caf\\udce9.mp4", None, None)
    assert json.loads(stored.schema.metadata[b"fervid"]) == feature_fixtures.ABOUT


@pytest.mark.parametrize("name", ["f.csv", "f", "f.npz.gz"])
def test_another_suffix_is_a_usage_error(name: str, table: FeatureTable, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"written to \.npz or \.parquet, not to {name}"):
        table.save(tmp_path / name)


def test_parquet_needs_pyarrow(table: FeatureTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r'pip install "fervid\[parquet\]"'):
        table.save(tmp_path / "f.parquet")
    assert not list(tmp_path.iterdir())


def test_existing_features_need_force(table: FeatureTable, tmp_path: Path) -> None:
    (tmp_path / "f.npz").write_text("precious")
    with pytest.raises(OutputError, match="exists"):
        table.save(tmp_path / "f.npz")
    table.save(tmp_path / "f.npz", force=True)
    assert len(FeatureTable.load(tmp_path / "f.npz").samples) == 2


def stored(table: FeatureTable, **changes: object) -> dict[str, object]:
    """The columns of an `.npz` file, some of them changed, those that are None left out."""
    about = json.dumps({**table.provenance, "statistics": ["embedding.mean"]})
    samples = json.dumps([{"path": "a", "label": "joy"}, {"path": "b", "label": "joy"}])
    texts = {"about": about, "samples": samples, "no_face": "[]"}
    columns = {**texts, "count": [1, 1], "embedding.mean": np.ones((2, 3))}
    return {name: value for name, value in {**columns, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    "changes",
    [
        {"about": None},
        {"samples": None},
        {"no_face": None},
        {"no_face": '[{"path": 5}]'},
        {"count": None},
        {"embedding.mean": None},
        {"about": "no json"},
        {"about": "[]"},
        {"about": '{"statistics": []}'},
        {"about": "[" * 100_000},
        {"samples": '[{"label": "joy"}]'},
        {"samples": '[{"path": "a", "label": "joy", "colour": "red"}]'},
        {"samples": '[{"path": 5, "label": "joy"}]'},
        {"samples": "7"},
        {"samples": "[]"},
        {"count": ["many"]},
        {"count": [[1, 1]]},
        {"count": [1]},
        {"embedding.mean": np.ones((3, 3))},
        {"embedding.mean": np.ones(2)},
        {"embedding.mean": np.full((2, 3), np.nan)},
        {"embedding.mean": np.array([["a"] * 3] * 2)},
    ],
    ids=str,
)
def test_invalid_feature_table_is_refused(changes: dict[str, object], table: FeatureTable, tmp_path: Path) -> None:
    np.savez(tmp_path / "whole.npz", **stored(table))
    assert len(FeatureTable.load(tmp_path / "whole.npz").samples) == 2
    np.savez(tmp_path / "f.npz", **stored(table, **changes))
    with pytest.raises(DatasetError, match=r"f\.npz (is no file of features|is damaged).*write"):
        FeatureTable.load(tmp_path / "f.npz")


@pytest.mark.parametrize("content", [b"", b"PK", b"no zip", b"PK\x05\x06" + bytes(18), None], ids=str)
def test_invalid_npz_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "f.npz").write_bytes(content)
    with pytest.raises(DatasetError, match=r"f\.npz is no file of features"):
        FeatureTable.load(tmp_path / "f.npz")


def test_single_matrix_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "f.npz").open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(DatasetError, match=r"f\.npz is no file of features"):
        FeatureTable.load(tmp_path / "f.npz")


def damaged(data: bytes, count: int) -> Iterator[bytes]:
    """Copies with a few bytes changed, or cut."""
    random = np.random.default_rng(8)
    for _ in range(count):
        copy = bytearray(data)
        for position in random.integers(len(copy), size=random.integers(1, 4)):
            copy[position] = random.integers(256)
        yield bytes(copy[: random.integers(len(copy))] if random.random() < 0.2 else copy)


def test_features_with_damaged_bytes_load_or_are_refused(table: FeatureTable, tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    table.save(path)
    for copy in damaged(path.read_bytes(), 300):
        path.write_bytes(copy)
        with suppress(DatasetError):
            assert FeatureTable.load(path).statistics
