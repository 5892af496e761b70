"""One colour for each label, the same in films and plots; pages have theirs, for two themes, in `page/report.css`.

The eight were searched for so that any two differ by 15 (CIEDE2000) at least, also as seen without red, green or blue
cones (Machado et al., IEEE TVCG 15(6), 2009), and stand out by 2.2 to 1 from white and 3 to 1 from the dark ground of
films.
"""

from __future__ import annotations

from collections.abc import Sequence

Colour = tuple[int, int, int]

EMOTIONS: dict[str, str] = {
    "anger": "#B33B02",
    "contempt": "#767E5E",
    "disgust": "#0CC779",
    "fear": "#905DC0",
    "happiness": "#FF7505",
    "neutral": "#A9A9A9",
    "sadness": "#2A817E",
    "surprise": "#91A2FB",
}


def colours(labels: Sequence[str]) -> dict[str, str]:
    """A colour `#RRGGBB` for each label; those that are no emotion take what the others leave, in order.

    Beyond eight labels colours come again.
    """
    free = [colour for label, colour in EMOTIONS.items() if label not in labels] or list(EMOTIONS.values())
    others = [label for label in labels if label not in EMOTIONS]
    given = {label: free[number % len(free)] for number, label in enumerate(others)}
    return {label: EMOTIONS.get(label) or given[label] for label in labels}


def rgb(colour: str) -> Colour:
    """`#RRGGBB` -> red, green, blue, 0 to 255."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
