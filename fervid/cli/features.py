"""The command `features`: write the features of clips to a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fervid.cli import ExitCode
from fervid.cli.commands import add_command
from fervid.cli.dataset_features import extract_rows
from fervid.cli.dataset_flags import ExtractionOptions
from fervid.cli.flags import Force, Recursive
from fervid.core.text import escape_control_chars

if TYPE_CHECKING:
    from fervid.learn.dataset import Dataset
    from fervid.media.inputs import SkippedFiles

LIST_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")

features_app = typer.Typer()


@add_command(
    features_app, "fervid features videos/ -o features.npz", "fervid features ravdess:/data/RAVDESS -o r.parquet"
)
def features(
    *,
    sources: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Video files, folders or globs, or one labelled data set.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Output file, .npz or .parquet.")],
    recursive: Recursive = False,
    baseline: Annotated[
        Literal["person"] | None,
        typer.Option("--baseline", help="Subtract each person's average over all clips from the logits."),
    ] = None,
    force: Force = False,
    extraction: ExtractionOptions,
) -> None:
    """Write the features of each clip to a file, for `fervid train` or your own analysis.

    Features are statistics over time of what the face model estimates. Clips without a face are listed on stderr.
    """
    from fervid.core.atomic_io import check_overwrite
    from fervid.core.progress import Summary, note
    from fervid.learn.feature_table import FeatureTable, make_feature_writer
    from fervid.learn.labeled_features import feature_provenance, relative_to_people
    from fervid.media.inputs import SkippedFiles

    check_overwrite(output, force=force)
    make_feature_writer(output)
    skipped_files, summary = SkippedFiles(), Summary("clip")
    dataset = _resolve_sources(sources, recursive=recursive, skipped_files=skipped_files)
    note(str(skipped_files), extraction.run.progress)
    extractor, rows = extract_rows(dataset, extraction)
    for row in rows:
        status = "ok" if row.error is None else "no_face" if row.error.code == "no_face" else "error"
        summary.add(str(row.sample.path), status, failed=status == "error")
        if row.error:
            typer.echo(f"skipped: {escape_control_chars(row.error.message)}", err=True)
    table = FeatureTable.from_rows(rows, feature_provenance(extractor))
    (relative_to_people(table) if baseline else table).save(output, force=force)
    summary.log(output, extraction.run.progress, "features are")
    raise typer.Exit(ExitCode.INPUT_FAILED if summary.failures else ExitCode.OK)


def _resolve_sources(sources: Sequence[str], *, recursive: bool, skipped_files: SkippedFiles) -> Dataset:
    """Load the labelled data set that the only source names; else files, folders and globs without labels."""
    from fervid.learn.dataset import Dataset, load_dataset
    from fervid.learn.dataset_layouts import KNOWN_LAYOUTS, Sample
    from fervid.media import inputs

    (first, *more) = sources
    name, colon, _ = first.partition(":")
    has_classes = not recursive and _has_class_folders(Path(first))
    is_layout = colon and name.lower() in KNOWN_LAYOUTS
    if not more and (is_layout or first.lower().endswith(LIST_SUFFIXES) or has_classes):
        skipped_files.advice = ""
        return load_dataset(first, skipped_files=skipped_files)
    paths = inputs.resolve_inputs(sources, recursive=recursive, skipped_files=skipped_files)
    return Dataset("clips", tuple(Sample(Path(path), None) for path in paths))


def _has_class_folders(folder: Path) -> bool:
    """Return whether a folder looks like a data set with one subfolder per class."""
    from fervid.media.inputs import find_videos

    subfolders = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    flat = any(find_videos(str(folder), recursive=False))
    return bool(subfolders) and (not flat or any(any(find_videos(str(path), recursive=False)) for path in subfolders))
