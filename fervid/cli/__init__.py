"""The command line: one module per command or group of commands, and the exit codes that they share."""

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit statuses of all commands."""

    OK = 0
    INPUT_FAILED = 1
    USAGE = 2
    NO_INPUT = 3
    MODEL_UNUSABLE = 4
    INTERRUPTED = 130
    TERMINATED = 143
