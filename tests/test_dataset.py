"""Labelled clips from folders, lists and miniature copies of known sets, and their errors."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

import pytest

from fervid.core.errors import DatasetError
from fervid.learn.clip_files import frame_files
from fervid.learn.dataset import Dataset, filter_labels, labels_with_few_people, load_dataset, validate_dataset
from fervid.learn.dataset_layouts import KNOWN_LAYOUTS, Sample
from fervid.media.inputs import SkippedFiles


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_other_files_in_class_folders_are_counted(root: Path) -> None:
    plant(root, "joy/a.mp4", "joy/notes.txt", "joy/b.xyz", "joy/deeper/c.mp4", "calm/d.mp4")
    (root / "joy" / "e").write_bytes(b"\x1aE\xdf\xa3\x01\0\0\0\0\0\0\x1fB\x82\x84webm")
    skipped_files = SkippedFiles(advice="")
    found = load_dataset(str(root), skipped_files=skipped_files)
    assert [sample.path.name for sample in found.samples] == ["d.mp4", "a.mp4", "e"]
    assert str(skipped_files) == "2 files are not videos, 1 folder was not searched"


def plant(root: Path, *names: str) -> None:
    """Empty files; only their names count."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def listed(root: Path, text: str | bytes, name: str = "list.csv", clips: str = "a.mp4 b.mp4 c.mp4") -> str:
    """A list beside its clips."""
    plant(root, *clips.split())
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return name


def rows(found: Dataset, root: Path) -> list[tuple[str, str | None, str | None, str | None]]:
    return [(os.path.relpath(s.path, root).replace(os.sep, "/"), s.label, s.person, s.split) for s in found.samples]


def sources(found: Dataset) -> list[str]:
    return [sample.source.replace(os.sep, "/") for sample in found.samples]


def clip(name: str, label: str | None = "joy", person: str | None = None, split: str | None = None) -> Sample:
    return Sample(Path(name), label, person, split)


def assert_refused(source: str, said: str) -> None:
    """A data set is refused by a message that contains these words."""
    with pytest.raises(DatasetError) as caught:
        load_dataset(source)
    message = str(caught.value).replace(os.sep, "/")
    assert [word for word in said.split() if word not in message] == [], message


# Folders


def test_folder_name_is_the_label(root: Path) -> None:
    plant(root, "set/joy/b.mp4", "set/joy/a.AVI", "set/fear/c/2.png", "set/fear/c/10.png", "set/fear/c/notes.txt")
    plant(root, "set/readme.md", "set/joy/notes.txt", "set/joy/._a.mp4", "set/.git/d.mp4", "set/empty/notes.txt")
    found = load_dataset("set")
    assert found.name == "set"
    assert rows(found, root / "set") == [
        ("fear/c", "fear", None, None),
        ("joy/a.AVI", "joy", None, None),
        ("joy/b.mp4", "joy", None, None),
    ]
    assert sources(found) == ["set/fear", "set/joy", "set/joy"]
    assert found.labels == ("fear", "joy")


def test_split_folders_above_classes(root: Path) -> None:
    plant(root, "Train/joy/a.mp4", "validation/joy/b.mp4", "test/fear/c.mp4")
    found = load_dataset(".")
    assert found.name == root.name
    assert [(s.path.name, s.split) for s in found.samples] == [("a.mp4", "train"), ("c.mp4", "test"), ("b.mp4", "val")]


@pytest.mark.parametrize("stray", ["set/stray.mp4", "set/fear/anna/a.mp4", "set/fear/films/anna/1/a.mp4"])
def test_clips_outside_class_folders_are_an_error(stray: str, root: Path) -> None:
    plant(root, "set/joy/a.mp4", "set/calm/a.mp4", stray)
    assert_refused("set", stray.removesuffix("/a.mp4"))


def test_clips_beside_classes_of_part_are_not_skipped_files(root: Path) -> None:
    plant(root, "train/joy/a.mp4", "train/stray.mp4", "train/other.mp4")
    assert_refused(".", "train/other.mp4 (2")


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no file names that are not UTF-8")
def test_undecodable_labels_are_refused(root: Path) -> None:
    plant(root, "set/jo\udcffy/a.mp4", "set/calm/a.mp4")
    assert_refused("set", "UTF-8")


def test_single_class(root: Path) -> None:
    plant(root, "joy/a.mp4")
    assert load_dataset(".").labels == ("joy",)


