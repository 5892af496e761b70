"""Read age, gender and ethnicity of UTKFace from its file names (Zhang, Song and Qi, CVPR 2017).

The set has no official split. The first byte of the SHA-256 of the file name, modulo 10, assigns an image to testing
(0), validation (1) or training (all others).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

MIN_FACE = 60  # pixels; a face fills its image of 200 pixels


@dataclass(frozen=True, slots=True)
class Portrait:
    """One labelled image: age in years, gender 0 male or 1 female, race 0 to 4."""

    path: Path
    age: int
    gender: int
    race: int


def read_split(folder: Path, split: int) -> list[Portrait]:
    """List the images of a split (0 test, 1 validation, 2 training), sorted by name.

    Only the first of identical files is listed. Files whose names lack a field are skipped, because their labels are
    unknown.
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
