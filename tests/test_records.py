"""Validation of records, and results against the published schema."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from fervid.core.records import ClipFeatures, Face, FaceOutputs, Frame, FrameObservation
from fervid.core.results import ClipResult, ErrorInfo, ModelRef, Person, Prediction, WindowResult
from fervid.core.schema import record_json_schema


def image(*shape: int, kind: type = np.uint8) -> np.ndarray:
    return np.zeros(shape or (4, 6, 3), kind)


def points(*shape: int) -> np.ndarray:
    return np.zeros(shape or (2, 2), np.float32)


def scores(rows: int) -> FaceOutputs:
    column = np.arange(rows, dtype=np.float32)
    return FaceOutputs(
        np.tile(column[:, None], 4), np.tile(column[:, None], 3), column, column, column[:, None], column[:, None]
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Frame(image(4, 6)), r"not \(4, 6\)"),
        (lambda: Frame(image(4, 6, 4)), r"not \(4, 6, 4\)"),
        (lambda: Frame(image(4, 6, 3, kind=np.float32)), "float32"),
        (lambda: Frame(image(), duration=-0.1), "-0.1 s"),
        (lambda: Frame(image(), duration=float("nan")), "nan s"),
        (lambda: Face((1, 1, 1, 2), points(), 1.0), "x1 < x2"),
        (lambda: Face((1, 3, 2, 2), points(), 1.0), "y1 < y2"),
        (lambda: Face((0, 0, float("nan"), 1), points(), 1.0), "x1 < x2"),
        (lambda: Face((0, 0, 1, 1), points(1, 2), 1.0), r"landmarks .*not \(1, 2\)"),
        (lambda: Face((0, 0, 1, 1), points(2, 3), 1.0), "landmarks"),
        (lambda: Face((0, 0, 1, 1), points(4), 1.0), "landmarks"),
        (
            lambda: FaceOutputs(*(points(2, 4) for _ in range(2)), points(2), points(1), *[points(2, 5)] * 2),
            r"\[1, 2\]",
        ),
        (lambda: FaceOutputs(points(2), points(2, 3), points(2), points(2), *[points(2, 5)] * 2), r"\(n, d\)"),
        (lambda: FrameObservation(0, 0, [], [], scores(1)), r"\[0, 1\]"),
        (lambda: FrameObservation(0, 0, [Face((0, 0, 1, 1), points(), 1.0)], [], scores(1)), r"\[0, 1\]"),
        (lambda: ClipFeatures({"a": points(3)}, 0), "at least one"),
        (lambda: ClipFeatures({"a": points(3), "b": points(3, 1)}, 1), "is a vector"),
        (lambda: ClipResult("a.mp4", "ok"), "prediction"),
        (lambda: ClipResult("a.mp4", "no_face", Prediction({"fear": 1.0})), "prediction"),
        (lambda: ClipResult("a.mp4", "error"), "error"),
        (lambda: ClipResult("a.mp4", "skipped"), "skipped"),
        (lambda: WindowResult("a.mp4", "ok", start_s=0, end_s=1), "prediction"),
    ],
)
def test_invalid_records_are_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    "record",
    [
        Frame(image()),
        Face((0, 0, 1, 1), points(), 1.0),
        scores(1),
        ClipFeatures({}, 1),
        Prediction({"fear": 1.0}),
        Person(0, 1.0, Prediction({"fear": 1.0})),
        ErrorInfo("truncated", "a.mp4 breaks off"),
        ModelRef("net", "0" * 64),
        ClipResult("a.mp4", "no_face"),
        WindowResult("a.mp4", "no_face"),
        FrameObservation(0.0, 0.2, [], [], scores(0)),
    ],
    ids=lambda record: type(record).__name__,
)
def test_records_are_frozen(record: Any) -> None:
    name = dataclasses.fields(record)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, name, None)
    assert not hasattr(record, "__dict__")


def test_smallest_frame() -> None:
    frame = Frame(image(1, 1, 3))
    assert (frame.time, frame.duration) == (0, 0)


def test_face_size_and_area() -> None:
    face = Face((-10, -5, 30, 15), points(5, 2), 0.5)
    assert (face.size, face.area) == (20, 800)


@pytest.mark.parametrize("rows", [0, 3])
def test_face_outputs_length(rows: int) -> None:
    assert len(scores(rows)) == rows
    assert len(scores(rows)[:0]) == 0


def test_face_outputs_row_selection() -> None:
    taken = scores(4)[[3, 1]]
    assert taken.age.tolist() == taken.gender.tolist() == [3, 1]
    assert taken.embedding[:, 0].tolist() == taken.expression[:, 0].tolist() == [3, 1]
    assert scores(4)[1:3].age.tolist() == [1, 2]


def test_features_vector_keeps_order() -> None:
    features = ClipFeatures({"a": np.float32([1, 2]), "b": np.float32([3])}, 1)
    assert features.vector(["b", "a"]).tolist() == [3, 1, 2]
    with pytest.raises(ValueError, match="no statistic c among a, b"):
        features.vector(["c"])


def test_label_is_most_probable_first_of_equals() -> None:
    answer = Prediction({"anger": 0.2, "fear": 0.4, "joy": 0.4})
    assert (answer.label, answer.confidence) == ("fear", 0.4)


ANSWER = Prediction({"anger": 0.123456, "joy": np.float32(0.876544)})
MODELS = {role: ModelRef(f"{role}-1", "0f" * 32) for role in ("detector", "face_model", "classifier")}
PEOPLE = (Person(0, 1.23456, ANSWER, 31.26, "female"), Person(1, 0.5, ANSWER))
RESULTS = {
    "ok": ClipResult("a.mp4", "ok", ANSWER, PEOPLE, 2.0, 10, 9, MODELS, None, 0.25),
    "ok and damaged": ClipResult("a.mp4", "ok", ANSWER, PEOPLE[:1], 2.0, 10, 9, MODELS, ErrorInfo("damaged", "holes")),
    "no_face": ClipResult("b.mp4", "no_face", duration_s=2.0, frames_sampled=10, models=MODELS, elapsed_s=0.1),
    "no_face and truncated": ClipResult("b.mp4", "no_face", error=ErrorInfo("truncated", "breaks off")),
    "error": ClipResult("c.mp4", "error", models=MODELS, error=ErrorInfo("not_found", "c.mp4 does not exist")),
    "skipped": ClipResult("d.mp4", "skipped", error=ErrorInfo("skipped", "the run stopped early")),
}


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)
def test_clip_result_matches_schema(result: ClipResult) -> None:
    record = result.as_dict()
    Draft202012Validator(record_json_schema()).validate(record)
    assert list(record) == list(record_json_schema()["properties"]) == record_json_schema()["required"]
    person = record_json_schema()["properties"]["people"]["items"]
    assert all(list(entry) == list(person["properties"]) for entry in record["people"])
    assert json.loads(json.dumps(record, allow_nan=False)) == record


@pytest.mark.parametrize("name", ["no_face", "error"])
def test_no_prediction_gives_nulls(name: str) -> None:
    record = RESULTS[name].as_dict()
    assert [record[field] for field in ("label", "confidence", "probabilities")] == [None] * 3
    assert record["people"] == []


def test_clip_result_as_dict() -> None:
    record = RESULTS["ok"].as_dict()
    assert (record["label"], record["confidence"]) == ("joy", 0.8765)
    assert list(record["probabilities"].items()) == [("anger", 0.1235), ("joy", 0.8765)]
    assert [person["age"] for person in record["people"]] == [31.3, None]
    assert [person["gender"] for person in record["people"]] == ["female", None]
    assert [person["seconds"] for person in record["people"]] == [1.2346, 0.5]
    assert record["model"]["face_model"] == {"name": "face_model-1", "sha256": "0f" * 32}
    assert (record["duration_s"], record["frames_sampled"], record["frames_with_face"]) == (2.0, 10, 9)
    assert (record["error"], record["elapsed_s"]) == (None, 0.25)


def test_problem_as_dict() -> None:
    assert RESULTS["ok and damaged"].as_dict()["error"] == {"code": "damaged", "message": "holes"}


def test_schema_rejects_invalid_records() -> None:
    Draft202012Validator.check_schema(record_json_schema())
    valid = Draft202012Validator(record_json_schema()).is_valid
    record = RESULTS["ok"].as_dict()
    assert valid(record)
    assert not valid({**record, "status": "fine"})
    assert not valid({**record, "confidence": 1.5})
    assert not valid({**record, "surplus": 1})
    assert not valid({name: value for name, value in record.items() if name != "error"})


@pytest.mark.parametrize("times", [(0.0, 4.0), (1.00004, 2.5), (None, None)])
def test_window_result_adds_times(times: tuple[float | None, float | None]) -> None:
    result = RESULTS["ok"]
    record = WindowResult.from_clip_result(result, *times).as_dict()
    assert list(record)[:4] == ["schema_version", "path", "start_s", "end_s"]
    assert (record.pop("start_s"), record.pop("end_s")) == tuple(time and round(time, 4) for time in times)
    assert record == result.as_dict()
    assert list(record) == list(result.as_dict())


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)
def test_window_result_matches_schema(result: ClipResult) -> None:
    contract = record_json_schema("timeline")
    Draft202012Validator.check_schema(contract)
    for record in (
        WindowResult.from_clip_result(result, 0.0, 4.0).as_dict(),
        WindowResult.from_clip_result(result).as_dict(),
    ):
        Draft202012Validator(contract).validate(record)
        assert list(record) == list(contract["properties"]) == contract["required"]
        assert not Draft202012Validator(record_json_schema()).is_valid(record)
    assert not Draft202012Validator(contract).is_valid(result.as_dict())
    assert not Draft202012Validator(contract).is_valid({**record, "start_s": -1})
    assert contract["title"] != record_json_schema()["title"]