def test_frames_are_sorted_naturally_and_hidden_ones_ignored(root: Path) -> None:
    names = ["f1.png", "f2.PNG", "f10.jpg", "f².jpg"]
    plant(root, "clip/._f1.png", "clip/sound.wav", *(f"clip/{name}" for name in reversed(names)), "clip/g1.png")
    assert [path.name for path in frame_files(root / "clip")] == [*names, "g1.png"]
    assert [path.name for path in frame_files(root / "clip" / "f*")] == names
    assert frame_files(root / "clip" / "sound.wav") == [root / "clip" / "sound.wav"]
    assert frame_files(root / "clip" / "*.wav") == []
    assert frame_files(root / "nowhere" / "*.png") == []


@pytest.mark.parametrize("names", [(), ("a.mp4",), ("joy/notes.txt",), ("train/a.mp4",)], ids=str)
def test_folder_without_clips_in_classes_is_an_error(root: Path, names: tuple[str, ...]) -> None:
    (root / "set").mkdir()
    plant(root / "set", *names)
    assert_refused("set", "set happiness/a.mp4")


def test_unreadable_folder_is_an_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> list[str]:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("os.listdir", refuse)
    assert_refused(".", "Permission denied")


# Lists


def test_csv_names_clips_from_its_own_folder(root: Path) -> None:
    text = "Path , label,Person,split\n a.mp4 ,joy,ann,Train\n\n,,,\n../b.mp4,fear,,VALID\nc,fear,bob,test\n"
    (root / "set").mkdir()
    plant(root, "set/a.mp4", "b.mp4", "set/c/1.png")
    found = load_dataset(listed(root, text, "set/list.csv", ""))
    assert found.name == "list"
    assert rows(found, root) == [
        ("set/a.mp4", "joy", "ann", "train"),
        ("b.mp4", "fear", None, "val"),
        ("set/c", "fear", "bob", "test"),
    ]
    assert sources(found) == [f"set/list.csv:{line}" for line in (2, 5, 6)]


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbfpath,label\r\n\"a.mp4\",joy\r\n'b.mp4',fear\r\n",
        "label,,path,comment\njoy,,a.mp4,fine\nfear,x,'b.mp4'",
        "path,label,comment\na.mp4,joy,\"first\nand, second\"\n'b.mp4',fear\n",
    ],
    ids=["excel", "further columns", "quotes"],
)
def test_variants_of_csv(root: Path, text: str | bytes) -> None:
    found = load_dataset(listed(root, text, clips="a.mp4 'b.mp4'"))
    assert rows(found, root) == [("a.mp4", "joy", None, None), ("'b.mp4'", "fear", None, None)]
    assert [sample.ratings for sample in found.samples] == [{}, {}]


@pytest.mark.parametrize(
    "text",
    [
        "path;label;person;valence\r\na.mp4;joy;ann;3,5\r\nb.mp4;fear;bob;-1\r\n",
        '"path";"label";"person";"valence"\n"a.mp4";"joy";"ann";"3,5"\n"b.mp4";"fear";"bob";"-1"\n',
        "path\tlabel\tperson\tvalence\na.mp4\tjoy\tann\t3.5\nb.mp4\tfear\tbob\t-1\n",
        "label;path;person;valence\njoy;a.mp4;ann;3.5\nfear;b.mp4;bob;-1\n",
        'path, label, person, valence \n"a.mp4" , joy, "ann" , 3.5 \nb.mp4 , "fear",\tbob,-1\t\n',
        "# lab\npath,label,person,valence\n # \"today's\na.mp4,joy,ann,3.5\n#c.mp4,joy\nb.mp4,fear,bob,-1\n",
    ],
    ids=["semicolons", "semicolons and quotes", "tabs", "path is not first", "blanks", "comments"],
)
def test_csv_dialects(root: Path, text: str) -> None:
    found = load_dataset(listed(root, text))
    assert rows(found, root) == [("a.mp4", "joy", "ann", None), ("b.mp4", "fear", "bob", None)]
    assert [dict(sample.ratings) for sample in found.samples] == [{"valence": 3.5}, {"valence": -1.0}]


def test_comma_in_semicolon_separated_list(root: Path) -> None:
    found = load_dataset(listed(root, "path;label\n3,5.mp4;joy\n4,5;fear\n", clips="3,5.mp4 4,5"))
    assert [sample.path.name for sample in found.samples] == ["3,5.mp4", "4,5"]


