"""The command line: one module per command or group of commands, and the exit statuses that they share."""

OK, FAILED, USAGE, NOTHING, MODEL, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 4, 130, 143


def format_examples(*lines: str) -> str:
    """Return the examples that stand below the help of a command, one per line."""
    return "\n".join(["Examples:", *(f"  `{line}`" for line in lines)])
