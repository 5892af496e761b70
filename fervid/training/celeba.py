"""Photographs of known people: a subset of CelebA, uncropped (Liu et al., ICCV 2015).

The folder holds `identity_CelebA.txt` (lines of picture name and person number) and, in folders below it, pictures
under their names in CelebA (matush97/faceRecognition).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Photo:
    """One photograph and the number of the person in it, as the set counts them."""

    path: Path
    person: int


def read(folder: Path) -> list[Photo]:
    """Every photograph that the list names and the folder holds, sorted by name.

    The list names all 202,599 pictures of CelebA; the folder holds some thousands.

    Raises:
        FileNotFoundError: The list is missing.
    """
    people: dict[str, int] = {}
    for line in (folder / "identity_CelebA.txt").read_text().splitlines():
        name, _, person = line.partition(" ")
        if person.strip().isdigit():
            people[name] = int(person)
    pictures = {path.name: path for path in sorted(folder.rglob("*.jpg")) if path.name in people}
    return [Photo(path, people[name]) for name, path in sorted(pictures.items())]
