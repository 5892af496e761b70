"""Error messages and help texts are unchanged; `python tests/helpers/messages.py` accepts new ones."""

from __future__ import annotations

import messages


def test_messages_match_golden_messages() -> None:
    assert messages.compute_messages().splitlines() == messages.GOLDEN.read_text().splitlines()


def test_messages_of_module_are_found() -> None:
    source = """
raise errors.UsageError(f"{path} exists; try {a + b}") from UsageError("no")
raise KeyError("x")
OutputError(x)
"""
    assert list(messages.error_messages(source)) == ["UsageError: {path} exists; try {a + b}", "UsageError: no"]
