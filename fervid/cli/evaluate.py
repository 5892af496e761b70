"""The command `evaluate`: evaluate a clip classifier, or compare the configurations that `train` can fit."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
from fervid.cli.flags import Force, Labels, complete_model_names, env_option
from fervid.cli.option_groups import expand_option_groups
from fervid.cli.options import parse_labels
from fervid.core.errors import UsageError

if TYPE_CHECKING:
    from fervid.models.registry import Model

evaluate_app = typer.Typer()


@evaluate_app.command(
    epilog=format_examples("fervid evaluate videos/ --classifier mine.onnx", "fervid evaluate afew:AFEW/ --format json")
)
@expand_option_groups
def evaluate(
    dataset: DatasetSource,
    classifier: Annotated[
        str | None,
        env_option(
            "--classifier",
            "Classifier to evaluate: a model name or an ONNX file. Default: fit and compare each configuration.",
            autocompletion=complete_model_names("classifier", "regressor"),
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            help="Second classifier, compared with the first by a paired significance test.",
            autocompletion=complete_model_names("classifier"),
        ),
    ] = None,
    split: Annotated[
        Literal["train", "val", "test", "all"] | None,
        typer.Option("--split", help="Split to evaluate on. Default: all clips that are not in train, else all."),
    ] = None,
    cross_validate: Annotated[
        bool,
        typer.Option(
            "--cross-validate",
            help="Ignore the train/test split and cross-validate by person; only without --classifier.",
        ),
    ] = False,
    labels: Labels = None,
    target: RatingTarget = None,
    group: Group = "auto",
    kinds: Kinds = None,
    statistics: Statistics = None,
    folds: Folds = 5,
    seed: Seed = 2021,
    adaptive: Annotated[
        bool,
        typer.Option("--adaptive", help="Also report early-exit accuracy and the fraction of frames used."),
    ] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Plot the confusion matrix as .png, .svg or .pdf.")
    ] = None,
    force: Force = False,
    format: ReportFormat = "table",
    *,
    extraction: ExtractionOptions,
) -> None:
    """Evaluate a clip classifier on labelled clips.

    Without --classifier, every configuration that `fervid train` can fit is fitted and compared.
    """
    from fervid.analysis.early_exit import exit_levels
    from fervid.core.atomic_io import check_overwrite
    from fervid.learn.model_evaluation import compare_configurations, evaluate_model
    from fervid.learn.model_selection import DEFAULT_STATISTICS, HYPERPARAMETERS, parse_statistics
    from fervid.render.charts import plot_format
    from fervid.render.evaluation_tables import plot_confusion_matrix

    feature_sets = parse_statistics_list(statistics)
    kind_names = parse_choices("--kind", kinds, HYPERPARAMETERS) or ["linear"]
    model, other = (_load_model(name) for name in (classifier, against))
    card = model.card if model else {}
    if model is None and (against or plot or adaptive or split):
        raise UsageError("--against, --plot, --adaptive and --split need --classifier")
    if model and (kinds or statistics or cross_validate or target not in (None, card.get("target"))):
        raise UsageError(
            "--kind, --statistics, --cross-validate and --target select what to fit; drop them, or drop --classifier"
        )
    if model and "target" in card and (against or plot or adaptive):
        raise UsageError(
            f"--against, --plot and --adaptive need a classifier; {model.identity.name} is a regressor of"
            f" {card['target']}"
        )
    if plot:
        plot_format(plot)
        check_overwrite(plot, force=force)
    data = load_labeled_features(
        dataset,
        extraction,
        labels=parse_labels(labels),
        target=card.get("target", target),
        group=group,
        seed=seed,
        strides=[level.stride for level in exit_levels(card)] if adaptive else (),
        models=[loaded for loaded in (model, other) if loaded],
    )
    if model is None:
        usable = [name for name in DEFAULT_STATISTICS if set(parse_statistics(name)) <= data.table.statistics.keys()]
        methods = compare_configurations(data, feature_sets or usable, kind_names, folds, cross=cross_validate)
        print_report({"methods": methods}, format)
        return
    report = evaluate_model(data, model, other, parse_labels(labels), split, adaptive=adaptive)
    if plot:
        plot_confusion_matrix(report, plot, force=force)
    print_report(report, format)


def _load_model(name: str | None) -> Model | None:
    """Load a classifier or a regressor by its name or path."""
    from fervid.core.errors import ModelIncompatible
    from fervid.models.registry import load_model

    if name is None:
        return None
    try:
        return load_model(name, "classifier")
    except ModelIncompatible:
        with suppress(ModelIncompatible):
            return load_model(name, "regressor")
        raise
