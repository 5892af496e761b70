"""The command `classify`: a record for each clip."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fervid.cli.baseline import BaselineOptions, open_baseline_engine
from fervid.cli.clip_inputs import LiveInputOptions
from fervid.cli.commands import add_command
from fervid.cli.flags import Adaptive
from fervid.cli.options import ModelOptions, PredictionOptions, RunOptions, plan_workers, preload_worker
from fervid.cli.output import ClipOutputOptions, write_results
from fervid.cli.stream import classify_stream, is_stream_input
from fervid.core.errors import UsageError

if TYPE_CHECKING:
    from fervid.analysis.pipeline import Classifier
    from fervid.batch.runner import RunConfig
    from fervid.core.progress import Progress
    from fervid.core.results import ClipResult

    ClassifyClips = Callable[[list[str]], Iterable[ClipResult]]

classify_app = typer.Typer()


@add_command(
    classify_app,
    "fervid classify clip.mp4",
    "fervid classify videos/ --recursive -o results.jsonl --resume",
    "ffmpeg -i rtsp://camera/1 -c copy -f mpegts - | fervid classify -",
)
def classify(
    *,
    inputs: LiveInputOptions,
    output: ClipOutputOptions,
    prediction: PredictionOptions,
    adaptive: Adaptive = False,
    people: BaselineOptions,
    models: ModelOptions,
    run: RunOptions,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option("--engine", help="Run on this machine, or on a Ray cluster, which also reads URLs such as s3://."),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option("--address", help="Ray cluster: auto, HOST:PORT or ray://HOST:PORT. Default: start a local one."),
    ] = None,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first failure; remaining clips are recorded as skipped.")
    ] = False,
) -> None:
    """Classify the emotion of each clip and write one record per clip, also for clips that fail.

    Live input (- for stdin, or --camera) is classified in windows, as by `fervid timeline`.
    """
    on_cluster = engine == "ray"
    if address and not on_cluster:
        raise UsageError("--address is the address of a Ray cluster; add --engine ray")
    file_only = {
        "--from-file": inputs.from_file,
        "--resume": output.resume,
        "--start": prediction.start,
        "--end": prediction.end,
        "--adaptive": adaptive,
        "--baseline": people.baseline,
        "--identify": people.identify,
        "--engine ray": on_cluster,
    }
    live = is_stream_input(inputs, file_only)
    spec = people.read({"--adaptive": adaptive, "--engine ray": on_cluster, "--fail-fast": fail_fast})
    if not on_cluster and not live:
        preload_worker()
    from fervid.analysis.windows import WindowSpec
    from fervid.batch.output import open_writer
    from fervid.batch.runner import RunConfig
    from fervid.core.progress import Summary, note

    options = prediction.build(adaptive=adaptive, baseline=spec.kind if spec else None)
    if live:
        summary = classify_stream(inputs.camera, WindowSpec(), options, output=output, run=run, models=models)
        raise run.finish(summary, output.output)
    summary = Summary("clip")
    clips = inputs.resolve(run.progress, urls=on_cluster)
    jobs, threads = (run.jobs, run.threads) if on_cluster else plan_workers(len(clips), run.jobs, run.threads)
    classifier = models.load(options, threads, **({"device": "cpu"} if on_cluster else {}))
    config = RunConfig(jobs or 0, fail_fast, run.strict, run.limits)
    progress: Progress = run.progress
    resume, force = output.resume, output.force
    if spec is None:
        opened = _open_engine(
            engine, classifier, config, address=address, jobs=jobs, threads=threads, device=models.device
        )
    else:
        opened = open_baseline_engine(classifier, config, spec, progress, output)
        # Every record may change when a clip is added, so all are written anew.
        progress, force, resume = "none", force or resume, False
    with (
        opened as classify_clips,
        open_writer(
            output.output,
            output.writer_format,
            classifier,
            clips,
            resume=resume,
            force=force,
            on_message=partial(note, kind=run.progress),
        ) as (writer, finished),
    ):
        for clip in clips:
            if clip in finished:
                status = finished[clip]
                summary.add(clip, status, failed=config.is_failure(status), earlier=True)
        remaining = [clip for clip in clips if clip not in finished]
        write_results(classify_clips(remaining), len(remaining), progress, config, writer, summary)
    raise run.finish(summary, output.output)


def _open_engine(
    name: str, classifier: Classifier, config: RunConfig, **cluster: Any
) -> AbstractContextManager[ClassifyClips]:
    """Open a function that classifies clips with the engine of that name."""
    if name == "ray":
        from fervid.batch.ray_runner import classify_on_ray

        return classify_on_ray(classifier, config, **cluster)
    from fervid.batch.runner import classify_all

    return nullcontext(lambda clips: classify_all(classifier, clips, config))
