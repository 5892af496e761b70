"""People are recognised across clips, and predictions are relative to their average or to clips at rest."""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import numpy as np
import pytest
from typer.testing import CliRunner

import toy_models
from fervid.analysis import baseline
from fervid.analysis.baseline import (
    LOGITS,
    BaselineReference,
    average_people,
    check_card,
    identify_people,
    shift_features,
)
from fervid.batch import baseline_runner
from fervid.batch.baseline_spec import BaselineSpec, RestClip
from fervid.cli.app import app
from fervid.core.errors import UsageError
from fervid.core.records import ClipFeatures
from fervid.core.schema import record_json_schema

PINK, GREEN = (255, 210, 210), (210, 255, 210)
"""Faces of two people; the darker a face, the lower the logit of `bright`."""
USUAL = [-2.0, 2.0]


def vectors(*angles: float) -> np.ndarray:
    return np.float32([[np.cos(np.deg2rad(a)), np.sin(np.deg2rad(a))] for a in angles])


def test_people_are_numbered_by_first_appearance() -> None:
    assert identify_people(vectors(90, 0, 95, 5, 180), range(5), [1] * 5, 0.9).tolist() == [0, 1, 0, 1, 2]
    assert identify_people(vectors(90), [0], [1], 0.9).tolist() == [0]
    assert identify_people(np.zeros((0, 2), np.float32), [], [], 0.9).tolist() == []


def test_means_over_many_frames_must_be_more_similar() -> None:
    """At an angle of 50 degrees the cosine is 0.64."""
    assert identify_people(vectors(0, 50), [0, 1], [1, 1], 0.6).tolist() == [0, 0]
    assert identify_people(vectors(0, 50), [0, 1], [50, 50], 0.6).tolist() == [0, 1]
    assert identify_people(vectors(0, 30), [0, 1], [50, 50], 0.6).tolist() == [0, 0]


def test_two_people_in_one_clip_are_never_the_same() -> None:
    assert identify_people(vectors(0, 1), [7, 7], [1, 1], 0.5).tolist() == [0, 1]
    assert len(set(identify_people(vectors(0, 1, 0.5), [7, 7, 8], [1] * 3, 0.5).tolist())) == 2


def test_average_linkage_does_not_merge_people_of_one_clip() -> None:
    identities = np.concatenate([vectors(*np.linspace(-3, 3, 11)), vectors(*np.linspace(47, 53, 11))])
    clips = [*range(11), 0, *range(11, 21)]
    people = identify_people(identities, clips, [1] * 22, 0.6)
    assert people[0] != people[11]


def test_batches_give_same_people(monkeypatch: pytest.MonkeyPatch) -> None:
    angles, clips = [0, 90, 2, 180, 91, 1, 181, 270, 3], list(range(9))
    at_once = identify_people(vectors(*angles), clips, [1] * 9, 0.9).tolist()
    monkeypatch.setattr(baseline, "CLUSTER_BATCH", 2)
    assert identify_people(vectors(*angles), clips, [1] * 9, 0.9).tolist() == at_once == [0, 1, 0, 2, 1, 0, 2, 3, 0]


def test_average_needs_enough_clips_that_differ() -> None:
    logits = np.float32([[i, -i] for i in range(5)] + [[3, -3]] * 5 + [[0, 1]] * 4)
    found = average_people({LOGITS: logits}, np.array([4] * 5 + [2] * 5 + [9] * 4))
    assert list(found) == [4]
    assert (found[4].clips, found[4].statistics[LOGITS].tolist()) == (5, [2, -2])


def test_baseline_shifts_logits_but_not_their_deviation() -> None:
    names = ("logit.mean", "logit.min", "logit.max", "logit.std", "expression.mean")
    features = ClipFeatures({name: np.float32([1, 2]) for name in names}, 3)
    reference = BaselineReference("person", 5, {LOGITS: np.float32([1, 1])})
    card = {"statistics": list(names[:4]), "average_logits": {"person": [5, 0]}}
    shifted = shift_features(features, reference, card, "person")
    assert {name: value.tolist() for name, value in shifted.statistics.items()} == {
        **{name: [5, 1] for name in names[:3]},
        **{name: [1, 2] for name in names[3:]},
    }
    assert shifted.count == 3
    assert shift_features(features, None, card, "person").statistics == features.statistics


