"""Find the live processes of a process group."""

from __future__ import annotations

import time
from pathlib import Path


def alive(group: int) -> list[int]:
    """List the processes of a group that have not ended; zombies count as ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(of) == group and state not in "ZX":
            found.append(int(path.parent.name))
    return found


def gone(group: int, seconds: float = 20) -> bool:
    """Wait for all processes of a group to end; return whether they did."""
    deadline = time.monotonic() + seconds
    while alive(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(group)
