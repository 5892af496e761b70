"""Test fervid with malformed files, kills, fuzzed parsers and thousands of clips, and count the failures.

PYTHONPATH=tests/helpers python benchmarks/reliability.py [--cases 2000] [--suites files kills soak parsers]
    [--json FILE]

A hang takes longer than half a minute. A crash is a process that dies or an exception that is not handled. Lost is an
input without a record. Wrong is an incorrect record, or a different record of the good clip that follows. There is one
kill for every twenty cases. tests/helpers/malformed_videos.py recreates a case from its name.
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
KILLS = 20  # cases per kill
COLUMNS = ("hangs", "crashes", "lost", "wrong")

Rows = Iterator[tuple[str, Tally]]


def files(cases: int) -> Rows:
    """Classify malformed files of each container in worker processes."""
    classifier = fervid.load_classifier(threads=1)
    found = sorted(malformed_videos.cases(cases), key=lambda case: case.group)
    for group, some in groupby(found, lambda case: case.group):
        with tempfile.TemporaryDirectory() as folder:
            yield f"files: {group}", reliability_trials.attempt(list(some), classifier, Path(folder), RunConfig(JOBS))


def parsed(cases: int) -> Rows:
    """Run the parsers of everything but videos on mutated input, an equal part of the cases each."""
    for name, target in parsers.TARGETS.items():
        examples, tally = target.examples(), Tally()
        for number in range(-(-cases // len(parsers.TARGETS))):
            tally += once(f"{name}/{number}", target, parsers.case(name, number, examples))
        yield f"parser: {name}", tally


def once(name: str, target: Callable[[bytes], object], data: bytes) -> Tally:
    """Run one case of a parser."""
    started = time.perf_counter()
    try:
        target(data)
    except Exception as error:  # noqa: BLE001  counted as a crash
        return Tally(1, crashes=(f"{name}: {error!r}",))
    return Tally(1, hangs=(name,) if time.perf_counter() - started > reliability_trials.SLOW else ())


def soaked(cases: int) -> Rows:
    """Classify many clips in this process and check for memory leaks."""
    with tempfile.TemporaryDirectory() as folder:
        first, last = reliability_trials.soak(fervid.load_classifier(), Path(folder), cases)
    title = f"one process: {first.memory:.0f} MB after 100 clips, {last.memory:.0f} MB at the end"
    yield title, Tally(cases, wrong=reliability_trials.leaks(first, last))


def killed(cases: int) -> Rows:
    """Kill and resume batches, one kill per `KILLS` cases."""
    for form in get_args(Format):
        counts = killed_runs(-(-cases // KILLS), format=form)

        def named(*names: str, form: str = form, counts: Counts = counts) -> tuple[str, ...]:
            return tuple(f"killed {form}: {name}" for name in names for _ in range(getattr(counts, name)))

        yield (
            f"killed and resumed: {form}, {counts.records:,} records",
            Tally(counts.kills, (), named("orphans", "refused"), named("lost"), named("twice", "torn", "wrong")),
        )


SUITES: Mapping[str, Callable[[int], Rows]] = {"files": files, "kills": killed, "soak": soaked, "parsers": parsed}
"""Functions from a number of cases to rows of the table."""


def table(rows: Sequence[tuple[str, Tally]]) -> list[dict[str, Any]]:
    """Make a row for each suite, and one for the total."""
    whole = sum((tally for _, tally in rows), Tally())
    return [
        {"what": title, "cases": tally.cases, **{name: len(getattr(tally, name)) for name in COLUMNS}}
        for title, tally in (*rows, ("all", whole))
    ]


def main() -> None:
    """Run the suites, print the table, and list the failures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000, help="cases per suite")
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
