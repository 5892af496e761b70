"""Labelled clips in folders: a folder for each class, or the layout in which a known data set is published."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fervid.core.errors import DatasetError
from fervid.media.inputs import PassedOver, is_video

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
SPLIT_ALIASES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
_DEEP = 3  # folders within folders in which clips may have been put by mistake
_LONG = 1000  # characters that no name and no pattern for names has; to match more could take minutes


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled clip.

    Attributes:
        path: A video, a folder of frames, or a pattern (`frames/v107-*.jpg`) for the frames of a clip.
        label: Its class; None if it has ratings only.
        person: Who is in it; None if that is not known.
        split: `train`, `val` or `test`; None if the set has no split.
        ratings: Numbers to fit a regression on, such as `valence`.
        where: The line, the file or the folder that says so, for messages.
    """

    path: Path
    label: str | None
    person: str | None = None
    split: str | None = None
    ratings: Mapping[str, float] = field(default_factory=dict)
    where: str = ""


@dataclass(frozen=True, slots=True)
class Layout:
    """How labelled clips lie in a folder.

    Attributes:
        looks: Examples of its files, for help and messages.
        read: From the folder to its clips; raises DatasetError where a file contradicts the layout.
    """

    looks: str
    read: Callable[[Path], Iterator[Sample]]


def frame_files(path: Path) -> list[Path]:
    """The files of a clip: itself, the pictures of a folder, or those that a pattern matches; empty if there are none.

    Raises:
        DatasetError: The folder cannot be read.
    """
    if os.path.isdir(path):
        return _pictures(path, "*")
    if os.path.isfile(path):
        return [path]
    return _pictures(path.parent, path.name) if len(path.name) < _LONG and os.path.isdir(path.parent) else []


def read_text(path: Path, hint: str) -> str:
    """A list or an annotation file.

    Raises:
        DatasetError: It cannot be read or is no text; the hint says what to try.
    """
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}); {hint}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DatasetError(f"{path}:{line} is no text in UTF-8; {hint}") from error
    if b"\0" in data:
        raise DatasetError(f"{path}:{data[: data.index(0)].count(10) + 1} holds a NUL character; {hint}")
    return text


def _names(folder: Path) -> list[str]:
    """What is in a folder; what is hidden (`.git`, `._a.mp4`) is left out."""
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as error:
        raise DatasetError(f"{folder} cannot be read ({error.strerror}); check its permissions and its disk") from error


def _pictures(folder: Path, pattern: str) -> list[Path]:
    names = (name for name in fnmatch.filter(_names(folder), pattern) if Path(name).suffix.lower() in IMAGE_SUFFIXES)
    return [folder / name for name in sorted(names, key=_natural)]


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts `face_10` behind `face_9`."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def _folders(folder: Path) -> list[Path]:
    return [folder / name for name in sorted(_names(folder)) if os.path.isdir(folder / name)]


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    """A folder and those in it; links are followed, so `depth` must end a loop of them."""
    yield folder
    if depth:
        for inner in _folders(folder):
            yield from _walk(inner, depth - 1)


def _clips(folder: Path, passed_over: PassedOver | None = None) -> list[Path]:
    """Videos in a folder, and the folders in it that hold pictures; what else is there is counted."""
    passed_over = PassedOver() if passed_over is None else passed_over
    clips = []
    for path in (folder / name for name in sorted(_names(folder))):
        if not os.path.isdir(path):
            found = is_video(str(path), passed_over)
        elif not (found := bool(_pictures(path, "*"))):
            passed_over.folders += 1
        clips += [path] * found
    return clips


