"""Compare the time of face networks, and print it with the figures of their cards.

python benchmarks/network.py NETWORK... [--repeat 50] [--json FILE] [--plot FILE]

Each repetition runs every network once, in turn, on the same batch of 16 faces with two threads; times are medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from fervid.analysis.face_model import preprocess
from fervid.learn.figures import find_figure
from fervid.models import registry

BATCH, THREADS = 16, 2
FIGURES = {
    "FER+ all": {"dataset": "FER+", "metric": "accuracy_all"},
    "FER+ majority": {"dataset": "FER+", "metric": "accuracy_majority"},
    "mean recall": {"dataset": "FER+", "metric": "mean_recall"},
    "FER2013": {"dataset": "FER2013", "metric": "accuracy"},
    "gender": {"dataset": "UTKFace", "metric": "gender_accuracy"},
    "age MAE": {"dataset": "UTKFace", "metric": "age_mae"},
    "ethnicity": {"dataset": "UTKFace", "metric": "ethnicity_accuracy"},
    "LFW": {"dataset": "LFW", "protocol": "10-fold verification by identity", "metric": "accuracy"},
}


def milliseconds(networks: list[registry.Model], repeat: int) -> list[float]:
    """Measure the median time per face of each network, in turn."""
    rng = np.random.default_rng(0)
    feeds = []
    for model in networks:
        side = model.card["input"]["size"]
        feeds.append({"crops": preprocess(rng.integers(0, 256, (BATCH, side, side, 3), np.uint8), model.card)})
    times: list[list[float]] = [[] for _ in networks]
    for turn in range(repeat + 3):
        for model, feed, spent in zip(networks, feeds, times, strict=True):
            started = time.perf_counter()
            model.session.run(None, feed)
            if turn >= 3:
                spent.append((time.perf_counter() - started) / BATCH * 1e3)
    return [round(statistics.median(spent), 3) for spent in times]


def measure(names: list[str], repeat: int) -> list[dict[str, Any]]:
    """Make a row per network: milliseconds per face, file size, figures."""
    loaded = [registry.load_model(name, "face_model", THREADS) for name in names]
    return [
        {
            "network": model.identity.name,
            "size": model.card["input"]["size"],
            "ms": ms,
            "MB": round(model.path.stat().st_size / 1e6, 1),
            **{
                title: (find_figure(model.card.get("figures", ()), **keys) or {}).get("value")
                for title, keys in FIGURES.items()
            },
        }
        for model, ms in zip(loaded, milliseconds(loaded, repeat), strict=True)
    ]


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot accuracy against time, one point per network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        if row["FER+ majority"] is not None:
            axes.plot(row["ms"], 100 * row["FER+ majority"], "o")
            axes.annotate(f" {row['network']} {row['size']}", (row["ms"], 100 * row["FER+ majority"]))
    axes.set(xscale="log", xlabel="ms per face, batch 16, two threads", ylabel="FER+ PrivateTest, majority, %")
    figure.savefig(path, dpi=150)


def format_interval(figure: Mapping[str, Any], spec: str = ".1f", scale: float = 100) -> str:
    """Format a value with its interval, both multiplied by `scale`; by default as percentages without the sign."""
    value, low, high = (format(scale * number, spec) for number in (figure["value"], *figure["interval"]))
    return f"{value} ({low} to {high})"


def show(rows: list[dict[str, Any]], json_file: Path | None) -> None:
    """Print rows as a table, and save them as JSON if a file is given."""
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    Console(width=180).print(table)
    if json_file:
        json_file.write_text(json.dumps(rows, indent=2) + "\n")


def main() -> None:
    """Measure the networks and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", help="names from `fervid models list`, or ONNX files")
    parser.add_argument("--repeat", type=int, default=50)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="needs matplotlib")
    arguments = parser.parse_args()
    rows = measure(arguments.networks, arguments.repeat)
    show(rows, arguments.json)
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
