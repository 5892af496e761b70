"""The command that makes a page of what other commands wrote."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fervid.cli.options import (
    Aspect,
    EveryFrame,
    Force,
    Fps,
    Memory,
    MinFace,
    Rotate,
    Show,
    Stream,
    Timeout,
    WhichFace,
    limits_of,
    options_of,
    setting,
    workers,
)
from fervid.core.errors import UsageError

if TYPE_CHECKING:
    from fervid.analysis.extractor import Options
    from fervid.analysis.highlights import Again
    from fervid.core.progress import Progress
    from fervid.core.worker_pool import Limits
    from fervid.render.result_reader import Timelines

report_app = typer.Typer()


@report_app.command(
    epilog="Examples: `fervid report results.jsonl -o report.html`, `fervid report windows.jsonl -o clip.html"
    " --thumbnails`, `fervid report evaluation.json -o evaluation.html`"
)
def report(
    results: Annotated[
        Path, typer.Argument(help="What classify -o, timeline -o or evaluate --format json wrote, but no table.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The page to write.")],
    force: Force = False,
    explain: Annotated[
        bool, setting("--explain/--no-explain", "Of a timeline: read the clips again and tell what spoke for a label.")
    ] = True,
    thumbnails: Annotated[
        bool,
        setting("--thumbnails/--no-thumbnails", "Of a timeline: show a frame for each label. Faces are personal data."),
    ] = False,
    fps: Fps = None,
    every_frame: EveryFrame = False,
    rotate: Rotate = "auto",
    stream: Stream = None,
    aspect: Aspect = None,
    face: WhichFace = "main",
    min_face: MinFace = None,
    classifier: Annotated[
        str | None, setting("--classifier", "The file that answered, if it is no shipped one.")
    ] = None,
    network: Annotated[str | None, setting("--network", "Likewise.")] = None,
    detector: Annotated[str | None, setting("--detector", "Likewise.")] = None,
    timeout: Timeout = None,
    memory: Memory = None,
    progress: Show = "auto",
) -> None:
    """Make a page to look at: of a run, of the timelines of clips, or of an evaluation; one file, no network.

    To tell what spoke for a label, clips of a timeline are read again: give --fps, --face and the like as they were.
    """
    from fervid import __version__
    from fervid.core.atomic_io import refuse_existing, replacing
    from fervid.render.html_report import page, ready
    from fervid.render.result_reader import Timelines, read

    if thumbnails and not explain:
        raise UsageError("--thumbnails reads the clips again, which --no-explain forbids; leave one of them out")
    if os.path.realpath(output) == os.path.realpath(results):
        raise UsageError(f"the page {output} would overwrite the results; choose another name")
    refuse_existing(output, force=force)
    ready()
    options = options_of(
        fps=fps, every_frame=every_frame, rotate=rotate, stream=stream, aspect=aspect, face=face, min_face=min_face
    )
    found, again = read(results), {}
    if thumbnails and not isinstance(found, Timelines):
        raise UsageError(f"--thumbnails shows moments of a timeline, and {results} holds none; leave it out")
    if explain and isinstance(found, Timelines):
        files = {"classifier": classifier, "network": network, "detector": detector}
        again = _again(found, files, options, thumbnails, limits_of(timeout, memory), progress)
    made = page(found, results.name, again, __version__)
    with replacing(output, force=force) as file:
        file.write(made)


def _again(
    found: Timelines,
    files: Mapping[str, str | None],
    options: Options,
    thumbnails: bool,
    limits: Limits,
    progress: Progress,
) -> dict[str, Again]:
    """What looking at the clips again shows, in processes that they may bring down."""
    from fervid.analysis.highlights import again
    from fervid.core.progress import shown

    jobs, threads = workers(len(found.clips), None, None)
    named = {role: file for role, file in files.items() if file}
    parts = again(found.clips, named, options, thumbnails=thumbnails, jobs=jobs, threads=threads, limits=limits)
    return dict(shown(parts, len(found.clips), progress, lambda part: bool(part[1].note)))
