"""Collection of the inputs of a command, from its arguments and from a list."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from fervid.core.errors import NoInputsFound, UsageError


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
