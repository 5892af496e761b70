"""The command `frames`: a row for each face in each sampled frame."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated, Literal

import typer

from fervid.cli import ExitCode, format_examples
from fervid.cli.clip_inputs import collect_inputs
from fervid.cli.flags import (
    Attributes,
    DetectorName,
    Device,
    Excel,
    ExitZero,
    FaceModelName,
    Force,
    FromFile,
    Inputs,
    Jobs,
    NullSeparated,
    ProgressMode,
    Recursive,
    Strict,
    Threads,
)
from fervid.cli.option_groups import expand_option_groups
from fervid.cli.options import (
    FrameOptions,
    LimitOptions,
    ModelOptions,
    csv_for_excel,
    plan_workers,
    preload_worker,
)

frames_app = typer.Typer()


@frames_app.command(
    epilog=format_examples(
        "fervid frames clip.mp4 -o frames.csv",
        "fervid frames videos/ --every-frame -o frames.csv --resume",
        "fervid frames videos/ --embedding -o frames.parquet",
    )
)
@expand_option_groups
def frames(
    inputs: Inputs = None,
    recursive: Recursive = False,
    from_file: FromFile = None,
    nul: NullSeparated = False,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            help="Output: .csv, .jsonl or .parquet, which is a folder with a file for each clip. Default: stdout.",
        ),
    ] = None,
    format: Annotated[
        Literal["csv", "jsonl", "parquet"] | None,
        typer.Option("--format", help="Output format. Default: by the suffix of -o, else jsonl."),
    ] = None,
    excel: Excel = False,
    force: Force = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue an existing output; finished clips are skipped."),
    ] = False,
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
    attributes: Attributes = False,
    face_model: FaceModelName = "mobilenetv1",
    detector: DetectorName = "blazeface-back",
    device: Device = "cpu",
    jobs: Jobs = None,
    threads: Threads = None,
    progress: ProgressMode = "auto",
    exit_zero: ExitZero = False,
    strict: Strict = False,
    *,
    sampling: FrameOptions,
    limits: LimitOptions,
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
    from fervid.core.progress import Summary, note, track_clips
    from fervid.media.inputs import SkippedFiles, resolve_inputs

    options = sampling.build(
        attributes=attributes,
    )
    row_format = resolve_frame_format(
        output,
        csv_for_excel(format, output, excel),
        resume=resume,
        force=force,
        embedding=embedding,
        identify=identify,
    )
    skipped_files, summary = SkippedFiles(), Summary("clip")
    clips = resolve_inputs(collect_inputs(inputs, from_file, nul), recursive=recursive, skipped_files=skipped_files)
    note(str(skipped_files), progress)
    jobs, threads = plan_workers(len(clips), jobs, threads)
    classifier = ModelOptions(face_model=face_model, detector=detector, device=device).load(options, threads)
    if identify:
        check_identifies_people(classifier)
    columns = frame_columns(classifier.extractor, identity=identify, logits=logits, embedding=embedding)
    config = RunConfig(jobs, strict=strict, limits=limits.limits)
    with open_frame_writer(output, row_format, classifier, columns, clips, resume=resume, force=force) as writer:
        for clip in clips:
            if status := writer.finished.get(clip):
                summary.add(clip, status, failed=config.is_failure(status), earlier=True)
        remaining = [clip for clip in clips if clip not in writer.finished]
        with (
            closing(record_all(classifier, remaining, columns, config)) as recorded,
            closing(
                track_clips(recorded, len(remaining), progress, lambda item: config.is_failure(item.result.status))
            ) as tracked,
        ):
            for item in tracked:
                writer.write(item.result, item.rows(), item.clip.people)
                summary.add(item.result.path, item.result.status, failed=config.is_failure(item.result.status))
        if identify:
            name_people_across_clips(writer, clips, classifier.extractor.tracker_config.min_person_similarity)
    if output:
        summary.log(output, progress, "rows are")
    raise typer.Exit(ExitCode.INPUT_FAILED if summary.failures and not exit_zero else ExitCode.OK)