def test_comments_between_json_lines(root: Path) -> None:
    text = '# mine\n{"path": "a.mp4", "label": "joy"}\n  # more\n{"path": "b.mp4", "label": "#fear"}\n'
    found = load_dataset(listed(root, text, "list.jsonl"))
    assert [(sample.label, sample.source) for sample in found.samples] == [
        ("joy", "list.jsonl:2"),
        ("#fear", "list.jsonl:4"),
    ]


@pytest.mark.parametrize("name", ["list.jsonl", "list.NDJSON"])
def test_json_lines(root: Path, name: str) -> None:
    lines = [
        {"path": "a.mp4", "label": "joy", "person": 7, "Valence": 3},
        {"path": str(root / "b.mp4"), "label": "fear\u2028", "person": None, "split": None, "Valence": 0.5},
    ]
    text = "\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\r\n"
    found = load_dataset(listed(root, text, name))
    assert rows(found, root) == [("a.mp4", "joy", "7", None), ("b.mp4", "fear", None, None)]
    assert [sample.source for sample in found.samples] == [f"{name}:1", f"{name}:3"]
    assert [sample.ratings for sample in found.samples] == [{"valence": 3}, {"valence": 0.5}]


def test_numeric_columns_are_ratings(root: Path) -> None:
    text = "path,label,Valence,stress,grade,note,nothing\na.mp4,joy,1e1,-2,1,x,\nb.mp4,,7,,A,,\nc.mp4,fear,7.5,3,2,,\n"
    found = load_dataset(listed(root, text))
    assert [sample.ratings for sample in found.samples] == [
        {"valence": 10.0, "stress": -2.0},
        {"valence": 7.0},
        {"valence": 7.5, "stress": 3.0},
    ]
    assert [sample.label for sample in found.samples] == ["joy", None, "fear"]
    assert found.labels == ("fear", "joy")
    validate_dataset(found, target="valence")
    with pytest.raises(DatasetError, match=r"'stress': b\.mp4 \(list\.csv:3\)"):
        validate_dataset(found, target="stress")
    with pytest.raises(DatasetError, match=r"'grade': a\.mp4 \(list\.csv:2\), b\.mp4 .*, c\.mp4"):
        validate_dataset(found, target="grade")


def test_missing_ratings_are_an_error(root: Path) -> None:
    names = [f"{letter}.mp4" for letter in "abcde"]
    found = load_dataset(
        listed(root, "path,label\n" + "".join(f"{name},joy\n" for name in names), clips=" ".join(names))
    )
    with pytest.raises(DatasetError, match=r"list\.csv:4\) and 2 more"):
        validate_dataset(found, target="valence")


