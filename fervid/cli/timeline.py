"""The command `timeline`: a record for each window of a clip or live stream."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fervid.cli import ExitCode, format_examples
from fervid.cli.baseline import observation_progress, parse_baseline
from fervid.cli.clip_inputs import collect_inputs
from fervid.cli.flags import (
    Attributes,
    BaselineOption,
    Camera,
    Excel,
    ExitZero,
    Force,
    FromFile,
    Identify,
    Inputs,
    Jobs,
    Labels,
    NullSeparated,
    ProgressMode,
    Recursive,
    Strict,
    Threads,
    WindowOutputFormat,
    WindowOutputTarget,
)
from fervid.cli.option_groups import expand_option_groups
from fervid.cli.options import LimitOptions, ModelOptions, SamplingOptions, csv_for_excel, plan_workers, preload_worker
from fervid.cli.stream import classify_stream, is_stream_input
from fervid.core.errors import UsageError, as_usage_error

if TYPE_CHECKING:
    from fervid.analysis.pipeline import Classifier
    from fervid.core.results import WindowResult

    WriteWindows = Callable[[Sequence[WindowResult]], None]

timeline_app = typer.Typer()


@timeline_app.command(
    epilog=format_examples(
        "fervid timeline clip.mp4",
        "fervid timeline videos/ --window 2 --step 0.5 -o windows.csv",
        "fervid timeline --camera 0 --window 2",
        "fervid timeline videos/ --format eaf -o annotations/",
    )
)
@expand_option_groups
def timeline(
    inputs: Inputs = None,
    camera: Camera = None,
    window: Annotated[
        float,
        typer.Option(
            "--window", help="Window length in seconds. Longer windows are more reliable, shorter ones react faster."
        ),
    ] = 4.0,
    step: Annotated[
        float | None,
        typer.Option(
            "--step", help="Seconds between the starts of two windows. Default: 1, or the window if that is shorter."
        ),
    ] = None,
    recursive: Recursive = False,
    from_file: FromFile = None,
    nul: NullSeparated = False,
    output: WindowOutputTarget = None,
    format: WindowOutputFormat = None,
    excel: Excel = False,
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
        Path | None,
        typer.Option("--plot", help="Also plot the windows as .png, .svg or .pdf (one clip only)."),
    ] = None,
    *,
    sampling: SamplingOptions,
    models: ModelOptions,
    limits: LimitOptions,
) -> None:
    """Classify each window of each clip and write one record per window, in order.

    Live input (- for stdin, or --camera) is classified until it ends; each record is written as soon as its window
    is complete.
    """
    format = csv_for_excel(format, output, excel)
    file_only = {
        "--from-file": from_file,
        "--start": sampling.start,
        "--end": sampling.end,
        "--plot": plot,
        "--baseline": baseline,
        "--identify": identify,
    }
    live = is_stream_input(inputs, camera, file_only)
    if not live:
        preload_worker()
    spec = parse_baseline(baseline, identify, {})
    from fervid.analysis.windows import WindowSpec
    from fervid.batch.runner import RunConfig, classify_windows
    from fervid.core.progress import Summary, note, track_clips
    from fervid.media.inputs import SkippedFiles, resolve_inputs

    with as_usage_error():
        window_spec = WindowSpec(window, min(1.0, window) if step is None else step)
    options = sampling.options(attributes=attributes, labels=labels, baseline=spec.kind if spec else None)
    if live:
        failed = classify_stream(
            camera,
            window_spec,
            options,
            output=output,
            format=format,
            force=force,
            threads=threads,
            progress=progress,
            strict=strict,
            models=models,
        )
        raise typer.Exit(ExitCode.INPUT_FAILED if failed and not exit_zero else ExitCode.OK)
    skipped_files, summary = SkippedFiles(), Summary("window")
    clips = resolve_inputs(collect_inputs(inputs, from_file, nul), recursive=recursive, skipped_files=skipped_files)
    note(str(skipped_files), progress)
    draw_plot = _plot_sink(plot, clips, output, force)
    jobs, threads = plan_workers(len(clips), jobs, threads)
    classifier = models.load(options, threads)
    config = RunConfig(jobs, strict=strict, limits=limits.limits)
    clip_results: Generator[Sequence[WindowResult]]
    if spec is None:
        windows = classify_windows(classifier, clips, window_spec, config)
        clip_results = track_clips(windows, len(clips), progress, config.has_failure)
    else:
        from fervid.batch.baseline_runner import classify_windows_relative

        show = observation_progress(len(clips), config, progress)
        clip_results = classify_windows_relative(classifier, clips, window_spec, config, spec, show)
    with _open_output(output, format, classifier, clips, force=force) as write, closing(clip_results):
        for results in clip_results:
            write(results)
            for result in results:
                summary.add(result.path, result.status, failed=config.is_failure(result.status))
            draw_plot(results)
    if output:
        summary.log(output, progress)
    raise typer.Exit(ExitCode.INPUT_FAILED if summary.failures and not exit_zero else ExitCode.OK)


@contextmanager
def _open_output(
    output: Path | None, format: Any, classifier: Classifier, clips: list[str], *, force: bool
) -> Iterator[WriteWindows]:
    """Open a function that writes the windows of a clip: their records, or a file of the clip's own.

    Raises:
        UsageError: The format is unknown, or several clips would be written to one file.
        OutputError: A file exists or cannot be written.
    """
    from fervid.batch.output import open_writer
    from fervid.core.results import WindowResult
    from fervid.render.timeline_files import file_format, make_clip_file_writer

    if per_clip := file_format(format, output):
        yield make_clip_file_writer(clips, per_clip, output, force=force)
        return
    with open_writer(output, format, classifier, clips, force=force, record=WindowResult) as (writer, _):

        def write(results: Sequence[WindowResult]) -> None:
            for result in results:
                writer.write(result)

        yield write


def _plot_sink(plot: Path | None, clips: list[str], output: Path | None, force: bool) -> WriteWindows:
    """Return a function that plots the windows of the clip; it does nothing without --plot.

    Raises:
        UsageError: There are several clips, or the plot would overwrite the input or the records.
        OutputError: The plot exists.
    """
    if plot is None:
        return lambda results: None
    from fervid.core.atomic_io import check_overwrite
    from fervid.render.charts import plot_format
    from fervid.render.timeline_chart import plot_timeline

    if len(clips) != 1:
        raise UsageError(f"--plot draws one clip, and {len(clips)} were given; run `fervid timeline` for each")
    plot_format(plot)
    if plot.resolve() == Path(clips[0]).resolve():
        raise UsageError(f"--plot {plot} would overwrite the input; use another name")
    if output is not None and plot.resolve() == output.resolve():
        raise UsageError(f"--plot and -o are both {plot}; use another name for one of them")
    check_overwrite(plot, force=force)
    return lambda results: plot_timeline(results, plot, force=force)
