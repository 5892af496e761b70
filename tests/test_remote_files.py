"""URLs: listing, stamps and local copies."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from fervid.core.errors import FervidError, InputNotFound, InputUnreadable, UsageError
from fervid.media import remote_files
from fervid.media.inputs import resolve_inputs


@pytest.fixture
def store() -> Iterator[MemoryFileSystem]:
    """A file system in memory with clips."""
    files = fsspec.filesystem("memory")
    for name in ("a.mp4", "b.MKV", "notes.txt", "deep/c.webm", "deep/er/d.mp4"):
        files.pipe_file(f"/clips/{name}", name.encode())
    files.makedirs("/clips/empty")
    yield files
    files.rm("/clips", recursive=True)


@pytest.mark.parametrize("name", ["s3://bucket/a.mp4", "file:///a.mp4", "GS://b", "hdfs2+x://a"])
def test_is_url(name: str) -> None:
    assert remote_files.is_url(name)


@pytest.mark.parametrize("name", ["a.mp4", "/a://b", "c:/a.mp4", "c://a.mp4", "://a", "", "-://a"])
def test_is_not_url(name: str) -> None:
    assert not remote_files.is_url(name)


def test_folder_url_lists_videos_sorted(store: MemoryFileSystem) -> None:
    assert resolve_inputs(["memory://clips"], urls=True) == ["memory:///clips/a.mp4", "memory:///clips/b.MKV"]
    assert resolve_inputs(["memory://clips/"], urls=True, recursive=True) == [
        *("memory:///clips/a.mp4", "memory:///clips/b.MKV"),
        *("memory:///clips/deep/c.webm", "memory:///clips/deep/er/d.mp4"),
    ]


def test_mixed_inputs_keep_order(store: MemoryFileSystem, tmp_path: Path) -> None:
    clip = tmp_path / "x.mp4"
    clip.touch()
    named = [
        "memory://clips/**/*.mp4",
        "memory://clips/notes.txt",
        str(clip),
        "memory:///clips/a.mp4",
        tmp_path.as_uri(),
    ]
    assert resolve_inputs(named, urls=True) == [
        *("memory:///clips/a.mp4", "memory:///clips/deep/er/d.mp4", "memory://clips/notes.txt"),
        *(str(clip), clip.as_uri()),
    ]


def test_glob_skips_folders(store: MemoryFileSystem) -> None:
    assert resolve_inputs(["memory://clips/*"], urls=True) == [
        f"memory:///clips/{n}" for n in ("a.mp4", "b.MKV", "notes.txt")
    ]


def test_video_url_is_not_looked_up() -> None:
    names = ["nowhere://a/b.mp4", "nowhere://a/b.mp4?token=1", "nowhere://a/b.MOV"]
    assert resolve_inputs(names, urls=True) == names


def test_folder_without_videos_and_glob_without_match(store: MemoryFileSystem) -> None:
    assert resolve_inputs(["memory://clips/a.mp4", "memory://clips/empty"], urls=True) == ["memory://clips/a.mp4"]
    names = ["memory://clips/a.mp4", "memory://clips/x*.mp4"]
    assert resolve_inputs(names, urls=True) == names


def test_url_without_urls_option_is_missing_file() -> None:
    assert resolve_inputs(["memory://clips/", "a.mp4"]) == ["memory://clips/", "a.mp4"]


@pytest.mark.parametrize("url", ["nowhere://a/", "s3://a/", "file:///none/*/[", "http://"])
def test_unreachable_url_is_usage_error(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    if url.startswith(("file", "http")):
        monkeypatch.setattr(remote_files, "open_filesystem", lambda _: (Broken(), ""))
    with pytest.raises(UsageError, match="cannot be used") as raised:
        resolve_inputs([url], urls=True)
    assert url in raised.value.message


def test_missing_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(UsageError, match=r'pip install "fervid\[parquet\]"'):
        remote_files.open_filesystem("file:///")
    assert remote_files.file_stamp("file:///") == remote_files.MISSING


class Broken:
    """A file system with an error class of its own."""

    def __getattr__(self, name: str) -> object:
        raise RuntimeError("no credentials\nand a long story")


def test_filesystem_error_becomes_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_files, "open_filesystem", lambda _: (Broken(), ""))
    with pytest.raises(InputUnreadable, match=r"^s3://a/b.mp4 .*\(no credentials\);"):
        remote_files.local_copy("s3://a/b.mp4").__enter__()
    with pytest.raises(UsageError, match=r"\(ValueError\)"), remote_files.wrap_fs_errors("s3://a", UsageError):
        raise ValueError
    with pytest.raises(FervidError, match="ours"), remote_files.wrap_fs_errors("s3://a", UsageError):
        raise FervidError("ours")
    assert remote_files.file_stamp("s3://a/b.mp4") == remote_files.MISSING


def test_local_copy(store: MemoryFileSystem) -> None:
    with remote_files.local_copy("memory://clips/a.mp4") as path:
        assert (path.name, path.read_bytes()) == ("a.mp4", b"a.mp4")
    assert not path.parent.exists()


def test_local_copy_of_missing_file() -> None:
    with pytest.raises(InputNotFound, match=r"^memory://clips/x.mp4 does not exist"):
        remote_files.local_copy("memory://clips/x.mp4").__enter__()
    with pytest.raises(InputUnreadable, match=r"^nowhere://x.mp4 cannot be used"):
        remote_files.local_copy("nowhere://x.mp4").__enter__()


def test_file_stamp_changes_and_is_cached_by_listing(store: MemoryFileSystem) -> None:
    url = "memory:///clips/a.mp4"
    remote_files.file_stamp(url)  # another test may have listed it
    before = remote_files.file_stamp(url)
    assert before[0] == 5
    assert before[1] > 0
    resolve_inputs(["memory://clips/"], urls=True)
    store.pipe_file("/clips/a.mp4", b"longer than it was")
    assert remote_files.file_stamp(url) == before
    assert remote_files.file_stamp(url) != before
    assert remote_files.file_stamp("memory:///clips/gone.mp4") == remote_files.MISSING


@pytest.mark.parametrize(
    "info",
    [
        {"mtime": 86400.0},
        {"mtime": None, "LastModified": datetime(1970, 1, 2, tzinfo=UTC)},
        {"updated": "1970-01-02T00:00:00+00:00"},
    ],
)
def test_stamp_reads_every_mtime_key(info: dict) -> None:
    assert remote_files._stamp({"size": 7, **info}) == (7, 86400 * 10**9)


def test_stamp_without_mtime_or_size() -> None:
    assert remote_files._stamp({"size": None}) == (0, 0)