@pytest.mark.parametrize("column", [[True, 1], ["1", [2]], [{}, 1], ["one", 2]], ids=str)
def test_non_numeric_rating_is_ignored(root: Path, column: list[object]) -> None:
    lines = [{"path": f"{name}.mp4", "label": "joy", "x": value} for name, value in zip("ab", column, strict=True)]
    found = load_dataset(listed(root, "\n".join(map(json.dumps, lines)), "list.jsonl"))
    assert [sample.ratings for sample in found.samples] == [{}, {}]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "list.csv clips"),
        ("# clips\npath,label\n\n# none yet\n", "list.csv clips"),
        ("a.mp4,joy\n", "list.csv:1 path a.mp4"),
        ("\npath|label\na.mp4|joy\n", "list.csv:2 path|label"),
        ("path;label\na.mp4;joy;\n", "list.csv:2 semicolon"),
        ("path,label\na.mp4,joy,\n", "list.csv:2 comma"),
        ("# one\npath,label\n# two\n,joy\n", "list.csv:4 path"),
        ("path,label,Path\n", "list.csv:1 duplicate path"),
        ("path,label\na.mp4,joy\nb.mp4\n", "list.csv:3 label"),
        ("path,valence\na.mp4,1\nb.mp4,\n", "list.csv:3 label"),
        ("path,label,split\na.mp4,joy,dev\n", "list.csv:2 'dev'"),
        ('path,label\na.mp4,joy\n"b.mp4,joy\nc.mp4,fear\n', "list.csv:3 CSV"),
        ('path,label\n"a.mp4"x,joy\n', "list.csv:2 CSV"),
        (f"path,label\na.mp4,{'x' * 140_000}\n", "list.csv:2 CSV"),
        ("path,label\na.mp4,jo\0y\n", "list.csv:2 NUL"),
        (b"\xef\xbb\xbfpath,label\na.mp4,joy\nb.mp4,\xe4rger\n", "list.csv:3 UTF-8"),
        ("path,label\n".encode("utf-16"), "list.csv:1 UTF-8"),
        ("path,x\na.mp4,1\nb.mp4,nan\n", "list.csv:3 x nan"),
        ("path,label\na.mp4,joy\nno.mp4,joy\n*.mp4,joy\n", "no.mp4 (list.csv:3)"),
        (f"path,label\n{'x' * 5000},joy\n", "(list.csv:2)"),
        ("path,label\na.mp4,joy\nb.mp4,joy\n./a.mp4,fear\n", "a.mp4 list.csv:4 list.csv:2"),
        ("path,label,split\na.mp4,joy,train\nb.mp4,joy,\n", "split b.mp4 (list.csv:3)"),
        (
            "path,label,person,split\na.mp4,joy,ann,train\nb.mp4,joy,bob,test\nc.mp4,joy,ann,test\n",
            "c.mp4 list.csv:4 'ann' list.csv:2",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_csv_errors_name_line(root: Path, text: str | bytes, said: str) -> None:
    assert_refused(listed(root, text), said)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "JSON"),
        ("[" * 200_000, "JSON"),
        ('["a.mp4", "joy"]', "JSON object"),
        ('{"label": "joy"}', "path"),
        ('{"path": "a.mp4"}', "label"),
        ('{"path": 3, "label": "joy"}', "path int"),
        ('{"path": "a.mp4", "label": ["joy"]}', "label list"),
        ('{"path": "a.mp4", "label": "joy", "person": true}', "person bool"),
        ('{"path": "a.mp4", "label": "joy", "split": 1}', "split int"),
        ('{"path": "a.mp4", "x": NaN}', "x nan"),
        (f'{{"path": "a.mp4", "x": 1{"0" * 400}}}', "x inf"),
        ('{"path": "a\\u0000.mp4", "label": "joy"}', "no such"),
        ('{"path": "\\ud800.mp4", "label": "joy"}', "no such"),
    ],
    ids=lambda value: value[:40],
)
def test_json_lines_errors_name_line(root: Path, line: str, said: str) -> None:
    assert_refused(listed(root, f"\n{line}\n", "l.jsonl"), f"l.jsonl:2 {said}")


def test_select_classes() -> None:
    found = Dataset("set", (clip("a", "joy"), clip("b", "fear"), clip("c", "bored"), clip("d", "joy"), clip("e", None)))
    part = filter_labels(found, ["joy", "fear"])
    assert (part.name, part.labels) == ("set", ("fear", "joy"))
    assert [sample.path.name for sample in part.samples] == ["a", "b", "d"]
    with pytest.raises(DatasetError, match=r"set .*calm, sad; .*bored, fear, joy"):
        filter_labels(found, ["joy", "calm", "sad"])


def test_links_to_one_clip_are_one_clip(root: Path) -> None:
    plant(root, "fear/a.mp4", "joy/b.mp4")
    (root / "joy" / "a.mp4").symlink_to("../fear/a.mp4")
    assert_refused(".", "duplicate joy/a.mp4 fear")


def test_dangling_link_is_refused(root: Path) -> None:
    plant(root, "joy/b.mp4")
    (root / "joy" / "a.mp4").symlink_to("nowhere.mp4")
    assert_refused(".", "no such joy/a.mp4")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("none.csv", "none.csv cannot be read"),
        ("", "cannot be read"),
        ("affwild:/data", "'affwild' kerc2020 vgaf"),
        ("ravdess:none", "'none' is not a folder"),
        ("ravdess:", "'' is not a folder"),
    ],
)
@pytest.mark.usefixtures("root")
def test_invalid_datasets(source: str, said: str) -> None:
    assert_refused(source, said)


def test_colon_in_name_of_list_or_folder(root: Path) -> None:
    assert load_dataset(listed(root, "path,label\na.mp4,joy\n", "at 12:30.csv")).name == "at 12:30"
    plant(root, "at 12:30/joy/a.mp4")
    assert load_dataset("at 12:30").name == "at 12:30"


