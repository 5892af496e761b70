"""The command `timeline`: a record for each window of a clip or live stream."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fervid.cli.baseline import BaselineOptions, observation_progress
from fervid.cli.clip_inputs import LiveInputOptions
from fervid.cli.commands import add_command
from fervid.cli.options import ModelOptions, PredictionOptions, RunOptions, plan_workers, preload_worker
from fervid.cli.output import OutputOptions
from fervid.cli.stream import classify_stream, is_stream_input
from fervid.core.errors import UsageError, as_usage_error

if TYPE_CHECKING:
    from fervid.analysis.pipeline import Classifier
    from fervid.core.results import WindowResult

    WriteWindows = Callable[[Sequence[WindowResult]], None]

timeline_app = typer.Typer()


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowOutputOptions(OutputOptions):
    """Options of the output of `timeline`."""

    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Output file; the suffix selects the format, e.g. windows.jsonl or .csv. With --format eaf or vtt a"
            " folder of files, one for each clip.",
        ),
    ] = None
    format: Annotated[
        Literal["table", "jsonl", "json", "csv", "eaf", "vtt"] | None,
        typer.Option(
            "--format",
            help="Output format. Default: by the suffix of -o, else a table on a terminal, else jsonl. eaf is for ELAN,"
            " vtt are subtitles.",
        ),
    ] = None


@add_command(
    timeline_app,
    "fervid timeline clip.mp4",
    "fervid timeline videos/ --window 2 --step 0.5 -o windows.csv",
    "fervid timeline --camera 0 --window 2",
    "fervid timeline videos/ --format eaf -o annotations/",
)
def timeline(
    *,
    inputs: LiveInputOptions,
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
    output: WindowOutputOptions,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Also plot the windows as .png, .svg or .pdf (one clip only).")
    ] = None,
    prediction: PredictionOptions,
    people: BaselineOptions,
    models: ModelOptions,
    run: RunOptions,
) -> None:
    """Classify each window of each clip and write one record per window, in order.

    Live input (- for stdin, or --camera) is classified until it ends; each record is written as soon as its window
    is complete.
    """
    file_only = {
        "--from-file": inputs.from_file,
        "--start": prediction.start,
        "--end": prediction.end,
        "--plot": plot,
        "--baseline": people.baseline,
        "--identify": people.identify,
    }
    live = is_stream_input(inputs, file_only)
    if not live:
        preload_worker()
    spec = people.read({})
    from fervid.analysis.windows import WindowSpec
    from fervid.batch.runner import RunConfig, classify_windows
    from fervid.core.progress import Summary, track_clips

    with as_usage_error():
        window_spec = WindowSpec(window, min(1.0, window) if step is None else step)
    options = prediction.build(baseline=spec.kind if spec else None)
    if live:
        summary = classify_stream(inputs.camera, window_spec, options, output=output, run=run, models=models)
        raise run.finish(summary, output.output)
    summary = Summary("window")
    clips = inputs.resolve(run.progress)
    draw_plot = _plot_sink(plot, clips, output.output, output.force)
    jobs, threads = plan_workers(len(clips), run.jobs, run.threads)
    classifier = models.load(options, threads)
    config = RunConfig(jobs, strict=run.strict, limits=run.limits)
    clip_results: Generator[Sequence[WindowResult]]
    if spec is None:
        windows = classify_windows(classifier, clips, window_spec, config)
        clip_results = track_clips(windows, len(clips), run.progress, config.has_failure)
    else:
        from fervid.batch.baseline_runner import classify_windows_relative

        show = observation_progress(len(clips), config, run.progress)
        clip_results = classify_windows_relative(classifier, clips, window_spec, config, spec, show)
    with _open_output(output, classifier, clips) as write, closing(clip_results):
        for results in clip_results:
            write(results)
            for result in results:
                summary.add(result.path, result.status, failed=config.is_failure(result.status))
            draw_plot(results)
    raise run.finish(summary, output.output)


@contextmanager
def _open_output(output: WindowOutputOptions, classifier: Classifier, clips: list[str]) -> Iterator[WriteWindows]:
    """Open a function that writes the windows of a clip: their records, or a file of the clip's own.

    Raises:
        UsageError: The format is unknown, or several clips would be written to one file.
        OutputError: A file exists or cannot be written.
    """
    from fervid.batch.output import open_writer
    from fervid.core.results import WindowResult
    from fervid.render.timeline_files import file_format, make_clip_file_writer

    path, format, force = output.output, output.writer_format, output.force
    if per_clip := file_format(format, path):
        yield make_clip_file_writer(clips, per_clip, path, force=force)
        return
    with open_writer(path, format, classifier, clips, force=force, record=WindowResult) as (writer, _):

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
