"""Files and folders of labelled clips."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator
from pathlib import Path

from fervid.core.errors import DatasetError
from fervid.media.inputs import SkippedFiles, is_video

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_MAX_PATTERN_LENGTH = 1000  # matching a longer pattern could take minutes


def frame_files(path: Path) -> list[Path]:
    """List the files of a clip: a video itself, the images in a folder, or the images that match a pattern.

    The list is empty if nothing exists at the path.

    Raises:
        DatasetError: The folder cannot be read.
    """
    if os.path.isdir(path):
        return _list_images(path, "*")
    if os.path.isfile(path):
        return [path]
    if len(path.name) < _MAX_PATTERN_LENGTH and os.path.isdir(path.parent):
        return _list_images(path.parent, path.name)
    return []


def read_text(path: Path, hint: str) -> str:
    """Read a list or an annotation file as UTF-8.

    Raises:
        DatasetError: The file cannot be read or is not text; the message ends with the hint.
    """
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}); {hint}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DatasetError(f"{path}:{line} is not UTF-8 text; {hint}") from error
    if b"\0" in data:
        raise DatasetError(f"{path}:{data[: data.index(0)].count(10) + 1} contains a NUL character; {hint}")
    return text


def list_names(folder: Path) -> list[str]:
    """List a folder without hidden entries (`.git`, `._a.mp4`).

    Raises:
        DatasetError: The folder cannot be read.
    """
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as error:
        raise DatasetError(f"{folder} cannot be read ({error.strerror}); check its permissions and its disk") from error


def _list_images(folder: Path, pattern: str) -> list[Path]:
    names = (
        name for name in fnmatch.filter(list_names(folder), pattern) if Path(name).suffix.lower() in IMAGE_SUFFIXES
    )
    return [folder / name for name in sorted(names, key=_natural_key)]


def _natural_key(name: str) -> list[tuple[int, str]]:
    """Return a sort key that puts `face_10` after `face_9`."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def list_folders(folder: Path) -> list[Path]:
    """List the folders in a folder, sorted."""
    return [folder / name for name in sorted(list_names(folder)) if os.path.isdir(folder / name)]


def walk(folder: Path, depth: int) -> Iterator[Path]:
    """Yield a folder and the folders in it, down to a depth, because symbolic links may form a loop."""
    yield folder
    if depth:
        for inner in list_folders(folder):
            yield from walk(inner, depth - 1)


def list_clips(folder: Path, skipped_files: SkippedFiles | None = None) -> list[Path]:
    """List the videos and the image folders in a folder, and count everything else in `skipped_files`."""
    skipped_files = SkippedFiles() if skipped_files is None else skipped_files
    clips = []
    for path in (folder / name for name in sorted(list_names(folder))):
        if not os.path.isdir(path):
            is_clip = is_video(str(path), skipped_files)
        elif not (is_clip := bool(_list_images(path, "*"))):
            skipped_files.folders += 1
        if is_clip:
            clips.append(path)
    return clips


def read_fields(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield `FILE:LINE` and the fields, separated by commas or blanks, of each line of an annotation file.

    Raises:
        DatasetError: The file cannot be read or is not text.
    """
    text = read_text(path, "unpack the annotations of the data set to this path")
    for number, line in enumerate(text.split("\n"), 1):
        if fields := line.replace(",", " ").split():
            yield f"{path}:{number}", fields
