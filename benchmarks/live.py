"""Measure the latency of the records of a live stream.

python benchmarks/live.py CLIP [--formats matroska mpegts mp4] [--flags='--every-frame'] [--json FILE]

The clip is sent through a pipe in real time, as by a camera, without re-encoding. The latency of a record is the time
from sending the last frame of its window until its line can be read. It includes the wait for the next frame, which
ends the window, the muxer, the pipe, the decoder and the models. The first window is reported separately, because the
decoder probes the stream first. The last one, which ends with the stream, is left out.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import av
from network import show
from timing import COMMAND, round_figures

MUXERS: Mapping[str, dict[str, str]] = {
    "matroska": {"cluster_time_limit": "100"},
    "mpegts": {"flush_packets": "1"},
    "mp4": {"movflags": "frag_every_frame+empty_moov+default_base_moof"},
}
"""Options that make each muxer send frames immediately; Matroska otherwise buffers them for seconds."""


class _Sink:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        self._file.write(data)
        self._file.flush()
        return len(data)


def send(path: Path, form: str, file: IO[bytes], pace: float = 1.0) -> Iterator[tuple[float, float]]:
    """Write a clip at the rate of its clock; yield for each frame its time in seconds and the moment when it was sent.

    `form` is a key of `MUXERS`; `pace` is the speed relative to real time.
    """
    with av.open(str(path)) as source, av.open(_Sink(file), "w", format=form, options=MUXERS[form]) as out:
        video = source.streams.video[0]
        sent = out.add_stream_from_template(video)
        started, first = time.monotonic(), float((video.start_time or 0) * video.time_base)
        for packet in source.demux(video):
            if packet.pts is None:
                continue
            moment = float(packet.pts * packet.time_base) - first
            time.sleep(max(0.0, started + float(packet.dts * packet.time_base - first) / pace - time.monotonic()))
            packet.stream = sent
            out.mux(packet)
            yield moment, time.monotonic()


def latencies(sent: Mapping[float, float], ends: Sequence[tuple[float, float]]) -> list[float]:
    """Compute for each record the seconds since the last frame of its window was sent.

    `sent` maps the time of a frame in the stream to the moment when it was sent; `ends` are the end of each window in
    the stream and the moment when its record was readable.
    """
    return [readable_at - sent[max(moment for moment in sent if moment < end - 1e-3)] for end, readable_at in ends]


def measure(path: Path, form: str, flags: Sequence[str] = (), pace: float = 1.0) -> dict[str, Any]:
    """Measure the latencies of one clip."""
    command = [*COMMAND, "timeline", "-", "--format", "jsonl", *flags]
    sent: dict[float, float] = {}
    found: list[tuple[dict[str, Any], float]] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        entry, lines = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
        reading = threading.Thread(target=lambda: found.extend((json.loads(line), time.monotonic()) for line in lines))
        reading.start()
        time.sleep(3)  # for loading the models
        sent.update(send(path, form, entry, pace))
        entry.close()
        reading.join()
    ends = [(record["end_s"], readable_at) for record, readable_at in found]
    first, *rest = latencies(sent, ends[:-1])
    return {
        "format": form,
        "windows": len(found),
        "first ms": round_figures(1000 * first),
        "median ms": round_figures(1000 * statistics.median(rest)),
        "slowest ms": round_figures(1000 * max(rest)),
        "by elapsed_s, ms": round_figures(1000 * statistics.median(record["elapsed_s"] for record, _ in found[1:-1])),
        "with frames dropped": sum((record["error"] or {}).get("code") == "dropped" for record, _ in found),
    }


def main() -> None:
    """Measure each format and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path, help="H.264 clip of at least ten seconds")
    parser.add_argument("--formats", nargs="+", choices=MUXERS, default=list(MUXERS))
    parser.add_argument("--flags", type=shlex.split, default=[], help="options for `fervid timeline -`")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    show([measure(arguments.clip, form, arguments.flags) for form in arguments.formats], arguments.json)


if __name__ == "__main__":
    main()
