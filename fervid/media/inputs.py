"""What the user names -> the clips that are meant: files, folders, globs, lists, and URLs of all of these."""

from __future__ import annotations

import codecs
import glob
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from fervid.core.errors import NoInputsFound, UsageError
from fervid.media import remote_files

_VIDEO_SUFFIXES = (
    ".264 .265 .266 .3g2 .3gp .amv .asf .avc .avi .cavs .dif .divx .drc .dv .f4v .flv .gif .gxf .h261 .h263 .h264"
    " .h265 .h266 .h26l .hevc .ismv .ivf .m1v .m2p .m2t .m2ts .m2v .m4v .mj2 .mjpeg .mjpg .mk3d .mkv .mov .mp4 .mpe"
    " .mpeg .mpg .mpv .mts .mxf .nsv .nut .obu .ogm .ogv .qt .rm .rmvb .swf .tod .trp .ts .vc1 .vob .vvc .webm .wmv"
    " .wtv .xvid .y4m"
)
VIDEO_SUFFIXES = frozenset(_VIDEO_SUFFIXES.split())
"""What counts as a video when a folder is searched. A file that is named is opened whatever its suffix."""

_OTHER_SUFFIXES = (
    ".m4a .m4b .mka .mks .mp3 .oga .opus .wav .wma"  # sound and subtitles, some in the containers of videos
    " .crdownload .download .part .partial .tmp"  # what is not finished
    " .csv .json .jsonl .jpeg .jpg .md .npy .npz .parquet .png .py .srt .txt .xml .yaml .zip"
)
_NO_VIDEO = frozenset(_OTHER_SUFFIXES.split())
"""What is no video, so that the file need not be opened to know it."""
_QUOTED = re.compile(rb"\A([\"'])(.*)\1\Z", re.DOTALL)


_HEAD_BYTES = 4096
_SNIFFED_FILES = 100_000  # whose kind is remembered, because a folder that is watched is searched again and again
_VIDEO_HEAD = re.compile(
    rb".{4}ftyp(?!M4[ABP] |hei|hev|avi|mif1|msf1|crx )|.{4}(?:moov|mdat|wide)"  # mp4 and mov
    rb"|\x1aE\xdf\xa3.{,60}(?:matroska|webm)"
    rb"|RIFF.{4}(?:AVI |AVIX|AMV |CDXA)"
    rb"|\x47.{187}\x47.{187}\x47|.{4}\x47.{191}\x47.{191}\x47"  # MPEG transport streams
    rb"|\0\0\x01[\xba\xb3]"  # MPEG program and elementary streams
    rb"|\0\0\0\x01(?:[\x06\x09\x27\x47\x67]|[\x40\x46]\x01)"  # H.264 and H.265 without a container
    rb"|OggS.*(?:theora|\x01video|BBCD|OVP80)"
    rb"|0&\xb2u\x8ef\xcf\x11\xa6\xd9.*\xc0\xef\x19\xbcM\[\xcf\x11\xa8\xfd\0\x80_\\D\+"  # asf with a video stream
    rb"|FLV\x01|DKIF\0\0|YUV4MPEG2 |GIF8[79]a|\.RMF\0|NSV[fs]|nut/multimedia container\0"
    rb"|\x06\x0e\+4\x02\x05\x01\x01\x0d\x01\x02|\0{4}\x01\xbc|\xb7\xd8\0 7I\xda\x11\xa6N"  # mxf, gxf, wtv
    rb"|\x1f\x07\0[\x3f\xbf]",  # dv
    re.DOTALL,
)


@dataclass(slots=True)
class PassedOver:
    """What searching folders left out; hidden files and folders are not counted.

    Attributes:
        files: How many are no videos.
        unreadable: How many may not be read, so that nobody knows what they are.
        folders: How many lie within those that were searched, and were not.
        advice: What to try so that they are.
    """

    files: int = 0
    unreadable: int = 0
    folders: int = 0
    advice: str = "; --recursive"

    def __str__(self) -> str:
        parts = [
            (self.files, "file is no video", "files are no videos"),
            (self.unreadable, "file cannot be read", "files cannot be read"),
            (self.folders, f"folder was not searched{self.advice}", f"folders were not searched{self.advice}"),
        ]
        return ", ".join(f"{count} {one if count == 1 else many}" for count, one, many in parts if count)


