"""The output of frames: lines and parquet, interrupted runs, changed clips and edited files."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

import fervid
from fervid.analysis.baseline import IDENTITY
from fervid.analysis.options import Options
from fervid.batch.frame_output import name_people_across_clips, open_frame_writer, resolve_frame_format
from fervid.batch.output import open_writer
from fervid.core.errors import OutputError, UsageError
from fervid.core.frame_rows import FrameColumns
from fervid.core.records import ClipFeatures
from fervid.core.results import ClipResult, ErrorInfo
from record_fixtures import Stub, answer, files

COLUMNS = FrameColumns(("eye",), ("calm", "angry"))
WITH_IDENTITY = FrameColumns(("eye",), ("calm", "angry"), identity=True)
FORMATS = ("csv", "jsonl", "parquet")


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    return files(tmp_path, 5)


def rows_of(path: str) -> Iterator[fervid.FrameRow]:
    """Yield a face and a frame without one."""
    yield fervid.FrameRow(
        path, 0, 0.0, 0.2, 0, 0.9, True, (1, 2, 3, 4), {"eye": (1.5, 2.5)}, {"calm": 0.75, "angry": 0.25}
    )
    yield fervid.FrameRow(path, 5, 0.2, 0.2)


def write(
    output: Path, paths: list[str], *, resume: bool = True, options: Options | None = None, stop_at: str = ""
) -> list[str]:
    """Write the missing clips, and return their paths; stop after the first row of a clip."""
    format = resolve_frame_format(output, None, resume=resume, force=False, embedding=False)
    stub = Stub(options=options or Options())
    with open_frame_writer(output, format, stub, COLUMNS, paths, resume=resume) as writer:
        missing = [path for path in paths if path not in writer.finished]
        for path in missing:
            writer.write(answer(path), interrupted(path) if path == stop_at else rows_of(path))
    return missing


def interrupted(path: str) -> Iterator[fervid.FrameRow]:
    yield next(rows_of(path))
    raise KeyboardInterrupt


def read(output: Path, column: str = "path") -> list[str | None]:
    """Return a text of each row."""
    if output.suffix == ".csv":
        with output.open(newline="") as file:
            return [row[column] or None for row in csv.DictReader(file)]
    if output.suffix == ".jsonl":
        return [json.loads(line)[column] for line in output.read_text().splitlines()]
    return pyarrow.parquet.read_table(output)[column].to_pylist()


def twice(paths: list[str]) -> list[str]:
    return sorted([*paths, *paths])


@pytest.fixture(params=FORMATS)
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"frames.{request.param}"


def test_finished_run_leaves_nothing_to_resume(inputs: list[str], output: Path) -> None:
    assert write(output, inputs, resume=False) == inputs
    assert read(output) == twice(inputs)
    assert write(output, inputs) == []
    assert read(output) == twice(inputs)


def test_existing_output_is_kept(inputs: list[str], output: Path) -> None:
    write(output, inputs)
    with pytest.raises(OutputError, match="--resume"):
        write(output, inputs, resume=False)
    assert read(output) == twice(inputs)


def test_interrupted_clip_leaves_no_rows(inputs: list[str], output: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(output, inputs, stop_at=inputs[2])
    assert read(output) == twice(inputs[:2])
    assert write(output, inputs) == inputs[2:]
    assert read(output) == twice(inputs)


def test_resume_repeats_changed_clips_and_those_of_other_options(inputs: list[str], output: Path) -> None:
    write(output, inputs)
    Path(inputs[1]).write_bytes(b"longer than before")
    assert write(output, inputs) == [inputs[1]]
    assert sorted(read(output)) == twice(inputs)
    assert write(output, inputs[:3], options=Options(min_face=40)) == inputs[:3]
    assert sorted(read(output)) == twice(inputs)


def test_resume_repeats_failed_clips(inputs: list[str], output: Path) -> None:
    format = resolve_frame_format(output, None, resume=False, force=False, embedding=False)
    problem = ErrorInfo("truncated", "cut")
    with open_frame_writer(output, format, Stub(), COLUMNS, inputs) as writer:
        writer.write(ClipResult(inputs[0], "error", error=problem), [fervid.FrameRow(inputs[0], error=problem)])
        writer.write(ClipResult(inputs[1], "no_face"), list(rows_of(inputs[1]))[1:])
    assert write(output, inputs) == [inputs[0], *inputs[2:]]
    assert sorted(read(output)) == sorted([*twice([inputs[0], *inputs[2:]]), inputs[1]])


@pytest.mark.parametrize("output", ["csv", "jsonl"], indirect=True)
def test_killed_run_is_completed(inputs: list[str], output: Path) -> None:
    """The ledger may lack clips whose rows were written, and end with half a line; rows may follow those it lists."""
    write(output, inputs)
    ledger = output.with_name(f"{output.name}.ledger")
    rows, entries = output.read_bytes(), ledger.read_bytes()
    chance = random.Random(7)
    for _ in range(10):
        output.write_bytes(rows + rows[-chance.randrange(1, 60) :])
        ledger.write_bytes(entries[: chance.randrange(len(entries) + 1)])
        write(output, inputs)
        assert sorted(read(output)) == twice(inputs)
        assert sorted(output.read_bytes().splitlines()) == sorted(rows.splitlines())


@pytest.mark.parametrize("output", ["csv", "jsonl"], indirect=True)
def test_run_killed_before_its_ledger_exists_is_resumed(inputs: list[str], output: Path) -> None:
    write(output, [])
    output.with_name(f"{output.name}.ledger").unlink()
    assert write(output, inputs) == inputs
    assert read(output) == twice(inputs)


def test_ledgers_of_rows_and_records_differ_in_people(inputs: list[str], tmp_path: Path) -> None:
    write(tmp_path / "frames.jsonl", inputs[:1])
    with open_writer(tmp_path / "records.jsonl", None, Stub(), inputs[:1]) as (writer, _):
        writer.write(answer(inputs[0]))
    frames, records = (json.loads((tmp_path / f"{name}.jsonl.ledger").read_text()) for name in ("frames", "records"))
    assert list(records) == ["path", "size", "mtime_ns", "run", "status", "record"]
    assert list(frames) == [*records, "people"]


@pytest.mark.parametrize("output", ["csv", "jsonl"], indirect=True)
def test_edited_output_is_refused(inputs: list[str], output: Path) -> None:
    write(output, inputs)
    edited = output.read_bytes().replace(b"0.75", b"0.85", 1)
    output.write_bytes(edited)
    with pytest.raises(OutputError, match="was edited"):
        write(output, inputs)
    assert output.read_bytes() == edited
    assert not output.with_name(f"{output.name}.partial").exists()


def test_other_columns_are_refused(inputs: list[str], tmp_path: Path) -> None:
    write(tmp_path / "frames.csv", inputs)
    columns = FrameColumns(("eye",), ("calm", "angry"), logits=True)
    with (
        pytest.raises(OutputError, match="other columns"),
        open_frame_writer(tmp_path / "frames.csv", "csv", Stub(), columns, inputs, resume=True),
    ):
        pass


def test_csv_and_parquet_have_the_same_values(inputs: list[str], tmp_path: Path) -> None:
    for format in FORMATS:
        write(tmp_path / f"frames.{format}", inputs[:1])
    face, scenery = csv.DictReader((tmp_path / "frames.csv").read_text().splitlines())
    table = pyarrow.parquet.read_table(tmp_path / "frames.parquet").to_pylist()
    lines = [json.loads(line) for line in (tmp_path / "frames.jsonl").read_text().splitlines()]
    assert table == lines
    assert (face["frame"], face["face_id"], face["success"], face["detected"]) == ("0", "0", "1", "1")
    assert (face["box.x2"], face["landmarks.eye.y"], face["probabilities.angry"]) == ("3.0", "2.5", "0.25")
    assert (scenery["timestamp"], scenery["success"], scenery["box.x1"]) == ("0.2", "0", "")
    assert lines[1]["box"] is lines[1]["face_id"] is None


def write_with_identities(output: Path, paths: list[str], stop_at: str = "") -> list[str]:
    """Write the missing clips, which show two people by turns, then identities; stop before those of a clip."""
    format = resolve_frame_format(output, None, resume=True, force=False)
    with open_frame_writer(output, format, Stub(), WITH_IDENTITY, paths, resume=True) as writer:
        missing = [path for path in paths if path not in writer.finished]
        for path in missing:
            vector = np.eye(2, dtype=np.float32)[int(Path(path).stem[-1]) % 2]
            writer.write(answer(path), rows_of(path), [ClipFeatures({IDENTITY: vector}, 5)])
        if stop_at:
            writer.fill_identities(Interrupted({path: ["nobody"] for path in paths[: paths.index(stop_at)]}))
        name_people_across_clips(writer, paths, 0.5)
    return missing


class Interrupted(dict):
    """Names of people by path; a run is interrupted where a path has none."""

    def __missing__(self, path: str) -> list[str]:
        raise KeyboardInterrupt


ALTERNATING = ["person-1", None, "person-2", None, "person-1", None, "person-2", None, "person-1", None]


def test_identities_are_added(inputs: list[str], output: Path) -> None:
    write_with_identities(output, inputs)
    assert (read(output), read(output, "identity")) == (twice(inputs), ALTERNATING)
    assert write_with_identities(output, inputs) == []
    assert read(output, "identity") == ALTERNATING


def test_new_clips_change_the_identities(inputs: list[str], output: Path) -> None:
    write_with_identities(output, inputs[1:2])
    assert read(output, "identity") == ["person-1", None]
    assert write_with_identities(output, inputs) == [inputs[0], *inputs[2:]]
    assert sorted(zip(read(output), read(output, "identity"), strict=True), key=lambda row: row[0]) == [
        *zip(twice(inputs), ALTERNATING, strict=True)
    ]


def test_interrupt_leaves_all_identities_or_none(inputs: list[str], output: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_with_identities(output, inputs, stop_at=inputs[3])
    assert (read(output), read(output, "identity")) == (twice(inputs), [None] * 10)
    assert not [path for path in (output.parent, output) if path.is_dir() and [*path.glob("*.partial")]]
    assert write_with_identities(output, inputs) == []
    assert read(output, "identity") == ALTERNATING


@pytest.mark.parametrize("output", ["csv", "jsonl"], indirect=True)
def test_kill_before_the_rename_loses_nothing(inputs: list[str], output: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_with_identities(output, inputs, stop_at=inputs[0])
    rows = output.read_bytes()
    write_with_identities(output, inputs)
    output.write_bytes(rows)
    assert write_with_identities(output, inputs) == []
    assert read(output, "identity") == ALTERNATING


def test_parts_of_a_killed_run_are_removed(inputs: list[str], tmp_path: Path) -> None:
    output = tmp_path / "frames.parquet"
    write(output, inputs)
    (output / "part-00000.parquet.partial").write_bytes(b"unfinished")
    with open_frame_writer(output, "parquet", Stub(), COLUMNS, inputs, resume=True):
        assert [*output.glob("*.partial")] == []
    assert read(output) == twice(inputs)


def test_identities_keep_unusual_paths(tmp_path: Path) -> None:
    paths = [f"{tmp_path}/{name}.mp4" for name in ('=a,\n\r"b\udce9 0', "b\r1")]
    for format in ("csv", "jsonl"):
        output = tmp_path / f"frames.{format}"
        with pytest.raises(KeyboardInterrupt):
            write_with_identities(output, paths, stop_at=paths[0])
        before = read(output)
        write_with_identities(output, paths)
        assert read(output) == before
        assert read(output, "identity") == ALTERNATING[:4]


def test_outputs_of_other_commands_are_kept(inputs: list[str], tmp_path: Path) -> None:
    frames, records = tmp_path / "frames.jsonl", tmp_path / "records.jsonl"
    write(frames, inputs)
    with open_writer(records, None, Stub(), inputs) as (writer, _):
        for path in inputs:
            writer.write(answer(path))
    before = frames.read_bytes(), records.read_bytes()
    with pytest.raises(OutputError, match="was written by another command"):
        open_frame_writer(records, "jsonl", Stub(), COLUMNS, inputs, resume=True)
    with (
        pytest.raises(OutputError, match="was written by another command"),
        open_writer(frames, None, Stub(), inputs, resume=True),
    ):
        pass
    assert (frames.read_bytes(), records.read_bytes()) == before


def test_people_of_other_models_are_refused(inputs: list[str], output: Path) -> None:
    write_with_identities(output, inputs[:3])
    other = Stub(options=Options(min_face=40))
    with (
        pytest.raises(OutputError, match="another face model or other options"),
        open_frame_writer(output, output.suffix[1:], other, WITH_IDENTITY, inputs[:1], resume=True),
    ):
        pass
    assert read(output) == twice(inputs[:3])


def test_foreign_parquet_is_refused(inputs: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "frames.parquet"
    folder.mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), folder / "part-00000.parquet")
    with pytest.raises(OutputError, match="not written by fervid frames"):
        write(folder, inputs)


@pytest.mark.parametrize(
    ("output", "options", "named"),
    [
        ("frames.txt", {}, "frames.txt"),
        ("s3://bucket/frames.parquet", {}, "s3://bucket/frames.parquet"),
        (None, {"resume": True}, "--resume"),
        (None, {"format": "parquet"}, "parquet"),
        (None, {"identify": True}, "-o frames.jsonl"),
        ("frames.csv", {"embedding": True}, "--embedding"),
        ("frames.csv", {"resume": True, "force": True}, "--force"),
    ],
)
def test_invalid_outputs(output: str | None, options: dict, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        resolve_frame_format(output, **{"format": None, "resume": False, "force": False, "embedding": False, **options})
