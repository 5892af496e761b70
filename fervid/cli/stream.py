"""Classification of a live stream on standard input, or of a camera, for `classify` and `timeline`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fervid.cli.options import ModelOptions, plan_workers
from fervid.core.errors import UsageError

if TYPE_CHECKING:
    from fervid.analysis.options import Options
    from fervid.analysis.windows import WindowSpec
    from fervid.core.progress import Progress


def is_stream_input(inputs: Sequence[str] | None, camera: int | None, file_only: Mapping[str, object]) -> bool:
    """Return whether the input is a live stream or a camera.

    Args:
        inputs: Inputs of the command line.
        camera: Number of a camera.
        file_only: Flags that only work with files, with their values.

    Raises:
        UsageError: A stream or camera is combined with other inputs or with one of those flags.
    """
    if camera is None and "-" not in (inputs or ()):
        return False
    if (camera is not None and inputs) or (inputs and len(inputs) > 1):
        raise UsageError("only one live stream or camera can be classified at a time; remove the other inputs")
    if flags := [flag for flag, value in file_only.items() if value]:
        raise UsageError(
            f"{', '.join(flags)}: not supported for live streams; record to a file first, or drop the option"
        )
    return True


def classify_stream(
    camera: int | None,
    window_spec: WindowSpec,
    options: Options,
    *,
    output: str | Path | None,
    format: Any,
    force: bool,
    threads: int | None,
    progress: Progress,
    strict: bool,
    models: ModelOptions,
) -> bool:
    """Write a record for each window of standard input, or of a camera, until it ends.

    Returns:
        Whether a window failed.

    Raises:
        UsageError: Standard input is a terminal, or closed.
    """
    import scipy.optimize  # noqa: F401  imported now, so that no frame is dropped when several people appear

    from fervid.batch.output import open_stream_writer
    from fervid.batch.runner import RunConfig
    from fervid.core.progress import Summary, track_clips
    from fervid.core.results import WindowResult
    from fervid.media import streams
    from fervid.media.latest_frame import LatestFrameSource

    if camera is None and (sys.stdin is None or sys.stdin.isatty()):
        raise UsageError(
            "- reads a video from stdin, and nothing is piped in; try `ffmpeg ... -f matroska - | fervid ...`"
        )
    _, threads = plan_workers(1, None, threads)
    classifier = models.load(options, threads)
    if camera is None:
        pipe = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
        source = LatestFrameSource("-", streams.read_stream(pipe, "standard input", options.sampling, threads))
    else:
        source = LatestFrameSource(f"camera:{camera}", streams.read_camera(camera, options.sampling), max_wait=0.0)
    config, summary = RunConfig(strict=strict), Summary("window")
    kind: Progress = "none" if progress == "auto" else progress  # the records themselves show the progress
    with (
        open_stream_writer(output, format, classifier, (), force=force, record=WindowResult) as (writer, _),
        closing(
            track_clips(
                classifier.classify_stream(source, window_spec),
                None,
                kind,
                lambda result: config.is_failure(result.status),
            )
        ) as results,
    ):
        for result in results:
            writer.write(result)
            summary.add(result.path, result.status, failed=config.is_failure(result.status))
    if output:
        summary.log(output, progress)
    return bool(summary.failures)
