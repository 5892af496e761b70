"""Classify malformed files with a valid clip after each, and thousands of clips in one process."""

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
ROOM = 1200  # MB that a worker may need at most; without a clip in hand it needs a quarter of that


@dataclass(frozen=True, slots=True)
class Tally:
    """How a number of trials ended; what went wrong, by name.

    Attributes:
        cases: How many were tried.
        hangs: Those that took too long.
        crashes: Those at which a process died, or something was raised that is no answer.
        lost: Those without a record of their own.
        wrong: Those of which something is said that is not right.
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
        """Everything that went wrong."""
        return self.hangs + self.crashes + self.lost + self.wrong


@dataclass(slots=True)
class Peaks:
    """The most memory that each worker had, in MB."""

    of: dict[int, float] = field(default_factory=dict)

    def look(self) -> None:
        """Look at the workers that are there now."""
        for process in multiprocessing.active_children():
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                continue
            if found := re.search(r"VmHWM:\s+(\d+) kB", status):
                self.of[process.pid] = int(found[1]) / 1e3


def judge(cases: Sequence[malformed_videos.Case], paths: Sequence[str], results: Sequence[ClipResult]) -> Tally:
    """What the records of some cases are worth, given in the order of the cases."""
    hangs: list[str] = []
    crashes: list[str] = []
    wrong: list[str] = []
    for case, path, result in zip(cases, paths, results, strict=False):
        code = result.problem and result.problem.code
        if code in ("crashed", "memory"):
            crashes.append(f"{case.name}: {result.problem.message}")
        elif code == "timeout" or result.elapsed_s > SLOW:
            hangs.append(f"{case.name}: {result.elapsed_s:.1f} s")
        elif not case.allowed.permits(result.status, code) or result.path != path:
            wrong.append(f"{case.name}: {result.status} {result.problem}")
        else:
            wrong += [f"{case.name}: {problem}" for problem in _unwritable(result)]
    lost = (case.name for case in cases[len(results) :])
    return Tally(len(cases), tuple(hangs), tuple(crashes), tuple(lost), tuple(wrong))


def _unwritable(result: ClipResult) -> Iterator[str]:
    try:
        to_json_line(result.as_dict())
    except (ValueError, TypeError) as error:
        yield f"its record cannot be written ({error})"
    if result.problem is not None and not result.problem.message:
        yield "its problem says nothing"


def same(result: ClipResult, alone: ClipResult) -> bool:
    """Whether two records say the same, whatever time they took."""
    return replace(result, elapsed_s=0) == replace(alone, elapsed_s=0)


def attempt(
    cases: Sequence[malformed_videos.Case],
    classifier: Classifier,
    folder: Path,
    policy: RunConfig,
    peaks: Peaks | None = None,
) -> Tally:
    """Answer cases as a run does, with a good clip after each, whose record must be as if it were alone."""
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
    """What a process holds at a time.

    Attributes:
        memory: MB that are resident.
        handles: Files that are open.
        threads: That are alive.
    """

    memory: float
    handles: int
    threads: int

    @classmethod
    def now(cls) -> Held:
        """What this process holds."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        threads = len(os.listdir("/proc/self/task"))
        return cls(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir("/proc/self/fd")), threads)


SOAKED = ("mp4-h264", "webm-vp8", "avi-mpeg4", "gif", "jpg", "mpg-mpeg1")
SPOILT = ("mp4-h264/cut_part/0", "mkv-h264/flip_bits/1", "webm-vp9/noise/0", "mp4-parts/sides/0", "png/zeros/0")


def soak(classifier: Classifier, folder: Path, clips: int, warm: int = 100) -> tuple[Held, Held]:
    """Answer so many clips in this process, whole ones and broken ones in turn; what it held then, and early on."""
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
    """What has grown from one time to the other; memory by more than that share."""
    grown = last.memory > (1 + most) * first.memory
    found = [f"memory grew from {first.memory:.0f} MB to {last.memory:.0f} MB"] if grown else []
    pairs = [(name, getattr(first, name), getattr(last, name)) for name in ("handles", "threads")]
    return (*found, *(f"{name} grew from {before} to {after}" for name, before, after in pairs if before < after))
