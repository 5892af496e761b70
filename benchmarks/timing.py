"""Measure times in pairs, as medians and in separate processes, and describe the machine."""

from __future__ import annotations

import datetime
import json
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av

import fervid

PACKAGES = ("av", "numpy", "onnxruntime", "opencv-python-headless")
COMMAND = (sys.executable, "-c", "from fervid.cli.app import main; main()")

Work = Callable[[], object]
Seconds = Mapping[str, float]  # by method, of one repetition or of all


def decode(path: Path, threads: int = 0) -> int:
    """Decode every frame without conversion, and return their number; with 0 threads the decoder chooses."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        return sum(1 for _ in container.decode(stream))


WAYS: Mapping[str, Callable[[], Callable[[Path], Any]]] = {
    "decode": lambda: decode,
    "default": lambda: fervid.load_classifier().classify_or_error,
    "every frame": lambda: fervid.load_classifier(options=fervid.Options(fervid.Sampling(fps=None))).classify_or_error,
}
"""Functions that load a method and return a function of a clip."""


def timed(work: Work) -> float:
    """Measure the seconds of a call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def time_in_turn(ways: Mapping[str, Work], repeat: int) -> list[Seconds]:
    """Measure the seconds of each method, in turn, in every repetition; machines drift, so only neighbours compare."""
    return [{name: timed(work) for name, work in ways.items()} for _ in range(repeat)]


def medians(rows: Sequence[Seconds]) -> dict[str, float]:
    """Compute the median of each method."""
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def ratios(rows: Sequence[Seconds], base: str) -> dict[str, float]:
    """Compute the median of each method's ratio to the base in the same repetition."""
    return {name: statistics.median(row[name] / row[base] for row in rows) for name in rows[0]}


def figures(rows: Sequence[Seconds], base: str) -> dict[str, dict[str, float]]:
    """Compute the median of each method, and its ratio to the base."""
    ratio = ratios(rows, base)
    return {
        name: {"s": round_figures(seconds), "times decode": round_figures(ratio[name])}
        for name, seconds in medians(rows).items()
    }


def pick_fastest(rows: Sequence[Seconds], names: Iterable[str]) -> str:
    """Return the name with the smallest median."""
    found = medians(rows)
    return min(names, key=found.__getitem__)


def round_figures(value: float) -> float:
    """Round to three significant figures."""
    return float(f"{value:.3g}")


def once(way: str, path: Path) -> dict[str, float]:
    """Process a clip once in a separate process, with `once.py`; return `CPU s` and `peak MB`."""
    command = [sys.executable, str(Path(__file__).with_name("once.py")), way, str(path)]
    output = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    return {name: round_figures(value) for name, value in json.loads(output).items()}


def command(*arguments: str) -> tuple[float, float]:
    """Run `fervid`; return the seconds to its first line of output, and to its end.

    Raises:
        CalledProcessError: It fails, or prints nothing.
    """
    started = time.perf_counter()
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE) as process:
        line = process.stdout.readline() if process.stdout else b""
        first = time.perf_counter() - started
        process.communicate()
    if process.returncode or not line:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return first, time.perf_counter() - started


def machine() -> dict[str, Any]:
    """Describe the machine, the versions and the command."""
    import cv2

    return {
        "cpu": _cpu(),
        "cpus": cv2.getNumberOfCPUs(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "fervid": fervid.__version__,
        **{package: version(package) for package in PACKAGES},
        "commit": _commit(),
        "date": datetime.date.today().isoformat(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def save(report: Mapping[str, Any], path: Path | None) -> None:
    """Save a report with the machine as JSON, if a file is given."""
    if path:
        path.write_text(json.dumps({"machine": machine(), **report}, indent=2) + "\n")


def _cpu() -> str:
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str | None:
    """Return the commit of the measured code, with a plus if it was changed; None outside a checkout."""
    git = ["git", "-C", str(Path(fervid.__file__).parent)]
    try:
        head = subprocess.check_output([*git, "rev-parse", "--short", "HEAD"], stderr=subprocess.DEVNULL, text=True)
        changed = subprocess.check_output([*git, "status", "--porcelain", "."], text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.strip() + "+" * bool(changed)
