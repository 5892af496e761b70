"""A folder into which clips are put: each is answered once, when it is whole, until somebody ends it."""

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
from fervid.batch import folder_watcher
from fervid.batch.folder_watcher import FolderWatcher
from fervid.cli import app
from fervid.core.errors import UsageError


class Clock:
    """Time that passes when somebody sleeps; at some times something happens."""

    def __init__(self) -> None:
        """Begin at 0."""
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


def given(clips: Iterator[str | None], clock: Clock, until: float) -> dict[str, float]:
    """What is given until then, and when."""
    found = {}
    while clock.now < until:
        if path := next(clips):
            found[Path(path).name] = clock.now
    return found


def test_what_is_there_and_what_comes_is_given_once_and_when_it_is_left_alone(inbox: Path, clock: Clock) -> None:
    for name in ("b.mp4", "a.MKV", "notes.txt", "c.mp4.part"):
        put(inbox / name)
    clips = FolderWatcher(inbox, quiet=2).clips()
    assert given(clips, clock, 1.5) == {}
    assert list(given(clips, clock, 5)) == ["a.MKV", "b.mp4"]
    clock.events = [
        (6, lambda: put(inbox / "slow.mp4")),
        (7, lambda: put(inbox / "slow.mp4", b"longer")),
        (8.5, lambda: put(inbox / "slow.mp4", b"LONGER", 2_000_000_000)),
        (9, lambda: (inbox / "c.mp4.part").rename(inbox / "c.mp4")),
    ]
    found = given(clips, clock, 20)
    assert set(found) == {"slow.mp4", "c.mp4"}
    assert found["slow.mp4"] >= 10.5
    assert found["c.mp4"] >= 11


def test_folders_within_are_looked_into_when_asked_for(inbox: Path, clock: Clock) -> None:
    (inbox / "deep" / "er").mkdir(parents=True)
    put(inbox / "deep" / "er" / "a.mp4")
    assert given(FolderWatcher(inbox, quiet=1).clips(), clock, 5) == {}
    clips = FolderWatcher(inbox, quiet=1, recursive=True).clips()
    assert list(given(clips, clock, 10)) == ["a.mp4"]


def test_a_clip_that_is_replaced_is_new_once_the_first_is_answered(inbox: Path, clock: Clock) -> None:
    clip = put(inbox / "a.mp4")
    folder = FolderWatcher(inbox, quiet=1)
    clips = folder.clips()
    assert list(given(clips, clock, 5)) == ["a.mp4"]
    first = folder.stamps[str(clip)]
    put(clip, b"other")
    assert given(clips, clock, 10) == {}
    assert folder.stamps[str(clip)] == first != folder_watcher.FolderWatcher(inbox).stamps[str(clip)]
    folder.settle(str(clip))
    assert list(given(clips, clock, 15)) == ["a.mp4"]


def test_clips_that_go_do_no_harm_and_are_known_when_they_come_back(inbox: Path, clock: Clock) -> None:
    folder = FolderWatcher(inbox, quiet=2)
    clips = folder.clips()
    clock.events = [
        (1, lambda: put(inbox / "short-lived.mp4")),
        (2, (inbox / "short-lived.mp4").unlink),
        (2, lambda: (inbox / "nowhere.mp4").symlink_to(inbox / "nothing")),
        (3, lambda: put(inbox / "a.mp4")),
    ]
    assert list(given(clips, clock, 10)) == ["a.mp4"]
    folder.settle(str(inbox / "a.mp4"))
    clock.events = [(11, (inbox / "a.mp4").unlink), (15, lambda: put(inbox / "a.mp4"))]
    assert given(clips, clock, 25) == {}


def test_a_folder_that_is_away_for_a_while_is_waited_for(inbox: Path, clock: Clock) -> None:
    put(inbox / "a.mp4")
    told: list[str] = []
    folder = FolderWatcher(inbox, quiet=1, tell=told.append)
    clips = folder.clips()
    assert list(given(clips, clock, 4)) == ["a.mp4"]
    folder.settle(str(inbox / "a.mp4"))
    away = inbox.with_name("away")
    clock.events = [
        (5, lambda: inbox.rename(away)),
        (20, lambda: away.rename(inbox)),
        (21, lambda: put(inbox / "b.mp4")),
    ]
    assert list(given(clips, clock, 30)) == ["b.mp4"]
    assert told == [
        f"{inbox} cannot be read (No such file or directory); waiting until it can",
        f"{inbox} is here again",
    ]


def test_memory_does_not_grow_with_what_is_gone(inbox: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_watcher, "MAX_TOMBSTONES", 3)
    folder = FolderWatcher(inbox, quiet=0.5)
    clips = folder.clips()
    for number in range(12):
        clip = put(inbox / f"{number}.mp4")
        assert list(given(clips, clock, 3 * number + 3)) == [clip.name]
        folder.settle(str(clip))
        clip.unlink()
    given(clips, clock, 40)
    assert list(folder.stamps) == [str(inbox / f"{number}.mp4") for number in (9, 10, 11)]
    assert folder._settled == set(folder.stamps)
    assert not folder._given
    assert not folder._waiting


