"""The command `compare`: compare the configurations that `train` can fit."""

from __future__ import annotations

from typing import Annotated

import typer

from fervid.cli.commands import add_command
from fervid.cli.dataset_features import load_labeled_features
from fervid.cli.dataset_flags import CandidateOptions, LabeledClipOptions, print_report

compare_app = typer.Typer()


@add_command(compare_app, "fervid compare videos/", "fervid compare afew:AFEW/ --classifier-kind linear,rbf,mlp")
def compare(
    *,
    candidates: CandidateOptions,
    cross_validate: Annotated[
        bool, typer.Option("--cross-validate", help="Ignore the train/test split and cross-validate by person.")
    ] = False,
    clips: LabeledClipOptions,
) -> None:
    """Compare the kinds of classifier and the features that `fervid train` can use on labelled clips.

    Each is fitted on the training split and evaluated on the held-out one, or cross-validated if there is no split.
    """
    from fervid.learn.model_evaluation import compare_configurations
    from fervid.learn.model_selection import DEFAULT_STATISTICS, parse_statistics

    feature_sets, kind_names = candidates.feature_sets, candidates.kind_names or ["linear"]
    data = load_labeled_features(clips, target=candidates.target, seed=candidates.seed)
    usable = [name for name in DEFAULT_STATISTICS if set(parse_statistics(name)) <= data.table.statistics.keys()]
    methods = compare_configurations(data, feature_sets or usable, kind_names, candidates.folds, cross=cross_validate)
    print_report({"methods": methods}, clips.format)
