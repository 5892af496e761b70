"""Read photographs with identities: a subset of CelebA, uncropped (Liu et al., ICCV 2015).

The folder has `identity_CelebA.txt` (lines of image name and person number) and, in subfolders, images with their
names in CelebA (matush97/faceRecognition).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Photo:
    """One photograph and the identity number of the person in it."""

    path: Path
    person: int


def read(folder: Path) -> list[Photo]:
    """List the photographs that have an identity and are in the folder, sorted by name.

    The identity file covers all 202,599 images of CelebA; the folder has some thousands of them.

    Raises:
        FileNotFoundError: The identity file is missing.
    """
    people: dict[str, int] = {}
    for line in (folder / "identity_CelebA.txt").read_text().splitlines():
        name, _, person = line.partition(" ")
        if person.strip().isdigit():
            people[name] = int(person)
    images = {path.name: path for path in sorted(folder.rglob("*.jpg")) if path.name in people}
    return [Photo(path, people[name]) for name, path in sorted(images.items())]