def test_listing_a_large_folder_takes_a_small_share_of_the_time(
    inbox: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[float] = []

    def slow(folder: str, *, recursive: bool) -> list[str]:
        listed.append(clock.now)
        clock.now += 3
        return []

    monkeypatch.setattr(folder_watcher, "videos", slow)
    given(FolderWatcher(inbox, quiet=1).clips(), clock, 200)
    assert len(listed) == 5


def test_work_that_takes_long_puts_off_no_look_at_the_folder(inbox: Path, clock: Clock) -> None:
    for name in ("a.mp4", "b.mp4"):
        put(inbox / name)
    clips = FolderWatcher(inbox, quiet=1).clips()
    assert next(path for path in clips if path) == str(inbox / "a.mp4")
    clock.now += 5000  # until somebody asks for the next
    put(inbox / "c.mp4")
    assert list(given(clips, clock, 5010)) == ["b.mp4", "c.mp4"]


def test_what_is_answered_already_is_not_given_unless_it_has_changed(inbox: Path, clock: Clock) -> None:
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        put(inbox / name)
    folder = FolderWatcher(inbox, quiet=1)
    put(inbox / "b.mp4", b"changed since")
    answered = [str(inbox / name) for name in ("a.mp4", "b.mp4", "gone.mp4")]
    assert list(given(folder.clips(answered), clock, 5)) == ["b.mp4", "c.mp4"]


@pytest.mark.parametrize("name", ["missing", "file"])
def test_what_is_no_folder_cannot_be_watched(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="create it, or check"):
        FolderWatcher(tmp_path / name)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app.app, ["watch", *map(str, arguments)])


def stop() -> None:
    raise KeyboardInterrupt


def test_records_come_on_standard_output_as_they_are_made(inbox: Path, smile: Path, clock: Clock) -> None:
    (inbox / "empty.mp4").touch()
    shutil.copy(smile, inbox)
    for form, lines in (("jsonl", 2), ("csv", 3), ("table", 5)):
        clock.events = [(clock.now + 5, stop)]
        result = run(inbox, "--quiet", 1, "--format", form, "--progress", "json")
        assert (result.exit_code, len(result.stdout.splitlines())) == (130, lines)
        assert "happiness" in result.stdout
        assert "empty_file" in result.stdout
        events = [json.loads(line) for line in result.stderr.splitlines()[:-1]]
        assert [(event["done"], event["total"], event["failed"]) for event in events] == [(1, None, 1), (2, None, 1)]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--format", "json"],
        ["-o", "results.csv"],
        ["-o", "results"],
        ["--quiet", "0"],
        ["--resume"],
        ["-o", "results.jsonl", "--format", "csv"],
        ["--jobs", "0"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2(
    arguments: list[str], inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(inbox, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert os.listdir(tmp_path) == ["inbox"]


def test_a_folder_that_is_missing_is_status_2(tmp_path: Path) -> None:
    assert run(tmp_path / "missing").exit_code == 2


@pytest.fixture
def started(inbox: Path, tmp_path: Path) -> Iterator[Callable[[], SimpleNamespace]]:
    """Starts the command as a service would; whatever is left of it is killed."""
    running: list[subprocess.Popen[bytes]] = []

    def start() -> SimpleNamespace:
        code = "from fervid.cli.app import main\nif __name__ == '__main__': main()"
        flags = ["--quiet", "0.5", "-o", tmp_path / "out.jsonl", "--resume", "--jobs", "1", "--progress", "none"]
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
            os.killpg(process.pid, signal.SIGKILL)  # the workers too, or they would hold the pipe
        process.communicate()


def answered(output: Path, count: int) -> list[tuple[str, str]]:
    """Name and status of the records, when there are so many."""
    deadline = time.monotonic() + 60
    found: list[tuple[str, str]] = []
    while time.monotonic() < deadline and len(found) < count:
        time.sleep(0.05)
        lines = output.read_bytes().splitlines() if output.exists() else []
        found = [(Path(record["path"]).name, record["status"]) for record in map(json.loads, lines)]
    return found


def test_each_clip_is_answered_once_across_restarts(
    started: Callable[[], SimpleNamespace], inbox: Path, tmp_path: Path, smile: Path, scenery: Path
) -> None:
    output = tmp_path / "out.jsonl"
    shutil.copy(scenery, inbox / "there.mp4")
    service = started()
    assert answered(output, 1) == [("there.mp4", "no_face")]
    (inbox / "bad.mp4").write_bytes(b"\0not a video" * 100)
    assert answered(output, 2)[1:] == [("bad.mp4", "error")]
    shutil.copy(smile, tmp_path / "whole.mp4")
    (tmp_path / "whole.mp4").rename(inbox / "moved.mp4")
    assert answered(output, 3)[2:] == [("moved.mp4", "ok")]
    status, said = service.end(signal.SIGTERM)
    assert (status, said.count(b"\n"), b"terminated" in said) == (143, 1, True)
    before = output.read_bytes().splitlines()
    shutil.copy(smile, inbox / "meanwhile.mp4")
    (inbox / "there.mp4").unlink()
    service = started()
    assert sorted(answered(output, 4)[2:]) == [("bad.mp4", "error"), ("meanwhile.mp4", "ok")]
    status, said = service.end(signal.SIGINT)
    assert (status, said.count(b"\n"), b"interrupted" in said) == (130, 1, True)
    assert output.read_bytes().splitlines()[:2] == [before[0], before[2]]
