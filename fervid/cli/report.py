"""The command `report`: make an HTML page from the results of other commands."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fervid.cli import format_examples
from fervid.cli.flags import (
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
)
from fervid.cli.options import build_limits, build_options, plan_workers
from fervid.core.errors import UsageError

if TYPE_CHECKING:
    from fervid.analysis.highlights import ClipHighlights
    from fervid.analysis.options import Options
    from fervid.core.progress import Progress
    from fervid.core.worker_process import Limits
    from fervid.render.result_reader import TimelineRun

report_app = typer.Typer()


@report_app.command(
    epilog=format_examples(
        "fervid report results.jsonl -o report.html",
        "fervid report windows.jsonl -o clip.html --thumbnails",
        "fervid report evaluation.json -o evaluation.html",
    )
)
def report(
    results: Annotated[
        Path,
        typer.Argument(help="Results file from classify, timeline or evaluate (.jsonl, .json, .csv, .parquet)."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Output file, .html.")],
    force: Force = False,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain/--no-explain",
            help="Show which features contributed to each label (timelines only); reads the clips again.",
        ),
    ] = True,
    thumbnails: Annotated[
        bool,
        typer.Option("--thumbnails", help="Show a frame for each label (timelines only). Faces are personal data."),
    ] = False,
    fps: Fps = None,
    every_frame: EveryFrame = False,
    rotate: Rotate = "auto",
    stream: Stream = None,
    aspect: Aspect = None,
    face: WhichFace = "main",
    min_face: MinFace = None,
    classifier: Annotated[
        str | None, typer.Option("--classifier", help="Classifier file used for the run, if not a shipped one.")
    ] = None,
    face_model: Annotated[
        str | None, typer.Option("--face-model", help="Face model file used for the run, if not a shipped one.")
    ] = None,
    detector: Annotated[
        str | None, typer.Option("--detector", help="Face detector file used for the run, if not a shipped one.")
    ] = None,
    timeout: Timeout = None,
    memory: Memory = None,
    progress: ProgressMode = "auto",
) -> None:
    """Make an HTML report of a run, of timelines or of an evaluation, as one file without external resources.

    For a timeline, the clips are read again to explain the labels: repeat the options of that run, e.g. --fps and
    --face.
    """
    from fervid import __version__
    from fervid.core.atomic_io import atomic_write, check_overwrite
    from fervid.core.progress import Summary
    from fervid.render.html_report import check_dependencies, render_html
    from fervid.render.result_reader import ClassificationRun, TimelineRun, load_results

    if thumbnails and not explain:
        raise UsageError("--thumbnails cannot be combined with --no-explain; drop one")
    if os.path.realpath(output) == os.path.realpath(results):
        raise UsageError(f"-o {output} would overwrite the results; use another name")
    check_overwrite(output, force=force)
    check_dependencies()
    options = build_options(
        fps=fps, every_frame=every_frame, rotate=rotate, stream=stream, aspect=aspect, face=face, min_face=min_face
    )
    run, highlights = load_results(results), {}
    summary = Summary(
        "clip" if isinstance(run, ClassificationRun) else "window" if isinstance(run, TimelineRun) else "evaluation"
    )
    for name, status in run.statuses():
        summary.add(name, status, failed=False)
    if thumbnails and not isinstance(run, TimelineRun):
        raise UsageError(f"--thumbnails needs the results of `fervid timeline`, and {results} has none; drop it")
    if explain and isinstance(run, TimelineRun):
        files = {"classifier": classifier, "face_model": face_model, "detector": detector}
        highlights = _find_highlights(run, files, options, thumbnails, build_limits(timeout, memory), progress)
    page = render_html(run, results.name, highlights, __version__)
    with atomic_write(output, force=force) as file:
        file.write(page)
    summary.log(output, progress, "the report is")


def _find_highlights(
    run: TimelineRun,
    files: Mapping[str, str | None],
    options: Options,
    thumbnails: bool,
    limits: Limits,
    progress: Progress,
) -> dict[str, ClipHighlights]:
    """Analyse the clips of a timeline again, in worker processes, and return the highlights by path."""
    from fervid.analysis.highlights import find_highlights
    from fervid.core.progress import track_clips

    jobs, threads = plan_workers(len(run.clips), None, None)
    models = {role: file for role, file in files.items() if file}
    clips = find_highlights(
        run.clips, models, options, thumbnails=thumbnails, jobs=jobs, threads=threads, limits=limits
    )
    return dict(track_clips(clips, len(run.clips), progress, lambda clip: bool(clip[1].note)))
