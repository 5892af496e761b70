"""Tries to break fervid, and counts how often that succeeds: hostile files, kills, fuzzed parsers, thousands of clips.

PYTHONPATH=tests/helpers python benchmarks/reliability.py [--cases 2000] [--suites files kills soak parsers]
    [--json FILE]

A case counts as a hang if it takes longer than half a minute, as a crash if a process dies or something is raised that
is no answer, as lost if an input has no record, and as wrong if it is not true what is said of it, or of the good clip
after it. There is a kill for every twenty cases. A case is made again by its name, as
tests/helpers/malformed_videos.py says.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

from network import show
from timing import save

import fervid
import malformed_videos
import parsers
import reliability_trials
from fervid.batch.runner import RunConfig
from kill_resume import Counts, Format, killed_runs
from reliability_trials import Tally

JOBS = 2
KILLS = 20  # cases for one of them
COLUMNS = ("hangs", "crashes", "lost", "wrong")

Rows = Iterator[tuple[str, Tally]]


def files(cases: int) -> Rows:
    """Hostile files of each container, through worker processes."""
    classifier = fervid.load_classifier(threads=1)
    found = sorted(malformed_videos.cases(cases), key=lambda case: case.group)
    for group, some in groupby(found, lambda case: case.group):
        with tempfile.TemporaryDirectory() as folder:
            yield f"files: {group}", reliability_trials.attempt(list(some), classifier, Path(folder), RunConfig(JOBS))


def parsed(cases: int) -> Rows:
    """What is parsed beside videos, mutated; a share of the cases for each parser."""
    for name, target in parsers.TARGETS.items():
        examples, tally = target.examples(), Tally()
        for number in range(-(-cases // len(parsers.TARGETS))):
            tally += once(f"{name}/{number}", target, parsers.case(name, number, examples))
        yield f"parser: {name}", tally


def once(name: str, target: Callable[[bytes], object], data: bytes) -> Tally:
    """One case of a parser."""
    started = time.perf_counter()
    try:
        target(data)
    except Exception as error:  # noqa: BLE001  that is what is counted
        return Tally(1, crashes=(f"{name}: {error!r}",))
    return Tally(1, hangs=(name,) if time.perf_counter() - started > reliability_trials.SLOW else ())


def soaked(cases: int) -> Rows:
    """So many clips in this process, which may keep nothing of them."""
    with tempfile.TemporaryDirectory() as folder:
        first, last = reliability_trials.soak(fervid.load_classifier(), Path(folder), cases)
    title = f"one process: {first.memory:.0f} MB after 100 clips, {last.memory:.0f} MB at the end"
    yield title, Tally(cases, wrong=reliability_trials.leaks(first, last))


def killed(cases: int) -> Rows:
    """Batches that are killed and resumed, until a twentieth as many kills are done."""
    for form in get_args(Format):
        counts = killed_runs(-(-cases // KILLS), format=form)

        def named(*names: str, form: str = form, counts: Counts = counts) -> tuple[str, ...]:
            return tuple(f"killed {form}: {name}" for name in names for _ in range(getattr(counts, name)))

        yield (
            f"killed and resumed: {form}, {counts.records:,} records",
            Tally(counts.kills, (), named("orphans", "refused"), named("lost"), named("twice", "torn", "wrong")),
        )


SUITES: Mapping[str, Callable[[int], Rows]] = {"files": files, "kills": killed, "soak": soaked, "parsers": parsed}
"""Each takes how many cases to try, and gives rows of the table."""


def table(rows: Sequence[tuple[str, Tally]]) -> list[dict[str, Any]]:
    """A line for each row, and one for all of them together."""
    whole = sum((tally for _, tally in rows), Tally())
    return [
        {"what": title, "cases": tally.cases, **{name: len(getattr(tally, name)) for name in COLUMNS}}
        for title, tally in (*rows, ("all", whole))
    ]


def main() -> None:
    """Try them, print the table, and name what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000, help="of each suite")
    parser.add_argument("--suites", nargs="+", choices=SUITES, default=list(SUITES))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = [row for suite in arguments.suites for row in SUITES[suite](arguments.cases)]
    found = table(rows)
    show(found, None)
    failures = [failure for _, tally in rows for failure in tally.failures]
    print(*failures, sep="\n", end="\n" if failures else "")
    save({"rows": found, "failures": failures}, arguments.json)
    raise SystemExit(bool(failures))


if __name__ == "__main__":
    main()
