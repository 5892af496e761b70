"""Time the Ray engine and the local engine, and extrapolate to many clips and machines.

python benchmarks/cluster.py CLIP... [--clips 64] [--workers 1 2] [--records 10000] [--repeat 3] [--json FILE]

Every run starts with nothing loaded and ends with its last record on disk. The time before the first record is the
startup; the time between the first and the last is that of the clips (links to the given ones). The engines are
measured in turn, and the results are medians. A run on missing files, with the most workers, measures the cost of a
record alone.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import onnxruntime
import ray
from rich.console import Console
from rich.table import Table

import fervid
from fervid.batch.output import open_writer
from fervid.batch.ray_runner import classify_on_ray
from fervid.batch.runner import RunConfig, classify_all

MODEL = "seconds(n, m) = start + n * max(clip / (m * workers), record)"
MEANING = {
    "n": "clips",
    "m": "machines like this one",
    "workers": "workers per machine, one CPU each",
    "start": "seconds until the workers have loaded the models",
    "clip": "seconds per clip of one worker, while all CPUs are busy",
    "record": "upper bound of the seconds per record on the machine that collects them",
}
ASSUMED = "clips of this length, read at this speed; no time for listing files or starting machines"
CLIPS, MACHINES = tuple(10**power for power in range(8)), (1, 10, 100)


@contextmanager
def open_engine(engine: str, workers: int) -> Iterator[Any]:
    """Load the classifier and yield it with the function that classifies clips, on the local engine or on Ray."""
    classifier, policy = fervid.load_classifier(threads=1), RunConfig(workers)
    if engine == "local":
        yield classifier, partial(classify_all, classifier, config=policy)
    else:
        with classify_on_ray(classifier, policy, jobs=workers, threads=1) as classify:
            yield classifier, classify


def time_run(engine: str, workers: int, names: Sequence[str], folder: Path) -> tuple[float, float]:
    """Measure the seconds until the workers are ready, and the seconds per record between the first and the last."""
    times = [time.perf_counter()]
    with (
        open_engine(engine, workers) as (classifier, classify),
        open_writer(folder / "records.jsonl", None, classifier, names, force=True) as (writer, _),
    ):
        for result in classify(names):
            writer.write(result)
            times.append(time.perf_counter())
    started, first, *_, last = times
    each = (last - first) / (len(names) - 1)
    return first - started - workers * each, each


def predict_seconds(clips: int, machines: int, *, start: float, clip: float, record: float, workers: int) -> float:
    """Compute seconds by `MODEL`."""
    return start + clips * max(clip / (machines * workers), record)


def measured(clips: Sequence[Path], arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure all runs, and compute the table for other numbers of clips and machines."""
    known = [(engine, workers) for engine in ("local", "ray") for workers in sorted(arguments.workers)]
    runs: dict[Any, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        names = [str(folder / f"{number:07}{clips[number % len(clips)].suffix}") for number in range(arguments.clips)]
        for number, name in enumerate(names):
            Path(name).symlink_to(clips[number % len(clips)].resolve())
        missing = [str(folder / f"missing-{number:07}.mp4") for number in range(arguments.records)]
        for _ in range(arguments.repeat):
            for engine, workers in known:
                runs.setdefault((engine, workers), []).append(time_run(engine, workers, names, folder))
            runs.setdefault("records", []).append(time_run("ray", workers, missing, folder))
    rows = []
    for engine, workers in known:
        start, each = map(statistics.median, zip(*runs[engine, workers], strict=True))
        rows.append({"engine": engine, "workers": workers, "start_s": start, "s_a_clip": each, "clips_a_s": 1 / each})
    model = {
        "start": start,
        "clip": workers * each,
        "record": statistics.median(each for _, each in runs["records"]),
        "workers": workers,
    }
    computed = [
        {"clips": n, "machines": m, "seconds": seconds, "machine_hours": m * seconds / 3600}
        for n in CLIPS
        for m in MACHINES
        for seconds in [predict_seconds(n, m, **model)]
    ]
    return {
        "cpus": cv2.getNumberOfCPUs(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "ray": ray.__version__,
        "onnxruntime": onnxruntime.__version__,
        "av": av.__version__,
        "named": [clip.name for clip in clips],
        "clips": arguments.clips,
        "records": arguments.records,
        "repeat": arguments.repeat,
        "measured": rows,
        "model": {"formula": MODEL, "where": MEANING, "assumed": ASSUMED, **model},
        "computed": computed,
    }


def show(report: Mapping[str, Any]) -> None:
    """Print both tables, with the formula between them."""
    console = Console()
    table = Table("engine", "workers", "start s", "s per clip", "clips per s", title="measured")
    for row in report["measured"]:
        figures = (f"{row['start_s']:.1f}", f"{row['s_a_clip']:.3f}", f"{row['clips_a_s']:.2f}")
        table.add_row(row["engine"], str(row["workers"]), *figures)
    console.print(table)
    model = report["model"]
    console.print(model["formula"], *(f"{name}: {meaning}" for name, meaning in model["where"].items()), sep="\n  ")
    console.print(", ".join(f"{name} = {model[name]:.4g}" for name in ("start", "clip", "record", "workers")))
    console.print(f"assumed: {model['assumed']}")
    heads = [f"{machines} machine{'s' * (machines > 1)}" for machines in MACHINES]
    table = Table("clips", *heads, title="computed: time, and total machine hours")
    for clips in CLIPS:
        cells = [row for row in report["computed"] if row["clips"] == clips]
        table.add_row(f"{clips:,}", *(f"{duration(cell['seconds'])}, {cell['machine_hours']:.3g} h" for cell in cells))
    console.print(table)


def duration(seconds: float) -> str:
    """Format seconds in a readable unit."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def main() -> None:
    """Measure, compute and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("named", nargs="+", type=Path, metavar="CLIP")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--workers", nargs="+", type=int, default=(1, 2))
    parser.add_argument("--records", type=int, default=10000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    report = measured(arguments.named, arguments)
    show(report)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
