"""The panel of an annotated frame: a bar for each label, and a chart of probabilities over time."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from fervid.analysis.clip_timeline import ClipTimeline, PersonTrack
from fervid.core.records import Image
from fervid.render.colors import Color
from fervid.render.overlay_layout import BRIGHT, FAINT, GRID, PALE, OverlayLayout, put_text, text_width

CHART_SECONDS = 20.0  # seconds that the chart shows at once
MAX_PEOPLE_LANES = 4  # people that have a band at most
SUBPIXEL_BITS = 3  # fractional bits of coordinates, as OpenCV takes them

FloatArray = NDArray[np.float64]


def draw_probability_bars(
    panel: Image,
    layout: OverlayLayout,
    title: str,
    labels: Sequence[str],
    colors: Sequence[Color],
    probabilities: FloatArray | None,
) -> int:
    """Draw a bar for each of n labels on the left of a panel (h, w, 3) in uint8 RGB, below a title.

    The n probabilities are from 0 to 1; None draws no bars.

    Returns:
        The right edge of the bars, in pixels.
    """
    text, line = layout.text, layout.line
    names = max((text_width(label, text) for label in (*labels, "surprise")), default=0)
    length = max(text_width("100 %", text), round(0.08 * panel.shape[1]))
    left, middle = text, text + names + text // 2
    end = middle + length + text // 4 + text_width("100%", text)
    put_text(panel, title, left, text // 2, text, BRIGHT)
    thickness = max(2, round(0.55 * text))
    for row, (label, color) in enumerate(zip(labels, colors, strict=True), start=1):
        y = text // 2 + row * line
        best = probabilities is not None and probabilities.argmax() == row - 1
        put_text(panel, label, left, y, text, BRIGHT if best or probabilities is None else PALE)
        top = y + (text - thickness) // 2
        panel[top : top + thickness, middle : middle + length] = GRID
        if probabilities is not None:
            probability = float(probabilities[row - 1])
            panel[top : top + thickness, middle : middle + round(length * probability)] = color
            put_text(panel, f"{100 * probability:.0f}%", middle + length + text // 4, y, text, BRIGHT if best else PALE)
    return int(end)


def draw_probability_chart(
    panel: Image,
    left: int,
    layout: OverlayLayout,
    timeline: ClipTimeline,
    rows: Sequence[int],
    colors: Sequence[Color],
    now: float,
    person: PersonTrack | None,
) -> None:
    """Draw one person's probabilities so far as lines, and below them each person's label as a coloured band.

    Args:
        panel: (h, w, 3) uint8 RGB; drawn on.
        left: Left edge of the chart in pixels.
        layout: Sizes of text.
        timeline: People and their probabilities; the first `MAX_PEOPLE_LANES` have bands.
        rows: Indices of the labels that have lines.
        colors: A colour for each label of the timeline.
        now: Time of the frame in seconds; the chart is empty after it.
        person: The person whose lines are drawn; None for no lines.
    """
    people, text = timeline.people[:MAX_PEOPLE_LANES], layout.text
    top, right, bottom = text // 2, panel.shape[1] - text, panel.shape[0] - text // 2
    start = min(max(timeline.start, now - CHART_SECONDS), max(timeline.start, timeline.end - CHART_SECONDS))
    end = start + max(min(CHART_SECONDS, timeline.end - timeline.start), 1e-3)
    lane = max(3, round(0.5 * text))
    pitch = lane + max(2, lane // 2)
    id_width = text_width("0", text) + text // 3 if len(people) > 1 else 0
    left += id_width
    if right - left < 4 * text:
        return
    axis = bottom - text
    base = axis - len(people) * pitch - text // 4
    px_per_second = (right - left) / (end - start)
    for probability in (0.0, 0.5, 1.0):
        panel[round(base - probability * (base - top)), left:right] = GRID
    _draw_ticks(panel, (left, right, axis), layout, (start, end))
    cursor = left + round((min(now, end) - start) * px_per_second)
    columns = np.arange(left, cursor + 1)
    times = start + (columns - left) / px_per_second
    if len(columns) > 1:
        if person is not None:
            step = slice(None, None, max(1, text // 8))
            thickness = max(1, round(text / 11))
            _draw_lines(panel, (columns[step], times[step]), (top, base), person, rows, colors, thickness)
        for number, track in enumerate(people):
            y = base + text // 4 + number * pitch
            band = np.array(colors, np.uint8)[track.probabilities_at(times).argmax(axis=1)]
            visible = track.visible_at(times)
            panel[y : y + lane, columns[visible]] = band[visible]
    for number, track in enumerate(people if id_width else ()):
        height = min(text, max(9, pitch))
        y = base + text // 4 + number * pitch + (lane - height) // 2
        put_text(panel, str(track.id), left - id_width, y, height, BRIGHT)
    cv2.line(panel, (cursor, top), (cursor, axis - 1), BRIGHT, max(1, text // 14))


def _draw_lines(
    panel: Image,
    samples: tuple[NDArray[np.int64], FloatArray],
    extent: tuple[int, int],
    person: PersonTrack,
    rows: Sequence[int],
    colors: Sequence[Color],
    thickness: int,
) -> None:
    """Draw a line for each label in `rows`, interrupted where the person is not visible.

    The samples are columns in pixels and their times in seconds; `extent` has the y of the probabilities 1 and 0.
    """
    (columns, times), (top, bottom) = samples, extent
    visible = person.visible_at(times)
    probabilities = person.probabilities_at(times)
    breaks = np.flatnonzero(np.diff(visible.astype(np.int8))) + 1
    segments = [segment for segment in np.split(np.arange(len(times)), breaks) if visible[segment[0]]]
    for row in rows:
        ys = bottom - probabilities[:, row] * (bottom - top)
        points = (np.stack([columns, ys], axis=1) * 2**SUBPIXEL_BITS).round().astype(np.int32)
        lines = [points[segment] for segment in segments]
        cv2.polylines(panel, lines, False, colors[row], thickness, cv2.LINE_AA, SUBPIXEL_BITS)


def _draw_ticks(panel: Image, axis: tuple[int, int, int], layout: OverlayLayout, extent: tuple[float, float]) -> None:
    """Draw as many times of the extent below the axis (left, right, y) as have room."""
    (left, right, y), (begin, end) = axis, extent
    px_per_second = (right - left) / (end - begin)
    min_step = 1.5 * text_width(_format_time(round(end)), layout.text) / px_per_second
    step = next((step for step in (0.5, 1, 2, 5, 10, 20) if step >= min_step), 60)
    for number in range(int(np.ceil(begin / step)), int(end / step) + 1):
        tick = number * step
        x, text = left + round((tick - begin) * px_per_second), _format_time(tick)
        half = text_width(text, layout.text) // 2
        if left <= x - half and x + half <= right + layout.text:
            put_text(panel, text, x - half, y, layout.text, FAINT)
            panel[y - 2 : y, x : x + 1] = FAINT


def _format_time(time: float) -> str:
    """Return `12.5 s`, or `1:12` from a minute on."""
    minutes, seconds = divmod(time, 60)
    return f"{seconds:g} s" if time < 60 else f"{int(minutes)}:{seconds:02.0f}"
