"""Labelled clips that were looked at: what a classifier is fitted on, and what it is measured by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import onnxruntime

from fervid.analysis.baseline import LOGITS, MIN_CLIPS, MOVED, identify_people
from fervid.analysis.clip_classifier import is_centered
from fervid.analysis.early_exit import STRIDES, fit_thresholds
from fervid.analysis.extractor import Extractor
from fervid.core.errors import DatasetError, NoFaceError, UsageError
from fervid.core.records import FloatArray
from fervid.core.text import plural
from fervid.learn.candidate_choice import nested_cv_predict, select_candidate
from fervid.learn.centering import average_by_group, center_by_group
from fervid.learn.dataset import Dataset, labels_with_few_people
from fervid.learn.dataset_layouts import Sample
from fervid.learn.feature_table import IDENTITY, ClipFeaturesRow, FeatureTable
from fervid.learn.metrics import Predictions, evaluate, evaluate_regression
from fervid.learn.model_selection import (
    FOLDS,
    SEED,
    Candidate,
    Groups,
    TrainingData,
    Truth,
    fit,
    is_regression,
    parse_statistics,
    predict,
    selection_score,
    serialize_with_card,
    to_onnx,
)

EVAL_SPLITS = ("val", "test")
ROUNDING = 1e-4
"""Half a unit of the last digit that reports have, and rounding of float32."""


@dataclass(frozen=True, slots=True, eq=False)
class LabeledFeatures:
    """Clips whose truth is known.

    Attributes:
        name: Of the data set.
        table: Features of the n clips that show a face, and the m that do not.
        labels: The classes; none if a rating is the truth.
        target: Name of the rating.
        groups: (n,) who is in each clip; None if each stands alone.
        seed: Of folds and classifiers.
        center: Whether features are centred by person: `person`, or None.
    """

    name: str
    table: FeatureTable
    labels: tuple[str, ...]
    target: str | None = None
    groups: Groups = None
    seed: int = SEED
    center: Literal["person"] | None = None

    @property
    def truth(self) -> Truth:
        """(n,) class numbers, or ratings."""
        return self._truth(self.table.samples)

    def examples(self, statistics: Iterable[str]) -> TrainingData:
        """To fit on, with statistics as `fit.statistics_of` reads them.

        Raises:
            DatasetError: No clip of a class shows a face.
            UsageError: There are no such statistics, or the clips were not looked at for them.
        """
        truth, matrices = self.truth, {}
        if lacking := [label for i, label in enumerate(self.labels) if i not in truth]:
            raise DatasetError(
                f"no clip of {', '.join(lacking)} in {self.name} that is to learn from shows a face; add some,"
                " or leave these out with --labels"
            )
        for name in statistics:
            parts = parse_statistics(name)
            if lacking := [part for part in parts if part not in self.table.statistics]:
                raise UsageError(
                    f"the statistics {name} need {lacking[0]}; look at everybody in a clip with --face all"
                )
            matrices[name] = self.matrix(parts)
        return TrainingData(matrices, truth, self.groups, self.seed, self.center is not None)

    def matrix(
        self, names: Sequence[str], stride: int = 1, usual: Mapping[str, Sequence[float]] | None = None
    ) -> FloatArray:
        """(n, d) the named statistics side by side, centred by person if that is asked for.

        As a person is never in two parts or folds, the means are of the clips of one part or fold alone. A person with
        fewer than `MIN_CLIPS` clips has no mean that says much and gets the usual one, as `--baseline person` does.

        Args:
            names: Of the statistics.
            stride: Of how many frames one was looked at.
            usual: The usual mean of each centred statistic; None for the average of the people here, each alike.

        Raises:
            UsageError: It is not known who is who.
        """
        x = self.table.matrix(names, stride)
        if self.center is None:
            return x
        if self.groups is None:
            raise UsageError("to centre features by person it has to be known who is who; leave out --group none")
        widths = [self.table.statistics[name].shape[1] for name in names]
        means = average_by_group(self.table, self.groups, names) if usual is None else usual
        others = [
            means[name] if is_centered(name) else [0.0] * width for name, width in zip(names, widths, strict=True)
        ]
        columns = np.repeat([is_centered(name) for name in names], widths)
        return center_by_group(x, self.groups, columns, MIN_CLIPS, np.concatenate(others))

    def part(self, splits: Sequence[str]) -> LabeledFeatures:
        """The clips of some splits.

        Raises:
            DatasetError: None of them shows a face.
        """
        chosen = np.array([sample.split in splits for sample in self.table.samples], bool)
        if not chosen.any():
            raise DatasetError(
                f"no clip of {self.name} in the part {'/'.join(splits)} shows a face; see --split and --min-face"
            )
        faceless, broken = (
            tuple(sample for sample in samples if sample.split in splits)
            for samples in (self.faceless, self.table.broken)
        )
        groups = None if self.groups is None else self.groups[chosen]
        return replace(self, table=replace(self.table[chosen], faceless=faceless, broken=broken), groups=groups)

    @property
    def faceless(self) -> tuple[Sample, ...]:
        """The m clips that show no face."""
        return self.table.faceless

    @property
    def parted(self) -> bool:
        """Whether the set says what is for training and what for measuring."""
        splits = {sample.split for sample in (*self.table.samples, *self.faceless)}
        return "train" in splits and not splits.isdisjoint(EVAL_SPLITS)

    def held_out(self) -> tuple[LabeledFeatures, LabeledFeatures] | None:
        """What is for training and what for measuring; None if the set does not say.

        Raises:
            DatasetError: No clip of one of them shows a face.
        """
        return (self.part(("train",)), self.part(EVAL_SPLITS)) if self.parted else None

    def report(self, said: FloatArray, labels: Sequence[str] | None = None) -> dict[str, Any]:
        """Figures of what was said of the n clips, with the faceless ones as clips without an answer.

        Args:
            said: (n, c) probabilities, or (n,) ratings.
            labels: The classes that were answered, if there are more than of the clips.
        """
        if self.target is None:
            return evaluate(self.predictions(said, labels))
        nothing = np.full(len(self.faceless), np.nan)
        return evaluate_regression(
            np.concatenate([self.truth, [sample.ratings[self.target] for sample in self.faceless]]),
            np.concatenate([said, nothing]).astype(np.float64),
            self._everyone(),
        )

    def predictions(self, said: FloatArray, labels: Sequence[str] | None = None) -> Predictions:
        """What was said of the n clips, and of the faceless ones nothing."""
        nothing = np.full((len(self.faceless), said.shape[1]), np.nan, np.float32)
        truth = np.asarray(self._truth((*self.table.samples, *self.faceless), labels), np.int64)
        return Predictions(labels or self.labels, truth, np.concatenate([said, nothing]), self._everyone())

    def _truth(self, samples: Sequence[Sample], labels: Sequence[str] | None = None) -> Truth:
        if self.target:
            return np.array([sample.ratings[self.target] for sample in samples], np.float64)
        number = {label: i for i, label in enumerate(labels or self.labels)}
        return np.array([number[str(sample.label)] for sample in samples], np.int64)

    def _everyone(self) -> Groups:
        """(n + m,) the faceless clips stand alone."""
        if self.groups is None:
            return None
        return np.concatenate([self.groups, self.groups.max(initial=-1) + 1 + np.arange(len(self.faceless))])


def build_feature_table(
    rows: Iterable[ClipFeaturesRow], about: Mapping[str, Any], *, skip_broken: bool = False
) -> FeatureTable:
    """The features of clips.

    Args:
        rows: A row for each clip.
        about: What the features come from, as of `FeatureTable`.
        skip_broken: Whether clips that cannot be read are left out; else they are an error that names them all.

    Raises:
        DatasetError: Clips cannot be read, or none shows a face.
    """
    rows = list(rows)
    problems = [
        str(row.problem) for row in rows if row.problem is not None and not isinstance(row.problem, NoFaceError)
    ]
    if problems and not skip_broken:
        raise DatasetError(
            f"{plural(len(problems), 'clip')} cannot be read: {'; '.join(problems)}; mend or remove what is named here,"
            " or leave it out with `fervid train --skip-broken`"
        )
    return FeatureTable.of(rows, about)


def feature_provenance(extractor: Extractor) -> dict[str, Any]:
    """What a card says of the models and options that features come from.

    `same_person` is the cosine from which two faces are one person.
    """
    network = extractor.network
    return {
        "face": extractor.options.face,
        "network": network.identity.name,
        "network_sha256": network.card.get("quantised_from", network.identity.sha256),
        "expressions": list(network.card["expressions"]),
        "detector": extractor.detector.identity.name,
        "same_person": extractor.rule.same_person,
    }


def validate_dataset(
    found: Dataset,
    *,
    target: str | None = None,
    group: Literal["auto", "none"] = "auto",
    answerable: Sequence[str] | None = None,
) -> None:
    """Whether labelled clips will do, before they are looked at.

    Args:
        found: The clips.
        target: The rating to fit on, or that a regressor answers.
        group: As in `label_features`.
        answerable: Labels of the classifier that is measured; None if one is to be fitted.

    Raises:
        DatasetError: A label or a rating is missing or unknown, or a class to fit on has too few people.
    """
    if target:
        found.target(target)
        return
    if unlabelled := [sample for sample in found.samples if sample.label is None]:
        where = f" ({unlabelled[0].where})" if unlabelled[0].where else ""
        raise DatasetError(f"{unlabelled[0].path}{where} has no label; give it one, or name a --target")
    if answerable is not None:
        if unknown := [label for label in found.labels if label not in answerable]:
            known = [label for label in found.labels if label in answerable]
            hint = f"leave those clips out with --labels {','.join(known)}" if known else "measure another"
            raise DatasetError(
                f"the classifier does not know {', '.join(unknown)}, but {', '.join(answerable)}; {hint}"
            )
    elif len(found.labels) < 2:
        raise DatasetError(f"{found.name} has only the class {found.labels[0]}; it takes two or more to tell apart")
    elif group == "auto" and (alone := labels_with_few_people(found)):
        firsts = (next(sample for sample in found.samples if sample.label == label) for label in alone)
        named = "; ".join(f"{first.label} ({first.where or first.path})" for first in firsts)
        raise DatasetError(
            f"{named}: a class with fewer than two people cannot be measured by person;"
            " add people, or let every clip stand alone with --group none"
        )


def label_features(
    found: Dataset,
    table: FeatureTable,
    *,
    target: str | None = None,
    group: Literal["auto", "none"] = "auto",
    seed: int = SEED,
    center: Literal["person"] | None = None,
) -> LabeledFeatures:
    """Labelled clips with their features.

    Args:
        found: The clips, with which `validate_dataset` finds no fault.
        table: Their features; `same_person` of its `feature_provenance` is the cosine from which two faces are
            one person.
        target: The rating to fit on instead of the classes.
        group: `auto` keeps the clips of a person together: by the names of the set, else by how alike the faces are.
        seed: Of folds and classifiers.
        center: Whether features are centred by person.

    Raises:
        UsageError: It is not known who is who.
        DatasetError: Features are centred by person, and nobody has `MIN_CLIPS` clips.
    """
    if table.about.get("baseline"):
        raise UsageError(
            "these features are relative to people already; write them without --baseline, then train with"
            " --center person"
        )
    groups = _groups(table, group)
    if center and groups is not None and np.bincount(groups).max(initial=0) < MIN_CLIPS:
        raise DatasetError(
            f"nobody has {MIN_CLIPS} clips with a face, fewer than which give no mean to compare a person with; add"
            " clips of the same people, or leave out --center person"
        )
    labels = () if target else found.labels
    return LabeledFeatures(found.name, table, labels, target or None, groups, seed, center)


def relative_to_people(table: FeatureTable) -> FeatureTable:
    """Subtract the average of a person from the logits of each clip, as `--baseline person` does.

    People are grouped as by `label_features`.

    Raises:
        UsageError: It is not known who is who.
    """
    groups = _groups(table, "auto")
    if groups is None:
        raise UsageError("it is not known who is who in these clips")
    moved = {
        name: center_by_group(rows, groups, np.ones(rows.shape[1], bool)) if name in MOVED else rows
        for name, rows in table.statistics.items()
    }
    return replace(table, statistics=moved, about={**table.about, "baseline": "person"})


def _groups(table: FeatureTable, group: str) -> Groups:
    if group == "none":
        return None
    named = [sample.person for sample in table.samples]
    if None not in named:
        return np.asarray(np.unique(np.array(named, np.str_), return_inverse=True)[1], np.int64)
    if IDENTITY not in table.statistics:
        raise UsageError(
            "these features do not say who is who; give the clips themselves, looked at by a network that knows"
            " identities, name the people, or add --group none"
        )
    clips = range(len(table.samples))
    return identify_people(table.statistics[IDENTITY], clips, table.counts.tolist(), float(table.about["same_person"]))


def train_classifier(
    known: LabeledFeatures, ways: Sequence[Candidate], name: str, count: int = FOLDS, error: float | None = None
) -> tuple[bytes, dict[str, Any]]:
    """Choose, fit and measure a classifier or regressor.

    The choice is measured by nested cross-validation by person; where the set has a part for measuring, it is kept out
    of choice and fit, and measured too.

    Args:
        known: What to fit on; if it is centred by person, the file takes features that are, and its card says so.
        ways: To choose from.
        name: Of the model.
        count: Folds.
        error: Share of clips that an answer from few frames may get wrong; None fits no thresholds for that.

    Returns:
        The bytes of the model file, and its card.

    Raises:
        DatasetError: As `fit.folds`; or the file answers its own training clips worse than was cross-validated.
    """
    parts = known.held_out()
    fitted_on = parts[0] if parts else known
    examples = fitted_on.examples({way.statistics for way in ways})
    way, scores = select_candidate(examples, ways, count)
    said, chosen = nested_cv_predict(examples, ways, count)
    pipeline = fit(way, examples, count)
    alone = "clip" if known.groups is None else "person"
    cross_validated = fitted_on.report(said)
    figures = {f"cross-validated by {alone} on {known.name}": cross_validated}
    if parts:
        names = parse_statistics(way.statistics)
        held = parts[1].matrix(names, usual=_usual(fitted_on, names).get("usual_statistics"))
        splits = "/".join(sorted({str(sample.split) for sample in parts[1].table.samples}))
        figures[f"held-out {splits} of {known.name}"] = parts[1].report(predict(pipeline, held, examples.truth))
    passed_over = (
        f"; another scored up to {max(scores.values()):.4f}, which is not clearly better over so few people"
        if scores[way] < max(scores.values())
        else ""
    )
    card = {
        "name": name,
        "kind": "regressor" if known.target else "classifier",
        **({"target": known.target} if known.target else {"labels": list(known.labels)}),
        "statistics": list(parse_statistics(way.statistics)),
        **({"center": known.center} if known.center else {}),
        **_usual(fitted_on, parse_statistics(way.statistics)),
        **{key: known.table.about[key] for key in ("face", "network", "network_sha256", "detector")},
        "data": _summary(fitted_on),
        "training_digests": sorted(set(fitted_on.table.digests)),
        "licence": "as that of the clips it was fitted on",
        "recipe": f"{way}, of {len(ways)} candidates by {count}-fold cross-validation{passed_over};"
        f" the outer folds chose {', '.join(sorted({str(one) for one in chosen}))}",
        "candidates": {str(one): round(value, 4) for one, value in scores.items()},
        "seed": known.seed,
        "figures": figures,
    }
    if error is not None:
        card["adaptive"] = _fit_exit_levels(fitted_on, way, count, error)
    x = examples.matrices[way.statistics]
    data = serialize_with_card(to_onnx(pipeline, x.shape[1]), card)
    check_training_score(data, x, examples.truth, cross_validated)
    return data, card


def _usual(known: LabeledFeatures, statistics: Sequence[str]) -> dict[str, Any]:
    """What people show on average, each alike, for answers relative to a baseline; nothing where nobody is known."""
    if known.groups is None:
        return {}
    if known.center:
        return {"usual_statistics": average_by_group(known.table, known.groups, filter(is_centered, statistics))}
    if LOGITS not in known.table.statistics:
        return {}
    return {"usual_logits": {"person": average_by_group(known.table, known.groups, [LOGITS])[LOGITS]}}


def check_training_score(data: bytes, x: FloatArray, truth: Truth, cross_validated: Mapping[str, Any]) -> None:
    """Run a model file on the clips that it was fitted on, which it must know at least as well as other people's.

    Args:
        data: The bytes of the file.
        x: (n, d) features of the training clips.
        truth: (n,) their classes or ratings.
        cross_validated: The report of cross-validation.

    Raises:
        DatasetError: It scores below the interval of cross-validation, or below its value where there is no interval.
    """
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (output,) = session.run(["value" if is_regression(truth) else "probabilities"], {"features": x})
    reached = selection_score(truth, output[:, 0] if is_regression(truth) else output.argmax(axis=1))
    figure = cross_validated["ccc"] if is_regression(truth) else cross_validated["answered"]["uar"]
    least = figure["interval"][0] if figure["interval"] else figure["value"]
    if not reached >= least - ROUNDING:
        measure = "concordance" if is_regression(truth) else "mean recall"
        raise DatasetError(
            f"the fitted file reaches a {measure} of {reached:.3f} on its own training clips, and cross-validation"
            f" {figure['value']:.3f} on people it did not know, so it is not what was measured and is not written;"
            " try another --kind, --scaling or --seed"
        )


def _summary(known: LabeledFeatures) -> dict[str, Any]:
    samples = known.table.samples
    people_ = None if known.groups is None else len(np.unique(known.groups))
    clips = {label: sum(sample.label == label for sample in samples) for label in known.labels}
    summary = {"name": known.name, "clips": clips or len(samples), "people": people_, "faceless": len(known.faceless)}
    return summary | ({"broken": len(known.table.broken)} if known.table.broken else {})


def _fit_exit_levels(known: LabeledFeatures, way: Candidate, count: int, error: float) -> dict[str, Any]:
    """Thresholds for few frames: fitted on one half of the people, set on the other (Savchenko, ICML 2023)."""
    examples = known.examples((way.statistics,))
    half, other = examples.folds(2)[0]
    pipeline = fit(way, examples[half], count)
    truth, names = known.truth[other], parse_statistics(way.statistics)
    confidences, right = [], []
    for stride in (*STRIDES, 1):
        x = known.table.matrix(names, stride)[other]
        seen = np.isfinite(x).all(axis=1)
        said = np.zeros((len(x), len(known.labels)), np.float32)
        if seen.any():
            said[seen] = predict(pipeline, x[seen], truth)
        confidences.append(np.where(seen, said.max(axis=1), -np.inf).astype(np.float32))
        right.append(seen & (said.argmax(axis=1) == truth))
    return fit_thresholds(confidences, right, known.table.counts[other], error)
