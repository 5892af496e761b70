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
    Limited,
    MinFace,
    Named,
    Rotate,
    Show,
    Start,
    Stream,
    Threads,
    grouped,
    labels_of,
    options_of,
    setting,
    workers,
)
from fervid.core.errors import usage

annotate_app = typer.Typer()


@annotate_app.command(
    epilog="Examples: `fervid annotate clip.mp4 -o out.mp4`, `fervid annotate clip.mov -o out.mp4 --every-frame`"
)
@grouped
def annotate(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="A video.", show_default=False)],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Write the film here, as H.264 in mp4.", show_default=False)
    ],
    window: Annotated[float, setting("--window", "Seconds around a moment that its answer is made of.")] = 2.0,
    step: Annotated[
        float | None, setting("--step", "Seconds from one answer to the next. Default: 0.5 at most.")
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
    progress: Show = "auto",
    *,
    named: Named,
    limited: Limited,
) -> None:
    """Draw what everybody shows into a film: a box, the label and a chart that runs along; sound and times stay."""
    from fervid.analysis.aggregate import Windows
    from fervid.batch.runner import Policy, follow
    from fervid.core.progress import filmed
    from fervid.render import annotate_video

    annotate_video.check(source, output, stream=stream, force=force)
    with usage():
        cut = Windows(window, min(0.5, window) if step is None else step)
    options = options_of(
        fps=fps,
        every_frame=every_frame,
        start=start,
        end=end,
        rotate=rotate,
        stream=stream,
        aspect=aspect,
        min_face=min_face,
        attributes=attributes,
        labels=labels_of(labels),
    )
    jobs, threads = workers(1, None, threads)
    loaded = named.load(options, threads)
    story = follow(loaded, str(source), cut, Policy(jobs, limits=limited.limits))
    with filmed(story.end - story.start, progress) as passed:
        notes = annotate_video.annotate(
            source, output, story, options.sampling, threads=threads, force=force, passed=passed
        )
    for note in notes:
        print(f"fervid: {note}", file=sys.stderr)
