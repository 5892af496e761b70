"""The commands that look at clips: one answer for each, or one for each of its windows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fervid.commands import FAILED, OK, examples
from fervid.commands.live import follow, is_live
from fervid.commands.options import (
    Adaptive,
    Address,
    Attributes,
    Camera,
    ClipForm,
    Engine,
    ExitZero,
    FailFast,
    Force,
    Form,
    FromFile,
    Inputs,
    Jobs,
    Labels,
    Limited,
    Look,
    Named,
    Null,
    Output,
    Recursive,
    Resume,
    Show,
    Strict,
    Target,
    Threads,
    grouped,
    prepare,
    setting,
    workers,
)
from fervid.errors import NothingMatched, UsageError, usage

if TYPE_CHECKING:
    from fervid.batch import Policy
    from fervid.output import Writer
    from fervid.pipeline import Classifier
    from fervid.progress import Progress
    from fervid.records import ClipResult, Status, WindowResult

clips_app = typer.Typer()


@clips_app.command(
    epilog=examples(
        "fervid classify clip.mp4",
        "fervid classify videos/ --recursive -o results.jsonl --resume",
        "ffmpeg -i rtsp://camera/1 -c copy -f mpegts - | fervid classify -",
    )
)
@grouped
def classify(
    inputs: Inputs = None,
    camera: Camera = None,
    recursive: Recursive = False,
    from_file: FromFile = None,
    nul: Null = False,
    output: Target = None,
    format: ClipForm = None,
    force: Force = False,
    resume: Resume = False,
    attributes: Attributes = False,
    adaptive: Adaptive = False,
    labels: Labels = None,
    jobs: Jobs = None,
    threads: Threads = None,
    engine: Engine = "local",
    address: Address = None,
    progress: Show = "auto",
    fail_fast: FailFast = False,
    exit_zero: ExitZero = False,
    strict: Strict = False,
    *,
    look: Look,
    named: Named,
    limited: Limited,
) -> None:
    """Say which emotion each clip shows: one record per clip, whatever happens to it.

    A stream on standard input (-) or a camera has a record for each window as it happens, as with `fervid timeline`.
    """
    cluster = engine == "ray"
    if address and not cluster:
        raise UsageError("--address names a Ray cluster; add --engine ray")
    unfit = {
        "--from-file": from_file,
        "--resume": resume,
        "--start": look.start,
        "--end": look.end,
        "--adaptive": adaptive,
    }
    live = is_live(inputs, camera, {**unfit, "--engine ray": cluster})
    if not cluster and not live:
        prepare()
    from fervid.batch import Policy, destination
    from fervid.gather import Windows
    from fervid.inputs import expand

    options = look.options(attributes=attributes, labels=labels, adaptive=adaptive)
    if live:
        failed = follow(
            camera,
            Windows(),
            options,
            output=output,
            format=format,
            force=force,
            threads=threads,
            progress=progress,
            strict=strict,
            named=named,
        )
        raise typer.Exit(FAILED if failed and not exit_zero else OK)
    clips = expand(_names(inputs, from_file, nul), recursive=recursive, urls=cluster)
    if not cluster:
        jobs, threads = workers(len(clips), jobs, threads)
    loaded = named.load(options, threads, device="cpu" if cluster else None)
    policy = Policy(jobs or 0, fail_fast, strict, limited.limits)
    with (
        _engine(engine, loaded, policy, address=address, jobs=jobs, threads=threads, device=named.device) as answer,
        destination(output, format, loaded, clips, resume=resume, force=force) as (writer, answered),
    ):
        failures = _run(answer, clips, policy, writer, answered, progress)
    raise typer.Exit(FAILED if failures and not exit_zero else OK)


@clips_app.command(
    epilog=examples(
        "fervid timeline clip.mp4",
        "fervid timeline videos/ --window 2 --step 0.5 -o windows.csv",
        "fervid timeline --camera 0 --window 2",
    )
)
@grouped
def timeline(
    inputs: Inputs = None,
    camera: Camera = None,
    window: Annotated[float, setting("--window", "Seconds that a window lasts.")] = 4.0,
    step: Annotated[
        float | None, setting("--step", "Seconds from the start of a window to that of the next. Default: 1 at most.")
    ] = None,
    recursive: Recursive = False,
    from_file: FromFile = None,
    nul: Null = False,
    output: Output = None,
    format: Form = None,
    force: Force = False,
    attributes: Attributes = False,
    labels: Labels = None,
    jobs: Jobs = None,
    threads: Threads = None,
    progress: Show = "auto",
    exit_zero: ExitZero = False,
    strict: Strict = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the windows of one clip too: a .png, .svg or .pdf.")
    ] = None,
    *,
    look: Look,
    named: Named,
    limited: Limited,
) -> None:
    """Say which emotion each window of a clip shows: one record per window, in order.

    A stream on standard input (-) or a camera is followed until it ends: one record per window as it happens.
    """
    unfit = {"--from-file": from_file, "--start": look.start, "--end": look.end, "--plot": plot}
    live = is_live(inputs, camera, unfit)
    if not live:
        prepare()
    from fervid.batch import Policy, destination, timelines
    from fervid.gather import Windows
    from fervid.inputs import expand
    from fervid.progress import shown
    from fervid.records import WindowResult

    with usage():
        cut = Windows(window, min(1.0, window) if step is None else step)
    options = look.options(attributes=attributes, labels=labels)
    if live:
        failed = follow(
            camera,
            cut,
            options,
            output=output,
            format=format,
            force=force,
            threads=threads,
            progress=progress,
            strict=strict,
            named=named,
        )
        raise typer.Exit(FAILED if failed and not exit_zero else OK)
    clips = expand(_names(inputs, from_file, nul), recursive=recursive)
    draw = _drawing(plot, clips, output, force)
    jobs, threads = workers(len(clips), jobs, threads)
    loaded = named.load(options, threads)
    policy, failures = Policy(jobs, strict=strict, limits=limited.limits), 0
    results = shown(timelines(loaded, clips, cut, policy), len(clips), progress, policy.any_failed)
    with destination(output, format, loaded, clips, force=force, record=WindowResult) as (writer, _), closing(results):
        for parts in results:
            failures += policy.any_failed(parts)
            for part in parts:
                writer.write(part)
            draw(parts)
    raise typer.Exit(FAILED if failures and not exit_zero else OK)


def _engine(
    name: str, loaded: Classifier, policy: Policy, **cluster: Any
) -> AbstractContextManager[Callable[[list[str]], Iterable[ClipResult]]]:
    """What gives one record per clip, as long as the block lasts."""
    if name == "ray":
        from fervid.ray_engine import answering

        return answering(loaded, policy, **cluster)
    from fervid.batch import answer_all

    return nullcontext(lambda clips: answer_all(loaded, clips, policy))


def _run(
    answer: Callable[[list[str]], Iterable[ClipResult]],
    clips: list[str],
    policy: Policy,
    writer: Writer,
    answered: Mapping[str, Status],
    show: Progress,
) -> int:
    """Answer what is not answered yet; how many of all clips failed."""
    from fervid.progress import shown

    left = [clip for clip in clips if clip not in answered]
    failures = sum(policy.failed(answered[clip]) for clip in clips if clip in answered)
    with closing(shown(answer(left), len(left), show, lambda result: policy.failed(result.status))) as results:
        for result in results:
            writer.write(result)
            failures += policy.failed(result.status)
    return failures


def _drawing(
    plot: Path | None, clips: list[str], output: Path | None, force: bool
) -> Callable[[Sequence[WindowResult]], None]:
    """What draws the windows of the one clip, if a picture is asked for; what stands against it is said at once."""
    if plot is None:
        return lambda parts: None
    from fervid.files import refuse_existing
    from fervid.view.evaluation import picture_format
    from fervid.view.timeline import timeline_picture

    if len(clips) != 1:
        raise UsageError(f"--plot draws one clip, and {len(clips)} were named; call `fervid timeline` for each")
    picture_format(plot)
    if plot.resolve() == Path(clips[0]).resolve():
        raise UsageError(f"the picture {plot} would overwrite the input; choose another name")
    if output is not None and plot.resolve() == output.resolve():
        raise UsageError(f"the picture and the records would both be {plot}; choose another name for one of them")
    refuse_existing(plot, force=force)
    return lambda parts: timeline_picture(parts, plot, force=force)


def _names(inputs: Sequence[str] | None, from_file: Path | None, nul: bool) -> list[str]:
    """What is named on the command line and in a list.

    Raises:
        NothingMatched: There is a list and nothing else, and it is empty.
    """
    names = [*(inputs or []), *(_listed(from_file, nul) if from_file else [])]
    if from_file and not names:
        place = "on standard input" if str(from_file) == "-" else str(from_file)
        raise NothingMatched(f"the list {place} names nothing; write the name of a file, folder or glob in each line")
    return names


def _listed(source: Path, nul: bool) -> list[str]:
    from fervid.inputs import read_list

    if str(source) == "-" and sys.stdin is None:
        raise UsageError("there is no standard input to read a list from; name a file with --from-file")
    try:
        data = sys.stdin.buffer.read() if str(source) == "-" else source.read_bytes()
    except OSError as error:
        raise UsageError(f"the list {source} cannot be read ({error.strerror})") from error
    return read_list(data, nul=nul)
