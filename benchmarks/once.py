"""Process a clip once in a separate process, and print its CPU seconds and peak memory as JSON.

python benchmarks/once.py {decode,default,"every frame"} CLIP

Loading counts towards the peak memory, but not towards the seconds.
"""

from __future__ import annotations

import json
import re
import resource
import sys
from pathlib import Path

from timing import WAYS

OWN, CHILDREN = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
UNIT = 1 if sys.platform == "darwin" else 1024  # bytes, of `ru_maxrss`


def cpu_seconds() -> float:
    """Sum the CPU seconds of this process and its children."""
    used = [resource.getrusage(who) for who in (OWN, CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def peak() -> float:
    """Read the peak memory of this process, plus that of its largest child, in MB.

    On Linux, a child process inherits `ru_maxrss`, so a small process appears as large as its parent; the high-water
    mark VmHWM is its own.
    """
    own, children = (resource.getrusage(who).ru_maxrss * UNIT for who in (OWN, CHILDREN))
    status = Path("/proc/self/status")
    if status.exists() and (mark := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        own = int(mark[1]) * 1024
    return (own + children) / 1e6


def main() -> None:
    """Measure and print."""
    way, path = sys.argv[1:]
    work = WAYS[way]()
    loaded = cpu_seconds()
    work(Path(path))
    print(json.dumps({"CPU s": cpu_seconds() - loaded, "peak MB": peak()}))


if __name__ == "__main__":
    main()
