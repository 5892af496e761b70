"""Features of labelled clips: what a classifier is fitted on and evaluated with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fervid.analysis.baseline import IDENTITY, MIN_CLIPS, SHIFTED_STATISTICS, identify_people
from fervid.analysis.clip_classifier import is_centered
from fervid.analysis.extractor import Extractor
from fervid.core.errors import DatasetError, NoFaceError, UsageError
from fervid.core.records import FloatArray
from fervid.core.text import plural
from fervid.learn.dataset import Dataset
from fervid.learn.dataset_layouts import Sample
from fervid.learn.estimators import Truth
from fervid.learn.feature_extraction import ClipFeaturesRow
from fervid.learn.feature_table import FeatureTable, average_by_group, center_by_group
from fervid.learn.metrics import SEED, Predictions, evaluate, evaluate_regression
from fervid.learn.model_selection import Groups, TrainingData, parse_statistics

EVAL_SPLITS = ("val", "test")


@dataclass(frozen=True, slots=True, eq=False)
class LabeledFeatures:
    """Features of clips with their true labels or ratings.

    Attributes:
        name: Name of the data set.
        table: Features of the n clips that show a face, and the list of the m that do not.
        labels: The classes; empty if the truth is a rating.
        target: Name of the rating; None if the truth is a class.
        groups: (n,) the person in each clip; None if all clips are independent.
        seed: Random seed of folds and classifiers.
        center: `person` to subtract each person's mean from the features, or None.
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
        """(n,) class indices, or ratings."""
        return self._truth(self.table.samples)

    def training_data(self, statistics: Iterable[str]) -> TrainingData:
        """Build the matrices for the named statistics, which `parse_statistics` expands.

        Raises:
            DatasetError: No clip of a class shows a face.
            UsageError: A statistic does not exist, or was not extracted from the clips.
        """
        truth, matrices = self.truth, {}
        if missing := [label for i, label in enumerate(self.labels) if i not in truth]:
            raise DatasetError(
                f"no face found in any training clip of {', '.join(missing)} in {self.name}; add clips, or exclude the"
                " class with --labels"
            )
        for name in statistics:
            parts = parse_statistics(name)
            if missing := [part for part in parts if part not in self.table.statistics]:
                raise UsageError(
                    f"the statistics {name} need {missing[0]}; extract all faces of a clip with --face all"
                )
            matrices[name] = self.matrix(parts)
        return TrainingData(matrices, truth, self.groups, self.seed, self.center is not None)

    def matrix(
        self, names: Sequence[str], stride: int = 1, fallback_means: Mapping[str, Sequence[float]] | None = None
    ) -> FloatArray:
        """Concatenate the named statistics (n, d), centred by person if `center` is set.

        A person is never in two splits or folds, so each mean uses clips of one split or fold only. A person with fewer
        than `MIN_CLIPS` clips has no reliable mean and gets a fallback, as with `--baseline person`.

        Args:
            names: Names of pooled statistics.
            stride: Use the features of every `stride`-th frame.
            fallback_means: Mean of each centred statistic for people with few clips; None for the average over the
                people in these clips, each with the same weight.

        Raises:
            UsageError: The people are unknown.
        """
        if self.center is None:
            return self.table.matrix(names, stride)
        if self.groups is None:
            raise UsageError("centring features by person needs to know the people; leave out --group-by none")
        means = average_by_group(self.table, self.groups, names) if fallback_means is None else fallback_means
        parts = []
        for name in names:
            x = self.table.matrix([name], stride)
            parts.append(center_by_group(x, self.groups, MIN_CLIPS, means[name]) if is_centered(name) else x)
        return np.concatenate(parts, axis=1)

    def split(self, names: Sequence[str]) -> LabeledFeatures:
        """Select the clips of some splits.

        Raises:
            DatasetError: None of them shows a face.
        """
        rows = np.array([sample.split in names for sample in self.table.samples], bool)
        if not rows.any():
            raise DatasetError(
                f"no clip of {self.name} in the {'/'.join(names)} split shows a face; see --split and --min-face"
            )
        table = replace(
            self.table[rows],
            no_face_samples=tuple(sample for sample in self.no_face_samples if sample.split in names),
            unreadable_samples=tuple(sample for sample in self.table.unreadable_samples if sample.split in names),
        )
        return replace(self, table=table, groups=None if self.groups is None else self.groups[rows])

    @property
    def no_face_samples(self) -> tuple[Sample, ...]:
        """The m clips that show no face."""
        return self.table.no_face_samples

    @property
    def has_split(self) -> bool:
        """Whether the data set has a training split and a validation or test split."""
        splits = {sample.split for sample in (*self.table.samples, *self.no_face_samples)}
        return "train" in splits and not splits.isdisjoint(EVAL_SPLITS)

    def held_out(self) -> tuple[LabeledFeatures, LabeledFeatures] | None:
        """Return the training clips and the held-out clips; None if the data set has no split.

        Raises:
            DatasetError: No clip of one of them shows a face.
        """
        return (self.split(("train",)), self.split(EVAL_SPLITS)) if self.has_split else None

    def evaluate(self, predicted: FloatArray, labels: Sequence[str] | None = None) -> dict[str, Any]:
        """Compute the report of predictions for the n clips; those that show no face count as not predicted.

        The predictions are (n, c) probabilities of the `labels`, by default those of the clips, or (n,) ratings.
        """
        if self.target is None:
            return evaluate(self.predictions(predicted, labels))
        missing = np.full(len(self.no_face_samples), np.nan)
        return evaluate_regression(
            np.concatenate([self.truth, [sample.ratings[self.target] for sample in self.no_face_samples]]),
            np.concatenate([predicted, missing]).astype(np.float64),
            self._all_groups(),
        )

    def predictions(self, probabilities: FloatArray, labels: Sequence[str] | None = None) -> Predictions:
        """Combine the probabilities of the n clips with rows of NaN for the m clips that show no face."""
        missing = np.full((len(self.no_face_samples), probabilities.shape[1]), np.nan, np.float32)
        truth = np.asarray(self._truth((*self.table.samples, *self.no_face_samples), labels), np.int64)
        rows = np.concatenate([probabilities, missing])
        return Predictions(labels or self.labels, truth, rows, self._all_groups())

    def _truth(self, samples: Sequence[Sample], labels: Sequence[str] | None = None) -> Truth:
        if self.target:
            return np.array([sample.ratings[self.target] for sample in samples], np.float64)
        index = {label: i for i, label in enumerate(labels or self.labels)}
        return np.array([index[str(sample.label)] for sample in samples], np.int64)

    def _all_groups(self) -> Groups:
        """Extend `groups` to (n + m,); each clip that shows no face is a group of its own."""
        if self.groups is None:
            return None
        return np.concatenate([self.groups, self.groups.max(initial=-1) + 1 + np.arange(len(self.no_face_samples))])


