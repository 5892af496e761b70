"""URLs: what they stand for, when they changed, and a local copy of each."""

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
    """A file system that is no folder of this machine, with clips in it."""
    files = fsspec.filesystem("memory")
    for name in ("a.mp4", "b.MKV", "notes.txt", "deep/c.webm", "deep/er/d.mp4"):
        files.pipe_file(f"/clips/{name}", name.encode())
    files.makedirs("/clips/empty")
    yield files
    files.rm("/clips", recursive=True)


@pytest.mark.parametrize("name", ["s3://bucket/a.mp4", "file:///a.mp4", "GS://b", "hdfs2+x://a"])
def test_a_scheme_makes_a_url(name: str) -> None:
    assert remote_files.is_url(name)


@pytest.mark.parametrize("name", ["a.mp4", "/a://b", "c:/a.mp4", "c://a.mp4", "://a", "", "-://a"])
def test_all_else_is_a_path(name: str) -> None:
    assert not remote_files.is_url(name)


def test_a_folder_stands_for_its_videos_in_order(store: MemoryFileSystem) -> None:
    assert resolve_inputs(["memory://clips"], urls=True) == ["memory:///clips/a.mp4", "memory:///clips/b.MKV"]
    assert resolve_inputs(["memory://clips/"], urls=True, recursive=True) == [
        *("memory:///clips/a.mp4", "memory:///clips/b.MKV"),
        *("memory:///clips/deep/c.webm", "memory:///clips/deep/er/d.mp4"),
    ]


def test_globs_files_and_local_names_keep_the_order_in_which_they_were_named(
    store: MemoryFileSystem, tmp_path: Path
) -> None:
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


def test_what_a_glob_matches_is_never_a_folder(store: MemoryFileSystem) -> None:
    assert resolve_inputs(["memory://clips/*"], urls=True) == [
        f"memory:///clips/{n}" for n in ("a.mp4", "b.MKV", "notes.txt")
    ]


def test_nothing_is_asked_about_a_url_with_the_suffix_of_a_video() -> None:
    names = ["nowhere://a/b.mp4", "nowhere://a/b.mp4?token=1", "nowhere://a/b.MOV"]
    assert resolve_inputs(names, urls=True) == names


def test_a_folder_without_videos_is_nothing_and_a_glob_without_a_match_stands_for_itself(
    store: MemoryFileSystem,
) -> None:
    assert resolve_inputs(["memory://clips/a.mp4", "memory://clips/empty"], urls=True) == ["memory://clips/a.mp4"]
    names = ["memory://clips/a.mp4", "memory://clips/x*.mp4"]
    assert resolve_inputs(names, urls=True) == names


def test_without_being_asked_for_a_url_is_a_file_that_is_not_there() -> None:
    assert resolve_inputs(["memory://clips/", "a.mp4"]) == ["memory://clips/", "a.mp4"]


@pytest.mark.parametrize("url", ["nowhere://a/", "s3://a/", "file:///none/*/[", "http://"])
def test_what_cannot_be_opened_or_listed_is_a_usage_error_that_names_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    if url.startswith(("file", "http")):
        monkeypatch.setattr(remote_files, "open_filesystem", lambda _: (Broken(), ""))
    with pytest.raises(UsageError, match="cannot be used") as raised:
        resolve_inputs([url], urls=True)
    assert url in raised.value.message


def test_without_fsspec_a_url_cannot_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(UsageError, match=r"pip install 'fervid\[parquet\]'"):
        remote_files.open_filesystem("file:///")
    assert remote_files.file_stamp("file:///") == remote_files.MISSING


class Broken:
    """A file system whose errors are of its own kind."""

    def __getattr__(self, name: str) -> object:
        raise RuntimeError("no credentials\nand a long story")


def test_the_error_of_a_file_system_becomes_one_line_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_files, "open_filesystem", lambda _: (Broken(), ""))
    with pytest.raises(InputUnreadable, match=r"^s3://a/b.mp4 cannot be used \(no credentials\); check"):
        remote_files.local_copy("s3://a/b.mp4").__enter__()
    with pytest.raises(UsageError, match=r"\(ValueError\)"), remote_files.wrap_fs_errors("s3://a", UsageError):
        raise ValueError
    with pytest.raises(FervidError, match="ours"), remote_files.wrap_fs_errors("s3://a", UsageError):
        raise FervidError("ours")
    assert remote_files.file_stamp("s3://a/b.mp4") == remote_files.MISSING


def test_a_copy_has_the_name_and_the_bytes_and_goes_when_it_is_done(store: MemoryFileSystem) -> None:
    with remote_files.local_copy("memory://clips/a.mp4") as path:
        assert (path.name, path.read_bytes()) == ("a.mp4", b"a.mp4")
    assert not path.parent.exists()


def test_a_copy_of_nothing_is_not_found_and_one_from_nowhere_unreadable() -> None:
    with pytest.raises(InputNotFound, match=r"^memory://clips/x.mp4 does not exist"):
        remote_files.local_copy("memory://clips/x.mp4").__enter__()
    with pytest.raises(InputUnreadable, match=r"^nowhere://x.mp4 cannot be used"):
        remote_files.local_copy("nowhere://x.mp4").__enter__()


def test_a_stamp_changes_with_the_file_and_a_listing_tells_it_already(store: MemoryFileSystem) -> None:
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
def test_each_file_system_has_its_own_name_for_the_time(info: dict) -> None:
    assert remote_files._stamp({"size": 7, **info}) == (7, 86400 * 10**9)


def test_where_nobody_keeps_times_or_sizes_they_are_zero() -> None:
    assert remote_files._stamp({"size": None}) == (0, 0)
