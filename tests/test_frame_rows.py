"""The rows of frames: their fields, who is who, and pooling them to a record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clips
import fervid
from fervid.analysis.pooling import to_logits
from fervid.core.frame_rows import FrameColumns
from fervid.core.results import ErrorInfo

FACE = {"confidence": 0.9, "detected": True, "box": (1.0, 2.0, 3.0, 4.0), "landmarks": {"right_eye": (1.5, 2.5)}}
COLUMNS = FrameColumns(
    ("right_eye",), ("calm", "angry"), identity=True, logits=True, attributes=True, ethnicities=("a",), embedding=3
)


def face(path: str = "clip.mp4", frame: int = 0, **more: Any) -> fervid.FrameRow:
    return fervid.FrameRow(
        path, frame, frame / 5, 0.2, **{**FACE, "probabilities": {"calm": 0.75, "angry": 0.25}, **more}
    )


def assert_same(pooled: fervid.ClipResult, expected: fervid.ClipResult) -> None:
    """Assert equal records, with probabilities up to the digits of a row."""
    rest = {"elapsed_s": 0, "confidence": 0, "probabilities": None, "people": []}
    assert {**pooled.as_dict(), **rest} == {**expected.as_dict(), **rest}
    assert (pooled.probabilities or {}) == pytest.approx(expected.probabilities or {}, abs=1e-4)
    for person, other in zip(pooled.people, expected.people, strict=True):
        assert (person.id, person.gender, person.ethnicity) == (other.id, other.gender, other.ethnicity)
        assert (person.seconds, person.age) == pytest.approx((other.seconds, other.age), abs=1e-3)
        assert person.prediction.probabilities == pytest.approx(other.prediction.probabilities, abs=1e-4)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.6 s of two people side by side, then 0.8 s without a face."""
    large, small = clips.portrait(320, 300, 1.8), clips.portrait(200, 300, 0.9)[:, ::-1]
    both = np.concatenate([small, large], axis=1)
    frames = [both] * 8 + clips.scenery(4, 520, 300)
    return clips.write(tmp_path_factory.mktemp("pair") / "pair.mp4", frames, rate=5)


@pytest.fixture(scope="module")
def with_all_outputs() -> fervid.Classifier:
    """A classifier of embeddings, of everybody in a clip."""
    return fervid.load_classifier(
        classifier="affect3", options=fervid.Options(face="all", attributes=True, detection_interval_s=2), threads=2
    )


@pytest.fixture(scope="module")
def rows_of_pair(with_all_outputs: fervid.Classifier, pair: Path) -> list[fervid.FrameRow]:
    return list(with_all_outputs.frames(pair, embedding=True))


@pytest.fixture(scope="module")
def record_of_pair(with_all_outputs: fervid.Classifier, pair: Path) -> fervid.ClipResult:
    return with_all_outputs.classify(pair)


def test_row_has_the_face(classifier: fervid.Classifier, smile: Path) -> None:
    rows = list(classifier.frames(smile, logits=True))
    assert [row.frame for row in rows] == [0, 5, 10, 15, 20, 25]
    assert [row.timestamp for row in rows] == pytest.approx([i / 5 for i in range(6)])
    assert sum(row.duration_s for row in rows) == pytest.approx(1.2)
    assert {row.path for row in rows} == {str(smile)}
    assert {(row.face_id, row.success, row.error) for row in rows} == {(0, True, None)}
    assert rows[0].detected
    assert not all(row.detected for row in rows)
    for row in rows:
        x1, y1, x2, y2 = row.box
        assert all(x1 < x < x2 and y1 < y < y2 for x, y in [row.landmarks["right_eye"], row.landmarks["mouth"]])
        assert row.landmarks["right_eye"][0] < row.landmarks["left_eye"][0]
        assert max(row.probabilities, key=row.probabilities.get) == "happiness"
        expected = to_logits(np.array([[*row.probabilities.values()]], np.float32))[0]
        assert [*row.logits.values()] == pytest.approx(expected, abs=1e-4)
        assert row.age is row.male_probability is row.ethnicity_probabilities is row.embedding is None


