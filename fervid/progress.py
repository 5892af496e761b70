"""How far a run is: a bar for people, JSON Lines for programs, both on standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from tqdm import tqdm

from fervid.records import ClipResult, Status

Progress = Literal["auto", "bar", "none", "json"]


def shown(
    results: Iterable[ClipResult], total: int, kind: Progress, failed: Callable[[Status], bool]
) -> Iterator[ClipResult]:
    """Pass the results on and tell how many are done and how many failed.

    Args:
        results: One per clip.
        total: How many there will be.
        kind: `auto` is a bar if standard error is a terminal and there is more than one clip.
        failed: Which status counts as a failure.
    """
    started, failures = time.monotonic(), 0
    bar = kind == "bar" or (kind == "auto" and sys.stderr.isatty() and total > 1)
    with tqdm(total=total, unit="clip", file=sys.stderr, disable=not bar, dynamic_ncols=True) as line:
        for done, result in enumerate(results, start=1):
            failures += failed(result.status)
            yield result
            line.set_postfix(failed=failures, refresh=False)
            line.update()
            if kind == "json":
                event = {"event": "progress", "done": done, "total": total, "failed": failures}
                event["elapsed_s"] = round(time.monotonic() - started, 3)
                print(json.dumps(event), file=sys.stderr, flush=True)
