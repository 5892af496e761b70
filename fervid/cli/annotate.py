"""The command `annotate`: draw the predictions into a copy of a video."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fervid.cli.commands import add_command
from fervid.cli.flags import Force, Labels, Threads
from fervid.cli.options import ClipOptions, LimitOptions, ModelOptions, plan_workers
from fervid.core.errors import as_usage_error

annotate_app = typer.Typer()


@add_command(annotate_app, "fervid annotate clip.mp4 -o out.mp4", "fervid annotate clip.mov -o out.mp4 --every-frame")
def annotate(
    *,
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="Video file.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="Output file, .mp4 (H.264).", show_default=False)],
    window: Annotated[
        float, typer.Option("--window", help="Window length in seconds for each prediction. Longer is smoother.")
    ] = 2.0,
    step: Annotated[
        float | None,
        typer.Option("--step", help="Seconds between two predictions. Default: 0.5, or the window if that is shorter."),
    ] = None,
    force: Force = False,
    clip: ClipOptions,
    labels: Labels = None,
    models: ModelOptions,
    run: LimitOptions,
    threads: Threads = None,
) -> None:
    """Draw the predictions into a copy of a video: face boxes, labels and a running chart.

    Sound and timestamps are kept.
    """
    from fervid.analysis.windows import WindowSpec
    from fervid.batch.runner import RunConfig, build_timeline
    from fervid.core.progress import Summary, track_seconds
    from fervid.render import annotate_video

    annotate_video.validate_target(source, output, stream=clip.stream, force=force)
    with as_usage_error():
        window_spec = WindowSpec(window, min(0.5, window) if step is None else step)
    options = clip.build(labels=labels)
    summary = Summary("clip")
    jobs, threads = plan_workers(1, None, threads)
    classifier = models.load(options, threads)
    timeline = build_timeline(classifier, str(source), window_spec, RunConfig(jobs, limits=run.limits))
    with track_seconds(timeline.end - timeline.start, run.progress) as on_progress:
        notes = annotate_video.annotate(
            source, output, timeline, options.sampling, threads=threads, force=force, on_progress=on_progress
        )
    for note in notes:
        print(f"fervid: {note}", file=sys.stderr)
    summary.add(str(source), "ok" if timeline.people else "no_face", failed=False)
    summary.log(output, run.progress, "the video is")
