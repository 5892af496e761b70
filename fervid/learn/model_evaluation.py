"""A model file, or the ways to fit one -> its report on labelled clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fervid.analysis import clip_classifier
from fervid.analysis.early_exit import early_exit_metrics, exit_levels
from fervid.analysis.extractor import as_incompatible_model
from fervid.core.errors import ModelIncompatible
from fervid.core.records import FloatArray
from fervid.learn.candidate_choice import nested_cv_predict, select_candidate
from fervid.learn.labeled_features import EVAL_SPLITS, LabeledFeatures
from fervid.learn.metrics import paired_test
from fervid.learn.model_selection import FOLDS, Kind, Scaling, candidates, fit, parse_statistics, predict
from fervid.models.registry import Model


def check_network(model: Model, about: Mapping[str, Any]) -> None:
    """Refuse a classifier or regressor that was fitted on another network than clips are looked at with.

    Raises:
        ModelIncompatible: It was.
    """
    if not clip_classifier.matches_network(model.card, (about["network_sha256"],), about.get("expressions", ())):
        raise ModelIncompatible(
            f"{model.identity.name} was fitted on another network than {about['network']}; name its --network"
        )


def predict_with_model(
    known: LabeledFeatures, model: Model, labels: Sequence[str] | None = None, stride: int = 1
) -> FloatArray:
    """What a model file says of the n clips: (n, c) probabilities, or (n,) ratings; NaN where no face is seen.

    Args:
        known: The clips; where the card says `center: person`, they are centred by the person's mean among them, or by
            the card's of people who have too few.
        model: A classifier or regressor.
        labels: Which of its labels may be answered; None for all.
        stride: Of how many frames one was looked at.

    Raises:
        ModelIncompatible: It was fitted on another network or other statistics than the clips were looked at with, or
            does not answer what is asked.
        UsageError: It needs to be known who is who.
    """
    card = model.card
    check_network(model, known.table.about)
    if lacking := [name for name in card["statistics"] if name not in known.table.statistics]:
        raise ModelIncompatible(f"{model.identity.name} needs {lacking[0]}; give --face as it was fitted with")
    if unknown := [label for label in labels or () if label not in card.get("labels", ())]:
        raise ModelIncompatible(f"{model.identity.name} does not know {', '.join(unknown)}; see --labels")
    x = replace(known, center=card.get("center")).matrix(card["statistics"], stride, card.get("usual_statistics"))
    rows = np.nan_to_num(x, nan=1)  # where no face is seen, of which nothing will have been said
    with as_incompatible_model(model):
        if known.target:
            said = np.array(model.session.run(["value"], {"features": rows})[0], np.float32)[:, 0]
        else:
            said = clip_classifier.predict_proba(model.session, card, rows, labels or card["labels"])
    said[~np.isfinite(x).all(axis=1)] = np.nan
    return said


def evaluate_model(
    known: LabeledFeatures,
    model: Model,
    other: Model | None = None,
    labels: Sequence[str] | None = None,
    split: str | None = None,
    *,
    adaptive: bool = False,
) -> dict[str, Any]:
    """The report of a model file on labelled clips.

    Args:
        known: The clips.
        model: A classifier or regressor.
        other: Another classifier, for a paired test.
        labels: Which labels may be answered; None for all of the classifier's.
        split: The part to measure on, `all` for all; None for what is not for training, if the set says so.
        adaptive: Whether to tell how it does on few frames.

    Returns:
        As of `evaluate.evaluate` or `evaluate.evaluate_regression`, with `against` and `adaptive` if asked for, and
        `training_clips`, how many of the clips with a face the classifier was trained on, if its card tells.

    Raises:
        DatasetError: No clip is in that part.
        ModelIncompatible: As `predict_with_model`.
        UsageError: The classifier has no thresholds for few frames.
    """
    if split is None and known.parted:
        known = known.part(EVAL_SPLITS)
    elif split not in (None, "all"):
        known = known.part((split,))
    answered = None if known.target else labels or tuple(model.card["labels"])
    said = predict_with_model(known, model, answered)
    report = known.report(said, answered) | _training_clips(known, model)
    if other is not None:
        theirs = known.predictions(predict_with_model(known, other, answered), answered)
        compared = paired_test(known.predictions(said, answered), theirs)
        report["against"] = {"name": other.identity.name, **compared, **_training_clips(known, other)}
    if adaptive:
        report["adaptive"] = _early_exit_report(known, model, answered or ())
    return report


def _training_clips(known: LabeledFeatures, model: Model) -> dict[str, int]:
    """How many of the clips a classifier was trained on, by their digests; nothing if these are not known."""
    digests = model.card.get("training_digests")
    if not isinstance(digests, list) or not digests or not known.table.digests:
        return {}
    trained_on = set(map(str, digests))
    return {"training_clips": sum(digest in trained_on for digest in known.table.digests)}


def _early_exit_report(known: LabeledFeatures, model: Model, labels: Sequence[str]) -> dict[str, Any]:
    rates = exit_levels(model.card)
    said = np.stack(
        [predict_with_model(known, model, labels, stride) for stride in (*(rate.stride for rate in rates), 1)]
    )
    sure = np.nan_to_num(said.max(axis=2), nan=-np.inf)
    truth = known.predictions(said[-1], labels).truth[: said.shape[1]]
    found = early_exit_metrics(rates, list(sure), list(said.argmax(axis=2) == truth), known.table.counts)
    return {name: found[name] for name in ("share of frames", "accuracy")}


def compare_configurations(
    known: LabeledFeatures,
    statistics: Sequence[str],
    kinds: Sequence[Kind],
    count: int = FOLDS,
    *,
    scalings: Sequence[Scaling] | None = None,
    cross: bool = False,
) -> dict[str, dict[str, Any]]:
    """What each kind of classifier makes of each choice of statistics: the tables of the papers.

    Where the set has a part for measuring, each is chosen and fitted on the other part and measured on that; else, or
    if `cross` is set, by nested cross-validation by person on all clips.

    Returns:
        Name of the method to its report, as of `evaluate.evaluate` or `evaluate.evaluate_regression`.
    """
    parts = None if cross else known.held_out()
    found = {}
    for name in statistics:
        for kind in kinds:
            ways = candidates([name], [kind], scalings or ())
            if parts is None:
                said, _ = nested_cv_predict(known.examples([name]), ways, count)
                found[f"{name}, {kind}"] = known.report(said)
                continue
            examples = parts[0].examples([name])
            way, _ = select_candidate(examples, ways, count)
            held = parts[1].matrix(parse_statistics(name))
            found[f"{name}, {way.kind} ({way.cost:g})"] = parts[1].report(
                predict(fit(way, examples, count), held, examples.truth)
            )
    return found
