"""Times fervid against decoding alone, in pairs within one run.

python benchmarks/speed.py CLIP... [--repeat 5] [--json FILE]

Machines drift, so each repetition takes its own ratio to the decoding beside it, and the median of the ratios counts.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import av
import joblib
import onnxruntime
from rich.console import Console
from rich.table import Table

import fervid


def decode(path: Path) -> int:
    """Decode every frame with all threads and convert none; how many there were."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        return sum(1 for _ in container.decode(video=0))


def timed(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(path: Path, ways: dict[str, fervid.Classifier], repeat: int) -> dict[str, object]:
    """Medians of paired repetitions for one clip."""
    frames = decode(path)
    for way in ways.values():
        way.answer(path)
    rows = [
        (timed(lambda: decode(path)), {name: timed(lambda w=way: w.answer(path)) for name, way in ways.items()})
        for _ in range(repeat)
    ]
    return {
        "clip": path.name,
        "frames": frames,
        "decode_s": statistics.median(base for base, _ in rows),
        **{f"{name}_s": statistics.median(times[name] for _, times in rows) for name in ways},
        **{f"{name}_ratio": statistics.median(times[name] / base for base, times in rows) for name in ways},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    ways = {
        "default": fervid.load(),
        "every_frame": fervid.load(options=fervid.Options(fervid.Sampling(fps=None))),
    }
    report = {
        "cpus": joblib.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "av": av.__version__,
        "clips": [measure(path, ways, arguments.repeat) for path in arguments.clips],
    }
    table = Table("clip", "frames", "decode s", *(f"{name} s (x decode)" for name in ways))
    for row in report["clips"]:
        cells = [f"{row[f'{name}_s']:.2f} ({row[f'{name}_ratio']:.1f})" for name in ways]
        table.add_row(row["clip"], str(row["frames"]), f"{row['decode_s']:.3f}", *cells)
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
