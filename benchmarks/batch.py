"""Time fervid on a folder of short clips and on long files, relative to decoding.

python benchmarks/batch.py CLIP... [--count 200] [--lengths 60 3600] [--repeat 3] [--json FILE]

The folder has segments of 2 s to 4 s of the given clips, re-encoded as H.264. Decoding is timed in two ways, one clip
after another with the decoder's threads and one clip per CPU; the faster one is the reference. The long files repeat
the video packets of the first clip.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from network import show
from timing import WAYS, command, decode, figures, once, pick_fastest, save, time_in_turn

import fervid
from fervid.batch.runner import RunConfig, classify_all
from fervid.cli.options import plan_workers

SHORTEST, LONGEST = 2.0, 4.0  # seconds of a segment
DECODERS = ("decode, threads", "decode, processes")


def duration(path: Path) -> float:
    """Read the duration of a container in seconds."""
    with av.open(str(path)) as container:
        return (container.duration or 0) / av.time_base


def encode_segment(path: Path, start: float, seconds: float, target: Path) -> None:
    """Re-encode a segment of a clip."""
    with av.open(str(path)) as source, av.open(str(target), "w") as container:
        video = source.streams.video[0]
        video.thread_type = "AUTO"
        stream = container.add_stream("libx264", rate=video.average_rate, options={"preset": "veryfast"})
        stream.width, stream.height = video.width // 2 * 2, video.height // 2 * 2
        stream.pix_fmt = "yuv420p"
        source.seek(int(start * av.time_base))
        inside = (frame for frame in source.decode(video) if frame.time >= start)
        for number, frame in enumerate(inside):
            if frame.time >= start + seconds:
                break
            image = frame.reformat(stream.width, stream.height, "yuv420p")
            image.pts, image.time_base = number, 1 / video.average_rate
            container.mux(stream.encode(image))
        container.mux(stream.encode())


def make_segments(paths: Sequence[Path], count: int, folder: Path, rng: np.random.Generator) -> list[Path]:
    """Make short clips, from each of the given ones in turn."""
    found = []
    for number in range(count):
        path = paths[number % len(paths)]
        seconds = rng.uniform(SHORTEST, LONGEST)
        start = rng.uniform(0, max(0.0, duration(path) - seconds))
        found.append(folder / f"{number:04}.mp4")
        encode_segment(path, start, seconds, found[-1])
    return found


def repeat_video(path: Path, seconds: float, target: Path) -> None:
    """Repeat the video packets of a clip until they last at least that many seconds."""
    with av.open(str(target), "w") as container:
        stream = None
        lasted = 0.0
        while lasted < seconds:
            with av.open(str(path)) as source:
                video = source.streams.video[0]
                stream = stream or container.add_stream_from_template(video)
                packets, base = [packet for packet in source.demux(video) if packet.size], video.time_base
            shift = round(lasted / base) - min(packet.pts for packet in packets)
            for packet in packets:
                packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
            lasted = float(max(packet.pts + packet.duration for packet in packets) * base)
            container.mux(packets)


def folder(paths: Sequence[Path], repeat: int) -> list[dict[str, Any]]:
    """Make rows for a folder of clips: two ways of decoding, fervid in process, and the whole command."""
    jobs, threads = plan_workers(len(paths), None, None)
    classifier = fervid.load_classifier(threads=threads)
    names = [str(path) for path in paths]
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cv2.getNumberOfCPUs(), mp_context=spawning) as pool:
        alone = partial(decode, threads=1)
        frames = sum(pool.map(alone, paths, chunksize=4))  # also starts the processes
        rows = time_in_turn(
            {
                DECODERS[0]: lambda: sum(map(decode, paths)),
                DECODERS[1]: lambda: sum(pool.map(alone, paths, chunksize=4)),
                "default": lambda: list(classify_all(classifier, names, RunConfig(jobs))),
                "the command": lambda: command(
                    "classify", str(paths[0].parent), "--format", "jsonl", "--progress", "none"
                ),
            },
            repeat,
        )
    title = f"{len(paths)} short clips, {frames} frames"
    return [{"files": title, "way": way, **found} for way, found in figures(rows, pick_fastest(rows, DECODERS)).items()]


def long(path: Path, title: str, repeat: int) -> list[dict[str, Any]]:
    """Make rows for one long file: decoding and the default, with CPU seconds and peak memory of one pass."""
    ways = {name: WAYS[name]() for name in ("decode", "default")}
    rows = time_in_turn({name: partial(way, path) for name, way in ways.items()}, repeat)
    found = figures(rows, "decode")
    return [{"files": title, "way": way, **found[way], **once(way, path)} for way in ways]


def main() -> None:
    """Measure the folder and the long files, and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=200, help="number of short clips in the folder")
    parser.add_argument("--lengths", type=float, nargs="+", default=[60, 3600], help="minimum seconds")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        clips = make_segments(arguments.clips, arguments.count, Path(place), np.random.default_rng(0))
        found = folder(clips, arguments.repeat)
    show(found, None)
    long_rows = []
    for seconds in arguments.lengths:
        with tempfile.TemporaryDirectory() as place:
            file = Path(place) / "long.mp4"
            repeat_video(arguments.clips[0], seconds, file)
            long_rows += long(file, f"{arguments.clips[0].name}, {duration(file):.0f} s", arguments.repeat)
    show(long_rows, None)
    save({"repeat": arguments.repeat, "folder": found, "long": long_rows}, arguments.json)


if __name__ == "__main__":
    main()
