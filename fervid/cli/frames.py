"""The command `frames`: a row for each face in each sampled frame."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import Annotated, Literal

import typer

from fervid.cli.clip_inputs import InputOptions
from fervid.cli.commands import add_command
from fervid.cli.options import ClipOptions, FaceModelOptions, RunOptions, plan_workers, preload_worker
from fervid.cli.output import OutputOptions

frames_app = typer.Typer()


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameOutputOptions(OutputOptions):
    """Options of the output of `frames`."""

    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            help="Output: .csv, .jsonl or .parquet, which is a folder with a file for each clip. Default: stdout.",
        ),
    ] = None
    format: Annotated[
        Literal["csv", "jsonl", "parquet"] | None,
        typer.Option("--format", help="Output format. Default: by the suffix of -o, else jsonl."),
    ] = None
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an existing output; finished clips are skipped.")
    ] = False


@add_command(
    frames_app,
    "fervid frames clip.mp4 -o frames.csv",
    "fervid frames videos/ --every-frame -o frames.csv --resume",
    "fervid frames videos/ --embedding -o frames.parquet",
)
def frames(
    *,
    inputs: InputOptions,
    output: FrameOutputOptions,
    identify: Annotated[
        bool,
        typer.Option("--identify", help="Recognise people across clips when all are read; adds the column identity."),
    ] = False,
    logits: Annotated[
        bool, typer.Option("--logits", help="Also write the logits of the expressions, with mean 0.")
    ] = False,
    embedding: Annotated[
        bool, typer.Option("--embedding", help="Also write the embedding of each face (parquet only).")
    ] = False,
    clip: ClipOptions,
    models: FaceModelOptions,
    run: RunOptions,
) -> None:
    """Write a row for each face in each sampled frame, with its box, landmarks and probabilities.

    A frame without a face has a row too. If something is wrong with a clip, its last row has an error and no frame.
    """
    preload_worker()
    from fervid.analysis.frame_rows import frame_columns
    from fervid.batch.baseline_runner import check_identifies_people
    from fervid.batch.frame_output import name_people_across_clips, open_frame_writer, resolve_frame_format
    from fervid.batch.frame_runner import record_all
    from fervid.batch.runner import RunConfig
    from fervid.core.progress import Summary, track_clips

    options = clip.build()
    row_format = resolve_frame_format(
        output.output,
        output.writer_format,
        resume=output.resume,
        force=output.force,
        embedding=embedding,
        identify=identify,
    )
    summary = Summary("clip")
    clips = inputs.resolve(run.progress)
    jobs, threads = plan_workers(len(clips), run.jobs, run.threads)
    classifier = models.load(options, threads)
    if identify:
        check_identifies_people(classifier)
    columns = frame_columns(classifier.extractor, identity=identify, logits=logits, embedding=embedding)
    config = RunConfig(jobs, strict=run.strict, limits=run.limits)
    with open_frame_writer(
        output.output, row_format, classifier, columns, clips, resume=output.resume, force=output.force
    ) as writer:
        for path in clips:
            if status := writer.finished.get(path):
                summary.add(path, status, failed=config.is_failure(status), earlier=True)
        remaining = [path for path in clips if path not in writer.finished]
        with (
            closing(record_all(classifier, remaining, columns, config)) as recorded,
            closing(
                track_clips(recorded, len(remaining), run.progress, lambda item: config.is_failure(item.result.status))
            ) as tracked,
        ):
            for item in tracked:
                writer.write(item.result, item.rows(), item.clip.people)
                summary.add(item.result.path, item.result.status, failed=config.is_failure(item.result.status))
        if identify:
            name_people_across_clips(writer, clips, classifier.extractor.tracker_config.min_person_similarity)
    raise run.finish(summary, output.output, "rows are")
