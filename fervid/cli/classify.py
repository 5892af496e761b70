"""The command `classify`: a record for each clip."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from fervid.cli import ExitCode, format_examples
from fervid.cli.baseline import open_baseline_engine, parse_baseline
from fervid.cli.clip_inputs import collect_inputs
from fervid.cli.flags import (
    Adaptive,
    Address,
    Attributes,
    BaselineOption,
    Camera,
    ClipOutputFormat,
    Engine,
    Excel,
    ExitZero,
    FailFast,
    Force,
    FromFile,
    Identify,
    Inputs,
    Jobs,
    Labels,
    NullSeparated,
    OutputTarget,
    ProgressMode,
    Recursive,
    Resume,
    Strict,
    Threads,
)
from fervid.cli.option_groups import expand_option_groups
from fervid.cli.options import LimitOptions, ModelOptions, SamplingOptions, csv_for_excel, plan_workers, preload_worker
from fervid.cli.stream import classify_stream, is_stream_input
from fervid.core.errors import UsageError

if TYPE_CHECKING:
    from fervid.analysis.pipeline import Classifier
    from fervid.batch.runner import RunConfig
    from fervid.batch.writers import Writer
    from fervid.core.progress import Progress, Summary
    from fervid.core.results import ClipResult, Status

    ClassifyClips = Callable[[list[str]], Iterable[ClipResult]]

classify_app = typer.Typer()


@classify_app.command(
    epilog=format_examples(
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
    excel: Excel = False,
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
    sampling: SamplingOptions,
    models: ModelOptions,
    limits: LimitOptions,
) -> None:
    """Classify the emotion of each clip and write one record per clip, also for clips that fail.

    Live input (- for stdin, or --camera) is classified in windows, as by `fervid timeline`.
    """
    on_cluster = engine == "ray"
    if address and not on_cluster:
        raise UsageError("--address is the address of a Ray cluster; add --engine ray")
    format = csv_for_excel(format, output, excel)
    file_only = {
        "--from-file": from_file,
        "--resume": resume,
        "--start": sampling.start,
        "--end": sampling.end,
        "--adaptive": adaptive,
        "--baseline": baseline,
        "--identify": identify,
    }
    live = is_stream_input(inputs, camera, {**file_only, "--engine ray": on_cluster})
    spec = parse_baseline(
        baseline, identify, {"--adaptive": adaptive, "--engine ray": on_cluster, "--fail-fast": fail_fast}
    )
    if not on_cluster and not live:
        preload_worker()
    from fervid.analysis.windows import WindowSpec
    from fervid.batch.output import open_writer
    from fervid.batch.runner import RunConfig
    from fervid.core.progress import Summary, note
    from fervid.media.inputs import SkippedFiles, resolve_inputs

    options = sampling.options(
        attributes=attributes, labels=labels, adaptive=adaptive, baseline=spec.kind if spec else None
    )
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
            models=models,
        )
        raise typer.Exit(ExitCode.INPUT_FAILED if failed and not exit_zero else ExitCode.OK)
    skipped_files, summary = SkippedFiles(), Summary("clip")
    names = collect_inputs(inputs, from_file, nul)
    clips = resolve_inputs(names, recursive=recursive, urls=on_cluster, skipped_files=skipped_files)
    note(str(skipped_files), progress)
    if not on_cluster:
        jobs, threads = plan_workers(len(clips), jobs, threads)
    classifier = models.load(options, threads, device="cpu" if on_cluster else None)
    config, log = RunConfig(jobs or 0, fail_fast, strict, limits.limits), partial(note, kind=progress)
    result_progress: Progress = progress
    if spec is None:
        opened = _open_engine(
            engine, classifier, config, address=address, jobs=jobs, threads=threads, device=models.device
        )
    else:
        opened = open_baseline_engine(classifier, config, spec, progress, output, format, resume=resume, force=force)
        # Every record may change when a clip is added, so all are written anew.
        result_progress, force, resume = "none", force or resume, False
    with (
        opened as classify_clips,
        open_writer(output, format, classifier, clips, resume=resume, force=force, on_message=log) as (
            writer,
            finished,
        ),
    ):
        _write_results(classify_clips, clips, config, writer, finished, result_progress, summary)
    if output:
        summary.log(output, progress)
    raise typer.Exit(ExitCode.INPUT_FAILED if summary.failures and not exit_zero else ExitCode.OK)


def _open_engine(
    name: str, classifier: Classifier, config: RunConfig, **cluster: Any
) -> AbstractContextManager[ClassifyClips]:
    """Open a function that classifies clips with the engine of that name."""
    if name == "ray":
        from fervid.batch.ray_runner import classify_on_ray

        return classify_on_ray(classifier, config, **cluster)
    from fervid.batch.runner import classify_all

    return nullcontext(lambda clips: classify_all(classifier, clips, config))


def _write_results(
    classify_clips: ClassifyClips,
    clips: list[str],
    config: RunConfig,
    writer: Writer,
    finished: Mapping[str, Status],
    progress: Progress,
    summary: Summary,
) -> None:
    """Classify the clips that an earlier run has not finished, write their records, and count all clips."""
    from fervid.core.progress import track_clips

    for clip in clips:
        if clip in finished:
            status = finished[clip]
            summary.add(clip, status, failed=config.is_failure(status), earlier=True)
    remaining = [clip for clip in clips if clip not in finished]
    results = track_clips(
        classify_clips(remaining), len(remaining), progress, lambda result: config.is_failure(result.status)
    )
    with closing(results):
        for result in results:
            writer.write(result)
            summary.add(result.path, result.status, failed=config.is_failure(result.status))
