"""The layout of an annotated frame, and the colours and text that are drawn on it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2

from fervid.core.records import Image
from fervid.render.colors import Color

MAX_BARS = 8  # labels that have a bar at most
BACKGROUND: Color = (22, 24, 28)
WHITE: Color = (255, 255, 255)
BRIGHT: Color = (240, 240, 240)
PALE: Color = (190, 192, 196)
FAINT: Color = (140, 144, 150)
GRID: Color = (44, 47, 53)
_MIN_WIDTH = 288  # pixels: narrower frames get a margin, so that the panel has room
_MIN_TEXT, _MAX_TEXT = 11, 40  # height of a line of text in pixels
_LINES_PER_SIDE = 42  # lines of text that fit into the shorter side of a frame
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_HEIGHT = 30  # pixels of a line at scale 1


@dataclass(frozen=True, slots=True)
class OverlayLayout:
    """Positions and sizes in an annotated video of one frame size.

    Attributes:
        width: Width of a frame in pixels.
        height: Height of a frame in pixels.
        text: Height of a line of text in pixels.
        rows: Number of text lines of the panel.
    """

    width: int
    height: int
    text: int
    rows: int

    @classmethod
    def of(cls, width: int, height: int, labels: int) -> OverlayLayout:
        """Return the layout for frames of that size and that number of labels."""
        text = round(min(max(min(width, height) / _LINES_PER_SIDE, _MIN_TEXT), _MAX_TEXT))
        return cls(width, height, text, max(4, min(labels, MAX_BARS)) + 1)

    @property
    def line(self) -> int:
        """Distance of two lines of text in pixels."""
        return round(1.25 * self.text)

    @property
    def panel(self) -> int:
        """Height of the panel in pixels."""
        return self.rows * self.line + self.text

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of frame and panel together, both even, as encoders require."""
        return round_up_to_even(max(self.width, _MIN_WIDTH)), (
            round_up_to_even(self.height) + round_up_to_even(self.panel)
        )


def round_up_to_even(length: int) -> int:
    """Return the length, plus one if it is odd."""
    return length + length % 2


def put_text(image: Image, text: str, x: int, y: int, height: int, color: Color) -> None:
    """Draw a line of text with its upper left corner at x, y."""
    baseline = (x, y + round(0.78 * height))
    cv2.putText(image, text, baseline, _FONT, height / _FONT_HEIGHT, color, _stroke_width(height), cv2.LINE_AA)


def text_width(text: str, height: int) -> int:
    """Return the width in pixels of a line of text of that height."""
    (width, _), _ = cv2.getTextSize(text, _FONT, height / _FONT_HEIGHT, _stroke_width(height))
    return int(width)


def _stroke_width(height: int) -> int:
    return max(1, round(height / 16))