def build_feature_table(
    rows: Iterable[ClipFeaturesRow], provenance: Mapping[str, Any], *, skip_broken: bool = False
) -> FeatureTable:
    """Build a feature table with the provenance of `feature_provenance`, and refuse or skip clips that cannot be read.

    Raises:
        DatasetError: Clips cannot be read and are not to be skipped; the message names all. Or no clip shows a face.
    """
    rows = list(rows)
    errors = [str(row.error) for row in rows if row.error is not None and not isinstance(row.error, NoFaceError)]
    if errors and not skip_broken:
        raise DatasetError(
            f"{plural(len(errors), 'clip')} cannot be read: {'; '.join(errors)}; repair or remove these files, or skip"
            " them with `fervid train --skip-broken`"
        )
    return FeatureTable.from_rows(rows, provenance)


def feature_provenance(extractor: Extractor) -> dict[str, Any]:
    """Describe the models and options that features come from, for the card of a classifier.

    `min_person_similarity` is the cosine similarity from which two faces count as one person.
    """
    face_model = extractor.face_model
    return {
        "face": extractor.options.face,
        "face_model": face_model.identity.name,
        "face_model_sha256": face_model.card.get("quantised_from", face_model.identity.sha256),
        "expressions": list(face_model.card["expressions"]),
        "detector": extractor.detector.identity.name,
        "min_person_similarity": extractor.tracker_config.min_person_similarity,
    }


def label_features(
    dataset: Dataset,
    table: FeatureTable,
    *,
    target: str | None = None,
    group: Literal["auto", "none"] = "auto",
    seed: int = SEED,
    center: Literal["person"] | None = None,
) -> LabeledFeatures:
    """Combine the labels of a data set with the features of its clips.

    Args:
        dataset: Labelled clips that passed `validate_dataset`.
        table: Features of the clips, with the provenance of `feature_provenance`.
        target: The rating to fit on instead of the classes.
        group: `auto` groups clips by person: by the names in the data set, else by the similarity of faces.
        seed: Random seed of folds and classifiers.
        center: `person` to centre the features by person.

    Raises:
        UsageError: The people are unknown, or the features are already relative to people.
        DatasetError: Features are to be centred by person, and nobody has `MIN_CLIPS` clips.
    """
    if table.provenance.get("baseline"):
        raise UsageError(
            "these features are already relative to each person; write them without --baseline, then train with"
            " --center person"
        )
    groups = None if group == "none" else _group_by_person(table)
    if center and groups is not None and np.bincount(groups).max(initial=0) < MIN_CLIPS:
        raise DatasetError(
            f"nobody has {MIN_CLIPS} clips with a face, which the mean of a person needs; add clips of the same people,"
            " or leave out --center person"
        )
    labels = () if target else dataset.labels
    return LabeledFeatures(dataset.name, table, labels, target or None, groups, seed, center)


def relative_to_people(table: FeatureTable) -> FeatureTable:
    """Subtract each person's average from the logits of the clips, as `--baseline person` does.

    People are grouped as by `label_features`.

    Raises:
        UsageError: The people are unknown.
    """
    groups = _group_by_person(table)
    statistics = {
        name: center_by_group(rows, groups) if name in SHIFTED_STATISTICS else rows
        for name, rows in table.statistics.items()
    }
    return replace(table, statistics=statistics, provenance={**table.provenance, "baseline": "person"})


def _group_by_person(table: FeatureTable) -> NDArray[np.int64]:
    names = [sample.person for sample in table.samples]
    numbers = {name: number for number, name in enumerate(sorted({name for name in names if name is not None}))}
    groups = np.array([-1 if name is None else numbers[name] for name in names], np.int64)
    unnamed = np.flatnonzero(groups < 0)
    if not len(unnamed):
        return groups
    if IDENTITY not in table.statistics:
        raise UsageError(
            "these features do not identify people; give the clips themselves with a face model that has identities,"
            " add the names of the people, or use --group-by none"
        )
    min_similarity = float(table.provenance["min_person_similarity"])
    vectors, frames = table.statistics[IDENTITY][unnamed], table.counts[unnamed]
    people = identify_people(vectors, unnamed.tolist(), frames.tolist(), min_similarity)
    groups[unnamed] = len(numbers) + people
    return groups
