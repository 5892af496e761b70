"""Resolution of command-line inputs to clips."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import pytest

import clips
from fervid.core.errors import InputUnreadable, NoInputsFound, UsageError
from fervid.media.container import open_file
from fervid.media.inputs import VIDEO_SUFFIXES, SkippedFiles, read_list, resolve_inputs


def resolve(names: Iterable[str], **options: Any) -> list[str]:
    """Resolve inputs, and return them with slashes on every system."""
    return [name.replace(os.sep, "/") for name in resolve_inputs(names, **options)]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with videos in three levels."""
    for name in ("b.mp4", "a.MKV", "notes.txt", "sub/d.webm", "sub/c.mp4", "sub/deep/e.gif", "none/readme.md"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("named", "recursive", "meant"),
    [
        (["b.mp4", "a.MKV"], False, ["b.mp4", "a.MKV"]),
        (["notes.txt"], False, ["notes.txt"]),
        (["missing.mp4", "b.mp4"], False, ["missing.mp4", "b.mp4"]),
        (["gone/away/"], False, ["gone/away/"]),
        (["."], False, ["./a.MKV", "./b.mp4"]),
        (["sub/"], False, ["sub/c.mp4", "sub/d.webm"]),
        (["."], True, ["./a.MKV", "./b.mp4", "./sub/c.mp4", "./sub/d.webm", "./sub/deep/e.gif"]),
        (["sub", "b.mp4"], False, ["sub/c.mp4", "sub/d.webm", "b.mp4"]),
        (["*.mp4"], False, ["b.mp4"]),
        (["*"], False, ["a.MKV", "b.mp4", "notes.txt"]),
        (["sub/[cd].*"], False, ["sub/c.mp4", "sub/d.webm"]),
        (["**/*.mp4"], False, ["b.mp4", "sub/c.mp4"]),
        (["*.avi", "b.mp4"], False, ["*.avi", "b.mp4"]),
        (["none", "b.mp4"], False, ["b.mp4"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else str(value),
)
@pytest.mark.usefixtures("tree")
def test_resolve_inputs_keeps_order_and_sorts_folders(named: list[str], recursive: bool, meant: list[str]) -> None:
    assert resolve(named, recursive=recursive) == meant


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    ("named", "meant"),
    [
        (["b.mp4", "b.mp4"], ["b.mp4"]),
        (["./b.mp4", "sub/../b.mp4"], ["./b.mp4"]),
        (["b.mp4", "."], ["b.mp4", "./a.MKV"]),
        ([".", "*.mp4"], ["./a.MKV", "./b.mp4"]),
        (["missing.mp4", "./missing.mp4"], ["missing.mp4"]),
    ],
    ids=str,
)
def test_duplicate_names_count_once(named: list[str], meant: list[str]) -> None:
    assert resolve(named) == meant


def test_absolute_path_and_link_are_same_clip(tree: Path) -> None:
    (tree / "link.mp4").symlink_to("b.mp4")
    (tree / "other").symlink_to("sub")
    assert resolve_inputs(["link.mp4", "b.mp4", str(tree / "b.mp4")]) == ["link.mp4"]
    assert resolve_inputs(["sub", "other"]) == ["sub/c.mp4", "sub/d.webm"]
    assert resolve_inputs(["other/c.mp4", "sub"]) == ["other/c.mp4", "sub/d.webm"]


def test_dangling_link_is_kept(tree: Path) -> None:
    (tree / "sub" / "z.mp4").symlink_to("nowhere.mp4")
    assert resolve_inputs(["sub"]) == ["sub/c.mp4", "sub/d.webm", "sub/z.mp4"]


@pytest.mark.parametrize("target", [".", "..", "loop"])
def test_link_cycles(tree: Path, target: str) -> None:
    (tree / "sub" / "loop").symlink_to(target)
    found = resolve_inputs(["sub"], recursive=True)
    real = [os.path.realpath(path) for path in found]
    assert len(set(real)) == len(real)
    assert {"sub/c.mp4", "sub/d.webm", "sub/deep/e.gif"} <= {os.path.relpath(path, tree) for path in real}


def test_folder_search_by_suffix(tree: Path) -> None:
    place = tree / "kinds"
    (place / "folder.mp4").mkdir(parents=True)
    for suffix in VIDEO_SUFFIXES:
        (place / f"clip{suffix}").touch()
    assert resolve(["kinds"]) == sorted(f"kinds/clip{suffix}" for suffix in VIDEO_SUFFIXES)


SOUND_AND_STILLS = {"heic", "heif", "avif", "isma", "m4a", "m4b", "mka", "mks", "mpo", "ogg"}
SCRIPTS = {"avs", "ism", "psp"}


def test_video_suffixes_cover_decoder() -> None:
    formats = ("avi", "cavsvideo", "dv", "flv", "gif", "h261", "h264", "hevc", "m4v", "matroska", "mjpeg", "mov")
    known = {suffix for name in formats for suffix in av.ContainerFormat(name, "r").extensions}
    assert {f".{suffix}" for suffix in known - SOUND_AND_STILLS - SCRIPTS} <= VIDEO_SUFFIXES


CONTAINERS = {
    "mp4": "libx264",
    "mov": "libx264",
    "mkv": "libx264",
    "webm": "libvpx-vp9",
    "avi": "mpeg4",
    "asf": "msmpeg4",
    "flv": "libx264",
    "mpg": "mpeg2video",
    "ts": "libx264",
    "m2v": "mpeg2video",
    "h264": "libx264",
    "hevc": "libx265",
    "ivf": "libvpx-vp9",
    "mxf": "mpeg2video",
    "nut": "libx264",
    "y4m": "wrapped_avframe",
    "gif": "gif",
    "ogv": "libtheora",
}


@pytest.mark.parametrize("suffix", [name for name, codec in CONTAINERS.items() if codec in av.codecs_available])
def test_unknown_suffix_is_recognised_by_header(suffix: str, tmp_path: Path) -> None:
    path = clips.write(tmp_path / f"made.{suffix}", clips.scenery(3, 64, 48), codec=CONTAINERS[suffix])
    for name in ("clip", "clip.DAT", "2024-05-01 12.30"):
        path, skipped_files = path.rename(tmp_path / name), SkippedFiles()
        assert resolve_inputs([str(tmp_path)], skipped_files=skipped_files) == [str(path)]
        assert skipped_files == SkippedFiles()


def test_other_files_are_counted(tmp_path: Path) -> None:
    video = clips.write(tmp_path / "made.mp4", clips.scenery(3, 64, 48)).read_bytes()
    clips.write_sound(tmp_path / "sound.mp4").rename(tmp_path / "sound.m4a")
    (tmp_path / "clip.mp4.part").write_bytes(video)
    (tmp_path / "README").write_text("OggS is how Ogg begins")
    (tmp_path / "photo").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "empty").touch()
    (tmp_path / ".hidden").write_bytes(video)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    skipped_files = SkippedFiles()
    assert resolve_inputs([str(tmp_path)], skipped_files=skipped_files) == [str(tmp_path / "made.mp4")]
    assert skipped_files == SkippedFiles(files=6, folders=1)
    assert str(skipped_files) == "6 files are not videos, 1 folder was not searched; --recursive"


@pytest.fixture
def locked(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that may not be listed, as root may list all: within `sub`."""
    scan, place = os.scandir, tree / "sub" / "locked"
    place.mkdir()

    def refuse(path: str = ".") -> object:
        if os.path.realpath(path) == str(place):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    return place


@pytest.mark.usefixtures("locked")
def test_unlistable_folder_is_unreadable_input() -> None:
    assert resolve(["sub"]) == ["sub/c.mp4", "sub/d.webm"]
    assert resolve(["sub"], recursive=True) == ["sub/c.mp4", "sub/d.webm", "sub/deep/e.gif", "sub/locked"]
    assert resolve_inputs(["sub/locked"]) == ["sub/locked"]
    with pytest.raises(InputUnreadable, match=r"sub[\\/]locked cannot be read \(Permission denied\)"):
        open_file(Path("sub/locked"))


def test_unreadable_files_are_counted(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "sub" / "unknown").write_bytes(b"?")

    def refuse(path: str, *mode: str) -> object:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("builtins.open", refuse)
    skipped_files = SkippedFiles()
    assert resolve(["sub"], skipped_files=skipped_files) == ["sub/c.mp4", "sub/d.webm"]
    assert str(skipped_files) == "1 file cannot be read, 1 folder was not searched; --recursive"


@pytest.mark.usefixtures("tree")
def test_url_is_not_glob() -> None:
    assert resolve_inputs(["https://host/*.mp4", "s3://bucket/[a].mp4"]) == [
        "https://host/*.mp4",
        "s3://bucket/[a].mp4",
    ]


def test_hidden_files_are_skipped_unless_named(tree: Path) -> None:
    for name in ("shown/a.mp4", "shown/._a.mp4", "shown/.Trash/b.mp4"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    assert resolve_inputs([str(tree / "shown")], recursive=True) == [str(tree / "shown/a.mp4")]
    assert resolve_inputs([str(tree / "shown/._a.mp4")]) == [str(tree / "shown/._a.mp4")]


def test_file_named_like_glob(tree: Path) -> None:
    (tree / "b[1].mp4").touch()
    (tree / "b1.mp4").touch()
    assert resolve_inputs(["b[1].mp4"]) == ["b[1].mp4"]


def test_names_from_generator(tree: Path) -> None:
    assert resolve_inputs(path.name for path in [tree / "b.mp4"]) == ["b.mp4"]


@pytest.mark.parametrize(
    ("named", "recursive", "words"),
    [
        ([], False, "no input was named"),
        (["*.avi"], False, r"found in \*\.avi;"),
        (["nested"], False, "found in nested; 1 folder .*--recursive$"),
        (["nested"], True, "found in nested; 2 files [^;]*$"),
        (["none", "*.avi"], True, r"found in none, \*\.avi; 1 file "),
    ],
    ids=["nothing", "glob", "nested", "nested-recursive", "both"],
)
@pytest.mark.usefixtures("tree")
def test_no_inputs_error_names_places_and_counts(named: list[str], recursive: bool, words: str) -> None:
    Path("nested/in").mkdir(parents=True)
    for name in ("a.txt", "b.jpg"):
        Path("nested/in", name).touch()
    with pytest.raises(NoInputsFound, match=words):
        resolve_inputs(named, recursive=recursive)


@pytest.mark.parametrize(
    ("data", "nul", "names"),
    [
        (b"", False, []),
        (b"a.mp4\nb c.mp4\n", False, ["a.mp4", "b c.mp4"]),
        (b"a.mp4\r\n\r\nb.mp4\r\n", False, ["a.mp4", "b.mp4"]),
        (b" a.mp4 \n\tb.mp4\t\n", False, ["a.mp4", "b.mp4"]),
        (b" a.mp4 \0", True, [" a.mp4 "]),
        (b"# two clips\na.mp4\n  # and\nb #1.mp4\n", False, ["a.mp4", "b #1.mp4"]),
        (b"#a.mp4\0", True, ["#a.mp4"]),
        (b"\"a b.mp4\" \n'it''s.mp4'\n\"#c.mp4\"\n' d.mp4'\n", False, ["a b.mp4", "it''s.mp4", "#c.mp4", " d.mp4"]),
        (b"\"a.mp4\n'\n\"\"\na'b'\n", False, ['"a.mp4', "'", "a'b'"]),
        ("größe.mp4\n".encode(), False, ["größe.mp4"]),
        (b"\0\0", True, []),
        (b"a.mp4\0b\nc.mp4\0", True, ["a.mp4", "b\nc.mp4"]),
        (b"a.mp4\0b.mp4", True, ["a.mp4", "b.mp4"]),
    ],
    ids=str,
)
def test_read_list(data: bytes, nul: bool, names: list[str]) -> None:
    assert read_list(data, nul=nul) == names


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has file names that are not UTF-8")
@pytest.mark.parametrize("nul", [False, True])
def test_read_list_keeps_non_utf8_names(tmp_path: Path, nul: bool) -> None:
    raw = os.fsencode(tmp_path) + b"/\xff\xfe.mp4"
    Path(os.fsdecode(raw)).touch()
    names = read_list(raw + (b"\0" if nul else b"\n"), nul=nul)
    assert [os.fsencode(name) for name in names] == [raw]
    assert resolve_inputs(names) == names
    assert resolve_inputs([str(tmp_path)]) == names
    assert Path(names[0]).exists()


def test_nul_in_line_list_is_usage_error() -> None:
    with pytest.raises(UsageError, match="add -0"):
        read_list(b"a.mp4\0b.mp4\0")
