"""Atomic writing and locking of files."""

from __future__ import annotations

import errno
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from fervid.core.atomic_io import append_write, atomic_write
from fervid.core.errors import OutputError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_new_file_has_default_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with atomic_write(tmp_path / "out", force=False) as file:
        assert names(tmp_path) == ["out.lock", "out.partial", "plain"]
        file.write(b"whole")
    assert names(tmp_path) == ["out", "plain"]
    assert (tmp_path / "out").read_bytes() == b"whole"
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_file_is_seekable(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "out.zip", force=False) as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", b"x" * 1000)
    assert zipfile.ZipFile(tmp_path / "out.zip").testzip() is None


@pytest.mark.parametrize("written", [b"", b"half"])
def test_partial_file_is_kept_unless_empty(written: bytes, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "out", force=False) as file:
        file.write(written)
        raise KeyboardInterrupt
    assert names(tmp_path) == (["out.partial"] if written else [])
    if written:
        with pytest.raises(OutputError, match=r"out\.partial exists"), atomic_write(tmp_path / "out", force=False):
            pass
        assert (tmp_path / "out.partial").read_bytes() == written
    with atomic_write(tmp_path / "out", force=True) as file:
        file.write(b"w")
    assert (names(tmp_path), (tmp_path / "out").read_bytes()) == (["out"], b"w")


def test_empty_partial_file_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "out.partial").touch()
    with atomic_write(tmp_path / "out", force=False) as file:
        file.write(b"whole")
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("odd", ["out", "out.partial"])
def test_special_files_are_refused(odd: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / odd)
    with pytest.raises(OutputError, match="not a regular file"), atomic_write(tmp_path / "out", force=True):
        pass
    assert names(tmp_path) == [odd]


def test_file_is_locked(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "out", force=False) as file:
        file.write(b"first")
        for force in (False, True):
            with pytest.raises(OutputError, match="another run"), atomic_write(tmp_path / "out", force=force):
                pass
    assert (names(tmp_path), (tmp_path / "out").read_bytes()) == (["out"], b"first")


def test_lock_of_a_killed_run_is_free(tmp_path: Path) -> None:
    (tmp_path / "out.lock").touch()
    with atomic_write(tmp_path / "out", force=False) as file:
        file.write(b"whole")
    assert names(tmp_path) == ["out"]


def test_missing_folder_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"), atomic_write(tmp_path / "no" / "out", force=False):
        pass
    assert names(tmp_path) == []


def test_foreign_lock_file_is_kept(tmp_path: Path) -> None:
    (tmp_path / "out.lock").write_bytes(b"of another program")
    with atomic_write(tmp_path / "out", force=False) as file:
        file.write(b"whole")
    assert (tmp_path / "out.lock").read_bytes() == b"of another program"


@pytest.mark.parametrize("call", ["lock", "fsync"])
@pytest.mark.parametrize(("code", "fine"), [(errno.ENOLCK, True), (errno.EINVAL, True), (errno.EIO, False)])
def test_unsupported_lock_and_fsync_are_ignored_and_errors_are_raised(
    call: str, code: int, fine: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def failing(descriptor: Any, *_: object) -> None:
        if call == "fsync" and not os.path.samestat(os.fstat(descriptor), tmp_path.stat()):
            fsync(descriptor)  # files it can
            return
        raise OSError(code, os.strerror(code))

    if call == "lock":
        monkeypatch.setattr(FileLock, "_acquire", failing)
    else:
        monkeypatch.setattr(os, "fsync", failing)
    if fine:
        with atomic_write(tmp_path / "out", force=False) as file:
            file.write(b"whole")
        assert (tmp_path / "out").read_bytes() == b"whole"
    else:
        with (
            pytest.raises(OutputError, match="Input/output error"),
            atomic_write(tmp_path / "out", force=False) as file,
        ):
            file.write(b"whole")


def test_append_write(tmp_path: Path) -> None:
    with append_write(tmp_path / "out", force=False) as file:
        assert names(tmp_path) == ["out", "out.lock"]
        file.write(b"one\n")
        assert (tmp_path / "out").read_bytes() == b"one\n"
        with pytest.raises(OutputError, match="another run"), append_write(tmp_path / "out", force=True):
            pass
    with pytest.raises(OutputError, match="exists"), append_write(tmp_path / "out", force=False):
        pass
    (tmp_path / "out.partial").write_bytes(b"left")
    (tmp_path / "out").unlink()
    with pytest.raises(OutputError, match=r"out\.partial exists"), append_write(tmp_path / "out", force=False):
        pass
    with append_write(tmp_path / "out", force=True) as file:
        file.write(b"two\n")
    assert (names(tmp_path), (tmp_path / "out").read_bytes()) == (["out"], b"two\n")
