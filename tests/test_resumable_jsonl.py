"""The resumable JSON Lines writer: interrupted runs, changed clips, full disks and edited files."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import pytest

from fervid.analysis.options import Options
from fervid.batch import resumable_lines
from fervid.batch.resumable_lines import ResumableJsonlWriter
from fervid.batch.resume import run_fingerprint
from fervid.core.atomic_io import AtomicAppendFile
from fervid.core.errors import OutputError
from fervid.core.results import ClipResult, ErrorInfo, ModelRef
from record_fixtures import Stub, answer, files

RUN = run_fingerprint(Stub())


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    return files(tmp_path, 6)


def write(output: Path, paths: list[str], **options: bool) -> list[str]:
    """Write the missing records, and return their paths."""
    with ResumableJsonlWriter(output, RUN, paths, **{"resume": False, "force": False, **options}) as book:
        missing = [path for path in paths if path not in book.finished]
        for path in missing:
            book.write(answer(path))
    return missing


def paths_of(output: Path) -> list[str]:
    return [json.loads(line)["path"] for line in output.read_bytes().splitlines()]


def test_finished_run_leaves_nothing_to_resume(inputs: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    assert write(output, inputs) == inputs
    before = output.read_bytes()
    assert write(output, inputs, resume=True) == []
    assert output.read_bytes() == before


def test_output_cut_at_any_byte_is_completed(inputs: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    book = output.with_name("out.jsonl.ledger")
    write(output, inputs)
    whole = output.read_bytes(), book.read_bytes()
    chance = random.Random(7)
    for _ in range(60):
        for path, data in zip((output, book), whole, strict=True):
            path.write_bytes(data[: chance.randrange(len(data) + 1)])
        write(output, inputs, resume=True)
        assert sorted(paths_of(output)) == inputs
        assert sorted(output.read_bytes().splitlines()) == sorted(whole[0].splitlines())


def test_resume_repeats_changed_clips(inputs: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    write(output, inputs)
    Path(inputs[2]).write_bytes(b"longer than before")
    assert write(output, inputs, resume=True) == [inputs[2]]
    assert sorted(paths_of(output)) == inputs


def test_resume_repeats_failed_clips(inputs: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with ResumableJsonlWriter(output, RUN, inputs, resume=False, force=False) as book:
        book.write(answer(inputs[0]))
        book.write(ClipResult(inputs[1], "error", error=ErrorInfo("truncated", "cut")))
        book.write(ClipResult(inputs[2], "no_face"))
        book.write(ClipResult(inputs[3], "skipped", error=ErrorInfo("skipped", "later")))
    assert write(output, inputs, resume=True) == [inputs[1], *inputs[3:]]


@pytest.mark.parametrize(
    "other",
    [
        Stub(options=Options(min_face=99)),
        Stub(options=Options(adaptive=True)),
        Stub(options=Options(labels=("calm", "angry"))),
        Stub(models={"face_model": ModelRef("toy", "1" * 64)}),
    ],
    ids=["size", "adaptive", "labels", "models"],
)
def test_resume_repeats_clips_of_other_models_or_options(other: Stub, inputs: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    write(output, inputs)
    with ResumableJsonlWriter(output, run_fingerprint(other), inputs[:4], resume=True, force=False) as book:
        assert list(book.finished) == inputs[4:]
    assert paths_of(output) == inputs[4:]
    assert run_fingerprint(other) != RUN


def test_output_without_ledger_is_not_changed(inputs: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("somebody's file\n")
    with pytest.raises(OutputError, match="no ledger"):
        write(output, inputs, resume=True)
    with pytest.raises(OutputError, match="exists"):
        write(output, inputs)
    resumable_lines.ledger_path(output).write_text("a ledger of something else\n")
    output.unlink()
    with pytest.raises(OutputError, match="ledger exists"):
        write(output, inputs)
    output.write_text("somebody's file\n")
    assert output.read_text() == "somebody's file\n"
    assert write(output, inputs, force=True) == inputs


def test_full_disk_is_an_output_error(inputs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with (
        pytest.raises(OutputError, match="No space left"),
        ResumableJsonlWriter(tmp_path / "out.jsonl", RUN, inputs, resume=False, force=False) as book,
    ):
        with monkeypatch.context() as during:
            during.setattr(resumable_lines.os, "fsync", full)
            with pytest.raises(OutputError, match="No space left"):
                book.write(answer(inputs[0]))
        book.write(answer(inputs[1]))
        monkeypatch.setattr(resumable_lines.os, "fsync", full)  # at the end the ledger is synced
    monkeypatch.undo()
    assert paths_of(tmp_path / "out.jsonl") == [inputs[1]]
    assert write(tmp_path / "out.jsonl", inputs, resume=True) == [inputs[0], *inputs[2:]]


def test_records_of_other_and_deleted_clips_are_kept(inputs: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    write(output, inputs[:4])
    before = output.read_bytes()
    for path in inputs[:2]:
        Path(path).unlink()
    assert write(output, [inputs[0], inputs[2], inputs[5]], resume=True) == [inputs[5]]
    assert output.read_bytes().startswith(before)
    assert sorted(paths_of(output)) == [*inputs[:4], inputs[5]]


def test_reordered_records_are_kept_and_foreign_records_refused(inputs: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    write(output, inputs)
    lines = output.read_bytes().splitlines(keepends=True)
    output.write_bytes(b"".join(lines[::-1]))
    assert write(output, inputs, resume=True) == []
    output.write_bytes(b"".join([lines[0], b'{"path": "mine"}\n', *lines[1:]]))
    edited = output.read_bytes()
    with pytest.raises(OutputError, match="was edited"):
        write(output, inputs, resume=True)
    assert output.read_bytes() == edited


def test_clip_changed_while_read_is_repeated(inputs: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with ResumableJsonlWriter(output, RUN, inputs, resume=False, force=False) as book:
        Path(inputs[0]).write_bytes(b"rewritten while it was read")
        for path in inputs:
            book.write(answer(path))
    assert write(output, inputs, resume=True) == [inputs[0]]


def test_partly_written_record_is_removed(inputs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out.jsonl"

    class Filling(io.FileIO):
        """Accept ten bytes after the first record, and then fail."""

        def write(self, data: bytes) -> int:
            if not output.stat().st_size:
                return super().write(data)
            if self.tell() == before:
                return super().write(data[:10])
            raise OSError(28, "No space left on device")

    class Records(AtomicAppendFile, Filling):
        """A file on that disk."""

    with ResumableJsonlWriter(output, RUN, inputs, resume=False, force=False) as book:
        book.write(answer(inputs[0]))
        before = output.stat().st_size
        with Records(output, "ab") as file, monkeypatch.context() as during:
            during.setattr(book, "_lines", file)
            with pytest.raises(OutputError, match="No space left"):
                book.write(answer(inputs[1]))
        assert output.stat().st_size == before
        for path in inputs[1:]:
            book.write(answer(path))
    assert paths_of(output) == inputs
    assert write(output, inputs, resume=True) == []


@pytest.mark.parametrize("which", ["out.jsonl", "out.jsonl.ledger"])
@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
def test_moved_or_replaced_output_is_an_error(which: str, how: str, inputs: list[str], tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=f"{which} was moved, removed or replaced"),
        ResumableJsonlWriter(tmp_path / "out.jsonl", RUN, inputs, resume=False, force=False) as book,
    ):
        book.write(answer(inputs[0]))
        if how == "replaced":
            (tmp_path / "new").write_text("mine")
            (tmp_path / "new").replace(tmp_path / which)
        elif how == "moved":
            (tmp_path / which).rename(tmp_path / "elsewhere")
        else:
            (tmp_path / which).unlink()
        book.write(answer(inputs[1]))
    if how == "replaced":
        assert (tmp_path / which).read_text() == "mine"


@pytest.mark.parametrize("options", [{}, {"force": True}, {"resume": True}], ids=str)
def test_second_run_on_same_output_is_refused(options: dict, inputs: list[str], tmp_path: Path) -> None:
    output, link = tmp_path / "out.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(output)
    with ResumableJsonlWriter(output, RUN, inputs, resume=False, force=False) as book:
        book.write(answer(inputs[0]))
        for name in (output, link):
            with pytest.raises(OutputError, match="is being written by another run"):
                write(name, inputs, **options)
        book.write(answer(inputs[1]))
    assert paths_of(output) == inputs[:2]
    assert sorted(path.name for path in tmp_path.iterdir() if "clip" not in path.name) == [
        "link.jsonl",
        "out.jsonl",
        "out.jsonl.ledger",
    ]
    assert write(link, inputs, resume=True) == inputs[2:]
    assert write(output, inputs, resume=True) == []


def test_run_killed_before_its_ledger_exists_is_resumed(inputs: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    output.touch()
    assert write(output, inputs, resume=True) == inputs


@pytest.mark.parametrize("line", ["[1]", '{"path": 1}', "[" * 100_000, '{"path": {}, "record": []}', "\0" * 99])
def test_invalid_ledger_lines_are_ignored(line: str, inputs: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    write(output, inputs[:2])
    book = resumable_lines.ledger_path(output)
    first, second = book.read_text().splitlines(keepends=True)
    book.write_text(f"{first}{line}\n{second}")
    assert write(output, inputs, resume=True) == inputs[2:]
