"""The flags that several commands share, as annotated types, with their parsers and shell completion."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer


def parse_seconds(text: str | float) -> float:
    """Convert `12.5`, `12.5s` or `00:01:12.5` to seconds.

    Raises:
        typer.BadParameter: The text is no time, or a negative or infinite one.
    """
    parts = str(text).removesuffix("s").split(":")
    try:
        values = [float(part) for part in parts]
        if len(values) > 3 or min(values) < 0 or not max(values) < float("inf"):
            raise ValueError
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a time; use 12.5, 12.5s or 00:01:12.5") from None
    return sum(value * 60.0**power for power, value in enumerate(reversed(values)))


def parse_ratio(text: str | float) -> float:
    """Convert `16:9` or `1.78` to width divided by height.

    Raises:
        typer.BadParameter: The text is no ratio.
    """
    try:
        width, _, height = str(text).partition(":")
        return float(width) / float(height or 1)
    except (ValueError, ZeroDivisionError):
        raise typer.BadParameter(f"{text!r} is not an aspect ratio; use 16:9 or 1.78") from None


def complete_model_names(*kinds: str, shipped: bool = True) -> Any:
    """Return a function that completes the name of a model in a shell.

    Args:
        kinds: Kinds of models to offer; all kinds if none is given.
        shipped: Whether to offer the shipped models as well as those that can be downloaded.
    """

    def complete(incomplete: str) -> list[str]:
        from fervid.models.registry import manifest

        entries = {**(manifest() if shipped else {}), **manifest("optional")}
        names = (name for name, entry in entries.items() if not kinds or entry["kind"] in kinds)
        return [name for name in names if name.startswith(incomplete)]

    return complete


Recursive = Annotated[bool, typer.Option("--recursive", help="Search folders recursively.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an existing output.")]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Continue an existing JSON Lines or parquet output; finished clips are skipped."),
]
Rotate = Annotated[
    Literal["auto", "0", "90", "180", "270"],
    typer.Option("--rotate", help="Rotate frames clockwise, in degrees; auto uses the rotation stored in the file."),
]
WhichFace = Annotated[
    Literal["main", "all"], typer.Option("--face", help="Classify the main person, or all faces pooled together.")
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        envvar="FERVID_JOBS",
        help="Clips processed in parallel, each in its own process. Default: number of CPUs.",
        min=1,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", help="Threads per clip, for the decoder and the models. Default: CPUs / jobs.", min=1),
]
ProgressMode = Annotated[
    Literal["auto", "bar", "none", "json"],
    typer.Option("--progress", help="Progress display on stderr; auto shows a bar on a terminal."),
]
Adaptive = Annotated[
    bool, typer.Option("--adaptive", help="Analyse few frames first, and stop early once the classifier is confident.")
]
Labels = Annotated[
    str | None,
    typer.Option(
        "--labels", help="Comma-separated labels to allow, e.g. anger,neutral. 7 = all emotions except contempt."
    ),
]
