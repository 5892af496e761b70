"""Full disks, locks and signals: a clear error, the right exit status, complete records, and resuming."""

from __future__ import annotations

import csv
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import pyarrow.parquet
import pytest
from typer.testing import CliRunner, Result

import child_processes
import toy_models
from fervid.analysis.pipeline import Classifier, load_classifier
from fervid.batch.output import open_writer
from fervid.cli import app
from fervid.core import atomic_io
from fervid.core.results import ClipResult

FORMATS = ("out.jsonl", "out.csv", "parts")
FEW, ALL = "0*.png", "*.png"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty pictures, and the toy models that answer them."""
    folder = tmp_path_factory.mktemp("place")
    toy_models.family(folder)
    (folder / "clips").mkdir()
    for number in range(30):
        colours = (toy_models.FIRST, toy_models.SECOND, toy_models.THIRD)
        cv2.imwrite(str(folder / "clips" / f"{number:02}.png"), toy_models.picture(colours[number % 3])[..., ::-1])
    return folder


def flags(place: Path, clips: str) -> list[str]:
    models = toy_models.flags({role: f"{place / role}.onnx" for role in ("detector", "face_model", "classifier")})
    return ["classify", str(place / "clips" / clips), *models, f"--min-face={toy_models.FACE}", "--progress=none"]


def classify(place: Path, target: Path, *more: str, clips: str = FEW) -> Result:
    format = [] if target.suffix else ["--format", "parquet"]
    return CliRunner().invoke(app.app, [*flags(place, clips), "-o", str(target), *format, *more])


def finished(target: Path) -> list[str]:
    """The clips whose records are there, each of which has to be whole."""
    if target.suffix == ".jsonl":
        found = [json.loads(line) for line in target.read_bytes().splitlines()]
    elif target.suffix == ".json":
        found = json.loads(target.read_bytes())
    elif target.suffix == ".csv":
        found = list(csv.DictReader(target.read_text().splitlines()))
    else:
        found = [row for path in target.glob("*.parquet") for row in pyarrow.parquet.read_table(path).to_pylist()]
    assert all(record["label"] in toy_models.CLASSIFIER["labels"] for record in found)
    return sorted(Path(record["path"]).name for record in found)


def everything(place: Path, clips: str = FEW) -> list[str]:
    return sorted(path.name for path in (place / "clips").glob(clips))


def told(result: Result, reason: str) -> bool:
    """Whether one line says so, with status 2."""
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.stderr
    return result.stderr.startswith("fervid: ") and reason in result.stderr


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes, as if the disk were full then."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", FORMATS)
def test_full_disk_ends_run_and_resume_completes_it(name: str, place: Path, tmp_path: Path) -> None:
    target = tmp_path / name
    with small_files(2500):
        result = classify(place, target)
    assert told(result, "cannot be written (File too large)")
    assert not target.is_file() or target.suffix == ".jsonl"
    if target.suffix == ".jsonl":
        before = target.read_bytes().splitlines()
        assert 0 < len(finished(target)) < len(everything(place))
        with small_files(1000):
            assert told(classify(place, target, "--resume"), "File too large")
        assert target.read_bytes().splitlines() == before
    resumable = target.suffix in ("", ".jsonl")
    assert classify(place, target, "--resume" if resumable else "--force").exit_code == 0
    assert finished(target) == everything(place)
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("name", FORMATS)
def test_read_only_folder_is_reported_and_unchanged(
    name: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(path: str, flags: int) -> int:
        raise OSError(errno.EROFS, "Read-only file system", path)

    (tmp_path / "file").touch()
    assert told(classify(place, tmp_path / "file" / name), "cannot be")
    target = tmp_path / name
    with monkeypatch.context() as patch:
        patch.setattr(atomic_io, "_open_without_truncate", refusing)
        assert told(classify(place, target), "Read-only file system")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "file"]
    assert classify(place, target).exit_code == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    if target.suffix == ".jsonl":
        with monkeypatch.context() as patch:
            patch.setattr(atomic_io, "_open_without_truncate", refusing)
            assert told(classify(place, target, "--resume"), "Read-only file system")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("name", "more"),
    [*(("out.jsonl", more) for more in ((), ("--force",), ("--resume",))), ("out.csv", ()), ("parts", ())],
    ids=str,
)
def test_second_run_on_same_output_is_refused(name: str, more: tuple[str, ...], place: Path, tmp_path: Path) -> None:
    target = tmp_path / name
    models = {role: str(place / f"{role}.onnx") for role in ("detector", "face_model", "classifier")}
    first = load_classifier(**models)
    clips = [str(path) for path in sorted((place / "clips").iterdir())[:2]]
    format = None if target.suffix else "parquet"
    with open_writer(target, format, first, clips) as (writer, _):
        writer.write(first.classify_or_error(clips[0]))
        assert told(classify(place, target, *more), f"{target} is being written by another run")
        if target.suffix == ".jsonl":  # nor as another format
            assert told(classify(place, target, "--force", "--format", "csv"), "is being written by another run")
        writer.write(first.classify_or_error(clips[1]))
    assert finished(target) == ["00.png", "01.png"]
    assert not list(tmp_path.rglob("*.partial"))
    assert classify(place, target, *(more or ("--force",))).exit_code == 0
    assert finished(target) == everything(place)


@pytest.mark.parametrize(
    ("name", "taken", "said"),
    [
        ("out.jsonl", "out.jsonl", "moved, removed or replaced"),
        ("out.csv", "out.csv.partial", "moved, removed or replaced"),
        ("out.csv", None, "created by another process"),
    ],
)
def test_output_changed_by_another_process_is_reported(
    name: str, taken: str | None, said: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interfering(work: Callable[[Classifier, str], ClipResult]) -> Any:
        def answer(classifier: Classifier, path: str) -> ClipResult:
            if path.endswith("05.png"):
                (tmp_path / taken).unlink() if taken else (tmp_path / name).write_text("mine")
            return work(classifier, path)

        return answer

    monkeypatch.setattr(Classifier, "classify_or_error", interfering(Classifier.classify_or_error))
    assert told(classify(place, tmp_path / name), said)
    if not taken:
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / f"{name}.partial").rename(tmp_path / "saved.csv")
        assert finished(tmp_path / "saved.csv") == everything(place)


def begin(place: Path, target: Path, *more: str) -> subprocess.Popen[bytes]:
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from fervid.cli.app import main; main()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *flags(place, ALL), "-o", str(target), "--jobs", "2", *more],
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def wait_until(reached: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not reached() and time.monotonic() < deadline:
        time.sleep(0.002)


def test_sigterm_keeps_complete_records(place: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    run = begin(place, target)
    wait_until(lambda: target.exists() and target.stat().st_size > 0)
    os.killpg(run.pid, signal.SIGTERM)  # as `timeout` and init systems do
    _, said = run.communicate(timeout=30)
    assert child_processes.gone(run.pid)
    found = finished(target)
    if len(found) < 30:
        assert (run.returncode, said.count(b"\n")) == (143, 1), said
        assert said.startswith(b"fervid: terminated")
    assert classify(place, target, "--resume", clips=ALL).exit_code == 0
    assert finished(target) == everything(place, ALL)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("name", ["out.jsonl", "out.json"])
def test_signal_at_any_moment_keeps_complete_records(
    number: signal.Signals, status: int, name: str, place: Path, tmp_path: Path
) -> None:
    chance, early = random.Random(number), 0
    for trial in range(20):
        target = tmp_path / str(trial) / name
        target.parent.mkdir()
        run = begin(place, target)
        if trial % 2:
            wait_until(lambda: any(target.parent.iterdir()))  # noqa: B023  the models are loaded
            time.sleep(chance.uniform(0, 3))
        else:
            time.sleep(chance.uniform(0, 2))
        os.killpg(run.pid, number)
        _, said = run.communicate(timeout=60)
        assert child_processes.gone(run.pid)
        if run.returncode in (-number, 1):  # before there was anybody to heed it
            early += 1
            assert not any(target.parent.iterdir())
            continue
        assert run.returncode in (0, status), said
        assert b"Traceback" not in said
        for path in (target, target.with_name(f"{name}.partial")):
            if path.exists() and path.stat().st_size:
                finished(path.rename(target.with_name(f"left-{path.name}").with_suffix(target.suffix)))
    assert early < 15
