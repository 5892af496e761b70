"""Many clips: order, bounded reading ahead, stopping early, and where the records go."""

from __future__ import annotations

import csv
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fervid.batch import Policy, answer_all, destination
from fervid.errors import OutputError, UsageError
from fervid.pipeline import Options
from fervid.records import Answer, ClipResult, Problem


@dataclass
class Stub:
    """Answers at once, but for names that start with `slow`; fails for names that start with `bad`."""

    models: dict = field(default_factory=dict)
    options: Options = field(default_factory=Options)
    labels: tuple[str, ...] = ("calm", "angry")
    asked: list[str] = field(default_factory=list)
    at_once: int = 0
    busy: int = 0

    def answer(self, path: str) -> ClipResult:
        self.asked.append(path)
        self.busy += 1
        self.at_once = max(self.at_once, self.busy)
        time.sleep(0.05 if path.startswith("slow") else 0.001)
        self.busy -= 1
        if path.startswith("bad"):
            return ClipResult(path, "error", problem=Problem("not_found", "gone"))
        return ClipResult(path, "ok", Answer({"calm": 0.9, "angry": 0.1}))


@pytest.mark.parametrize("jobs", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_records_come_in_order_whoever_is_done_first(jobs: int, count: int) -> None:
    names = [("slow" if i % 4 == 0 else "fast") + str(i) for i in range(count)]
    stub = Stub()
    assert [r.path for r in answer_all(stub, names, Policy(jobs))] == names
    assert stub.at_once <= jobs


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_long_list_is_not_read_far_ahead(jobs: int) -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield f"clip {read}"

    results = answer_all(Stub(), endless(), Policy(jobs))
    for _ in range(50):
        next(results)
    assert read <= 50 + 2 * jobs
    results.close()
    for thread in threading.enumerate():
        if thread.name.startswith("fervid"):
            thread.join(10)
            assert not thread.is_alive()


@pytest.mark.parametrize("jobs", [1, 3])
def test_failing_fast_asks_for_no_more_and_skips_the_rest(jobs: int) -> None:
    stub = Stub()
    names = ["a", "bad", *(f"slow {i}" for i in range(20))]
    results = list(answer_all(stub, names, Policy(jobs, fail_fast=True)))
    assert [r.path for r in results] == names
    assert results[-1].status == "skipped"
    assert "bad failed" in results[-1].problem.message
    assert len(stub.asked) <= 2 + 2 * jobs


def test_failures_do_not_stop_the_others() -> None:
    results = list(answer_all(Stub(), ["bad 1", "a", "bad 2", "b"], Policy(2)))
    assert [r.status for r in results] == ["error", "ok", "error", "ok"]


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
    assert Policy(strict=strict).failed(status) is failed


@pytest.mark.parametrize("name", ["out.json", "out.csv"])
def test_a_run_that_is_left_early_keeps_whole_records_under_the_partial_name(name: str, tmp_path: Path) -> None:
    output = tmp_path / name
    with pytest.raises(KeyboardInterrupt), destination(output, None, Stub(), []) as (writer, _):
        writer.write(Stub().answer("a"))
        raise KeyboardInterrupt
    assert not output.exists()
    left = (tmp_path / f"{name}.partial").read_text()
    found = json.loads(left) if name.endswith("json") else list(csv.DictReader(left.splitlines()))
    assert [record["path"] for record in found] == ["a"]
    with pytest.raises(OutputError, match="partial exists"), destination(output, None, Stub(), []):
        pass


@pytest.mark.parametrize(
    ("output", "format", "resume", "said"),
    [
        (None, None, True, "name it with -o"),
        (Path("a.csv"), None, True, "JSON Lines"),
        (Path("a.mp4"), None, False, "no format for this suffix"),
    ],
)
def test_outputs_that_make_no_sense_are_refused(
    output: Path | None, format: str | None, resume: bool, said: str
) -> None:
    with pytest.raises(UsageError, match=said), destination(output, format, Stub(), [], resume=resume):
        pass


def test_the_format_can_be_chosen_against_the_suffix(tmp_path: Path) -> None:
    with destination(tmp_path / "data.log", "jsonl", Stub(), ["a"]) as (writer, answered):
        writer.write(Stub().answer("a"))
    assert answered == {}
    assert json.loads((tmp_path / "data.log").read_text())["label"] == "calm"


def test_an_empty_run_is_an_empty_document(tmp_path: Path) -> None:
    for name, content in (("a.json", "[]\n"), ("a.jsonl", "")):
        with destination(tmp_path / name, None, Stub(), []):
            pass
        assert (tmp_path / name).read_text() == content


@pytest.mark.parametrize("name", ["clip.jsonl", "clip.csv", "clip.json"])
@pytest.mark.parametrize("suffix", ["", ".partial", ".ledger"])
def test_an_input_is_never_overwritten(name: str, suffix: str, tmp_path: Path) -> None:
    clip = tmp_path / (name + suffix)
    clip.write_bytes(b"a video")
    (tmp_path / "link").symlink_to(clip)
    with (
        pytest.raises(UsageError, match="would overwrite the input"),
        destination(tmp_path / name, None, Stub(), [str(tmp_path / "link")], force=True),
    ):
        pass
    assert clip.read_bytes() == b"a video"


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv"])
def test_what_is_no_regular_file_is_not_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with (
        pytest.raises(OutputError, match="no regular file"),
        destination(tmp_path / name, None, Stub(), [], force=True),
    ):
        pass
    assert list(tmp_path.iterdir()) == [tmp_path / name]


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    with destination(tmp_path / "link.csv", None, Stub(), []) as (writer, _):
        writer.write(Stub().answer("a"))
    assert (tmp_path / "link.csv").is_symlink()
    assert "calm" in (tmp_path / "real.csv").read_text()


@pytest.mark.parametrize("name", ["Title [dQw4w9WgXcQ].mp4", ":smile:.mp4", "[/foo].mp4", "[red]x[b].mp4"])
def test_a_table_shows_names_as_they_are(name: str, tmp_path: Path) -> None:
    with destination(tmp_path / "out.txt", None, Stub(), []) as (writer, _):
        writer.write(Stub().answer(name))
    assert name in (tmp_path / "out.txt").read_text()


def test_a_table_escapes_what_would_command_the_terminal(tmp_path: Path) -> None:
    with destination(tmp_path / "out.txt", None, Stub(), []) as (writer, _):
        writer.write(Stub().answer("a\x1b[31m\nb"))
    assert r"a\x1b[31m\nb" in (tmp_path / "out.txt").read_text()
