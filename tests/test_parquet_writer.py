"""The parquet writer: parts are complete or absent, and a run can be resumed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow.parquet
import pytest

from fervid.analysis.options import Options
from fervid.batch import parquet_writer
from fervid.batch.output import open_writer
from fervid.batch.parquet_writer import ParquetDatasetWriter
from fervid.core.errors import OutputError, UsageError
from fervid.core.results import ClipResult, ErrorInfo, Person, Prediction
from record_fixtures import MODELS, Stub, files


@pytest.fixture
def clips(tmp_path: Path) -> list[str]:
    return files(tmp_path, 5)


@pytest.fixture(params=["folder", "memory"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder as a path, and in memory."""
    yield str(tmp_path / "out") if request.param == "folder" else "memory://out/"
    if request.param == "memory" and fsspec.filesystem("memory").exists("/out"):
        fsspec.filesystem("memory").rm("/out", recursive=True)


def answer(path: str) -> ClipResult:
    calm = Prediction({"calm": 0.75, "angry": 0.25})
    return ClipResult(path, "ok", calm, (Person(0, 1.5, calm, 33.5, "male", None),), 1.5, 8, 7, MODELS)


def failure(path: str) -> ClipResult:
    return ClipResult(path, "error", models=MODELS, error=ErrorInfo("empty_file", f"{path} is empty"))


def write(output: str, paths: list[str], work: object = answer, **options: bool) -> list[str]:
    """Write the missing records, and return their paths."""
    with ParquetDatasetWriter(output, Stub(), paths, **{"resume": False, "force": False, **options}) as writer:
        missing = [path for path in paths if path not in writer.finished]
        for path in missing:
            writer.write(work(path))
    return missing


def names(output: str) -> list[str]:
    files, folder = fsspec.core.url_to_fs(output)
    return sorted(path.rpartition("/")[2] for path in files.ls(folder, detail=False))


def rows(output: str) -> list[dict]:
    files, folder = fsspec.core.url_to_fs(output)
    found = (pyarrow.parquet.read_table(files.open(f"{folder}/{name}")) for name in names(output))
    return [row for table in found for row in table.to_pylist()]


def test_row_is_record_and_its_fingerprint(output: str, clips: list[str]) -> None:
    write(output, clips[:2], lambda path: answer(path) if path == clips[0] else failure(path))
    assert names(output) == ["part-00000.parquet"]
    for row, result in zip(rows(output), (answer(clips[0]), failure(clips[1])), strict=True):
        assert (row.pop("size"), row.pop("mtime_ns")) == (10, Path(result.path).stat().st_mtime_ns)
        assert len(row.pop("run")) == 16
        assert row == result.as_dict()
        assert list(row) == list(result.as_dict())


def test_part_is_written_when_full_or_old(output: str, clips: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_writer, "ROWS_PER_PART", 2)
    write(output, clips)
    assert names(output) == [f"part-0000{i}.parquet" for i in range(3)]
    assert [row["path"] for row in rows(output)] == clips
    monkeypatch.setattr(parquet_writer, "MAX_BUFFER_S", -1.0)
    write(output, clips, force=True)
    assert names(output) == [f"part-0000{i}.parquet" for i in range(5)]


def test_run_without_records_leaves_no_part(output: str) -> None:
    write(output, [])
    assert rows(output) == []


def test_finished_run_leaves_nothing_to_resume(output: str, clips: list[str]) -> None:
    write(output, clips)
    before = rows(output)
    assert write(output, clips, resume=True) == []
    assert rows(output) == before


def test_url_of_folder_can_be_resumed(tmp_path: Path, clips: list[str]) -> None:
    output = (tmp_path / "out").as_uri()
    write(output, clips[:2])
    assert write(output, clips, resume=True) == clips[2:]
    assert [row["path"] for row in rows(str(tmp_path / "out"))] == clips
    write(output, clips[:1], force=True)
    assert names(output) == ["part-00000.parquet"]


def test_interrupted_run_keeps_complete_records_and_resumes(output: str, clips: list[str]) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        ParquetDatasetWriter(output, Stub(), clips, resume=False, force=False) as writer,
    ):
        writer.write(answer(clips[0]))
        raise KeyboardInterrupt
    assert write(output, clips, resume=True) == clips[1:]
    assert names(output) == ["part-00000.parquet", "part-00001.parquet"]
    assert [row["path"] for row in rows(output)] == clips


