"""Fuzz a parser, guided by coverage.

    make fuzz                                                   each target for a minute
    PYTHONPATH=tests/helpers python tests/helpers/fuzz.py TARGET [OPTION...]    one target, with options of libFuzzer

Requires atheris (pip install atheris). Without a target it lists the targets. Failing inputs are written to files
`crash-...`.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fervid"]):
    import parsers


def mutate(data: bytes, most: int, seed: int) -> bytes:
    """Mutate every second input with libFuzzer, and the others with knowledge of JSON and lists."""
    rng = random.Random(seed)
    return parsers.mutate(data, rng)[:most] if rng.random() < 0.5 else atheris.Mutate(data, most)


def main() -> None:
    """Fuzz until a failure, or as long as the options say."""
    if len(sys.argv) < 2 or sys.argv[1] not in parsers.TARGETS:
        raise SystemExit(f"give one of {' '.join(parsers.TARGETS)}")
    target = parsers.TARGETS[sys.argv.pop(1)]

    def once(data: bytes) -> None:
        target(data)

    with tempfile.TemporaryDirectory() as folder:
        for number, example in enumerate(target.examples()):
            (Path(folder) / str(number)).write_bytes(example)
        atheris.Setup([*sys.argv, folder], once, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
