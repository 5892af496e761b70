"""Train a clip classifier or regressor: choose a candidate, fit it, evaluate it and write its model file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

from fervid.analysis.baseline import LOGITS
from fervid.analysis.clip_classifier import is_centered
from fervid.analysis.early_exit import STRIDES, fit_thresholds
from fervid.core.errors import DatasetError
from fervid.core.records import FloatArray
from fervid.learn.calibration import fit, predict
from fervid.learn.candidate_choice import nested_cv_predict, select_candidate
from fervid.learn.classifier_export import serialize_with_card, to_onnx
from fervid.learn.estimators import Truth, is_regression
from fervid.learn.feature_table import average_by_group
from fervid.learn.figures import list_report_figures
from fervid.learn.labeled_features import LabeledFeatures
from fervid.learn.model_selection import FOLDS, Candidate, parse_statistics, selection_score

SCORE_TOLERANCE = 1e-4
"""Covers the rounding of reports to four digits, and of float32."""


class TrainedModel(NamedTuple):
    """A fitted classifier or regressor.

    Attributes:
        content: The bytes of the model file.
        card: Its card.
        evaluations: The reports of `LabeledFeatures.evaluate` by protocol: `cross_validation_by_person` or
            `cross_validation_by_clip`, and `held_out` if the data set has a held-out split.
    """

    content: bytes
    card: dict[str, Any]
    evaluations: dict[str, dict[str, Any]]


def train_classifier(
    features: LabeledFeatures,
    candidates: Sequence[Candidate],
    name: str,
    n_folds: int = FOLDS,
    early_exit_error: float | None = None,
) -> TrainedModel:
    """Choose, fit and evaluate a classifier or regressor.

    The choice is evaluated by nested cross-validation by person. If the data set has a held-out split, the model is
    chosen and fitted without it and evaluated on it too.

    Args:
        features: Clips to fit on. If they are centred by person, the model needs centred features and its card says so.
        candidates: Candidates to choose from.
        name: Name of the model.
        n_folds: Number of folds.
        early_exit_error: Largest error rate that early exits may add; None fits no early exits.

    Raises:
        DatasetError: As for `split_folds`; or the model file scores worse on its training clips than in
            cross-validation.
    """
    splits = features.held_out()
    train, held_out = splits or (features, None)
    data = train.training_data({candidate.statistics for candidate in candidates})
    candidate, scores = select_candidate(data, candidates, n_folds)
    predictions, selected = nested_cv_predict(data, candidates, n_folds)
    model = fit(candidate, data, n_folds)
    statistics = parse_statistics(candidate.statistics)
    averages = _average_people(train, statistics)
    unit = "clip" if features.groups is None else "person"
    cross_validated = train.evaluate(predictions)
    evaluations = {f"cross_validation_by_{unit}": cross_validated}
    split = "train" if held_out else "all"
    figures = list_report_figures(cross_validated, features.name, split, f"cross-validated by {unit}")
    if held_out:
        x = held_out.matrix(statistics, fallback_means=averages.get("average_statistics"))
        split = "/".join(sorted({str(sample.split) for sample in held_out.table.samples}))
        evaluations["held_out"] = held_out.evaluate(predict(model, x))
        figures += list_report_figures(evaluations["held_out"], features.name, split, "held out")
    card = {
        "name": name,
        "kind": "regressor" if features.target else "classifier",
        **({"target": features.target} if features.target else {"labels": list(features.labels)}),
        "statistics": list(statistics),
        **({"center": features.center} if features.center else {}),
        **averages,
        **{key: features.table.provenance[key] for key in ("face", "face_model", "face_model_sha256", "detector")},
        "data": _summarize_data(train),
        "training_digests": sorted(set(train.table.digests)),
        "license": "as that of the clips it was fitted on",
        "recipe": _describe_choice(candidate, candidates, scores, selected, n_folds),
        "candidates": {str(other): round(score, 4) for other, score in scores.items()},
        "seed": features.seed,
        "figures": [figure.as_dict() for figure in figures],
    }
    if early_exit_error is not None:
        card["early_exit"] = _fit_exit_levels(train, candidate, n_folds, early_exit_error)
    x = data.matrices[candidate.statistics]
    content = serialize_with_card(to_onnx(model, x.shape[1]), card)
    check_training_score(content, x, data.truth, cross_validated)
    return TrainedModel(content, card, evaluations)


def _describe_choice(
    candidate: Candidate,
    candidates: Sequence[Candidate],
    scores: Mapping[Candidate, float],
    selected: Sequence[Candidate],
    n_folds: int,
) -> str:
    best = max(scores.values())
    better = (
        f"; another scored up to {best:.4f}, which is not clearly better over so few people"
        if scores[candidate] < best
        else ""
    )
    return (
        f"{candidate}, of {len(candidates)} candidates by {n_folds}-fold cross-validation{better};"
        f" the outer folds chose {', '.join(sorted({str(other) for other in selected}))}"
    )


def _average_people(features: LabeledFeatures, statistics: Sequence[str]) -> dict[str, Any]:
    """Compute the average person, which predictions relative to a baseline need; empty if people are unknown."""
    if features.groups is None:
        return {}
    if features.center:
        centered = filter(is_centered, statistics)
        return {"average_statistics": average_by_group(features.table, features.groups, centered)}
    if LOGITS not in features.table.statistics:
        return {}
    return {"average_logits": {"person": average_by_group(features.table, features.groups, [LOGITS])[LOGITS]}}


def check_training_score(content: bytes, x: FloatArray, truth: Truth, cross_validated: Mapping[str, Any]) -> None:
    """Check that a model file scores at least as well on its training clips as in cross-validation.

    The features (n, d) and the truth (n,) are those of the training clips; `cross_validated` is the report.

    Raises:
        DatasetError: It scores below the interval of cross-validation, or below its value if there is no interval.
    """
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (output,) = session.run(["value" if is_regression(truth) else "probabilities"], {"features": x})
    score = selection_score(truth, output[:, 0] if is_regression(truth) else output.argmax(axis=1))
    figure = cross_validated["ccc"] if is_regression(truth) else cross_validated["answered"]["uar"]
    lowest = figure["interval"][0] if figure["interval"] else figure["value"]
    if not score >= lowest - SCORE_TOLERANCE:
        measure = "concordance" if is_regression(truth) else "mean recall"
        raise DatasetError(
            f"the fitted model reaches a {measure} of {score:.3f} on its own training clips but {figure['value']:.3f}"
            " in cross-validation, so the file is wrong and is not written; try another --classifier-kind,"
            " --scaling or --seed"
        )


def _summarize_data(features: LabeledFeatures) -> dict[str, Any]:
    samples, unreadable = features.table.samples, features.table.unreadable_samples
    return {
        "name": features.name,
        "clips": {label: sum(sample.label == label for sample in samples) for label in features.labels} or len(samples),
        "people": None if features.groups is None else len(np.unique(features.groups)),
        "no_face": len(features.no_face_samples),
        **({"unreadable": len(unreadable)} if unreadable else {}),
    }


def _fit_exit_levels(features: LabeledFeatures, candidate: Candidate, n_folds: int, max_error: float) -> dict[str, Any]:
    """Fit a model on one half of the people and the early-exit thresholds on the other (Savchenko, ICML 2023)."""
    data = features.training_data((candidate.statistics,))
    train, test = data.folds(2)[0]
    model = fit(candidate, data[train], n_folds)
    truth, names = features.truth[test], parse_statistics(candidate.statistics)
    confidences, correct = [], []
    for stride in (*STRIDES, 1):
        x = features.table.matrix(names, stride)[test]
        has_face = np.isfinite(x).all(axis=1)
        probabilities = np.zeros((len(x), len(features.labels)), np.float32)
        if has_face.any():
            probabilities[has_face] = predict(model, x[has_face])
        confidences.append(np.where(has_face, probabilities.max(axis=1), -np.inf).astype(np.float32))
        correct.append(has_face & (probabilities.argmax(axis=1) == truth))
    return fit_thresholds(confidences, correct, features.table.counts[test], max_error)
