"""One pass over a clip in a process of its own, whose CPU seconds and memory are then known; prints them as JSON.

python benchmarks/once.py {decode,default,"every frame"} CLIP

Loading does not count for the seconds, but for the peak.
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
    """What this process and its children have used so far."""
    used = [resource.getrusage(who) for who in (OWN, CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def peak() -> float:
    """The most memory that this process has held at once, and its largest child if it had any, in MB.

    Linux hands `ru_maxrss` on from parent to child, so a small process seems as large as the one that started it; the
    high-water mark of its own memory does not.
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
