"""Mutated lists, ledgers, tables, manifests and cards give a result or a FervidError, never another exception."""

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
COUNTS = {"face_model-card": 40, "detector-card": 40, "classifier-card": 60, "manifest": 60, "results": 60}
"""Mutations of targets that are slow or seldom accepted."""


def tried(name: str, first: int, count: int) -> int:
    """Mutate the examples of a target `count` times and return how many of the results were accepted."""
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
def test_valid_examples_are_accepted(name: str, tmp_path: Path) -> None:
    for example in TARGETS[name].examples():
        assert TARGETS[name](example)


@pytest.mark.parametrize("name", TARGETS)
def test_mutations_are_accepted_or_refused(name: str) -> None:
    count = COUNTS.get(name, FEW)
    assert 0 < tried(name, 0, count) <= count


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_thousands_of_mutations_are_accepted_or_refused(name: str) -> None:
    assert tried(name, FEW, MANY * COUNTS.get(name, FEW) // FEW) > 0


@pytest.mark.parametrize("data", [b"", b"\0", b"\n", b"\xff\xfe", b"[" * 100_000, b'"' * 999, bytes(10_000)], ids=len)
def test_garbage_raises_no_other_error(data: bytes) -> None:
    accepted = {name for name, target in TARGETS.items() if target(data)}
    assert {"folders", "ledger"} <= accepted
    assert not accepted & {"csv", "jsonl", "kerc", "vgaf", "ck+", "features", "features-rows", "manifest"}


def test_mutations_are_reproducible() -> None:
    for name, target in TARGETS.items():
        (example, *_) = target.examples()
        found = [parsers.mutate(example, random.Random(5)) for _ in range(2)]
        assert found[0] == found[1], name


def test_target_raising_another_error_fails() -> None:
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
def test_invalid_ledger_entry_is_refused(values: dict[str, Any]) -> None:
    assert not TARGETS["ledger"](with_("ledger", **values)), "so the output is refused: it seems edited"


def test_deeply_nested_ledger_entry_is_ignored() -> None:
    assert TARGETS["ledger"](TARGETS["ledger"].examples()[0] + b"[" * 100_000 + b"\n")


@pytest.mark.timeout(20)
def test_name_of_brackets_is_parsed_quickly() -> None:
    assert not TARGETS["vgaf"](b"[" * 200_000 + b" 3\n")


@pytest.mark.parametrize("values", [{"file": 0}, {"sha256": None}, {"kind": "pickle"}, {"kind": []}], ids=repr)
def test_invalid_manifest_entry_is_refused(values: dict[str, Any]) -> None:
    entry = json.loads(TARGETS["manifest"].examples()[0])["models"]["toy-classifier"]
    assert not TARGETS["manifest"](json.dumps({"models": {"toy-classifier": entry | values}}).encode())


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        *(("detector-card", {"smallest_face": share}) for share in (-1, 0, 1e-9, 2, float("inf"), "x")),
        *(("detector-card", {"input_size": size}) for size in (-1, 0, 10**30, None)),
        *(
            ("detector-card", {name: score})
            for name in ("threshold", "new_track_threshold")
            for score in (-1, 0, 1e308, "x")
        ),
        *(("detector-card", {"input_multiple": multiple}) for multiple in (0, 10**6, "x")),
        *(("face_model-card", {"input_size": size}) for size in (-1, 0, 10**5, 2**31, None)),
        *(("face_model-card", {"first_age": age}) for age in (-1, 1e308, float("nan"), [])),
        *(
            ("face_model-card", {f"input_{name}": value})
            for name in ("mean", "scale")
            for value in (1e308, float("nan"))
        ),
        ("face_model-card", {"ethnicities": ["here"]}),
        ("face_model-card", {"ethnicities": []}),
        ("classifier-card", {"face_model_sha256": 1.5}),
        ("classifier-card", {"face_model_expressions": 5}),
        ("classifier-card", {"labels": [float("nan"), "second", "third"]}),
    ],
    ids=repr,
)
def test_impossible_card_values_are_refused(kind: str, values: dict[str, Any]) -> None:
    assert not TARGETS[kind](with_(kind, **values))


@pytest.mark.parametrize("values", [{"face": True}, {"face_model_sha256": None}], ids=repr)
def test_features_with_invalid_metadata_are_refused(values: dict[str, Any]) -> None:
    assert not TARGETS["features-rows"](with_("features-rows", **values))


@pytest.mark.parametrize(
    "values",
    [{"source": 1}, {"label": []}, {"person": 3}, {"ratings": True}, {"ratings": ["a"]}, {"ratings": {"v": "x"}}],
    ids=repr,
)
def test_features_with_invalid_samples_are_refused(values: dict[str, Any]) -> None:
    about, _, samples = TARGETS["features-rows"].examples()[0].partition(b"\n")
    first, *others = json.loads(samples)
    assert not TARGETS["features-rows"](about + b"\n" + json.dumps([first | values, *others]).encode())
