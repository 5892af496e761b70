"""Escaping of text for terminals, tables and spreadsheets, because file names may contain anything."""

from __future__ import annotations

import re

_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # including escaped text, so that unescaping is exact


def escape_control_chars(text: str) -> str:
    """Escape characters that break a line, control a terminal or reverse the text direction."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def plural(count: int, singular: str, plural_form: str = "") -> str:
    """Format a count with its noun, such as `1 clip` and `2,000 clips`.

    Args:
        count: The number.
        singular: The noun.
        plural_form: Its plural; the singular with an s if empty.
    """
    return f"{count:,} {singular if count == 1 else plural_form or singular + 's'}"


def is_utf8(text: str) -> bool:
    """Whether a text can be encoded as UTF-8, as file names need not be."""
    return text.encode("utf-8", "ignore").decode() == text


def to_valid_utf8(name: str) -> str:
    """Replace the bytes of a name that are not UTF-8 with backslash escapes, for arrow and pandas."""
    return name.encode("utf-8", "backslashreplace").decode()


def escape_formula(cell: object) -> object:
    """Prefix text that a spreadsheet would run as a formula with an apostrophe, as OWASP advises."""
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def unescape_formula(cell: str) -> str:
    """Revert `escape_formula`."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
