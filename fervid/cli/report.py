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
    ProgressMode,
    Rotate,
    Stream,
    Timeout,
    WhichFace,
    build_limits,
    build_options,
    env_option,
    plan_workers,
)
from fervid.core.errors import UsageError

if TYPE_CHECKING:
    from fervid.analysis.extractor import Options
    from fervid.analysis.highlights import ClipHighlights
    from fervid.core.progress import Progress
    from fervid.core.worker_pool import Limits
    from fervid.render.result_reader import TimelineRun

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
        bool,
        env_option("--explain/--no-explain", "Of a timeline: read the clips again and tell what spoke for a label."),
    ] = True,
    thumbnails: Annotated[
        bool,
        env_option(
            "--thumbnails/--no-thumbnails", "Of a timeline: show a frame for each label. Faces are personal data."
        ),
    ] = False,
    fps: Fps = None,
    every_frame: EveryFrame = False,
    rotate: Rotate = "auto",
    stream: Stream = None,
    aspect: Aspect = None,
    face: WhichFace = "main",
    min_face: MinFace = None,
    classifier: Annotated[
        str | None, env_option("--classifier", "The file that answered, if it is no shipped one.")
    ] = None,
    network: Annotated[str | None, env_option("--network", "Likewise.")] = None,
    detector: Annotated[str | None, env_option("--detector", "Likewise.")] = None,
    timeout: Timeout = None,
    memory: Memory = None,
    progress: ProgressMode = "auto",
) -> None:
    """Make a page to look at: of a run, of the timelines of clips, or of an evaluation; one file, no network.

    To tell what spoke for a label, clips of a timeline are read again: give --fps, --face and the like as they were.
    """
    from fervid import __version__
    from fervid.core.atomic_io import atomic_write, check_overwrite
    from fervid.core.progress import Summary
    from fervid.render.html_report import check_dependencies, render_html
    from fervid.render.result_reader import ClassificationRun, TimelineRun, load_results

    if thumbnails and not explain:
        raise UsageError("--thumbnails reads the clips again, which --no-explain forbids; leave one of them out")
    if os.path.realpath(output) == os.path.realpath(results):
        raise UsageError(f"the page {output} would overwrite the results; choose another name")
    check_overwrite(output, force=force)
    check_dependencies()
    options = build_options(
        fps=fps, every_frame=every_frame, rotate=rotate, stream=stream, aspect=aspect, face=face, min_face=min_face
    )
    found, again = load_results(results), {}
    summary = Summary(
        "clip" if isinstance(found, ClassificationRun) else "window" if isinstance(found, TimelineRun) else "evaluation"
    )
    for name, status in found.statuses():
        summary.add(name, status, failed=False)
    if thumbnails and not isinstance(found, TimelineRun):
        raise UsageError(f"--thumbnails shows moments of a timeline, and {results} holds none; leave it out")
    if explain and isinstance(found, TimelineRun):
        files = {"classifier": classifier, "network": network, "detector": detector}
        again = _highlights(found, files, options, thumbnails, build_limits(timeout, memory), progress)
    made = render_html(found, results.name, again, __version__)
    with atomic_write(output, force=force) as file:
        file.write(made)
    summary.tell(output, progress, "the page is")


def _highlights(
    found: TimelineRun,
    files: Mapping[str, str | None],
    options: Options,
    thumbnails: bool,
    limits: Limits,
    progress: Progress,
) -> dict[str, ClipHighlights]:
    """What looking at the clips again shows, in processes that they may bring down."""
    from fervid.analysis.highlights import find_highlights
    from fervid.core.progress import track_clips

    jobs, threads = plan_workers(len(found.clips), None, None)
    named = {role: file for role, file in files.items() if file}
    parts = find_highlights(
        found.clips, named, options, thumbnails=thumbnails, jobs=jobs, threads=threads, limits=limits
    )
    return dict(track_clips(parts, len(found.clips), progress, lambda part: bool(part[1].note)))
