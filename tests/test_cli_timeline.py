"""Windows of a clip, from the API and the command line; each frame is processed once."""

from __future__ import annotations

import csv
import io
import json
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import numpy as np
import pytest
from typer.testing import CliRunner, Result

import clips
import fervid
import toy_models
from fervid.analysis.aggregate import aggregate_clip
from fervid.analysis.windows import WindowSpec
from fervid.batch import runner
from fervid.cli import app
from fervid.core.results import WindowResult
from fervid.core.schema import record_json_schema
from fervid.core.worker_pool import map_ordered
from fervid.media import video

TIMES = ("start_s", "end_s")
Run = Callable[..., Result]


def write(path: Path, *shots: tuple[int, np.ndarray], **how: object) -> Path:
    """Five frames a second: so many of each picture."""
    return clips.write(path, [picture for count, picture in shots for _ in range(count)], rate=5, **how)


def told(parts: Sequence[WindowResult]) -> list[tuple[float | None, float | None, str | None]]:
    return [(part.start_s, part.end_s, part.label or part.status) for part in parts]


def test_each_window_has_a_prediction(toy: fervid.Classifier, moods: Path, crops: list[np.ndarray]) -> None:
    parts = list(toy.timeline(moods, WindowSpec(2, 2)))
    assert told(parts) == [(0, 2, "first"), (2, 4, "second"), (4, 6, "third")]
    assert all((part.status, part.path, part.frames_sampled) == ("ok", str(moods), 10) for part in parts)
    assert [part.duration_s for part in parts] == pytest.approx([2, 2, 2])
    assert all(part.models == toy.models and part.error is None and part.elapsed_s > 0 for part in parts)
    assert len(crops) == 30


@pytest.mark.parametrize(
    ("cut", "count"),
    [
        (None, 3),
        (WindowSpec(60, 1), 1),
        (WindowSpec(1, 0.2), 26),
    ],
    ids=str,
)
def test_overlapping_windows_process_frames_once(
    toy: fervid.Classifier, moods: Path, cut: WindowSpec | None, count: int, crops: list[np.ndarray]
) -> None:
    assert len(list(toy.timeline(moods, cut))) == count
    assert len(crops) == 30


@pytest.mark.parametrize(
    ("face", "cut"),
    [("main", WindowSpec(4, 1)), ("main", WindowSpec(1.5, 0.7)), ("all", WindowSpec(10, 5))],
    ids=str,
)
def test_window_equals_its_frames_alone(family: dict[str, str], moods: Path, face: str, cut: WindowSpec) -> None:
    options = fervid.Options(face=face, min_face=toy_models.FACE, detection_interval_s=0.0)
    classifier = fervid.load_classifier(**family, options=options, threads=1)
    frames = list(video.read_frames(moods))
    for part in classifier.timeline(moods, cut):
        inside = [frame for frame in frames if part.start_s - 1e-6 <= frame.time < part.end_s - 1e-6]
        alone = classifier.classify_frames(inside)
        assert part.probabilities == pytest.approx(alone.probabilities, abs=1e-5)
        assert (part.frames_sampled, part.frames_with_face) == (len(inside), alone.frames_with_face)
        assert part.duration_s == pytest.approx(alone.duration_s)
        assert [person.seconds for person in part.people] == pytest.approx([person.seconds for person in alone.people])
        observed = classifier.extractor.observe_frames(inside)
        assert len(aggregate_clip(observed, classifier.extractor.tracker_config).people) == len(part.people)


def test_window_over_whole_clip_equals_classify(classifier: fervid.Classifier, smile: Path) -> None:
    (part,) = classifier.timeline(smile, WindowSpec(60, 1))
    whole = classifier.classify_or_error(smile).as_dict()
    assert (part.start_s, part.end_s) == (0, pytest.approx(1.2))
    assert {**part.as_dict(), "elapsed_s": 0} == {"start_s": 0, "end_s": 1.2, **whole, "elapsed_s": 0}


def test_smile_is_happiness_in_every_window(classifier: fervid.Classifier, smile: Path) -> None:
    parts = list(classifier.timeline(smile, WindowSpec(0.6, 0.2)))
    assert [part.start_s for part in parts] == pytest.approx([0, 0.2, 0.4, 0.6])
    assert [part.label for part in parts] == ["happiness"] * 4
    assert [[person.id for person in part.people] for part in parts] == [[0]] * 4


