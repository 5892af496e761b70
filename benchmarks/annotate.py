"""Times annotating a film against decoding and encoding it, in pairs within one run.

python benchmarks/annotate.py CLIP... [--repeat 3] [--json FILE]

Decoding and encoding is that of PyAV with all threads and the settings of `fervid annotate`, and nothing in between: no
conversion, no panel under the picture, no sound. Machines drift, so each repetition takes its own ratio, and the median
of the ratios counts. Looking and drawing are what annotating consists of; drawing includes decoding and encoding.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
from network import show
from timing import decode, medians, paired, ratios, rounded, save

import fervid
from fervid.gather import Windows
from fervid.view import film

BASE = "decode and encode"
CUT = Windows(2.0, 0.5)


def encode(path: Path, target: Path) -> None:
    """Decode every frame of a film and encode it again."""
    with av.open(str(path)) as source, av.open(str(target), "w") as written:
        pictures = source.streams.video[0]
        pictures.thread_type = "AUTO"
        stream = written.add_stream(film.CODEC, rate=pictures.average_rate, options=film.QUALITY)
        stream.width, stream.height = (side // 2 * 2 for side in (pictures.width, pictures.height))
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", pictures.time_base
        for frame in source.decode(pictures):
            frame.pict_type = av.video.frame.PictureType.NONE  # whatever it was, the encoder chooses
            written.mux(stream.encode(frame))
        written.mux(stream.encode())


def measure(path: Path, classifier: fervid.Classifier, repeat: int) -> dict[str, Any]:
    """Everything about one film."""
    story, sampling = classifier.follow(path, CUT), classifier.options.sampling
    with TemporaryDirectory() as folder:
        target = Path(folder) / "out.mp4"

        def draw() -> None:
            film.annotate(path, target, story, sampling, force=True)

        def annotate() -> None:
            film.annotate(path, target, classifier.follow(path, CUT), sampling, force=True)

        ways = {
            BASE: partial(encode, path, target),
            "look": partial(classifier.follow, path, CUT),
            "draw": draw,
            "annotate": annotate,
        }
        rows = paired(ways, repeat)
    frames, ratio = decode(path), ratios(rows, BASE)
    return {
        "clip": path.name,
        "frames": frames,
        "people": len(story.people),
        "seconds": rounded(story.end - story.start),
        "ways": {
            name: {"s": rounded(spent), f"times {BASE}": rounded(ratio[name]), "frames/s": rounded(frames / spent)}
            for name, spent in medians(rows).items()
        },
    }


def table(films: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each film and way."""
    return [{"clip": one["clip"], "way": way, **found} for one in films for way, found in one["ways"].items()]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    classifier = fervid.load()
    films = [measure(path, classifier, arguments.repeat) for path in arguments.clips]
    show(table(films), None)
    save({"repeat": arguments.repeat, "clips": films}, arguments.json)


if __name__ == "__main__":
    main()