@pytest.mark.parametrize(
    ("samples", "lacking"),
    [
        ((), []),
        ((clip("a"),), []),
        ((clip("a", person="ann"),), ["joy"]),
        ((clip("a", person="ann"), clip("b", person="ann")), ["joy"]),
        ((clip("a", person="ann"), clip("b", person="bob")), []),
        ((clip("a", person="ann"), clip("b")), []),
        ((clip("a", "sad", "ann"), clip("b", "joy", "ann"), clip("c", "joy", "bob"), clip("d", None)), ["sad"]),
    ],
    ids=range(7),
)
def test_classes_with_too_few_people(samples: tuple[Sample, ...], lacking: list[str]) -> None:
    assert labels_with_few_people(Dataset("set", samples)) == lacking


# Known sets


@pytest.mark.parametrize("name", KNOWN_LAYOUTS)
def test_missing_known_set_describes_layout(root: Path, name: str) -> None:
    plant(root, "joy/notes.txt", "joy/a/1.png")
    assert_refused(f"{name.upper()}:{root}", KNOWN_LAYOUTS[name].example)


def test_tilde_is_expanded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root))
    plant(root, "crema/1001_DFA_ANG_XX.flv")
    assert rows(load_dataset("crema-d:~/crema"), root) == [("crema/1001_DFA_ANG_XX.flv", "anger", "1001", None)]


@pytest.mark.parametrize("parts", [("Train_AFEW", "Val_AFEW"), ("train_afew", "val_afew"), ("train", "val")], ids=str)
def test_afew(root: Path, parts: tuple[str, str]) -> None:
    train, val = parts
    plant(root, f"{train}/Angry/2.avi", f"{train}/Angry/1.avi", f"{val}/Happy/3/001.png", f"{val}/Sad/4.avi")
    plant(root, f"{train}/AlignedFaces_LBPTOP_Points/2/1.png", f"{train}/Angry/2.xml", "Test_AFEW/5.avi")
    found = load_dataset("afew:.")
    assert rows(found, root) == [
        (f"{train}/Angry/1.avi", "anger", None, "train"),
        (f"{train}/Angry/2.avi", "anger", None, "train"),
        (f"{val}/Happy/3", "happiness", None, "val"),
        (f"{val}/Sad/4.avi", "sadness", None, "val"),
    ]
    assert found.samples[0].source == f"{train}/Angry"


def test_afew_reports_unknown_class(root: Path) -> None:
    plant(root, "Train_AFEW/Angry/1.avi", "Train_AFEW/Bored/2.avi")
    assert_refused("afew:.", "Train_AFEW/Bored/2.avi angry")


def test_vgaf(root: Path) -> None:
    plant(
        root, "Train/1_1.mp4", "Train/2_1/0001.png", "Train/2_10.mp4", "Val/9_1.mp4", "Val/9_1/0001.png", "Test/x.mp4"
    )
    (root / "Train_labels.txt").write_text("Vid_name Label\n1_1 1\n2_1 2\n\n2_10 3\n")
    (root / "Val_labels.txt").write_text("9_1.mp4,3\r\n")
    found = load_dataset("vgaf:.")
    assert rows(found, root) == [
        ("Train/1_1.mp4", "positive", None, "train"),
        ("Train/2_1", "neutral", None, "train"),
        ("Train/2_10.mp4", "negative", None, "train"),
        ("Val/9_1.mp4", "negative", None, "val"),
    ]
    lines = ["Train_labels.txt:2", "Train_labels.txt:3", "Train_labels.txt:5", "Val_labels.txt:1"]
    assert [sample.source for sample in found.samples] == lines


@pytest.mark.parametrize(
    ("files", "labels", "said"),
    [
        ("Train/1.mp4", None, "Train_labels.txt"),
        ("Train/1.mp4", "1 1\n2 1\n", "Train/2.mp4 (Train_labels.txt:2)"),
        ("", "1 1\n", "Train/1.mp4"),
        ("Train/1.mp4", "1 4\n", "Train_labels.txt:1"),
        ("Train/1.mp4", "name label\n1 x\n", "Train_labels.txt:2"),
        ("Train/1.mp4", "1\n", "Train_labels.txt:1"),
        ("Train/1.mp4", "name label\n", "layout"),
    ],
)
def test_vgaf_reports_missing_files_and_labels(root: Path, files: str, labels: str | None, said: str) -> None:
    plant(root, *files.split())
    if labels is not None:
        (root / "Train_labels.txt").write_text(labels)
    assert_refused("vgaf:.", said)


