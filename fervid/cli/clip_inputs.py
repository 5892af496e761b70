"""The options that name the inputs of a command, as arguments and in a list."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fervid.cli.flags import Recursive
from fervid.core.errors import NoInputsFound, UsageError

if TYPE_CHECKING:
    from fervid.core.progress import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class InputOptions:
    """Options that name clips."""

    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT...", help="Video files, folders or globs; - reads a live stream from stdin."),
    ] = None
    recursive: Recursive = False
    from_file: Annotated[
        Path | None,
        typer.Option(
            "--from-file", help="Read more inputs from a file, one per line; # starts a comment, - reads from stdin."
        ),
    ] = None
    nul: Annotated[
        bool,
        typer.Option("-0", "--null", help="Entries of --from-file are separated by NUL, as find -print0 writes them."),
    ] = False

    def resolve(self, progress: Progress, *, urls: bool = False) -> list[str]:
        """Return the clips, and write a note about the files that are skipped.

        Args:
            progress: How to write the note.
            urls: Whether inputs may be URLs.

        Raises:
            NoInputsFound: There are no clips.
            UsageError: The list of --from-file cannot be read.
        """
        from fervid.core.progress import note
        from fervid.media.inputs import SkippedFiles, resolve_inputs

        skipped_files = SkippedFiles()
        names = collect_inputs(self.inputs, self.from_file, self.nul)
        clips = resolve_inputs(names, recursive=self.recursive, urls=urls, skipped_files=skipped_files)
        note(str(skipped_files), progress)
        return clips


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveInputOptions(InputOptions):
    """Options that name clips, a stream or a camera."""

    camera: Annotated[
        int | None,
        typer.Option("--camera", help="Classify a live camera instead of files; 0 is the first camera.", min=0),
    ] = None


def collect_inputs(inputs: Sequence[str] | None, from_file: Path | None, null_separated: bool) -> list[str]:
    """Return the inputs of the command line, followed by those of --from-file.

    Raises:
        NoInputsFound: The list is empty, and the command line names no input.
        UsageError: The list cannot be read.
    """
    names = [*(inputs or []), *(_read_list(from_file, null_separated) if from_file else [])]
    if from_file and not names:
        source = "on standard input" if str(from_file) == "-" else str(from_file)
        raise NoInputsFound(f"the list {source} is empty; write a file, folder or glob on each line")
    return names


def _read_list(source: Path, null_separated: bool) -> list[str]:
    from fervid.media.inputs import read_list

    if str(source) == "-" and sys.stdin is None:
        raise UsageError("--from-file - reads from stdin, and stdin is closed; use --from-file FILE")
    try:
        data = sys.stdin.buffer.read() if str(source) == "-" else source.read_bytes()
    except OSError as error:
        raise UsageError(f"--from-file {source}: cannot be read ({error.strerror})") from error
    return read_list(data, nul=null_separated)
