"""The plot of the windows of a clip: people, times and gaps."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from fervid.core.errors import OutputError, UsageError
from fervid.core.results import ErrorInfo, Person, Prediction, WindowResult
from fervid.render.colors import EMOTIONS, hex_to_rgb
from fervid.render.person_spans import person_spans
from fervid.render.timeline_chart import MAX_PEOPLE, plot_timeline

GLAD, SAD = (Prediction({"happiness": share, "sadness": 1 - share}) for share in (0.8, 0.1))


def window(
    start: float, length: float, *people: tuple[int, float, Prediction], path: str = "a$b$.mp4", **more: object
) -> WindowResult:
    """A window with so many seconds of each person."""
    found = tuple(Person(number, seconds, answer) for number, seconds, answer in people)
    return WindowResult(
        path,
        "ok" if people else "no_face",
        people[0][2] if people else None,
        found,
        length,
        start_s=start,
        end_s=start + length,
        **more,
    )


def spans_of(windows: Sequence[WindowResult]) -> dict[int, list[tuple[float, float, str]]]:
    """Start, end and label of each span by person."""
    found = person_spans([window.as_dict() for window in windows])
    return {number: [(s.start, s.end, s.person["label"]) for s in spans] for number, spans in found.items()}


def test_windows_are_centered() -> None:
    found = spans_of([window(t, 4, (0, 4, GLAD)) for t in (0, 1, 2)])
    assert [(left, right) for left, right, _ in found[0]] == [(0, 2.5), (2.5, 3.5), (3.5, 6)]
    assert spans_of([window(0, 4, (0, 4, GLAD))]) == {0: [(0, 4, "happiness")]}
    assert spans_of([window(0, 0, (0, 0, GLAD))]) == {0: [(0, 0, "happiness")]}, "a still image"


def test_sparse_windows_are_gaps() -> None:
    seconds = (4, 4, 3, 2, 1, 0.5, 3)
    found = spans_of([window(t, 4, (0, each, GLAD)) for t, each in enumerate(seconds)])
    assert [left for left, _, _ in found[0]] == [0, 2.5, 3.5, 4.5, 7.5]


def test_briefly_seen_person_is_shown() -> None:
    found = spans_of([window(0, 4, (0, 4, GLAD)), window(1, 4, (0, 4, GLAD), (7, 0.2, SAD))])
    assert list(found) == [0, 7]
    assert found[7] == [(2.5, 5, "sadness")]


def test_gap_of_time_stays_open() -> None:
    found = spans_of([window(0, 1, (0, 1, GLAD)), window(1, 1, (0, 1, GLAD)), window(7, 1, (0, 1, GLAD))])
    assert [(left, right) for left, right, _ in found[0]] == [(0, 1), (1, 2.5), (6.5, 8)]


def test_people_come_by_their_time_in_view() -> None:
    parts = [window(0, 4, (0, 1, GLAD), (1, 3, SAD), (2, 1, SAD))]
    assert list(spans_of(parts)) == [1, 0, 2]
    assert spans_of([]) == {}
    assert spans_of([WindowResult("x", "error", error=ErrorInfo("not_found", "x"))]) == {}


def drawn(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path))
    assert picture is not None
    return picture[..., ::-1]


def amount(image: np.ndarray, colour: str) -> int:
    return int((np.abs(image.astype(int) - hex_to_rgb(colour)).max(axis=2) < 10).sum())


def test_lines_and_band_per_person(tmp_path: Path) -> None:
    one = [window(t, 2, (0, 2, GLAD)) for t in range(8)]
    plot_timeline(one, tmp_path / "one.png")
    picture = drawn(tmp_path / "one.png")
    assert amount(picture, EMOTIONS["happiness"]) > 5 * amount(picture, EMOTIONS["sadness"]) > 0
    two = [window(t, 2, (0, 2, GLAD), *([(3, 2, SAD)] if t > 3 else [])) for t in range(8)]
    plot_timeline(two, tmp_path / "two.png")
    higher = drawn(tmp_path / "two.png")
    assert higher.shape[0] > 1.4 * picture.shape[0]
    assert amount(higher, EMOTIONS["sadness"]) > 4 * amount(picture, EMOTIONS["sadness"])


def test_a_gap_is_empty(tmp_path: Path) -> None:
    parts = [window(t, 2, *([(0, 2, GLAD)] if not 3 < t < 9 else [])) for t in range(12)]
    plot_timeline(parts, tmp_path / "gap.png")
    difference = np.abs(drawn(tmp_path / "gap.png").astype(int) - hex_to_rgb(EMOTIONS["happiness"]))
    columns = (difference.max(axis=2) < 10).sum(axis=0)
    inked = np.flatnonzero(columns > 10)
    assert np.diff(inked).max() > 0.3 * (inked[-1] - inked[0])


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [WindowResult("x.mp4", "error", error=ErrorInfo("not_found", "x.mp4 does not exist"))],
        [window(0, 2, *((i, 2, SAD) for i in range(MAX_PEOPLE + 3)))],
        [window(0, 2, (0, 2, GLAD), path="日本語\n\x1b[0m\udcff $_{.mp4")],
    ],
    ids=["nothing", "error", "crowd", "any name"],
)
def test_plot_without_windows(parts: list[WindowResult], tmp_path: Path) -> None:
    plot_timeline(parts, tmp_path / "a.png")
    assert min(drawn(tmp_path / "a.png").shape[:2]) > 200


def test_unwritable_plot_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"\.png \.svg \.pdf"):
        plot_timeline([], tmp_path / "a.jpg")
    (tmp_path / "a.png").write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        plot_timeline([], tmp_path / "a.png")
    assert (tmp_path / "a.png").read_text() == "mine"
    plot_timeline([], tmp_path / "a.png", force=True)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(UsageError, match=r'pip install "fervid\[report\]"'):
        plot_timeline([], tmp_path / "b.png")
