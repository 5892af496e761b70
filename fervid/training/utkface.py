"""Age, gender and ethnicity of UTKFace, from its file names (Zhang, Song and Qi, CVPR 2017).

The set has no official split: by the first byte of the SHA-256 of its file name modulo 10 a picture is for testing (0),
for validation (1) or for training.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

MIN_FACE = 60  # pixels, in pictures of 200 that a face fills


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
