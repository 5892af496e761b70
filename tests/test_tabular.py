"""Records as an arrow table or DataFrame, with the columns of parquet and CSV."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from pyarrow import parquet

import fervid
from fervid.batch.tabular import arrow_schema, column_types
from fervid.batch.writers import CsvWriter, make_writer
from fervid.core.errors import UsageError
from fervid.core.results import ClipResult, ErrorInfo, ModelRef, Person, Prediction, WindowResult
from record_fixtures import MODELS

CALM = Prediction({"calm": 0.75, "angry": 0.25})
ANSWERED = ClipResult("a.mp4", "ok", CALM, (Person(0, 1.5, CALM, 33.5, "male"),), 1.5, 8, 7, MODELS, elapsed_s=0.5)
FAILED = ClipResult("\udcff.mp4", "error", models=MODELS, error=ErrorInfo("empty_file", "\udcff.mp4 is empty"))


def window(start: float | None = 0.0) -> WindowResult:
    return WindowResult.from_clip_result(ANSWERED, start, None if start is None else start + 4)


def test_dataframe_has_columns_of_csv() -> None:
    stream = io.BytesIO()
    writer = CsvWriter(stream, ["calm", "angry"])
    for result in (ANSWERED, FAILED):
        writer.write(result)
    written = list(csv.DictReader(io.StringIO(stream.getvalue().decode())))
    frame = fervid.to_pandas([ANSWERED, FAILED])
    assert list(frame.columns) == list(written[0]) == list(column_types(["calm", "angry"]))
    assert frame["label"].tolist()[0] == written[0]["label"] == "calm"
    assert frame["probabilities.calm"].tolist()[0] == float(written[0]["probabilities.calm"]) == 0.75
    assert frame["people"].tolist()[0] == ANSWERED.as_dict()["people"]
    assert frame["confidence"].isna().tolist() == [False, True]
    assert frame["error.code"].tolist()[1] == written[1]["error.code"] == "empty_file"
    assert frame["path"].tolist()[1] == written[1]["path"] == "\\udcff.mp4"


def test_csv_for_excel_differs_by_its_byte_order_mark() -> None:
    plain, marked = io.BytesIO(), io.BytesIO()
    for format, stream in (("csv", plain), ("excel", marked)):
        make_writer(format, stream, ["calm", "angry"]).write(ANSWERED)
    assert marked.getvalue() == b"\xef\xbb\xbf" + plain.getvalue()


def test_arrow_table_holds_records() -> None:
    table = fervid.to_arrow(iter([ANSWERED, FAILED]))
    assert table.schema.names == list(ANSWERED.as_dict())
    first, second = table.to_pylist()
    assert first == ANSWERED.as_dict()
    assert (second["path"], second["error"]["message"]) == ("\\udcff.mp4", "\\udcff.mp4 is empty")
    assert second["probabilities"] is None


@pytest.mark.parametrize("convert", [fervid.to_pandas, fervid.to_arrow])
def test_windows_have_their_times(convert: Callable) -> None:
    table = convert([window(0.0), window(1.0), window(None)])
    found = table["start_s"].to_pylist() if convert is fervid.to_arrow else table["start_s"].tolist()
    assert found[:2] == [0.0, 1.0]
    assert found[2] is None or found[2] != found[2]
    tabular = table.schema.names if convert is fervid.to_arrow else list(table.columns)
    assert tabular[2:4] == ["start_s", "end_s"]


def test_arrow_schema_matches_as_dict() -> None:
    import pyarrow

    for record, result in ((ClipResult, ANSWERED), (WindowResult, window())):
        assert arrow_schema(pyarrow, ["calm", "angry"], record).names == list(result.as_dict())


@pytest.mark.parametrize("convert", [fervid.to_pandas, fervid.to_arrow])
@pytest.mark.parametrize("results", [[], [FAILED]], ids=["none", "a failure"])
def test_results_without_predictions_make_table(convert: Callable, results: list[ClipResult]) -> None:
    table = convert(results)
    assert len(table) == len(results)
    assert "status" in (table.schema.names if convert is fervid.to_arrow else table.columns)
    if convert is fervid.to_arrow:
        parquet.write_table(table, io.BytesIO())


def test_invalid_utf8_is_escaped() -> None:
    models = {**MODELS, "classifier": ModelRef("wei\udcff", "0" * 64)}
    table = fervid.to_arrow([replace(ANSWERED, path="caf\udce9.mp4", models=models)])
    assert table.to_pylist()[0]["path"] == r"caf\udce9.mp4"
    assert table.to_pylist()[0]["model"]["classifier"]["name"] == r"wei\udcff"


def test_labels_of_several_classifiers_are_merged() -> None:
    other = ClipResult("b.mp4", "ok", Prediction({"positive": 1.0}), models=MODELS)
    frame = fervid.to_pandas([ANSWERED, other])
    assert [name for name in frame.columns if name.startswith("probabilities.")] == [
        *("probabilities.calm", "probabilities.angry", "probabilities.positive")
    ]
    assert fervid.to_arrow([ANSWERED, other]).to_pylist()[1]["probabilities"] == {
        "calm": None,
        "angry": None,
        "positive": 1.0,
    }


@pytest.mark.parametrize(
    ("convert", "package", "extra"), [(fervid.to_pandas, "pandas", "pandas"), (fervid.to_arrow, "pyarrow", "parquet")]
)
def test_missing_package_says_what_to_install(
    convert: Callable, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf'pip install "fervid\[{extra}\]"'):
        convert([ANSWERED])
