"""Batches of clips: order, failures, fail-fast, crashes and outputs."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from fervid.analysis.windows import WindowSpec
from fervid.batch.output import open_stream_writer, open_writer
from fervid.batch.runner import RunConfig, classify_all, classify_windows
from fervid.core.errors import OutputError, UsageError
from fervid.core.results import ClipResult, ErrorInfo, ModelRef, Prediction, WindowResult
from fervid.core.schema import record_json_schema
from stub_classifier import Stub


@pytest.mark.parametrize("count", [0, 1, 9])
def test_records_come_in_input_order(count: int) -> None:
    names = [("slow" if i % 4 == 0 else "fast") + str(i) for i in range(count)]
    assert [r.path for r in classify_all(Stub(), names, RunConfig())] == names


def test_input_is_not_read_ahead_without_workers() -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield f"clip {read}"

    results = classify_all(Stub(), endless(), RunConfig())
    for number in range(1, 50):
        next(results)
        assert read == number
    results.close()


@pytest.mark.parametrize("jobs", [0, 2])
def test_fail_fast_skips_remaining_clips(jobs: int) -> None:
    stub = Stub()
    names = ["slow a", "bad", *(f"slow {i}" for i in range(200))]
    results = list(classify_all(stub, names, RunConfig(jobs, fail_fast=True)))
    assert [r.path for r in results] == names
    assert [r.status for r in results] == ["ok", "error", *["skipped"] * 200]
    assert all("bad failed" in r.error.message for r in results[2:])
    assert jobs or stub.asked == ["slow a", "bad"]


@pytest.mark.parametrize("names", [[], ["a"], ["a", "bad"]])
def test_fail_fast_at_last_clip_skips_nothing(names: list[str]) -> None:
    results = list(classify_all(Stub(), names, RunConfig(fail_fast=True)))
    assert [r.status for r in results] == ["ok", "error"][: len(names)]


def test_failures_do_not_stop_other_clips() -> None:
    results = list(classify_all(Stub(), ["bad 1", "a", "bad 2", "b"], RunConfig()))
    assert [r.status for r in results] == ["error", "ok", "error", "ok"]


def test_crashed_worker_costs_one_record() -> None:
    names = ["a", "deadly 1", "slow b", "bad", "deadly 2", "c"]
    stub = Stub({"face_model": ModelRef("toy", "0" * 64)})
    results = list(classify_all(stub, names, RunConfig(1)))
    assert [r.path for r in results] == names
    assert [r.error and r.error.code for r in results] == [None, "crashed", None, "not_found", "crashed", None]
    assert (results[1].status, results[1].models) == ("error", stub.models)
    assert results[1].error.message.startswith("the process that analysed deadly 1 was killed (SIGKILL)")
    (parts, lost) = classify_windows(stub, ["a", "deadly"], WindowSpec(2, 1), RunConfig(1))
    assert [part.start_s for part in parts] == [0, 1, 2]
    assert [(part.status, part.error.code, part.start_s) for part in lost] == [("error", "crashed", None)]
    for record, command in ((results[1], "classify"), (lost[0], "timeline")):
        jsonschema.validate(record.as_dict(), record_json_schema(command))


@pytest.mark.parametrize(
    ("status", "strict", "failed"),
    [
        ("ok", True, False),
        ("no_face", False, False),
        ("no_face", True, True),
        ("error", False, True),
        ("skipped", False, True),
    ],
)
def test_what_counts_as_failed(status: str, strict: bool, failed: bool) -> None:
    assert RunConfig(strict=strict).is_failure(status) is failed


@pytest.mark.parametrize(
    ("statuses", "strict", "failed"),
    [
        ([], True, False),
        (["ok", "no_face", "ok"], False, False),
        (["ok", "no_face", "ok"], True, True),
        (["ok", "ok"], True, False),
        (["ok", "error"], False, True),
    ],
)
def test_failed_window_is_a_failure_of_the_clip(statuses: list[str], strict: bool, failed: bool) -> None:
    made = {"ok": {"prediction": Prediction({"calm": 1.0})}, "error": {"error": ErrorInfo("truncated", "cut")}}
    results = [WindowResult("a.mp4", status, **made.get(status, {})) for status in statuses]
    assert RunConfig(strict=strict).has_failure(results) is failed


@pytest.mark.parametrize("count", [0, 1, 7])
def test_windows_are_grouped_by_clip_in_input_order(count: int) -> None:
    names = [("slow", "bad", "fast")[i % 3] + str(i) for i in range(count)]
    found = list(classify_windows(Stub(), names, WindowSpec(2, 1), RunConfig()))
    assert [{part.path for part in parts} for parts in found] == [{name} for name in names]
    times = [[(part.start_s, part.end_s) for part in parts] for parts in found]
    assert times == [[(0, 2)] if name.startswith("bad") else [(0, 2), (1, 3), (2, 4)] for name in names]


@pytest.mark.parametrize("name", ["out.jsonl", "out.json", "out.csv", "out.txt"])
def test_windows_have_times_in_every_format(name: str, tmp_path: Path) -> None:
    output = tmp_path / name
    with open_writer(output, None, Stub(), ["a"], record=WindowResult) as (writer, finished):
        for part in Stub().timeline("a", WindowSpec(2.5, 1)):
            writer.write(part)
    assert finished == {}
    assert [path.name for path in tmp_path.iterdir()] == [name]
    text = output.read_text()
    if name.endswith("txt"):
        title, *rows, counts = text.splitlines()
        assert counts == "3 windows: 3 ok"
        assert title.split() == ["clip", "from", "label", "confidence", "people", "seconds"]
        assert [row.split()[:3] for row in rows] == [["a", f"{start}.0", "calm"] for start in range(3)]
        return
    rows = {
        "out.jsonl": lambda: [json.loads(line) for line in text.splitlines()],
        "out.json": lambda: json.loads(text),
        "out.csv": lambda: list(csv.DictReader(text.splitlines())),
    }[name]()
    assert list(rows[0])[:4] == ["schema_version", "path", "start_s", "end_s"]
    assert [(float(row["start_s"]), float(row["end_s"])) for row in rows] == [(0, 2.5), (1, 3.5), (2, 4.5)]


def test_window_without_times_has_empty_columns(tmp_path: Path) -> None:
    for name in ("out.csv", "out.txt"):
        with open_writer(tmp_path / name, None, Stub(), [], record=WindowResult) as (writer, _):
            writer.write(WindowResult("gone.mp4", "error", error=ErrorInfo("not_found", "gone")))
    (row,) = csv.DictReader((tmp_path / "out.csv").read_text().splitlines())
    assert (row["start_s"], row["end_s"], row["error.code"]) == ("", "", "not_found")
    assert (tmp_path / "out.txt").read_text().splitlines()[1].split() == ["gone.mp4", "error", "(not_found)"]


def test_stream_is_written_for_excel(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    with open_stream_writer(None, "excel", Stub(), [], record=WindowResult) as (writer, _):
        writer.write(next(Stub().timeline("a", WindowSpec(2, 1))))
    header, row = capsysbinary.readouterr().out.splitlines()
    assert header.startswith(codecs.BOM_UTF8 + b"schema_version,path,")
    assert row.startswith(b"2,a,")


def test_stream_that_replaces_a_file_removes_its_ledger(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with open_writer(output, None, Stub(), ["a"]) as (writer, _):
        writer.write(Stub().classify_or_error("a"))
    with open_stream_writer(output, None, Stub(), [], force=True, record=WindowResult) as (writer, _):
        writer.write(next(Stub().timeline("a", WindowSpec(2, 1))))
    with pytest.raises(OutputError, match="no ledger"), open_writer(output, None, Stub(), ["a"], resume=True):
        pass


@pytest.mark.parametrize("record", [ClipResult, WindowResult])
def test_replacing_output_removes_its_ledger(record: type[ClipResult], tmp_path: Path) -> None:
    output, kind = tmp_path / "out.jsonl", "csv" if record is ClipResult else "jsonl"
    with open_writer(output, None, Stub(), ["a"]) as (writer, _):
        writer.write(Stub().classify_or_error("a"))
    ledger = tmp_path / "out.jsonl.ledger"
    before = ledger.read_bytes()
    output.rename(tmp_path / "moved.jsonl")
    with pytest.raises(OutputError, match="ledger exists"), open_writer(output, kind, Stub(), [], record=record):
        pass
    assert (output.exists(), ledger.read_bytes()) == (False, before)
    with open_writer(output, kind, Stub(), [], force=True, record=record) as (writer, _):
        writer.write(
            next(Stub().timeline("a", WindowSpec(2, 1))) if record is WindowResult else Stub().classify_or_error("a")
        )
    assert (output.exists(), ledger.exists()) == (True, False)
    with pytest.raises(OutputError, match="no ledger"), open_writer(output, "jsonl", Stub(), ["a"], resume=True):
        pass


@pytest.mark.parametrize("name", ["out.json", "out.csv"])
def test_interrupted_run_leaves_valid_partial_file(name: str, tmp_path: Path) -> None:
    output = tmp_path / name
    with pytest.raises(KeyboardInterrupt), open_writer(output, None, Stub(), []) as (writer, _):
        writer.write(Stub().classify_or_error("a"))
        raise KeyboardInterrupt
    assert not output.exists()
    left = (tmp_path / f"{name}.partial").read_text()
    found = json.loads(left) if name.endswith("json") else list(csv.DictReader(left.splitlines()))
    assert [record["path"] for record in found] == ["a"]
    with pytest.raises(OutputError, match="partial exists"), open_writer(output, None, Stub(), []):
        pass


@pytest.mark.parametrize(
    ("output", "format", "resume", "said"),
    [
        (None, None, True, "name it with -o"),
        (Path("a.csv"), None, True, "JSON Lines"),
        (Path("a.mp4"), None, False, "no format for this suffix"),
    ],
)
def test_invalid_outputs_are_refused(output: Path | None, format: str | None, resume: bool, said: str) -> None:
    with pytest.raises(UsageError, match=said), open_writer(output, format, Stub(), [], resume=resume):
        pass


def test_format_option_overrides_suffix(tmp_path: Path) -> None:
    with open_writer(tmp_path / "data.log", "jsonl", Stub(), ["a"]) as (writer, finished):
        writer.write(Stub().classify_or_error("a"))
    assert finished == {}
    assert json.loads((tmp_path / "data.log").read_text())["label"] == "calm"


def test_empty_run_writes_empty_document(tmp_path: Path) -> None:
    for name, content in (("a.json", "[]\n"), ("a.jsonl", "")):
        with open_writer(tmp_path / name, None, Stub(), []):
            pass
        assert (tmp_path / name).read_text() == content


@pytest.mark.parametrize("name", ["clip.jsonl", "clip.csv", "clip.json"])
@pytest.mark.parametrize("suffix", ["", ".partial", ".ledger"])
def test_input_is_never_overwritten(name: str, suffix: str, tmp_path: Path) -> None:
    clip = tmp_path / (name + suffix)
    clip.write_bytes(b"a video")
    (tmp_path / "link").symlink_to(clip)
    with (
        pytest.raises(UsageError, match="would overwrite the input"),
        open_writer(tmp_path / name, None, Stub(), [str(tmp_path / "link")], force=True),
    ):
        pass
    assert clip.read_bytes() == b"a video"


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv"])
def test_folder_is_not_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with (
        pytest.raises(OutputError, match="not a regular file"),
        open_writer(tmp_path / name, None, Stub(), [], force=True),
    ):
        pass
    assert list(tmp_path.iterdir()) == [tmp_path / name]


def test_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    with open_writer(tmp_path / "link.csv", None, Stub(), []) as (writer, _):
        writer.write(Stub().classify_or_error("a"))
    assert (tmp_path / "link.csv").is_symlink()
    assert "calm" in (tmp_path / "real.csv").read_text()


@pytest.mark.parametrize("name", ["Title [dQw4w9WgXcQ].mp4", ":smile:.mp4", "[/foo].mp4", "[red]x[b].mp4"])
def test_table_shows_names_unchanged(name: str, tmp_path: Path) -> None:
    with open_writer(tmp_path / "out.txt", None, Stub(), []) as (writer, _):
        writer.write(Stub().classify_or_error(name))
    assert name in (tmp_path / "out.txt").read_text()


def test_table_escapes_control_characters(tmp_path: Path) -> None:
    with open_writer(tmp_path / "out.txt", None, Stub(), []) as (writer, _):
        writer.write(Stub().classify_or_error("a\x1b[31m\nb"))
    assert r"a\x1b[31m\nb" in (tmp_path / "out.txt").read_text()
