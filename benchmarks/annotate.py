"""Times annotating a film against decoding and encoding it, in pairs within one run.

python benchmarks/annotate.py CLIP... [--repeat 3] [--json FILE]

Decoding and encoding is that of PyAV with all threads and nothing in between: no conversion, no panel, no sound. The
encoder is left to its own settings, as in `ffmpeg -i film.mp4 out.mp4`; a second row has those of `fervid annotate`,
which are quicker. Both rows tell what the encoder loses of the film, and every row is set against both. Machines
drift, so each repetition takes its own ratio, and the median of the ratios counts. Looking and drawing are what
annotating consists of, and drawing includes both codecs.
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
from timing import decode, medians, paired, ratios, rounded, save

import fervid
from fervid.analysis.windows import WindowSpec
from fervid.render import annotate_video

BASE, QUICK = "decode and encode", "with fervid's settings"
CUT = WindowSpec(2.0, 0.5)


def encode(path: Path, target: Path, settings: Mapping[str, str]) -> None:
    """Decode every frame of a film and encode it again."""
    with av.open(str(path)) as source, av.open(str(target), "w") as written:
        pictures = source.streams.video[0]
        pictures.thread_type = "AUTO"
        stream = written.add_stream(annotate_video.CODEC, rate=pictures.average_rate, options=dict(settings))
        stream.width, stream.height = (side // 2 * 2 for side in (pictures.width, pictures.height))
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", pictures.time_base
        for frame in source.decode(pictures):
            frame.pict_type = av.video.frame.PictureType.NONE  # whatever it was, the encoder chooses
            written.mux(stream.encode(frame))
        written.mux(stream.encode())


def loss(path: Path, settings: Mapping[str, str], folder: Path) -> dict[str, float]:
    """What encoding a film costs: the peak signal-to-noise ratio of its luma in dB, and the size of the file in MB."""
    target = folder / "encoded.mp4"
    encode(path, target, settings)
    with av.open(str(path)) as annotate_video, av.open(str(target)) as again:
        pairs = zip(annotate_video.decode(video=0), again.decode(video=0), strict=True)
        greys = ([frame.to_ndarray(format="gray").astype(np.float32) for frame in pair] for pair in pairs)
        errors = [np.square(ours[: theirs.shape[0], : theirs.shape[1]] - theirs).mean() for ours, theirs in greys]
    noise = max(float(np.mean(errors)), 1e-9)
    return {"dB": rounded(10 * np.log10(255**2 / noise)), "MB": rounded(target.stat().st_size / 1e6)}


def measure(path: Path, classifier: fervid.Classifier, repeat: int) -> dict[str, Any]:
    """Everything about one film."""
    story, sampling = classifier.build_timeline(path, CUT), classifier.options.sampling
    with TemporaryDirectory() as folder:
        target = Path(folder) / "out.mp4"

        def draw() -> None:
            annotate_video.annotate(path, target, story, sampling, force=True)

        def annotate() -> None:
            annotate_video.annotate(path, target, classifier.build_timeline(path, CUT), sampling, force=True)

        ways = {
            BASE: partial(encode, path, target, {}),
            QUICK: partial(encode, path, target, annotate_video.ENCODER_OPTIONS),
            "look": partial(classifier.build_timeline, path, CUT),
            "draw": draw,
            "annotate": annotate,
        }
        rows = paired(ways, repeat)
        lost = {
            name: loss(path, settings, Path(folder))
            for name, settings in ((BASE, {}), (QUICK, annotate_video.ENCODER_OPTIONS))
        }
    frames, ratio = decode(path), {base: ratios(rows, base) for base in (BASE, QUICK)}
    return {
        "clip": path.name,
        "frames": frames,
        "people": len(story.people),
        "seconds": rounded(story.end - story.start),
        "ways": {
            name: {"s": rounded(spent)}
            | {f"times {base}": rounded(times[name]) for base, times in ratio.items()}
            | {"frames/s": rounded(frames / spent)}
            | lost.get(name, {"dB": "", "MB": ""})
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
    classifier = fervid.load_classifier()
    films = [measure(path, classifier, arguments.repeat) for path in arguments.clips]
    show(table(films), None)
    save({"repeat": arguments.repeat, "clips": films}, arguments.json)


if __name__ == "__main__":
    main()
