"""The commands that look at clips: one answer for each, or one for each of its windows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fervid.cli import FAILED, OK, examples
from fervid.cli.options import (
    Adaptive,
    Address,
    Attributes,
    BaselineOption,
    Camera,
    ClipOutputFormat,
    Engine,
    ExitZero,
    FailFast,
    Force,
    FromFile,
    Identify,
    Inputs,
    Jobs,
    Labels,
    LimitOptions,
    ModelOptions,
    NullSeparated,
    Output,
    OutputFormat,
    OutputTarget,
    ProgressMode,
    Recursive,
    Resume,
    SamplingOptions,
    Strict,
    Threads,
    env_option,
    expand_option_groups,
    plan_workers,
    prepare,
)
from fervid.cli.watch import classify_stream, is_stream_input
from fervid.core.errors import NoInputsFound, UsageError, usage

if TYPE_CHECKING:
    from fervid.analysis.pipeline import Classifier, ObservedRecord
    from fervid.batch.baseline_runner import BaselineSpec, ShowProgress
    from fervid.batch.runner import RunConfig
    from fervid.batch.writers import Writer
    from fervid.core.progress import Progress, Summary
    from fervid.core.records import ClipResult, Status, WindowResult

clips_app = typer.Typer()


@clips_app.command(
    epilog=examples(
        "fervid classify clip.mp4",
        "fervid classify videos/ --recursive -o results.jsonl --resume",
        "ffmpeg -i rtsp://camera/1 -c copy -f mpegts - | fervid classify -",
    )
)
@expand_option_groups
def classify(
    inputs: Inputs = None,
    camera: Camera = None,
    recursive: Recursive = False,
    from_file: FromFile = None,
    nul: NullSeparated = False,
    output: OutputTarget = None,
    format: ClipOutputFormat = None,
    force: Force = False,
    resume: Resume = False,
    attributes: Attributes = False,
    adaptive: Adaptive = False,
    labels: Labels = None,
    baseline: BaselineOption = None,
    identify: Identify = False,
    jobs: Jobs = None,
    threads: Threads = None,
    engine: Engine = "local",
    address: Address = None,
    progress: ProgressMode = "auto",
    fail_fast: FailFast = False,
    exit_zero: ExitZero = False,
    strict: Strict = False,
    *,
    look: SamplingOptions,
    named: ModelOptions,
    limited: LimitOptions,
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
        "--baseline": baseline,
        "--identify": identify,
    }
    live = is_stream_input(inputs, camera, {**unfit, "--engine ray": cluster})
    relative = _relative(
        baseline, identify, {"--adaptive": adaptive, "--engine ray": cluster, "--fail-fast": fail_fast}
    )
    if not cluster and not live:
        prepare()
    from fervid.analysis.aggregate import WindowSpec
    from fervid.batch.runner import RunConfig, open_writer
    from fervid.core.progress import Summary, note
    from fervid.media.inputs import PassedOver, resolve_inputs

    kind = relative.kind if relative else None
    options = look.options(attributes=attributes, labels=labels, adaptive=adaptive, baseline=kind)
    if live:
        failed = classify_stream(
            camera,
            WindowSpec(),
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
    passed_over, summary = PassedOver(), Summary("clip")
    names = _names(inputs, from_file, nul)
    clips = resolve_inputs(names, recursive=recursive, urls=cluster, passed_over=passed_over)
    note(str(passed_over), progress)
    if not cluster:
        jobs, threads = plan_workers(len(clips), jobs, threads)
    loaded = named.load(options, threads, device="cpu" if cluster else None)
    policy, tell = RunConfig(jobs or 0, fail_fast, strict, limited.limits), partial(note, kind=progress)
    answering: Progress = progress
    if relative is None:
        classifying = _engine(engine, loaded, policy, address=address, jobs=jobs, threads=threads, device=named.device)
    else:
        classifying = _relative_engine(loaded, policy, relative, progress, output, format, resume=resume)
        answering, force, resume = "none", force or resume, False  # every answer may change with one more clip
    with (
        classifying as answer,
        open_writer(output, format, loaded, clips, resume=resume, force=force, tell=tell) as (writer, answered),
    ):
        _run(answer, clips, policy, writer, answered, answering, summary)
    if output:
        summary.tell(output, progress)
    raise typer.Exit(FAILED if summary.failures and not exit_zero else OK)


@clips_app.command(
    epilog=examples(
        "fervid timeline clip.mp4",
        "fervid timeline videos/ --window 2 --step 0.5 -o windows.csv",
        "fervid timeline --camera 0 --window 2",
    )
)
@expand_option_groups
def timeline(
    inputs: Inputs = None,
    camera: Camera = None,
    window: Annotated[float, env_option("--window", "Seconds that a window lasts.")] = 4.0,
    step: Annotated[
        float | None,
        env_option("--step", "Seconds from the start of a window to that of the next. Default: 1 at most."),
    ] = None,
    recursive: Recursive = False,
    from_file: FromFile = None,
    nul: NullSeparated = False,
    output: Output = None,
    format: OutputFormat = None,
    force: Force = False,
    attributes: Attributes = False,
    labels: Labels = None,
    baseline: BaselineOption = None,
    identify: Identify = False,
    jobs: Jobs = None,
    threads: Threads = None,
    progress: ProgressMode = "auto",
    exit_zero: ExitZero = False,
    strict: Strict = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the windows of one clip too: a .png, .svg or .pdf.")
    ] = None,
    *,
    look: SamplingOptions,
    named: ModelOptions,
    limited: LimitOptions,
) -> None:
    """Say which emotion each window of a clip shows: one record per window, in order.

    A stream on standard input (-) or a camera is followed until it ends: one record per window as it happens.
    """
    unfit = {
        "--from-file": from_file,
        "--start": look.start,
        "--end": look.end,
        "--plot": plot,
        "--baseline": baseline,
        "--identify": identify,
    }
    live = is_stream_input(inputs, camera, unfit)
    if not live:
        prepare()
    relative = _relative(baseline, identify, {})
    from fervid.analysis.aggregate import WindowSpec
    from fervid.batch.runner import RunConfig, classify_windows, open_writer
    from fervid.core.progress import Summary, note, track_clips
    from fervid.core.records import WindowResult
    from fervid.media.inputs import PassedOver, resolve_inputs

    with usage():
        cut = WindowSpec(window, min(1.0, window) if step is None else step)
    options = look.options(attributes=attributes, labels=labels, baseline=relative.kind if relative else None)
    if live:
        failed = classify_stream(
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
    passed_over, summary = PassedOver(), Summary("window")
    clips = resolve_inputs(_names(inputs, from_file, nul), recursive=recursive, passed_over=passed_over)
    note(str(passed_over), progress)
    draw = _plot_sink(plot, clips, output, force)
    jobs, threads = plan_workers(len(clips), jobs, threads)
    loaded = named.load(options, threads)
    policy = RunConfig(jobs, strict=strict, limits=limited.limits)
    results: Generator[Sequence[WindowResult]]
    if relative is None:
        results = track_clips(classify_windows(loaded, clips, cut, policy), len(clips), progress, policy.any_failed)
    else:
        from fervid.batch.baseline_runner import classify_windows_relative

        observing = _observing(len(clips), policy, progress)
        results = classify_windows_relative(loaded, clips, cut, policy, relative, observing)
    with open_writer(output, format, loaded, clips, force=force, record=WindowResult) as (writer, _), closing(results):
        for parts in results:
            for part in parts:
                writer.write(part)
                summary.add(part.path, part.status, failed=policy.failed(part.status))
            draw(parts)
    if output:
        summary.tell(output, progress)
    raise typer.Exit(FAILED if summary.failures and not exit_zero else OK)


def _relative(baseline: str | None, identify: bool, unfit: Mapping[str, bool]) -> BaselineSpec | None:
    """What answers are relative to; None if they stand alone.

    Raises:
        UsageError: The baseline cannot be read, or goes with another option that does not go with it.
    """
    if baseline is None and not identify:
        return None
    if refused := [flag for flag, given in unfit.items() if given]:
        raise UsageError(
            f"{refused[0]} answers each clip alone, but --baseline and --identify compare the people of all clips;"
            " leave one out"
        )
    from fervid.batch.baseline_runner import BaselineSpec

    return BaselineSpec.read(baseline) if baseline else BaselineSpec()


def _observing(clips: int, policy: RunConfig, progress: Progress) -> ShowProgress:
    """What tells how many clips were observed."""
    from fervid.core.progress import track_clips

    def failed(records: Sequence[ObservedRecord]) -> bool:
        return policy.any_failed([record.result for record in records])

    return lambda records: track_clips(records, clips, progress, failed)


def _engine(
    name: str, loaded: Classifier, policy: RunConfig, **cluster: Any
) -> AbstractContextManager[Callable[[list[str]], Iterable[ClipResult]]]:
    """What gives one record per clip, as long as the block lasts."""
    if name == "ray":
        from fervid.batch.ray_runner import classify_on_ray

        return classify_on_ray(loaded, policy, **cluster)
    from fervid.batch.runner import classify_all

    return nullcontext(lambda clips: classify_all(loaded, clips, policy))


@contextmanager
def _relative_engine(
    loaded: Classifier,
    policy: RunConfig,
    spec: BaselineSpec,
    progress: Progress,
    output: str | None,
    format: str | None,
    *,
    resume: bool,
) -> Iterator[Callable[[list[str]], Iterable[ClipResult]]]:
    """What gives one record per clip relative to a baseline; what was observed is kept beside a JSON Lines output."""
    from fervid.batch.baseline_runner import check_relative, classify_relative
    from fervid.batch.observation_store import ObservationFile
    from fervid.batch.writers import format_from_suffix

    check_relative(loaded, spec)
    lines = output is not None and "://" not in output and (format or format_from_suffix(Path(output))) == "jsonl"
    if resume and not lines:
        raise UsageError("--resume with --baseline or --identify continues JSON Lines; name it with -o results.jsonl")
    opened = ObservationFile.open(Path(str(output)), loaded, resume=resume) if lines else nullcontext()
    with opened as observations:
        yield lambda clips: classify_relative(
            loaded, clips, policy, spec, _observing(len(clips), policy, progress), observations
        )


def _run(
    answer: Callable[[list[str]], Iterable[ClipResult]],
    clips: list[str],
    policy: RunConfig,
    writer: Writer,
    answered: Mapping[str, Status],
    show: Progress,
    summary: Summary,
) -> None:
    """Answer what is not answered yet, and count all of it."""
    from fervid.core.progress import track_clips

    left = [clip for clip in clips if clip not in answered]
    for clip, status in ((clip, answered[clip]) for clip in clips if clip in answered):
        summary.add(clip, status, failed=policy.failed(status), earlier=True)
    with closing(track_clips(answer(left), len(left), show, lambda result: policy.failed(result.status))) as results:
        for result in results:
            writer.write(result)
            summary.add(result.path, result.status, failed=policy.failed(result.status))


def _plot_sink(
    plot: Path | None, clips: list[str], output: Path | None, force: bool
) -> Callable[[Sequence[WindowResult]], None]:
    """What draws the windows of the one clip, if a picture is asked for; what stands against it is said at once."""
    if plot is None:
        return lambda parts: None
    from fervid.core.atomic_io import check_overwrite
    from fervid.render.evaluation_tables import plot_format
    from fervid.render.timeline_chart import plot_timeline

    if len(clips) != 1:
        raise UsageError(f"--plot draws one clip, and {len(clips)} were named; call `fervid timeline` for each")
    plot_format(plot)
    if plot.resolve() == Path(clips[0]).resolve():
        raise UsageError(f"the picture {plot} would overwrite the input; choose another name")
    if output is not None and plot.resolve() == output.resolve():
        raise UsageError(f"the picture and the records would both be {plot}; choose another name for one of them")
    check_overwrite(plot, force=force)
    return lambda parts: plot_timeline(parts, plot, force=force)


def _names(inputs: Sequence[str] | None, from_file: Path | None, nul: bool) -> list[str]:
    """What is named on the command line and in a list.

    Raises:
        NothingMatched: There is a list and nothing else, and it is empty.
    """
    names = [*(inputs or []), *(_listed(from_file, nul) if from_file else [])]
    if from_file and not names:
        place = "on standard input" if str(from_file) == "-" else str(from_file)
        raise NoInputsFound(f"the list {place} names nothing; write the name of a file, folder or glob in each line")
    return names


def _listed(source: Path, nul: bool) -> list[str]:
    from fervid.media.inputs import read_list

    if str(source) == "-" and sys.stdin is None:
        raise UsageError("there is no standard input to read a list from; name a file with --from-file")
    try:
        data = sys.stdin.buffer.read() if str(source) == "-" else source.read_bytes()
    except OSError as error:
        raise UsageError(f"the list {source} cannot be read ({error.strerror})") from error
    return read_list(data, nul=nul)
