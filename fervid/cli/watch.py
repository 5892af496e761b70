"""The commands that go on until somebody ends them: a folder is watched, a stream or a camera followed."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fervid.cli import examples
from fervid.cli.options import (
    Adaptive,
    Attributes,
    Force,
    Jobs,
    Labels,
    LimitOptions,
    ModelOptions,
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
from fervid.core.errors import UsageError

if TYPE_CHECKING:
    from fervid.analysis.aggregate import WindowSpec
    from fervid.analysis.extractor import Options
    from fervid.core.progress import Progress

live_app = typer.Typer()

MANY = 1_000  # clips: as many may come at a time


@live_app.command(
    epilog=examples("fervid watch inbox/ -o results.jsonl --resume", "fervid watch inbox/ --recursive | jq .label")
)
@expand_option_groups
def watch(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where clips are put.")],
    recursive: Recursive = False,
    quiet: Annotated[
        float, env_option("--quiet", "Seconds for which a clip must not have changed, so that it is whole.", min=0.1)
    ] = 5.0,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write here, as JSON Lines.")] = None,
    format: Annotated[
        Literal["table", "jsonl", "csv"] | None,
        env_option("--format", "Without it a table on a terminal, else JSON Lines."),
    ] = None,
    force: Force = False,
    resume: Resume = False,
    attributes: Attributes = False,
    adaptive: Adaptive = False,
    labels: Labels = None,
    jobs: Jobs = None,
    threads: Threads = None,
    progress: ProgressMode = "auto",
    strict: Strict = False,
    *,
    look: SamplingOptions,
    named: ModelOptions,
    limited: LimitOptions,
) -> None:
    """Say which emotion each clip shows that lies in a folder or comes into it, until Ctrl-C or SIGTERM.

    A clip that is still being written is waited for, and each is answered once: with -o and --resume also when the
    command is started again, which then tries those again that failed. One that is replaced is answered anew.

    Exit status: 130 interrupted, 143 terminated; what was answered is kept, what was in hand is answered by the next
    run.
    """
    prepare()
    from fervid.batch.folder_watcher import FolderWatcher
    from fervid.batch.runner import RunConfig, classify_folder, open_writer
    from fervid.core.progress import log, track_clips

    options = look.options(attributes=attributes, labels=labels, adaptive=adaptive)
    inbox = FolderWatcher(folder, recursive=recursive, quiet=quiet, tell=log)
    jobs, threads = plan_workers(MANY, jobs, threads)
    loaded = named.load(options, threads)
    policy = RunConfig(jobs, strict=strict, limits=limited.limits)
    with open_writer(output, format, loaded, inbox.stamps, resume=resume, force=force, endless=True, tell=log) as (
        to,
        answered,
    ):
        results = classify_folder(loaded, inbox, answered, policy)
        with closing(track_clips(results, None, progress, lambda result: policy.failed(result.status))) as results:
            for result in results:
                to.write(result)


def is_stream_input(inputs: Sequence[str] | None, camera: int | None, unfit: Mapping[str, object]) -> bool:
    """Whether one stream or camera is to be followed, and not clips.

    Args:
        inputs: What was named.
        camera: Its number.
        unfit: Flags that mean nothing then, with what was given for them.

    Raises:
        UsageError: Other inputs, or one of those flags, were given too.
    """
    if camera is None and "-" not in (inputs or ()):
        return False
    if (camera is not None and inputs) or (inputs and len(inputs) > 1):
        raise UsageError(
            "one stream or camera is followed at a time, and nothing beside it; leave the other inputs out"
        )
    if given := [flag for flag, value in unfit.items() if value]:
        raise UsageError(
            f"{', '.join(given)} cannot be had of what goes on without end; save it to a file, or leave it out"
        )
    return True


def classify_stream(
    camera: int | None,
    cut: WindowSpec,
    options: Options,
    *,
    output: str | Path | None,
    format: Any,
    force: bool,
    threads: int | None,
    progress: Progress,
    strict: bool,
    named: ModelOptions,
) -> bool:
    """Write a record for each window of standard input, or of a camera, until it ends; whether one of them failed."""
    import scipy.optimize  # noqa: F401  needed when people are many first, and then frames would have to wait for it

    from fervid.batch.runner import RunConfig, open_writer
    from fervid.core.progress import Summary, track_clips
    from fervid.core.records import WindowResult
    from fervid.media import streams
    from fervid.media.latest_frame import LatestFrameSource

    if camera is None and (sys.stdin is None or sys.stdin.isatty()):
        raise UsageError(
            "- is a stream on standard input, and there is none; as in `ffmpeg ... -f matroska - | fervid ...`"
        )
    _, threads = plan_workers(1, None, threads)
    loaded = named.load(options, threads)
    if camera is None:
        pipe = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
        source = LatestFrameSource("-", streams.read_stream(pipe, "standard input", options.sampling, threads))
    else:
        source = LatestFrameSource(f"camera:{camera}", streams.read_camera(camera, options.sampling), patience=0.0)
    policy, summary = RunConfig(strict=strict), Summary("window")
    kind: Progress = "none" if progress == "auto" else progress  # what comes shows how far it is
    with (
        open_writer(output, format, loaded, (), force=force, record=WindowResult, endless=True) as (writer, _),
        closing(
            track_clips(loaded.live(source, cut), None, kind, lambda result: policy.failed(result.status))
        ) as results,
    ):
        for result in results:
            writer.write(result)
            summary.add(result.path, result.status, failed=policy.failed(result.status))
    if output:
        summary.tell(output, progress)
    return bool(summary.failures)
