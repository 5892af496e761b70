"""Find the live processes of a process group."""

from __future__ import annotations

import os
import time
from contextlib import suppress

import psutil


def alive(group: int) -> list[int]:
    """List the processes of a group that have not ended; zombies count as ended."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getpgid(process.pid) == group and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                found.append(process.pid)
    return found


def gone(group: int, seconds: float = 20) -> bool:
    """Wait for all processes of a group to end; return whether they did."""
    deadline = time.monotonic() + seconds
    while alive(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(group)
