"""Measure what detection on the luma plane and batches of faces across clips could save.

    python benchmarks/luma.py CLIP...

For each clip, of every fifth frame: the conversion to RGB and to grey, and full detection on both. Then the face model
in batches of several sizes. CPU milliseconds on one thread.
"""

from __future__ import annotations

import sys
import time
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np

from fervid.analysis.detector import Detector
from fervid.analysis.face_model import FaceModel
from fervid.models import registry

FRAMES = 60
BATCHES = (1, 2, 4, 8, 16, 32)
REPEATS = 15


def measure_clip(path: Path, detector: Detector) -> None:
    """Print milliseconds per frame, and the number of faces found."""
    with av.open(str(path)) as container:
        frames = list(islice(islice(container.decode(video=0), 0, None, 5), FRAMES))
    begin = time.thread_time()
    colour = [frame.to_ndarray(format="rgb24", threads=1) for frame in frames]
    converted = time.thread_time()
    grey = [frame.to_ndarray(format="gray", threads=1) for frame in frames]
    end = time.thread_time()
    in_colour = sum(len(detector.detect(image)) for image in colour)
    in_grey = sum(len(detector.detect(np.repeat(image[..., None], 3, axis=2))) for image in grey)
    to_rgb, to_grey = (1e3 * seconds / len(frames) for seconds in (converted - begin, end - converted))
    print(
        f"{path.name}: to RGB {to_rgb:.2f} ms, to grey {to_grey:.2f} ms; faces {in_colour} in colour, {in_grey} in grey"
    )


def main() -> None:
    """Measure and print."""
    cv2.setNumThreads(1)
    model = registry.load_model("blazeface-back", "detector", 1)
    for name in sys.argv[1:]:
        measure_clip(Path(name), Detector(model.session, model.card))
    model = registry.load_model("mobilenetv1", "face_model", 1)
    network = FaceModel(model.session, model.card)
    crops = np.random.default_rng(0).integers(0, 255, (max(BATCHES), 128, 128, 3), np.uint8)
    for size in BATCHES:
        times = []
        for _ in range(REPEATS):
            begin = time.process_time()
            network(crops[:size])
            times.append(1e3 * (time.process_time() - begin) / size)
        print(f"batch of {size}: {np.median(times):.2f} ms per face")


if __name__ == "__main__":
    main()
