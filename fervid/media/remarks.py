"""What is worth knowing of a clip or stream of which all was read that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av

from fervid.core.errors import Discontinuity, SeveralStreams
from fervid.media.container import frame_size


def remark(path: Path | str, restarts: int, taken: av.VideoStream, others: Sequence[av.VideoStream]) -> None:
    """Raise what is worth knowing, if there is anything.

    Args:
        path: What messages call it.
        restarts: How often its timestamps start again.
        taken: The video stream that was looked at.
        others: Those that might have been looked at instead.

    Raises:
        Discontinuity: The timestamps start again.
        SeveralStreams: There are others.
    """
    if restarts:
        raise Discontinuity(
            f"{path} was read whole, but {describe_restarts(restarts)}; split it if the parts are no one clip"
        )
    if others:
        chosen, *left = ("{} ({} x {})".format(one.index, *frame_size(one)) for one in (taken, *others))
        raise SeveralStreams(
            f"{path} has {1 + len(others)} video streams, and {chosen} was looked at, not {', '.join(left)};"
            " choose with --stream"
        )


def describe_restarts(restarts: int) -> str:
    """How often the timestamps of a clip start again, in words."""
    often = "once" if restarts == 1 else f"{restarts} times"
    return f"its timestamps start again {often}, as in joined recordings, and time was taken to go on there"
