"""Measures age and gender on the test images of UTKFace, through the ordinary detector, crop and network.

    python -m fervid.train.utkface --utkface DATA/UTKFace/unlabeled

The set has no official split: an image is for testing if the first byte of the SHA-256 of its file name is 0 modulo 10.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from fervid import models
from fervid.align import crop
from fervid.detect import Detector
from fervid.network import FaceNetwork
from fervid.records import Image
from fervid.train.ferplus import locate, stills_detector
from fervid.train.measure import report


@dataclass(frozen=True, slots=True)
class Portrait:
    """One labelled file: age in years, gender 0 male or 1 female, race 0 to 4."""

    path: Path
    age: int
    gender: int
    race: int


def read_split(folder: Path, split: int) -> list[Portrait]:
    """Portraits of one split (0 test, 1 validation, 2 training), sorted by name; of identical files the first counts.

    Files whose name lacks a field are left out, as their labels are not known.
    """
    portraits, seen = [], set()
    for path in sorted(folder.glob("*.jpg")):
        fields = path.name.split("_")
        digest = hashlib.sha256(path.read_bytes()).digest()
        if len(fields) != 4 or digest in seen:
            continue
        seen.add(digest)
        if min(hashlib.sha256(path.name.encode()).digest()[0] % 10, 2) == split:
            portraits.append(Portrait(path, *(int(field) for field in fields[:3])))
    return portraits


def crops(portraits: list[Portrait], detector: Detector, size: int) -> tuple[list[Image], list[Portrait]]:
    """Face crops, and the portraits in which a face was found."""
    cut, kept = [], []
    for portrait in portraits:
        image = np.asarray(cv2.imread(str(portrait.path), cv2.IMREAD_COLOR_RGB), np.uint8)
        if (face := locate(image, detector)) is not None:
            cut.append(crop(image, face, size))
            kept.append(portrait)
    return cut, kept


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utkface", type=Path, required=True, help="folder of AGE_GENDER_RACE_TIME.jpg.chip.jpg files")
    parser.add_argument("--network", default=models.DEFAULTS["network"])
    arguments = parser.parse_args()
    loaded = models.load(arguments.network, "network", 2)
    portraits = read_split(arguments.utkface, split=0)
    cut, kept = crops(portraits, stills_detector(), loaded.card["input"]["size"])
    scores = FaceNetwork(loaded.session, loaded.card)(np.stack(cut))
    error = np.abs(scores.age - np.array([p.age for p in kept], np.float32))
    male = np.array([p.gender == 0 for p in kept])
    right = ((scores.gender >= loaded.card["genders"]["male"]) == male).astype(np.float32)
    figures = report(len(kept), lambda rows: {"age_mae": error[rows].mean(), "gender_accuracy": right[rows].mean()})
    print(json.dumps({"images": len(portraits), "faces_found": len(kept), **figures}, indent=2))


if __name__ == "__main__":
    main()