def test_people_keep_their_id_through_cuts(toy: fervid.Classifier, tmp_path: Path) -> None:
    both, left = toy_models.picture(toy_models.FIRST, toy_models.SECOND), toy_models.picture(toy_models.FIRST)
    right, nobody = toy_models.picture(None, toy_models.SECOND), toy_models.picture()
    path = write(tmp_path / "cuts.mp4", (5, both), (5, right), (10, nobody), (5, right), (5, nobody), (5, left))
    parts = list(toy.timeline(path, WindowSpec(1, 1)))
    people = [{person.prediction.label: person.id for person in part.people} for part in parts]
    assert sorted(people[0].values()) == [0, 1]
    left, right = ({label: people[0][label]} for label in ("first", "second"))
    assert people == [left | right, right, {}, {}, right, {}, left]
    assert [part.status for part in parts] == ["ok", "ok", "no_face", "no_face", "ok", "no_face", "ok"]
    assert [part.frames_with_face for part in parts] == [5, 5, 0, 0, 5, 0, 5]


def test_gaps_have_no_windows(toy: fervid.Classifier, tmp_path: Path) -> None:
    times = [*np.arange(0, 1.2, 0.2), *np.arange(7, 8, 0.2)]
    pictures = [toy_models.picture(toy_models.FIRST)] * 6 + [toy_models.picture(toy_models.SECOND)] * 5
    path = clips.write(tmp_path / "gap.mp4", pictures, times=times)
    parts = list(toy.timeline(path, WindowSpec(1, 0.5)))
    assert told(parts)[:3] == [(0, 1, "first"), (0.5, 1.5, "first"), (1, 2, "first")]
    assert [part.start_s for part in parts[3:5]] == [6.5, 7]
    assert {part.label for part in parts[3:]} == {"second"}
    assert sum(part.frames_sampled for part in toy.timeline(path, WindowSpec(1, 1))) == 11


def test_windows_begin_at_start(family: dict[str, str], moods: Path) -> None:
    options = fervid.Options(fervid.Sampling(start=1.5, end=4.5), min_face=toy_models.FACE)
    parts = list(fervid.load_classifier(**family, options=options, threads=1).timeline(moods, WindowSpec(1, 1)))
    assert [(part.start_s, part.end_s) for part in parts] == [(1.5, 2.5), (2.5, 3.5), (3.5, 4.5)]
    assert [part.duration_s for part in parts] == pytest.approx([1, 1, 1], abs=0.11)
    assert sum(part.duration_s for part in parts) == pytest.approx(3)


def test_still_image_is_one_window(toy: fervid.Classifier, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "still.png"), toy_models.picture(toy_models.FIRST)[..., ::-1])
    assert told(list(toy.timeline(tmp_path / "still.png"))) == [(0, 0, "first")]


