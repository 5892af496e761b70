"""Colours that color-blind viewers can distinguish, on white and on dark."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from fervid.render.colors import EMOTIONS, assign_colors, hex_to_rgb

SEEN = {
    "all cones": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""Machado et al. 2009, table 1, severity 1, of linear RGB."""


def linear(colour: str) -> np.ndarray:
    value = np.array(hex_to_rgb(colour)) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(colour: str, other: str) -> float:
    dark, light = sorted(float(linear(one) @ [0.2126, 0.7152, 0.0722]) for one in (colour, other))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("cones", SEEN)
def test_colors_differ_for_color_blind_viewers(cones: str) -> None:
    seen = [np.clip(linear(colour) @ np.array(SEEN[cones]).T, 0, 1) for colour in EMOTIONS.values()]
    shown = [np.where(one <= 0.0031308, 12.92 * one, 1.055 * one ** (1 / 2.4) - 0.055) for one in seen]
    lab = [rgb2lab(one.reshape(1, 1, 3)).ravel() for one in shown]
    assert min(deltaE_ciede2000(a, b) for a, b in combinations(lab, 2)) > 15


def test_colors_have_contrast() -> None:
    assert min(contrast(colour, "#FFFFFF") for colour in EMOTIONS.values()) > 2.15
    assert min(contrast(colour, "#16181C") for colour in EMOTIONS.values()) > 2.95


def test_emotions_keep_their_color() -> None:
    assert assign_colors(list(EMOTIONS)) == EMOTIONS
    assert assign_colors(["neutral"]) == {"neutral": EMOTIONS["neutral"]}
    mixed = assign_colors(["calm", "anger", "bored"])
    assert mixed["anger"] == EMOTIONS["anger"]
    assert len(set(mixed.values())) == 3
    assert len(set(assign_colors([f"class {i}" for i in range(8)]).values())) == 8
    assert len(assign_colors([f"class {i}" for i in range(20)])) == 20
    assert len(assign_colors([*EMOTIONS, "ninth"])) == 9
    assert assign_colors([]) == {}
    assert hex_to_rgb("#0CC779") == (12, 199, 121)
