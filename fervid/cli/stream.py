"""Classification of a live stream on standard input, or of a camera, for `classify` and `timeline`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fervid.cli.clip_inputs import LiveInputOptions
from fervid.cli.options import ModelOptions, WorkerOptions, plan_workers
from fervid.cli.output import OutputOptions, write_results
from fervid.core.errors import UsageError

if TYPE_CHECKING:
    from fervid.analysis.options import Options
    from fervid.analysis.windows import WindowSpec
    from fervid.core.progress import Progress, Summary


def is_stream_input(inputs: LiveInputOptions, file_only: Mapping[str, object]) -> bool:
    """Return whether the input is a live stream or a camera.

    Args:
        inputs: Inputs of the command line.
        file_only: Flags that only work with files, with their values.

    Raises:
        UsageError: A stream or camera is combined with other inputs or with one of those flags.
    """
    names = inputs.inputs or []
    if inputs.camera is None and "-" not in names:
        return False
    if len(names) + (inputs.camera is not None) > 1:
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
    output: OutputOptions,
    run: WorkerOptions,
    models: ModelOptions,
) -> Summary:
    """Write a record for each window of standard input, or of a camera, until it ends, and return their summary.

    Raises:
        UsageError: Standard input is a terminal, or closed.
    """
    import scipy.optimize  # noqa: F401  imported now, so that no frame is dropped when several people appear

    from fervid.batch.output import open_stream_writer
    from fervid.batch.runner import RunConfig
    from fervid.core.progress import Summary
    from fervid.core.results import WindowResult
    from fervid.media import streams
    from fervid.media.latest_frame import LatestFrameSource

    if camera is None and (sys.stdin is None or sys.stdin.isatty()):
        raise UsageError(
            "- reads a video from stdin, and nothing is piped in; try `ffmpeg ... -f matroska - | fervid ...`"
        )
    _, threads = plan_workers(1, None, run.threads)
    classifier = models.load(options, threads)
    if camera is None:
        pipe = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
        source = LatestFrameSource("-", streams.read_stream(pipe, "standard input", options.sampling, threads))
    else:
        source = LatestFrameSource(f"camera:{camera}", streams.read_camera(camera, options.sampling), max_wait=0.0)
    config, summary = RunConfig(strict=run.strict), Summary("window")
    progress: Progress = "none" if run.progress == "auto" else run.progress  # the records show the progress
    with open_stream_writer(
        output.output, output.writer_format, classifier, (), force=output.force, record=WindowResult
    ) as (writer, _):
        write_results(classifier.classify_stream(source, window_spec), None, progress, config, writer, summary)
    return summary