def test_failed_clip_has_one_record(family: dict[str, str], moods: Path, tmp_path: Path) -> None:
    late = fervid.load_classifier(
        **family, options=fervid.Options(fervid.Sampling(start=99), min_face=toy_models.FACE), threads=1
    )
    for classifier, path, code in ((late, moods, "nothing_sampled"), (late, tmp_path / "missing.mp4", "not_found")):
        (part,) = classifier.timeline(path)
        assert (part.status, part.error.code, part.path) == ("error", code, str(path))
        assert (part.start_s, part.end_s, part.frames_sampled, part.people) == (None, None, 0, ())
        assert part.models == classifier.models


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip that breaks off on its way."""
    path = tmp_path_factory.mktemp("cut") / "cut.mp4"
    write(path, (60, toy_models.picture(toy_models.FIRST)), muxer={"movflags": "faststart"}, options={"g": "5"})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.8)])
    return path


def test_truncation_is_in_last_window(toy: fervid.Classifier, cut: Path) -> None:
    whole = toy.classify_or_error(cut)
    parts = list(toy.timeline(cut, WindowSpec(2, 2)))
    assert len(parts) > 1
    assert [part.error for part in parts[:-1]] == [None] * (len(parts) - 1)
    assert parts[-1].error == whole.error
    assert whole.error.code == "truncated"
    assert {part.label for part in parts} == {"first"}
    assert sum(part.frames_sampled for part in parts) == whole.frames_sampled
    assert parts[-1].end_s == pytest.approx(whole.duration_s)


def test_windows_are_yielded_lazily(toy: fervid.Classifier, moods: Path, crops: list[np.ndarray]) -> None:
    parts = toy.timeline(moods, WindowSpec(1, 1))
    assert next(parts).label == "first"
    assert len(crops) <= 16
    parts.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "fervid-prefetch"]


def test_labels_option(family: dict[str, str], moods: Path) -> None:
    options = fervid.Options(min_face=toy_models.FACE, labels=("second", "third"))
    parts = list(fervid.load_classifier(**family, options=options, threads=1).timeline(moods, WindowSpec(2, 2)))
    assert [list(part.probabilities) for part in parts] == [["second", "third"]] * 3
    assert [part.label for part in parts[1:]] == ["second", "third"]
    assert parts[0].probabilities["second"] == pytest.approx(0.5, abs=0.02)


@pytest.fixture
def run(family: dict[str, str]) -> Run:
    """`fervid timeline` with the toy models."""
    named = toy_models.flags(family)

    def call(*arguments: object, env: dict[str, str] | None = None) -> Result:
        given = ["timeline", *named, "--min-face", str(toy_models.FACE), "--progress", "none", *map(str, arguments)]
        return CliRunner().invoke(app.app, given, env=env)

    return call


def records(result: Result) -> list[dict]:
    found = [json.loads(line) for line in result.stdout.splitlines()]
    for record in found:
        jsonschema.validate(record, record_json_schema("timeline"))
    return found


def test_cli_equals_api(run: Run, toy: fervid.Classifier, moods: Path) -> None:
    result = run(moods, "--window", 2, "--step", 0.5)
    assert (result.exit_code, result.stderr) == (0, "")
    said = [{**record, "elapsed_s": 0} for record in records(result)]
    assert said == [{**part.as_dict(), "elapsed_s": 0} for part in toy.timeline(moods, WindowSpec(2, 0.5))]


def test_formats_have_equal_content(run: Run, moods: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(moods.parent)
    flags = (moods.name, "--window", 2, "--step", 2)
    lines = records(run(*flags))
    array = json.loads(run(*flags, "--format", "json").stdout)
    assert [{**r, "elapsed_s": 0} for r in array] == [{**r, "elapsed_s": 0} for r in lines]
    rows = list(csv.DictReader(io.StringIO(run(*flags, "--format", "csv").stdout)))
    assert [(float(row["start_s"]), float(row["end_s"]), row["label"]) for row in rows] == [
        (0, 2, "first"),
        (2, 4, "second"),
        (4, 6, "third"),
    ]
    for row, record in zip(rows, lines, strict=True):
        assert float(row["probabilities.second"]) == record["probabilities"]["second"]
        assert json.loads(row["people"]) == record["people"]
    assert list(rows[0])[:6] == ["schema_version", "path", "start_s", "end_s", "status", "label"]
    table = run(*flags, "--format", "table").stdout.splitlines()
    assert table[0].split() == ["clip", "from", "label", "confidence", "people", "seconds"]
    assert [row.split()[:3] for row in table[1:-1]] == [
        ["moods.mp4", "0.0", "first"],
        ["moods.mp4", "2.0", "second"],
        ["moods.mp4", "4.0", "third"],
    ]


@pytest.mark.parametrize("arguments", ["--window 0", "--adaptive", "--resume", "-o windows.xyz"])
def test_wrong_usage_exits_with_2(
    run: Run, arguments: str, moods: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(moods, *arguments.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture
def place(tmp_path: Path, moods: Path, cut: Path) -> Path:
    """A folder: a clip of moods, one that is none, one without a face, one that breaks off."""
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(moods.read_bytes())
    (folder / "b.mp4").write_bytes(b"no video" * 99)
    write(folder / "c.mp4", (10, toy_models.picture()))
    (folder / "d.mp4").write_bytes(cut.read_bytes())
    return folder


@pytest.mark.parametrize("jobs", [None, 2])
def test_windows_are_grouped_by_clip(
    run: Run, place: Path, jobs: int | None, crops: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pickling(work: Callable[[str], object], paths: list[str], workers: int, *more: Any) -> Iterator[object]:
        """As workers get their work and give their answers, but in this process."""
        assert workers == (jobs or 0)
        sent = pickle.loads(pickle.dumps(work)) if jobs else work
        return map_ordered(lambda path: pickle.loads(pickle.dumps(sent(path))), paths, 0, *more)

    monkeypatch.setattr(runner, "map_ordered", pickling)
    result = run(place, *(["--jobs", jobs] if jobs else []), "--window", 3, "--step", 3)
    found = records(result)
    assert result.exit_code == 1
    named = [Path(record["path"]).stem for record in found]
    assert named == sorted(named)
    assert [record["start_s"] for record in found if record["path"].endswith("a.mp4")] == [0, 3]
    statuses = {name: [r["status"] for r in found if Path(r["path"]).stem == name] for name in "abc"}
    assert statuses == {"a": ["ok", "ok"], "b": ["error"], "c": ["no_face"]}
    assert found[2]["error"]["code"] == "not_a_video"
    assert [record[name] for name in TIMES for record in found if record["path"].endswith("b.mp4")] == [None, None]
    last = [record["error"] and record["error"]["code"] for record in found if record["path"].endswith("d.mp4")]
    assert last == [None] * (len(last) - 1) + ["truncated"]
    assert jobs or len(crops) == 1 + sum(record["frames_with_face"] for record in found)


def test_exit_status(run: Run, place: Path, moods: Path) -> None:
    faceless = place / "c.mp4"
    assert run(place, "--exit-zero").exit_code == 0
    assert run(moods, faceless).exit_code == 0
    assert run(moods, faceless, "--strict").exit_code == 1
    assert run(faceless, "--strict", "--exit-zero").exit_code == 0
    assert run(moods, "--strict").exit_code == 0
    leaving = write(place / "leaving.mp4", (10, toy_models.picture(toy_models.FIRST)), (10, toy_models.picture()))
    for flags, status in (((), 0), (("--strict",), 1)):
        assert run(leaving, *flags, "--window", 1).exit_code == status
    missing = run(place / "missing.mp4")
    assert (missing.exit_code, records(missing)[0]["error"]["code"]) == (1, "not_found")
    assert run(place / "*.avi").exit_code == 3


def test_progress_counts_clips_and_failures(family: dict[str, str], place: Path) -> None:
    named = toy_models.flags(family)
    result = CliRunner().invoke(app.app, ["timeline", *named, "--min-face=16", "--progress=json", str(place)])
    events = [json.loads(line) for line in result.stderr.splitlines()]
    assert [(event["done"], event["total"], event["failed"]) for event in events] == [
        (1, 4, 0),
        (2, 4, 1),
        (3, 4, 1),
        (4, 4, 1),
    ]


@pytest.mark.parametrize("name", ["w.jsonl", "w.csv"])
def test_existing_output_needs_force(run: Run, name: str, moods: Path, tmp_path: Path) -> None:
    output = tmp_path / name
    assert run(moods, "-o", output).exit_code == 0
    written = output.read_text()
    assert "first" in written
    assert [path.name for path in tmp_path.iterdir()] == [name]
    again = run(moods, "-o", output)
    assert (again.exit_code, output.read_text()) == (2, written)
    assert run(moods, "-o", output, "--force", "--labels", "second,third").exit_code == 0
    assert "second" in output.read_text()
    assert "first" not in output.read_text()


@pytest.mark.parametrize(("format", "words"), [("eaf", "<ANNOTATION_VALUE>first<"), ("vtt", "first 0.")])
def test_each_clip_has_its_file(run: Run, place: Path, tmp_path: Path, format: str, words: str) -> None:
    output = tmp_path / "files"
    result = run(place, "--format", format, "-o", output)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "b.mp4 is text, not a video" in result.stderr
    assert {file.name: words in file.read_text() for file in output.iterdir()} == {
        f"a.{format}": True,
        f"c.{format}": False,
        f"d.{format}": True,
    }
    assert run(place, "--format", format).exit_code == 2
    assert run(place, "-o", tmp_path / f"all.{format}").exit_code == 2


def test_subtitles_of_one_clip_go_to_a_file_or_standard_output(run: Run, moods: Path, tmp_path: Path) -> None:
    shown = run(moods, "--format", "vtt")
    assert (shown.exit_code, shown.stdout[:6]) == (0, "WEBVTT")
    assert run(moods, "-o", tmp_path / "moods.vtt").exit_code == 0
    assert (tmp_path / "moods.vtt").read_text() == shown.stdout


def test_csv_for_excel_starts_with_a_byte_order_mark(run: Run, moods: Path, tmp_path: Path) -> None:
    assert run(moods, "-o", tmp_path / "w.csv", "--excel").exit_code == 0
    assert (tmp_path / "w.csv").read_bytes().startswith(b"\xef\xbb\xbfschema_version,path,start_s")
    for flags in (["-o", tmp_path / "w.jsonl"], ["--format", "eaf"], []):
        refused = run(moods, *flags, "--excel")
        assert refused.exit_code == 2
        assert "--format csv" in refused.stderr


def test_schema_of_windows() -> None:
    for arguments, command in (([], "classify"), (["classify"], "classify"), (["timeline"], "timeline")):
        result = CliRunner().invoke(app.app, ["schema", *arguments])
        assert (result.exit_code, json.loads(result.stdout)) == (0, record_json_schema(command))
        jsonschema.Draft202012Validator.check_schema(json.loads(result.stdout))
    assert CliRunner().invoke(app.app, ["schema", "features"]).exit_code == 2
