"""Labelled clips from folders, lists and miniature copies of known sets, and their errors."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from fervid.core.errors import DatasetError
from fervid.learn.dataset import (
    Dataset,
    Sample,
    filter_labels,
    frame_files,
    label_counts,
    labels_with_few_people,
    load_dataset,
)
from fervid.learn.dataset_layouts import KNOWN_LAYOUTS
from fervid.media.inputs import PassedOver


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_other_files_in_class_folders_are_counted(root: Path) -> None:
    plant(root, "joy/a.mp4", "joy/notes.txt", "joy/b.xyz", "joy/deeper/c.mp4", "calm/d.mp4")
    (root / "joy" / "e").write_bytes(b"\x1aE\xdf\xa3\x01\0\0\0\0\0\0\x1fB\x82\x84webm")
    passed_over = PassedOver(advice="")
    found = load_dataset(str(root), passed_over=passed_over)
    assert [sample.path.name for sample in found.samples] == ["d.mp4", "a.mp4", "e"]
    assert str(passed_over) == "2 files are not videos, 1 folder was not searched"


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
    assert label_counts(found) == {"fear": 1, "joy": 2}


def test_split_folders_above_classes(root: Path) -> None:
    plant(root, "Train/joy/a.mp4", "validation/joy/b.mp4", "test/fear/c.mp4")
    found = load_dataset(".")
    assert found.name == root.name
    assert [(s.path.name, s.split) for s in found.samples] == [("a.mp4", "train"), ("c.mp4", "test"), ("b.mp4", "val")]
    assert [sample.path.name for sample in found.split("val").samples] == ["b.mp4"]
    assert found.split("unheard of").samples == ()


@pytest.mark.parametrize(
    ("stray", "said"),
    [
        ("set/stray.mp4", r"set/stray\.mp4 is next to the class folders"),
        ("set/fear/anna/a.mp4", r"set/fear has no clips, but set/fear/anna has"),
        ("set/fear/films/anna/1/a.mp4", r"set/fear has no clips, but set/fear/films/anna/1 has"),
    ],
)
def test_clips_outside_class_folders_are_an_error(stray: str, said: str, root: Path) -> None:
    plant(root, "set/joy/a.mp4", "set/calm/a.mp4", stray)
    with pytest.raises(DatasetError, match=said.replace("/", r"[\\/]")):
        load_dataset("set")


def test_clips_beside_classes_of_part_are_not_passed_over(root: Path) -> None:
    plant(root, "train/joy/a.mp4", "train/stray.mp4", "train/other.mp4")
    with pytest.raises(DatasetError, match=r"train[\\/]other\.mp4 is next to .*2 such clips"):
        load_dataset(".")


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no file names that are not UTF-8")
def test_undecodable_labels_are_refused(root: Path) -> None:
    plant(root, "set/jo\udcffy/a.mp4", "set/calm/a.mp4")
    with pytest.raises(DatasetError, match=r"labels that are not UTF-8.*rename the folder"):
        load_dataset("set")


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
    with pytest.raises(DatasetError, match=r"^set has no clips .*, happiness/a\.mp4 or train/happiness/a\.mp4"):
        load_dataset("set")


def test_unreadable_folder_is_an_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> list[str]:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("os.listdir", refuse)
    with pytest.raises(DatasetError, match=r"^\. cannot be read \(Permission denied\); check its permissions"):
        load_dataset(".")


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
    assert found.ratings("valence").tolist() == [3, 0.5]


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
    assert label_counts(found) == {"fear": 1, "joy": 1}
    target = found.ratings("valence")
    assert target.dtype == np.float64
    assert target.tolist() == [10, 7, 7.5]
    with pytest.raises(DatasetError, match=r"^no rating 'stress': b\.mp4 \(list\.csv:3\); .* stress, valence$"):
        found.ratings("stress")
    with pytest.raises(DatasetError, match=r"'grade': a\.mp4 \(list\.csv:2\), b\.mp4 .*, c\.mp4 .*; the ratings are"):
        found.ratings("grade")


def test_missing_ratings_are_an_error(root: Path) -> None:
    names = [f"{letter}.mp4" for letter in "abcde"]
    found = load_dataset(
        listed(root, "path,label\n" + "".join(f"{name},joy\n" for name in names), clips=" ".join(names))
    )
    with pytest.raises(DatasetError, match=r"list\.csv:4\) and 2 more; no column holds only numbers"):
        found.ratings("valence")
    assert Dataset("none", ()).ratings("valence").shape == (0,)


@pytest.mark.parametrize("column", [[True, 1], ["1", [2]], [{}, 1], ["one", 2]], ids=str)
def test_non_numeric_rating_is_ignored(root: Path, column: list[object]) -> None:
    lines = [{"path": f"{name}.mp4", "label": "joy", "x": value} for name, value in zip("ab", column, strict=True)]
    found = load_dataset(listed(root, "\n".join(map(json.dumps, lines)), "list.jsonl"))
    assert [sample.ratings for sample in found.samples] == [{}, {}]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"^list\.csv lists no clips; add a line"),
        ("path,label\n\n", r"^list\.csv lists no clips"),
        ("a.mp4,joy\n", r"^list\.csv:1: no column path among a\.mp4, joy; .*path,label"),
        ("\npath|label\na.mp4|joy\n", r"^list\.csv:2: no column path among path\|label"),
        ("path;label\na.mp4;joy;\n", r"^list\.csv:2 has more fields .* contain a semicolon"),
        ("# clips\npath,label\n# none yet\n", r"^list\.csv lists no clips"),
        ("# one\npath,label\n# two\n,joy\n", r"^list\.csv:4 has no path"),
        ("path,label,Path\n", r"^list\.csv:1: duplicate column path"),
        ("path,label\n,joy\n", r"^list\.csv:2 has no path"),
        ("path,label\na.mp4,joy\nb.mp4\n", r"^list\.csv:3 has no label and no rating"),
        ("path,lable\na.mp4,joy\n", r"^list\.csv:2 has no label"),
        ("path,valence\na.mp4,1\nb.mp4,\n", r"^list\.csv:3 has no label"),
        ("path,label,split\na.mp4,joy,dev\n", r"^list\.csv:2: unknown split 'dev'; use train, val or test"),
        ("path,label\na.mp4,joy,\n", r"^list\.csv:2 has more fields than the header; quote .* comma"),
        (
            'path,label\na.mp4,joy\n"b.mp4,joy\nc.mp4,fear\n',
            r"^list\.csv:3 is not valid CSV \(unexpected end of data\); close",
        ),
        ('path,label\n"a.mp4"x,joy\n', r"^list\.csv:2 is not valid CSV .*; close every quote"),
        (f"path,label\na.mp4,{'x' * 140_000}\n", r"^list\.csv:2 is not valid CSV \(field larger than field limit"),
        ("path,label\na.mp4,jo\0y\n", r"^list\.csv:2 contains a NUL character; give a folder"),
        (
            b"\xef\xbb\xbfpath,label\na.mp4,joy\nb.mp4,\xe4rger\n",
            r"^list\.csv:3 is not UTF-8 text; .* or afew:FOLDER, ck",
        ),
        ("path,label\n".encode("utf-16"), r"^list\.csv:1 is not UTF-8 text"),
        ("path,x\na.mp4,1\nb.mp4,nan\n", r"^list\.csv:3: x is nan; leave the cell empty, or remove the line"),
        ("path,x\na.mp4,-inf\n", r"^list\.csv:2: x is -inf"),
        ("path,label\na.mp4,joy\nno.mp4,joy\n*.mp4,joy\n", r"^no such video or image folder: no\.mp4 \(list\.csv:3\)"),
        (f"path,label\n{'x' * 5000},joy\n", r"^no such video or .*; check the spelling"),
        (
            "path,label\na.mp4,joy\nb.mp4,joy\n./a.mp4,fear\n",
            r"^duplicate clips: a\.mp4 \(list\.csv:4, first at list\.csv:2",
        ),
        ("path,label,split\na.mp4,joy,train\nb.mp4,joy,\n", r"^no split: b\.mp4 \(list\.csv:3\); add train"),
        (
            "path,label,person,split\na.mp4,joy,ann,train\nb.mp4,joy,bob,test\nc.mp4,joy,ann,test\n",
            r"^people in two splits: c\.mp4 \(list\.csv:4, 'ann' in test; in train at list\.csv:2\); keep",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_csv_errors_name_line(root: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        load_dataset(listed(root, text))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", r"^l\.jsonl:2 is not valid JSON \(.*\); write one object per line"),
        ("[" * 200_000, r"^l\.jsonl:2 is not valid JSON \(.*recursion"),
        ('["a.mp4", "joy"]', r"^l\.jsonl:2 is not a JSON object; write"),
        ('{"label": "joy"}', r"^l\.jsonl:2 has no path"),
        ('{"path": "a.mp4"}', r"^l\.jsonl:2 has no label"),
        ('{"path": 3, "label": "joy"}', r"^l\.jsonl:2: path must be a string, not int; put it in quotes"),
        ('{"path": "a.mp4", "label": 3}', r"^l\.jsonl:2: label must be a string, not int"),
        ('{"path": "a.mp4", "label": ["joy"]}', r"^l\.jsonl:2: label must be a string, not list"),
        ('{"path": "a.mp4", "label": "joy", "person": 0.5}', r"^l\.jsonl:2: person must be a string, not float"),
        ('{"path": "a.mp4", "label": "joy", "person": true}', r"^l\.jsonl:2: person must be a string, not bool"),
        ('{"path": "a.mp4", "label": "joy", "split": 1}', r"^l\.jsonl:2: split must be a string, not int"),
        ('{"path": "a.mp4", "x": NaN}', r"^l\.jsonl:2: x is nan"),
        (f'{{"path": "a.mp4", "x": 1{"0" * 400}}}', r"^l\.jsonl:2: x is inf"),
        ('{"path": "a\\u0000.mp4", "label": "joy"}', r"^no such video or image folder: .* \(l\.jsonl:2\)"),
        ('{"path": "\\ud800.mp4", "label": "joy"}', r"^no such video or image folder: .* \(l\.jsonl:2\)"),
    ],
    ids=lambda value: value[:40],
)
def test_json_lines_errors_name_line(root: Path, line: str, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        load_dataset(listed(root, f"\n{line}\n", "l.jsonl"))


def test_select_classes() -> None:
    found = Dataset("set", (clip("a", "joy"), clip("b", "fear"), clip("c", "bored"), clip("d", "joy"), clip("e", None)))
    part = filter_labels(found, ["joy", "fear"])
    assert (part.name, part.labels) == ("set", ("fear", "joy"))
    assert [sample.path.name for sample in part.samples] == ["a", "b", "d"]
    with pytest.raises(DatasetError, match="set has no clips of calm, sad; it has bored, fear, joy"):
        filter_labels(found, ["joy", "calm", "sad"])


def test_links_to_one_clip_are_one_clip(root: Path) -> None:
    plant(root, "fear/a.mp4", "joy/b.mp4")
    (root / "joy" / "a.mp4").symlink_to("../fear/a.mp4")
    with pytest.raises(DatasetError, match=r"^duplicate clips: joy/a\.mp4 \(joy, first at fear\); keep one"):
        load_dataset(".")


def test_dangling_link_is_ignored(root: Path) -> None:
    plant(root, "joy/b.mp4")
    (root / "joy" / "a.mp4").symlink_to("nowhere.mp4")
    with pytest.raises(DatasetError, match=r"^no such video or image folder: joy/a\.mp4 \(joy\)"):
        load_dataset(".")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("none.csv", r"^none\.csv cannot be read \(No such file or directory\); give a folder with .* vgaf:FOLDER"),
        ("", r"cannot be read \(Is a directory\)"),
        ("affwild:/data", r"^unknown data set 'affwild'; use one of afew, ck\+, crema-d, kerc2020, ravdess, vgaf$"),
        ("ravdess:none", r"^'none' is not a folder; give NAME:FOLDER"),
        ("ravdess:", r"^'' is not a folder"),
    ],
)
@pytest.mark.usefixtures("root")
def test_invalid_datasets(source: str, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        load_dataset(source)


def test_colon_in_name_of_list_or_folder(root: Path) -> None:
    assert load_dataset(listed(root, "path,label\na.mp4,joy\n", "at 12:30.csv")).name == "at 12:30"
    plant(root, "at 12:30/joy/a.mp4")
    assert load_dataset("at 12:30").name == "at 12:30"


@pytest.mark.parametrize(
    ("samples", "least", "lacking"),
    [
        ((), 2, []),
        ((clip("a"),), 2, []),
        ((clip("a", person="ann"),), 2, ["joy"]),
        ((clip("a", person="ann"),), 1, []),
        ((clip("a", person="ann"), clip("b", person="bob")), 2, []),
        ((clip("a", person="ann"), clip("b", person="bob")), 3, ["joy"]),
        ((clip("a", person="ann"), clip("b")), 2, []),
        ((clip("a", "sad", "ann"), clip("b", "joy", "ann"), clip("c", "joy", "bob"), clip("d", None)), 2, ["sad"]),
    ],
    ids=range(8),
)
def test_classes_with_too_few_people(samples: tuple[Sample, ...], least: int, lacking: list[str]) -> None:
    assert labels_with_few_people(Dataset("set", samples), least) == lacking


# Known sets


@pytest.mark.parametrize("name", KNOWN_LAYOUTS)
def test_missing_known_set_describes_layout(root: Path, name: str) -> None:
    plant(root, "joy/notes.txt", "joy/a/1.png")
    with pytest.raises(DatasetError) as caught:
        load_dataset(f"{name.upper()}:{root}")
    assert str(caught.value).endswith(f"has no clips in the expected layout, {KNOWN_LAYOUTS[name].example}")


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
    with pytest.raises(
        DatasetError, match=r"^Train_AFEW[\\/]Bored[\\/]2\.avi is in none of the AFEW classes angry, .*rename"
    ):
        load_dataset("afew:.")


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
    ("files", "labels", "words"),
    [
        ("Train/1.mp4", None, r"^Train_labels\.txt cannot be read .*; unpack the annotations"),
        (
            "Train/1.mp4",
            "1 1\n2 1\n",
            r"^no such video or .*: Train/2\.mp4 \(Train_labels\.txt:2\); .* everything is unpacked",
        ),
        ("", "1 1\n", r"^no such video or image folder: Train/1\.mp4"),
        ("Train/1.mp4", "1 4\n", r"^Train_labels\.txt:1 must be the name of a clip and 1, 2 or 3"),
        ("Train/1.mp4", "name label\n1 x\n", r"^Train_labels\.txt:2 must be the name"),
        ("Train/1.mp4", "1 1 1\n", r"^Train_labels\.txt:1 must be the name"),
        ("Train/1.mp4", "1\n", r"^Train_labels\.txt:1 must be the name"),
        ("Train/1.mp4", "name label\n", r"^\. has no clips in the expected layout"),
    ],
)
def test_vgaf_reports_missing_files_and_labels(root: Path, files: str, labels: str | None, words: str) -> None:
    plant(root, *files.split())
    if labels is not None:
        (root / "Train_labels.txt").write_text(labels)
    with pytest.raises(DatasetError, match=words):
        load_dataset("vgaf:.")


@pytest.mark.parametrize("top", ["", "Actor_12/", "Video_Speech_Actor_12/Actor_12/"])
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
        ("ravdess", "01-01-00-01-01-01-01.mp4"),
        ("ravdess", "01-01-09-01-01-01-01.mp4"),
        ("ravdess", "01-01-09-01-01-01-01/1.png"),
        ("ravdess", "03-01-01-01-01-01-01.mp4"),
        ("ravdess", "01-01-01-01-01-01.mp4"),
        ("crema-d", "1001_DFA_XXX_XX.flv"),
        ("crema-d", "trailer.mp4"),
    ],
)
def test_file_name_without_class_is_reported(root: Path, name: str, stray: str) -> None:
    plant(root, f"videos/{stray}")
    with pytest.raises(
        DatasetError, match=rf"^the name of videos[\\/]{stray.split('/')[0]} is not like [\w-]+; correct it, or move"
    ):
        load_dataset(f"{name}:.")


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


@pytest.mark.parametrize("text", ["", "8", "1.5", "-1", "nan", "happy", "3 4", "3\n4"], ids=repr)
def test_ck_plus_reports_invalid_emotion_file(root: Path, text: str) -> None:
    plant(root, "cohn-kanade-images/S005/001/S005_001_00000001.png")
    (root / "S005_001_00000001_emotion.txt").write_text(text)
    with pytest.raises(DatasetError, match=r"^S005_001_00000001_emotion\.txt must contain a number from 0 to 7"):
        load_dataset("ck+:.")


def test_ck_plus_reports_missing_frames(root: Path) -> None:
    (root / "S005_001_00000001_emotion.txt").write_text("1.0")
    with pytest.raises(DatasetError, match=r"^no such .*: S005[\\/]001 \(S005_001_00000001_emotion\.txt\)"):
        load_dataset("ck+:.")


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
    assert found.split("train").ratings("stress").tolist() == [7] * 5


def test_kerc2020_prefers_table_of_baseline(root: Path) -> None:
    kerc(root, HEADER + "Train/0010.mp4,5.9,3.9,0\n", HEADER + "Val/0637.mp4,4.3,5.4,5.6\n")
    (root / "CODE_Baseline" / "csv" / "train_mean.csv").write_text(HEADER + "Train/0010.mp4,5.9,3.9,3.8\n")
    assert load_dataset("kerc2020:.").ratings("stress").tolist() == [3.8, 5.6]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (None, r"^train_mean\.csv cannot be read .*; unpack the annotations"),
        ("", r"^\. has no clips"),
        (
            HEADER + "Train/0001.mp4,5.9,3.9,0\n",
            r"^train_mean\.csv:2 must be a clip with valence, .*use CODE_Baseline/csv/tr",
        ),
        ("Train/0001.mp4,5.9,3.9,9.1\n", r"^train_mean\.csv:1 must be a clip"),
        ("Train/0001.mp4,nan,3.9,9\n", r"^train_mean\.csv:1 must be a clip"),
        ("Train/0001.mp4,high,3.9,9\n", r"^train_mean\.csv:1 must be a clip"),
        ("Train/0001.mp4,5,4\n", r"^train_mean\.csv:1 must be a clip"),
        ("Train/0001.mp4,5,4,3,2\n", r"^train_mean\.csv:1 must be a clip"),
        ("one.mp4,5,4,3\n", r"^train_mean\.csv:1 must be a clip"),
        ("video_name,Arousal,Valence,Stress\n", r"^train_mean\.csv:1 must be a clip"),
        ("Train/0007.mp4,5,4,3\n", r"^no such .*: frame_img/v7-face_\*\.jpg \(train_mean\.csv:1\)"),
    ],
)
def test_kerc2020_reports_missing_files_and_invalid_lines(root: Path, table: str | None, words: str) -> None:
    kerc(root, table)
    with pytest.raises(DatasetError, match=words):
        load_dataset("kerc2020:.")


def test_loop_of_links_is_harmless(root: Path) -> None:
    plant(root, "Actor_01/01-01-01-01-01-01-01.mp4")
    (root / "Actor_01" / "loop").symlink_to("..")
    assert len(load_dataset("ravdess:.").samples) == 1
