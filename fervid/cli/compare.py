"""The command `compare`: compare the configurations that `train` can fit."""

from __future__ import annotations

from typing import Annotated

import typer

from fervid.cli import format_examples
from fervid.cli.dataset_features import load_labeled_features
from fervid.cli.dataset_flags import (
    DatasetSource,
    ExtractionOptions,
    Folds,
    Group,
    Kinds,
    RatingTarget,
    ReportFormat,
    Seed,
    Statistics,
    parse_choices,
    parse_statistics_list,
    print_report,
)
from fervid.cli.flags import Labels
from fervid.cli.option_groups import expand_option_groups
from fervid.cli.options import parse_labels

compare_app = typer.Typer()


@compare_app.command(
    epilog=format_examples("fervid compare videos/", "fervid compare afew:AFEW/ --classifier-kind linear,rbf,mlp")
)
@expand_option_groups
def compare(
    dataset: DatasetSource,
    labels: Labels = None,
    target: RatingTarget = None,
    group: Group = "auto",
    kinds: Kinds = None,
    statistics: Statistics = None,
    cross_validate: Annotated[
        bool,
        typer.Option("--cross-validate", help="Ignore the train/test split and cross-validate by person."),
    ] = False,
    folds: Folds = 5,
    seed: Seed = 2021,
    format: ReportFormat = "table",
    *,
    extraction: ExtractionOptions,
) -> None:
    """Compare the kinds of classifier and the features that `fervid train` can use on labelled clips.

    Each is fitted on the training split and evaluated on the held-out one, or cross-validated if there is no split.
    """
    from fervid.learn.model_evaluation import compare_configurations
    from fervid.learn.model_selection import DEFAULT_STATISTICS, HYPERPARAMETERS, parse_statistics

    feature_sets = parse_statistics_list(statistics)
    kind_names = parse_choices("--classifier-kind", kinds, HYPERPARAMETERS) or ["linear"]
    data = load_labeled_features(
        dataset, extraction, labels=parse_labels(labels), target=target, group=group, seed=seed
    )
    usable = [name for name in DEFAULT_STATISTICS if set(parse_statistics(name)) <= data.table.statistics.keys()]
    methods = compare_configurations(data, feature_sets or usable, kind_names, folds, cross=cross_validate)
    print_report({"methods": methods}, format)
