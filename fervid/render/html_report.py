"""Results of fervid as an HTML page, to view, print or share.

The page is self-contained: scripts, styles and images are embedded, and its content security policy forbids loading
others. File names and labels are untrusted, so all text is escaped by the template engine.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from fervid.core.packages import missing_extra
from fervid.core.text import escape_control_chars, format_interval, format_percent, plural
from fervid.render import charts
from fervid.render.html_evaluation import build_evaluation_view
from fervid.render.html_review import build_review_view, select_clips
from fervid.render.html_run import build_run_view
from fervid.render.html_timeline import build_timelines_view
from fervid.render.result_reader import ClassificationRun, EvaluationRun, Record, TimelineRun

if TYPE_CHECKING:
    from jinja2 import Environment

    from fervid.analysis.highlights import ClipHighlights


def render_html(
    results: ClassificationRun | TimelineRun | EvaluationRun,
    name: str,
    highlights: Mapping[str, ClipHighlights] | None = None,
    version: str = "",
    review: Sequence[str] | None = None,
    folder: Path | None = None,
) -> bytes:
    """Render a page in UTF-8.

    Args:
        results: Results of one of the commands.
        name: Name of the results file.
        highlights: Highlights of the clips, by path.
        version: Version of fervid.
        review: Paths of the clips of a run to review, in order; None for all, the least certain first.
        folder: The absolute folder that relative paths in the results start from; None for the current one.

    Raises:
        UsageError: The packages of the extra `report` are not installed, or the results have no label for a clip to
            review.
    """
    environment = _environment()
    if isinstance(results, ClassificationRun):
        selected = select_clips(results.records, review)
        form = build_review_view(selected, folder or Path.cwd(), highlights or {})
        kind, view, records = "run", build_run_view(results.records, form), results.records
    elif isinstance(results, TimelineRun):
        kind, view = "timelines", build_timelines_view(results.clips, highlights or {})
        records = list(itertools.chain.from_iterable(results.clips.values()))
    else:
        kind, view, records = "evaluation", build_evaluation_view(results.reports), []  # they name no models
    style = _read_template("report.css")
    script = "".join(map(_read_template, ("report.js", "review.js") if kind == "run" else ("report.js",)))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_csp_hash(style)}'; script-src '{_csp_hash(script)}';"
        " base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    models = _list_models(records)
    text: str = environment.get_template("report.html").render(
        kind=kind, view=view, models=models, name=name, version=version, style=style, script=script, policy=policy
    )
    return text.encode("utf-8", "backslashreplace")


def _list_models(records: Sequence[Record]) -> list[list[tuple[str, str, str]]]:
    """Return each combination of models in the records once, as lists of role, name and SHA-256."""
    combinations = {
        tuple((role.replace("_", " "), model["name"], model["sha256"]) for role, model in record["model"].items())
        for record in records
    }
    return [list(combination) for combination in sorted(combinations) if combination]


def check_dependencies() -> None:
    """Raise `UsageError` if the packages of the extra `report` are not installed."""
    _environment()
    charts.renderer()


def _environment() -> Environment:
    """Return the template engine, which escapes all text and raises on undefined names."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ModuleNotFoundError as error:
        raise missing_extra("`fervid report`", "report") from error
    environment = Environment(
        loader=PackageLoader("fervid.render", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: escape_control_chars(value) if type(value) is str else value,
    )
    environment.filters |= {"percent": format_percent, "figure": format_interval, "plural": plural}
    return environment


def _read_template(name: str) -> str:
    return files("fervid.render").joinpath("templates", name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
