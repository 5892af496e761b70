"""Colours of labels in videos and plots; those of HTML reports are in `templates/report.css`, for two themes.

Any two of the eight differ by at least 15 (CIEDE2000), also for viewers without red, green or blue cones (Machado et
al., IEEE TVCG 15(6), 2009). Their contrast is at least 2.2:1 on white and 3:1 on the dark background of videos.
"""

from __future__ import annotations

from collections.abc import Sequence

Color = tuple[int, int, int]

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


def assign_colors(labels: Sequence[str]) -> dict[str, str]:
    """Return a colour `#RRGGBB` for each label.

    Labels that are no emotion get the unused colours in order; beyond eight labels colours repeat.
    """
    unused = [color for label, color in EMOTIONS.items() if label not in labels] or list(EMOTIONS.values())
    new_labels = [label for label in labels if label not in EMOTIONS]
    new_colors = {label: unused[number % len(unused)] for number, label in enumerate(new_labels)}
    return {label: EMOTIONS.get(label) or new_colors[label] for label in labels}


def hex_to_rgb(color: str) -> Color:
    """Convert `#RRGGBB` to red, green and blue from 0 to 255."""
    red, green, blue = bytes.fromhex(color.removeprefix("#"))
    return red, green, blue
