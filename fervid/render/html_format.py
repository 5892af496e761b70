"""Charts and models as HTML."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fervid.render.charts import Chart, to_svg
from fervid.render.result_reader import Record

if TYPE_CHECKING:
    from markupsafe import Markup


def embed_chart(chart: Chart, description: str) -> Markup:
    """Return a chart as HTML with a text alternative; screen readers skip the marks of the SVG."""
    from markupsafe import Markup

    svg = to_svg(chart)
    frame = Markup('<div class="scroll" tabindex="0" role="img" aria-label="{}">{}</div>')
    return frame.format(description, Markup(svg.replace("<svg ", '<svg aria-hidden="true" ', 1)))  # noqa: S704


def list_models(records: Iterable[Record]) -> list[list[tuple[str, str, str]]]:
    """Return each combination of models in the records once, as lists of role, name and SHA-256."""
    combinations = {
        tuple((role.replace("_", " "), model["name"], model["sha256"]) for role, model in record["model"].items())
        for record in records
    }
    return [list(combination) for combination in sorted(combinations) if combination]
