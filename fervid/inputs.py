"""What the user names -> the clips that are meant: files, folders, globs, lists, and URLs of all of these."""

from __future__ import annotations

import codecs
import glob
import os
import re
from collections.abc import Iterable, Iterator

from fervid import remote
from fervid.errors import NothingMatched, UsageError

SUFFIXES = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov"}
    | {".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"}
)
"""What counts as a video when a folder is searched. A file that is named is opened whatever its suffix."""

_QUOTED = re.compile(rb"\A([\"'])(.*)\1\Z", re.DOTALL)


def expand(named: Iterable[str], *, recursive: bool = False, urls: bool = False) -> list[str]:
    """Every clip that is meant, once, in the order in which it was named; what a folder or glob holds is sorted.

    A folder stands for its videos, by suffix; a file for itself, whatever its suffix and whether it exists or not; a
    glob that the shell left alone for what it matches, or for its own name if that is nothing. Two names of one file,
    by a symbolic link say, count once.

    Args:
        named: Files, folders and globs.
        recursive: Whether to search the folders within folders.
        urls: Whether names like s3://bucket/folder/ mean files on other file systems. One with the suffix of a video
            stands for itself without asking, because a list of them may be long.

    Raises:
        UsageError: A file system cannot be reached.
        NothingMatched: Nothing was named, or nothing was found there.
    """
    found = {name: _meant(name, recursive, urls) for name in named}
    if not any(found.values()):
        if not found:
            raise NothingMatched("no input was named; give files, folders or globs, or a list with --from-file")
        hint = "" if recursive else "; --recursive searches the folders within"
        raise NothingMatched(f"no video was found in {', '.join(found)}{hint}")
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


def _meant(name: str, recursive: bool, urls: bool) -> list[str]:
    if os.path.isdir(name):
        return sorted(videos(name, recursive=recursive))
    if urls and remote.is_url(name):
        if remote.is_pattern(name):
            return remote.found(name)
        if remote.suffix(name) in SUFFIXES or (found := remote.found(name, recursive=recursive)) == [name]:
            return [name]
        return [path for path in found if remote.suffix(path) in SUFFIXES]
    if _is_glob(name):
        return sorted(path for path in glob.glob(name, recursive=True) if not os.path.isdir(path))
    return [name]


def _is_glob(name: str) -> bool:
    if remote.is_url(name):
        return remote.is_pattern(name)
    return glob.has_magic(name) and not os.path.lexists(name)


def videos(folder: str, *, recursive: bool) -> Iterator[str]:
    """The videos in a folder, by suffix; of folders that cannot be read none, and nothing that is hidden (`._a.mp4`).

    Args:
        folder: Where to look.
        recursive: Whether to search the folders within, too.
    """
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a symbolic link leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        shown = (file for file in files if not file.startswith("."))
        yield from (os.path.join(place, file) for file in shown if os.path.splitext(file)[1].lower() in SUFFIXES)
