"""Looks which processes of a group are alive, as a test that killed one wants to know."""

from __future__ import annotations

import time
from pathlib import Path


def alive(group: int) -> list[int]:
    """Processes of that group that have not ended; what nobody has reaped yet has."""
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
    """Whether all of that group end within that time."""
    deadline = time.monotonic() + seconds
    while alive(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(group)
