"""Formatting of text, numbers and charts for HTML reports."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fervid.render.result_reader import Record

if TYPE_CHECKING:
    from markupsafe import Markup

_INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def escape_invisible(text: object) -> str:
    """Replace control characters, bidirectional overrides and lone surrogates by their escape sequences."""
    return _INVISIBLE.sub(lambda match: ascii(match[0])[1:-1], str(text))


def format_percent(fraction: float | None, digits: int = 1) -> str:
    """Return a fraction as `76.9 %`; empty for None."""
    return "" if fraction is None else f"{100 * fraction:.{digits}f} %"


def format_interval(figure: Record, factor: float = 100, unit: str = " %", digits: int = 1, plus: str = "") -> str:
    """Return a figure with its interval as `76.9 % (73.7 to 80.0)`."""
    value = f"{factor * figure['value']:{plus}z.{digits}f}{unit}"
    if figure["interval"] is None:
        return value
    low, high = (f"{factor * end:{plus}z.{digits}f}" for end in figure["interval"])
    return f"{value} ({low} to {high})"


def format_clips(count: int) -> str:
    """Return `1 clip` or `1,234 clips`."""
    return f"{count:,} clip{'' if count == 1 else 's'}"


def embed_chart(svg: str, description: str) -> Markup:
    """Return a chart as HTML with a text alternative; screen readers skip the marks of the SVG."""
    from markupsafe import Markup

    frame = Markup('<div class="scroll" tabindex="0" role="img" aria-label="{}">{}</div>')
    return frame.format(description, Markup(svg.replace("<svg ", '<svg aria-hidden="true" ', 1)))  # noqa: S704


def list_models(records: Iterable[Record]) -> list[list[tuple[str, str, str]]]:
    """Return each combination of models in the records once, as lists of role, name and SHA-256."""
    combinations = {
        tuple((role.replace("_", " "), model["name"], model["sha256"]) for role, model in record["model"].items())
        for record in records
    }
    return [list(combination) for combination in sorted(combinations) if combination]