@pytest.mark.parametrize("top", ["", "Video_Speech_Actor_12/Actor_12/"])
def test_ravdess_takes_version_with_sound_of_each_take(root: Path, top: str) -> None:
    plant(root, *(f"{top}{name}" for name in ("02-01-06-01-02-01-12.mp4", "01-01-06-01-02-01-12.mp4", ".DS_Store")))
    plant(root, *(f"{top}{name}" for name in ("02-02-08-02-01-02-12.mp4", "03-01-01-01-01-01-12.wav", "notes.txt")))
    plant(root, f"{top}01-01-02-01-01-01-12/001.png")
    assert rows(load_dataset("ravdess:."), root) == [
        (f"{top}01-01-02-01-01-01-12", "calm", "12", None),
        (f"{top}01-01-06-01-02-01-12.mp4", "fear", "12", None),
        (f"{top}02-02-08-02-01-02-12.mp4", "surprise", "12", None),
    ]


@pytest.mark.parametrize("top", ["", "VideoFlash/"])
def test_crema_d(root: Path, top: str) -> None:
    codes = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happiness", "NEU": "neutral", "SAD": "sadness"}
    names = {f"{top}10{number:02}_IEO_{code}_HI": code for number, code in enumerate(codes)}
    plant(root, *(f"{name}.flv" for name in names), "AudioWAV/1001_IEO_ANG_HI.wav", "VideoDemographics.csv")
    plant(root, f"{top}1099_ITH_SAD_X.flv", f"{top}1099_ITH_SAD_X.mp4")
    assert rows(load_dataset("crema-d:."), root) == [
        *((f"{name}.flv", codes[code], f"10{number:02}", None) for number, (name, code) in enumerate(names.items())),
        (f"{top}1099_ITH_SAD_X.flv", "sadness", "1099", None),
    ]


@pytest.mark.parametrize(
    ("name", "stray"),
    [
        ("ravdess", "01-01-09-01-01-01-01.mp4"),
        ("ravdess", "01-01-09-01-01-01-01/1.png"),
        ("ravdess", "03-01-01-01-01-01-01.mp4"),
        ("crema-d", "1001_DFA_XXX_XX.flv"),
        ("crema-d", "trailer.mp4"),
    ],
)
def test_file_name_without_class_is_reported(root: Path, name: str, stray: str) -> None:
    plant(root, f"videos/{stray}")
    assert_refused(f"{name}:.", f"videos/{stray.split('/')[0]}")


@pytest.mark.parametrize(
    ("images", "emotion"),
    [
        ("cohn-kanade-images/", "Emotion/{0}/{1}/"),
        ("cohn-kanade-images/", "Emotion/"),
        ("extended-cohn-kanade-images/cohn-kanade-images/", "Emotion_labels/Emotion/{0}/{1}/"),
        ("", "Emotion/{0}/{1}/"),
    ],
)
def test_ck_plus(root: Path, images: str, emotion: str) -> None:
    for person, sequence, code in (("S005", "001", 3), ("S010", "004", 7), ("S010", "005", None), ("S011", "001", 0)):
        plant(root, *(f"{images}{person}/{sequence}/{person}_{sequence}_0000000{i}.png" for i in (1, 2)))
        folder = root / emotion.format(person, sequence)
        folder.mkdir(parents=True, exist_ok=True)
        if code is not None:
            name = f"{person}_{sequence}_00000002_emotion.txt"
            (folder / name).write_text(f"   {code:.7e}\n")
            (folder / f"._{name}").write_bytes(b"\0")
    found = load_dataset("ck+:.")
    assert rows(found, root) == [
        (f"{images}S005/001", "disgust", "S005", None),
        (f"{images}S010/004", "surprise", "S010", None),
        (f"{images}S011/001", "neutral", "S011", None),
    ]
    assert found.samples[0].source == f"{emotion.format('S005', '001')}S005_001_00000002_emotion.txt"


@pytest.mark.parametrize("text", ["", "8", "nan", "3\n4"], ids=repr)
def test_ck_plus_reports_invalid_emotion_file(root: Path, text: str) -> None:
    plant(root, "cohn-kanade-images/S005/001/S005_001_00000001.png")
    (root / "S005_001_00000001_emotion.txt").write_text(text)
    assert_refused("ck+:.", "S005_001_00000001_emotion.txt number")