def test_centered_classifiers_get_features_minus_average() -> None:
    names = ("logit.mean", "logit.max", "logit.std")
    features = ClipFeatures({name: np.float32([3]) for name in names}, 3)
    card = {"statistics": list(names), "center": "person", "average_statistics": {name: [1] for name in names[:2]}}
    reference = BaselineReference("person", 5, {"logit.mean": np.float32([2]), "logit.max": np.float32([5])})
    shifted = shift_features(features, reference, card, "person").statistics
    assert [shifted[name].tolist() for name in names] == [[1], [-2], [3]]
    alone = shift_features(features, None, card, "person").statistics
    assert [alone[name].tolist() for name in names] == [[2], [2], [3]], "the average of the people it was fitted on"


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"statistics": ["embedding.mean"]}, "fitted on embedding.mean"),
        ({"statistics": ["logit.mean", "logit.across_faces.mean"]}, "fitted on"),
        ({"statistics": ["logit.mean"]}, "no average_logits"),
        ({"statistics": ["logit.mean"], "average_logits": {"rest": USUAL}}, "of kind person"),
    ],
)
def test_classifiers_without_baseline_support_are_refused(card: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_card({"name": "mine", **card}, "person")
    if "center" not in card:
        check_card({"name": "mine", **card}, None)


@pytest.mark.parametrize("kind", [None, "rest"])
def test_centered_classifiers_need_person_baseline(kind: str | None) -> None:
    card = {"name": "mine", "statistics": ["embedding.mean"], "center": "person"}
    check_card(card, "person")
    with pytest.raises(UsageError, match="add --baseline person"):
        check_card(card, kind)


def listed(place: Path, text: str) -> BaselineSpec:
    path = place / "list.csv"
    path.write_text(text)
    return BaselineSpec.read(str(path))


def test_baseline_is_read_from_word_or_list(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    assert BaselineSpec.read("person") == BaselineSpec("person")
    named = listed(tmp_path, "\ufeffpath,person\na.mp4,Ann\n/b.mp4,Bo\n")
    assert (named.kind, named.people) == ("person", {str(tmp_path / "a.mp4"): "Ann", "/b.mp4": "Bo"})
    rest = listed(tmp_path, "path,start,end\na.mp4,1.5,3\n/b.mp4,,\n")
    assert (rest.kind, rest.rest) == ("rest", (RestClip(str(tmp_path / "a.mp4"), 1.5, 3.0), RestClip("/b.mp4")))
    assert listed(tmp_path, "path\n/b.mp4\n").rest == (RestClip("/b.mp4"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,person\na,b\n", "has the columns file, person"),
        ("", "has the columns"),
        ("path,start,end\na,5,2\n", "line 2 of .*start before end"),
        ("path,start,end\na,x,2\n", "line 2 of"),
        ("path,person\na,Ann\nb\n", "line 3 of .* has no person"),
        ("path,start,end\n,1,2\n", "line 2 of .* has no path"),
    ],
)
def test_invalid_baseline_list_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        listed(tmp_path, text)
    with pytest.raises(UsageError, match="cannot be read"):
        BaselineSpec.read(str(tmp_path / "nowhere.csv"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags for toy models: faces of one hue are one person."""
    place = tmp_path_factory.mktemp("models")
    spec = {**toy_models.FACE_MODEL["input"], "scale": [1 / 255] * 3}
    network = toy_models.face_model(
        place / "face_model.onnx",
        input=spec,
        tracking={"min_track_similarity": 0.45, "min_person_similarity": 0.995},
        classifier=str(place / "classifier.onnx"),
    )
    classifier = toy_models.classifier(
        place / "classifier.onnx",
        np.eye(2).tolist(),
        labels=["dark", "bright"],
        statistics=["logit.mean"],
        face_model_sha256=hashlib.sha256(network.read_bytes()).hexdigest(),
        average_logits={"person": USUAL, "rest": USUAL},
    )
    detector = toy_models.detector(place / "detector.onnx", threshold=0.2, new_track_threshold=0.2)
    named = {"--face-model": network, "--classifier": classifier, "--detector": detector}
    return [str(part) for flag in named.items() for part in flag] + ["--min-face", "16"]


def write_clip(path: Path, *faces: tuple[Sequence[int], float]) -> Path:
    """An image with a face of each colour, times a brightness."""
    image = toy_models.picture(*(tuple(round(value * brightness) for value in colour) for colour, brightness in faces))
    assert cv2.imwrite(str(path), image[..., ::-1])
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five clips of one person from dark to bright, two of another, and one without a face."""
    folder = tmp_path_factory.mktemp("clips")
    for i, brightness in enumerate((0.28, 0.46, 0.64, 0.82, 1.0)):
        write_clip(folder / f"a{i}.png", (PINK, brightness))
    for i, brightness in enumerate((0.5, 1.0)):
        write_clip(folder / f"b{i}.png", (GREEN, brightness))
    write_clip(folder / "c.png")
    return folder


@pytest.fixture
def copied(clips: Path, tmp_path: Path) -> Path:
    """A copy of these clips, to change."""
    return Path(shutil.copytree(clips, tmp_path / "clips"))


@pytest.fixture
def alone(models: list[str], clips: Path) -> list[dict]:
    """The records of the clips without a baseline."""
    return classify_once(tuple(models), clips)


@pytest.fixture
def person(models: list[str], clips: Path) -> list[dict]:
    """Their records relative to the average of each person."""
    return classify_once(tuple(models), clips, "--baseline", "person")


@functools.cache
def classify_once(models: Sequence[str], clips: Path, *flags: str) -> list[dict]:
    return classify(models, clips, *flags)


def classify(models: Sequence[str], clips: Path, *flags: str, code: int = 0) -> list[dict]:
    names = [str(path) for path in sorted(clips.glob("*.png"))]
    result = CliRunner().invoke(app, ["classify", *names, *models, "--format", "jsonl", *flags])
    assert result.exit_code == code, result.output
    records = [json.loads(line) for line in result.stdout.splitlines()]
    for record in records:
        jsonschema.validate(record, record_json_schema())
    return records


def timeless(records: Sequence[dict]) -> list[dict]:
    return [{**record, "elapsed_s": 0} for record in records]


def labels(records: Sequence[dict]) -> list[str | None]:
    return [record["label"] for record in records]


def test_predictions_are_relative_to_average_of_person(alone: list[dict], person: list[dict]) -> None:
    assert labels(alone) == ["bright"] * 7 + [None]
    assert all(record["baseline"] is None for record in alone)
    rows = person[:5]
    assert all(record["baseline"] == {"kind": "person", "clips": 5} for record in rows)
    middle = rows[2]["probabilities"]["bright"]
    assert middle == pytest.approx(1 / (1 + np.exp(-4)), abs=0.01), "the average is as usual"
    sure = [record["probabilities"]["bright"] for record in rows]
    assert sure == sorted(sure)
    assert sure != [record["probabilities"]["bright"] for record in alone[:5]]
    others = person[5:]
    assert [record["baseline"] for record in others] == [None] * 3, "two clips give no average"
    assert [r["probabilities"] for r in others] == [r["probabilities"] for r in alone[5:]]
    names = [[one["identity"] for one in record["people"]] for record in person]
    assert names == [["person-1"]] * 5 + [["person-2"]] * 2 + [[]]


def test_identify_names_people_and_changes_no_prediction(models: list[str], copied: Path, alone: list[dict]) -> None:
    write_clip(copied / "d.png", (GREEN, 1.0), (PINK, 1.0))
    found = classify(models, copied, "--identify")
    assert [r["probabilities"] for r in found[:-1]] == [r["probabilities"] for r in alone]
    assert [one["identity"] for one in found[-1]["people"]] == ["person-2", "person-1"]
    assert all(one["identity"] is None for record in alone for one in record["people"])


def test_frames_have_the_names_of_classify(models: list[str], copied: Path, tmp_path: Path) -> None:
    write_clip(copied / "d.png", (GREEN, 1.0), (PINK, 1.0))
    output, paths = tmp_path / "frames.csv", sorted(map(str, copied.glob("*.png")))
    classifier = models.index("--classifier")
    flags = [*models[:classifier], *models[classifier + 2 :], "--identify", "--resume", "-o", str(output)]
    for some in (paths[5:], paths):
        result = CliRunner().invoke(app, ["frames", *some, *flags])
        assert result.exit_code == 0, result.output
    rows = [row for row in csv.DictReader(output.read_text().splitlines()) if row["face_id"]]
    assert {(row["path"], int(row["face_id"])): row["identity"] for row in rows} == {
        (record["path"], person["id"]): person["identity"]
        for record in classify(models, copied, "--identify")
        for person in record["people"]
    }


def test_people_may_be_named_by_list(models: list[str], clips: Path, tmp_path: Path) -> None:
    rows = [f"{path},{'Ann' if path.name[0] == 'a' else 'Bo'}" for path in sorted(clips.glob("[ab]*.png"))]
    (tmp_path / "people.csv").write_text("\n".join(["path,person", *rows]))
    found = classify(models, clips, "--baseline", str(tmp_path / "people.csv"))
    assert [r["people"][0]["identity"] for r in found[:7]] == ["Ann"] * 5 + ["Bo"] * 2


def test_names_in_list_are_relative_to_its_folder(
    models: list[str], copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copied / "people.csv").write_text("path,person\na0.png,Ann\nb0.png,Bo\n")
    monkeypatch.chdir(copied.parent)
    found = classify(models, Path("clips"), "--baseline", "clips/people.csv")
    named = {Path(r["path"]).name: r["people"][0]["identity"] for r in found if r["people"]}
    assert (named["a0.png"], named["b0.png"]) == ("Ann", "Bo")
    (copied / "people.csv").write_text("path,person\nother.png,Ann\n")
    names = [str(path) for path in copied.glob("*.png")]
    result = CliRunner().invoke(app, ["classify", *names, *models, "--baseline", "clips/people.csv"])
    assert (result.exit_code, "other.png" in result.stderr) == (2, True)


def test_identify_keeps_the_prediction_of_all_faces(models: list[str], copied: Path) -> None:
    write_clip(copied / "d.png", (GREEN, 1.0), (PINK, 0.3))
    alone, found = (classify(models, copied, "--face", "all", *flags) for flags in ([], ["--identify"]))
    assert [r["probabilities"] for r in found] == [r["probabilities"] for r in alone]


def test_refused_output_keeps_observations(models: list[str], clips: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    flags = ["--baseline", "person", "-o", str(output)]
    classify(models, clips, *flags)
    before = (tmp_path / "out.jsonl.observed").read_bytes()
    assert before
    classify(models, clips, *flags, code=2)
    assert (tmp_path / "out.jsonl.observed").read_bytes() == before


def test_predictions_are_relative_to_clips_at_rest(models: list[str], clips: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "rest.png", (PINK, 1.0))
    (tmp_path / "rest.csv").write_text("path\nrest.png\n")
    found = classify(models, clips, "--baseline", str(tmp_path / "rest.csv"))
    assert [record["baseline"] for record in found[4:6]] == [{"kind": "rest", "clips": 1}, None]
    assert found[4]["probabilities"]["bright"] == pytest.approx(1 / (1 + np.exp(-4)), abs=0.001)
    assert found[0]["probabilities"]["bright"] < found[4]["probabilities"]["bright"]
    assert len(found) == 8, "clips at rest have no record of their own"


def test_clip_at_rest_without_face_is_refused(models: list[str], clips: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "rest.png")
    (tmp_path / "rest.csv").write_text("path\nrest.png\n")
    names = [str(path) for path in clips.glob("*.png")]
    result = CliRunner().invoke(app, ["classify", *names, *models, "--baseline", str(tmp_path / "rest.csv")])
    assert result.exit_code == 2
    assert "rest.png" in result.stderr


def test_worker_processes_give_same_predictions(
    models: list[str],
    clips: Path,
    person: list[dict],
    through_pickle: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(baseline_runner, "map_ordered", through_pickle)
    found = classify(models, clips, "--baseline", "person", "--jobs", "2")
    assert timeless(found) == timeless(person)


def test_resume_observes_only_new_clips(
    models: list[str], copied: Path, tmp_path: Path, person: list[dict], crops: list[np.ndarray]
) -> None:
    output = tmp_path / "out.jsonl"
    flags = ["--baseline", "person", "-o", str(output)]
    last = copied / "a4.png"
    aside = last.rename(tmp_path / "aside.png")
    classify(models, copied, *flags)
    assert [json.loads(line)["baseline"] for line in output.read_text().splitlines()[:4]] == [None] * 4
    aside.rename(last)
    with (tmp_path / "out.jsonl.observed").open("ab") as file:
        file.write(b'{"path": "torn')
    seen = len(crops)
    classify(models, copied, *flags, "--resume")
    assert len(crops) - seen == 2, "one crop of the clip, one to try the models"
    resumed = [json.loads(line) for line in output.read_text().splitlines()]
    whole = [{**record, "path": str(copied / Path(record["path"]).name)} for record in person]
    assert timeless(resumed) == timeless(whole)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--adaptive"], "--adaptive cannot be combined with --baseline"),
        (["--fail-fast"], "--fail-fast cannot be combined with --baseline"),
        (["--engine", "ray"], "--engine ray cannot be combined with --baseline"),
        (["--face", "all"], "--face all pools them"),
        (["--resume", "-o", "out.csv"], "needs a JSON Lines output"),
    ],
)
def test_incompatible_options_are_refused(models: list[str], clips: Path, flags: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["classify", str(clips / "a0.png"), *models, "--baseline", "person", *flags])
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_windows_of_timeline_are_relative_too(models: list[str], clips: Path) -> None:
    names = [str(path) for path in sorted(clips.glob("*.png"))]
    result = CliRunner().invoke(app, ["timeline", *names, *models, "--format", "jsonl", "--baseline", "person"])
    assert result.exit_code == 0, result.output
    found = [json.loads(line) for line in result.stdout.splitlines()]
    for record in found:
        jsonschema.validate(record, record_json_schema("timeline"))
    assert [record["baseline"] for record in found] == [{"kind": "person", "clips": 5}] * 5 + [None] * 3
