"""Whatever stands in a list, a ledger, a table, a manifest or a card: a result or an error of ours, nothing else."""

from __future__ import annotations

import random
import zlib
from pathlib import Path

import pytest

import parsers
from fervid.errors import FervidError
from parsers import TARGETS

FEW, MANY = 150, 20_000
SLOW = {"network-card": 40, "detector-card": 40, "classifier-card": 60, "manifest": 60, "onnx": 60}
"""Some take longer than the others."""


def tried(name: str, first: int, count: int) -> int:
    """Mutate the examples of a target so often; how many of the results were accepted."""
    target, accepted = TARGETS[name], 0
    examples = target.examples()
    for number in range(first, first + count):
        rng = random.Random(zlib.crc32(f"{name}/{number}".encode()))
        data = parsers.mutated(rng.choice(examples), rng)
        try:
            accepted += target(data)
        except Exception as error:
            error.add_note(f"{name}/{number}: {data!r:.2000}")
            raise
    return accepted


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_right_is_accepted(name: str, tmp_path: Path) -> None:
    for example in TARGETS[name].examples():
        assert TARGETS[name](example)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_nearly_right_is_accepted_or_refused(name: str) -> None:
    count = SLOW.get(name, FEW)
    assert 0 < tried(name, 0, count) <= count


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_thousands_of_mutations_are_accepted_or_refused(name: str) -> None:
    tried(name, FEW, MANY * SLOW.get(name, FEW) // FEW)


@pytest.mark.parametrize("data", [b"", b"\0", b"\n", b"\xff\xfe", b"[" * 100_000, b'"' * 999, bytes(10_000)], ids=len)
@pytest.mark.parametrize("name", TARGETS)
def test_what_is_nothing_at_all_is_refused_or_empty(name: str, data: bytes) -> None:
    TARGETS[name](data)


def test_a_mutation_is_the_same_again() -> None:
    for name, target in TARGETS.items():
        (example, *_) = target.examples()
        found = [parsers.mutated(example, random.Random(5)) for _ in range(2)]
        assert found[0] == found[1], name


def test_a_target_that_raises_what_is_not_ours_fails() -> None:
    def broken(data: bytes, folder: Path) -> None:
        if data:
            raise KeyError("label")
        raise FervidError("refused")

    target = parsers.Target(broken, lambda: [b""])
    assert target(b"") is False
    with pytest.raises(KeyError):
        target(b"x")
