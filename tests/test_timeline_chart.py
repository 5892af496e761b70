"""The picture of a clip's windows: who, when, and what is left open."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from fervid.core.errors import OutputError, UsageError
from fervid.core.results import ErrorInfo, Person, Prediction, WindowResult
from fervid.render.colors import EMOTIONS, hex_to_rgb
from fervid.render.evaluation_tables import PLOT_SUFFIXES
from fervid.render.timeline_chart import MAX_PEOPLE, person_spans, plot_timeline

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


def test_each_window_stands_for_the_time_around_its_middle() -> None:
    found = person_spans([window(t, 4, (0, 4, GLAD)) for t in (0, 1, 2)])
    assert [(left, right) for left, right, _ in found[0]] == [(0, 2.5), (2.5, 3.5), (3.5, 6)]
    assert person_spans([window(0, 4, (0, 4, GLAD))]) == {0: [(0, 4, GLAD)]}
    assert person_spans([window(0, 0, (0, 0, GLAD))]) == {0: [(0, 0, GLAD)]}, "a still image"


def test_windows_in_which_somebody_is_hardly_seen_are_a_gap() -> None:
    seconds = (4, 4, 3, 2, 1, 0.5, 3)
    found = person_spans([window(t, 4, (0, each, GLAD)) for t, each in enumerate(seconds)])
    assert [left for left, _, _ in found[0]] == [0, 2.5, 3.5, 4.5, 7.5]


def test_who_is_never_seen_for_long_is_seen_nevertheless() -> None:
    found = person_spans([window(0, 4, (0, 4, GLAD)), window(1, 4, (0, 4, GLAD), (7, 0.2, SAD))])
    assert list(found) == [0, 7]
    assert found[7] == [(2.5, 5, SAD)]


def test_a_gap_of_time_stays_open() -> None:
    found = person_spans([window(0, 1, (0, 1, GLAD)), window(1, 1, (0, 1, GLAD)), window(7, 1, (0, 1, GLAD))])
    assert [(left, right) for left, right, _ in found[0]] == [(0, 1), (1, 2.5), (6.5, 8)]


def test_people_come_by_their_time_in_view() -> None:
    parts = [window(0, 4, (0, 1, GLAD), (1, 3, SAD), (2, 1, SAD))]
    assert list(person_spans(parts)) == [1, 0, 2]
    assert person_spans([]) == {}
    assert person_spans([WindowResult("x", "error", problem=ErrorInfo("not_found", "x"))]) == {}


def drawn(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path))
    assert picture is not None
    return picture[..., ::-1]


def amount(image: np.ndarray, colour: str) -> int:
    return int((np.abs(image.astype(int) - hex_to_rgb(colour)).max(axis=2) < 10).sum())


def test_every_person_has_lines_and_a_band(tmp_path: Path) -> None:
    one = [window(t, 2, (0, 2, GLAD)) for t in range(8)]
    plot_timeline(one, tmp_path / "one.png")
    picture = drawn(tmp_path / "one.png")
    assert amount(picture, EMOTIONS["happiness"]) > 5 * amount(picture, EMOTIONS["sadness"]) > 0
    two = [window(t, 2, (0, 2, GLAD), *([(3, 2, SAD)] if t > 3 else [])) for t in range(8)]
    plot_timeline(two, tmp_path / "two.png")
    higher = drawn(tmp_path / "two.png")
    assert higher.shape[0] > 1.4 * picture.shape[0]
    assert amount(higher, EMOTIONS["sadness"]) > 4 * amount(picture, EMOTIONS["sadness"])


def test_a_gap_is_hatched(tmp_path: Path) -> None:
    parts = [window(t, 2, *([(0, 2, GLAD)] if not 3 < t < 9 else [])) for t in range(12)]
    plot_timeline(parts, tmp_path / "gap.png")
    difference = np.abs(drawn(tmp_path / "gap.png").astype(int) - hex_to_rgb(EMOTIONS["happiness"]))
    columns = (difference.max(axis=2) < 10).sum(axis=0)
    inked = np.flatnonzero(columns > 10)
    assert np.diff(inked).max() > 0.3 * (inked[-1] - inked[0])


@pytest.mark.parametrize("suffix", PLOT_SUFFIXES)
def test_the_suffix_decides_the_format(suffix: str, tmp_path: Path) -> None:
    plot_timeline([window(0, 2, (0, 2, GLAD))], tmp_path / f"a{suffix}")
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix]
    assert (tmp_path / f"a{suffix}").read_bytes().startswith(start)


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [window(0, 2), window(1, 2)],
        [window(0, 0, (0, 0, GLAD))],
        [WindowResult("x.mp4", "error", problem=ErrorInfo("not_found", "x.mp4 does not exist"))],
        [window(0, 2, (0, 2, GLAD), problem=ErrorInfo("truncated", "breaks off"))],
        [window(0, 2, *((i, 2, SAD) for i in range(MAX_PEOPLE + 3)))],
        [window(0, 2, (0, 2, Prediction({f"label {i}": 0.05 for i in range(20)})))],
        [window(0, 2, (0, 2, GLAD), path="日本語\n\x1b[0m\udcff $_{.mp4")],
    ],
    ids=["nothing", "nobody", "still", "error", "truncated", "crowd", "many labels", "any name"],
)
def test_there_is_always_a_picture(parts: list[WindowResult], tmp_path: Path) -> None:
    plot_timeline(parts, tmp_path / "a.png")
    assert min(drawn(tmp_path / "a.png").shape[:2]) > 200


def test_what_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"\.png \.svg \.pdf"):
        plot_timeline([], tmp_path / "a.jpg")
    (tmp_path / "a.png").write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        plot_timeline([], tmp_path / "a.png")
    assert (tmp_path / "a.png").read_text() == "mine"
    plot_timeline([], tmp_path / "a.png", force=True)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match=r'pip install "fervid\[plot\]"'):
        plot_timeline([], tmp_path / "b.png")