def test_people_have_the_ids_of_the_record(
    rows_of_pair: list[fervid.FrameRow], record_of_pair: fervid.ClipResult
) -> None:
    rows, result = rows_of_pair, record_of_pair
    seconds = {person.id: sum(row.duration_s for row in rows if row.face_id == person.id) for person in result.people}
    assert seconds == {person.id: pytest.approx(person.seconds) for person in result.people}
    assert len({row.frame for row in rows}) == result.frames_sampled == 12
    assert len({row.frame for row in rows if row.success}) == result.frames_with_face
    sides = {row.face_id: row.box[0] for row in rows if row.success}
    assert sides[0] > 200 > sides[1]


def test_rows_of_everybody_pool_to_the_record(
    with_all_outputs: fervid.Classifier, rows_of_pair: list[fervid.FrameRow], record_of_pair: fervid.ClipResult
) -> None:
    assert_same(with_all_outputs.pool_frames([row.as_dict() for row in rows_of_pair]), record_of_pair)


@pytest.mark.parametrize("name", ["smile.mp4", "scenery.mp4", "sound.m4a", "missing.mp4", "cut.mp4"])
def test_rows_pool_to_the_record(classifier: fervid.Classifier, folder: Path, tmp_path: Path, name: str) -> None:
    path = folder / name
    if name == "cut.mp4":
        whole = clips.write(tmp_path / name, clips.smiling(30), muxer={"movflags": "faststart"})
        path = whole.parent / "half.mp4"
        path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    lines = [json.dumps({**row.as_dict(), "embedding": None}) for row in classifier.frames(path)]
    assert_same(classifier.pool_frames(map(json.loads, lines)), classifier.classify_or_error(path))


def test_frame_without_face_has_a_row(classifier: fervid.Classifier, scenery: Path) -> None:
    rows = list(classifier.frames(scenery))
    assert [(row.frame, row.success, row.face_id, row.box) for row in rows] == [
        (5 * i, False, None, None) for i in range(4)
    ]


def test_error_is_in_the_last_row(classifier: fervid.Classifier, tmp_path: Path) -> None:
    (row,) = classifier.frames(tmp_path / "missing.mp4")
    assert (row.frame, row.success, row.error.code) == (None, False, "not_found")


def test_row_survives_its_dict() -> None:
    row = face(
        face_id=1, embedding=np.arange(3, dtype=np.float32), age=30.0, male_probability=0.5, logits={"calm": 0.5}
    )
    again = fervid.FrameRow.from_dict(row.as_dict())
    assert again.as_dict() | {"embedding": None} == row.as_dict() | {"embedding": None}
    np.testing.assert_array_equal(again.embedding, row.embedding)
    failed = fervid.FrameRow("clip.mp4", error=ErrorInfo("truncated", "cut"))
    assert fervid.FrameRow.from_dict(failed.as_dict()).as_dict() == failed.as_dict()


def test_columns_are_the_fields_of_a_row() -> None:
    assert [*COLUMNS.nested()] == [*face().as_dict()]
    flat = COLUMNS.flat()
    assert flat[9:15] == ["box.x1", "box.y1", "box.x2", "box.y2", "landmarks.right_eye.x", "landmarks.right_eye.y"]
    assert {"probabilities.angry", "logits.calm", "ethnicity_probabilities.a", "error.code"} <= set(flat)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "rows are of 0 clips"),
        ([face("a.mp4"), face("b.mp4", 1)], "rows are of 2 clips"),
        ([{"path": "a.mp4"}], "either a frame or an error"),
        ([{"frame": 0}], "not a row of fervid frames"),
        ([{**face().as_dict(), "box": [1, 2, 3, 4]}], "not a row of fervid frames"),
    ],
)
def test_other_rows_are_refused(classifier: fervid.Classifier, rows: list[Any], message: str) -> None:
    with pytest.raises(fervid.FervidError, match=message):
        classifier.pool_frames(rows)


def test_pooling_names_the_missing_column(
    with_all_outputs: fervid.Classifier, rows_of_pair: list[fervid.FrameRow]
) -> None:
    with pytest.raises(fervid.FervidError, match=r"no statistic embedding\.mean"):
        with_all_outputs.pool_frames([{**row.as_dict(), "embedding": None} for row in rows_of_pair])
