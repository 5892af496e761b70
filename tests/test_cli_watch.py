"""The folder watcher and `fervid watch`: each clip is classified once, when it is complete."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner, Result

import child_processes
import clips
import toy_models
from fervid.batch import folder_watcher
from fervid.batch.folder_watcher import FolderWatcher
from fervid.cli import app
from fervid.core.errors import UsageError


class Clock:
    """A clock that advances on sleep and runs scheduled events."""

    def __init__(self) -> None:
        """Start at 0."""
        self.now = 0.0
        self.events: list[tuple[float, Callable[[], object]]] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        while self.events and self.events[0][0] <= self.now:
            self.events.pop(0)[1]()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(folder_watcher, "time", clock)
    return clock


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


def put(path: Path, content: bytes = b"x", changed: int = 1_000_000_000) -> Path:
    path.write_bytes(content)
    os.utime(path, ns=(changed, changed))
    return path


def collect(clips: Iterator[str | None], clock: Clock, until: float) -> dict[str, float]:
    """Names of the clips that are yielded until a time, with the time of each."""
    found = {}
    while clock.now < until:
        if path := next(clips):
            found[Path(path).name] = clock.now
    return found


def test_files_are_yielded_once_when_they_stop_changing(inbox: Path, clock: Clock) -> None:
    for name in ("b.mp4", "a.MKV", "notes.txt", "c.mp4.part"):
        put(inbox / name)
    clips = FolderWatcher(inbox, settle_s=2).iter_stable_files()
    assert collect(clips, clock, 1.5) == {}
    assert list(collect(clips, clock, 5)) == ["a.MKV", "b.mp4"]
    clock.events = [
        (6, lambda: put(inbox / "slow.mp4")),
        (7, lambda: put(inbox / "slow.mp4", b"longer")),
        (8.5, lambda: put(inbox / "slow.mp4", b"LONGER", 2_000_000_000)),
        (9, lambda: (inbox / "c.mp4.part").rename(inbox / "c.mp4")),
    ]
    found = collect(clips, clock, 20)
    assert set(found) == {"slow.mp4", "c.mp4"}
    assert found["slow.mp4"] >= 10.5
    assert found["c.mp4"] >= 11


def test_subfolders_are_searched_if_recursive(inbox: Path, clock: Clock) -> None:
    (inbox / "deep" / "er").mkdir(parents=True)
    put(inbox / "deep" / "er" / "a.mp4")
    assert collect(FolderWatcher(inbox, settle_s=1).iter_stable_files(), clock, 5) == {}
    clips = FolderWatcher(inbox, settle_s=1, recursive=True).iter_stable_files()
    assert list(collect(clips, clock, 10)) == ["a.mp4"]


def test_replaced_clip_is_new_after_first_is_done(inbox: Path, clock: Clock) -> None:
    clip = put(inbox / "a.mp4")
    folder = FolderWatcher(inbox, settle_s=1)
    clips = folder.iter_stable_files()
    assert list(collect(clips, clock, 5)) == ["a.mp4"]
    first = folder.fingerprints[str(clip)]
    put(clip, b"other")
    assert collect(clips, clock, 10) == {}
    assert folder.fingerprints[str(clip)] == first != folder_watcher.FolderWatcher(inbox).fingerprints[str(clip)]
    folder.mark_done(str(clip))
    assert list(collect(clips, clock, 15)) == ["a.mp4"]


def test_deleted_clips_are_remembered(inbox: Path, clock: Clock) -> None:
    folder = FolderWatcher(inbox, settle_s=2)
    clips = folder.iter_stable_files()
    clock.events = [
        (1, lambda: put(inbox / "short-lived.mp4")),
        (2, (inbox / "short-lived.mp4").unlink),
        (2, lambda: (inbox / "nowhere.mp4").symlink_to(inbox / "nothing")),
        (3, lambda: put(inbox / "a.mp4")),
    ]
    assert list(collect(clips, clock, 10)) == ["a.mp4"]
    folder.mark_done(str(inbox / "a.mp4"))
    clock.events = [(11, (inbox / "a.mp4").unlink), (15, lambda: put(inbox / "a.mp4"))]
    assert collect(clips, clock, 25) == {}


def test_unreadable_folder_is_waited_for(inbox: Path, clock: Clock) -> None:
    put(inbox / "a.mp4")
    told: list[str] = []
    folder = FolderWatcher(inbox, settle_s=1, on_message=told.append)
    clips = folder.iter_stable_files()
    assert list(collect(clips, clock, 4)) == ["a.mp4"]
    folder.mark_done(str(inbox / "a.mp4"))
    away = inbox.with_name("away")
    clock.events = [
        (5, lambda: inbox.rename(away)),
        (20, lambda: away.rename(inbox)),
        (21, lambda: put(inbox / "b.mp4")),
    ]
    assert list(collect(clips, clock, 30)) == ["b.mp4"]
    assert told == [
        f"{inbox} cannot be read (No such file or directory); waiting until it can",
        f"{inbox} can be read again",
    ]


def test_oldest_deleted_clips_are_forgotten(inbox: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_watcher, "MAX_TOMBSTONES", 3)
    folder = FolderWatcher(inbox, settle_s=0.5)
    clips = folder.iter_stable_files()
    for number in range(12):
        clip = put(inbox / f"{number}.mp4")
        assert list(collect(clips, clock, 3 * number + 3)) == [clip.name]
        folder.mark_done(str(clip))
        clip.unlink()
    collect(clips, clock, 40)
    assert list(folder.fingerprints) == [str(inbox / f"{number}.mp4") for number in (9, 10, 11)]
    assert folder._done == set(folder.fingerprints)
    assert not folder._in_progress
    assert not folder._changing


def test_slow_listing_is_repeated_less_often(inbox: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[float] = []

    def slow(folder: str, *, recursive: bool) -> list[str]:
        listed.append(clock.now)
        clock.now += 3
        return []

    monkeypatch.setattr(folder_watcher, "find_videos", slow)
    collect(FolderWatcher(inbox, settle_s=1).iter_stable_files(), clock, 200)
    assert len(listed) == 5


def test_long_work_does_not_delay_next_listing(inbox: Path, clock: Clock) -> None:
    for name in ("a.mp4", "b.mp4"):
        put(inbox / name)
    clips = FolderWatcher(inbox, settle_s=1).iter_stable_files()
    assert next(path for path in clips if path) == str(inbox / "a.mp4")
    clock.now += 5000  # the consumer is busy
    put(inbox / "c.mp4")
    assert list(collect(clips, clock, 5010)) == ["b.mp4", "c.mp4"]


def test_answered_clips_are_skipped_unless_changed(inbox: Path, clock: Clock) -> None:
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        put(inbox / name)
    folder = FolderWatcher(inbox, settle_s=1)
    put(inbox / "b.mp4", b"changed since")
    answered = [str(inbox / name) for name in ("a.mp4", "b.mp4", "gone.mp4")]
    assert list(collect(folder.iter_stable_files(answered), clock, 5)) == ["b.mp4", "c.mp4"]


@pytest.mark.parametrize("name", ["missing", "file"])
def test_missing_folder_or_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="create it, or check"):
        FolderWatcher(tmp_path / name)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app.app, ["watch", *map(str, arguments)])


def stop() -> None:
    raise KeyboardInterrupt


def test_records_are_written_to_stdout_at_once(inbox: Path, smile: Path, clock: Clock) -> None:
    (inbox / "empty.mp4").touch()
    shutil.copy(smile, inbox)
    for form, lines in (("jsonl", 2), ("csv", 3), ("table", 5)):
        clock.events = [(clock.now + 5, stop)]
        result = run(inbox, "--settle-seconds", 1, "--format", form, "--progress", "json")
        assert (result.exit_code, len(result.stdout.splitlines())) == (130, lines)
        assert "happiness" in result.stdout
        assert "empty_file" in result.stdout
        events = [json.loads(line) for line in result.stderr.splitlines()[:-1]]
        assert [(event["done"], event["total"], event["failed"]) for event in events] == [(1, None, 1), (2, None, 1)]


WRONG = (
    "--format json | -o results.csv | -o results | --settle-seconds 0 | --resume"
    " | -o results.jsonl --format csv | --jobs 0"
)


@pytest.mark.parametrize("arguments", WRONG.split(" | "))
def test_wrong_usage_exits_with_2(arguments: str, inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(inbox, *arguments.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert os.listdir(tmp_path) == ["inbox"]


def test_missing_folder_exits_with_2(tmp_path: Path) -> None:
    assert run(tmp_path / "missing").exit_code == 2


@pytest.fixture
def started(inbox: Path, tmp_path: Path, family: dict[str, str]) -> Iterator[Callable[[], SimpleNamespace]]:
    """Start the command as a service would, and kill it after the test."""
    running: list[subprocess.Popen[bytes]] = []

    def start() -> SimpleNamespace:
        code = "from fervid.cli.app import main\nif __name__ == '__main__': main()"
        flags = ["--settle-seconds=0.2", "-o", tmp_path / "out.jsonl", "--resume", "--jobs=1", "--progress=none"]
        flags += [*toy_models.flags(family), f"--min-face={toy_models.FACE}"]
        process = subprocess.Popen(
            [sys.executable, "-c", code, "watch", inbox, *flags],
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        running.append(process)

        def end(number: int) -> tuple[int, bytes]:
            os.killpg(process.pid, number)
            _, said = process.communicate(timeout=30)
            assert child_processes.gone(process.pid)
            return process.returncode, said

        return SimpleNamespace(end=end)

    yield start
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # including the workers, which would keep the pipe open
        process.communicate()


def answered(output: Path, count: int) -> list[tuple[str, str]]:
    """Wait for a number of records that the ledger lists, and return their names and statuses."""
    deadline, ledger = time.monotonic() + 60, Path(f"{output}.ledger")
    while time.monotonic() < deadline and not (ledger.exists() and ledger.read_bytes().count(b"\n") >= count):
        time.sleep(0.05)
    records = map(json.loads, output.read_bytes().splitlines())
    return [(Path(record["path"]).name, record["status"]) for record in records]


def test_each_clip_is_classified_once_across_restarts(
    started: Callable[[], SimpleNamespace], inbox: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    clips.write(inbox / "there.mp4", [toy_models.picture(None)] * 3)
    service = started()
    assert answered(output, 1) == [("there.mp4", "no_face")]
    (inbox / "bad.mp4").write_bytes(b"\0not a video" * 100)
    assert answered(output, 2)[1:] == [("bad.mp4", "error")]
    face = clips.write(tmp_path / "face.mp4", [toy_models.picture(toy_models.FIRST)] * 3)
    shutil.copy(face, tmp_path / "whole.mp4")
    (tmp_path / "whole.mp4").rename(inbox / "moved.mp4")
    assert answered(output, 3)[2:] == [("moved.mp4", "ok")]
    status, said = service.end(signal.SIGTERM)
    assert (status, said.count(b"\n"), b"terminated" in said) == (143, 1, True)
    before = output.read_bytes().splitlines()
    shutil.copy(face, inbox / "meanwhile.mp4")
    (inbox / "there.mp4").unlink()
    service = started()
    assert sorted(answered(output, 4)[2:]) == [("bad.mp4", "error"), ("meanwhile.mp4", "ok")]
    status, said = service.end(signal.SIGINT)
    assert (status, said.count(b"\n"), b"interrupted" in said) == (130, 1, True)
    assert output.read_bytes().splitlines()[:2] == [before[0], before[2]]
