"""What a file of fervid holds -> one page of HTML, to look at, print, or hand on.

The page is whole in itself: no script, style, font or picture comes from elsewhere, and its content security policy
forbids that any could. Names of clips and labels come from strangers, so all text goes through the template's escaping.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from fervid.core.errors import UsageError
from fervid.render import charts
from fervid.render.evaluation_tables import trained_on
from fervid.render.result_reader import ClassificationRun, EvaluationRun, Record, TimelineRun

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

    from fervid.analysis.highlights import ClipHighlights, Highlight

BINS = 20
"""Of the histogram of confidences."""
ROWS = 50
"""Of a page of the table of clips."""
OPEN = 4
"""People of a clip that are shown at once; the others are folded up."""
_FIRST = ("error", "skipped", "no_face", "ok")  # the order in which somebody should look at them
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
_FIGURES = {"accuracy": "accuracy", "uar": "unweighted average recall", "f1": "macro F1"}
_RATED = {"ccc": "concordance (CCC)", "mae": "mean absolute error", "pearson": "correlation"}


def render_html(
    found: ClassificationRun | TimelineRun | EvaluationRun,
    name: str,
    again: Mapping[str, ClipHighlights] | None = None,
    version: str = "",
) -> bytes:
    """The page, in UTF-8.

    Args:
        found: What was read.
        name: Of the file.
        again: Path of a clip to what looking at it again has shown.
        version: Of fervid.

    Raises:
        UsageError: The packages that a report needs are not installed.
    """
    environment = _environment()
    if isinstance(found, ClassificationRun):
        content = {"kind": "run", **_run(found.records)}
    elif isinstance(found, TimelineRun):
        content = {"kind": "timelines", **_timelines(found.clips, again or {})}
    else:
        content = {"kind": "evaluation", **_evaluation(found.reports)}
    style, script = (_asset(name) for name in ("report.css", "report.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}';"
        " base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    text: str = environment.get_template("report.html").render(
        content, name=name, version=version, style=_markup(style), script=_markup(script), policy=policy
    )
    return text.encode("utf-8", "backslashreplace")


def check_dependencies() -> None:
    """Raise `UsageError` if what a report is made with is not installed."""
    _environment()
    charts.bars([{"label": "", "value": 1, "said": ""}], "")


def escape_invisible(text: object) -> str:
    """Text as it can be seen: what has no shape, would turn the text around, or is no character, as its number."""
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], str(text))


def _run(records: Sequence[Record]) -> dict[str, Any]:
    states = Counter(record["status"] for record in records)
    faulty: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record["error"]:
            faulty.setdefault((record["error"]["code"], record["status"]), []).append(record)
    answered = [record for record in records if record["status"] == "ok"]
    counted = Counter(record["label"] for record in answered)
    labels = list(dict.fromkeys(label for record in answered for label in record["probabilities"]))
    shares: list[dict[str, Any]] = [
        {"label": escape_invisible(label), "value": counted[label], "said": _said(label, counted[label], len(answered))}
        for label in sorted(labels, key=lambda label: -counted[label])
    ]
    sure = Counter(min(int(record["confidence"] * BINS), BINS - 1) for record in answered)
    ranges = [
        {"from": i / BINS, "to": (i + 1) / BINS, "count": sure[i]}
        | {"said": f"{100 * i // BINS} to {100 * (i + 1) // BINS} %: {_clips(sure[i])}"}
        for i in range(BINS)
    ]
    rows = [_row(record) for record in sorted(records, key=_sort_key)]
    return {
        "records": len(records),
        "states": {state: states[state] for state in ("ok", "no_face", "error", "skipped")},
        "problems": [
            {"code": code, "status": status, "count": len(those), "message": those[0]["error"]["message"]}
            for (code, status), those in sorted(faulty.items(), key=lambda one: (-len(one[1]), one[0]))
        ],
        "labels": _figure(
            charts.bars(shares, "clips"),
            f"Bar chart: clips of each label, {', '.join(row['said'] for row in shares)}",
        )
        if shares
        else None,
        "shares": [(row["label"], row["value"], row["value"] / len(answered)) for row in shares],
        "confidences": _figure(
            charts.histogram(ranges, "confidence"),
            f"Histogram of the confidence of {_clips(len(answered))}, most often"
            f" {max(ranges, key=lambda row: row['count'])['said']}; unfold Confidences as a table",
        )
        if answered
        else None,
        "ranges": ranges,
        "rows": rows,
        "shown": rows[:ROWS],
        "page_size": ROWS,
        "models": _models(records),
        "seconds": sum(record["elapsed_s"] for record in records),
    }


def _row(record: Record) -> list[Any]:
    """The cells of a clip: name, status, label, confidence, runner-up, people, seconds, problem."""
    others = [(p, label) for label, p in (record["probabilities"] or {}).items() if label != record["label"]]
    second = max(others, key=lambda other: other[0], default=None)
    problem = record["error"]
    return [
        escape_invisible(record["path"]),
        record["status"].replace("_", " "),
        None if record["label"] is None else escape_invisible(record["label"]),
        record["confidence"],
        escape_invisible(f"{second[1]} {100 * second[0]:.0f} %") if second else None,
        len(record["people"]),
        record["duration_s"],
        escape_invisible(f"{problem['code']}: {problem['message']}") if problem else None,
    ]


def _sort_key(record: Record) -> tuple[int, float]:
    return _FIRST.index(record["status"]), record["confidence"] or 0.0


def _timelines(clips: Mapping[str, Sequence[Record]], again: Mapping[str, ClipHighlights]) -> dict[str, Any]:
    found = [_clip(path, windows, again.get(path)) for path, windows in clips.items()]
    return {
        "clips": found,
        "open": OPEN,
        "models": _models([window for windows in clips.values() for window in windows]),
    }


def _clip(path: str, windows: Sequence[Record], again: ClipHighlights | None) -> dict[str, Any]:
    timed = [window for window in windows if None not in (window["start_s"], window["end_s"])]
    labels = list(dict.fromkeys(label for window in windows for label in window["probabilities"] or ()))
    length = max((window["end_s"] for window in timed), default=0.0)
    people: dict[int, dict[float, Record]] = {}
    for window in timed:
        for person in window["people"]:
            people.setdefault(person["id"], {})[window["start_s"]] = person
    counted = Counter(window["label"] for window in windows if window["label"] is not None)
    problems = dict.fromkeys(window["error"]["message"] for window in windows if window["error"])
    return {
        "path": path,
        "windows": [_window(window) for window in windows],
        "length": length,
        "answered": sum(counted.values()),
        "labels": [(label, count) for label, count in counted.most_common()],
        "problems": list(problems),
        "people": [
            _person(number, seen, timed, labels, length)
            for number, seen in sorted(people.items(), key=_by_time_in_view)
        ],
        "moments": [_moment(moment) for moment in again.moments] if again else [],
        "note": again.note if again else "",
    }


def _by_time_in_view(person: tuple[int, Mapping[float, Record]]) -> tuple[float, int]:
    """Sorts people as `timeline.spans` does."""
    number, seen = person
    return -sum(window["seconds"] for window in seen.values()), number


def _person(
    number: int, seen: Mapping[float, Record], windows: Sequence[Record], labels: Sequence[str], length: float
) -> dict[str, Any]:
    """A chart of one person: each window stands at its middle, as wide as there is room to the next."""
    values, bands = [], []
    starts = [window["start_s"] for window in windows]
    step = min((b - a for a, b in pairwise(starts) if b > a), default=length or 1.0)
    for window in windows:
        begin, end = window["start_s"], window["end_s"]
        middle, person = (begin + end) / 2, seen.get(begin)
        for label in labels:
            value = person["probabilities"].get(label) if person else None
            values.append({"time": middle, "label": escape_invisible(label), "value": value})
        if person:
            half = min(step, end - begin or step) / 2
            first, last = (middle - half, middle + half)
            if window is windows[0]:
                first = begin
            if window is windows[-1]:
                last = max(end, last)
            best = sorted(person["probabilities"].items(), key=lambda one: -one[1])[:3]
            said = ", ".join(f"{escape_invisible(label)} {100 * share:.0f} %" for label, share in best)
            bands.append(
                {"from": first, "to": last}
                | {
                    "label": escape_invisible(person["label"]),
                    "said": f"{round(begin, 2):g} to {round(end, 2):g} s: {said}",
                }
            )
    some = list(seen.values())
    counted = Counter(person["label"] for person in some)
    most = ", ".join(f"{escape_invisible(label)} in {count}" for label, count in counted.most_common())
    ages = [person["age"] for person in some if person["age"] is not None]
    about = [f"{sum(ages) / len(ages):.0f} years"] if ages else []
    about += [
        Counter(known).most_common(1)[0][0]
        for name in ("gender", "ethnicity")
        if (known := [person[name] for person in some if person[name] is not None])
    ]
    return {
        "id": number,
        "seen": len(some),
        "of": len(windows),
        "about": f", estimated {', '.join(about)}" if about else "",
        "chart": _figure(
            charts.timeline(values, bands, [escape_invisible(label) for label in labels], length or step),
            f"Line chart: probability of each label over time for person {number}. Of {len(some)} windows {most};"
            f" unfold Person {number} as a table",
        ),
        "labels": list(labels),
        "rows": [
            (begin, person["label"], [person["probabilities"].get(label) for label in labels])
            for begin, person in sorted(seen.items())
        ],
    }


def _window(window: Record) -> dict[str, Any]:
    return {
        "start": window["start_s"],
        "end": window["end_s"],
        "status": window["status"].replace("_", " "),
        "label": window["label"],
        "confidence": window["confidence"],
        "people": [(person["id"], person["label"]) for person in window["people"]],
        "problem": window["error"]["code"] if window["error"] else None,
    }


def _moment(moment: Highlight) -> dict[str, Any]:
    told = moment.explanation
    shares = sorted(told.shares.items(), key=lambda share: -abs(share[1])) if told else []
    values: list[dict[str, Any]] = [
        {
            "label": escape_invisible(name),
            "value": share,
            "said": f"{escape_invisible(name)}: {100 * share:+.1f} points",
        }
        for name, share in shares
    ]
    return {
        "label": moment.record["label"],
        "confidence": moment.record["confidence"],
        "start": moment.record["start_s"],
        "end": moment.record["end_s"],
        "thumbnail": moment.thumbnail,
        "time": moment.time,
        "note": moment.note,
        "told": told,
        "shares": shares,
        "chart": _figure(
            charts.bars(values, "what it adds to the probability", shares=True, width=220),
            f"Bar chart: {', '.join(row['said'] for row in values)}",
        )
        if told
        else None,
    }


def _evaluation(reports: Mapping[str, Record]) -> dict[str, Any]:
    classes = {name: report for name, report in reports.items() if "labels" in report}
    rated = {name: report for name, report in reports.items() if "labels" not in report}
    return {
        "reports": [_classes(name, report) for name, report in classes.items()],
        "methods": _methods(classes) if len(classes) > 1 else None,
        "rated": [
            {"name": _heading(name, "Ratings", report), "clips": report["clips"], "unanswered": report["unanswered"]}
            | {"figures": [(title, report[key]) for key, title in _RATED.items()]}
            for name, report in rated.items()
        ],
        "models": [],
    }


def _heading(name: str, usual: str, report: Record) -> str:
    note = trained_on(report)
    return f"{name or usual}: {note}" if note else name


def _methods(reports: Mapping[str, Record]) -> dict[str, Any]:
    values = [
        _interval(name, report["answered"]["uar"]["value"], report["answered"]["uar"]["interval"])
        for name, report in reports.items()
    ]
    title = "unweighted average recall"
    return {
        "chart": _figure(
            charts.bars(values, title, shares=True, intervals=True),
            f"Bar chart: {title} of each method, {', '.join(row['said'] for row in values)}; unfold Methods as a table",
        ),
        "rows": [
            (name, [report[part][key] for part in ("answered", "all") for key in ("accuracy", "uar")])
            for name, report in reports.items()
        ],
    }


def _classes(name: str, report: Record) -> dict[str, Any]:
    labels, answered, every = report["labels"], report["answered"], report["all"]
    missed = any(row[-1] for row in every["confusion"])
    columns = [*labels, "(none)"] if missed else list(labels)
    cells = [
        {
            "row": escape_invisible(label),
            "column": escape_invisible(column),
            "count": count,
            "share": count / max(sum(row), 1),
        }
        | {"said": f"{escape_invisible(label)}, answered {escape_invisible(column)}: {_clips(count)} of {sum(row)}"}
        for label, row in zip(labels, every["confusion"], strict=True)
        for column, count in zip(columns, row, strict=False)
    ]
    right = [
        f"{escape_invisible(label)} {row[i]:,} of {sum(row):,}"
        for i, (label, row) in enumerate(zip(labels, every["confusion"], strict=True))
    ]
    each = [_class(i, label, answered) for i, label in enumerate(labels)]
    bins = [
        one | {"low": low, "high": high}
        for one in report["calibration"]["bins"]
        for low, high in [_wilson(round(one["accuracy"] * one["count"]), one["count"])]
    ]
    points = [
        one
        | {"said": f"{100 * one['confidence']:.0f} % sure, {100 * one['accuracy']:.0f} % right: {_clips(one['count'])}"}
        for one in bins
    ]
    recalls = [
        _interval(row["label"], row["recall"], row["recall_interval"]) for row in each if row["recall"] is not None
    ]
    return {
        "name": _heading(name, "Figures", report),
        "clips": report["clips"],
        "answered": answered["count"],
        "figures": [(title, answered[key], every[key]) for key, title in _FIGURES.items()],
        "error": report["calibration"]["error"],
        "columns": columns,
        "rows": [(label, row[: len(columns)]) for label, row in zip(labels, every["confusion"], strict=True)],
        "matrix": _figure(
            charts.matrix(cells, len(columns)),
            f"Confusion matrix, right answers: {', '.join(right)}; unfold Confusion as a table",
        ),
        "each": each,
        "recalls": _figure(
            charts.bars(recalls, "recall", shares=True, intervals=True),
            f"Bar chart: recall of each class, {', '.join(row['said'] for row in recalls)}",
        ),
        "bins": bins,
        "calibration": _figure(
            charts.calibration(points),
            f"Calibration curve: {'; '.join(row['said'] for row in points)}; unfold Calibration as a table",
        ),
        "against": report.get("against"),
        "adaptive": report.get("adaptive"),
    }


def _class(number: int, label: str, part: Record) -> dict[str, Any]:
    """The figures of a class, with intervals as if each clip stood alone."""
    table = part["confusion"]
    right, clips, said = table[number][number], sum(table[number]), sum(row[number] for row in table)
    return {
        "label": label,
        "clips": clips,
        **{name: part[name][label] for name in ("recall", "precision", "f1_each")},
        "recall_interval": _wilson(right, clips),
        "precision_interval": _wilson(right, said),
    }


def _wilson(right: int, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson, JASA 22, 1927); all of 0 to 1 where nothing is known."""
    from scipy.stats import binomtest

    if not count:
        return 0.0, 1.0
    interval = binomtest(int(min(right, count)), int(count)).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def _interval(name: str, value: float, interval: Sequence[float] | None) -> dict[str, Any]:
    low, high = interval or (value, value)
    said = f"{escape_invisible(name)}: {100 * value:.1f} %" + (
        f" ({100 * low:.1f} to {100 * high:.1f})" if interval else ""
    )
    return {"label": escape_invisible(name), "value": value, "low": low, "high": high, "said": said}


