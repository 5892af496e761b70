"""The verification pairs of Labeled Faces in the Wild, to test identity on and never to train (Huang et al., 2007).

The folder holds pictures as `PERSON/PERSON_NNNN.jpg`, at any depth, and `pairs.txt` ten folds of 300 pairs of one
person and 300 of two (the unrestricted protocol's file).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fervid.core.records import FloatArray

MIN_FACE = 50  # pixels, in pictures of 250


@dataclass(frozen=True, slots=True)
class Pair:
    """Two pictures by name, whether they show one person, and the fold that they belong to."""

    first: str
    second: str
    same: bool
    fold: int


def read_pairs(path: Path) -> list[Pair]:
    """The pairs in the order of the file.

    Raises:
        ValueError: A line is neither `person n m` nor `person n person m`, or the numbers of lines do not fit.
    """
    lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    header = lines.pop(0) if lines else []
    if len(header) != 2 or not all(number.isdecimal() for number in header):
        raise ValueError(f"{path} does not begin with the numbers of folds and of pairs in each; copy it again")
    folds, half = (int(number) for number in header)
    if len(lines) != folds * half * 2:
        raise ValueError(f"{path} announces {folds * half * 2} pairs and has {len(lines)}; copy it again")
    pairs = []
    for number, line in enumerate(lines):
        if len(line) not in (3, 4) or not (line[1].isdecimal() and line[-1].isdecimal()):
            raise ValueError(f"{path}: {' '.join(line)!r} names no pair")
        person, one, *other = line
        who, two = other if len(other) == 2 else (person, other[0])
        first, second = f"{person}_{int(one):04d}.jpg", f"{who}_{int(two):04d}.jpg"
        pairs.append(Pair(first, second, len(line) == 3, number // (half * 2)))
    return pairs


def correct_pairs(likeness: FloatArray, pairs: list[Pair]) -> NDArray[np.bool_]:
    """(n,) whether each pair is answered rightly, by the threshold that is best on the other folds."""
    same, fold = np.array([p.same for p in pairs]), np.array([p.fold for p in pairs])
    right = np.zeros(len(pairs), bool)
    for number in np.unique(fold):
        tested = fold == number
        candidates = np.unique(likeness[~tested])
        others = np.sort(likeness[~tested & same]), np.sort(likeness[~tested & ~same])
        correct = len(others[0]) - np.searchsorted(others[0], candidates) + np.searchsorted(others[1], candidates)
        right[tested] = (likeness[tested] >= candidates[correct.argmax()]) == same[tested]
    return right