def test_ck_plus_reports_missing_frames(root: Path) -> None:
    (root / "S005_001_00000001_emotion.txt").write_text("1.0")
    assert_refused("ck+:.", "S005/001 (S005_001_00000001_emotion.txt)")


HEADER = "video_name,Valence,Arousal,Stress\n"


def kerc(root: Path, train: str | None, val: str | None = None, frames: str = "v1 v2 v3 v4 v5 v10") -> None:
    plant(root, *(f"frame_img/{name}-face_{i}.jpg" for name in frames.split() for i in (0, 1)))
    if train is not None:
        (root / "train_mean.csv").write_text(train)
    if val is not None:
        plant(root, "new_Test_img/637_1.jpg", "new_Test_img/637_10.jpg", "new_Test_img/637_9.jpg")
        (root / "CODE_Baseline" / "csv").mkdir(parents=True)
        (root / "CODE_Baseline" / "csv" / "val_mean.csv").write_text(val)


def test_kerc2020(root: Path) -> None:
    valences = ("3.9", "4", "4.0", "5.5", "5.6")
    lines = "".join(f"Train/000{number}.mp4,{valence},6,7\n" for number, valence in enumerate(valences, 1))
    absent = "Train/0050.mp4,2,6.5,7.8\nTrain/0506.mp4,3.6,5.8,6.6\n"
    kerc(root, HEADER + absent + lines, HEADER + "Val/0637.mp4,9,1,5.25\n")
    found = load_dataset("kerc2020:.")
    assert [(str(s.path), s.label, s.split) for s in found.samples] == [
        ("frame_img/v1-face_*.jpg", "negative", "train"),
        ("frame_img/v2-face_*.jpg", "neutral", "train"),
        ("frame_img/v3-face_*.jpg", "neutral", "train"),
        ("frame_img/v4-face_*.jpg", "neutral", "train"),
        ("frame_img/v5-face_*.jpg", "positive", "train"),
        ("new_Test_img/637_*.jpg", "positive", "val"),
    ]
    assert [path.name for path in frame_files(found.samples[0].path)] == ["v1-face_0.jpg", "v1-face_1.jpg"]
    assert [path.name for path in frame_files(found.samples[-1].path)] == ["637_1.jpg", "637_9.jpg", "637_10.jpg"]
    assert found.samples[0].source == "train_mean.csv:4"
    assert found.samples[-1].ratings == {"valence": 9, "arousal": 1, "stress": 5.25}
    assert [sample.ratings["stress"] for sample in found.samples[:-1]] == [7] * 5


def test_kerc2020_prefers_table_of_baseline(root: Path) -> None:
    kerc(root, HEADER + "Train/0010.mp4,5.9,3.9,0\n", HEADER + "Val/0637.mp4,4.3,5.4,5.6\n")
    (root / "CODE_Baseline" / "csv" / "train_mean.csv").write_text(HEADER + "Train/0010.mp4,5.9,3.9,3.8\n")
    assert [sample.ratings["stress"] for sample in load_dataset("kerc2020:.").samples] == [3.8, 5.6]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (None, "train_mean.csv"),
        ("", "layout"),
        (HEADER + "Train/0001.mp4,5.9,3.9,0\n", "train_mean.csv:2 CODE_Baseline/csv/train_mean.csv"),
        ("Train/0001.mp4,5.9,3.9,9.1\n", "train_mean.csv:1"),
        ("Train/0001.mp4,nan,3.9,9\n", "train_mean.csv:1"),
        ("Train/0001.mp4,high,3.9,9\n", "train_mean.csv:1"),
        ("Train/0001.mp4,5,4\n", "train_mean.csv:1"),
        ("one.mp4,5,4,3\n", "train_mean.csv:1"),
        ("video_name,Arousal,Valence,Stress\n", "train_mean.csv:1"),
        ("Train/0007.mp4,5,4,3\n", "frame_img/v7-face_*.jpg (train_mean.csv:1)"),
    ],
)
def test_kerc2020_reports_missing_files_and_invalid_lines(root: Path, table: str | None, said: str) -> None:
    kerc(root, table)
    assert_refused("kerc2020:.", said)


def test_loop_of_links_is_harmless(root: Path) -> None:
    plant(root, "Actor_01/01-01-01-01-01-01-01.mp4")
    (root / "Actor_01" / "loop").symlink_to("..")
    assert len(load_dataset("ravdess:.").samples) == 1
