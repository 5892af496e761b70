"""The commands, by what they are about, and the statuses that they leave with."""

OK, FAILED, USAGE, NOTHING, MODEL, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 4, 130, 143


def examples(*lines: str) -> str:
    """How a command is called, a line each, below its help."""
    return "\n".join(["Examples:", *(f"  `{line}`" for line in lines)])
