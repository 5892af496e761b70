"""Whatever stands in a list, a ledger, a table, a manifest or a card: a result or an error of ours, nothing else."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

import parsers
from fervid.core.errors import FervidError
from parsers import TARGETS

FEW, MANY = 150, 5_000
COUNTS = {"network-card": 40, "detector-card": 40, "classifier-card": 60, "manifest": 60, "onnx": 500, "results": 60}
"""Some take longer than the others, or are seldom accepted."""


def tried(name: str, first: int, count: int) -> int:
    """Mutate the examples of a target so often; how many of the results were accepted."""
    target, accepted = TARGETS[name], 0
    examples = target.examples()
    for number in range(first, first + count):
        data = parsers.case(name, number, examples)
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
    count = COUNTS.get(name, FEW)
    assert 0 < tried(name, 0, count) <= count


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_thousands_of_mutations_are_accepted_or_refused(name: str) -> None:
    tried(name, FEW, MANY * COUNTS.get(name, FEW) // FEW)


@pytest.mark.parametrize("data", [b"", b"\0", b"\n", b"\xff\xfe", b"[" * 100_000, b'"' * 999, bytes(10_000)], ids=len)
@pytest.mark.parametrize("name", TARGETS)
def test_what_is_nothing_at_all_is_refused_or_empty(name: str, data: bytes) -> None:
    TARGETS[name](data)


def test_a_mutation_is_the_same_again() -> None:
    for name, target in TARGETS.items():
        (example, *_) = target.examples()
        found = [parsers.mutate(example, random.Random(5)) for _ in range(2)]
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


# What was found so


def with_(name: str, **values: Any) -> bytes:
    """The first line of an example, with other values; `input_size` is that of `input`."""
    (example, *_) = TARGETS[name].examples()
    first, _, rest = example.partition(b"\n")
    line = json.loads(first)
    for key, value in values.items():
        place = line[0] if isinstance(line, list) else line
        if key.startswith("input_"):
            place, key = place["input"], key.removeprefix("input_")
        place[key] = value
    return json.dumps(line).encode() + b"\n" + rest


@pytest.mark.parametrize(
    "values",
    [{"path": 1}, {"path": {}}, {"record": [0.0]}, {"size": "1"}, {"path": float("nan")}, {"status": "$k"}],
    ids=repr,
)
def test_an_entry_of_a_ledger_that_is_none_names_no_record(values: dict[str, Any]) -> None:
    assert not TARGETS["ledger"](with_("ledger", **values)), "so the output is refused: it seems edited"


def test_an_entry_of_a_ledger_that_is_too_deep_counts_for_nothing() -> None:
    assert TARGETS["ledger"](TARGETS["ledger"].examples()[0] + b"[" * 100_000 + b"\n")


@pytest.mark.timeout(20)
def test_a_name_of_brackets_is_no_pattern_that_takes_minutes() -> None:
    assert not TARGETS["vgaf"](b"[" * 200_000 + b" 3\n")


@pytest.mark.parametrize("values", [{"file": 0}, {"sha256": None}, {"kind": "pickle"}, {"kind": []}], ids=repr)
def test_an_entry_of_a_manifest_that_is_none_is_damage(values: dict[str, Any]) -> None:
    entry = json.loads(TARGETS["manifest"].examples()[0])["models"]["toy-classifier"]
    assert not TARGETS["manifest"](json.dumps({"models": {"toy-classifier": entry | values}}).encode())


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        *(("detector-card", {"smallest_face": share}) for share in (-1, 0, 2, float("inf"), "x")),
        *(("detector-card", {"input_size": size}) for size in (-1, 0, 10**30, None)),
        *(("detector-card", {name: score}) for name in ("threshold", "open_score") for score in (-1, 0, 1e308, "x")),
        ("detector-card", {"input_multiple": 0}),
        *(("network-card", {"input_size": size}) for size in (-1, 0, 10**5, 2**31, None)),
        *(("network-card", {"first_age": age}) for age in (-1, 1e308, float("nan"), [])),
        *(("network-card", {f"input_{name}": value}) for name in ("mean", "scale") for value in (1e308, float("nan"))),
        ("network-card", {"ethnicities": ["here"]}),
        ("network-card", {"ethnicities": []}),
        ("classifier-card", {"network_sha256": 1.5}),
        ("classifier-card", {"labels": [float("nan"), "second", "third"]}),
    ],
    ids=repr,
)
def test_a_card_with_what_cannot_be_is_refused(kind: str, values: dict[str, Any]) -> None:
    assert not TARGETS[kind](with_(kind, **values))


@pytest.mark.parametrize("values", [{"face": True}, {"network_sha256": None}], ids=repr)
def test_features_that_say_no_text_of_themselves_are_refused(values: dict[str, Any]) -> None:
    assert not TARGETS["features-rows"](with_("features-rows", **values))


@pytest.mark.parametrize(
    "values",
    [{"where": 1}, {"label": []}, {"person": 3}, {"ratings": True}, {"ratings": ["a"]}, {"ratings": {"v": "x"}}],
    ids=repr,
)
def test_features_of_clips_that_are_none_are_refused(values: dict[str, Any]) -> None:
    about, _, samples = TARGETS["features-rows"].examples()[0].partition(b"\n")
    first, *others = json.loads(samples)
    assert not TARGETS["features-rows"](about + b"\n" + json.dumps([first | values, *others]).encode())
