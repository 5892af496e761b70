"""What macOS and Windows lack: POSIX modules, locks and syncs of some file systems, renames of open files, UTF-8."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from typer.testing import CliRunner

import clips
import toy_models
from fervid.cli import app
from fervid.core import packages
from fervid.core.errors import InputNotFound, UsageError
from fervid.media import container, inputs
from fervid.media.inputs import read_list, resolve_inputs
from fervid.media.remote_files import is_url

WITHOUT_POSIX = """
import os, signal, sys
import psutil  # its build for this system needs what is removed below
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
for name in ("O_DIRECTORY", "fork", "getuid", "killpg", "mkfifo", "sched_getaffinity", "sysconf"):
    vars(os).pop(name, None)
vars(signal).pop("pthread_sigmask", None)
"""
"""A `sitecustomize`, which workers import too."""
WINDOWS_PATH = "C:\\clips\\a b.mp4"


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "fervid", *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        timeout=250,
        check=False,
    )


@pytest.fixture
def without_posix(tmp_path: Path) -> dict[str, str]:
    """The environment of a Python without the modules and functions of POSIX."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WITHOUT_POSIX)
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), *filter(None, sys.path)])}


def test_commands_without_posix_modules(family: dict[str, str], tmp_path: Path, without_posix: dict[str, str]) -> None:
    clip = clips.write(tmp_path / "clip.mp4", [toy_models.picture(toy_models.FIRST)] * 3)
    output = tmp_path / "out.jsonl"
    limits = ("--jobs", "1", "--memory", "3000")
    options = (*toy_models.flags(family), *limits, "-o", output, "--resume", "--progress", "none")
    code = """
import sys
from contextlib import suppress
from fervid.cli.app import app, main
with suppress(SystemExit):
    app(["doctor"])
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "classify", clip, *options],
        env={**os.environ, **without_posix},
        capture_output=True,
        timeout=250,
        check=False,
    )
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    assert b"cache folder" in done.stdout
    assert [json.loads(line)["status"] for line in output.read_text().splitlines()] == ["ok"]
    assert not list(tmp_path.glob("*.lock"))


@pytest.fixture
def limited_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that neither locks nor opens folders, and renames no file that is open."""
    open_file, replace = os.open, os.replace

    def refuse_lock(lock: FileLock) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    def refuse_folder(path: Any, *more: Any, **options: Any) -> int:
        if not isinstance(path, int) and os.path.isdir(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return open_file(path, *more, **options)

    def refuse_open_file(source: Any, target: Any, **options: Any) -> None:
        ends = [os.stat(path) for path in (source, target) if os.path.exists(path)]
        for descriptor in map(int, os.listdir("/dev/fd")):
            try:
                status = os.fstat(descriptor)
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode) and any(os.path.samestat(status, end) for end in ends):
                raise PermissionError(errno.EACCES, "The file is in use", source)
        replace(source, target, **options)

    monkeypatch.setattr(FileLock, "_acquire", refuse_lock)
    monkeypatch.setattr(os, "open", refuse_folder)
    monkeypatch.setattr(os, "replace", refuse_open_file)
    monkeypatch.setattr(shutil, "_use_fd_functions", False)  # to remove folders without opening them


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="the system does not list the open files")
@pytest.mark.usefixtures("limited_file_system")
@pytest.mark.parametrize("name", ["out.csv", "out.jsonl", "out.parquet"])
def test_output_on_limited_file_system(name: str, family: dict[str, str], tmp_path: Path) -> None:
    clip = clips.write(tmp_path / "clip.mp4", [toy_models.picture(toy_models.FIRST)] * 3)
    output = tmp_path / "out" / name
    output.parent.mkdir()
    parquet = name.endswith("parquet")
    options = [*toy_models.flags(family), *(["--format", "parquet"] if parquet else [])]
    resumable = parquet or name.endswith("jsonl")
    for more in ([], ["--force"], *([["--resume"]] if resumable else [])):
        done = CliRunner().invoke(app.app, ["classify", str(clip), "-o", str(output), *options, *more])
        assert (done.exit_code, "cannot" in done.stderr) == (0, False), done.stderr
    left = {path.name for path in output.parent.rglob("*") if path.is_file()}
    assert left == ({"part-00000.parquet"} if parquet else {name, *([f"{name}.ledger"] if resumable else [])})


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="the system does not list the open files")
@pytest.mark.usefixtures("limited_file_system")
@pytest.mark.parametrize("name", ["frames.csv", "frames.parquet"])
def test_identities_on_limited_file_system(name: str, smile: Path, tmp_path: Path) -> None:
    command = ["frames", str(smile), "--identify", "-o", str(tmp_path / name)]
    for more in ([], ["--resume"]):
        done = CliRunner().invoke(app.app, [*command, *more])
        assert done.exit_code == 0, done.stderr


def test_drive_letter_is_no_url(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_url(WINDOWS_PATH)
    assert not is_url("C:/clips/a.mp4")
    assert container._URL.match("C:/clips/a.mp4") is None
    assert resolve_inputs([WINDOWS_PATH], urls=True) == [WINDOWS_PATH]


def test_url_in_backslashes_is_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container.Path, "as_posix", lambda path: str(path).replace("\\", "/"))
    with pytest.raises(InputNotFound, match="is a URL"):
        container.open_file(Path("https:\\host\\clip.mp4"))


@pytest.mark.parametrize("line", [WINDOWS_PATH, f'"{WINDOWS_PATH}"', f"{WINDOWS_PATH}\r"])
def test_backslashes_in_lists_are_kept(line: str) -> None:
    assert read_list(f"\ufeff{line}\n".encode()) == [WINDOWS_PATH]


def test_list_that_is_not_unicode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs.os, "fsdecode", lambda name: name.decode("utf-8", "surrogatepass"))
    with pytest.raises(UsageError, match="not UTF-8"):
        read_list("é.mp4".encode("cp1252"))


def test_names_that_differ_in_case_are_one_clip_where_the_system_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs.os.path, "normcase", str.lower)
    assert resolve_inputs(["A.mp4", "a.mp4"]) == ["A.mp4"]


def test_console_without_utf8() -> None:
    done = run("classify", "\u7b11.mp4", "--format", "table", PYTHONIOENCODING="cp1252", PYTHONUTF8="0")
    assert (done.returncode, b"Traceback" in done.stderr) == (1, False)


@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("pyvenv.cfg", 'pip install "fervid[report]"'),
        ("pipx_metadata.json", 'pipx runpip fervid install "fervid[report]"'),
        ("uv-receipt.toml", 'uv tool install --with "fervid[report]" fervid'),
    ],
)
def test_hint_fits_the_installation(file: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    (tmp_path / file).touch()
    monkeypatch.setattr(packages, "find_spec", lambda name: name)
    assert packages.missing_extra("this", "report").message == f"this needs more packages; {command}"


@pytest.mark.parametrize(
    ("folder", "command"), [(".venv", 'uv pip install "av>=18"'), ("archive-v0", 'uvx --with "av>=18" fervid')]
)
def test_hint_without_pip(folder: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / folder))
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    assert packages.install_command("av>=18") == command
