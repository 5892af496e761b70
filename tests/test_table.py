"""The table and the progress bar, on terminals of all widths."""

from __future__ import annotations

import io
import os
import re
import select
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from rich.cells import cell_len

import clips
import toy_models
from fervid.batch.writers import TableWriter
from fervid.core.progress import log, track_clips
from fervid.core.results import ClipResult, ErrorInfo, Prediction, WindowResult
from fervid.core.text import escape_control_chars

LONG = "videos/" + "a folder with a long name/" * 12 + "interview_0042_camera_left.mp4"
NAMES = [
    LONG,
    "short.mp4",
    "映画の感情クリップ日本語の長い名前で終わらない.mp4",
    "\x1b[31mred\n\u202egpj.mp4",
    "c\udce9.mp4",
]


class Terminal(io.BytesIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def record(path: str, number: int = 0) -> ClipResult:
    kinds = (
        ClipResult(path, "ok", Prediction({"surprise": 0.75, "fear": 0.25}), duration_s=7261.5),
        ClipResult(path, "no_face", duration_s=1),
        ClipResult(path, "error", error=ErrorInfo("no_video_stream", f"{path} has no video stream; name another")),
        ClipResult(path, "skipped", error=ErrorInfo("skipped", "not answered")),
    )
    return kinds[number % len(kinds)]


def drawn(stream: io.BytesIO, *records: ClipResult, streaming: bool = False) -> list[str]:
    table = TableWriter(stream, type(records[0]) if records else ClipResult, streaming=streaming)
    for one in records:
        table.write(one)
    table.finish()
    return stream.getvalue().decode().splitlines()


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("LINES", "25")


@pytest.mark.parametrize(
    ("kind", "columns", "streaming"),
    [
        (ClipResult, 200, False),
        (ClipResult, 80, True),
        (ClipResult, 60, False),
        (ClipResult, 40, True),
        (ClipResult, 1, False),
        (WindowResult, 80, False),
        (WindowResult, 60, True),
        (WindowResult, 40, False),
    ],
)
@pytest.mark.usefixtures("narrow")
def test_every_row_fits_one_terminal_line(
    kind: type[ClipResult], columns: int, streaming: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    records = [record(name, i) for i, name in enumerate(NAMES)]
    if kind is WindowResult:
        records = [WindowResult.from_clip_result(one, 3599.5, 3603.5) for one in records]
    lines = drawn(Terminal(), *records, streaming=streaming)
    assert all(escape_control_chars(line) == line for line in lines)
    if columns == 1:
        return
    assert max(map(cell_len, lines)) <= columns
    assert re.search("confidence *people *seconds$" if columns >= 80 else "(label|confidence)$|from", lines[0])
    if columns >= 60:
        assert "confidence" in lines[0]
        rows = [line for line in lines[1:] if re.search(r"surprise|no_face( |$)|\(no_v|  skipped( |$)", line)]
        assert len(rows) == len(NAMES)
        assert any("…" in line and "left.mp4" in line for line in rows)
        assert lines[-1].startswith("5 ")


@pytest.mark.usefixtures("narrow")
def test_nothing_is_omitted_outside_terminal() -> None:
    lines = drawn(io.BytesIO(), *(record(name, i) for i, name in enumerate(NAMES)))
    assert lines[1].startswith(f"{LONG}  surprise")
    assert lines[4].startswith(r"\x1b[31mred\n\u202egpj.mp4")
    assert lines[5].startswith(r"c\udce9.mp4")
    assert lines[6:-1] == [
        "映画の感情クリップ日本語の長い名前で終わらない.mp4 has no video stream; name another",
        "not answered",
    ]
    what = f"{len(NAMES)} clips: 2 ok, 1 no_face, 1 error, 1 skipped"
    assert lines[-1] == what
    assert drawn(io.BytesIO(), record("a"))[1:] == ["a     surprise        0.75           7261.5"]


@pytest.mark.usefixtures("narrow")
def test_error_code_equal_to_status_is_shown_once() -> None:
    found = ClipResult("a.mp4", "no_face", error=ErrorInfo("no_face", "a.mp4 shows a face in only 1 of 428 frames"))
    assert drawn(io.BytesIO(), found)[1:] == ["a.mp4  no_face", "a.mp4 shows a face in only 1 of 428 frames"]


def test_streaming_table_writes_rows_and_errors_at_once(narrow: None) -> None:
    stream = io.BytesIO()
    table = TableWriter(stream, streaming=True)
    for number, lines in ((0, 2), (1, 3), (2, 5)):
        table.write(record("a.mp4", number))
        assert stream.getvalue().count(b"\n") == lines
    assert stream.getvalue().splitlines()[-1] == b"  a.mp4 has no video stream; name another"
    table.finish()
    assert stream.getvalue().splitlines()[-1] == b"3 clips: 1 ok, 1 no_face, 1 error"


def test_empty_table_has_titles_only(narrow: None) -> None:
    assert drawn(io.BytesIO()) == ["clip  label  confidence  people  seconds"]
    assert drawn(io.BytesIO(), streaming=True) == []


def seen(*arguments: object, columns: int = 80, **variables: str) -> bytes:
    """Run a command in a pseudo-terminal, and return its output."""
    ours, theirs = pytest.importorskip("pty").openpty()
    pytest.importorskip("termios").tcsetwinsize(theirs, (25, columns))
    environment = {
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")
    }
    environment |= {"TERM": "xterm-256color", "LANG": "C.UTF-8", **variables}
    code = "from fervid.cli.app import main\nif __name__ == '__main__': main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # the other side is closed
        while select.select([ours], [], [], 60)[0]:
            if not (part := os.read(ours, 65536)):
                break
            shown += part
    os.close(ours)
    process.wait(60)
    return shown


def test_progress_bar_and_output_do_not_overlap(family: dict[str, str], tmp_path: Path) -> None:
    for name, colour in (("face", toy_models.FIRST), ("nobody", None)):
        clips.write(tmp_path / f"{name}.mp4", [toy_models.picture(colour)] * 3)
    (tmp_path / "empty.mp4").touch()
    flags = [*toy_models.flags(family), f"--min-face={toy_models.FACE}"]
    table = seen("classify", *(tmp_path / f"{name}.mp4" for name in ("face", "nobody", "empty")), *flags, "--jobs", 1)
    assert b"\x1b[31m" in table
    assert re.search(rb"3/3 \[.*left, .*clip/s, failed=1\]", table)
    lines = table.decode().split("\r\n")
    assert "failed=1" in lines[0].rsplit("\r")[-1]
    assert lines[-2].endswith("3 clips: 1 ok, 1 no_face, 1 error\x1b[0m")


def test_progress_without_total_counts(capsys: pytest.CaptureFixture[str]) -> None:
    for result in track_clips(iter([False, True]), None, "bar", bool):
        log(f"a line above it\x1b, after {result}")
    said = capsys.readouterr().err
    assert re.search(r"2 clips \[\d\d:\d\d, failed=1\]", said)
    assert r"fervid: a line above it\x1b, after False" in said


@pytest.mark.parametrize(("total", "bar"), [(None, True), (0, False), (1, False), (2, True)])
def test_bar_needs_terminal_and_several_clips(
    total: int | None, bar: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(track_clips(range(2), total, "auto", bool)) == [0, 1]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(track_clips(range(2), total, "auto", bool)) == [0, 1]
    assert bool(capsys.readouterr().err) == bar
