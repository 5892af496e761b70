"""Text that terminals, tables and spreadsheets can hold."""

from __future__ import annotations

import pytest

from fervid.core.text import escape_formula, unescape_formula


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@sum", "\ta", "\ra", "'=1", "''=1", "a=1", ""])
def test_escaped_formulas_are_restored(cell: str) -> None:
    escaped = str(escape_formula(cell))
    assert not escaped.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert unescape_formula(escaped) == cell


@pytest.mark.parametrize("value", [-1.5, None, True])
def test_numbers_are_not_escaped(value: object) -> None:
    assert escape_formula(value) is value
