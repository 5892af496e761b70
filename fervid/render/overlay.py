"""What is drawn on the frames of a film, and the panel under them: arrays in, arrays out.

Everything is sized by the picture, so that it can be read at 180 lines and is not in the way at 1080. What lies on the
picture has a dark edge and a light core, or a dark ground, so that it shows on light and dark scenes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from fervid.analysis.clip_timeline import ClipTimeline, PersonTrack
from fervid.core.records import Box, Image
from fervid.render.colors import Colour, colours, rgb

CHART_SECONDS = 20.0  # seconds that the chart shows at once
MAX_BARS = 8  # labels at most that have a bar
MAX_PEOPLE_LANES = 4  # people at most that have a band
_NARROWEST = 288  # pixels: a narrower picture gets a margin, or the panel would have no room
_SMALLEST, _LARGEST = 11, 40  # pixels that a line of text is high
_SHARE = 42  # of the picture's shorter side that it is high
_GROUND: Colour = (22, 24, 28)
_INK: Colour = (240, 240, 240)
_PALE: Colour = (190, 192, 196)
_FAINT: Colour = (140, 144, 150)
_LINE: Colour = (44, 47, 53)
_WHITE: Colour = (255, 255, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_HEIGHT = 30  # pixels of a line at scale 1
_SUBPIXEL = 3  # bits
_OPAQUE = 0.75

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class OverlayLayout:
    """Where everything goes in a film of one size.

    Attributes:
        width: Of a picture in pixels.
        height: Likewise.
        text: Pixels that a line of text is high.
        rows: Lines of the panel.
    """

    width: int
    height: int
    text: int
    rows: int

    @classmethod
    def of(cls, width: int, height: int, labels: int) -> OverlayLayout:
        """The layout for pictures of that size and so many labels."""
        text = round(min(max(min(width, height) / _SHARE, _SMALLEST), _LARGEST))
        return cls(width, height, text, max(4, min(labels, MAX_BARS)) + 1)

    @property
    def line(self) -> int:
        """Pixels from one line of text to the next."""
        return round(1.25 * self.text)

    @property
    def panel(self) -> int:
        """Height of the panel in pixels."""
        return self.rows * self.line + self.text

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the whole, both even, as encoders want them."""
        return _even(max(self.width, _NARROWEST)), _even(self.height) + _even(self.panel)


@dataclass(frozen=True, slots=True, eq=False)
class FaceOverlay:
    """One person in one frame.

    Attributes:
        id: Of the person.
        box: x1, y1, x2, y2 in pixels of the frame.
        probabilities: (c,) in the order of the labels.
        about: What else is known of the person, in words.
    """

    id: int
    box: Box
    probabilities: Doubles
    about: str = ""

    def scaled(self, across: float, down: float) -> FaceOverlay:
        """The same in a picture of another size."""
        x1, y1, x2, y2 = self.box
        return replace(self, box=(across * x1, down * y1, across * x2, down * y2))


