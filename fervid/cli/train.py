"""The command `train`: fit a clip classifier on labelled clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from fervid.cli.commands import add_command
from fervid.cli.dataset_features import load_labeled_features
from fervid.cli.dataset_flags import CandidateOptions, LabeledClipOptions, parse_choices, print_report
from fervid.cli.flags import Force
from fervid.core.errors import UsageError

train_app = typer.Typer()


@add_command(train_app, "fervid train videos/ -o mine.onnx", "fervid train kerc2020:kerc/ --target valence -o v.onnx")
def train(
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="Output file of the classifier, .onnx.")],
    candidates: CandidateOptions,
    scalings: Annotated[
        str | None,
        typer.Option(
            "--scaling",
            help="Feature scalings to compare, comma-separated: l2, standard. Default: standard for logits, mlp and"
            " --center, else l2.",
        ),
    ] = None,
    center: Annotated[
        Literal["person"] | None,
        typer.Option(
            "--center",
            help="Subtract each person's mean over all clips from the features. The classifier then needs several"
            " clips per person in every use.",
        ),
    ] = None,
    early_exit_error: Annotated[
        float | None,
        typer.Option(
            "--early-exit-error",
            help="Fit early exits, with this maximum error rate, e.g. 0.02. classify --adaptive uses them.",
            min=0,
            max=1,
        ),
    ] = None,
    skip_broken: Annotated[
        bool,
        typer.Option("--skip-broken", help="Skip clips that cannot be read; their number is stored in the model card."),
    ] = False,
    force: Force = False,
    clips: LabeledClipOptions,
) -> None:
    """Train a clip classifier on labelled clips, and print its card.

    Configurations are compared by cross-validation that keeps all clips of a person in one fold.
    The best is fitted on all clips.
    """
    from fervid.analysis.early_exit import STRIDES
    from fervid.core.atomic_io import atomic_write, check_overwrite
    from fervid.learn.candidate_choice import make_default_candidates
    from fervid.learn.model_selection import Scaling
    from fervid.learn.training import train_classifier

    check_overwrite(output, force=force)
    if early_exit_error is not None and candidates.target:
        raise UsageError("--early-exit-error needs class probabilities, which a regressor on --target lacks; drop one")
    if center and early_exit_error is not None:
        raise UsageError(
            "early exits classify one clip at a time, but --center needs all clips of a person; drop --early-exit-error"
            " or --center"
        )
    if center and clips.group == "none":
        raise UsageError("--center person needs to know the person of each clip; drop --group-by none")
    feature_sets, kind_names = candidates.feature_sets, candidates.kind_names
    scaling_names = parse_choices("--scaling", scalings, dict.fromkeys(get_args(Scaling)))
    data = load_labeled_features(
        clips,
        target=candidates.target,
        seed=candidates.seed,
        center=center,
        strides=() if early_exit_error is None else STRIDES,
        skip_broken=skip_broken,
    )
    compared = make_default_candidates(
        data.table.statistics.keys(),
        all_faces=clips.extraction.face == "all",
        centered=center is not None,
        statistics=feature_sets,
        kinds=kind_names,
        scalings=scaling_names,
    )
    trained = train_classifier(data, compared, output.stem, candidates.folds, early_exit_error)
    with atomic_write(output, force=force) as file:
        file.write(trained.content)
    print_report({**trained.card, "evaluations": trained.evaluations}, clips.format)
