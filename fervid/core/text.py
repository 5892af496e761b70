"""Text that terminals, tables and spreadsheets can hold, whatever a file name contains."""

from __future__ import annotations

import re

_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # and what was escaped already, so that nothing is lost


def escape_control_chars(text: str) -> str:
    """Escape what would end a line of a terminal, command it, or turn its direction."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def plural(count: int, one: str, many: str = "") -> str:
    """`1 clip`, `2,000 clips`; `many` is for words whose plural does not end in s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def is_utf8(text: str) -> bool:
    """Whether a text can be encoded as UTF-8; the name of a file need not be."""
    return text.encode("utf-8", "ignore").decode() == text


def to_valid_utf8(name: str) -> str:
    """A name with backslashes for the bytes that are no UTF-8, as arrow and pandas need it."""
    return name.encode("utf-8", "backslashreplace").decode()


def escape_formula(cell: object) -> object:
    """A CSV cell; a text that a spreadsheet would run as a formula gets an apostrophe in front, as OWASP advises."""
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def unescape_formula(cell: str) -> str:
    """The text that `escape_formula` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
