"""The options of the commands that work on labelled clips, with their parsers and the output of reports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from fervid.cli.flags import Jobs, Labels, WhichFace
from fervid.cli.options import FaceModelOptions, FrameOptions, LimitOptions
from fervid.core.errors import UsageError

if TYPE_CHECKING:
    from fervid.analysis.options import Options
    from fervid.learn.estimators import ClassifierKind

_Name = TypeVar("_Name", bound=str)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractionOptions:
    """Options that say how features are extracted from labelled clips."""

    frames: FrameOptions
    face: WhichFace = "main"
    models: FaceModelOptions
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache", envvar="FERVID_CACHE", help="Folder for computed features. Default: the user's cache folder."
        ),
    ] = None
    jobs: Jobs = None
    run: LimitOptions

    def __post_init__(self) -> None:
        """Raise `UsageError` for contradicting options, before any file is read."""
        _ = self.options

    @property
    def options(self) -> Options:
        """The options of the pipeline."""
        return self.frames.build(face=self.face)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledClipOptions:
    """Options that name labelled clips, say how their features are extracted, and how a report is printed."""

    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="A folder with one subfolder per class, a CSV or JSON Lines list (path,label[,person][,split]), a .npz"
            " file of `fervid features`, or a known dataset as NAME:FOLDER (afew, ck+, crema-d, kerc2020, ravdess,"
            " vgaf).",
        ),
    ]
    labels: Labels = None
    group: Annotated[
        Literal["auto", "none"],
        typer.Option(
            "--group-by",
            help="Keep all clips of a person in the same fold: by name, or by face where there is no name. none"
            " disables it.",
        ),
    ] = "auto"
    format: Annotated[Literal["table", "json"], typer.Option("--format", help="Output format on stdout.")] = "table"
    extraction: ExtractionOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateOptions:
    """Options that say what classifiers predict, and which of them are compared."""

    target: Annotated[
        str | None, typer.Option("--target", help="Fit a regressor on this rating instead of the labels, e.g. valence.")
    ] = None
    kinds: Annotated[
        str | None,
        typer.Option(
            "--classifier-kind",
            help="Kinds of classifier to compare, comma-separated: linear, rbf (SVMs), mlp, logistic.",
        ),
    ] = None
    statistics: Annotated[
        str | None,
        typer.Option(
            "--statistics",
            help="Feature sets to compare, comma-separated, e.g. mean+std or mean+std+logit+std+max. mean, std, min and"
            " max are of the embedding; those after expression or logit are of the probabilities or their logits. group"
            " needs --face all.",
        ),
    ] = None
    folds: Annotated[int, typer.Option("--folds", help="Number of cross-validation folds.", min=3)] = 5
    seed: Annotated[int, typer.Option("--seed", help="Random seed of folds and classifiers.", min=0, max=2**32 - 1)] = (
        2021
    )

    @property
    def feature_sets(self) -> list[str]:
        """The feature sets to compare; raises `UsageError` if one names an unknown statistic."""
        from fervid.learn.model_selection import parse_statistics

        names = _split_commas(self.statistics)
        for name in names:
            parse_statistics(name)
        return names

    @property
    def kind_names(self) -> list[ClassifierKind]:
        """The kinds of classifier to compare; raises `UsageError` if one is unknown."""
        from fervid.learn.model_selection import HYPERPARAMETERS

        return parse_choices("--classifier-kind", self.kinds, HYPERPARAMETERS)


def parse_choices(flag: str, text: str | None, choices: Mapping[_Name, Any]) -> list[_Name]:
    """Split comma-separated names.

    Raises:
        UsageError: A name is not one of the choices.
    """
    by_name = {str(choice): choice for choice in choices}
    names = _split_commas(text)
    if unknown := [name for name in names if name not in by_name]:
        raise UsageError(f"{flag}: unknown name {', '.join(unknown)}; choose from {', '.join(by_name)}")
    return [by_name[name] for name in names]


def _split_commas(text: str | None) -> list[str]:
    return [name.strip() for name in text.split(",")] if text else []


def print_report(report: Mapping[str, Any], format: str) -> None:
    """Print a model card with its evaluations, or an evaluation report, as tables or as JSON."""
    if format == "json":
        print(json.dumps(report, indent=2, ensure_ascii=False))
        return
    from rich.console import Console

    from fervid.render.evaluation_tables import render_report

    for table in render_report(report):
        Console().print(table)
