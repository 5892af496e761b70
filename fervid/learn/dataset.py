"""Labelled clips from folders, lists and published data sets.

    videos/happiness/a.mp4                     the name of the folder is the label
    list.csv, list.jsonl                       columns path,label[,person][,split]; other columns that hold only numbers
                                               are ratings; delimiters are commas, semicolons or tabs, and lines that
                                               begin with # are comments
    ravdess:/data/RAVDESS                      label, person and split follow from the published layout

A clip is a video file, or a folder of images, which are its frames in the order of their names.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from fervid.core.errors import DatasetError
from fervid.core.text import is_utf8
from fervid.learn.clip_files import frame_files
from fervid.learn.dataset_layouts import CLASS_FOLDERS, KNOWN_LAYOUTS, Layout, Sample, read_classes
from fervid.learn.dataset_lists import read_list
from fervid.media.inputs import SkippedFiles


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled clips, in the order in which they are listed.

    Attributes:
        name: Name of a published data set, or of the folder or list.
        samples: The clips.
    """

    name: str
    samples: tuple[Sample, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, sorted."""
        return tuple(sorted({sample.label for sample in self.samples if sample.label is not None}))


def load_dataset(source: str, skipped_files: SkippedFiles | None = None) -> Dataset:
    """Load labelled clips from a folder, a list, or `NAME:FOLDER` with the name of a published data set.

    The files in class folders that are no clips are counted in `skipped_files`.

    Raises:
        DatasetError: The data set is unknown, files are missing, a clip is listed twice, or a
            person occurs in two splits. The message names the first few with their lines.
    """
    name, colon, folder = source.partition(":")
    if colon and name.lower() in KNOWN_LAYOUTS:
        dataset = Dataset(name.lower(), _from_layout(os.path.expanduser(folder), KNOWN_LAYOUTS[name.lower()]))
    elif os.path.isdir(source):
        layout = Layout(CLASS_FOLDERS, partial(read_classes, skipped_files=skipped_files))
        dataset = Dataset(Path(source).resolve().name, _from_layout(source, layout))
    elif colon and not os.path.exists(source):
        raise DatasetError(f"unknown data set {name!r}; use one of {', '.join(KNOWN_LAYOUTS)}")
    else:
        dataset = Dataset(Path(source).stem, read_list(Path(source)))
    _check(dataset)
    return dataset


def filter_labels(dataset: Dataset, labels: Sequence[str]) -> Dataset:
    """Select the clips of some classes.

    Raises:
        DatasetError: A class has no clips.
    """
    if unknown := [label for label in labels if label not in dataset.labels]:
        raise DatasetError(f"{dataset.name} has no clips of {', '.join(unknown)}; it has {', '.join(dataset.labels)}")
    return replace(dataset, samples=tuple(sample for sample in dataset.samples if sample.label in labels))


def labels_with_few_people(dataset: Dataset) -> list[str]:
    """List the classes with fewer than two people, if all their people are known, for cross-validation by person."""
    people = {label: {s.person for s in dataset.samples if s.label == label} for label in dataset.labels}
    return [label for label, names in people.items() if None not in names and len(names) < 2]


def validate_dataset(
    dataset: Dataset,
    *,
    target: str | None = None,
    group: Literal["auto", "none"] = "auto",
    model_labels: Sequence[str] | None = None,
) -> None:
    """Check labels, ratings and people before any feature is extracted.

    Args:
        dataset: The labelled clips.
        target: The rating to fit on, or that a regressor predicts.
        group: As for `label_features`.
        model_labels: Labels of the classifier to evaluate; None if one is to be fitted.

    Raises:
        DatasetError: A label or a rating is missing or unknown, or a class to fit on has too few people.
    """
    if target:
        names = sorted({rating for sample in dataset.samples for rating in sample.ratings})
        _raise_if_any(
            f"no rating {target!r}",
            [(sample, "") for sample in dataset.samples if target not in sample.ratings],
            f"the ratings are {', '.join(names)}" if names else "no column holds only numbers",
        )
        return
    if unlabelled := [sample for sample in dataset.samples if sample.label is None]:
        source = f" ({unlabelled[0].source})" if unlabelled[0].source else ""
        raise DatasetError(f"{unlabelled[0].path}{source} has no label; add one, or choose a rating with --target")
    if model_labels is not None:
        if unknown := [label for label in dataset.labels if label not in model_labels]:
            shared = [label for label in dataset.labels if label in model_labels]
            hint = f"exclude those clips with --labels {','.join(shared)}" if shared else "use another classifier"
            raise DatasetError(
                f"the classifier has no label {', '.join(unknown)}; its labels are {', '.join(model_labels)}; {hint}"
            )
    elif len(dataset.labels) < 2:
        raise DatasetError(f"{dataset.name} has only the class {dataset.labels[0]}; training needs two or more classes")
    elif group == "auto" and (lacking := labels_with_few_people(dataset)):
        examples = (next(sample for sample in dataset.samples if sample.label == label) for label in lacking)
        classes = "; ".join(f"{sample.label} ({sample.source or sample.path})" for sample in examples)
        raise DatasetError(
            f"{classes}: cross-validation by person needs two or more people for each class; add people, or treat all"
            " clips as independent with --group-by none"
        )


def _from_layout(folder: str, layout: Layout) -> tuple[Sample, ...]:
    if not os.path.isdir(folder):
        raise DatasetError(f"{folder!r} is not a folder; give NAME:FOLDER with the folder of the unpacked data set")
    samples = tuple(layout.read(Path(folder)))
    if not samples:
        raise DatasetError(f"{folder} has no clips in the expected layout, {layout.example}")
    return samples


def _check(dataset: Dataset) -> None:
    samples = dataset.samples
    undecodable = [(s, f", {s.label!r}") for s in samples if s.label is not None and not is_utf8(s.label)]
    _raise_if_any("labels that are not UTF-8", undecodable, "rename the folder, or correct the list")
    _raise_if_any(
        "no such video or image folder",
        [(s, "") for s in samples if not frame_files(s.path)],
        "check the spelling, and that everything is unpacked; paths in a list are relative to its folder",
    )
    resolved = [(s.path.resolve(), s) for s in samples]
    first = dict(reversed(resolved))
    duplicates = [(s, f", first at {first[path].source}") for path, s in resolved if first[path] is not s]
    _raise_if_any("duplicate clips", duplicates, "keep one of them")
    if any(s.split for s in samples):
        _raise_if_any("no split", [(s, "") for s in samples if not s.split], "add train, val or test to each clip")
    first_of_person = {s.person: s for s in reversed(samples)}
    pairs = [(s, first_of_person[s.person]) for s in samples if s.person]
    _raise_if_any(
        "people in two splits",
        [
            (s, f", {s.person!r} in {s.split}; in {other.split} at {other.source}")
            for s, other in pairs
            if s.split != other.split
        ],
        "keep all clips of a person in one split",
    )


def _raise_if_any(problem: str, clips: Sequence[tuple[Sample, str]], hint: str) -> None:
    """Raise DatasetError if there are clips, and name the first three, each with a detail."""
    if clips:
        names = ", ".join(f"{sample.path} ({sample.source}{detail})" for sample, detail in clips[:3])
        more = f" and {len(clips) - 3} more" if len(clips) > 3 else ""
        raise DatasetError(f"{problem}: {names}{more}; {hint}")
