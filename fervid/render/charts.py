"""Charts of reports and plots as Vega-Lite specifications, rendered without a network.

Colours are CSS custom properties, so the charts of a page follow its theme; plots in files have the light theme. Each
mark has its description in `aria-label`, which the page shows as a tooltip. Labels are untrusted: they are only data of
a specification, never field names or expressions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fervid.core.atomic_io import atomic_write
from fervid.core.errors import UsageError
from fervid.core.packages import missing_extra

if TYPE_CHECKING:
    from markupsafe import Markup

Values = Sequence[Mapping[str, Any]]
Chart = dict[str, Any]

PLOT_SUFFIXES = (".png", ".svg", ".pdf")
_PNG_SCALE = 3  # pixels of a PNG for each pixel of the chart

SERIES = 8
"""Number of series colours; further series repeat them with dashed lines."""
_DASHES = ([1, 0], [6, 3], [2, 2])
_MAX_LABEL = 34  # characters of an axis label
_TEXT = {"labelColor": "var(--ink)", "labelFontSize": 12, "labelLimit": 0}
_TEXT |= {"titleColor": "var(--ink)", "titleFontSize": 12, "titleLimit": 0}
_CONFIG = {
    "background": None,
    "font": "system-ui, sans-serif",
    # The page's font may be wider than the one that Vega measures.
    "padding": {"left": 32, "right": 12, "top": 4, "bottom": 4},
    "view": {"stroke": None},
    "axis": _TEXT
    | {"gridColor": "var(--line)", "domainColor": "var(--faint)", "tickColor": "var(--faint)"}
    | {"titleFontWeight": "normal", "labelFlush": False, "labelOverlap": "greedy"},
    "legend": _TEXT | {"orient": "top", "columns": 8, "symbolStrokeWidth": 3},
    "text": {"limit": 0},
}
_OPTIONS = {"vl_version": "5.20", "allowed_base_urls": []}
_NOMINAL = {"type": "nominal", "sort": None}
_PERCENT = {"format": ".0%", "values": [0, 0.2, 0.4, 0.6, 0.8, 1]}
_DESCRIPTION = {"description": {"field": "description", "type": "nominal"}}


def bars(values: Values, title: str, *, shares: bool = False, intervals: bool = False, width: int = 350) -> Chart:
    """Draw a bar for each row of `label`, `value` and `description`, and with intervals `low` and `high`.

    With `shares` the values are fractions and shown in percent. The title and the width in pixels are those of their
    axis.
    """
    x: dict[str, Any] = {"field": "value", "type": "quantitative", "title": title}
    if not shares:
        x |= {"axis": _counts(values, "value")}
    elif all(row["value"] >= 0 for row in values):
        x |= {"axis": _PERCENT, "scale": {"domain": [0, 1]}}
    else:
        x |= {"axis": {"format": ".0%", "tickCount": 4}}
    y = {"field": "label", **_NOMINAL, "title": None}
    layers: list[dict[str, Any]] = [
        {"mark": {"type": "bar", "color": "var(--accent)"}, "encoding": {"x": x, "y": y, **_DESCRIPTION}}
    ]
    if intervals:
        ends = {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "y": y}
        for colour, size in (("var(--card)", 5), ("var(--ink)", 2)):
            layers.append({"mark": {"type": "rule", "aria": False, "color": colour, "size": size}, "encoding": ends})
    return {"width": width, "height": {"step": 28}, "data": _data(values), "layer": layers}


def histogram(values: Values, title: str) -> Chart:
    """Draw a histogram of values from 0 to 1, from rows of `from`, `to`, `count` and `description`."""
    x = {"field": "from", "type": "quantitative", "title": title, "axis": _PERCENT, "scale": {"domain": [0, 1]}}
    x |= {"bin": {"binned": True}}
    y = {"field": "count", "type": "quantitative", "title": "clips", "axis": _counts(values, "count")}
    encoding = {"x": x, "x2": {"field": "to"}, "y": y, **_DESCRIPTION}
    mark = {"type": "bar", "color": "var(--accent)", "stroke": "var(--page)", "strokeWidth": 1}
    return {"width": 420, "height": 190, "data": _data(values), "mark": mark, "encoding": encoding}


def timeline(values: Values, bands: Values, colors: Mapping[str, str], extent: tuple[float, float]) -> Chart:
    """Draw probabilities over time, and below them a band with the label of each window.

    Values are rows of `time`, `label` and `value`, and a value of None interrupts the line; bands are rows of `from`,
    `to`, `label` and `description`. `extent` is start and end of the axis in seconds.
    """
    domain = [_short(label) for label in colors]
    dash_range = [_DASHES[i // SERIES % len(_DASHES)] for i in range(len(colors))]
    legend = {"title": None, "symbolType": "stroke"}
    colours, dashes = (
        {"field": "label", "type": "nominal", "scale": {"domain": domain, "range": values}, "legend": legend}
        for values in (list(colors.values()), dash_range)
    )
    axis = {"type": "quantitative", "scale": {"domain": list(extent), "nice": False}}
    x = {"field": "time", **axis, "axis": {"title": None, "labels": False}}
    y = {"field": "value", "type": "quantitative", "scale": {"domain": [0, 1]}, "axis": _PERCENT, "title": None}
    mark = {"type": "line", "aria": False, "invalid": "break-paths-show-path-domains", "strokeWidth": 2}
    mark["point"] = len(bands) <= 60
    lines = {"mark": mark, "encoding": {"x": x, "y": y, "color": colours, "strokeDash": dashes}}
    window = {"x": {**x, "field": "from"}, "x2": {"field": "to"}, **_DESCRIPTION}
    hover = {"mark": {"type": "rect", "color": "var(--ink)", "opacity": 0.001}, "encoding": window}
    band = {
        **window,
        "x": {**axis, "field": "from", "axis": {"title": "seconds"}},
        "color": {**colours, "legend": None},
    }
    above = {"layer": [lines, {**hover, "data": _data(bands)}], "data": _data(values)}
    below = {"mark": "rect", "encoding": band, "data": _data(bands)}
    return {"vconcat": [{"width": 960, "height": 150, **above}, {"width": 960, "height": 18, **below}], "spacing": 4}


def message(text: str) -> Chart:
    """Draw a text instead of a chart."""
    mark = {"type": "text", "text": text, "color": "var(--faint)", "fontSize": 14}
    return {"width": 960, "height": 150, "data": {"values": [{}]}, "mark": mark}


def matrix(values: Values, columns: int, lines: int = 1) -> Chart:
    """Draw a matrix with a cell for each row, coloured by its share.

    Rows have `row`, `column`, `share`, `count` and `description`; a newline separates the `lines` of a count.
    """
    cells = [
        {**row, "row": _short(row["row"]), "column": _short(row["column"]), "count": str(row["count"])}
        for row in values
    ]
    x = {"field": "column", **_NOMINAL, "title": "answer", "axis": {"orient": "top", "labelAngle": -40}}
    y = {"field": "row", **_NOMINAL, "title": "truth"}
    shade = {"field": "share", "type": "quantitative", "scale": {"domain": [0, 1], "range": [0, 0.6]}, "legend": None}
    tiles = {
        "mark": {"type": "rect", "color": "var(--deep)", "stroke": "var(--line)", "strokeOpacity": 1},
        "encoding": {"x": x, "y": y, "fillOpacity": shade, **_DESCRIPTION},
    }
    numbers = {
        "mark": {"type": "text", "aria": False, "fontSize": 12, "color": "var(--ink)"}
        | {"lineBreak": "\n", "dy": -7 * (lines - 1)},
        "encoding": {"x": x, "y": y, "text": {"field": "count", "type": "nominal"}},
    }
    step = 52 if columns <= 10 else 38
    size = {"width": {"step": step}, "height": {"step": 20 + 14 * lines}}
    return {**size, "data": _data(cells), "layer": [tiles, numbers]}


def calibration(values: Values) -> Chart:
    """Draw accuracy against confidence, and the diagonal of perfect calibration.

    Rows have `confidence`, `accuracy`, `low`, `high` and `description`.
    """
    share = {"type": "quantitative", "scale": {"domain": [0, 1]}, "axis": _PERCENT}
    x = {**share, "field": "confidence", "title": "confidence"}
    y = {**share, "field": "accuracy", "title": "accuracy"}
    diagonal = [{"confidence": end, "accuracy": end} for end in (0, 1)]
    dashed = {"type": "line", "aria": False, "color": "var(--faint)", "strokeDash": [4, 4]}
    line = {"type": "line", "aria": False, "color": "var(--accent)", "strokeWidth": 2}
    layers = [
        {"data": _data(diagonal), "mark": dashed, "encoding": {"x": x, "y": y}},
        {"mark": {"type": "rule", "aria": False, "color": "var(--faint)", "strokeWidth": 2}}
        | {"encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}}},
        {"mark": line, "encoding": {"x": x, "y": y}},
        {"mark": {"type": "point", "filled": True, "size": 110, "color": "var(--accent)", "opacity": 1}}
        | {"encoding": {"x": x, "y": y, **_DESCRIPTION}},
    ]
    return {"width": 300, "height": 300, "data": _data(values), "layer": layers}


def _counts(values: Values, field: str) -> dict[str, Any]:
    """Return an axis with about five ticks at whole numbers."""
    maximum = max((row[field] for row in values), default=0)
    steps = (digit * 10**power for power in range(10) for digit in (1, 2, 5))
    step = next(step for step in steps if maximum <= 6 * step)
    return {"format": ",d", "values": list(range(0, int(maximum) + 1, step))}


def _data(values: Values) -> dict[str, Any]:
    return {"values": [{**row, "label": _short(row["label"])} if "label" in row else dict(row) for row in values]}


def _short(label: str) -> str:
    """Shorten a label in the middle to fit beside an axis; Vega would split characters outside the BMP."""
    return label if len(label) <= _MAX_LABEL else f"{label[: _MAX_LABEL // 2 - 1]}…{label[-_MAX_LABEL // 2 :]}"


def embed_chart(chart: Chart, description: str) -> Markup:
    """Render a chart as HTML with a text alternative; screen readers skip the marks of the SVG.

    Raises:
        UsageError: vl-convert is not installed.
    """
    from markupsafe import Markup

    svg = renderer().vegalite_to_svg({**chart, "config": _CONFIG}, **_OPTIONS)
    frame = Markup('<div class="scroll" tabindex="0" role="img" aria-label="{}">{}</div>')
    return frame.format(description, Markup(svg.replace("<svg ", '<svg aria-hidden="true" ', 1)))  # noqa: S704


def join_descriptions(rows: Values, separator: str = ", ") -> str:
    """Join the descriptions of rows, for the text alternative of their chart."""
    return separator.join(row["description"] for row in rows)


def plot_format(path: Path) -> str:
    """Return the format of a plot by the suffix of its file.

    Raises:
        UsageError: The suffix is unknown, or vl-convert is not installed.
    """
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise UsageError(f"{path}: unknown suffix of a plot; use one of {' '.join(PLOT_SUFFIXES)}")
    renderer()
    return path.suffix.lower().removeprefix(".")


def write_plot(chart: Chart, path: Path, *, force: bool) -> None:
    """Write a chart in the light theme to a file; its suffix selects the format.

    Raises:
        UsageError: The suffix is unknown, or vl-convert is not installed.
        OutputError: The file exists, or cannot be written.
    """
    format = plot_format(path)
    theme = files("fervid.render").joinpath("templates", "report.css").read_text(encoding="utf-8")
    colors = dict(re.findall(r"--([\w-]+): light-dark\((#\w+),", theme))
    config = {**_CONFIG, "background": "white"}
    text = re.sub(
        r'"var\(--([\w-]+)\)"', lambda match: f'"{colors[match[1]]}"', json.dumps({**chart, "config": config})
    )
    with atomic_write(path, force=force) as file:
        scale = {"scale": _PNG_SCALE} if format == "png" else {}
        plot = getattr(renderer(), f"vegalite_to_{format}")(text, **_OPTIONS, **scale)
        file.write(plot if isinstance(plot, bytes) else plot.encode())


def renderer() -> Any:
    """Return the package that renders charts.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import vl_convert
    except ModuleNotFoundError as error:
        raise missing_extra("A chart", "report") from error
    return vl_convert