class FrameAnnotator:
    """Draws one film: call it with a picture and its time."""

    def __init__(self, story: ClipTimeline, layout: OverlayLayout) -> None:
        """Get ready for pictures of one size.

        Args:
            story: Who is where, and what they show.
            layout: Of those pictures.
        """
        self._story, self._layout = story, layout
        named = colours(story.labels)
        self._colours = [rgb(named[label]) for label in story.labels]
        self._rows = _rows(story)
        self._blank = np.full((_even(layout.panel), layout.size[0], 3), _GROUND, np.uint8)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of what is shown, both even, as encoders want them."""
        return self._layout.size

    def __call__(self, image: Image, time: float, canvas: Image | None = None) -> Image:
        """A frame as it is shown, the panel under the picture.

        Args:
            image: (h, w, 3) uint8 RGB.
            time: Seconds of presentation time.
            canvas: What to draw on; None for a new one.

        Returns:
            The canvas, (height, width, 3) of `size`.
        """
        layout, now = self._layout, np.array([time])
        wide, high = layout.size
        if canvas is None:
            canvas = np.empty((high, wide, 3), np.uint8)
        boxes = [(person, person.box(time)) for person in self._story.people]
        marks = [FaceOverlay(person.id, box, person.says(now)[0], person.about) for person, box in boxes if box]
        height, width = image.shape[:2]
        if (width, height) != (layout.width, layout.height):  # the size has changed on the way
            image = np.asarray(cv2.resize(image, (layout.width, layout.height), interpolation=cv2.INTER_AREA), np.uint8)
            factor = (layout.width / width, layout.height / height)
            marks = [one.scaled(*factor) for one in marks]
        left = (wide - layout.width) // 4 * 2
        picture, panel = canvas[: -_even(layout.panel)], canvas[-_even(layout.panel) :]
        _paste(picture, image, left)
        draw_people(picture[:, left : left + layout.width], marks, self._story.labels, self._colours, layout)
        self._panel(panel, time, marks[0].id if marks else None)
        return canvas

    def _panel(self, panel: Image, time: float, shown: int | None) -> None:
        layout, story = self._layout, self._story
        panel[:] = self._blank
        person = story.people[shown or 0] if story.people else None
        says = person.says(np.array([time]))[0] if person and shown is not None else None
        names = [story.labels[row] for row in self._rows]
        ground = [self._colours[row] for row in self._rows]
        title = "nobody is seen" if shown is None else f"person {shown}"
        middle = draw_probability_bars(panel, layout, title, names, ground, None if says is None else says[self._rows])
        right = panel.shape[1] - layout.text
        begin = min(max(story.start, time - CHART_SECONDS), max(story.start, story.end - CHART_SECONDS))
        area = (middle + layout.text, layout.text // 2, right, panel.shape[0] - layout.text // 2)
        draw_probability_chart(
            panel, area, layout, story, self._rows, self._colours, (begin, begin + self._seconds), time, person
        )

    @property
    def _seconds(self) -> float:
        return max(min(CHART_SECONDS, self._story.end - self._story.start), 1e-3)


def draw_people(
    image: Image, marks: Sequence[FaceOverlay], labels: Sequence[str], ink: Sequence[Colour], layout: OverlayLayout
) -> Image:
    """Draw people onto a picture, the main person last.

    Args:
        image: (h, w, 3) uint8 RGB; drawn on, and returned.
        marks: The people.
        labels: c names.
        ink: c colours.
        layout: For the size of text and lines.
    """
    for one in reversed(marks):
        _box(image, one.box, ink[int(one.probabilities.argmax())], layout)
    for one in reversed(marks):
        _draw_label(image, one, labels, ink, layout)
    return image


def draw_probability_bars(
    panel: Image,
    layout: OverlayLayout,
    title: str,
    labels: Sequence[str],
    ink: Sequence[Colour],
    shares: Doubles | None,
) -> int:
    """Draw a bar for each label at the left of a panel.

    Args:
        panel: (h, w, 3) uint8 RGB, drawn on.
        layout: For the size of text.
        title: Over the bars.
        labels: A name for each.
        ink: A colour for each.
        shares: (n,) from 0 to 1; None for no bars.

    Returns:
        Where they end, in pixels from the left.
    """
    text, line = layout.text, layout.line
    names = max((_width(label, text) for label in (*labels, "surprise")), default=0)
    wide = max(_width("100 %", text), round(0.08 * panel.shape[1]))
    left, middle = text, text + names + text // 2
    end = middle + wide + text // 4 + _width("100%", text)
    _put_text(panel, title, left, text // 2, text, _INK)
    thick = max(2, round(0.55 * text))
    for row, (label, colour) in enumerate(zip(labels, ink, strict=True), start=1):
        y = text // 2 + row * line
        best = shares is not None and shares.argmax() == row - 1
        _put_text(panel, label, left, y, text, _INK if best or shares is None else _PALE)
        top = y + (text - thick) // 2
        panel[top : top + thick, middle : middle + wide] = _LINE
        if shares is not None:
            share = float(shares[row - 1])
            panel[top : top + thick, middle : middle + round(wide * share)] = colour
            _put_text(panel, f"{100 * share:.0f}%", middle + wide + text // 4, y, text, _INK if best else _PALE)
    return int(end)


def draw_probability_chart(
    panel: Image,
    area: tuple[int, int, int, int],
    layout: OverlayLayout,
    story: ClipTimeline,
    rows: Sequence[int],
    ink: Sequence[Colour],
    shown: tuple[float, float],
    now: float,
    person: PersonTrack | None,
) -> None:
    """Draw what one person has shown so far as lines, and the label of each person as a band under them.

    Args:
        panel: (h, w, 3) uint8 RGB, drawn on.
        area: Left, top, right, bottom in pixels.
        layout: For the size of text.
        story: Whose people have bands.
        rows: Which labels have lines.
        ink: A colour for each label of the story.
        shown: From when to when, in seconds.
        now: The time of the frame; what comes after it is left empty.
        person: Whose lines they are; None for nobody's.
    """
    left, top, right, bottom = area
    people, text = story.people[:MAX_PEOPLE_LANES], layout.text
    lane = max(3, round(0.5 * text))
    pitch = lane + max(2, lane // 2)
    number = _width("0", text) + text // 3 if len(people) > 1 else 0
    left += number
    if right - left < 4 * text:
        return
    axis = bottom - text
    bands = axis - len(people) * pitch - text // 4
    begin, end = shown
    per_second = (right - left) / (end - begin)
    for share in (0.0, 0.5, 1.0):
        y = round(bands - share * (bands - top))
        panel[y, left:right] = _LINE
    _ticks(panel, (left, right, axis), layout, shown, story.start)
    until = left + round((min(now, end) - begin) * per_second)
    columns = np.arange(left, until + 1)
    times = begin + (columns - left) / per_second
    if len(columns) > 1:
        if person is not None:
            every = slice(None, None, max(1, text // 8))
            _lines(panel, (columns[every], times[every]), (top, bands), person, rows, ink, max(1, round(text / 11)))
        for place, other in enumerate(people):
            y = bands + text // 4 + place * pitch
            colour = np.array(ink, np.uint8)[other.says(times).argmax(axis=1)]
            there = other.seen(times)
            panel[y : y + lane, columns[there]] = colour[there]
    for place, other in enumerate(people if number else ()):
        small = min(text, max(9, pitch))
        y = bands + text // 4 + place * pitch + (lane - small) // 2
        _put_text(panel, str(other.id), left - number, y, small, _INK)
    cv2.line(panel, (until, top), (until, axis - 1), _INK, max(1, text // 14))


def _lines(
    panel: Image,
    places: tuple[NDArray[np.int64], Doubles],
    rows_between: tuple[int, int],
    person: PersonTrack,
    rows: Sequence[int],
    ink: Sequence[Colour],
    thick: int,
) -> None:
    """One line for each label, broken where the person is not seen."""
    (columns, times), (top, bottom) = places, rows_between
    there = person.seen(times)
    says = person.says(times)
    breaks = np.flatnonzero(np.diff(there.astype(np.int8))) + 1
    parts = [part for part in np.split(np.arange(len(times)), breaks) if there[part[0]]]
    for row in rows:
        ys = bottom - says[:, row] * (bottom - top)
        points = (np.stack([columns, ys], axis=1) * 2**_SUBPIXEL).round().astype(np.int32)
        cv2.polylines(
            panel, [points[part] for part in parts], False, ink[row], thick, lineType=cv2.LINE_AA, shift=_SUBPIXEL
        )


def _ticks(
    panel: Image, place: tuple[int, int, int], layout: OverlayLayout, shown: tuple[float, float], origin: float
) -> None:
    """Times under a chart, as many as have room."""
    (left, right, y), (begin, end) = place, shown
    per_second = (right - left) / (end - begin)
    room = 1.5 * _width(_clock(round(end)), layout.text) / per_second
    step = next((step for step in (0.5, 1, 2, 5, 10, 20) if step >= room), 60)
    for number in range(int(np.ceil(begin / step)), int(end / step) + 1):
        time = number * step
        x, text = left + round((time - begin) * per_second), _clock(time)
        half = _width(text, layout.text) // 2
        if left <= x - half and x + half <= right + layout.text:
            _put_text(panel, text, x - half, y, layout.text, _FAINT)
            panel[y - 2 : y, x : x + 1] = _FAINT


def _clock(time: float) -> str:
    minutes, seconds = divmod(time, 60)
    return f"{seconds:g} s" if time < 60 else f"{int(minutes)}:{seconds:02.0f}"


def _rows(story: ClipTimeline) -> list[int]:
    """The labels that have a bar, in their order: all, or those that are most probable over the film."""
    if len(story.labels) <= MAX_BARS:
        return list(range(len(story.labels)))
    total = sum((person.probabilities.sum(axis=0) for person in story.people), np.zeros(len(story.labels)))
    return sorted(int(row) for row in np.argsort(-total, kind="stable")[:MAX_BARS])


def _box(image: Image, box: Box, colour: Colour, layout: OverlayLayout) -> None:
    thick = max(2, round(layout.text / 7))
    one = 2**_SUBPIXEL
    (x1, y1), (x2, y2) = ((round(x * one), round(y * one)) for x, y in (box[:2], box[2:]))
    for width, ink in ((thick + 2, _GROUND), (thick, colour)):
        cv2.rectangle(image, (x1, y1), (x2, y2), ink, width, cv2.LINE_AA, _SUBPIXEL)


def _draw_label(
    image: Image, one: FaceOverlay, labels: Sequence[str], ink: Sequence[Colour], layout: OverlayLayout
) -> None:
    """Who it is, the label, what else is known, and all probabilities side by side, over the box.

    At the edge of the picture it stays inside.
    """
    text = layout.text
    best = int(one.probabilities.argmax())
    said = f"{one.id}  {labels[best]} {100 * one.probabilities[best]:.0f}%"
    strip = max(3, text // 4)
    lines = [said, *([one.about] if one.about else [])]
    high = round((0.05 + 1.25 * len(lines)) * text) + strip
    wide = max(_width(line, text) for line in (*lines, f"0  {max(labels, key=len)} 100%"))
    wide, (height, width) = wide + text // 2, image.shape[:2]
    x = max(0, min(round(one.box[0]), width - wide))
    y = max(0, min(round(one.box[1]) - high - max(2, text // 6), height - high))
    plate = image[y : y + high, x : x + wide]
    plate[:] = cv2.addWeighted(plate, 1 - _OPAQUE, np.full_like(plate, _GROUND), _OPAQUE, 0)
    for number, line in enumerate(lines):
        _put_text(image, line, x + text // 4, y + round((0.15 + 1.25 * number) * text), text, _WHITE)
    ends = np.round(np.cumsum([0.0, *one.probabilities]) / max(one.probabilities.sum(), 1e-9) * plate.shape[1])
    for colour, start, end in zip(ink, ends[:-1].astype(int), ends[1:].astype(int), strict=True):
        plate[high - strip :, start:end] = colour


def _paste(ground: Image, image: Image, left: int) -> None:
    """Lay a picture onto the ground; what is left beside it is dark, and a last odd row or column goes on."""
    height, width = image.shape[:2]
    ground[:, :left] = _GROUND
    ground[:height, left : left + width] = image
    ground[height:, left : left + width] = image[-1]
    rest = ground[:, left + width :]
    rest[:] = _GROUND
    if rest.shape[1] == 1:
        rest[:height, 0] = image[:, -1]


def _put_text(image: Image, text: str, x: int, y: int, height: int, ink: Colour) -> None:
    """A line of text whose upper left corner is there."""
    place = (x, y + round(0.78 * height))
    cv2.putText(image, text, place, _FONT, height / _FONT_HEIGHT, ink, _weight(height), cv2.LINE_AA)


def _width(text: str, height: int) -> int:
    (width, _), _ = cv2.getTextSize(text, _FONT, height / _FONT_HEIGHT, _weight(height))
    return int(width)


def _weight(height: int) -> int:
    """Pixels that the strokes of a text of that height are thick."""
    return max(1, round(height / 16))


def _even(length: int) -> int:
    return length + length % 2
