"""Time annotating a video relative to decoding and encoding it, in pairs within one run.

python benchmarks/annotate.py CLIP... [--repeat 3] [--json FILE]

PyAV decodes and encodes with all threads, without conversion, panel or sound. The encoder has its default settings, as
in `ffmpeg -i film.mp4 out.mp4`; a second row has the faster settings of `fervid annotate`. Both rows have the loss of
the encoder, and the time of every row is divided by both. Machines drift, so the ratio is computed within each
repetition, and the result is the median of the ratios. Annotating consists of analysing and drawing; drawing includes
decoding and encoding.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
from network import show
from timing import decode, medians, ratios, round_figures, save, time_in_turn

import fervid
from fervid.analysis.windows import WindowSpec
from fervid.render import annotate_video

BASE, QUICK = "decode and encode", "with fervid's settings"
WINDOWS = WindowSpec(2.0, 0.5)


def encode(path: Path, target: Path, settings: Mapping[str, str]) -> None:
    """Decode every frame of a video and encode it again."""
    with av.open(str(path)) as source, av.open(str(target), "w") as written:
        video = source.streams.video[0]
        video.thread_type = "AUTO"
        stream = written.add_stream(annotate_video.CODEC, rate=video.average_rate, options=dict(settings))
        stream.width, stream.height = (side // 2 * 2 for side in (video.width, video.height))
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", video.time_base
        for frame in source.decode(video):
            frame.pict_type = av.video.frame.PictureType.NONE  # let the encoder choose the type
            written.mux(stream.encode(frame))
        written.mux(stream.encode())


def loss(path: Path, settings: Mapping[str, str], folder: Path) -> dict[str, float]:
    """Measure the loss of encoding a video: peak signal-to-noise ratio of the luma in dB, and file size in MB."""
    target = folder / "encoded.mp4"
    encode(path, target, settings)
    with av.open(str(path)) as original, av.open(str(target)) as encoded:
        pairs = zip(original.decode(video=0), encoded.decode(video=0), strict=True)
        greys = ([frame.to_ndarray(format="gray").astype(np.float32) for frame in pair] for pair in pairs)
        errors = [np.square(ours[: theirs.shape[0], : theirs.shape[1]] - theirs).mean() for ours, theirs in greys]
    noise = max(float(np.mean(errors)), 1e-9)
    return {"dB": round_figures(10 * np.log10(255**2 / noise)), "MB": round_figures(target.stat().st_size / 1e6)}


def measure(path: Path, classifier: fervid.Classifier, repeat: int) -> dict[str, Any]:
    """Measure one video."""
    timeline, sampling = classifier.build_timeline(path, WINDOWS), classifier.options.sampling
    with TemporaryDirectory() as folder:
        target = Path(folder) / "out.mp4"

        def draw() -> None:
            annotate_video.annotate(path, target, timeline, sampling, force=True)

        def annotate() -> None:
            annotate_video.annotate(path, target, classifier.build_timeline(path, WINDOWS), sampling, force=True)

        ways = {
            BASE: partial(encode, path, target, {}),
            QUICK: partial(encode, path, target, annotate_video.ENCODER_OPTIONS),
            "analyse": partial(classifier.build_timeline, path, WINDOWS),
            "draw": draw,
            "annotate": annotate,
        }
        rows = time_in_turn(ways, repeat)
        lost = {
            name: loss(path, settings, Path(folder))
            for name, settings in ((BASE, {}), (QUICK, annotate_video.ENCODER_OPTIONS))
        }
    frames, ratio = decode(path), {base: ratios(rows, base) for base in (BASE, QUICK)}
    return {
        "clip": path.name,
        "frames": frames,
        "people": len(timeline.people),
        "seconds": round_figures(timeline.end - timeline.start),
        "ways": {
            name: {"s": round_figures(spent)}
            | {f"times {base}": round_figures(times[name]) for base, times in ratio.items()}
            | {"frames/s": round_figures(frames / spent)}
            | lost.get(name, {"dB": "", "MB": ""})
            for name, spent in medians(rows).items()
        },
    }


def table(videos: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Make a row for each video and step."""
    return [{"clip": one["clip"], "way": way, **found} for one in videos for way, found in one["ways"].items()]


def main() -> None:
    """Measure each video and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    classifier = fervid.load_classifier()
    videos = [measure(path, classifier, arguments.repeat) for path in arguments.clips]
    show(table(videos), None)
    save({"repeat": arguments.repeat, "clips": videos}, arguments.json)


if __name__ == "__main__":
    main()
