"""Result files: every kind is recognised by its content, and others are refused."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import html_pages
from fervid.batch.writers import make_writer
from fervid.core.errors import UsageError
from fervid.core.results import ClipResult, ErrorInfo, WindowResult
from fervid.learn.metrics import evaluate_regression
from fervid.render import result_reader, result_schema
from fervid.render.result_reader import ClassificationRun, EvaluationRun, TimelineRun, load_results
from html_pages import clip, lines, windows

ALL = [clip("a.mp4"), clip('b, "c".mp4', "no_face"), clip("d.mp4", "error"), clip("é 😀.mp4", sure=0.625)]


def written(path: Path, form: Any, records: list[ClipResult], record: type[ClipResult] = ClipResult) -> Path:
    with path.open("wb") as stream:
        out = make_writer(form, stream, ("calm", "joy"), record)
        for one in records:
            out.write(one)
        out.finish()
    return path


@pytest.mark.parametrize("form", ["jsonl", "json", "csv"])
def test_reads_output_of_classify(form: str, tmp_path: Path) -> None:
    found = load_results(written(tmp_path / "results", form, ALL))
    assert isinstance(found, ClassificationRun)
    assert found.records == [one.as_dict() for one in ALL]


@pytest.mark.parametrize("form", ["jsonl", "json", "csv"])
def test_reads_output_of_timeline(form: str, tmp_path: Path) -> None:
    records = [
        *windows("a.mp4", [0.5, None]),
        *windows("b.mp4", [0.875]),
        WindowResult.from_clip_result(clip("c.mp4", "error")),
    ]
    found = load_results(written(tmp_path / "results", form, list(records), WindowResult))
    assert isinstance(found, TimelineRun)
    assert {path: len(some) for path, some in found.clips.items()} == {"a.mp4": 2, "b.mp4": 1, "c.mp4": 1}
    assert [one for some in found.clips.values() for one in some] == [one.as_dict() for one in records]


def test_parquet_is_read_as_a_folder_and_as_a_part(tmp_path: Path) -> None:
    from fervid.batch.parquet_writer import ParquetDatasetWriter
    from record_fixtures import Stub

    with ParquetDatasetWriter(
        str(tmp_path / "parts"), Stub(labels=("calm", "joy")), [], resume=False, force=False
    ) as parts:
        parts._stamps = {one.path: (one.path, (1, 1)) for one in ALL}
        for one in ALL[:2]:
            parts.write(one)
        parts.finish()
        for one in ALL[2:]:
            parts.write(one)
    assert load_results(tmp_path / "parts").records == [one.as_dict() for one in ALL]
    assert load_results(tmp_path / "parts" / "part-00001.parquet").records == [one.as_dict() for one in ALL[2:]]
    (tmp_path / "parts" / "part-00001.parquet").write_bytes(b"PAR1 and no more")
    for name in ("parts", "parts/part-00001.parquet"):
        with pytest.raises(UsageError, match=r"part-00001.parquet is not a complete parquet file .*run it again"):
            load_results(tmp_path / name)


def test_missing_pyarrow_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r'pip install "fervid\[parquet\]"'):
        load_results(tmp_path / "x")


def test_indented_record(tmp_path: Path) -> None:
    (tmp_path / "one").write_text(json.dumps(clip("a.mp4").as_dict(), indent=2))
    assert load_results(tmp_path / "one").records == [clip("a.mp4").as_dict()]


def test_byte_order_mark_and_empty_lines(tmp_path: Path) -> None:
    text = json.dumps(clip("a.mp4").as_dict())
    (tmp_path / "x").write_text(f"\ufeff{text}\r\n\r\n{text}\n")
    assert len(load_results(tmp_path / "x").records) == 2


def test_kinds_of_evaluations(tmp_path: Path) -> None:
    import numpy as np

    classes, ratings = html_pages.report(), evaluate_regression(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 2.5]))
    kinds = {
        "classes": (classes, {"": classes}),
        "ratings": (ratings, {"": ratings}),
        "methods": ({"methods": {"mean, rbf": classes}}, {"mean, rbf": classes}),
        "card": ({"kind": "classifier", "evaluations": {"held_out": classes}}, {"held_out": classes}),
    }
    for name, (content, expected) in kinds.items():
        (tmp_path / name).write_text(json.dumps(content, indent=2))
        found = load_results(tmp_path / name)
        assert isinstance(found, EvaluationRun)
        assert found.reports == expected


RECORD = clip("a.mp4").as_dict()
WINDOW = windows("a.mp4", [0.5])[0].as_dict()
WRONG: dict[str, tuple[object, str]] = {
    "empty": ("", "is empty; expected"),
    "blank": ("\n \n", "is empty"),
    "none": ("[]", "has no records"),
    "binary": (b"\x00\xff\xfe", "not UTF-8 text"),
    "prose": ("Dear Sir or Madam", "is not a results file; expected"),
    "torn line": (json.dumps(RECORD) + "\n" + json.dumps(RECORD)[:-30], r"line 2 is truncated or not JSON .*--resume"),
    "torn array": ("[" + json.dumps(RECORD) + ",\n", "the array is truncated or not JSON"),
    "torn evaluation": (json.dumps(html_pages.report(), indent=2)[:-5], "line 1 is truncated"),
    "no object": ("[1]", "has a int instead of a record at record 1"),
    "another table": ("clip,label\na,b\n", "is not a results file"),
    "another object": ('{"a": 1}', "is not a results file, or is incomplete"),
    "another line": (json.dumps(RECORD) + '\n{"a": 1}', "no record of fervid at line 2"),
    "another version": (
        json.dumps(RECORD | {"schema_version": 3}),
        r"schema version 3 at record 1, .*reads version 2; make the",
    ),
    "mixed": (json.dumps(RECORD) + "\n" + json.dumps(WINDOW), r"of clips and of windows \(from line 2 on\)"),
    "missing field": (json.dumps({k: v for k, v in RECORD.items() if k != "status"}), "invalid record at record 1"),
    "wrong type": (json.dumps(RECORD | {"label": {"a": 1}}), "invalid record at record 1"),
    "beyond a share": (json.dumps(RECORD | {"confidence": 1.5}), "confidence"),
    "not a number": (json.dumps(RECORD).replace("0.75", "NaN"), "not plain JSON"),
    "endless": (json.dumps(RECORD).replace("2.5", "1e999"), "not plain JSON"),
    "huge": (json.dumps(RECORD).replace("2.5", "9" * 400), "not plain JSON"),
    "deep": ("[" * 100_000, "truncated or not JSON"),
    "no answer": (json.dumps(RECORD | {"label": None}), "if and only if the status is ok"),
    "unknown label": (json.dumps(RECORD | {"label": "x"}), "label has no probability"),
    "no reason": (json.dumps(clip("a", "no_face").as_dict() | {"status": "error"}), "there is no error"),
    "timeless": (json.dumps(WINDOW | {"start_s": None}), "a window with a label has no time"),
    "backwards": (json.dumps(WINDOW | {"start_s": 3}), "ends before it starts"),
    "no figures": ('{"methods": {}}', "has no figures"),
    "not of the labels": (json.dumps(html_pages.report() | {"labels": ["calm", "x"]}), "labels of recall differ"),
    "misshapen": (json.dumps(html_pages.report() | {"labels": ["calm"]}), "not a table of 1 labels"),
    "method": (json.dumps({"methods": {"a": 1}}), "figures of a: must be object"),
}


@pytest.mark.parametrize("name", WRONG)
def test_invalid_results_are_explained(name: str, tmp_path: Path) -> None:
    content, said = WRONG[name]
    path = tmp_path / "results.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else str(content).encode())
    with pytest.raises(UsageError, match=said) as raised:
        load_results(path)
    assert str(path) in raised.value.message
    assert len(raised.value.message) < 500


def test_missing_or_large_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"cannot be read \(No such file"):
        load_results(tmp_path / "nothing")
    with pytest.raises(UsageError, match="a folder without parquet files"):
        load_results(tmp_path)
    monkeypatch.setattr(result_reader, "MAX_FILE_BYTES", 10)
    with pytest.raises(UsageError, match="the limit is 10"):
        load_results(lines(tmp_path / "x", ALL))


def test_truncated_table_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "results.csv", "csv", ALL)
    whole = path.read_text()
    path.write_text(whole[: whole.index("d.mp4") + 9])
    with pytest.raises(UsageError, match=r"line 4 has 3 cells for \d+ columns"):
        load_results(path)
    path.write_text(whole + '1,"a')
    with pytest.raises(UsageError, match="truncated or not CSV"):
        load_results(path)
    path.write_text(whole.replace("0.625", "much", 1))
    with pytest.raises(UsageError, match=r"line 5, confidence, is truncated"):
        load_results(path)


def test_long_cells_are_a_clear_error(tmp_path: Path) -> None:
    path = written(tmp_path / "results.csv", "csv", ALL)
    path.write_text(path.read_text().replace("a.mp4", "a" * (csv.field_size_limit() + 1)))
    with pytest.raises(UsageError, match=r"field larger than .*write \.jsonl"):
        load_results(path)


def test_error_beside_prediction_is_kept(tmp_path: Path) -> None:
    record = ClipResult(
        "a", "ok", ALL[0].prediction, models=html_pages.MODELS, error=ErrorInfo("damaged", "2 packets,\nof 10")
    )
    assert load_results(written(tmp_path / "x", "csv", [record])).records == [record.as_dict()]


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result_schema.validator.cache_clear()
    monkeypatch.setitem(sys.modules, "fastjsonschema", None)
    with pytest.raises(UsageError, match=r'pip install "fervid\[report\]"'):
        load_results(lines(tmp_path / "x", ALL))
