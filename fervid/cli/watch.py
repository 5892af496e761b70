"""The command `watch`: classify the clips of a folder as they arrive."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fervid.cli.commands import add_command
from fervid.cli.flags import Adaptive, Force, Recursive, Resume
from fervid.cli.options import ModelOptions, PredictionOptions, WorkerOptions, plan_workers, preload_worker
from fervid.cli.output import write_results

watch_app = typer.Typer()

MAX_CLIPS_AT_ONCE = 1_000
"""Number of clips to plan workers for, as more may arrive at any time."""


@add_command(watch_app, "fervid watch inbox/ -o results.jsonl --resume", "fervid watch inbox/ --recursive | jq .label")
def watch(
    *,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder in which clips arrive.")],
    recursive: Recursive = False,
    settle_seconds: Annotated[
        float,
        typer.Option(
            "--settle-seconds",
            help="Classify a clip once it has not changed for this many seconds. Raise it for slow uploads.",
            min=0.1,
        ),
    ] = 5.0,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Output file, in JSON Lines.")] = None,
    format: Annotated[
        Literal["table", "jsonl", "csv"] | None,
        typer.Option("--format", help="Output format on stdout. Default: a table on a terminal, else jsonl."),
    ] = None,
    force: Force = False,
    resume: Resume = False,
    prediction: PredictionOptions,
    adaptive: Adaptive = False,
    models: ModelOptions,
    run: WorkerOptions,
) -> None:
    """Classify each clip in a folder, and each that arrives later, until Ctrl-C or SIGTERM.

    A clip that is still being written is classified when it is complete; a clip that is replaced is classified again.
    With -o and --resume, a restarted command skips finished clips and retries those that failed.

    Exit status: 130 interrupted, 143 terminated. Finished clips are kept; the next run repeats unfinished ones.
    """
    preload_worker()
    from fervid.batch.folder_watcher import FolderWatcher
    from fervid.batch.output import open_stream_writer
    from fervid.batch.runner import RunConfig, classify_folder
    from fervid.core.progress import Summary, log

    options = prediction.build(adaptive=adaptive)
    inbox = FolderWatcher(folder, recursive=recursive, settle_s=settle_seconds, on_message=log)
    jobs, threads = plan_workers(MAX_CLIPS_AT_ONCE, run.jobs, run.threads)
    classifier = models.load(options, threads)
    config = RunConfig(jobs, strict=run.strict, limits=run.limits)
    with open_stream_writer(
        output, format, classifier, inbox.fingerprints, resume=resume, force=force, on_message=log
    ) as (writer, finished):
        results = classify_folder(classifier, inbox, finished, config)
        write_results(results, None, run.progress, config, writer, Summary("clip"))
