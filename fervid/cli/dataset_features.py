"""Loading of labelled clips and of their features, for `features`, `train`, `evaluate` and `compare`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fervid.cli.dataset_flags import ExtractionOptions, LabeledClipOptions
from fervid.cli.options import parse_labels, plan_workers
from fervid.core.errors import UsageError

if TYPE_CHECKING:
    from fervid.analysis.extractor import Extractor
    from fervid.learn.dataset import Dataset
    from fervid.learn.feature_extraction import ClipFeaturesRow
    from fervid.learn.feature_table import FeatureTable
    from fervid.learn.labeled_features import LabeledFeatures
    from fervid.models.registry import Model


def extract_rows(
    dataset: Dataset,
    extraction: ExtractionOptions,
    strides: Sequence[int] = (),
    models: Sequence[Model] = (),
) -> tuple[Extractor, list[ClipFeaturesRow]]:
    """Extract the features of every clip of a data set.

    Args:
        dataset: Clips; labels are optional.
        extraction: How features are extracted.
        strides: Further sampling strides, for early exits.
        models: Classifiers that will be evaluated on the features.

    Raises:
        ModelIncompatible: A classifier was fitted on the features of another face model.
    """
    from fervid.analysis.extractor import load_extractor
    from fervid.core.progress import track_clips
    from fervid.learn.feature_extraction import extract_features
    from fervid.learn.labeled_features import feature_provenance
    from fervid.learn.model_evaluation import check_face_model

    jobs, threads = plan_workers(len(dataset.samples), extraction.jobs, None)
    extractor = load_extractor(options=extraction.options, threads=threads, **asdict(extraction.models))
    for model in models:
        check_face_model(model, feature_provenance(extractor))
    cache = extraction.cache or _find_cache()
    rows = extract_features(dataset.samples, extractor, cache, jobs, strides, extraction.run.limits)
    tracked = track_clips(rows, len(dataset.samples), extraction.run.progress, lambda row: row.error is not None)
    return extractor, list(tracked)


def _find_cache() -> Path | None:
    """Return the user's cache folder for features; None, with a warning, if it is not writable."""
    from tempfile import TemporaryFile

    from fervid.core.atomic_io import user_dir
    from fervid.core.progress import log

    try:
        cache = user_dir("cache") / "features"
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=cache):
            return cache
    except (UsageError, OSError) as error:
        reason = error.message if isinstance(error, UsageError) else f"{error.filename or cache}: {error.strerror}"
        log(f"the cache folder is not writable ({reason}); features are not cached, use --cache FOLDER")
        return None


def load_labeled_features(
    clips: LabeledClipOptions,
    *,
    target: str | None,
    seed: int = 2021,
    center: Literal["person"] | None = None,
    strides: Sequence[int] = (),
    models: Sequence[Model] = (),
    skip_broken: bool = False,
) -> LabeledFeatures:
    """Load labelled clips with their features, from the clips or from a .npz file of features.

    Args:
        clips: A data set, or a .npz file.
        target: A rating instead of the labels.
        seed: Random seed of the folds.
        center: Whether each person's mean is subtracted.
        strides: Further sampling strides, for early exits.
        models: Classifiers that will be evaluated on the features.
        skip_broken: Whether clips that cannot be read are left out; else they raise.

    Raises:
        UsageError: Strides are asked of a .npz file, or the data set cannot be used.
        ModelIncompatible: A classifier was fitted on the features of another face model.
    """
    from fervid.core.progress import log, note
    from fervid.learn.dataset import Dataset, filter_labels, load_dataset, validate_dataset
    from fervid.learn.feature_table import FeatureTable
    from fervid.learn.labeled_features import build_feature_table, feature_provenance, label_features
    from fervid.media.inputs import SkippedFiles

    source, labels, group = clips.dataset, parse_labels(clips.labels), clips.group
    is_table = source.lower().endswith(".npz")
    if is_table and strides:
        raise UsageError(f"early exits need features at other frame rates; pass the data set instead of {source}")
    table = FeatureTable.load(Path(source)) if is_table else None
    skipped_files = SkippedFiles(advice="")
    if table:
        dataset = Dataset(Path(source).stem, (*table.samples, *table.no_face_samples))
    else:
        dataset = load_dataset(source, skipped_files=skipped_files)
    note(str(skipped_files), clips.extraction.run.progress)
    if labels:
        dataset = filter_labels(dataset, labels)
    model_labels = models[0].card.get("labels") if models else None
    validate_dataset(dataset, target=target, group=group, model_labels=model_labels)
    if table is None:
        extractor, rows = extract_rows(dataset, clips.extraction, strides, models)
        table = build_feature_table(rows, feature_provenance(extractor), skip_broken=skip_broken)
        for row in rows if skip_broken else ():
            if row.error and row.error.code != "no_face":
                log(f"skipped: {row.error.message}")
    elif labels:
        table = _filter_table(table, labels)
    return label_features(dataset, table, target=target, group=group, seed=seed, center=center)


def _filter_table(table: FeatureTable, labels: Sequence[str]) -> FeatureTable:
    """Return the rows of a table that have one of the labels."""
    import numpy as np

    no_face_samples = tuple(sample for sample in table.no_face_samples if sample.label in labels)
    rows = table[np.array([sample.label in labels for sample in table.samples])]
    return replace(rows, no_face_samples=no_face_samples)
