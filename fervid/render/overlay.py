"""Drawing of predictions on the frames of a video, and of the panel below them: arrays in, arrays out.

All sizes follow the frame size, so that text is readable at 180 lines and unobtrusive at 1080. Boxes have a dark edge
and a light core, and text a dark background, so that both are visible on light and dark scenes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from fervid.analysis.clip_timeline import ClipTimeline
from fervid.core.records import Box, Image
from fervid.render.colors import Color, assign_colors, hex_to_rgb
from fervid.render.overlay_chart import SUBPIXEL_BITS, FloatArray, draw_probability_bars, draw_probability_chart
from fervid.render.overlay_layout import (
    BACKGROUND,
    MAX_BARS,
    WHITE,
    OverlayLayout,
    put_text,
    round_up_to_even,
    text_width,
)

_LABEL_OPACITY = 0.75


@dataclass(frozen=True, slots=True, eq=False)
class FaceOverlay:
    """One person in one frame.

    Attributes:
        id: Number of the person.
        box: x1, y1, x2, y2 in pixels of the frame.
        probabilities: (c,) in the order of the labels.
        attribute_text: Estimated attributes of the person, as text.
    """

    id: int
    box: Box
    probabilities: FloatArray
    attribute_text: str = ""


class FrameAnnotator:
    """Draws the predictions for one video; call it with a frame and its time."""

    def __init__(self, timeline: ClipTimeline, layout: OverlayLayout) -> None:
        """Prepare for frames of the size that the layout is for."""
        self._timeline, self._layout = timeline, layout
        by_label = assign_colors(timeline.labels)
        self._colors = [hex_to_rgb(by_label[label]) for label in timeline.labels]
        self._rows = _rows_with_bars(timeline)
        self._blank_panel = np.full((round_up_to_even(layout.panel), layout.size[0], 3), BACKGROUND, np.uint8)

    def __call__(self, image: Image, time: float, canvas: Image | None = None) -> Image:
        """Draw a frame (h, w, 3) in uint8 RGB with its predictions, and the panel below it.

        `time` is in seconds of presentation time, and `canvas` an array to draw on; None for a new one.

        Returns:
            The canvas, (height, width, 3) of the size of the layout.
        """
        layout, times = self._layout, np.array([time])
        canvas_width, canvas_height = layout.size
        if canvas is None:
            canvas = np.empty((canvas_height, canvas_width, 3), np.uint8)
        height, width = image.shape[:2]
        x_scale, y_scale = layout.width / width, layout.height / height
        faces = []
        for person in self._timeline.people:
            if box := person.box_at(time):
                scaled = (x_scale * box[0], y_scale * box[1], x_scale * box[2], y_scale * box[3])
                probabilities = person.probabilities_at(times)[0]
                faces.append(FaceOverlay(person.id, scaled, probabilities, person.attribute_text))
        if (width, height) != (layout.width, layout.height):  # the frame size changed within the video
            image = np.asarray(cv2.resize(image, (layout.width, layout.height), interpolation=cv2.INTER_AREA), np.uint8)
        left = (canvas_width - layout.width) // 4 * 2
        panel_height = round_up_to_even(layout.panel)
        frame, panel = canvas[:-panel_height], canvas[-panel_height:]
        _paste(frame, image, left)
        draw_people(frame[:, left : left + layout.width], faces, self._timeline.labels, self._colors, layout)
        self._draw_panel(panel, time, faces[0].id if faces else None)
        return canvas

    def _draw_panel(self, panel: Image, time: float, visible_id: int | None) -> None:
        """Draw the bars and the chart for the visible main person; the bars are empty if there is none."""
        layout, timeline, rows = self._layout, self._timeline, self._rows
        panel[:] = self._blank_panel
        person = timeline.people[visible_id or 0] if timeline.people else None
        title, probabilities = "no face visible", None
        if person and visible_id is not None:
            title, probabilities = f"person {visible_id}", person.probabilities_at(np.array([time]))[0][rows]
        labels, colors = [timeline.labels[row] for row in rows], [self._colors[row] for row in rows]
        bars_end = draw_probability_bars(panel, layout, title, labels, colors, probabilities)
        draw_probability_chart(panel, bars_end + layout.text, layout, timeline, rows, self._colors, time, person)


def _rows_with_bars(timeline: ClipTimeline) -> list[int]:
    """Return the indices of the `MAX_BARS` labels that are most probable over the clip, in their order."""
    if len(timeline.labels) <= MAX_BARS:
        return list(range(len(timeline.labels)))
    total = sum((person.probabilities.sum(axis=0) for person in timeline.people), np.zeros(len(timeline.labels)))
    return sorted(int(row) for row in np.argsort(-total, kind="stable")[:MAX_BARS])


def draw_people(
    image: Image, faces: Sequence[FaceOverlay], labels: Sequence[str], colors: Sequence[Color], layout: OverlayLayout
) -> Image:
    """Draw boxes and labels on a frame (h, w, 3) in uint8 RGB, and return it.

    The main person is the first one and drawn last. Labels and colours are in the order of the probabilities.
    """
    for face in reversed(faces):
        _draw_box(image, face.box, colors[int(face.probabilities.argmax())], layout)
    for face in reversed(faces):
        _draw_label(image, face, labels, colors, layout)
    return image


def _draw_box(image: Image, box: Box, color: Color, layout: OverlayLayout) -> None:
    thickness, scale = max(2, round(layout.text / 7)), 2**SUBPIXEL_BITS
    (x1, y1), (x2, y2) = ((round(x * scale), round(y * scale)) for x, y in (box[:2], box[2:]))
    for width, line_color in ((thickness + 2, BACKGROUND), (thickness, color)):
        cv2.rectangle(image, (x1, y1), (x2, y2), line_color, width, cv2.LINE_AA, SUBPIXEL_BITS)


def _draw_label(
    image: Image, face: FaceOverlay, labels: Sequence[str], colors: Sequence[Color], layout: OverlayLayout
) -> None:
    """Draw id, label and attributes above the box, and below them a strip divided by the probabilities.

    At the edge of the frame the label is moved inside.
    """
    text = layout.text
    best = int(face.probabilities.argmax())
    lines = [f"{face.id}  {labels[best]} {100 * face.probabilities[best]:.0f}%"]
    if face.attribute_text:
        lines.append(face.attribute_text)
    strip = max(3, text // 4)
    height = round((0.05 + 1.25 * len(lines)) * text) + strip
    longest_label = f"0  {max(labels, key=len)} 100%"  # so that the width does not change from frame to frame
    width = max(text_width(line, text) for line in (*lines, longest_label)) + text // 2
    image_height, image_width = image.shape[:2]
    x = max(0, min(round(face.box[0]), image_width - width))
    y = max(0, min(round(face.box[1]) - height - max(2, text // 6), image_height - height))
    plate = image[y : y + height, x : x + width]
    plate[:] = cv2.addWeighted(plate, 1 - _LABEL_OPACITY, np.full_like(plate, BACKGROUND), _LABEL_OPACITY, 0)
    for number, line in enumerate(lines):
        put_text(image, line, x + text // 4, y + round((0.15 + 1.25 * number) * text), text, WHITE)
    cumulative = np.cumsum([0.0, *face.probabilities]) / max(face.probabilities.sum(), 1e-9)
    edges = np.round(cumulative * plate.shape[1])
    for color, start, end in zip(colors, edges[:-1].astype(int), edges[1:].astype(int), strict=True):
        plate[height - strip :, start:end] = color


def _paste(canvas: Image, image: Image, left: int) -> None:
    """Copy a frame onto the canvas with a dark margin; the last row or column is repeated to an even size."""
    height, width = image.shape[:2]
    canvas[:, :left] = BACKGROUND
    canvas[:height, left : left + width] = image
    canvas[height:, left : left + width] = image[-1]
    margin = canvas[:, left + width :]
    margin[:] = BACKGROUND
    if margin.shape[1] == 1:
        margin[:height, 0] = image[:, -1]
