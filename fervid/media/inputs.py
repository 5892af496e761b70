"""Resolution of the inputs that a user names to clips: files, folders, globs, lists, and URLs of these."""

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
"""Suffixes of videos when a folder is searched; a file that is named itself may have any suffix."""

_OTHER_SUFFIXES = (
    ".m4a .m4b .mka .mks .mp3 .oga .opus .wav .wma"  # sound and subtitles, some in the containers of videos
    " .crdownload .download .part .partial .tmp"  # incomplete files
    " .csv .json .jsonl .jpeg .jpg .md .npy .npz .parquet .png .py .srt .txt .xml .yaml .zip"
)
_NO_VIDEO = frozenset(_OTHER_SUFFIXES.split())
"""Suffixes of other files, which are not opened to recognise their format."""
_QUOTED = re.compile(rb"\A([\"'])(.*)\1\Z", re.DOTALL)

_HEADER_BYTES = 4096
_MAX_CACHED_HEADERS = 100_000  # because a watched folder is searched again and again
_VIDEO_HEADER = re.compile(
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
class SkippedFiles:
    """Counts of the files and folders that a search skipped; hidden ones are not counted.

    Attributes:
        files: Files that are not videos.
        unreadable: Files of unknown suffix that cannot be read.
        folders: Subfolders that were not searched.
        advice: What to try to have subfolders searched.
    """

    files: int = 0
    unreadable: int = 0
    folders: int = 0
    advice: str = "; --recursive"

    def __str__(self) -> str:
        parts = [
            (self.files, "file is not a video", "files are not videos"),
            (self.unreadable, "file cannot be read", "files cannot be read"),
            (self.folders, f"folder was not searched{self.advice}", f"folders were not searched{self.advice}"),
        ]
        return ", ".join(f"{count} {singular if count == 1 else plural}" for count, singular, plural in parts if count)


def resolve_inputs(
    names: Iterable[str], *, recursive: bool = False, urls: bool = False, skipped_files: SkippedFiles | None = None
) -> list[str]:
    """List the clips of all inputs, without duplicates, in the order of the inputs.

    A folder stands for its videos, sorted, as `find_videos` finds them. A file stands for itself, whatever its suffix
    and even if it does not exist. A glob stands for its matches, sorted, or for its own name if nothing matches and
    other inputs have clips. A file and a symbolic link to it count once; two hard links are two files.

    Args:
        names: Files, folders and globs.
        recursive: Whether to search subfolders.
        urls: Whether to resolve URLs such as s3://bucket/folder/. A URL with the suffix of a video is not looked up,
            because a list of them may be long.
        skipped_files: Counts the files and folders that are skipped.

    Raises:
        UsageError: A file system cannot be reached.
        NoInputsFound: There are no names, or no clips.
    """
    skipped_files = SkippedFiles() if skipped_files is None else skipped_files
    clips_by_name = {name: _resolve_one(name, recursive, urls, skipped_files) for name in names}
    if not any(clips_by_name.values()):
        if not clips_by_name:
            raise NoInputsFound("no input was named; give files, folders or globs, or a list with --from-file")
        has_glob = any(map(_is_glob, clips_by_name))
        reasons = [str(skipped_files), "check the spelling and the current folder" if has_glob else ""]
        raise NoInputsFound("; ".join([f"no video was found in {', '.join(clips_by_name)}", *filter(None, reasons)]))
    clips: dict[str, str] = {}
    for name, paths in clips_by_name.items():
        for path in paths or ([name] if _is_glob(name) else []):
            clips.setdefault(clip_key(path), path)
    return list(clips.values())


def clip_key(path: str) -> str:
    """Return a name that is the same for all paths of one clip."""
    return path if remote_files.is_url(path) else os.path.normcase(os.path.realpath(path))


def read_list(data: bytes, *, nul: bool = False) -> list[str]:
    """Parse a list of names, one per line or separated by NUL; empty names are dropped.

    In lines, surrounding whitespace and one pair of quotes are removed, and lines that start with `#` are comments. A
    name with these characters must be quoted, or separated by NUL. Names separated by NUL are taken as they are.

    Args:
        data: The content of the list.
        nul: Whether names are separated by NUL.

    Raises:
        UsageError: The list has NUL characters although `nul` is false, or names that the system cannot decode.
    """
    if b"\0" in data and not nul:
        raise UsageError("the list holds NUL characters; add -0, or write one name a line in UTF-8")
    data = data.removeprefix(codecs.BOM_UTF8)
    if nul:
        names = data.split(b"\0")
    else:
        lines = [line.strip() for line in data.splitlines()]
        names = [_QUOTED.sub(rb"\2", line) for line in lines if not line.startswith(b"#")]
    try:
        return [os.fsdecode(name) for name in names if name]
    except UnicodeDecodeError:  # Windows, where names are Unicode
        raise UsageError("the list is not UTF-8; save it in UTF-8") from None


def _resolve_one(name: str, recursive: bool, urls: bool, skipped_files: SkippedFiles) -> list[str]:
    if os.path.isdir(name):
        return sorted(find_videos(name, recursive=recursive, skipped_files=skipped_files))
    if remote_files.is_url(name):
        if not urls:
            return [name]
        if remote_files.is_glob_url(name):
            return remote_files.list_urls(name)
        if remote_files.suffix(name) in VIDEO_SUFFIXES:
            return [name]
        listed = remote_files.list_urls(name, recursive=recursive)
        if listed == [name]:
            return [name]
        return [url for url in listed if remote_files.suffix(url) in VIDEO_SUFFIXES]
    if _is_glob(name):
        return sorted(path for path in glob.glob(name, recursive=True) if not os.path.isdir(path))
    return [name]


def _is_glob(name: str) -> bool:
    if remote_files.is_url(name):
        return remote_files.is_glob_url(name)
    return glob.has_magic(name) and not os.path.lexists(name)


def find_videos(folder: str, *, recursive: bool, skipped_files: SkippedFiles | None = None) -> Iterator[str]:
    """Find the videos in a folder, by suffix, or by header if the suffix is unknown.

    Hidden files and folders, such as `._a.mp4`, are skipped; others that are skipped are counted. A folder that cannot
    be listed is given as if it were a video, so that its clips are reported as unreadable.
    """
    visited: set[str] = set()
    unlisted: list[str] = []
    skipped_files = SkippedFiles() if skipped_files is None else skipped_files
    walk = os.walk(folder, followlinks=True, onerror=lambda error: unlisted.append(error.filename or folder))
    for current, folders, files in walk:
        real_path = os.path.realpath(current)
        if real_path in visited:  # a symbolic link to a parent folder
            folders.clear()
            continue
        visited.add(real_path)
        folders[:] = [name for name in folders if not name.startswith(".")]
        if not recursive:
            skipped_files.folders += len(folders)
            folders.clear()
        for path in (os.path.join(current, file) for file in files if not file.startswith(".")):
            if is_video(path, skipped_files):
                yield path
    yield from unlisted


def is_video(path: str, skipped_files: SkippedFiles) -> bool:
    """Whether a file in a folder is a video, by its suffix, or by its header if the suffix is unknown.

    A file that is no video, or cannot be read, is counted in `skipped_files`.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix in VIDEO_SUFFIXES:
        return True
    try:
        status = os.stat(path) if suffix not in _NO_VIDEO else None
        if status and stat.S_ISREG(status.st_mode) and _has_video_header(path, status.st_size, status.st_mtime_ns):
            return True
        skipped_files.files += 1
    except OSError:
        skipped_files.unreadable += 1
    return False


@lru_cache(_MAX_CACHED_HEADERS)
def _has_video_header(path: str, size: int, mtime_ns: int) -> bool:
    with open(path, "rb") as file:
        return _VIDEO_HEADER.match(file.read(_HEADER_BYTES)) is not None
