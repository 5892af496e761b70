"""Times fervid on clips against decoding alone, in pairs within one run.

python benchmarks/speed.py CLIP... [--repeat 5] [--json FILE] [--plot FILE]

Decoding is that of PyAV with all threads, without a conversion. Machines drift, so each repetition takes its own ratio
to the decoding beside it, and the median of the ratios counts. CPU seconds and peak memory are those of one pass in a
process of its own; where the CPU goes is measured stage by stage, on one thread, without overlap. A cold start is the
whole command, on a disk that is warm.
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
from timing import WAYS, command, decode, figures, medians, once, paired, rounded, save

import fervid

SAMPLINGS = {"default": fervid.Sampling(), "every frame": fervid.Sampling(fps=None)}


def measure(path: Path, ways: Mapping[str, Callable[[Path], Any]], repeat: int) -> dict[str, Any]:
    """Everything about one clip."""
    work = {name: partial(way, path) for name, way in ways.items()}
    result = work["default"]()
    if not (seconds := result.duration_s):
        raise SystemExit(result.problem.message if result.problem else f"{path} is a picture and lasts no time")
    paired(work, 1)  # fills caches
    rows = paired(work, repeat)
    frames, spent = decode(path), medians(rows)
    return {
        "clip": path.name,
        "frames": frames,
        "seconds": seconds,
        "ways": {
            name: {
                **found,
                "frames/s": rounded(frames / spent[name]),
                "times real time": rounded(seconds / spent[name]),
                **once(name, path),
            }
            for name, found in figures(rows, "decode").items()
        },
        "stages": {name: stages(path, sampling) for name, sampling in SAMPLINGS.items()},
        "first record s": rounded(
            statistics.median(command("classify", str(path), "--format", "jsonl")[0] for _ in range(repeat))
        ),
    }


def tables(clips: list[dict[str, Any]], part: str) -> list[dict[str, Any]]:
    """The rows of one part of what was measured, a clip and way each."""
    return [{"clip": clip["clip"], "way": way, **found} for clip in clips for way, found in clip[part].items()]


def plot(clips: list[dict[str, Any]], path: Path) -> None:
    """How many times decoding each way takes, and where its CPU goes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2 + 0.8 * len(clips)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    bars = [(f"{row['clip']}\n{row['way']}", row) for row in tables(clips, "stages")]
    labels = [label for label, _ in bars]
    left.barh(labels, [clip["ways"][way]["times decode"] for clip in clips for way in clip["stages"]])
    left.set(xlabel="times decoding alone")
    start = [0.0] * len(bars)
    for stage in list(bars[0][1])[3:]:
        widths = [row[stage] for _, row in bars]
        right.barh(labels, widths, left=start, label=stage)
        start = [before + width for before, width in zip(start, widths, strict=True)]
    right.set(xlabel="CPU ms for each frame looked at")
    figure.legend(loc="outside upper right", ncols=4, fontsize="small")
    left.invert_yaxis()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="needs matplotlib")
    arguments = parser.parse_args()
    ways = {name: load() for name, load in WAYS.items()}
    clips = [measure(path, ways, arguments.repeat) for path in arguments.clips]
    helped = rounded(statistics.median(command("--help")[1] for _ in range(arguments.repeat)))
    show(tables(clips, "ways"), None)
    print("CPU milliseconds for each frame that is looked at:")
    show(tables(clips, "stages"), None)
    show([{"clip": clip["clip"], "cold start to the first record, s": clip["first record s"]} for clip in clips], None)
    print(f"fervid --help: {helped} s")
    save({"repeat": arguments.repeat, "clips": clips, "help s": helped}, arguments.json)
    if arguments.plot:
        plot(clips, arguments.plot)


if __name__ == "__main__":
    main()
