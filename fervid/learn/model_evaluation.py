"""Evaluate a model file on labelled clips, or compare configurations of a classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fervid.analysis import clip_classifier
from fervid.analysis.compatibility import as_incompatible_model
from fervid.analysis.early_exit import early_exit_metrics, exit_levels
from fervid.core.errors import ModelIncompatible
from fervid.core.records import FloatArray
from fervid.learn.calibration import fit, predict
from fervid.learn.candidate_choice import nested_cv_predict, select_candidate
from fervid.learn.estimators import ClassifierKind
from fervid.learn.labeled_features import EVAL_SPLITS, LabeledFeatures
from fervid.learn.model_selection import FOLDS, Scaling, make_candidates, parse_statistics
from fervid.learn.significance import paired_test
from fervid.models.registry import Model


def check_face_model(model: Model, provenance: Mapping[str, Any]) -> None:
    """Refuse a classifier or regressor that was fitted with another face model than the features come from.

    Raises:
        ModelIncompatible: The face models differ.
    """
    sha256s, expressions = (provenance["face_model_sha256"],), provenance.get("expressions", ())
    if not clip_classifier.matches_face_model(model.card, sha256s, expressions):
        raise ModelIncompatible(
            f"{model.identity.name} was fitted on another face model than {provenance['face_model']}; give the"
            " one that it was fitted on with --face-model"
        )


def predict_with_model(
    features: LabeledFeatures, model: Model, labels: Sequence[str] | None = None, stride: int = 1
) -> FloatArray:
    """Predict the n clips with a model file: (n, c) probabilities or (n,) ratings, NaN where no face is found.

    Args:
        features: The clips. If the card says `center: person`, they are centred by the person's mean among these clips,
            or, for people with few clips, by the mean in the card.
        model: A classifier or regressor.
        labels: The labels to allow; None for all.
        stride: Use the features of every `stride`-th frame.

    Raises:
        ModelIncompatible: The model was fitted with another face model or other statistics, or lacks a label.
        UsageError: The model needs to know the people, and they are unknown.
    """
    card = model.card
    check_face_model(model, features.table.provenance)
    if missing := [name for name in card["statistics"] if name not in features.table.statistics]:
        raise ModelIncompatible(f"{model.identity.name} needs {missing[0]}; use the --face that it was fitted with")
    if unknown := [label for label in labels or () if label not in card.get("labels", ())]:
        raise ModelIncompatible(f"{model.identity.name} has no label {', '.join(unknown)}; see --labels")
    centered = replace(features, center=card.get("center"))
    x = centered.matrix(card["statistics"], stride, card.get("average_statistics"))
    has_face = np.isfinite(x).all(axis=1)
    rows = np.nan_to_num(x, nan=1)  # any valid values: predictions without a face are discarded
    with as_incompatible_model(model):
        if features.target:
            predicted = np.array(model.session.run(["value"], {"features": rows})[0], np.float32)[:, 0]
        else:
            predicted = clip_classifier.predict_proba(model.session, card, rows, labels or card["labels"])
    predicted[~has_face] = np.nan
    return predicted


def evaluate_model(
    features: LabeledFeatures,
    model: Model,
    other: Model | None = None,
    labels: Sequence[str] | None = None,
    split: str | None = None,
    *,
    adaptive: bool = False,
) -> dict[str, Any]:
    """Evaluate a model file on labelled clips.

    Args:
        features: The clips.
        model: A classifier or regressor.
        other: Another classifier, for a paired test.
        labels: The labels to allow; None for all labels of the classifier.
        split: The split to evaluate on, or `all`; None for the held-out splits if the data set has any, else for all.
        adaptive: Also evaluate early exits.

    Returns:
        The report of `metrics.evaluate` or `metrics.evaluate_regression`, with `comparison` and `early_exit` if
        requested, and `training_clips`, the number of clips with a face that the model was trained on, if known.

    Raises:
        DatasetError: No clip is in that split.
        ModelIncompatible: As for `predict_with_model`.
        UsageError: The classifier has no early-exit thresholds.
    """
    if split is None and features.has_split:
        features = features.split(EVAL_SPLITS)
    elif split not in (None, "all"):
        features = features.split((split,))
    model_labels = None if features.target else labels or tuple(model.card["labels"])
    predicted = predict_with_model(features, model, model_labels)
    report = features.evaluate(predicted, model_labels) | _count_training_clips(features, model)
    if other is not None:
        other_predicted = predict_with_model(features, other, model_labels)
        comparison = paired_test(
            features.predictions(predicted, model_labels), features.predictions(other_predicted, model_labels)
        )
        report["comparison"] = {"name": other.identity.name, **comparison, **_count_training_clips(features, other)}
    if adaptive:
        report["early_exit"] = _early_exit_report(features, model, model_labels or ())
    return report


def _count_training_clips(features: LabeledFeatures, model: Model) -> dict[str, int]:
    """Count the clips that a model was trained on, by their digests; empty if these are unknown."""
    digests = model.card.get("training_digests")
    if not isinstance(digests, list) or not digests or not features.table.digests:
        return {}
    trained_on = set(map(str, digests))
    return {"training_clips": sum(digest in trained_on for digest in features.table.digests)}


def _early_exit_report(features: LabeledFeatures, model: Model, labels: Sequence[str]) -> dict[str, Any]:
    levels = exit_levels(model.card)
    strides = (*(level.stride for level in levels), 1)
    probabilities = np.stack([predict_with_model(features, model, labels, stride) for stride in strides])
    confidences = np.nan_to_num(probabilities.max(axis=2), nan=-np.inf)
    truth = features.predictions(probabilities[-1], labels).truth[: probabilities.shape[1]]
    correct = probabilities.argmax(axis=2) == truth
    report = early_exit_metrics(levels, list(confidences), list(correct), features.table.counts)
    return {name: report[name] for name in ("frame_fraction", "accuracy")}


def compare_configurations(
    features: LabeledFeatures,
    statistics: Sequence[str],
    kinds: Sequence[ClassifierKind],
    n_folds: int = FOLDS,
    *,
    scalings: Sequence[Scaling] | None = None,
    cross: bool = False,
) -> dict[str, dict[str, Any]]:
    """Evaluate each kind of classifier on each set of statistics, as in the tables of the papers.

    If the data set has a held-out split and `cross` is not set, each configuration is chosen and fitted on the training
    split and evaluated on the held-out one, else it is evaluated by nested cross-validation by person on all clips.

    Returns:
        The report of `metrics.evaluate` or `metrics.evaluate_regression` by name of the configuration.
    """
    splits = None if cross else features.held_out()
    reports = {}
    for name in statistics:
        for kind in kinds:
            candidates = make_candidates([name], [kind], scalings or ())
            if splits is None:
                predicted, _ = nested_cv_predict(features.training_data([name]), candidates, n_folds)
                reports[f"{name}, {kind}"] = features.evaluate(predicted)
                continue
            train, held_out = splits
            data = train.training_data([name])
            candidate, _ = select_candidate(data, candidates, n_folds)
            predicted = predict(fit(candidate, data, n_folds), held_out.matrix(parse_statistics(name)))
            reports[f"{name}, {candidate.kind} ({candidate.hyperparameter:g})"] = held_out.evaluate(predicted)
    return reports
