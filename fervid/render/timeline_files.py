"""Write the windows of each clip to a file of its own, for ELAN or as subtitles (WebVTT)."""

from __future__ import annotations

import html
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fervid.core.atomic_io import as_output_error, atomic_write, check_overwrite
from fervid.core.errors import UsageError
from fervid.core.progress import log
from fervid.core.results import WindowResult
from fervid.core.text import escape_control_chars
from fervid.render.elan import render_eaf
from fervid.render.person_spans import label_spans


def render_webvtt(windows: Sequence[WindowResult]) -> bytes:
    """Render the windows of one clip as WebVTT: a cue with label and confidence for each time span of a label.

    If there are several people, each cue starts with the number of the person.
    """
    people = label_spans(windows)
    cues = sorted(
        ((span, f"person {person}: " if len(people) > 1 else "") for person, spans in people.items() for span in spans),
        key=lambda cue: cue[0].start_ms,
    )
    blocks = ["WEBVTT"]
    for span, prefix in cues:
        label = html.escape(escape_control_chars(span.label), quote=False)
        times = f"{_timestamp(span.start_ms)} --> {_timestamp(span.end_ms)}"
        blocks.append(f"{times}\n{prefix}{label} {span.confidence:.2f}")
    return ("\n\n".join(blocks) + "\n").encode()


def _timestamp(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{rest:03}"


RENDERERS: Mapping[str, Callable[[Sequence[WindowResult]], bytes]] = {"eaf": render_eaf, "vtt": render_webvtt}


def file_format(format: str | None, output: Path | None) -> str | None:
    """Return the format if it is one of `RENDERERS`; without a format, that of the suffix of the output."""
    name = format or (output.suffix.lower().removeprefix(".") if output else "")
    return name if name in RENDERERS else None


def make_clip_file_writer(
    clips: Sequence[str], format: str, output: Path | None, *, force: bool
) -> Callable[[Sequence[WindowResult]], None]:
    """Return a function that writes the windows of one clip to its file, and its errors to standard error.

    A clip that cannot be read has no windows and gets no file. The format is one of `RENDERERS`. `output` is as for
    `plan_files`, or None to write a single clip to standard output.

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

    `output` is a file with that suffix, for one clip, or a folder, which need not exist. Files in a folder keep the
    subfolders that the clips have below their common folder.

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
