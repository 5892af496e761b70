"""Write the windows of each clip to a file of its own, for ELAN or as subtitles."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fervid.core.atomic_io import as_output_error, atomic_write, check_overwrite
from fervid.core.errors import UsageError
from fervid.core.progress import log
from fervid.core.results import WindowResult
from fervid.render.elan import render_eaf
from fervid.render.subtitles import render_webvtt

RENDERERS: Mapping[str, Callable[[Sequence[WindowResult]], bytes]] = {"eaf": render_eaf, "vtt": render_webvtt}


def file_format(format: str | None, output: Path | None) -> str | None:
    """Return the format if it is one of `RENDERERS`; without a format, that of the suffix of the output."""
    name = format or (output.suffix.lower().removeprefix(".") if output else "")
    return name if name in RENDERERS else None


def make_clip_file_writer(
    clips: Sequence[str], format: str, output: Path | None, *, force: bool
) -> Callable[[Sequence[WindowResult]], None]:
    """Return a function that writes the windows of one clip to its file, and its errors to standard error.

    A clip that cannot be read has no windows and gets no file.

    Args:
        clips: The clips.
        format: One of `RENDERERS`.
        output: As for `plan_files`; None to write a single clip to standard output.
        force: Whether existing files may be replaced.

    Raises:
        UsageError: Several clips would be written to one file.
        OutputError: A file exists.
    """
    if output is None and len(clips) > 1:
        raise UsageError(f"--format {format} writes a file for each clip; name a folder with -o FOLDER")
    files = plan_files(clips, format, output, force=force) if output else {}

    def write(windows: Sequence[WindowResult]) -> None:
        for message in dict.fromkeys(window.error.message for window in windows if window.error):
            log(message)
        if all(window.start_s is None for window in windows):
            return
        content = RENDERERS[format](windows)
        if file := files.get(windows[0].path):
            with as_output_error(file):
                file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(file, force=force) as stream:
                stream.write(content)
        else:
            sys.stdout.buffer.write(content)

    return write


def plan_files(clips: Sequence[str], format: str, output: Path, *, force: bool) -> dict[str, Path]:
    """Return the file of each clip, which has the clip's name and the suffix of the format.

    Files in a folder keep the subfolders that the clips have below their common folder.

    Args:
        clips: The clips.
        format: The suffix of the files, without the dot.
        output: A file with that suffix, for one clip; otherwise a folder, which need not exist.
        force: Whether existing files may be replaced.

    Raises:
        UsageError: Several clips would be written to one file.
        OutputError: A file exists.
    """
    suffix = f".{format}"
    if output.suffix.lower() == suffix and not output.is_dir():
        if len(clips) > 1:
            raise UsageError(f"{output} holds one clip, and {len(clips)} were given; use --format {format} -o FOLDER")
        files = {clips[0]: output}
    else:
        paths = {clip: Path(os.path.abspath(clip)) for clip in clips}
        common = os.path.commonpath([path.parent for path in paths.values()])
        files = {clip: output / path.relative_to(common).with_suffix(suffix) for clip, path in paths.items()}
    owners: dict[Path, str] = {}
    for clip, file in files.items():
        if (owner := owners.setdefault(file, clip)) != clip:
            raise UsageError(f"{owner} and {clip} would both be written to {file}; give each a folder of its own")
        check_overwrite(file, force=force)
    return files