def test_resume_repeats_failed_and_changed_clips(
    output: str, clips: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_writer, "ROWS_PER_PART", 2)
    write(output, clips[:4], lambda path: failure(path) if path in (clips[0], clips[2]) else answer(path))
    Path(clips[3]).write_bytes(b"another film")
    assert write(output, clips[1:], resume=True) == clips[2:]  # the first is not in this run
    assert [(row["path"], row["status"]) for row in rows(output)] == [
        *((clips[0], "error"), (clips[1], "ok"), (clips[2], "ok"), (clips[3], "ok"), (clips[4], "ok"))
    ]
    assert names(output) == ["part-00000.parquet", "part-00002.parquet", "part-00003.parquet"]


def test_resume_with_other_options_repeats_all_clips(output: str, clips: list[str]) -> None:
    write(output, clips)
    other = Stub(options=Options(face="all"))
    with ParquetDatasetWriter(output, other, clips, resume=True, force=False) as writer:
        assert writer.finished == {}
    assert rows(output) == []


def test_parts_with_other_labels_are_refused(output: str, clips: list[str]) -> None:
    write(output, clips[:2])
    other = Stub(labels=("positive", "negative"))
    before = rows(output)
    with pytest.raises(OutputError, match="part-00000"):
        ParquetDatasetWriter(output, other, clips[1:], resume=True, force=False)
    assert rows(output) == before


def test_force_replaces_parts_only(output: str, clips: list[str]) -> None:
    write(output, clips)
    files, folder = fsspec.core.url_to_fs(output)
    files.pipe_file(f"{folder}/notes.txt", b"mine")
    with pytest.raises(OutputError, match="--force"):
        write(output, clips)
    write(output, clips[:1], force=True)
    assert names(output) == ["notes.txt", "part-00000.parquet"]
    assert files.cat_file(f"{folder}/notes.txt") == b"mine"


@pytest.mark.parametrize("damage", ["text", "columns"])
def test_foreign_part_is_refused(damage: str, clips: list[str], tmp_path: Path) -> None:
    if damage == "text":
        (tmp_path / "part-00000.parquet").write_text("no parquet")
    else:
        pyarrow.parquet.write_table(pyarrow.table({"path": ["a"]}), tmp_path / "part-00000.parquet")
    with pytest.raises(OutputError, match="was not written by fervid"):
        write(str(tmp_path), clips, resume=True)


def test_unwritable_folder_is_an_output_error(
    clips: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be used"):
        write(str(tmp_path / "file"), clips)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with (
        pytest.raises(OutputError, match="No space left"),
        ParquetDatasetWriter(str(tmp_path / "out"), Stub(), clips, resume=False, force=False) as writer,
    ):
        writer.write(answer(clips[0]))
        monkeypatch.setattr(writer, "_write_part", full)
        writer.finish()


def test_missing_folder_of_object_store_has_no_parts(clips: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.makedirs", lambda *_, **__: None)
    with ParquetDatasetWriter("memory://new/folder", Stub(), clips, resume=True, force=False) as writer:
        assert writer.finished == {}


def test_invalid_utf8_name_is_escaped_and_resumed(output: str, tmp_path: Path) -> None:
    clip = f"{tmp_path}/caf\udce9.mp4"
    Path(clip).write_bytes(b"x")
    write(output, [clip, clip + "x"], lambda path: answer(path) if path == clip else failure(path))
    assert [row["path"] for row in rows(output)] == [rf"{tmp_path}/caf\udce9.mp4", rf"{tmp_path}/caf\udce9.mp4x"]
    assert rows(output)[1]["error"]["message"] == rf"{tmp_path}/caf\udce9.mp4x is empty"
    assert write(output, [clip, clip + "x"], resume=True) == [clip + "x"]


@pytest.mark.parametrize(("target", "format"), [("out", "parquet"), ("memory://bucket/out", None)])
def test_open_writer_writes_parquet_to_a_folder_or_url(
    target: str, format: str | None, clips: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with open_writer(target, format, Stub(), clips) as (writer, finished):
        assert finished == {}
        writer.write(answer(clips[0]))
    with open_writer(target, format, Stub(), clips, resume=True) as (_, finished):
        assert finished == {clips[0]: "ok"}
    assert [row["path"] for row in rows(target)] == clips[:1]


@pytest.mark.parametrize(("target", "format"), [(None, "parquet"), ("memory://x.jsonl", "jsonl")])
def test_parquet_needs_folder_and_url_needs_parquet(target: str | None, format: str) -> None:
    with pytest.raises(UsageError, match="a URL is written as parquet"), open_writer(target, format, Stub(), []):
        pass
