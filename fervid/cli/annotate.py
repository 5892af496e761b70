"""The command that draws what a clip shows into the clip."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fervid.cli.options import (
    Aspect,
    Attributes,
    End,
    EveryFrame,
    Force,
    Fps,
    Labels,
    LimitOptions,
    MinFace,
    ModelOptions,
    ProgressMode,
    Rotate,
    Start,
    Stream,
    Threads,
    build_options,
    env_option,
    expand_option_groups,
    parse_labels,
    plan_workers,
)
from fervid.core.errors import usage

annotate_app = typer.Typer()


@annotate_app.command(
    epilog="Examples: `fervid annotate clip.mp4 -o out.mp4`, `fervid annotate clip.mov -o out.mp4 --every-frame`"
)
@expand_option_groups
def annotate(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="A video.", show_default=False)],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Write the film here, as H.264 in mp4.", show_default=False)
    ],
    window: Annotated[float, env_option("--window", "Seconds around a moment that its answer is made of.")] = 2.0,
    step: Annotated[
        float | None, env_option("--step", "Seconds from one answer to the next. Default: 0.5 at most.")
    ] = None,
    force: Force = False,
    fps: Fps = None,
    every_frame: EveryFrame = False,
    start: Start = 0.0,
    end: End = None,
    rotate: Rotate = "auto",
    stream: Stream = None,
    aspect: Aspect = None,
    min_face: MinFace = None,
    attributes: Attributes = False,
    labels: Labels = None,
    threads: Threads = None,
    progress: ProgressMode = "auto",
    *,
    named: ModelOptions,
    limited: LimitOptions,
) -> None:
    """Draw what everybody shows into a film: a box, the label and a chart that runs along; sound and times stay."""
    from fervid.analysis.aggregate import WindowSpec
    from fervid.batch.runner import RunConfig, build_timeline
    from fervid.core.progress import Summary, track_seconds
    from fervid.render import annotate_video

    annotate_video.validate_target(source, output, stream=stream, force=force)
    with usage():
        cut = WindowSpec(window, min(0.5, window) if step is None else step)
    options = build_options(
        fps=fps,
        every_frame=every_frame,
        start=start,
        end=end,
        rotate=rotate,
        stream=stream,
        aspect=aspect,
        min_face=min_face,
        attributes=attributes,
        labels=parse_labels(labels),
    )
    summary = Summary("clip")
    jobs, threads = plan_workers(1, None, threads)
    loaded = named.load(options, threads)
    story = build_timeline(loaded, str(source), cut, RunConfig(jobs, limits=limited.limits))
    with track_seconds(story.end - story.start, progress) as passed:
        notes = annotate_video.annotate(
            source, output, story, options.sampling, threads=threads, force=force, passed=passed
        )
    for note in notes:
        print(f"fervid: {note}", file=sys.stderr)
    summary.add(str(source), "ok" if story.people else "no_face", failed=False)
    summary.tell(output, progress, "the film is")
