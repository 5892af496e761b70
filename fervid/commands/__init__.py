"""The commands, by what they are about, and the statuses that they leave with."""

OK, FAILED, USAGE, NOTHING, MODEL, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 4, 130, 143
