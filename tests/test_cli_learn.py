"""`features`, `train` and `evaluate` from the command line: exit statuses and output."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from typer.testing import CliRunner, Result

import clips
import feature_fixtures
import toy_models
from feature_fixtures import CYAN, MAGENTA, YELLOW
from fervid.analysis.baseline import IDENTITY
from fervid.cli import app
from fervid.core.errors import UsageError
from fervid.learn import model_selection
from fervid.learn.feature_table import FeatureTable
from fervid.models import registry

SIMPLE = ("--classifier-kind", "linear", "--statistics", "mean", "--folds", "3")


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for table in (model_selection.HYPERPARAMETERS, model_selection.STANDARDIZED_HYPERPARAMETERS):
            for kind in table:
                patch.setitem(table, kind, table[kind][-1:])
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Toy models, and 24 clips of six people on a list: the greener, the more pleasant."""
    place = tmp_path_factory.mktemp("labelled")
    feature_fixtures.detector(place)
    feature_fixtures.face_model(place)
    lines = ["path,label,person,valence"]
    for i in range(24):
        person, joyful = i // 4, i % 2
        share = 0.1 + 0.02 * person + 0.1 * (i // 2 % 2) + 0.5 * joyful
        feature_fixtures.frames(place / "clips" / str(i), [colour(share)] * 2)
        lines.append(f"clips/{i},{('calm', 'joy')[joyful]},p{person},{1 + 8 * share:.2f}")
    (place / "list.csv").write_text("\n".join(lines))
    return place


def colour(share: float) -> tuple[float, float, float]:
    """From cyan to yellow."""
    return (255 * share, 255, 255 * (1 - share))


def models(place: Path) -> list[str]:
    return ["--face-model", str(place / "face_model.onnx"), "--detector", str(place / "detector.onnx")]


@pytest.fixture(scope="module")
def fervid(place: Path) -> Callable[..., Result]:
    """Runs a command, which may have arguments without spaces, on the toy models."""

    def run(command: str, *arguments: object) -> Result:
        name, *words = command.split()
        words += [*map(str, arguments), "--progress", "none", *models(place)]
        cache = [] if name in ("classify", "timeline") else ["--cache", str(place / "cache")]
        return CliRunner().invoke(app.app, [name, *words, *cache])

    return run


@pytest.fixture(scope="module")
def mine(place: Path, fervid: Callable[..., Result]) -> Path:
    """A classifier that was fitted on the list."""
    path = place / "mine.onnx"
    assert fervid("train", place / "list.csv", "-o", path, *SIMPLE, "--early-exit-error", "0.02").exit_code == 0
    return path


@pytest.fixture(scope="module")
def pleasure(place: Path, fervid: Callable[..., Result]) -> Path:
    """A regressor of the ratings on the list."""
    path = place / "pleasure.onnx"
    assert fervid("train", place / "list.csv", "-o", path, *SIMPLE, "--target", "valence").exit_code == 0
    return path


@pytest.fixture
def unlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a clip is looked at."""

    def looked(*_: object) -> None:
        raise AssertionError("a clip was looked at")

    monkeypatch.setattr("fervid.learn.feature_extraction.compute_clip_features", looked)


@pytest.mark.parametrize("command", ["features", "train", "compare"])
def test_commands_accept_limits(
    command: str, place: Path, fervid: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*arguments: object) -> Iterator[object]:
        raise UsageError(f"with {arguments[-1]}")

    monkeypatch.setattr("fervid.learn.feature_extraction.extract_features", refusing)
    output = {"features": ["-o", tmp_path / "f.npz"], "train": ["-o", tmp_path / "m.onnx"]}.get(command, [])
    result = fervid(command, place / "list.csv", *output, "--timeout", "1:30", "--memory", "500")
    refused(result, 2, r"with Limits\(seconds=90.0, memory=500000000\)")


def parsed(result: Result) -> Any:
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


def said(result: Result) -> str:
    """What a table says, on one line."""
    assert (result.exit_code, result.stderr) == (0, "")
    return re.sub(r"\s+", " ", result.stdout)


def refused(result: Result, status: int, words: str) -> None:
    assert (result.exit_code, result.stdout) == (status, "")
    plain = re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", " ", result.stderr))
    assert re.search(words, plain), plain


# features


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_features_are_cached(
    suffix: str, place: Path, fervid: Callable[..., Result], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    first, second = tmp_path / f"f{suffix}", tmp_path / f"g{suffix}"
    assert fervid("features", place / "list.csv", "-o", first).exit_code == 0
    request.getfixturevalue("unlooked")
    result = fervid("features", place / "list.csv", "-o", second)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert first.read_bytes() == second.read_bytes()
    if suffix == ".npz":
        table = FeatureTable.load(second)
        assert [sample.person for sample in table.samples] == [f"p{i // 4}" for i in range(24)]
        assert table.samples[1].ratings == {"valence": 5.8}
        assert IDENTITY not in table.statistics


def test_features_report_skipped_files_and_output(place: Path, tmp_path: Path) -> None:
    for label, shade in {"joy": YELLOW, "calm": YELLOW}.items():
        for folder in ("deeper", "clip"):
            (tmp_path / label / folder).mkdir(parents=True)
        feature_fixtures.frames(tmp_path / label / "clip", [shade], "a.png")
        (tmp_path / label / "notes.txt").touch()
    output = tmp_path / "f.npz"
    arguments = [tmp_path, "-o", output, "--cache", place / "cache", *models(place)]
    told = CliRunner().invoke(app.app, ["features", *map(str, arguments)])
    assert told.exit_code == 0
    skipped_files, end = told.stderr.splitlines()
    assert skipped_files == "fervid: 2 files are not videos, 2 folders were not searched"
    assert re.fullmatch(rf"fervid: 2 clips in [\d.]+ s: 2 ok; features are in {re.escape(str(output))}", end)


def test_features_name_skipped_clips(fervid: Callable[..., Result], tmp_path: Path) -> None:
    for name, shade in {"a.png": YELLOW, "dark.png": None}.items():
        feature_fixtures.frames(tmp_path, [shade], name)
    result = fervid("features", tmp_path / "*.png", "-o", tmp_path / "f.npz")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"skipped: {tmp_path / 'dark.png'} shows no face\n"
    assert [sample.path.name for sample in FeatureTable.load(tmp_path / "f.npz").samples] == ["a.png"]
    (tmp_path / "empty.mp4").touch()
    named = [tmp_path / name for name in ("empty.mp4", "a.png", "missing.mp4")]
    result = fervid("features", *named, "-o", tmp_path / "f.npz", "--force")
    assert (result.exit_code, result.stdout) == (1, "")
    assert [line.split()[1] for line in result.stderr.splitlines()] == [str(named[0]), str(named[2])]
    assert len(FeatureTable.load(tmp_path / "f.npz").samples) == 1
    refused(fervid("features", named[0], "-o", tmp_path / "g.npz"), 2, "no clip shows a face")


def test_features_of_folders_sets_and_globs(
    fervid: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    feature_fixtures.frames(Path("set/joy/a"), [YELLOW])
    for name in ("afew", "more/deep"):
        Path(name).mkdir(parents=True)
        clips.write(Path(name) / "b.mp4", [feature_fixtures.picture(CYAN)] * 2)

    def labels(*arguments: object) -> list[tuple[str, str | None]]:
        assert fervid("features", *arguments, "-o", "f.npz", "--force").exit_code == 0
        return [(str(sample.path), sample.label) for sample in FeatureTable.load(Path("f.npz")).samples]

    assert labels("set") == [("set/joy/a", "joy")]
    assert labels("afew") == [("afew/b.mp4", None)]
    assert labels("more/deep") == [("more/deep/b.mp4", None)]
    assert labels("more/*/*.mp4") == [("more/deep/b.mp4", None)]
    assert labels("afew", "more", "--recursive") == [("afew/b.mp4", None), ("more/deep/b.mp4", None)]
    clips.write(Path("more") / "c.mp4", [feature_fixtures.picture(CYAN)] * 2)
    refused(fervid("features", "more", "-o", "g.npz"), 2, "more/c.mp4 is next to the class folders")
    assert labels("more/*.mp4") == [("more/c.mp4", None)]
    assert labels("more", "--recursive") == [("more/c.mp4", None), ("more/deep/b.mp4", None)]
    Path("empty").mkdir()
    refused(fervid("features", "empty", "-o", "g.npz"), 3, "no video was found in empty")


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two people who look alike, and of two who do not."""
    place = tmp_path_factory.mktemp("groups")
    for i in range(12):
        folder = place / ("alike", "mixed")[i % 2] / str(i)
        pair = [(255, 255, 10 * i), (255, 255, 10 * i) if i % 2 == 0 else MAGENTA]
        folder.mkdir(parents=True)
        assert cv2.imwrite(str(folder / "0.png"), feature_fixtures.picture(*pair)[..., ::-1])
    return place


def test_face_all(groups: Path, fervid: Callable[..., Result], tmp_path: Path) -> None:
    everybody = (groups, "--face", "all", "--group-by", "none", "--folds", "3", "--classifier-kind", "logistic")
    train = "train --statistics group --format json"
    card = parsed(fervid(train, *everybody, "-o", tmp_path / "g.onnx"))
    assert card["face"] == "all"
    assert "embedding.across_faces.mean" in card["statistics"]
    assert card["evaluations"]["cross_validation_by_clip"]["answered"]["accuracy"]["value"] > 0.8
    evaluate = ("evaluate", groups, "--classifier", tmp_path / "g.onnx", "--group-by", "none")
    refused(fervid(*evaluate), 4, r"g needs embedding\.across_faces")
    clip = groups / "mixed" / "1" / "0.png"
    refused(fervid("classify", clip, "--classifier", tmp_path / "g.onnx"), 2, "g was trained .*--face all")
    assert fervid("classify", clip, "--classifier", tmp_path / "g.onnx", "--face", "all").exit_code == 0


def test_statistics_by_default(
    place: Path, groups: Path, fervid: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Any] = []

    def refusing(_: object, names: object, *__: object, **___: object) -> None:
        tried.append(names)
        raise UsageError("not tried")

    monkeypatch.setattr("fervid.learn.training.train_classifier", refusing)
    monkeypatch.setattr("fervid.learn.model_evaluation.compare_configurations", refusing)
    for source in ((place / "list.csv",), (groups, "--face", "all", "--group-by", "none")):
        refused(fervid("compare", *source), 2, "not tried")
        refused(fervid("train", *source, "-o", tmp_path / "a.onnx"), 2, "not tried")
    assert tried[0] == [
        *("logit+std+max+min", "expression", "expression+std+max", "expression+std+min+max"),
        *("mean", "mean+std", "mean+std+max", "mean+std+min+max"),
    ]
    assert tried[2] == [*tried[0], "group"]
    chosen = [list(dict.fromkeys(candidate.statistics for candidate in names)) for names in tried[1::2]]
    assert chosen == [[*model_selection.CANDIDATE_STATISTICS], [*model_selection.CANDIDATE_GROUP_STATISTICS]]


# train


def test_train_and_classify(place: Path, mine: Path, fervid: Callable[..., Result], tmp_path: Path) -> None:
    train = "train --early-exit-error 0.02 --format json"
    card = parsed(fervid(train, place / "list.csv", "-o", tmp_path / "mine.onnx", *SIMPLE))
    (report,) = card.pop("evaluations").values()
    assert registry.load_model(str(mine), "classifier").card == card
    assert (tmp_path / "mine.onnx").read_bytes() == mine.read_bytes()
    assert list(tmp_path.iterdir()) == [tmp_path / "mine.onnx"]
    assert (card["name"], card["labels"], card["face_model"]) == ("mine", ["calm", "joy"], "toy-face_model")
    assert card["data"] == {"name": "list", "clips": {"calm": 12, "joy": 12}, "people": 6, "no_face": 0}
    assert report["answered"]["accuracy"]["value"] > 0.9
    for share, label in ((0.1, "calm"), (0.75, "joy")):
        feature_fixtures.frames(tmp_path, [colour(share)], f"{label}.png")
        record = json.loads(fervid("classify", tmp_path / f"{label}.png", "--classifier", mine).stdout)
        assert (record["status"], record["label"]) == ("ok", label)
        assert record["model"]["classifier"]["name"] == "mine"


def test_default_candidates_for_few_people(
    place: Path, fervid: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The expressions of the toy network tell nothing here, and five people cannot show clearly that something does."""
    (tmp_path / "clips").symlink_to(place / "clips")
    (tmp_path / "five.csv").write_text("\n".join((place / "list.csv").read_text().splitlines()[:21]))
    usual = ("logit+std+max+min", "mean+std")
    monkeypatch.setattr("fervid.learn.candidate_choice.CANDIDATE_STATISTICS", usual)
    given = (tmp_path / "five.csv", "-o", tmp_path / "a.onnx", "--folds", "3")
    card = parsed(fervid("train --format json", *given))
    assert {name.split(" on ")[1] for name in card["candidates"]} == set(usual)
    assert {name.partition(".")[0] for name in card["statistics"]} == {"logit"}
    assert "; another scored up to " in card["recipe"]


def test_train_prints_card_as_tables(place: Path, fervid: Callable[..., Result], tmp_path: Path) -> None:
    text = said(fervid("train", place / "list.csv", "-o", tmp_path / "mine.onnx", *SIMPLE, "--group-by", "none"))
    for words in (
        "classifier mine",
        "labels calm, joy",
        "statistics embedding.mean",
        "data list: 24 clips (calm 12, joy 12)",
        "cross validation by clip",
    ):
        assert words in text


def test_list_and_its_features_train_equally(place: Path, fervid: Callable[..., Result], tmp_path: Path) -> None:
    """A list and its features give the same file."""
    options = ("--classifier-kind", "logistic", "--statistics", "expression", "--folds", "3", "--seed", "7")
    assert fervid("features", place / "list.csv", "-o", tmp_path / "list.npz").exit_code == 0
    for source, output in ((place / "list.csv", "a"), (tmp_path / "list.npz", "b")):
        (tmp_path / output).mkdir()
        said(fervid("train", source, "-o", tmp_path / output / "mine.onnx", *options))
    assert (tmp_path / "a" / "mine.onnx").read_bytes() == (tmp_path / "b" / "mine.onnx").read_bytes()


def test_statistics_can_be_combined(place: Path, fervid: Callable[..., Result], tmp_path: Path) -> None:
    asked = ("--classifier-kind", "logistic", "--folds", "3", "--format", "json")
    one = ("train", place / "list.csv", "-o", tmp_path / "one.onnx", "--statistics", "min+expression.max", *asked)
    card = parsed(fervid(*one))
    assert card["statistics"] == ["embedding.min", "expression.max"]
    assert all(name.endswith(" on min+expression.max") for name in card["candidates"])
    record = json.loads(fervid("classify", place / "clips/1/0.png", "--classifier", tmp_path / "one.onnx").stdout)
    assert (record["status"], record["label"]) == ("ok", "joy")


def test_train_on_some_labels(place: Path, fervid: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "clips").symlink_to(place / "clips")
    (tmp_path / "three.csv").write_text((place / "list.csv").read_text() + "\nclips/0/0.png,fear,p9,2\n")
    assert fervid("features", place / "list.csv", "-o", tmp_path / "two.npz").exit_code == 0
    for source in ("three.csv", "two.npz"):
        given = (tmp_path / source, "-o", tmp_path / f"{source}.onnx", "--labels", "joy, calm", *SIMPLE)
        assert parsed(fervid("train --format json", *given))["data"]["clips"] == {"calm": 12, "joy": 12}
    for label, words in (("joy", "only the class joy"), ("fear", "no clips of fear")):
        refused(fervid("train", tmp_path / "two.npz", "-o", tmp_path / "x.onnx", "--labels", label), 2, words)


def test_train_and_evaluate_regressor(place: Path, pleasure: Path, fervid: Callable[..., Result]) -> None:
    report = parsed(fervid("evaluate", place / "list.csv", "--classifier", pleasure, "--format", "json"))
    assert report["ccc"]["value"] > 0.8
    assert report["mae"]["value"] < 1
    assert report["clips"] == 24
    text = said(fervid("evaluate", place / "list.csv", "--classifier", pleasure))
    assert "concordance (CCC)" in text
    text = said(fervid("compare", place / "list.csv", *SIMPLE, "--target", "valence"))
    assert "correlation mean, linear " in text
    for command in ("classify", "timeline"):
        words = (
            r"pleasure\.onnx is a model of the kind regressor and a classifier is needed \(`fervid evaluate` measures"
        )
        refused(fervid(command, place / "clips/0/0.png", "--classifier", pleasure), 4, words)
    for more in (["--plot", "x.png"], ["--compare-to", pleasure], ["--adaptive"]):
        result = fervid("evaluate", place / "list.csv", "--classifier", pleasure, *more)
        refused(result, 2, "pleasure is a regressor of valence")


def test_broken_clip_stops_training_unless_skipped(place: Path, fervid: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "clips").symlink_to(place / "clips")
    feature_fixtures.frames(tmp_path, [None], "dark.png")
    (tmp_path / "empty.mp4").touch()
    text = (place / "list.csv").read_text() + "\ndark.png,joy,p7,\n"
    (tmp_path / "list.csv").write_text(text)
    card = parsed(fervid("train", tmp_path / "list.csv", "-o", tmp_path / "a.onnx", *SIMPLE, "--format", "json"))
    (report,) = card["evaluations"].values()
    assert (report["answered"]["count"], report["all"]["count"], card["data"]["no_face"]) == (24, 25, 1)
    assert fervid("features", tmp_path / "list.csv", "-o", tmp_path / "f.npz").exit_code == 0
    assert [sample.path for sample in FeatureTable.load(tmp_path / "f.npz").no_face_samples] == [tmp_path / "dark.png"]
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "list.csv").write_text(text + "empty.mp4,joy,p8,\ntext.mp4,calm,p8,\n")
    given = ("train", tmp_path / "list.csv", "-o", tmp_path / "b.onnx", *SIMPLE)
    refused(fervid(*given), 2, r"2 clips cannot be read: .*empty\.mp4 is empty; .*text\.mp4.*--skip-broken")
    assert not (tmp_path / "b.onnx").exists()
    result = fervid(*given, "--skip-broken", "--format", "json")
    assert result.exit_code == 0
    assert [line.split()[:3] for line in result.stderr.splitlines()] == [
        ["fervid:", "skipped:", str(tmp_path / "empty.mp4")],
        ["fervid:", "skipped:", str(tmp_path / "text.mp4")],
    ]
    assert json.loads(result.stdout)["data"] == card["data"] | {"unreadable": 2}


def test_train_centered_by_person(place: Path, fervid: Callable[..., Result], tmp_path: Path) -> None:
    output = tmp_path / "c.onnx"
    (tmp_path / "clips").symlink_to(place / "clips")
    header, *lines = (place / "list.csv").read_text().splitlines()
    three = [re.sub(r"\bp([0-5])\b", lambda one: f"p{int(one[1]) // 2}", line) for line in lines]
    (tmp_path / "three.csv").write_text("\n".join([header, *three]))
    train = ("train --center person --folds 3 --statistics mean", "-o", output)
    card = parsed(fervid(*train, tmp_path / "three.csv", "--format", "json"))
    assert card["center"] == "person"
    assert all(name.endswith(", standard") for name in card["candidates"])
    evaluate = ("evaluate", tmp_path / "three.csv", "--classifier", output)
    assert parsed(fervid(*evaluate, "--format", "json"))["answered"]["uar"]["value"] > 0.9
    refused(fervid(*evaluate, "--group-by", "none"), 2, "leave out --group-by none")
    refused(fervid(*train, place / "list.csv", "--force"), 2, "nobody has 5 clips with a face")
    for command in ("classify", "timeline"):
        refused(fervid(command, place / "clips/0/0.png", "--classifier", output), 2, "--baseline person")


def test_unwritable_cache_is_reported(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("fervid.core.atomic_io.user_dir", lambda _: tmp_path / "file")
    clip = place / "clips" / "0" / "0.png"

    def run(*more: object) -> Result:
        arguments = [clip, "-o", tmp_path / "f.npz", "--force", "--progress", "none", *models(place), *more]
        return CliRunner().invoke(app.app, ["features", *map(str, arguments)])

    result = run()
    assert (result.exit_code, result.stdout) == (0, "")
    assert re.fullmatch(r"fervid: the cache folder is not writable \(.*file.*\); .* --cache FOLDER\n", result.stderr)
    assert len(FeatureTable.load(tmp_path / "f.npz").samples) == 1

    def homeless(_: str) -> Path:
        raise UsageError("this user has no home folder to keep cache in")

    monkeypatch.setattr("fervid.core.atomic_io.user_dir", homeless)
    result = run()
    assert result.exit_code == 0
    assert "(this user has no home folder to keep cache in)" in result.stderr
    refused(run("--cache", tmp_path / "file" / "x"), 2, "cannot be written")


# evaluate


def test_evaluate_compares_methods(place: Path, fervid: Callable[..., Result]) -> None:
    compare = "compare --statistics mean,expression --classifier-kind linear --folds 3 --format json"
    found = parsed(fervid(compare, place / "list.csv"))
    assert list(found["methods"]) == ["mean, linear", "expression, linear"]
    assert found["methods"]["mean, linear"]["answered"]["accuracy"]["value"] > 0.9
    text = said(fervid("compare", place / "list.csv", *SIMPLE))
    assert "method accuracy UAR all: accuracy all: UAR mean, linear " in text
    assert "method calm joy mean, linear " in text


def test_evaluate_classifier(place: Path, mine: Path, fervid: Callable[..., Result], tmp_path: Path) -> None:
    given = ("evaluate", place / "list.csv", "--classifier", mine)
    report = parsed(fervid(*given, "--format", "json"))
    assert (report["labels"], report["clips"], report["training_clips"]) == (["calm", "joy"], 24, 24)
    assert "Summary: trained on 24 of these 24 clips, so figures are too high" in said(fervid(*given))
    assert report["answered"]["accuracy"]["value"] > 0.9
    worse = toy_models.classifier(
        tmp_path / "worse.onnx",
        [[1, 0, 9]] * 3,
        labels=["calm", "joy", "fear"],
        face_model_sha256=registry.load_model(str(place / "face_model.onnx"), "face_model").identity.sha256,
    )
    everything = fervid(*given, "--compare-to", worse, "--adaptive", "--plot", tmp_path / "c.svg", "--format", "json")
    report = parsed(everything)
    assert report["comparison"]["only_a_correct"] >= 11
    assert report["early_exit"]["accuracy"] > 0.9
    assert report["early_exit"]["frame_fraction"] <= 1
    assert "<svg" in (tmp_path / "c.svg").read_text()
    text = said(fervid(*given, "--compare-to", worse, "--adaptive"))
    assert "Two classifiers on 24 clips" in text
    assert "Few frames first" in text
    both = fervid("evaluate", place / "list.csv", "--classifier", worse, "--labels", "joy,calm", "--format", "json")
    assert parsed(both)["labels"] == ["joy", "calm"]
    fearful = parsed(fervid("evaluate", place / "list.csv", "--classifier", worse, "--format", "json"))
    assert fearful["answered"]["recall"] == {"calm": 0.0, "joy": 0.0, "fear": None}


def test_splits(place: Path, mine: Path, fervid: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "clips").symlink_to(place / "clips")
    header, *lines = (place / "list.csv").read_text().splitlines()
    parts = [f"{line},{'val' if ',p5,' in line else 'train'}" for line in lines]
    (tmp_path / "parts.csv").write_text("\n".join([header + ",split", *parts]))
    given = ("evaluate", tmp_path / "parts.csv", "--format", "json")
    for split, count in ((None, 4), ("val", 4), ("train", 20), ("all", 24)):
        more = ["--split", split] if split else []
        assert parsed(fervid(*given, "--classifier", mine, *more))["clips"] == count
    refused(fervid(*given, "--classifier", mine, "--split", "test"), 2, "no clip of parts in the test split")
    (found,) = parsed(fervid("compare", *given[1:], *SIMPLE))["methods"].items()
    assert (found[0][:14], found[1]["clips"]) == ("mean, linear (", 4)
    (found,) = parsed(fervid("compare", *given[1:], *SIMPLE, "--cross-validate"))["methods"].items()
    assert (found[0], found[1]["clips"]) == ("mean, linear", 24)
    card = parsed(fervid("train", *given[1:], "-o", tmp_path / "p.onnx", *SIMPLE))
    assert list(card["evaluations"]) == ["cross_validation_by_person", "held_out"]
    one = ("evaluate", tmp_path / "one.csv", "--classifier", mine)
    (tmp_path / "one.csv").write_text("\n".join([header, lines[0]]))
    assert "accuracy 100.0 % 100.0 %" in said(fervid(*one))


# What is refused, before any clip is looked at


@pytest.mark.usefixtures("unlooked")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("features {list} -o {new}.csv", r"written to \.npz or \.parquet"),
        ("features {list} -o {old}", "exists; --force"),
        ("features {list}", "Missing option"),
        ("features {list} -o {new}.npz --every-frame --fps 2", "contradict"),
        ("features ravdess:{folder}/nothing -o {new}.npz", "is not a folder"),
        ("train {list} -o {old}", "exists; --force"),
        ("train {list} -o {new} --classifier-kind linear,boosting", "boosting; choose from linear, rbf, mlp, logistic"),
        ("train {list} -o {new} --statistics median", "unknown statistic 'median'; join mean, std, min, max of"),
        ("train {list} -o {new} --folds 2", "--folds"),
        ("train {list} -o {new} --seed -1", "--seed"),
        ("train {list} -o {new} --early-exit-error 1.5", "--early-exit-error"),
        (
            "train {list} -o {new} --early-exit-error 0.1 --target valence",
            "--early-exit-error needs class probabilities",
        ),
        ("train {list} -o {new} --early-exit-error 0.1 --center person", "drop --early-exit-error or --center"),
        ("train {list} -o {new} --group-by none --center person", "drop --group-by none"),
        ("train {list} -o {new} --target arousal", "no rating 'arousal'"),
        ("train {list} -o {new} --labels joy", "only the class joy"),
        ("train {list} -o {new} --labels joy,fear", "no clips of fear; it has calm, joy"),
        ("train {alone} -o {new}", r"joy \(.*\): cross-validation by person needs two or more people.*--group-by none"),
        ("train {folder}/nothing -o {new}", "cannot be read"),
        ("train {broken} -o {new}", r"broken\.npz is no file of features.*fervid features"),
        ("train {features} -o {new} --early-exit-error 0.1", "other frame rates"),
        ("train {unlabelled} -o {new}", r"0\.mp4 \(list:0\) has no label"),
        ("train {features} -o {new} --statistics group --classifier-kind linear", "--face all"),
        ("evaluate {list}", "Missing option '--classifier'"),
        ("compare {list} --classifier-kind boosting", "unknown name boosting"),
        ("compare {list} --statistics mean,mean+median", "unknown statistic 'median'"),
        ("evaluate {list} --classifier {mine} --plot {new}.xyz", r"use one of \.png"),
        ("evaluate {list} --classifier {mine} --plot {old}", r"use one of \.png"),
        ("evaluate {list} --classifier {mine} --plot {picture}", "exists; --force"),
        ("evaluate {list} --classifier {toy} --adaptive", "has no early exits"),
        ("evaluate {list} --classifier {toy}", "no label calm, joy; its labels are first"),
        ("evaluate {features} --classifier {toy}", "no label calm, joy; its labels are first"),
        ("evaluate {features} --classifier {mine} --adaptive", "other frame rates"),
        ("evaluate {list} --classifier {mine} --split dev", "--split"),
        ("compare {list} --format csv", "--format"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: str, words: str, things: dict[str, object], fervid: Any) -> None:
    before = sorted(things["folder"].rglob("*"))
    refused(fervid(*(part.format(**things) for part in arguments.split())), 2, words)
    assert sorted(things["folder"].rglob("*")) == before


@pytest.fixture(scope="module")
def things(place: Path, mine: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What the command lines above name, which they leave as it is."""
    folder = tmp_path_factory.mktemp("things")
    (folder / "old.npz").write_text("precious")
    (folder / "old.png").write_text("precious")
    (folder / "broken.npz").write_bytes(b"PK")
    shutil.copytree(place / "clips", folder / "clips")
    (folder / "alone.csv").write_text("path,label,person\nclips/0,calm,a\nclips/2,calm,b\nclips/1,joy,a\n")
    table = feature_fixtures.table(
        feature_fixtures.samples(["calm", "joy"] * 6, [f"p{i // 2}" for i in range(12)]), np.zeros((12, 3))
    )
    table.save(folder / "features.npz")
    feature_fixtures.table(feature_fixtures.samples([None]), np.zeros((1, 3))).save(folder / "unlabelled.npz")
    return {
        "list": place / "list.csv",
        "mine": mine,
        "toy": toy_models.classifier(folder / "toy.onnx", np.eye(3)),
        "folder": folder,
        "new": folder / "new",
        "old": folder / "old.npz",
        "picture": folder / "old.png",
        "broken": folder / "broken.npz",
        "alone": folder / "alone.csv",
        "features": folder / "features.npz",
        "unlabelled": folder / "unlabelled.npz",
    }


@pytest.mark.usefixtures("unlooked")
def test_existing_model_needs_force(place: Path, mine: Path, fervid: Any, tmp_path: Path) -> None:
    table = feature_fixtures.table(
        feature_fixtures.samples(["calm", "joy"] * 6, [f"p{i // 2}" for i in range(12)]), np.eye(3)[[0, 1] * 6]
    )
    table.save(tmp_path / "f.npz")
    (tmp_path / "old.onnx").write_text("precious")
    refused(fervid("train", tmp_path / "f.npz", "-o", tmp_path / "old.onnx", *SIMPLE), 2, "exists; --force")
    assert (tmp_path / "old.onnx").read_text() == "precious"
    said(fervid("train", tmp_path / "f.npz", "-o", tmp_path / "old.onnx", *SIMPLE, "--force"))
    assert registry.load_model(str(tmp_path / "old.onnx"), "classifier").card["labels"] == ["calm", "joy"]


@pytest.mark.usefixtures("unlooked")
def test_unusable_classifier_exits_with_4(
    place: Path, mine: Path, fervid: Callable[..., Result], tmp_path: Path
) -> None:
    other = toy_models.classifier(tmp_path / "other.onnx", np.eye(3), labels=["calm", "joy", "fear"])
    given = ("evaluate", place / "list.csv", "--classifier")
    refused(fervid(*given, other), 4, "fitted on another face model than toy-face_model.*--face-model")
    refused(fervid(*given, mine, "--compare-to", other), 4, "toy-classifier was fitted on another face model")
    refused(fervid(*given, "no-such-model"), 4, "classifier 'no-such-model' cannot be read")
    refused(fervid(*given, place / "face_model.onnx"), 4, "of the kind face_model and a classifier is needed")
    refused(fervid(*given, place / "list.csv"), 4, "is no ONNX model")


# Known sets


def test_kerc2020(place: Path, fervid: Callable[..., Result], tmp_path: Path) -> None:
    """Three people whom only their faces tell apart; how much they flicker tells how pleasant it is."""
    tables: dict[str, list[str]] = {"train": [], "val": []}
    shown = [
        (split, who, level)
        for split in ("train", "train", "val")
        for who in (YELLOW, CYAN, MAGENTA)
        for level in range(3)
    ]
    for number, (split, who, level) in enumerate(shown, 1):
        flicker = [[value * (1 - 0.1 * level * (frame % 2)) for value in who] for frame in range(4)]
        folder, name = (
            ("frame_img", f"v{number}-face_{{}}.jpg") if split == "train" else ("new_Test_img", f"{number}_{{}}.jpg")
        )
        feature_fixtures.frames(tmp_path / folder, flicker, name)
        tables[split].append(f"{split.title()}/{number:04}.mp4,{2 + 3 * level},5,5")
    for split, lines in tables.items():
        (tmp_path / f"{split}_mean.csv").write_text("\n".join(lines))
    source = (f"kerc2020:{tmp_path}", "--statistics", "mean+std", "--folds", "3", "--format", "json")
    card = parsed(fervid("train", *source, "-o", tmp_path / "k.onnx", "--classifier-kind", "rbf"))
    assert card["data"]["people"] == 3
    assert card["labels"] == ["negative", "neutral", "positive"]
    held = card["evaluations"]["held_out"]
    assert (held["clips"], held["answered"]["count"]) == (9, 9)
    assert held["answered"]["uar"]["value"] > 0.8


def test_scaling_option(place: Path, fervid: Callable[..., Result], tmp_path: Path) -> None:
    given = ("train", place / "list.csv", *SIMPLE, "--format", "json")
    card = parsed(fervid(*given, "-o", tmp_path / "a.onnx", "--scaling", "standard"))
    assert all(name.endswith(", standard") for name in card["candidates"])
    operators = {node.op_type for node in onnx.load(tmp_path / "a.onnx").graph.node}
    assert ("Scaler" in operators, "Normalizer" in operators) == (True, False)
    refused(fervid(*given, "-o", tmp_path / "c.onnx", "--scaling", "minmax"), 2, "unknown name minmax")


def test_real_faces_end_to_end(tmp_path: Path) -> None:
    """The astronaut in light and in the dark, on the shipped models."""

    def shown(light: float, number: int) -> np.ndarray:
        view = clips.portrait(160, 160, 1.1, 222 + 3 * number, 125 - 2 * number)
        return np.uint8(view * (light + 0.02 * number))

    for actor in range(4):
        for code, light in (("HAP", 0.9), ("SAD", 0.25)):
            folder = tmp_path / "set" / f"{1001 + actor}_DFA_{code}_XX"
            folder.mkdir(parents=True)
            assert cv2.imwrite(str(folder / "0.png"), shown(light, actor)[..., ::-1])
    for name, light in (("light", 0.93), ("dark", 0.28)):
        assert cv2.imwrite(str(tmp_path / f"{name}.png"), shown(light, 1)[..., ::-1])

    def run(command: str, *arguments: object) -> Result:
        return CliRunner().invoke(app.app, [command, *map(str, arguments), "--progress", "none"])

    source = (f"crema-d:{tmp_path / 'set'}", "--cache", tmp_path / "cache", "--format", "json")
    card = parsed(run("train", *source, "-o", tmp_path / "m.onnx", *SIMPLE, "--statistics", "mean"))
    assert card["data"] == {"name": "crema-d", "clips": {"happiness": 4, "sadness": 4}, "people": 4, "no_face": 0}
    against = ("--classifier", tmp_path / "m.onnx", "--compare-to", "emotion8", "--labels", "happiness,sadness")
    assert parsed(run("evaluate", *source, *against))["answered"]["accuracy"]["value"] == 1
    answers = run("classify", tmp_path / "light.png", tmp_path / "dark.png", "--classifier", tmp_path / "m.onnx")
    assert [json.loads(line)["label"] for line in answers.stdout.splitlines()] == ["happiness", "sadness"]
