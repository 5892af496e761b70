"""A run that is resumed after a power failure produces the same records, whatever unsynced data was lost."""

from __future__ import annotations

import csv
import os
import random
import sys
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet
import pytest

from fervid.batch import parquet_writer
from fervid.batch.output import open_writer
from fervid.batch.writers import to_json_line
from fervid.core.results import ClipResult, ErrorInfo
from power_loss import Disk, lay, losses
from record_fixtures import Stub, answer, files

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows replaces no open file")


@pytest.fixture
def clips(tmp_path: Path) -> list[str]:
    return files(tmp_path, 6)


def line(path: str) -> bytes:
    return to_json_line(answer(path).as_dict())


def run(output: Path, paths: Iterable[str], disk: Disk | None = None, bad: Iterable[str] = (), **options: bool) -> None:
    """Write the missing records; JSON Lines are recorded as durable on the simulated disk."""
    format = None if output.suffix else "parquet"
    with open_writer(output, format, Stub(), list(paths), **options) as (writer, finished):
        for path in paths:
            if path in finished:
                continue
            problem = ErrorInfo("truncated", "cut")
            writer.write(ClipResult(path, "error", error=problem) if path in bad else answer(path))
            if disk and output.suffix == ".jsonl":
                disk.promised += (line(path),)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


@pytest.mark.parametrize("before", ["nothing", "failures", "replaced"])
def test_json_lines(
    before: str, clips: list[str], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = place / "out.jsonl"
    if before != "nothing":
        run(output, clips[:4], bad=clips[:4:2] if before == "failures" else ())
    whole = sorted(map(line, clips))
    with monkeypatch.context() as patch:
        disk = Disk(place, patch)
        if before == "failures":
            disk.promised = tuple(found for found in output.read_bytes().splitlines() if found in whole)
        run(output, clips, disk, **{"force" if before == "replaced" else "resume": True})
        disk.close()
    for state in disk.moments[-1].states(random.Random(0)):  # after the run, output and ledger are durable
        assert state == {path.name: path.read_bytes() for path in place.iterdir()}
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    tried = 0
    for tried, (state, promised) in enumerate(losses(disk, draws=1), start=1):
        again = lay(tmp_path / f"after {tried}", state) / "out.jsonl"
        assert not set(promised) - set(state.get("out.jsonl", b"").split(b"\n"))
        run(again, clips, resume=True)
        assert sorted(again.read_bytes().splitlines()) == whole
    assert tried > 100


def test_parquet(clips: list[str], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_writer, "ROWS_PER_PART", 2)
    run(place, clips[:4], bad=[clips[0], *clips[2:4]])
    with monkeypatch.context() as patch:
        disk = Disk(place, patch)
        run(place, clips, disk, resume=True)
        disk.close()
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    tried = 0
    for tried, (state, _) in enumerate(losses(disk, draws=1), start=1):
        again = lay(tmp_path / f"after {tried}", state)
        run(again, clips, resume=True)
        tables = [pyarrow.parquet.read_table(path) for path in again.glob("*.parquet")]
        rows = [(row["path"], row["status"]) for table in tables for row in table.to_pylist()]
        assert sorted(rows) == [(path, "ok") for path in clips]
    assert tried > 20


@pytest.mark.parametrize("before", [b"", b"old\n"])
def test_atomic_output_is_complete_or_unchanged(
    before: bytes, clips: list[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = place / "out.csv"
    if before:
        output.write_bytes(before)
    disk = Disk(place, monkeypatch)
    run(output, clips, force=True)
    disk.close()
    found = set()
    for state, _ in losses(disk):
        content = state.get("out.csv", b"")
        if content != before:
            assert [row["path"] for row in csv.DictReader(content.decode().splitlines())] == clips
        found.add(content)
    assert len(found) == 2
    for state in disk.moments[-1].states(random.Random(0)):  # after the run, the output is durable
        assert state == {"out.csv": output.read_bytes()}
