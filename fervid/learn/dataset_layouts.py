"""Layouts of labelled clips: a folder for each class, or the layout of a published data set."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fervid.core.errors import DatasetError
from fervid.learn.clip_files import frame_files, list_clips, list_folders, list_names, read_fields, walk
from fervid.media.inputs import SkippedFiles

SPLIT_ALIASES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
_MISPLACED_DEPTH = 3
"""Levels below a class folder to search for misplaced clips."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled clip.

    Attributes:
        path: A video, a folder of frames, or a pattern of frame files (`frames/v107-*.jpg`).
        label: The class; None if the clip has ratings only.
        person: The person in the clip; None if unknown.
        split: `train`, `val` or `test`; None if the data set has no split.
        ratings: Numbers to fit a regression on, such as `valence`.
        source: The line, file or folder that the label comes from, for messages.
    """

    path: Path
    label: str | None
    person: str | None = None
    split: str | None = None
    ratings: Mapping[str, float] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True, slots=True)
class Layout:
    """The folder layout of a labelled data set.

    Attributes:
        example: Examples of its files, for help and messages.
        read: Function from the folder to its clips; raises DatasetError if a file contradicts the layout.
    """

    example: str
    read: Callable[[Path], Iterator[Sample]]


def read_classes(root: Path, skipped_files: SkippedFiles | None = None) -> Iterator[Sample]:
    """Read a folder with one folder per class, or with one folder per split that holds one per class.

    The files in class folders that are no clips are counted in `skipped_files`.

    Raises:
        DatasetError: A clip is above or below the class folders.
    """
    for top in list_folders(root):
        split = SPLIT_ALIASES.get(top.name.lower())
        if split:
            _check_no_stray_clips(top)
        for folder in list_folders(top) if split else [top]:
            clips = list_clips(folder, skipped_files)
            if not clips and (deeper := next(filter(list_clips, walk(folder, _MISPLACED_DEPTH)), None)):
                raise DatasetError(
                    f"{folder} has no clips, but {deeper} has; move the clips to the folder of their class, or move"
                    " that folder out of the data set"
                )
            yield from (Sample(path, folder.name, split=split, source=str(folder)) for path in clips)
    _check_no_stray_clips(root)


def _check_no_stray_clips(folder: Path) -> None:
    """Refuse videos next to the class folders.

    Raises:
        DatasetError: There are both.
    """
    stray = [path for path in list_clips(folder) if not os.path.isdir(path)]
    if stray and list_folders(folder):
        raise DatasetError(
            f"{stray[0]} is next to the class folders, not in one; move it into one, or out of the data set"
            f"{f' ({len(stray)} such clips)' if len(stray) > 1 else ''}"
        )


def _afew(root: Path) -> Iterator[Sample]:
    """Read AFEW (EmotiW challenges): film clips, a folder for each class, without the names of people."""
    classes = {"angry": "anger", "happy": "happiness", "sad": "sadness"}
    classes |= {name: name for name in ("disgust", "fear", "neutral", "surprise")}
    for top in list_folders(root):
        split = SPLIT_ALIASES.get(top.name.lower().removesuffix("_afew"))
        for folder in list_folders(top) if split else ():
            label = classes.get(folder.name.lower())
            for path in list_clips(folder):
                if label:
                    yield Sample(path, label, split=split, source=str(folder))
                elif not os.path.isdir(path):
                    raise DatasetError(f"{path} is in none of the AFEW classes {', '.join(classes)}; rename its folder")


def _vgaf(root: Path) -> Iterator[Sample]:
    """Read VGAF (EmotiW challenges): groups of people, a label file for each split, with or without a header."""
    classes = {"1": "positive", "2": "neutral", "3": "negative"}
    for part in ("Train", "Val"):
        folder, path = root / part, root / f"{part}_labels.txt"
        if not (os.path.isdir(folder) or os.path.exists(path)):
            continue
        clips = {clip.stem: clip for clip in (list_clips(folder) if os.path.isdir(folder) else ())}
        for count, (source, fields) in enumerate(read_fields(path)):
            if count == 0 and not fields[-1].isdecimal():
                continue
            if len(fields) != 2 or fields[1] not in classes:
                raise DatasetError(f"{source} must be the name of a clip and 1, 2 or 3; correct the line")
            name = fields[0].removesuffix(".mp4")
            clip = clips.get(name, folder / f"{name}.mp4")
            yield Sample(clip, classes[fields[1]], split=SPLIT_ALIASES[part.lower()], source=source)


def _ravdess(root: Path) -> Iterator[Sample]:
    """Read RAVDESS, whose file names are modality-channel-emotion-intensity-statement-repetition-actor.

    A take exists with sound (modality 01) and without (02); the first is used.
    """
    classes = ("neutral", "calm", "happiness", "sadness", "anger", "fear", "disgust", "surprise")
    codes = {f"{number:02}": label for number, label in enumerate(classes, 1)}
    pattern = r"0[12](?P<take>-0[12]-(?P<label>\d\d)(-\d\d){3}-(?P<person>\d\d))"
    return _from_filenames(root, pattern, codes, "01-01-06-01-02-01-12")


def _crema_d(root: Path) -> Iterator[Sample]:
    """Read CREMA-D, whose file names are actor_sentence_emotion_level."""
    codes = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happiness", "NEU": "neutral", "SAD": "sadness"}
    pattern = r"(?P<take>(?P<person>\d{4})_[A-Z]{3}_(?P<label>[A-Z]{3})_[A-Z]+)"
    return _from_filenames(root, pattern, codes, "1001_DFA_ANG_XX")


def _from_filenames(root: Path, pattern: str, codes: Mapping[str, str], example: str) -> Iterator[Sample]:
    """Read clips by a pattern of file names with the groups `take`, `label` and `person`; use one clip per take."""
    takes = set()
    for folder in walk(root, 2):
        for path in list_clips(folder):
            match = re.fullmatch(pattern, path.stem)
            if match is None and os.path.isdir(path):
                continue
            if match is None or match["label"] not in codes:
                raise DatasetError(f"the name of {path} is not like {example}; correct it, or move the file elsewhere")
            if match["take"] not in takes:
                takes.add(match["take"])
                yield Sample(path, codes[match["label"]], match["person"], source=str(folder))


def _ck_plus(root: Path) -> Iterator[Sample]:
    """Read CK+: sequences of frames up to the peak; sequences without an emotion file are skipped."""
    classes = ("neutral", "anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")
    codes = {float(number): label for number, label in enumerate(classes)}
    images = next((folder for folder in walk(root, 2) if folder.name == "cohn-kanade-images"), root)
    for folder in walk(root, 4):
        for path in (folder / name for name in sorted(list_names(folder)) if name.endswith("_emotion.txt")):
            person, sequence = path.name.split("_")[:2]
            try:
                label = codes[float(" ".join(field for _, fields in read_fields(path) for field in fields))]
            except (KeyError, ValueError):
                raise DatasetError(f"{path} must contain a number from 0 to 7; unpack it again") from None
            yield Sample(images / person / sequence, label, person, source=str(path))


_KERC_PARTS = (("train", "frame_img", "v{}-face_*.jpg"), ("val", "new_Test_img", "{}_*.jpg"))
_KERC_COLUMNS = ("valence", "arousal", "stress")
_KERC_BOUNDS = (4.0, 5.5)
_KERC_ABSENT = ("Train/0050.mp4", "Train/0506.mp4")  # they have ratings but were published without frames


def _kerc2020(root: Path) -> Iterator[Sample]:
    """Read KERC 2020: frames of film clips with mean ratings from 1 to 9; valence gives the classes of VGAF.

    The same actors, without names, occur in both splits.
    """
    for split, folder, pattern in _KERC_PARTS:
        baseline, path = root / "CODE_Baseline" / "csv" / f"{split}_mean.csv", root / f"{split}_mean.csv"
        if os.path.exists(baseline):  # the other table has zeros for missing ratings
            path = baseline
        if not (os.path.isdir(root / folder) or os.path.exists(path)):
            continue
        for source, (name, *numbers) in read_fields(path):
            if [field.lower() for field in numbers] == list(_KERC_COLUMNS):
                continue
            number = re.fullmatch(r"\w+/(\d+)\.mp4", name)
            try:
                ratings = dict(zip(_KERC_COLUMNS, map(float, numbers), strict=True))
            except ValueError:
                ratings = {}
            if not (number and ratings and all(1 <= rating <= 9 for rating in ratings.values())):
                raise DatasetError(
                    f"{source} must be a clip with {', '.join(_KERC_COLUMNS)} from 1 to 9; use {baseline}"
                )
            clip = root / folder / pattern.format(int(number[1]))
            if name not in _KERC_ABSENT or frame_files(clip):
                valence, (low, high) = ratings["valence"], _KERC_BOUNDS
                label = "negative" if valence < low else "positive" if valence > high else "neutral"
                yield Sample(clip, label, split=split, ratings=ratings, source=source)


CLASS_FOLDERS = "happiness/a.mp4 or train/happiness/a.mp4, a folder for each class"
KNOWN_LAYOUTS: Mapping[str, Layout] = {
    "afew": Layout("Train_AFEW/Angry/*.avi and Val_AFEW/Angry/*.avi", _afew),
    "ck+": Layout("cohn-kanade-images/S005/001/*.png with Emotion/S005/001/S005_001_00000011_emotion.txt", _ck_plus),
    "crema-d": Layout("VideoFlash/1001_DFA_ANG_XX.flv", _crema_d),
    "kerc2020": Layout(
        "CODE_Baseline/csv/*_mean.csv with frame_img/v1-face_*.jpg and new_Test_img/637_*.jpg", _kerc2020
    ),
    "ravdess": Layout("Actor_01/01-01-06-01-02-01-01.mp4", _ravdess),
    "vgaf": Layout("Train/*.mp4 with Train_labels.txt, Val/*.mp4 with Val_labels.txt", _vgaf),
}
