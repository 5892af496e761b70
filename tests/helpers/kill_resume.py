"""Kill a run of the command line repeatedly, resume it each time, and count the failures."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import pyarrow.parquet

import child_processes
import clips
import toy_models

COLOURS = (toy_models.FIRST, toy_models.SECOND, toy_models.THIRD, toy_models.NEITHER, None)
CODE = "from fervid.batch import parquet_writer as p; from fervid.cli.app import main; p.ROWS_PER_PART = 5; main()"
"""The command line, with a few records per parquet part instead of a thousand."""
PHASES = ("start", "rewrite", "work", "work", "work")
Format = Literal["jsonl", "parquet"]


@dataclass
class Counts:
    """Counts of runs and failures.

    Attributes:
        kills: Runs that were killed.
        unfinished: Kills that left a partly rewritten file next to the output.
        batches: Batches in which all clips were classified in the end.
        records: Records of these batches.
        lost: Clips without a record.
        twice: Duplicate records.
        torn: Lines or parts that cannot be read.
        wrong: Records that differ from those of an uninterrupted run.
        orphans: Processes that outlived a killed run.
        refused: Runs that failed without being killed.
    """

    kills: int = 0
    unfinished: int = 0
    batches: int = 0
    records: int = 0
    lost: int = 0
    twice: int = 0
    torn: int = 0
    wrong: int = 0
    orphans: int = 0
    refused: int = 0

    @property
    def harmed(self) -> int:
        """All failures."""
        return self.lost + self.twice + self.torn + self.wrong + self.orphans + self.refused


def killed_runs(kills: int, *, inputs: int = 200, format: Format = "jsonl", seed: int = 0) -> Counts:
    """Kill and resume batches of that many small clips until that many kills are done.

    A run is killed by SIGKILL while it starts, while it rewrites its output, or at a random moment of its work; every
    second time with its workers, otherwise alone, in which case the workers must end by themselves.
    """
    chance, counts = random.Random(seed), Counts()
    with tempfile.TemporaryDirectory(prefix="killed-") as name:
        batch = _Batch(Path(name), inputs, format)
        output = batch.output(0)
        run = batch.start(output)
        start = batch.seconds_until(run, lambda: output.exists())
        batch.seconds_until(run, batch.has_reported)
        work = batch.seconds_until(run, lambda: False)
        counts.refused += run.wait() > 1
        expected, torn = batch.records(output)
        counts.torn += torn
        left = True
        while counts.kills < kills or batch.started:
            output = batch.output(counts.batches + 1)
            run = batch.start(output)
            if left and counts.kills < kills and batch.reach(run, output, chance.choice(PHASES), start, work, chance):
                os.killpg(run.pid, signal.SIGKILL) if chance.random() < 0.5 else run.kill()
                run.wait()
                counts.kills += 1
                counts.unfinished += batch.rewriting(output)
                counts.orphans += not child_processes.gone(run.pid)
                left = batch.left(output)
                continue
            counts.refused += run.wait() > 1
            counts.batches += 1
            left, batch.started = True, False
            found, torn = batch.records(output)
            counts.torn += torn
            counts.records += sum(map(len, found.values()))
            for clip in batch.clips:
                answers = found.get(clip, [])
                counts.lost += not answers
                counts.twice += max(0, len(answers) - 1)
                counts.wrong += any(answer != expected[clip][0] for answer in answers)
    return counts


class _Batch:
    """Clips and toy models in a folder, and the runs over them."""

    def __init__(self, folder: Path, inputs: int, format: Format) -> None:
        self._folder, self._format = folder, format
        self.started = False
        (folder / "clips").mkdir()
        self.clips = [str(_clip(folder / "clips", number)) for number in range(inputs)]
        (folder / "list").write_text("\n".join(self.clips))
        self._models = toy_models.flags(toy_models.family(folder))

    def output(self, number: int) -> Path:
        """Return the path of the records of a batch."""
        return self._folder / (f"{number}.jsonl" if self._format == "jsonl" else str(number))

    def start(self, output: Path) -> subprocess.Popen[bytes]:
        """Start or resume a run."""
        options = ["--format", self._format, "--resume", "--jobs", "2", "--threads", "1", "--progress", "json"]
        options += ["--from-file", self._folder / "list", f"--min-face={toy_models.FACE}", *self._models, "-o", output]
        with (self._folder / "stderr").open("wb") as stderr:
            return subprocess.Popen(
                [sys.executable, "-c", CODE, "classify", *map(str, options)], stderr=stderr, start_new_session=True
            )

    def reach(
        self, run: subprocess.Popen[bytes], output: Path, phase: str, start: float, work: float, chance: random.Random
    ) -> bool:
        """Wait for a random moment of a phase; return whether the run was still alive."""
        self.started = True
        if phase == "start":
            time.sleep(chance.uniform(0, start))
        elif phase == "rewrite":
            self.seconds_until(run, lambda: self.rewriting(output))
            time.sleep(chance.uniform(0, 0.003))
        else:
            self.seconds_until(run, self.has_reported)
            time.sleep(chance.uniform(0, work / 4))
        return run.poll() is None

    def left(self, output: Path) -> bool:
        """Check whether clips are left, other than permanent failures."""
        found, _ = self.records(output)
        return any(clip not in found and Path(clip).stat().st_size for clip in self.clips)

    def has_reported(self) -> bool:
        """Check whether the run has reported a written record."""
        return (self._folder / "stderr").stat().st_size > 0

    def rewriting(self, output: Path) -> bool:
        """Check whether a partial replacement of a file exists."""
        place = output if self._format == "parquet" else output.parent
        return place.exists() and any(name.endswith(".partial") for name in os.listdir(place))

    def seconds_until(self, run: subprocess.Popen[bytes], reached: Callable[[], bool]) -> float:
        """Wait until a condition holds or the run has ended."""
        began = time.monotonic()
        while not reached() and run.poll() is None and time.monotonic() < began + 120:
            time.sleep(0.0002)
        return time.monotonic() - began

    def records(self, output: Path) -> tuple[dict[str, list[dict[str, Any]]], int]:
        """Read all records of each clip, without fields that differ between runs, and count unreadable ones."""
        found: dict[str, list[dict[str, Any]]] = {}
        torn: Counter[str] = Counter()
        for record in (_lines if self._format == "jsonl" else _rows)(output, torn):
            record["elapsed_s"] = None
            found.setdefault(record["path"], []).append(record)
        return found, torn.total()


def _clip(folder: Path, number: int) -> Path:
    """Write an image or a clip of three frames with different people; some are not videos at all."""
    faces = [COLOURS[number // 5**place % 5] for place in range(3)]
    if number % 40 == 7:
        path = folder / f"{number:03}.mp4"
        path.write_bytes(b"")
        return path
    if number % 5 == 0:
        return clips.write(folder / f"{number:03}.mp4", [toy_models.picture(*faces)] * 3, rate=5)
    path = folder / f"{number:03}.png"
    cv2.imwrite(str(path), toy_models.picture(*faces)[..., ::-1])
    return path


def _lines(output: Path, torn: Counter[str]) -> Iterator[dict[str, Any]]:
    for line in output.read_bytes().splitlines(keepends=True) if output.exists() else ():
        try:
            yield json.loads(line if line.endswith(b"\n") else b"torn")
        except ValueError:
            torn["lines"] += 1


def _rows(output: Path, torn: Counter[str]) -> Iterator[dict[str, Any]]:
    for path in sorted(output.glob("*.parquet")):
        try:
            yield from pyarrow.parquet.read_table(path).to_pylist()
        except pyarrow.ArrowException:
            torn["parts"] += 1
