"""The command `evaluate`: evaluate a clip classifier on labelled clips."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fervid.cli.commands import add_command
from fervid.cli.dataset_features import load_labeled_features
from fervid.cli.dataset_flags import LabeledClipOptions, print_report
from fervid.cli.flags import Force, complete_model_names
from fervid.cli.options import parse_labels
from fervid.core.errors import UsageError

if TYPE_CHECKING:
    from fervid.models.registry import Model

evaluate_app = typer.Typer()


@add_command(
    evaluate_app,
    "fervid evaluate videos/ --classifier mine.onnx",
    "fervid evaluate afew:AFEW/ --classifier emotion8 --format json",
)
def evaluate(
    *,
    classifier: Annotated[
        str,
        typer.Option(
            "--classifier",
            help="Classifier or regressor to evaluate: a model name or an ONNX file.",
            autocompletion=complete_model_names("classifier", "regressor"),
        ),
    ],
    compare_to: Annotated[
        str | None,
        typer.Option(
            "--compare-to",
            help="Second classifier, compared with the first by a paired significance test.",
            autocompletion=complete_model_names("classifier"),
        ),
    ] = None,
    split: Annotated[
        Literal["train", "val", "test", "all"] | None,
        typer.Option("--split", help="Split to evaluate on. Default: all clips that are not in train, else all."),
    ] = None,
    adaptive: Annotated[
        bool, typer.Option("--adaptive", help="Also report early-exit accuracy and the fraction of frames used.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Plot the confusion matrix as .png, .svg or .pdf.")
    ] = None,
    force: Force = False,
    clips: LabeledClipOptions,
) -> None:
    """Evaluate a clip classifier on labelled clips. `fervid compare` compares configurations without a classifier."""
    from fervid.analysis.early_exit import exit_levels
    from fervid.core.atomic_io import check_overwrite
    from fervid.learn.model_evaluation import evaluate_model
    from fervid.render.charts import plot_format
    from fervid.render.evaluation_tables import plot_confusion_matrix

    model = _load_model(classifier)
    other = _load_model(compare_to) if compare_to else None
    if "target" in model.card and (compare_to or plot or adaptive):
        raise UsageError(
            f"--compare-to, --plot and --adaptive need a classifier; {model.identity.name} is a regressor of"
            f" {model.card['target']}"
        )
    if plot:
        plot_format(plot)
        check_overwrite(plot, force=force)
    data = load_labeled_features(
        clips,
        target=model.card.get("target"),
        strides=[level.stride for level in exit_levels(model.card)] if adaptive else (),
        models=[loaded for loaded in (model, other) if loaded],
    )
    report = evaluate_model(data, model, other, parse_labels(clips.labels), split, adaptive=adaptive)
    if plot:
        plot_confusion_matrix(report, plot, force=force)
    print_report(report, clips.format)


def _load_model(name: str) -> Model:
    """Load a classifier or a regressor by its name or path."""
    from fervid.core.errors import ModelIncompatible
    from fervid.models.registry import load_model

    try:
        return load_model(name, "classifier")
    except ModelIncompatible:
        with suppress(ModelIncompatible):
            return load_model(name, "regressor")
        raise
