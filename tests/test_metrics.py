"""Metrics equal those of scikit-learn and those calculated by hand, also with missing classes or predictions."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from sklearn import metrics

from fervid.learn.metrics import (
    Predictions,
    bootstrap,
    calibration,
    ccc,
    confusion,
    evaluate,
    evaluate_regression,
    macro_scores,
)
from fervid.learn.significance import paired_test, sign_flip_test

LABELS = ["anger", "happiness", "neutral"]
ALL_RIGHT = {"value": 1.0, "interval": [1.0, 1.0]}
ALL_WRONG = {"value": 0.0, "interval": [0.0, 0.0]}


def predictions(
    truth: Sequence[int], answers: Sequence[int], groups: Sequence[int] | None = None, sure: float = 0.8
) -> Predictions:
    """Those answers, -1 for none, each given with that confidence."""
    probabilities = np.full((len(truth), 3), (1 - sure) / 2, np.float32)
    for row, answer in zip(probabilities, answers, strict=True):
        row[answer if answer >= 0 else slice(None)] = sure if answer >= 0 else np.nan
    return Predictions(LABELS, np.array(truth, np.int64), probabilities, None if groups is None else np.array(groups))


def drawn(count: int, classes: int = 3, unanswered: float = 0.1, seed: int = 0) -> Predictions:
    """Answers that are right somewhat more often than by chance."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, count)
    probabilities = random.dirichlet(np.ones(classes), count)
    probabilities = (probabilities + 0.3 * np.eye(classes)[truth]) / 1.3
    probabilities[random.random(count) < unanswered] = np.nan
    labels = [f"class {i}" for i in range(classes)]
    return Predictions(labels, truth, probabilities.astype(np.float32), random.integers(0, max(count // 5, 1), count))


@pytest.mark.parametrize("seed", range(3))
def test_figures_equal_those_of_scikit_learn(seed: int) -> None:
    given = drawn(200, seed=seed)
    report = evaluate(given)
    every = given.truth, np.where(given.predicted < 0, 3, given.predicted)
    for part, (truth, answers) in (("all", every), ("answered", tuple(rows[every[1] < 3] for rows in every))):
        found = report[part]
        scores = metrics.precision_recall_fscore_support(truth, answers, labels=range(3), zero_division=0)
        assert found["count"] == len(truth)
        assert found["accuracy"]["value"] == pytest.approx(metrics.accuracy_score(truth, answers), abs=1e-4)
        for name, score in zip(("precision", "recall", "f1_each"), scores, strict=False):
            assert list(found[name].values()) == pytest.approx(score, abs=1e-4)
        assert found["uar"]["value"] == pytest.approx(scores[1].mean(), abs=1e-4)
        assert found["f1"]["value"] == pytest.approx(scores[2].mean(), abs=1e-4)
        assert found["confusion"] == metrics.confusion_matrix(truth, answers, labels=range(4))[:3].tolist()


def test_report_by_hand() -> None:
    found = evaluate(predictions([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, -1, 1]))
    assert found["labels"] == LABELS
    assert found["clips"] == 6
    answered, every = found["answered"], found["all"]
    assert answered["count"] == 5
    assert answered["accuracy"]["value"] == 0.6
    assert answered["uar"]["value"] == pytest.approx((2 / 3 + 1 + 0) / 3, abs=1e-4)
    assert answered["f1"]["value"] == pytest.approx((4 / 5 + 2 / 4 + 0) / 3, abs=1e-4)
    assert answered["recall"] == {"anger": 0.6667, "happiness": 1.0, "neutral": 0.0}
    assert answered["precision"] == {"anger": 1.0, "happiness": 0.3333, "neutral": 0.0}
    assert answered["confusion"] == [[2, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]]
    assert every["count"] == 6
    assert every["accuracy"]["value"] == 0.5
    assert every["recall"]["happiness"] == 0.5
    assert every["precision"] == answered["precision"]
    assert every["f1_each"]["happiness"] == 0.4
    assert every["confusion"] == [[2, 1, 0, 0], [0, 1, 0, 1], [0, 1, 0, 0]]
    assert found["calibration"] == {"error": 0.2, "bins": [{"confidence": 0.8, "accuracy": 0.6, "count": 5}]}


def test_report_is_plain_json() -> None:
    found = evaluate(drawn(30))
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_absent_class_counts_in_no_mean() -> None:
    found = evaluate(predictions([0, 0, 1, 1], [0, 2, 1, 1]))["answered"]
    assert found["uar"]["value"] == 0.75
    assert found["f1"]["value"] == pytest.approx((2 / 3 + 1) / 2, abs=1e-4)
    assert [found[name]["neutral"] for name in ("recall", "precision", "f1_each")] == [None] * 3


def test_unpredicted_label_has_zero_precision() -> None:
    found = evaluate(predictions([0, 1, 2, 2], [0, 1, 0, 1]))["answered"]
    assert [found[name]["neutral"] for name in ("recall", "precision", "f1_each")] == [0, 0, 0]
    assert found["uar"]["value"] == pytest.approx(2 / 3, abs=1e-4)


@pytest.mark.parametrize(("answers", "figure"), [([0, 1, 2], ALL_RIGHT), ([1, 2, 0], ALL_WRONG)])
def test_all_right_and_all_wrong(answers: list[int], figure: dict[str, object]) -> None:
    found = evaluate(predictions([0, 1, 2], answers))["all"]
    assert [found[name] for name in ("accuracy", "uar", "f1")] == [figure] * 3


@pytest.mark.parametrize(("truth", "groups"), [([1], None), ([1], [7]), ([1, 0, 1], [7, 7, 7])])
def test_one_clip_or_one_group_has_no_interval(truth: list[int], groups: list[int] | None) -> None:
    found = evaluate(predictions(truth, [1] * len(truth), groups))["answered"]
    assert found["accuracy"]["interval"] is None
    assert found["accuracy"]["value"] == pytest.approx(truth.count(1) / len(truth), abs=1e-4)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_no_predictions_have_no_metrics(count: int) -> None:
    with pytest.raises(ValueError, match=f"none of {count} clips? has a prediction"):
        evaluate(predictions([0] * count, [-1] * count))


def test_answers_are_most_probable_class() -> None:
    given = predictions([0, 1, 2], [2, -1, 0])
    assert given.predicted.tolist() == [2, -1, 0]
    assert given.has_prediction.tolist() == [True, False, True]
    assert given[given.has_prediction].truth.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("row", "fits"),
    [
        ([0.5, 0.25, 0.25], True),
        ([0.3333, 0.3333, 0.3333], True),
        ([np.nan, np.nan, np.nan], True),
        ([0.5, 0.5, 0.5], False),
        ([0, 0, 0], False),
        ([1.5, -0.5, 0], False),
        ([0.5, 0.5, np.nan], False),
        ([np.inf, 0, 0], False),
    ],
)
def test_probabilities_sum_to_one_or_are_missing(row: list[float], fits: bool) -> None:
    rows, truth = np.array([[1, 0, 0], row], np.float32), np.array([0, 1])
    if fits:
        assert Predictions(LABELS, truth, rows).has_prediction[0]
    else:
        with pytest.raises(ValueError, match="do not sum to 1"):
            Predictions(LABELS, truth, rows)


@pytest.mark.parametrize(
    ("labels", "truth", "shape", "groups", "problem"),
    [
        (LABELS, [0], (2, 3), None, "do not match"),
        (LABELS, [0, 1], (2, 2), None, "do not match"),
        (LABELS, [0, 1], (6,), None, "do not match"),
        (LABELS, [[0, 1]], (2, 3), None, "do not match"),
        (LABELS, [0, 1], (2, 3), [1], "do not match"),
        (["a", "b", "a"], [0, 1], (2, 3), None, "duplicate label"),
        (LABELS, [0, 3], (2, 3), None, "from 0 to 2"),
        (LABELS, [-1, 0], (2, 3), None, "from 0 to 2"),
        (LABELS, [0.0, 1.0], (2, 3), None, "from 0 to 2"),
    ],
)
def test_invalid_predictions_are_refused(
    labels: list[str], truth: list[int], shape: tuple[int, ...], groups: list[int] | None, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        Predictions(
            labels, np.array(truth), np.full(shape, 1 / 3, np.float32), None if groups is None else np.array(groups)
        )


def test_no_clips_have_no_figures() -> None:
    assert macro_scores(confusion(np.zeros(0, np.int64), np.zeros(0, np.int64), 3)) == {
        "accuracy": 0,
        "uar": 0,
        "f1": 0,
    }
    with pytest.raises(ValueError, match="no clips"):
        bootstrap(0, lambda rows: {"count": len(rows)})


@pytest.mark.usefixtures("resamples")
def test_interval_matches_binomial() -> None:
    right = np.arange(400) % 4 > 0
    found = bootstrap(400, lambda rows: {"accuracy": float(right[rows].mean())})["accuracy"]
    deviation = np.sqrt(0.75 * 0.25 / 400)
    assert found["value"] == 0.75
    assert found["interval"] == pytest.approx([0.75 - 1.96 * deviation, 0.75 + 1.96 * deviation], abs=0.006)


@pytest.mark.usefixtures("resamples")
def test_whole_groups_are_drawn() -> None:
    groups = np.array(["b", "a", "b", "c", "b", "a"])
    sizes = {"a": 2, "b": 3, "c": 1}

    def measure(rows: np.ndarray) -> dict[str, float]:
        names, counts = np.unique(groups[rows], return_counts=True)
        assert all(count % sizes[name] == 0 for name, count in zip(names, counts, strict=True))
        assert sum(count // sizes[name] for name, count in zip(names, counts, strict=True)) == 3
        return {"rows": len(rows)}

    assert bootstrap(6, measure, groups)["rows"] == {"value": 6.0, "interval": [3.0, 9.0]}


@pytest.mark.usefixtures("resamples")
def test_clips_of_one_person_tell_less_than_clips_of_many() -> None:
    right = np.repeat(np.arange(20) % 4 > 0, 20)
    ends = [
        bootstrap(400, lambda rows: {"accuracy": float(right[rows].mean())}, groups)["accuracy"]["interval"]
        for groups in (None, np.repeat(np.arange(20), 20))
    ]
    alone, together = (high - low for low, high in ends)
    assert together > 3 * alone


def test_groups_of_one_are_drawn_like_single_clips() -> None:
    def measure(rows: np.ndarray) -> dict[str, float]:
        return {"sum": float(rows.sum())}

    assert bootstrap(50, measure) == bootstrap(50, measure, np.arange(50))


def test_figures_are_same_every_time() -> None:
    assert evaluate(drawn(50)) == evaluate(drawn(50))


@pytest.mark.usefixtures("resamples")
def test_resamples_of_thousand_clips_are_quick() -> None:
    given = drawn(1000, classes=8)
    start = time.process_time()
    evaluate(given)
    assert time.process_time() - start < 2


def test_calibration_worked_out_by_hand() -> None:
    rows = np.array([[0.9, 0.05, 0.05], [0.94, 0.03, 0.03], [0.02, 0.96, 0.02], [0.25, 0.25, 0.5]], np.float32)
    found = calibration(Predictions(LABELS, np.array([0, 1, 1, 0]), rows))
    assert [(row["confidence"], row["accuracy"], row["count"]) for row in found["bins"]] == [
        (0.5, 0.0, 1),
        (0.9, 1.0, 1),
        (0.95, 0.5, 2),
    ]
    assert found["error"] == pytest.approx((0.5 + 0.1 + 2 * 0.45) / 4, abs=1e-4)


@pytest.mark.parametrize("sure", [0.34, 0.5, 0.75, 1.0])
def test_calibrated_confidences(sure: float) -> None:
    right = round(sure * 100)
    found = calibration(predictions([0] * 100, [0] * right + [1] * (100 - right), sure=sure))
    assert found["error"] == pytest.approx(0, abs=1e-4)
    assert found["bins"] == [{"confidence": sure, "accuracy": sure, "count": 100}]


def test_bins_are_in_order_and_hold_every_answered_clip() -> None:
    found = evaluate(drawn(300))
    bins = found["calibration"]["bins"]
    assert sum(row["count"] for row in bins) == found["answered"]["count"]
    assert all(low["confidence"] < high["confidence"] for low, high in pairwise(bins))


def test_paired_test_by_hand() -> None:
    truth = [0] * 10 + [1] * 10
    found = paired_test(predictions(truth, [0] * 9 + [1] + [1] * 10), predictions(truth, [0] * 5 + [-1] * 5 + [1] * 10))
    assert found["clips"] == 20
    assert found["difference"]["accuracy"]["value"] == found["difference"]["uar"]["value"] == pytest.approx(0.2)
    assert found["difference"]["f1"]["value"] == pytest.approx((18 / 19 + 20 / 21 - 10 / 15 - 1) / 2, abs=1e-4)
    assert (found["only_a_correct"], found["only_b_correct"]) == (4, 0)
    assert found["p"] == 2 * 0.5**4
    low, high = found["difference"]["accuracy"]["interval"]
    assert 0 <= low < 0.2 < high


def test_swapped_comparison_changes_sign() -> None:
    ours, theirs = drawn(100), drawn(100)
    theirs = Predictions(ours.labels, ours.truth, np.roll(theirs.probabilities, 3, axis=0), ours.groups)
    there, back = paired_test(ours, theirs), paired_test(theirs, ours)
    assert there["p"] == back["p"]
    assert (there["only_a_correct"], there["only_b_correct"]) == (back["only_b_correct"], back["only_a_correct"])
    for name, figure in there["difference"].items():
        low, high = back["difference"][name]["interval"]
        assert figure["value"] == -back["difference"][name]["value"]
        assert figure["interval"] == pytest.approx([-high, -low], abs=1e-4)


def test_clips_of_person_are_not_independent_witnesses() -> None:
    truth, groups = [0] * 60, np.repeat(np.arange(3), 20)
    ours, theirs = predictions(truth, [0] * 60), predictions(truth, [1] * 60)
    found = paired_test(Predictions(ours.labels, ours.truth, ours.probabilities, groups), theirs)
    assert (found["test"], found["only_a_correct"]) == ("sign-flip test over people", 60)
    assert found["p"] == pytest.approx(2 / 2**3, abs=0.02)
    alone = paired_test(Predictions(ours.labels, ours.truth, ours.probabilities, np.arange(60)), theirs)
    assert (alone["test"], alone["p"]) == ("exact McNemar test", pytest.approx(2 * 0.5**60, rel=1e-2))


def test_classifier_equals_itself() -> None:
    found = paired_test(drawn(20), drawn(20))
    assert found["p"] == 1
    assert all(figure == ALL_WRONG for figure in found["difference"].values())


def test_small_p_is_not_rounded_to_zero() -> None:
    found = paired_test(predictions([0] * 100, [0] * 100), predictions([0] * 100, [1] * 100))
    assert found["p"] == pytest.approx(2 * 0.5**100, rel=1e-2)


@pytest.mark.parametrize("theirs", [predictions([0, 2], [0, 1]), predictions([0], [0]), drawn(2)])
def test_classifiers_of_other_clips_are_not_compared(theirs: Predictions) -> None:
    with pytest.raises(ValueError, match="same clips"):
        paired_test(predictions([0, 1], [0, 1]), theirs)


def test_no_clips_are_not_compared() -> None:
    with pytest.raises(ValueError, match="no clips"):
        paired_test(predictions([], []), predictions([], []))


@pytest.mark.parametrize(
    ("truth", "said", "value"),
    [
        ([1, 2, 3], [1, 2, 3], 1),
        ([1, 2, 3], [3, 2, 1], -1),
        ([1, 2, 3], [2, 3, 4], (4 / 3) / (4 / 3 + 1)),
        ([1, 2, 3], [2, 4, 6], (8 / 3) / (10 / 3 + 4)),
        ([1, 2, 3], [2, 2, 2], 0),
        ([2, 2], [2, 2], 1),
        ([2, 2], [3, 3], 0),
        ([0.1, 0.1, 0.1], [0.1, 0.1, 0.1], 1),
        ([5], [5], 1),
    ],
)
def test_concordance_worked_out_by_hand(truth: list[float], said: list[float], value: float) -> None:
    assert ccc(np.array(truth), np.array(said)) == pytest.approx(value)


def test_numbers_are_measured_against_truth() -> None:
    random = np.random.default_rng(1)
    truth = random.normal(5, 2, 200)
    said = (truth + random.normal(0.5, 1, 200)).astype(np.float32)
    found = evaluate_regression(truth, said)
    assert (found["clips"], found["unanswered"]) == (200, 0)
    assert found["mae"]["value"] == pytest.approx(metrics.mean_absolute_error(truth, said), abs=1e-4)
    assert found["pearson"]["value"] == pytest.approx(np.corrcoef(truth, said)[0, 1], abs=1e-4)
    assert found["ccc"]["value"] == pytest.approx(ccc(truth, said), abs=1e-4)
    assert found["ccc"]["value"] < found["pearson"]["value"]
    for name in ("ccc", "mae", "pearson"):
        low, high = found[name]["interval"]
        assert low < found[name]["value"] < high


def test_missing_values_are_excluded_and_counted() -> None:
    truth, said, groups = np.array([1.0, 2, 3, 9]), np.array([1, 2, 4, np.nan]), np.array([1, 1, 2, 3])
    found = evaluate_regression(truth, said, groups)
    assert (found.pop("clips"), found.pop("unanswered")) == (4, 1)
    rest = evaluate_regression(truth[:3], said[:3], groups[:3])
    assert found == {name: rest[name] for name in ("ccc", "mae", "pearson")}
    assert found["mae"] == {"value": 0.3333, "interval": [0.0, 1.0]}


def test_constant_has_no_correlation() -> None:
    found = evaluate_regression(np.array([0.3, 0.1, 0.2]), np.full(3, 0.1))
    assert found["pearson"] == {"value": 0.0, "interval": [0.0, 0.0]}
    assert found["ccc"]["value"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("said", "ccc"), [(4.0, 1.0), (5.0, 0.0)])
def test_one_number_has_no_interval(said: float, ccc: float) -> None:
    found = evaluate_regression(np.array([4.0]), np.array([said]))
    assert found["ccc"] == {"value": ccc, "interval": None}
    assert found["mae"] == {"value": said - 4, "interval": None}
    assert found["pearson"] == {"value": 0.0, "interval": None}


@pytest.mark.parametrize(
    ("truth", "said", "groups", "problem"),
    [
        ([1.0, 2.0], [1.0], None, "same length"),
        ([[1.0]], [[1.0]], None, "same length"),
        ([1.0, 2.0], [1.0, 2.0], [1], "same length"),
        ([np.nan], [1.0], None, "not finite"),
        ([1.0], [np.inf], None, "not finite"),
        ([1.0, 2.0], [np.nan, np.nan], None, "none of 2 clips"),
        ([], [], None, "none of 0 clips"),
    ],
)
def test_invalid_values_are_refused(
    truth: list[float], said: list[float], groups: list[int] | None, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        evaluate_regression(np.array(truth), np.array(said), None if groups is None else np.array(groups))


@pytest.mark.parametrize(
    ("groups", "each", "least", "most"),
    [
        (5, 1.0, 0.05, 0.08),  # 2 of 32 signs reach it: too few people for a p below 0.05
        (6, 1.0, 0.02, 0.05),
        (12, 1.0, 0.0, 0.002),
        (12, 0.0, 1.0, 1.0),
    ],
)
def test_gains_of_whole_groups_are_turned_round(groups: int, each: float, least: float, most: float) -> None:
    p = sign_flip_test(np.full(3 * groups, each / 3), np.repeat(np.arange(groups), 3))
    assert least <= p <= most
