"""A run that is killed at any time and resumed produces the records of an uninterrupted run."""

from __future__ import annotations

import sys

import pytest

from kill_resume import Counts, Format, killed_runs

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no process groups")


def unharmed(counts: Counts, kills: int, inputs: int) -> bool:
    assert (counts.kills, counts.records) == (kills, counts.batches * inputs)
    assert counts.batches > 0
    return counts.harmed == 0


@pytest.mark.slow
def test_run_resumes_after_few_kills() -> None:
    counts = killed_runs(3, inputs=20)
    assert unharmed(counts, 3, 20), counts


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(("format", "kills"), [("jsonl", 100), ("parquet", 30)])
def test_run_resumes_after_many_kills(format: Format, kills: int) -> None:
    counts = killed_runs(kills, inputs=200, format=format)
    assert unharmed(counts, kills, 200), counts