def resolve_inputs(
    named: Iterable[str], *, recursive: bool = False, urls: bool = False, passed_over: PassedOver | None = None
) -> list[str]:
    """Every clip that is meant, once, in the order in which it was named; what a folder or glob holds is sorted.

    A folder stands for its videos, as `find_videos` finds them; a file for itself, whatever its suffix and whether it
    exists or not; a glob that the shell left alone for what it matches, or for its own name if that is nothing. A file
    and a symbolic link to it count once; two hard links are two files.

    Args:
        named: Files, folders and globs.
        recursive: Whether to search the folders within folders.
        urls: Whether names like s3://bucket/folder/ mean files on other file systems. One with the suffix of a video
            stands for itself without asking, because a list of them may be long.
        passed_over: Counts what folders hold besides.

    Raises:
        UsageError: A file system cannot be reached.
        NothingMatched: Nothing was named, or nothing was found there.
    """
    passed_over = PassedOver() if passed_over is None else passed_over
    found = {name: _resolve_one(name, recursive, urls, passed_over) for name in named}
    if not any(found.values()):
        if not found:
            raise NoInputsFound("no input was named; give files, folders or globs, or a list with --from-file")
        reasons = [str(passed_over), "check the spelling and the current folder" if any(map(_is_glob, found)) else ""]
        raise NoInputsFound("; ".join([f"no video was found in {', '.join(found)}", *filter(None, reasons)]))
    clips: dict[str, str] = {}
    for name, paths in found.items():
        for path in paths or ([name] if _is_glob(name) else []):
            clips.setdefault(os.path.realpath(path), path)
    return list(clips.values())


def read_list(data: bytes, *, nul: bool = False) -> list[str]:
    """Names from a list: one a line, or separated by NUL and taken as they are; empty ones are dropped.

    Of a line, blanks at both ends and a pair of quotes around the rest are left out, and lines that begin with `#`
    are comments. A name that itself has these is written in quotes, or in a list with NULs.

    Raises:
        UsageError: The list is separated by NUL and was said to hold lines.
    """
    if b"\0" in data and not nul:
        raise UsageError("the list holds NUL characters; add -0, or write one name a line in UTF-8")
    data = data.removeprefix(codecs.BOM_UTF8)
    if nul:
        names = data.split(b"\0")
    else:
        lines = [line.strip() for line in data.splitlines()]
        names = [_QUOTED.sub(rb"\2", line) for line in lines if not line.startswith(b"#")]
    return [os.fsdecode(name) for name in names if name]


def _resolve_one(name: str, recursive: bool, urls: bool, passed_over: PassedOver) -> list[str]:
    if os.path.isdir(name):
        return sorted(find_videos(name, recursive=recursive, passed_over=passed_over))
    if urls and remote_files.is_url(name):
        if remote_files.is_glob_url(name):
            return remote_files.list_urls(name)
        if remote_files.suffix(name) in VIDEO_SUFFIXES or (
            found := remote_files.list_urls(name, recursive=recursive)
        ) == [name]:
            return [name]
        return [path for path in found if remote_files.suffix(path) in VIDEO_SUFFIXES]
    if remote_files.is_url(name):
        return [name]
    if _is_glob(name):
        return sorted(path for path in glob.glob(name, recursive=True) if not os.path.isdir(path))
    return [name]


def _is_glob(name: str) -> bool:
    if remote_files.is_url(name):
        return remote_files.is_glob_url(name)
    return glob.has_magic(name) and not os.path.lexists(name)


def find_videos(folder: str, *, recursive: bool, passed_over: PassedOver | None = None) -> Iterator[str]:
    """The videos in a folder, by suffix, or by how a file of unknown suffix begins; none that is hidden (`._a.mp4`).

    A folder that may not be listed is given too, because whatever it holds would be missing without a word.

    Args:
        folder: Where to look.
        recursive: Whether to search the folders within, too.
        passed_over: Counts what else is there.
    """
    seen: set[str] = set()
    unlisted: list[str] = []
    passed_over = PassedOver() if passed_over is None else passed_over
    walk = os.walk(folder, followlinks=True, onerror=lambda error: unlisted.append(error.filename or folder))
    for place, folders, files in walk:
        real = os.path.realpath(place)
        if real in seen:  # a symbolic link leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        if not recursive:
            passed_over.folders += len(folders)
            folders.clear()
        for path in (os.path.join(place, file) for file in files if not file.startswith(".")):
            if is_video(path, passed_over):
                yield path
    yield from unlisted


def is_video(path: str, passed_over: PassedOver) -> bool:
    """Whether a file of a folder counts as a video; what does not is counted."""
    try:
        if _looks_like_video(path):
            return True
        passed_over.files += 1
    except OSError:
        passed_over.unreadable += 1
    return False


def _looks_like_video(path: str) -> bool:
    """Whether a file is a video by its suffix, or by how it begins.

    Raises:
        OSError: Its suffix does not tell, and it may not be read.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix in VIDEO_SUFFIXES:
        return True
    if suffix in _NO_VIDEO:
        return False
    status = os.stat(path)
    return stat.S_ISREG(status.st_mode) and _begins_like_video(path, status.st_size, status.st_mtime_ns)


@lru_cache(_SNIFFED_FILES)
def _begins_like_video(path: str, size: int, mtime_ns: int) -> bool:
    with open(path, "rb") as file:
        return _VIDEO_HEAD.match(file.read(_HEAD_BYTES)) is not None
