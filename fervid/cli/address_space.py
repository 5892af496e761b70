"""Run under a limit on the address space (`ulimit -v`), where C libraries crash without a message."""

from __future__ import annotations

import os
import signal
import sys

from fervid.cli import ExitCode

ADDRESS_SPACE_BYTES = 1_500_000_000
"""Address space that libraries and models map into a process, which is much more than they use."""
OUT_OF_MEMORY = "fervid: out of memory; raise the limit (ulimit, container), or use fewer --jobs"


def fork_under_memory_limit() -> None:
    """Continue in a child process if the address space is limited, and report the child's crash.

    The limit is printed first, in case both processes are killed.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY or limit >= ADDRESS_SPACE_BYTES:
        return
    sizes = f"{limit / 1e6:.0f} MB (ulimit -v), and a clip needs about {ADDRESS_SPACE_BYTES / 1e6:.0f} MB"
    print(f"fervid: address space is limited to {sizes}; raise the limit if this fails", file=sys.stderr, flush=True)
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the child receives it too
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        print(OUT_OF_MEMORY, file=sys.stderr, flush=True)
    os._exit(ExitCode.USAGE if status < 0 else status)
