"""The command `report`: make an HTML page from the results of other commands."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fervid.cli.clip_inputs import collect_inputs
from fervid.cli.commands import add_command
from fervid.cli.flags import Force, Rotate, WhichFace
from fervid.cli.options import FrameOptions, LimitOptions, plan_workers
from fervid.core.errors import UsageError

if TYPE_CHECKING:
    from fervid.analysis.highlights import ClipHighlights
    from fervid.analysis.options import Options
    from fervid.core.progress import Progress
    from fervid.core.worker_process import Limits
    from fervid.render.result_reader import ClassificationRun, EvaluationRun, Record, TimelineRun

report_app = typer.Typer()


@add_command(
    report_app,
    "fervid report results.jsonl -o report.html --thumbnails",
    "fervid report results.jsonl -o review.html --from-file first.txt",
    "fervid report evaluation.json -o evaluation.html",
)
def report(
    *,
    results: Annotated[
        Path, typer.Argument(help="Results file from classify, timeline or evaluate (.jsonl, .json, .csv, .parquet).")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Output file, .html.")],
    force: Force = False,
    from_file: Annotated[
        Path | None,
        typer.Option(
            "--from-file",
            help="Review only the clips in a list, in its order; one path per line, as `fervid suggest` prints them. -"
            " reads from stdin. Default: all clips, the least certain first.",
        ),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain/--no-explain",
            help="Show which features contributed to each label (timelines only); reads the clips again.",
        ),
    ] = True,
    thumbnails: Annotated[
        bool,
        typer.Option(
            "--thumbnails",
            help="Show the frames that led to each label; reads the clips again. Faces are personal data.",
        ),
    ] = False,
    frames: FrameOptions,
    rotate: Rotate = "auto",
    face: WhichFace = "main",
    classifier: Annotated[
        str | None, typer.Option("--classifier", help="Classifier file used for the run, if not a shipped one.")
    ] = None,
    face_model: Annotated[
        str | None, typer.Option("--face-model", help="Face model file used for the run, if not a shipped one.")
    ] = None,
    detector: Annotated[
        str | None, typer.Option("--detector", help="Face detector file used for the run, if not a shipped one.")
    ] = None,
    analysis: LimitOptions,
) -> None:
    """Make an HTML report of a run, of timelines or of an evaluation, as one file without external resources.

    In the report of a run you confirm or correct labels and download them as labels.csv, for `fervid train`. Make it
    in the folder in which `fervid classify` ran, so that it finds the clips.

    For a timeline, and with --thumbnails, the clips are read again: repeat the options of that run, e.g. --fps and
    --face.
    """
    from fervid import __version__
    from fervid.core.atomic_io import atomic_write, check_overwrite
    from fervid.core.progress import Summary, note
    from fervid.render.html_report import check_dependencies, render_html
    from fervid.render.result_reader import ClassificationRun, TimelineRun, load_results

    if thumbnails and not explain:
        raise UsageError("--thumbnails cannot be combined with --no-explain; drop one")
    if os.path.realpath(output) == os.path.realpath(results):
        raise UsageError(f"-o {output} would overwrite the results; use another name")
    check_overwrite(output, force=force)
    check_dependencies()
    options = frames.build(rotate=rotate, face=face)
    run = load_results(results)
    order = collect_inputs(None, from_file, null_separated=False) if from_file else None
    if from_file and not isinstance(run, ClassificationRun):
        raise UsageError(f"--from-file needs the results of `fervid classify`, and {results} has none; drop it")
    summary = Summary(
        "clip" if isinstance(run, ClassificationRun) else "window" if isinstance(run, TimelineRun) else "evaluation"
    )
    for name, status in run.statuses():
        summary.add(name, status, failed=False)
    clips, thumbnail_count = _choose_clips(run, order, explain, thumbnails)
    files = {"classifier": classifier, "face_model": face_model, "detector": detector}
    highlights = _find_highlights(clips, files, options, thumbnail_count, analysis.limits, analysis.progress)
    page = render_html(run, results.name, highlights, __version__, order)
    if isinstance(run, ClassificationRun) and not any(os.path.exists(path) for path, _ in run.statuses()):
        note(f"no clip of {results} exists at its path; make the report in the folder of that run", analysis.progress)
    with atomic_write(output, force=force) as file:
        file.write(page)
    summary.log(output, analysis.progress, "the report is")


def _choose_clips(
    run: ClassificationRun | TimelineRun | EvaluationRun, order: Sequence[str] | None, explain: bool, thumbnails: bool
) -> tuple[Mapping[str, Sequence[Record]], int]:
    """Return the records to analyse again, by path of the clip, and the number of thumbnails of each.

    Raises:
        UsageError: The results are those of an evaluation, which has no thumbnails.
    """
    from fervid.render.html_review import STRIP_THUMBNAILS, select_clips
    from fervid.render.result_reader import ClassificationRun, TimelineRun

    if isinstance(run, TimelineRun):
        return (run.clips if explain else {}), int(thumbnails)
    if not isinstance(run, ClassificationRun):
        if thumbnails:
            raise UsageError("--thumbnails needs the results of `fervid classify` or `fervid timeline`; drop it")
        return {}, 0
    records = select_clips(run.records, order) if thumbnails else []
    return {record["path"]: [record] for record in records}, STRIP_THUMBNAILS


def _find_highlights(
    clips: Mapping[str, Sequence[Record]],
    files: Mapping[str, str | None],
    options: Options,
    thumbnails: int,
    limits: Limits,
    progress: Progress,
) -> dict[str, ClipHighlights]:
    """Analyse clips again, in worker processes, and return the highlights by path."""
    if not clips:
        return {}
    from fervid.analysis.highlights import find_highlights
    from fervid.core.progress import track_clips

    jobs, threads = plan_workers(len(clips), None, None)
    models = {role: file for role, file in files.items() if file}
    highlights = find_highlights(
        clips, models, options, thumbnails=thumbnails, jobs=jobs, threads=threads, limits=limits
    )
    return dict(track_clips(highlights, len(clips), progress, lambda clip: bool(clip[1].note)))
