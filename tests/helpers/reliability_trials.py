"""Test fervid with malformed files, each followed by a good clip, and with thousands of clips in one process."""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import clips
import malformed_videos
from fervid.analysis.pipeline import Classifier
from fervid.batch.runner import RunConfig, classify_all
from fervid.batch.writers import to_json_line
from fervid.core.results import ClipResult

SLOW = 30.0  # seconds after which a file of a few kilobytes counts as hanging
ROOM = 1200  # MB, maximum memory of a worker; an idle one needs a quarter


@dataclass(frozen=True, slots=True)
class Tally:
    """Results of trials; failures by name.

    Attributes:
        cases: Number of trials.
        hangs: Cases that took too long.
        crashes: Cases with a dead process or an unhandled exception.
        lost: Cases without a record.
        wrong: Cases with an incorrect record.
    """

    cases: int = 0
    hangs: tuple[str, ...] = ()
    crashes: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, column.name) + getattr(other, column.name) for column in fields(Tally)))

    @property
    def failures(self) -> tuple[str, ...]:
        """All failures."""
        return self.hangs + self.crashes + self.lost + self.wrong


@dataclass(slots=True)
class Peaks:
    """Peak memory of each worker, in MB."""

    of: dict[int, float] = field(default_factory=dict)

    def look(self) -> None:
        """Measure the current workers."""
        for process in multiprocessing.active_children():
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                continue
            if found := re.search(r"VmHWM:\s+(\d+) kB", status):
                self.of[process.pid] = int(found[1]) / 1e3


def judge(cases: Sequence[malformed_videos.Case], paths: Sequence[str], results: Sequence[ClipResult]) -> Tally:
    """Check the records of cases, in the order of the cases."""
    hangs: list[str] = []
    crashes: list[str] = []
    wrong: list[str] = []
    for case, path, result in zip(cases, paths, results, strict=False):
        code = result.error and result.error.code
        if code in ("crashed", "memory"):
            crashes.append(f"{case.name}: {result.error.message}")
        elif code == "timeout" or result.elapsed_s > SLOW:
            hangs.append(f"{case.name}: {result.elapsed_s:.1f} s")
        elif not case.allowed.permits(result.status, code) or result.path != path:
            wrong.append(f"{case.name}: {result.status} {result.error}")
        else:
            wrong += [f"{case.name}: {problem}" for problem in _unwritable(result)]
    lost = (case.name for case in cases[len(results) :])
    return Tally(len(cases), tuple(hangs), tuple(crashes), tuple(lost), tuple(wrong))


def _unwritable(result: ClipResult) -> Iterator[str]:
    try:
        to_json_line(result.as_dict())
    except (ValueError, TypeError) as error:
        yield f"its record cannot be written ({error})"
    if result.error is not None and not result.error.message:
        yield "its problem says nothing"


def same(result: ClipResult, alone: ClipResult) -> bool:
    """Compare two records except for their times."""
    return replace(result, elapsed_s=0) == replace(alone, elapsed_s=0)


def attempt(
    cases: Sequence[malformed_videos.Case],
    classifier: Classifier,
    folder: Path,
    policy: RunConfig,
    peaks: Peaks | None = None,
) -> Tally:
    """Classify cases as a run does, each followed by a good clip, whose record must not change."""
    good = str(
        clips.write(
            folder / "good.mkv", clips.smiling(2, malformed_videos.WIDTH, malformed_videos.HEIGHT, 0.5), codec="ffv1"
        )
    )
    alone = classifier.classify_or_error(good)
    assert alone.status == "ok"
    paths = [str(case.write(folder)) for case in cases]
    results = []
    for result in classify_all(classifier, (path for one in paths for path in (one, good)), policy):
        results.append(result)
        if peaks:
            peaks.look()
    after = zip(cases, results[1::2], strict=False)
    harmed = tuple(f"{case.name}: the next clip was harmed" for case, result in after if not same(result, alone))
    found = judge(cases, paths, results[::2])
    return replace(found, wrong=found.wrong + harmed)


@dataclass(frozen=True, slots=True)
class Held:
    """Resources of a process.

    Attributes:
        memory: Resident memory in MB.
        handles: Number of open files.
        threads: Number of threads.
    """

    memory: float
    handles: int
    threads: int

    @classmethod
    def now(cls) -> Held:
        """Measure this process."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        threads = len(os.listdir("/proc/self/task"))
        return cls(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir("/proc/self/fd")), threads)


SOAKED = ("mp4-h264", "webm-vp8", "avi-mpeg4", "gif", "jpg", "mpg-mpeg1")
SPOILT = ("mp4-h264/cut_part/0", "mkv-h264/flip_bits/1", "webm-vp9/noise/0", "mp4-parts/sides/0", "png/zeros/0")


def soak(classifier: Classifier, folder: Path, clips: int, warm: int = 100) -> tuple[Held, Held]:
    """Classify that many clips in this process, alternately valid and broken; return early and final resources."""
    paths = [folder / f"{name}{malformed_videos.SEEDS[name][0]}" for name in SOAKED]
    for name, path in zip(SOAKED, paths, strict=True):
        path.write_bytes(malformed_videos.seed(name))
    paths += [malformed_videos.case(name).write(folder) for name in SPOILT]
    first = Held.now()
    for number in range(clips):
        classifier.classify_or_error(paths[number % len(paths)])
        if number + 1 == warm:
            first = Held.now()
    return first, Held.now()


def leaks(first: Held, last: Held, most: float = 0.05) -> tuple[str, ...]:
    """List the resources that have grown; memory by more than a fraction."""
    grown = last.memory > (1 + most) * first.memory
    found = [f"memory grew from {first.memory:.0f} MB to {last.memory:.0f} MB"] if grown else []
    pairs = [(name, getattr(first, name), getattr(last, name)) for name in ("handles", "threads")]
    return (*found, *(f"{name} grew from {before} to {after}" for name, before, after in pairs if before < after))
