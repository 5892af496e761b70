"""The windows of a clip as subtitles (WebVTT)."""

from __future__ import annotations

import html
from collections.abc import Sequence

from fervid.core.results import WindowResult
from fervid.core.text import escape_control_chars
from fervid.render.person_spans import label_spans


def render_webvtt(windows: Sequence[WindowResult]) -> bytes:
    """Render the windows of one clip as WebVTT: a cue with label and confidence for each time span of a label.

    If there are several people, each cue starts with the number of the person.
    """
    people = label_spans(windows)
    cues = sorted(
        ((span, f"person {person}: " if len(people) > 1 else "") for person, spans in people.items() for span in spans),
        key=lambda cue: cue[0].start_ms,
    )
    blocks = ["WEBVTT"]
    for span, prefix in cues:
        label = html.escape(escape_control_chars(span.label), quote=False)
        times = f"{_timestamp(span.start_ms)} --> {_timestamp(span.end_ms)}"
        blocks.append(f"{times}\n{prefix}{label} {span.confidence:.2f}")
    return ("\n\n".join(blocks) + "\n").encode()


def _timestamp(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{rest:03}"
