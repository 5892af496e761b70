"""Notices about a clip or stream that was read completely: restarted timestamps, other video streams."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av

from fervid.core.errors import Discontinuity, SeveralStreams
from fervid.media.container import frame_size


def raise_notices(path: Path | str, restarts: int, selected: av.VideoStream, others: Sequence[av.VideoStream]) -> None:
    """Raise the most important notice, if there is one.

    Args:
        path: The name of the clip in messages.
        restarts: How often its timestamps start again.
        selected: The video stream that was read.
        others: Video streams that were not.

    Raises:
        Discontinuity: The timestamps start again.
        SeveralStreams: There are other streams.
    """
    if restarts:
        raise Discontinuity(
            f"{path} was read completely, but {describe_restarts(restarts)}; split it if its parts are separate clips"
        )
    if others:
        chosen, *left = ("{} ({} x {})".format(stream.index, *frame_size(stream)) for stream in (selected, *others))
        raise SeveralStreams(
            f"{path} has {1 + len(others)} video streams, and {chosen} was used, not {', '.join(left)};"
            " choose with --stream"
        )


def describe_restarts(restarts: int) -> str:
    """Describe how often the timestamps of a clip start again."""
    count = "once" if restarts == 1 else f"{restarts} times"
    return f"its timestamps start again {count}, as in joined recordings, and were continued from there"
