"""The command `suggest`: which clips of a run to look at first."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fervid.cli.commands import add_command
from fervid.core.errors import UsageError
from fervid.core.text import escape_control_chars, escape_formula

if TYPE_CHECKING:
    from fervid.learn.suggestions import Suggestion

suggest_app = typer.Typer()


@add_command(
    suggest_app,
    "fervid suggest results.jsonl -n 20 > first.txt",
    "fervid suggest results.jsonl --features clips.npz --training labelled.npz",
    "fervid suggest results.jsonl --format csv > first.csv",
)
def suggest(
    results: Annotated[
        Path, typer.Argument(help="Results file from `fervid classify` (.jsonl, .json, .csv, .parquet).")
    ],
    count: Annotated[int, typer.Option("-n", "--count", help="Number of clips.", min=1)] = 50,
    features: Annotated[
        Path | None,
        typer.Option("--features", help="Features of these clips, from `fervid features ... -o clips.npz`."),
    ] = None,
    training: Annotated[
        Path | None,
        typer.Option("--training", help="Features of the training clips, also .npz; these clips are not suggested."),
    ] = None,
    format: Annotated[
        Literal["list", "csv", "json"],
        typer.Option("--format", help="Output format. list has one path per line, below a comment with the reason."),
    ] = "list",
) -> None:
    """Print the clips of a run to look at first, in the order to look at them.

    These are the clips whose two most probable labels are closest. A results file has no features: with --features
    and --training, every second clip is one that is most unlike all training clips, by the cosine distance of the
    mean face embedding.

    The list is for `fervid report --from-file`, `fervid classify --from-file` and the like.
    """
    from fervid.learn.feature_table import FeatureTable
    from fervid.learn.suggestions import nearest_distances, suggest_clips
    from fervid.render.result_reader import ClassificationRun, load_results

    if (features is None) != (training is None):
        raise UsageError("--features and --training go together; give both, or neither")
    run = load_results(results)
    if not isinstance(run, ClassificationRun):
        raise UsageError(f"{results} has no results of `fervid classify`; classify the clips first")
    records, distances = run.records, {}
    if features and training:
        table, labelled = FeatureTable.load(features), FeatureTable.load(training)
        distances = nearest_distances(table, labelled)
        known = {os.path.abspath(sample.path) for sample in labelled.samples}
        records = [record for record in records if os.path.abspath(record["path"]) not in known]
        if not any(os.path.abspath(record["path"]) in distances for record in records):
            raise UsageError(f"{features} has no clip of {results} that is not in {training}; extract those features")
    sys.stdout.write(FORMATTERS[format](suggest_clips(records, count, distances)))


def _format_list(suggestions: Sequence[Suggestion]) -> str:
    lines = (f"# {escape_control_chars(one.reason)}\n{_quote(one.path)}\n" for one in suggestions)
    return "".join(lines)


def _quote(path: str) -> str:
    """Quote a name that a list would change: one with outer blanks or quotes, or one that looks like a comment."""
    return f'"{path}"' if path != path.strip() or path[0] in "#\"'" else path


def _format_csv(suggestions: Sequence[Suggestion]) -> str:
    import csv

    from fervid.learn.suggestions import Suggestion

    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    names = [field.name for field in fields(Suggestion)]
    rows.writerow(names)
    rows.writerows([escape_formula(getattr(one, name)) for name in names] for one in suggestions)
    return text.getvalue()


def _format_json(suggestions: Sequence[Suggestion]) -> str:
    return json.dumps([asdict(one) for one in suggestions], indent=2) + "\n"


FORMATTERS = {"list": _format_list, "csv": _format_csv, "json": _format_json}