def _models(records: Iterable[Record]) -> list[list[tuple[str, str, str]]]:
    """The models that answered, each combination once."""
    found = {
        tuple((role, model["name"], model["sha256"]) for role, model in record["model"].items()) for record in records
    }
    return [list(one) for one in sorted(found) if one]


def _said(label: str, count: int, whole: int) -> str:
    return f"{escape_invisible(label)}: {_clips(count)}, {100 * count / whole:.0f} %"


def _clips(count: int) -> str:
    return f"{count:,} clip{'' if count == 1 else 's'}"


def _figure(svg: str, alternative: str) -> Markup:
    """A chart that says to who cannot see it what it shows, and keeps its marks to itself."""
    from markupsafe import Markup

    frame = Markup('<div class="scroll" tabindex="0" role="img" aria-label="{}">{}</div>')
    return frame.format(alternative, Markup(svg.replace("<svg ", '<svg aria-hidden="true" ', 1)))  # noqa: S704


def _environment() -> Environment:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ModuleNotFoundError as error:
        raise UsageError("a report needs some more packages; pip install 'fervid[report]'") from error
    environment = Environment(
        loader=PackageLoader("fervid.render", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: escape_invisible(value) if type(value) is str else value,
    )
    environment.filters |= {"percent": _percent, "figure": _format_interval, "colour": charts.colour}
    return environment


def _percent(share: float | None, digits: int = 1) -> str:
    return "" if share is None else f"{100 * share:.{digits}f} %"


def _format_interval(figure: Record, factor: float = 100, unit: str = " %", digits: int = 1, plus: str = "") -> str:
    """A figure as `76.9 % (73.7 to 80.0)`."""
    value = f"{factor * figure['value']:{plus}z.{digits}f}{unit}"
    if figure["interval"] is None:
        return value
    low, high = (f"{factor * end:{plus}z.{digits}f}" for end in figure["interval"])
    return f"{value} ({low} to {high})"


def _asset(name: str) -> str:
    return files("fervid.render").joinpath("templates", name).read_text(encoding="utf-8")


def _markup(text: str) -> Markup:
    from markupsafe import Markup

    return Markup(text)  # noqa: S704


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
