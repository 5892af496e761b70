"""Reports as people see them: the text of the tables, and pictures in every format."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from fervid.core.errors import OutputError, UsageError
from fervid.learn.metrics import Predictions, evaluate, evaluate_regression
from fervid.learn.significance import paired_test
from fervid.render.evaluation_tables import (
    PLOT_SUFFIXES,
    paired_test_table,
    plot_confusion_matrix,
    plot_format,
    render_report,
    tables,
)

EMOTIONS = ["anger", "contempt", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"]


def predictions(labels: Sequence[str], truth: Sequence[int], answers: Sequence[int]) -> Predictions:
    """Those answers, -1 for none, each given with certainty."""
    probabilities = np.eye(len(labels), dtype=np.float32)[np.array(answers)]
    probabilities[np.array(answers) < 0] = np.nan
    return Predictions(labels, np.array(truth), probabilities)


def report(labels: Sequence[str], truth: Sequence[int], answers: Sequence[int]) -> dict[str, Any]:
    return evaluate(predictions(labels, truth, answers))


@pytest.fixture
def emotions() -> dict[str, Any]:
    truth = np.repeat(np.arange(8), 30)
    answers = np.where(np.arange(240) % 4 > 0, truth, np.arange(240) % 7)
    answers[::20] = -1
    return report(EMOTIONS, truth.tolist(), answers.tolist())


def text(table: Table, width: int = 80) -> list[str]:
    """The lines that a terminal of that width shows."""
    stream = io.StringIO()
    Console(file=stream, width=width, highlight=False).print(table)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def cells(table: Table, width: int = 80) -> list[list[str]]:
    """The words of each line, below the title."""
    return [line.split() for line in text(table, width)[1:]]


def test_clips_that_were_trained_on_are_named_in_the_heading() -> None:
    measured = report(["a", "b"], [0, 1, 0], [0, 1, -1])
    assert text(render_report(measured | {"training_clips": 0})[0])[0] == "Summary, with 95 % intervals"
    heading = text(render_report(measured | {"training_clips": 1})[0])[0]
    assert heading == "Summary: trained on 1 of these 2 clips, no measure of new ones"
    figure = {"value": 1, "interval": None}
    ratings = {"clips": 3, "unanswered": 1, "ccc": figure, "mae": figure, "pearson": figure}
    assert text(render_report(ratings | {"training_clips": 2})[0])[0].startswith(
        "Ratings: trained on 2 of these 2 clips"
    )
    both = paired_test(predictions(["a", "b"], [0, 1], [0, 1]), predictions(["a", "b"], [0, 1], [0, 0]))
    assert text(paired_test_table(both | {"training_clips": 1}), 200)[0].endswith(
        "2 clips; theirs was trained on 1 of them"
    )


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (
            {"name": "set", "clips": {"calm": 1, "joy": 2000}, "people": 1, "faceless": 0},
            "set: 2,001 clips (calm 1, joy 2,000) of 1 person",
        ),
        (
            {"name": "set", "clips": 1, "people": 2, "faceless": 1, "broken": 2},
            "set: 1 clip of 2 people; 1 more shows no face; 2 left out because of errors",
        ),
        ({"name": "set", "clips": 3, "people": None, "faceless": 2}, "set: 3 clips; 2 more show no face"),
    ],
)
def test_a_card_says_in_words_what_was_trained_on(data: dict[str, Any], sentence: str) -> None:
    adaptive = {"levels": [], "share of frames": 0.5, "accuracy": 0.9, "accuracy of all frames": 0.95}
    (table,) = render_report({"kind": "classifier", "name": "mine", "data": data, "adaptive": adaptive, "figures": {}})
    lines = [line.strip() for line in text(table, 200)]
    assert f"data      {sentence}" in lines
    assert lines[-1].endswith("looks at 50.0 % of the frames, with an accuracy of 90.0 % instead of 95.0 %")


def test_the_summary_says_figures_with_their_intervals() -> None:
    lines = text(tables(report(["a", "b"], [0] * 60 + [1] * 40, [0] * 50 + [-1] * 10 + [0] * 10 + [1] * 30))[0])
    assert lines[0] == "Summary, with 95 % intervals"
    assert lines[1].split("  ")[-1].strip() == "all clips"
    assert lines[2].split() == ["clips", "90", "100"]
    assert lines[3].startswith("accuracy ")
    assert lines[3].count(" % (") == lines[3].count(" to ") == 2
    assert " 88.9 % (82.2 to 94.4)" in lines[3]
    assert " 80.0 % (" in lines[3]
    assert lines[4].startswith("unweighted average recall ")
    assert lines[5].startswith("macro F1 ")
    assert lines[6].split() == ["calibration", "error", "11.1", "%"]
    assert len(lines) == 7


def test_a_figure_without_an_interval_stands_alone() -> None:
    assert cells(tables(report(["a", "b"], [1], [1]))[0])[2] == ["accuracy", "100.0", "%", "100.0", "%"]


def test_classes_have_a_row_each_and_those_without_clips_no_figures() -> None:
    table = tables(report(["a", "b", "never"], [0, 0, 0, 1], [0, 0, 1, -1]))[1]
    assert cells(table) == [
        ["label", "clips", "recall", "precision", "F1"],
        ["a", "3", "66.7", "%", "100.0", "%", "80.0", "%"],
        ["b", "0"],
        ["never", "0"],
    ]


def test_confusion_has_truth_in_rows() -> None:
    table = tables(report(["a", "b"], [0, 0, 0, 1], [0, 1, 1, 1]))[2]
    assert cells(table) == [["truth", "a", "b"], ["a", "1", "2"], ["b", "0", "1"]]


def test_confusion_has_a_column_of_clips_without_an_answer_if_there_are_any() -> None:
    table = tables(report(["a", "b"], [0, 0, 0, 1], [0, -1, -1, 1]))[2]
    assert cells(table) == [["truth", "a", "b", "none"], ["a", "1", "0", "2"], ["b", "0", "1", "0"]]


def test_eight_classes_fit_into_eighty_columns(emotions: dict[str, Any]) -> None:
    for table in tables(emotions):
        assert max(map(len, text(table))) <= 80
    (corner, *heading), *rows = cells(tables(emotions)[2])
    assert corner == "truth"
    assert [name.rstrip("…") for name in heading] == [
        name[: len(short.rstrip("…"))] for name, short in zip([*EMOTIONS, "none"], heading, strict=True)
    ]
    assert min(map(len, heading)) >= 4
    assert [row[0] for row in rows] == EMOTIONS
    assert [[int(cell) for cell in row[1:]] for row in rows] == emotions["all"]["confusion"]
    assert cells(tables(emotions)[2], 200)[0] == ["truth", *EMOTIONS, "none"]


def test_what_does_not_fit_is_marked_as_cut(emotions: dict[str, Any]) -> None:
    lines = text(tables(emotions)[2], 45)
    assert max(map(len, lines)) <= 45
    for row, counts in zip(cells(tables(emotions)[2], 45)[-8:], emotions["all"]["confusion"], strict=True):
        assert all(
            cell == str(count) or (cell.endswith("…") and str(count).startswith(cell[:-1]))
            for cell, count in zip(row[1:], counts, strict=True)
        )


def test_labels_are_no_markup() -> None:
    found = tables(report(["[bold]", "[/]"], [0, 1], [0, 1]))
    assert [row[0] for row in cells(found[1])[1:]] == ["[bold]", "[/]"]
    assert cells(found[2])[0] == ["truth", "[bold]", "[/]"]


def test_a_comparison_is_told_in_points() -> None:
    labels, truth = ["a", "b"], [0] * 10 + [1] * 10
    ours = predictions(labels, truth, truth)
    theirs = predictions(labels, truth, [0] * 6 + [1] * 4 + [1] * 10)
    lines = text(paired_test_table(paired_test(ours, theirs)))
    assert lines[0] == "Two classifiers on 20 clips"
    assert lines[1].split("  ")[-1].strip() == "ours - theirs"
    assert " +20.0 points (+5.0 to +4" in lines[2]
    assert [line.split()[-1] for line in lines[5:]] == ["4", "0", "0.125"]


@pytest.mark.parametrize(("p", "said"), [(1.0, "1.000"), (0.0314, "0.031"), (0.001, "0.001"), (1e-9, "< 0.001")])
def test_a_small_p_is_said_to_be_small(p: float, said: str) -> None:
    given = paired_test(predictions(["a", "b"], [0], [0]), predictions(["a", "b"], [0], [0]))
    lines = text(paired_test_table({**given, "p": p}))
    assert lines[-1].endswith(f"  {said}")
    assert lines[2].endswith("  +0.0 points")


def test_no_difference_has_no_minus_sign() -> None:
    given = paired_test(predictions(["a", "b"], [0], [0]), predictions(["a", "b"], [0], [0]))
    tiny = {name: {"value": -0.0001, "interval": [-0.0004, -0.0]} for name in given["difference"]}
    assert text(paired_test_table({**given, "difference": tiny}))[2].endswith("  +0.0 points (+0.0 to +0.0)")


def titles(found: Sequence[Table], width: int = 200) -> list[str]:
    return [text(table, width)[0] for table in found]


def test_a_report_is_shown_with_all_that_it_says() -> None:
    ours, theirs = predictions(["a", "b"], [0, 0, 1, 1], [0, 0, 1, 1]), predictions(["a", "b"], [0, 0, 1, 1], [0] * 4)
    plain = ["Summary, with 95 % intervals", "Classes, clips with a face", "Answers, all clips"]
    assert titles(render_report(evaluate(ours))) == plain
    few = {"share of frames": 0.256, "accuracy": 0.9}
    found = render_report({**evaluate(ours), "against": paired_test(ours, theirs), "adaptive": few})
    assert titles(found) == [*plain, "Two classifiers on 4 clips", "Few frames first"]
    assert cells(found[-1])[1:] == [["share", "of", "frames", "25.6", "%"], ["accuracy", "90.0", "%"]]


def test_a_card_is_shown_with_its_figures() -> None:
    card = {
        "kind": "classifier",
        "name": "[mine]",
        "labels": ["[bold]", "[/]"],
        "statistics": ["embedding.mean", "embedding.std"],
        "recipe": "linear (1) on mean+std",
        "data": {"name": "set", "clips": {"[bold]": 2, "[/]": 1}},
        "seed": 5,
        "figures": {"held-out [val]": report(["[bold]", "[/]"], [0, 0, 1], [0, 1, 1])},
    }
    found = render_report(card)
    assert titles(found)[:2] == ["classifier [mine]", "held-out [val]: Summary, with 95 % intervals"]
    assert [line.split("  ", 1)[0].strip() for line in text(found[0])[1:]] == ["labels", "statistics", "recipe", "data"]
    assert text(found[0])[1].endswith("[bold], [/]")
    assert len(found) == 4


def rating(truth: Sequence[float], said: Sequence[float]) -> dict[str, Any]:
    return evaluate_regression(np.array(truth), np.array(said, np.float64))


def test_ratings_have_a_row_each() -> None:
    (table,) = render_report(rating([1, 2, 3], [1, 2, 3]))
    assert text(table)[0] == "Ratings"
    assert "1.000 (1.000 to 1.000)" in text(table, 120)[2]
    (alone,) = render_report(rating([1], [2]))
    assert cells(alone)[1] == ["0.000", "1.000", "0.000"]
    (table,) = render_report({"methods": {"mean, linear": rating([1], [2]), "mean, rbf": rating([1], [3])}})
    assert [row[:2] for row in cells(table)[1:]] == [["mean,", "linear"], ["mean,", "rbf"]]
    card = {"kind": "regressor", "name": "m", "target": "valence", "figures": {"cross-validated": rating([1], [2])}}
    assert titles(render_report(card)) == ["regressor m", "cross-validated: Ratings"]


def test_methods_have_a_row_each() -> None:
    one, other = report(["[i]", "b"], [0, 0], [0, -1]), report(["[i]", "b"], [0, 0], [1, -1])
    figures, recalls = render_report({"methods": {"mean, linear": one, "mean, rbf": other}})
    hundred, nothing = ["100.0", "%"], ["0.0", "%"]
    assert [row[2:4] for row in cells(figures, 200)[1:]] == [hundred, nothing]
    assert "50.0 % (0.0 to 100.0)" in text(figures, 200)[2]
    assert cells(recalls) == [["method", "[i]", "b"], ["mean,", "linear", *hundred], ["mean,", "rbf", *nothing]]


MAGIC = {".png": b"\x89PNG\r\n", ".svg": b"<?xml", ".pdf": b"%PDF-"}


@pytest.mark.parametrize("suffix", [*PLOT_SUFFIXES, ".PNG"])
def test_the_suffix_decides_the_format(suffix: str, tmp_path: Path, emotions: dict[str, Any]) -> None:
    path = tmp_path / f"confusion{suffix}"
    plot_confusion_matrix(emotions, path)
    assert path.read_bytes().startswith(MAGIC[suffix.lower()])
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_picture_shows_every_class_on_a_white_border(tmp_path: Path, emotions: dict[str, Any]) -> None:
    plot_confusion_matrix(emotions, tmp_path / "confusion.png")
    picture = cv2.imread(str(tmp_path / "confusion.png"))
    assert picture is not None
    assert min(picture.shape[:2]) > 1000
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    assert border.min() == 255


def test_cells_say_shares_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = importlib.import_module("matplotlib.figure").Figure
    drawn: list[str] = []

    def savefig(self: Any, stream: io.BytesIO, *, format: str) -> None:
        axes = self.axes[0]
        drawn.extend(part.get_text() for part in (*axes.texts, *axes.get_xticklabels(), axes.title))
        stream.write(b"drawn")

    monkeypatch.setattr(figure, "savefig", savefig)
    plot_confusion_matrix(report(["a$b$", "b", "never"], [0] * 4 + [1], [0, 0, 0, 1, -1]), tmp_path / "confusion.png")
    assert drawn == ["75 %\n3", "25 %\n1", *[""] * 7, r"a\$b\$", "b", "never", "4 clips with a face"]
    assert (tmp_path / "confusion.png").read_bytes() == b"drawn"


@pytest.mark.parametrize("name", ["confusion.xyz", "confusion", "confusion.jpg"])
def test_another_suffix_is_a_usage_error(name: str, tmp_path: Path, emotions: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"\.png \.svg"):
        plot_confusion_matrix(emotions, tmp_path / name)


def test_a_picture_is_not_replaced_unless_asked(tmp_path: Path, emotions: dict[str, Any]) -> None:
    path = tmp_path / "confusion.svg"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        plot_confusion_matrix(emotions, path)
    assert path.read_text() == "mine"
    plot_confusion_matrix(emotions, path, force=True)
    assert path.read_bytes().startswith(b"<?xml")


def test_an_unwritable_path_is_an_output_error(tmp_path: Path, emotions: dict[str, Any]) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        plot_confusion_matrix(emotions, tmp_path / "nowhere" / "confusion.png")


def test_without_matplotlib_the_error_says_what_to_install(
    tmp_path: Path, emotions: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for draw in (lambda path: plot_confusion_matrix(emotions, path), plot_format):
        with pytest.raises(UsageError, match=r'pip install "fervid\[plot\]"'):
            draw(tmp_path / "confusion.png")
    assert not any(tmp_path.iterdir())
