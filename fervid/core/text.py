"""Format numbers, and escape text for terminals, pages and spreadsheets, because file names may contain anything."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")

_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # including escaped text, so that unescaping is exact


def escape_control_chars(text: object) -> str:
    """Escape lone surrogates, and characters that break a line, control a terminal or reverse the text direction."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], str(text))


def format_percent(fraction: float | None, digits: int = 1) -> str:
    """Format a fraction, such as `76.9 %`; empty for None."""
    return "" if fraction is None else f"{100 * fraction:.{digits}f} %"


def format_interval(
    figure: Mapping[str, Any], factor: float = 100, unit: str = " %", digits: int = 1, plus: str = ""
) -> str:
    """Format a figure with its interval, such as `76.9 % (73.7 to 80.0)`."""
    value = f"{factor * figure['value']:{plus}z.{digits}f}{unit}"
    if figure["interval"] is None:
        return value
    low, high = (f"{factor * end:{plus}z.{digits}f}" for end in figure["interval"])
    return f"{value} ({low} to {high})"


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
