"""HTML cards of records for notebooks, without scripts or style sheets, in the colours of the surrounding page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from fervid.core.text import format_percent

_FRAME = "color:inherit;border:1px solid;border-radius:6px;padding:.6em 1em;max-width:32em;display:inline-block"
_TABLE = "margin:.3em 0;border-collapse:collapse;color:inherit"
_ROW = "background:none"
_CELL = "padding:.1em .8em .1em 0;text-align:left;vertical-align:middle;font-weight:normal"
_NUMBER = "padding:.1em .8em .1em 0;text-align:right;vertical-align:middle;font-variant-numeric:tabular-nums"
_BAR = "padding:0;width:10em;vertical-align:middle"
_TITLE = "padding:.3em 0;text-align:left;color:inherit;font-style:italic"
_LINE = "margin:.2em 0"


def clip_card(record: Mapping[str, Any]) -> str:
    """Render a clip or window, as `ClipResult.as_dict` and `WindowResult.as_dict` give it."""
    prediction = _prediction(record["label"], record["confidence"]) if record["label"] else record["status"]
    frames = f"{record['frames_with_face']} of {record['frames_sampled']} frames with a face"
    error = record["error"]
    return _card(
        record["path"],
        _line(f"from {_seconds(record['start_s'])} to {_seconds(record['end_s'])}") if record.get("end_s") else "",
        _line(prediction, "strong"),
        _line(f"{error['code']}: {error['message']}") if error else "",
        _bars(record["probabilities"]),
        _people(record["people"]),
        _line(", ".join([*([_seconds(record["duration_s"])] if record["duration_s"] else []), frames])),
    )


def person_card(person: Mapping[str, Any]) -> str:
    """Render one person, as `Person.as_dict` gives it."""
    attributes = [_age(person["age"]), person["gender"], person["ethnicity"]]
    return _card(
        f"person {person['id']}, visible for {_seconds(person['seconds'])}",
        _line(_prediction(person["label"], person["probabilities"][person["label"]]), "strong"),
        _line(", ".join(filter(None, attributes))) if any(attributes) else "",
        _bars(person["probabilities"]),
    )


def prediction_card(probabilities: Mapping[str, float]) -> str:
    """Render a prediction."""
    label = max(probabilities, key=probabilities.__getitem__)
    return _card(_prediction(label, probabilities[label]), _bars(probabilities))


def _card(title: str, *parts: str) -> str:
    heading = f'<p style="{_LINE};overflow-wrap:anywhere">{_text(title)}</p>'
    return f'<section aria-label="{_text(title)}" style="{_FRAME}">{heading}{"".join(parts)}</section>'


def _line(text: str, tag: str = "span") -> str:
    return f'<p style="{_LINE};overflow-wrap:anywhere"><{tag}>{_text(text)}</{tag}></p>'


def _bars(probabilities: Mapping[str, float] | None) -> str:
    """Render the classes as a table with bars, the most probable first."""
    if not probabilities:
        return ""
    rows = []
    for label, probability in sorted(probabilities.items(), key=lambda entry: -entry[1]):
        bar = f'<div style="width:{100 * probability:.1f}%;height:.7em;background:currentColor;opacity:.6"></div>'
        rows.append(
            f'<tr style="{_ROW}"><th scope="row" style="{_CELL}">{_text(label)}</th>'
            f'<td style="{_NUMBER}">{format_percent(probability, 0)}</td>'
            f'<td aria-hidden="true" style="{_BAR}">{bar}</td></tr>'
        )
    return _table("Probabilities", "".join(rows))


def _people(people: Sequence[Mapping[str, Any]]) -> str:
    """Render the people as a table, without empty columns."""
    if not people:
        return ""
    columns = {
        "person": [str(person["id"]) for person in people],
        "visible for": [_seconds(person["seconds"]) for person in people],
        "label": [_prediction(person["label"], person["probabilities"][person["label"]]) for person in people],
        "age": [_age(person["age"]) for person in people],
        "gender": [person["gender"] or "" for person in people],
        "ethnicity": [person["ethnicity"] or "" for person in people],
    }
    columns = {title: cells for title, cells in columns.items() if any(cells)}
    head = _row(f'<th scope="col" style="{_CELL}">{title}</th>' for title in columns)
    rows = zip(*columns.values(), strict=True)
    body = "".join(_row(f'<td style="{_CELL}">{_text(cell)}</td>' for cell in cells) for cells in rows)
    return _table("People", head + body)


def _table(caption: str, rows: str) -> str:
    title = f'<caption style="{_TITLE}">{caption}</caption>'
    return f'<table class="fervid" style="{_TABLE}">{title}{rows}</table>'


def _row(cells: Iterable[str]) -> str:
    return f'<tr style="{_ROW}">{"".join(cells)}</tr>'


def _text(text: object) -> str:
    """Escape a text for HTML; bytes that are not UTF-8 become backslash escapes."""
    return escape(str(text).encode("utf-8", "backslashreplace").decode())


def _prediction(label: str, probability: float) -> str:
    return f"{label}, {format_percent(probability, 0)}"


def _seconds(value: float) -> str:
    return f"{value:.1f} s"


def _age(years: float | None) -> str:
    return "" if years is None else f"{years:.0f} years"
