"""The content of an HTML report of `fervid classify`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fervid.core.text import escape_control_chars, format_percent, plural
from fervid.render import charts
from fervid.render.result_reader import Record

CONFIDENCE_BINS = 20
ROWS_PER_PAGE = 50
_STATUS_ORDER = ("error", "skipped", "no_face", "ok")  # by urgency


def build_run_view(records: Sequence[Record], review: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that `run.html` shows, from records and the form of `build_review_view` to review them."""
    statuses = Counter(record["status"] for record in records)
    classified = [record for record in records if record["status"] == "ok"]
    return {
        "clips": len(records),
        "statuses": {status: statuses[status] for status in ("ok", "no_face", "error", "skipped")},
        "errors": _group_errors(records),
        "answers": _describe_answers(classified) if classified else None,
        "rows": [_table_row(record) for record in sorted(records, key=_sort_key)],
        "page_size": ROWS_PER_PAGE,
        "review": review,
    }


def _group_errors(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Group clips by error code and status, the most frequent first; the message is that of the first clip."""
    groups: dict[tuple[str, str], list[str]] = {}
    for record in records:
        if error := record["error"]:
            groups.setdefault((error["code"], record["status"]), []).append(error["message"])
    return [
        {"code": code, "status": status, "count": len(messages), "message": messages[0]}
        for (code, status), messages in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def _describe_answers(classified: Sequence[Record]) -> dict[str, Any]:
    """Return the charts of labels and confidences, and their tables."""
    bars, bins = _label_bars(classified), _confidence_bins(classified)
    mode = max(bins, key=lambda row: row["count"])
    return {
        "label_chart": charts.embed_chart(
            charts.bars(bars, "clips"), f"Bar chart: clips of each label, {charts.join_descriptions(bars)}"
        ),
        "label_rows": [
            (bar["label"], f"{bar['value']:,}", format_percent(bar["value"] / len(classified))) for bar in bars
        ],
        "confidence_chart": charts.embed_chart(
            charts.histogram(bins, "confidence"),
            f"Histogram of the confidence of {plural(len(classified), 'clip')}, most often {mode['description']};"
            " unfold Confidences as a table",
        ),
        "confidence_rows": [
            (f"{format_percent(row['from'], 0)} to {format_percent(row['to'], 0)}", f"{row['count']:,}") for row in bins
        ],
    }


def _label_bars(classified: Sequence[Record]) -> list[dict[str, Any]]:
    """Return a bar for each label, the most frequent first."""
    counts = Counter(record["label"] for record in classified)
    labels = list(dict.fromkeys(label for record in classified for label in record["probabilities"]))
    bars = []
    for label in sorted(labels, key=lambda label: -counts[label]):
        count, name = counts[label], escape_control_chars(label)
        description = f"{name}: {plural(count, 'clip')}, {format_percent(count / len(classified), 0)}"
        bars.append({"label": name, "value": count, "description": description})
    return bars


def _confidence_bins(classified: Sequence[Record]) -> list[dict[str, Any]]:
    n = CONFIDENCE_BINS
    counts = Counter(min(int(record["confidence"] * n), n - 1) for record in classified)
    return [
        {
            "from": i / n,
            "to": (i + 1) / n,
            "count": counts[i],
            "description": f"{100 * i // n} to {100 * (i + 1) // n} %: {plural(counts[i], 'clip')}",
        }
        for i in range(n)
    ]


def _table_row(record: Record) -> list[Any]:
    """Return the cells of a clip: name, status, label, confidence, runner-up, people, seconds, error."""
    others = [(p, label) for label, p in (record["probabilities"] or {}).items() if label != record["label"]]
    second = max(others, key=lambda other: other[0], default=None)
    error = record["error"]
    return [
        escape_control_chars(record["path"]),
        record["status"].replace("_", " "),
        None if record["label"] is None else escape_control_chars(record["label"]),
        record["confidence"],
        escape_control_chars(f"{second[1]} {format_percent(second[0], 0)}") if second else None,
        len(record["people"]),
        record["duration_s"],
        escape_control_chars(f"{error['code']}: {error['message']}") if error else None,
    ]


def _sort_key(record: Record) -> tuple[int, float]:
    """Sort by urgency of the status, then by rising confidence."""
    return _STATUS_ORDER.index(record["status"]), record["confidence"] or 0.0
