"""Time fervid on clips relative to decoding alone, in pairs within one run.

python benchmarks/speed.py CLIP... [--repeat 5] [--json FILE] [--plot FILE]

PyAV decodes with all threads and without conversion. Machines drift, so the ratio to decoding is computed within each
repetition, and the result is the median of the ratios. CPU seconds and peak memory come from one pass in a separate
process. CPU time is also measured by stage, on one thread, without overlap. A cold start is the whole command, with a
warm disk cache.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from network import show
from stages import stages
from timing import WAYS, command, decode, figures, medians, once, round_figures, save, time_in_turn

import fervid

SAMPLINGS = {"default": fervid.Sampling(), "every frame": fervid.Sampling(fps=None)}


def measure(path: Path, ways: Mapping[str, Callable[[Path], Any]], repeat: int) -> dict[str, Any]:
    """Measure one clip."""
    work = {name: partial(way, path) for name, way in ways.items()}
    result = work["default"]()
    if not (seconds := result.duration_s):
        raise SystemExit(result.error.message if result.error else f"{path} is an image and has no duration")
    time_in_turn(work, 1)  # warm-up
    rows = time_in_turn(work, repeat)
    frames, spent = decode(path), medians(rows)
    return {
        "clip": path.name,
        "frames": frames,
        "seconds": seconds,
        "ways": {
            name: {
                **found,
                "frames/s": round_figures(frames / spent[name]),
                "times real time": round_figures(seconds / spent[name]),
                **once(name, path),
            }
            for name, found in figures(rows, "decode").items()
        },
        "stages": {name: stages(path, sampling) for name, sampling in SAMPLINGS.items()},
        "first record s": round_figures(
            statistics.median(command("classify", str(path), "--format", "jsonl")[0] for _ in range(repeat))
        ),
    }


def tables(clips: list[dict[str, Any]], part: str) -> list[dict[str, Any]]:
    """Make rows of one part of the results, one per clip and method."""
    return [{"clip": clip["clip"], "way": way, **found} for clip in clips for way, found in clip[part].items()]


def plot(clips: list[dict[str, Any]], path: Path) -> None:
    """Plot the time relative to decoding, and the CPU time by stage."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2 + 0.8 * len(clips)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    bars = [(f"{row['clip']}\n{row['way']}", row) for row in tables(clips, "stages")]
    labels = [label for label, _ in bars]
    left.barh(labels, [clip["ways"][way]["times decode"] for clip in clips for way in clip["stages"]])
    left.set(xlabel="time relative to decoding")
    start = [0.0] * len(bars)
    for stage in list(bars[0][1])[3:]:
        widths = [row[stage] for _, row in bars]
        right.barh(labels, widths, left=start, label=stage)
        start = [before + width for before, width in zip(start, widths, strict=True)]
    right.set(xlabel="CPU ms per processed frame")
    figure.legend(loc="outside upper right", ncols=4, fontsize="small")
    left.invert_yaxis()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure each clip and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="needs matplotlib")
    arguments = parser.parse_args()
    ways = {name: load() for name, load in WAYS.items()}
    clips = [measure(path, ways, arguments.repeat) for path in arguments.clips]
    help_seconds = round_figures(statistics.median(command("--help")[1] for _ in range(arguments.repeat)))
    show(tables(clips, "ways"), None)
    print("CPU milliseconds per processed frame:")
    show(tables(clips, "stages"), None)
    show([{"clip": clip["clip"], "cold start to the first record, s": clip["first record s"]} for clip in clips], None)
    print(f"fervid --help: {help_seconds} s")
    save({"repeat": arguments.repeat, "clips": clips, "help s": help_seconds}, arguments.json)
    if arguments.plot:
        plot(clips, arguments.plot)


if __name__ == "__main__":
    main()
