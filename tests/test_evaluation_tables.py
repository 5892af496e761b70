"""Tables and plots of evaluations."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from fervid.core.errors import OutputError, UsageError
from fervid.learn.metrics import Predictions, evaluate, evaluate_regression
from fervid.learn.significance import paired_test
from fervid.render.evaluation_tables import paired_test_table, plot_confusion_matrix, render_report, tables

EMOTIONS = ["anger", "contempt", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"]


def predictions(labels: Sequence[str], truth: Sequence[int], answers: Sequence[int]) -> Predictions:
    """Those answers, -1 for none, each given with certainty."""
    probabilities = np.eye(len(labels), dtype=np.float32)[np.array(answers)]
    probabilities[np.array(answers) < 0] = np.nan
    return Predictions(labels, np.array(truth), probabilities)


def report(labels: Sequence[str], truth: Sequence[int], answers: Sequence[int]) -> dict[str, Any]:
    return evaluate(predictions(labels, truth, answers))


@pytest.fixture(scope="module")
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


@pytest.mark.usefixtures("quick")
def test_heading_names_training_clips() -> None:
    def heading(report: dict[str, Any], clips: int) -> str:
        return text(render_report(report | {"training_clips": clips})[0])[0]

    measured = report(["a", "b"], [0, 1, 0], [0, 1, -1])
    assert "trained on" not in heading(measured, 0)
    assert "trained on 1 of these 2 clips" in heading(measured, 1)
    figure = {"value": 1, "interval": None}
    ratings = {"clips": 3, "unanswered": 1, "ccc": figure, "mae": figure, "pearson": figure}
    assert "trained on 2 of these 2 clips" in heading(ratings, 2)
    both = paired_test(predictions(["a", "b"], [0, 1], [0, 1]), predictions(["a", "b"], [0, 1], [0, 0]))
    assert "theirs was trained on 1" in text(paired_test_table(both | {"training_clips": 1}), 200)[0]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (
            {"name": "set", "clips": {"calm": 1, "joy": 2000}, "people": 1, "no_face": 0},
            "set: 2,001 clips (calm 1, joy 2,000) of 1 person",
        ),
        (
            {"name": "set", "clips": 1, "people": 2, "no_face": 1, "unreadable": 2},
            "set: 1 clip of 2 people; 1 more shows no face; 2 left out because of errors",
        ),
        ({"name": "set", "clips": 3, "people": None, "no_face": 2}, "set: 3 clips; 2 more show no face"),
    ],
)
def test_card_describes_training_data(data: dict[str, Any], sentence: str) -> None:
    adaptive = {"levels": [], "frame_fraction": 0.5, "accuracy": 0.9, "full_rate_accuracy": 0.95}
    (table,) = render_report(
        {"kind": "classifier", "name": "mine", "data": data, "early_exit": adaptive, "evaluations": {}}
    )
    lines = [line.strip() for line in text(table, 200)]
    assert ["data", sentence] in [line.split(maxsplit=1) for line in lines]
    assert lines[-1].endswith("looks at 50.0 % of the frames, with an accuracy of 90.0 % instead of 95.0 %")


@pytest.mark.usefixtures("resamples")
def test_summary_has_intervals() -> None:
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


def test_figure_without_interval() -> None:
    assert cells(tables(report(["a", "b"], [1], [1]))[0])[2] == ["accuracy", "100.0", "%", "100.0", "%"]


def test_table_of_classes() -> None:
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


def test_confusion_has_column_for_no_answer() -> None:
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


def test_long_cells_are_truncated(emotions: dict[str, Any]) -> None:
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


@pytest.mark.usefixtures("resamples")
def test_comparison_is_in_points() -> None:
    labels, truth = ["a", "b"], [0] * 10 + [1] * 10
    ours = predictions(labels, truth, truth)
    theirs = predictions(labels, truth, [0] * 6 + [1] * 4 + [1] * 10)
    lines = text(paired_test_table(paired_test(ours, theirs)))
    assert lines[0] == "Two classifiers on 20 clips"
    assert lines[1].split("  ")[-1].strip() == "ours - theirs"
    assert " +20.0 points (+5.0 to +4" in lines[2]
    assert [line.split()[-1] for line in lines[5:]] == ["4", "0", "0.125"]


@pytest.mark.parametrize(("p", "said"), [(0.0314, "0.031"), (0.001, "0.001"), (1e-9, "< 0.001")])
def test_small_p_value(p: float, said: str) -> None:
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


@pytest.mark.usefixtures("quick")
def test_report_tables() -> None:
    ours, theirs = predictions(["a", "b"], [0, 0, 1, 1], [0, 0, 1, 1]), predictions(["a", "b"], [0, 0, 1, 1], [0] * 4)
    plain = ["Summary, with 95 % intervals", "Classes, clips with a face", "Answers, all clips"]
    assert titles(render_report(evaluate(ours))) == plain
    few = {"frame_fraction": 0.256, "accuracy": 0.9}
    found = render_report({**evaluate(ours), "comparison": paired_test(ours, theirs), "early_exit": few})
    assert titles(found) == [*plain, "Two classifiers on 4 clips", "Few frames first"]
    assert cells(found[-1])[1:] == [["frame", "fraction", "25.6", "%"], ["accuracy", "90.0", "%"]]


@pytest.mark.usefixtures("quick")
def test_card_tables() -> None:
    card = {
        "kind": "classifier",
        "name": "[mine]",
        "labels": ["[bold]", "[/]"],
        "statistics": ["embedding.mean", "embedding.std"],
        "recipe": "linear (1) on mean+std",
        "data": {"name": "set", "clips": {"[bold]": 2, "[/]": 1}},
        "seed": 5,
        "evaluations": {"held_out_[val]": report(["[bold]", "[/]"], [0, 0, 1], [0, 1, 1])},
    }
    found = render_report(card)
    assert titles(found)[:2] == ["classifier [mine]", "held out [val]: Summary, with 95 % intervals"]
    assert [line.split("  ", 1)[0].strip() for line in text(found[0])[1:]] == ["labels", "statistics", "recipe", "data"]
    assert text(found[0])[1].endswith("[bold], [/]")
    assert len(found) == 4


def rating(truth: Sequence[float], said: Sequence[float]) -> dict[str, Any]:
    return evaluate_regression(np.array(truth), np.array(said, np.float64))


@pytest.mark.usefixtures("quick")
def test_ratings_have_row_each() -> None:
    (table,) = render_report(rating([1, 2, 3], [1, 2, 3]))
    assert text(table)[0] == "Ratings"
    assert "1.000 (1.000 to 1.000)" in text(table, 120)[2]
    (alone,) = render_report(rating([1], [2]))
    assert cells(alone)[1] == ["0.000", "1.000", "0.000"]
    (table,) = render_report({"methods": {"mean, linear": rating([1], [2]), "mean, rbf": rating([1], [3])}})
    assert [row[:2] for row in cells(table)[1:]] == [["mean,", "linear"], ["mean,", "rbf"]]
    card = {
        "kind": "regressor",
        "name": "m",
        "target": "valence",
        "evaluations": {"cross_validation": rating([1], [2])},
    }
    assert titles(render_report(card)) == ["regressor m", "cross validation: Ratings"]


def test_methods_have_row_each() -> None:
    one, other = report(["[i]", "b"], [0, 0], [0, -1]), report(["[i]", "b"], [0, 0], [1, -1])
    figures, recalls = render_report({"methods": {"mean, linear": one, "mean, rbf": other}})
    hundred, nothing = ["100.0", "%"], ["0.0", "%"]
    assert [row[2:4] for row in cells(figures, 200)[1:]] == [hundred, nothing]
    assert "50.0 % (0.0 to 100.0)" in text(figures, 200)[2]
    assert cells(recalls) == [["method", "[i]", "b"], ["mean,", "linear", *hundred], ["mean,", "rbf", *nothing]]


MAGIC = {".png": b"\x89PNG\r\n", ".svg": b"<svg", ".pdf": b"%PDF-"}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("suffix", [".svg", ".pdf", ".PNG"])
def test_plot_format_follows_suffix(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"confusion{suffix}"
    plot_confusion_matrix(report(["a", "b"], [0, 1], [0, 1]), path)
    assert path.read_bytes().startswith(MAGIC[suffix.lower()])
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_plot_shows_all_classes(tmp_path: Path, emotions: dict[str, Any]) -> None:
    plot_confusion_matrix(emotions, tmp_path / "confusion.png")
    picture = cv2.imread(str(tmp_path / "confusion.png"))
    assert picture is not None
    assert min(picture.shape[:2]) > 900
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    assert border.min() == 255


@pytest.mark.usefixtures("quick")
def test_cells_say_shares_and_counts(tmp_path: Path) -> None:
    plot_confusion_matrix(report(["a$b$", "b", "never"], [0] * 4 + [1], [0, 0, 0, 1, -1]), tmp_path / "confusion.svg")
    root = ElementTree.fromstring((tmp_path / "confusion.svg").read_bytes())
    drawn = [text for element in root.iter() if (text := (element.text or "").strip())]
    assert {"75 %", "3", "25 %", "1", "a$b$", "b", "never", "truth", "answer", "4 clips with a face"} == set(drawn)


@pytest.mark.parametrize("name", ["confusion", "confusion.jpg"])
def test_another_suffix_is_a_usage_error(name: str, tmp_path: Path, emotions: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"\.png \.svg"):
        plot_confusion_matrix(emotions, tmp_path / name)


def test_existing_plot_needs_force(tmp_path: Path, emotions: dict[str, Any]) -> None:
    path = tmp_path / "confusion.svg"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        plot_confusion_matrix(emotions, path)
    assert path.read_text() == "mine"
    plot_confusion_matrix(emotions, path, force=True)
    assert path.read_bytes().startswith(b"<svg")


def test_unwritable_path_is_an_output_error(tmp_path: Path, emotions: dict[str, Any]) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        plot_confusion_matrix(emotions, tmp_path / "nowhere" / "confusion.png")