def _lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Lines of an annotation file: their place, and their fields between commas or blanks."""
    text = read_text(path, "unpack the annotations of the set there too")
    for number, line in enumerate(text.split("\n"), 1):
        if fields := line.replace(",", " ").split():
            yield f"{path}:{number}", fields


def read_classes(root: Path, passed_over: PassedOver | None = None) -> Iterator[Sample]:
    """A folder for each class, or for each split with one for each class in it; a clip that is in neither is refused.

    Args:
        root: The folder that holds them.
        passed_over: Counts what folders of a class hold besides clips.

    Raises:
        DatasetError: Clips lie above or below the folder of a class.
    """
    for top in _folders(root):
        split = SPLIT_ALIASES.get(top.name.lower())
        if split:
            _check_no_stray_clips(top)
        for folder in _folders(top) if split else [top]:
            clips = _clips(folder, passed_over)
            if not clips and (deeper := next(filter(_clips, _walk(folder, _DEEP)), None)):
                raise DatasetError(
                    f"{folder} holds no clips, but {deeper} does; the clips of a class lie in its folder itself, so"
                    " move them up, or the folder away"
                )
            yield from (Sample(path, folder.name, split=split, where=str(folder)) for path in clips)
    _check_no_stray_clips(root)


def _check_no_stray_clips(folder: Path) -> None:
    """Refuse videos where the folders of the classes are, if there are any.

    Raises:
        DatasetError: There are.
    """
    stray = [path for path in _clips(folder) if not os.path.isdir(path)]
    if stray and _folders(folder):
        raise DatasetError(
            f"{stray[0]} lies beside the folders of the classes, not in one; move it there, or take it out"
            f"{f' ({len(stray)} such clips)' if len(stray) > 1 else ''}"
        )


def _afew(root: Path) -> Iterator[Sample]:
    """AFEW of the EmotiW challenges: films, a folder for each class; who plays is not said."""
    classes = {"angry": "anger", "happy": "happiness", "sad": "sadness"}
    classes |= {name: name for name in ("disgust", "fear", "neutral", "surprise")}
    for top in _folders(root):
        split = SPLIT_ALIASES.get(top.name.lower().removesuffix("_afew"))
        for folder in _folders(top) if split else ():
            label = classes.get(folder.name.lower())
            for path in _clips(folder):
                if label:
                    yield Sample(path, label, split=split, where=str(folder))
                elif not os.path.isdir(path):
                    raise DatasetError(f"{path} is in none of AFEW's classes, {', '.join(classes)}; rename its folder")


def _vgaf(root: Path) -> Iterator[Sample]:
    """VGAF of the EmotiW challenges: groups of people; a file of labels for each part, some with a header."""
    classes = {"1": "positive", "2": "neutral", "3": "negative"}
    for part in ("Train", "Val"):
        folder, path = root / part, root / f"{part}_labels.txt"
        if not (os.path.isdir(folder) or os.path.exists(path)):
            continue
        there = {clip.stem: clip for clip in (_clips(folder) if os.path.isdir(folder) else ())}
        for count, (where, fields) in enumerate(_lines(path)):
            if count == 0 and not fields[-1].isdecimal():
                continue
            if len(fields) != 2 or fields[1] not in classes:
                raise DatasetError(f"{where} is no name of a clip and then 1, 2 or 3; correct it")
            name = fields[0].removesuffix(".mp4")
            clip = there.get(name, folder / f"{name}.mp4")
            yield Sample(clip, classes[fields[1]], split=SPLIT_ALIASES[part.lower()], where=where)


def _ravdess(root: Path) -> Iterator[Sample]:
    """RAVDESS: modality, channel, emotion, intensity, statement, repetition, actor.

    Of the versions with sound (modality 01) and without (02) the first is taken.
    """
    classes = ("neutral", "calm", "happiness", "sadness", "anger", "fear", "disgust", "surprise")
    codes = {f"{number:02}": label for number, label in enumerate(classes, 1)}
    pattern = r"0[12](?P<take>-0[12]-(?P<label>\d\d)(-\d\d){3}-(?P<person>\d\d))"
    return _from_filenames(root, pattern, codes, "01-01-06-01-02-01-12")


def _crema_d(root: Path) -> Iterator[Sample]:
    """CREMA-D: actor, sentence, emotion, level."""
    codes = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happiness", "NEU": "neutral", "SAD": "sadness"}
    pattern = r"(?P<take>(?P<person>\d{4})_[A-Z]{3}_(?P<label>[A-Z]{3})_[A-Z]+)"
    return _from_filenames(root, pattern, codes, "1001_DFA_ANG_XX")


def _from_filenames(root: Path, pattern: str, codes: Mapping[str, str], example: str) -> Iterator[Sample]:
    """Clips whose names say all: the groups `take`, `label` and `person` of a pattern; of a take the first is taken."""
    taken = set()
    for folder in _walk(root, 2):
        for path in _clips(folder):
            found = re.fullmatch(pattern, path.stem)
            if found is None and os.path.isdir(path):
                continue
            if found is None or found["label"] not in codes:
                raise DatasetError(f"{path} has no name like {example}; correct it, or move the file elsewhere")
            if found["take"] not in taken:
                taken.add(found["take"])
                yield Sample(path, codes[found["label"]], found["person"], where=str(folder))


def _ck_plus(root: Path) -> Iterator[Sample]:
    """CK+: sequences of frames up to the peak; those without a file that names the emotion are left out."""
    classes = ("neutral", "anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")
    codes = {float(number): label for number, label in enumerate(classes)}
    images = next((folder for folder in _walk(root, 2) if folder.name == "cohn-kanade-images"), root)
    for folder in _walk(root, 4):
        for path in (folder / name for name in sorted(_names(folder)) if name.endswith("_emotion.txt")):
            person, sequence = path.name.split("_")[:2]
            try:
                label = codes[float(" ".join(field for _, fields in _lines(path) for field in fields))]
            except (KeyError, ValueError):
                raise DatasetError(f"{path} holds no number from 0 to 7; unpack it again") from None
            yield Sample(images / person / sequence, label, person, where=str(path))


_KERC_PARTS = (("train", "frame_img", "v{}-face_*.jpg"), ("val", "new_Test_img", "{}_*.jpg"))
_KERC_COLUMNS = ("valence", "arousal", "stress")
_KERC_BOUNDS = (4.0, 5.5)
_KERC_ABSENT = ("Train/0050.mp4", "Train/0506.mp4")  # rated, but published without frames


def _kerc2020(root: Path) -> Iterator[Sample]:
    """KERC 2020: frames of film clips with mean ratings from 1 to 9; the classes are those of VGAF, by valence.

    The same actors occur in both parts; who they are is not said.
    """
    for split, folder, pattern in _KERC_PARTS:
        baseline, path = root / "CODE_Baseline" / "csv" / f"{split}_mean.csv", root / f"{split}_mean.csv"
        if os.path.exists(baseline):  # the other table has zeros where a rating lacks
            path = baseline
        if not (os.path.isdir(root / folder) or os.path.exists(path)):
            continue
        for where, (name, *numbers) in _lines(path):
            if [field.lower() for field in numbers] == list(_KERC_COLUMNS):
                continue
            number = re.fullmatch(r"\w+/(\d+)\.mp4", name)
            try:
                ratings = dict(zip(_KERC_COLUMNS, map(float, numbers), strict=True))
            except ValueError:
                ratings = {}
            if not (number and ratings and all(1 <= rating <= 9 for rating in ratings.values())):
                raise DatasetError(f"{where} is no clip with {', '.join(_KERC_COLUMNS)} from 1 to 9; take {baseline}")
            clip = root / folder / pattern.format(int(number[1]))
            if name not in _KERC_ABSENT or frame_files(clip):
                valence, (low, high) = ratings["valence"], _KERC_BOUNDS
                label = "negative" if valence < low else "positive" if valence > high else "neutral"
                yield Sample(clip, label, split=split, ratings=ratings, where=where)


CLASS_FOLDERS = Layout("happiness/a.mp4 or train/happiness/a.mp4, a folder for each class", read_classes)
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
