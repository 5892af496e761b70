"""The form of a report in which a person confirms or corrects the labels of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fervid.core.errors import UsageError
from fervid.core.text import escape_control_chars
from fervid.media.remote_files import is_url
from fervid.render.result_reader import Record

if TYPE_CHECKING:
    from fervid.analysis.highlights import ClipHighlights

CARDS_PER_PAGE = 10
STRIP_THUMBNAILS = 5
"""Frames of a clip that are shown above its form."""


def select_clips(records: Sequence[Record], order: Sequence[str] | None) -> list[Record]:
    """Return the records of the clips with those paths, or of all clips with a label, the least certain first.

    Raises:
        UsageError: A path is not that of a clip with a label.
    """
    classified = {record["path"]: record for record in records if record["status"] == "ok"}
    if order is None:
        return sorted(classified.values(), key=lambda record: record["confidence"])
    if unknown := [path for path in order if path not in classified]:
        raise UsageError(f"the results have no label for {unknown[0]}, which the list names; use a list of this run")
    return [classified[path] for path in dict.fromkeys(order)]


def build_review_view(
    records: Sequence[Record], folder: Path, highlights: Mapping[str, ClipHighlights]
) -> dict[str, Any]:
    """Return the values of the form for clips, in the order of their records, as plain JSON types.

    Relative paths of the records start from the absolute `folder`. The highlights, by path, give the thumbnails.

    Returns:
        `key`, under which the browser stores the labels; the `labels` to choose from; the `clips`; `left_out`, the
        number of clips that cannot be named in a CSV file; and `size`, the number of clips of a page.
    """
    listed = [record for record in records if _can_be_listed(record["path"], folder)]
    clips = [_describe_clip(record, folder, highlights.get(record["path"])) for record in listed]
    identity = json.dumps(sorted((clip["path"], clip["label"]) for clip in clips))
    return {
        "key": f"fervid-review-{hashlib.sha256(identity.encode()).hexdigest()[:16]}",
        "labels": list(dict.fromkeys(label for record in records for label in record["probabilities"])),
        "clips": clips,
        "left_out": len(records) - len(listed),
        "size": CARDS_PER_PAGE,
    }


def _can_be_listed(name: str, folder: Path) -> bool:
    """Whether `fervid train` finds a clip by its path in a CSV file: no URL, and no path that changes there."""
    path = str(folder / name)
    return not is_url(name) and path == path.strip() == escape_control_chars(path)


def _describe_clip(record: Record, folder: Path, highlights: ClipHighlights | None) -> dict[str, Any]:
    path = folder / record["path"]
    notes = [highlights.note] if highlights else []
    thumbnails = []
    for highlight in highlights.highlights if highlights else ():
        notes.append(highlight.note)
        thumbnails += [{"time": round(frame.time, 2), "url": frame.url} for frame in highlight.thumbnails if frame.url]
    return {
        "name": record["path"],
        "path": str(path),
        "url": path.as_uri(),
        "label": record["label"],
        "probabilities": sorted(record["probabilities"].items(), key=lambda item: -item[1])[:3],
        "thumbnails": thumbnails,
        "note": escape_control_chars(" ".join(filter(None, notes))),
    }
