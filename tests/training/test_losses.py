"""Test the loss of each task, which depends only on faces with its label."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fervid.training import losses
from fervid.training.losses import Targets, TaskWeights
from fervid.training.network import AGES, Heads

COUNTS = {"expression": 8, "first": 7, "age": AGES, "ethnicity": 5, "embedding": 4, "identity": 3}
TASKS = [task for task in asdict(TaskWeights()) if task != "consistency"]
NOTHING = TaskWeights(**dict.fromkeys(asdict(TaskWeights()), 0.0))
NO_PRIOR = (torch.zeros(8), torch.zeros(7))
PEOPLE = torch.eye(4)[:3] * 5
PEAK = 1 / np.exp(-(np.arange(-29.0, 71) ** 2) / 8).sum()  # weight of the age itself, for an age of 30
HEAD = {"expression": "expression", "fer2013": "first", "age": "age", "years": "age", "gender": "gender"} | {
    "ethnicity": "ethnicity",
    "distillation": "embedding",
    "identity": "embedding",
}


def unknown(count: int) -> Targets:
    return Targets(
        *(torch.zeros(count, COUNTS[name]) for name in ("expression", "first")),
        *(torch.full((count,), -1) for _ in range(4)),
        torch.zeros(count, COUNTS["embedding"]),
    )


def heads(count: int, **given: Tensor) -> Heads:
    """Make outputs; zeros where none are given."""
    columns = {name: torch.zeros(count, width) for name, width in COUNTS.items()} | {"gender": torch.zeros(count)}
    return Heads(**{**columns, **given})


def noise(count: int, seed: int = 0) -> Heads:
    torch.manual_seed(seed)
    return Heads(*(torch.randn_like(column).requires_grad_() for column in heads(count)))


def only(task: str, given: Heads, targets: Targets, prior: tuple[Tensor, Tensor] = NO_PRIOR) -> float:
    weights = replace(NOTHING, **{task: 1.0})
    return float(losses.multitask_loss(given, given.embedding, PEOPLE, targets, weights, *prior).detach())


def log_softmax(*logits: float) -> np.ndarray:
    return np.array(logits) - np.log(np.exp(logits).sum())


def one(**labels: object) -> Targets:
    """Make the targets of one face."""
    return replace(unknown(1), **{name: torch.tensor([value]) for name, value in labels.items()})


def row(width: int, logits: dict[int, float]) -> Tensor:
    """Make a row (1, width) of zeros except at the given indices."""
    found = torch.zeros(1, width)
    found[0, list(logits)] = torch.tensor(list(logits.values()), dtype=torch.float32)
    return found


@pytest.mark.parametrize(
    ("task", "given", "targets", "expected"),
    [
        ("expression", {}, one(votes=[0.6, 0.4] + [0.0] * 6), math.log(8)),
        ("expression", {"expression": row(8, {0: 1})}, one(votes=[1.0] + [0.0] * 7), math.log(math.e + 7) - 1),
        ("fer2013", {}, one(first=[0.0, 1.0] + [0.0] * 5), math.log(7)),
        ("fer2013", {"first": row(7, {3: 2})}, one(first=[0.5, 0, 0, 0.5, 0, 0, 0]), math.log(math.e**2 + 6) - 1),
        ("age", {}, one(age=30), math.log(AGES)),
        ("age", {"age": row(AGES, {29: 5})}, one(age=30), math.log(math.exp(5) + AGES - 1) - 5 * PEAK),
        ("years", {}, one(age=30), 50.5 - 30),
        ("years", {"age": row(AGES, {19: 1e3})}, one(age=27), 7),
        ("gender", {}, one(gender=1), math.log(2)),
        ("gender", {"gender": torch.tensor([3.0])}, one(gender=0), math.log(1 + math.exp(-3))),
        ("gender", {"gender": torch.tensor([3.0])}, one(gender=1), 3 + math.log(1 + math.exp(-3))),
        ("ethnicity", {}, one(ethnicity=4), math.log(5)),
        (
            "ethnicity",
            {"ethnicity": row(5, {2: 2})},
            one(ethnicity=2),
            -(0.95 + 0.05 / 5) * log_softmax(2, 0, 0, 0, 0)[0] - 0.05 / 5 * log_softmax(2, 0, 0, 0, 0)[1:].sum(),
        ),
        ("distillation", {"embedding": row(4, {0: 3})}, one(initial_embeddings=[0.6, 0.8, 0.0, 0.0]), 1 - 0.6),
        (
            "identity",
            {"embedding": row(4, {0: 3, 1: 4})},
            one(person=1),
            -np.array([0.05 / 3, 0.95 + 0.05 / 3, 0.05 / 3]) @ log_softmax(20 * 0.6, 20 * 0.8, 0),
        ),
    ],
)
def test_single_task_loss_by_hand(task: str, given: dict[str, Tensor], targets: Targets, expected: float) -> None:
    assert only(task, heads(1, **given), targets) == pytest.approx(expected, rel=1e-5)


def some_known() -> Targets:
    """Label two of five faces for each task; the third has votes only, the fourth a person only."""
    targets = unknown(5)
    targets.votes[:3] = torch.softmax(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), 1)
    targets.first[[0, 1], [3, 6]] = 1
    targets.initial_embeddings[:2] = torch.tensor([[0.6, 0.8, 0, 0], [0, 0, 1, 0]])
    for column, values in ((targets.age, (20, 71)), (targets.gender, (0, 1)), (targets.ethnicity, (4, 0))):
        column[:2] = torch.tensor(values)
    targets.person[[0, 1, 3]] = torch.tensor([2, 0, 1])
    return targets


@pytest.mark.parametrize("task", TASKS)
def test_unlabelled_face_does_not_change_loss(task: str) -> None:
    targets, given = some_known(), noise(5)
    losses.multitask_loss(
        given, given.embedding, PEOPLE, targets, replace(NOTHING, **{task: 1.0}), *NO_PRIOR
    ).backward()
    known = {"expression": [0, 1, 2], "identity": [0, 1, 3]}.get(task, [0, 1])
    slope = getattr(given, HEAD[task]).grad
    touched = slope.reshape(5, -1).abs().sum(1) > 0
    assert touched.nonzero().flatten().tolist() == known
    assert all(getattr(given, name).grad is None for name in given._fields if name != HEAD[task])
    alone = Heads(*(column[known] for column in given))
    given_labels = {name: getattr(targets, name) for name in targets.__slots__}
    kept = Targets(**{name: labels[known] for name, labels in given_labels.items() if labels is not None})
    assert only(task, given, targets) == pytest.approx(only(task, alone, kept), rel=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_loss_without_labels_is_zero(task: str) -> None:
    given = noise(3)
    loss = losses.multitask_loss(given, given.embedding, PEOPLE, unknown(3), replace(NOTHING, **{task: 1.0}), *NO_PRIOR)
    loss.backward()
    assert loss == 0
    assert not getattr(given, HEAD[task]).grad.any()


def test_tasks_are_weighted_and_added() -> None:
    targets, given, weights = some_known(), noise(5), TaskWeights(*range(1, 9))
    parts = {task: only(task, given, targets) for task in TASKS}
    expected = sum(asdict(weights)[task] * part for task, part in parts.items())
    assert all(part > 0 for part in parts.values())
    whole = losses.multitask_loss(given, given.embedding, PEOPLE, targets, weights, *NO_PRIOR)
    assert whole.item() == pytest.approx(expected, rel=1e-5)


def test_task_of_zero_weight_is_skipped() -> None:
    other = replace(some_known(), initial_embeddings=torch.eye(5, 3))
    left = replace(TaskWeights(), distillation=0.0)
    given = noise(5)
    assert torch.isfinite(losses.multitask_loss(given, given.embedding, PEOPLE, other, left, *NO_PRIOR))


def test_prior_is_added_to_logits_of_expression_and_first_labels() -> None:
    targets, given = some_known(), noise(5)
    expression, first = torch.linspace(-2, 0, 8), torch.linspace(0, 3, 7)
    moved = given._replace(expression=given.expression + expression, first=given.first + first)
    for task in ("expression", "fer2013"):
        found = only(task, given, targets, (expression, first))
        assert found == pytest.approx(only(task, moved, targets)) != only(task, given, targets)


def test_zero_rows_are_ignored() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [5.0, 0.0, 0.0], [1.0, 1.0, 4.0]])
    shares = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    expected = -(log_softmax(0, 1, 2)[:2].mean() + log_softmax(1, 1, 4)[2]) / 2
    assert float(losses.soft_cross_entropy(logits, shares)) == pytest.approx(expected, rel=1e-6)
    assert float(losses.soft_cross_entropy(logits, torch.zeros(3, 3))) == 0
    assert float(losses.soft_cross_entropy(logits[:0], shares[:0])) == 0


def test_age_distribution() -> None:
    years = torch.tensor([1, 2, 35, 99, 100, 116])
    shares = losses.gaussian_label_distribution(years, AGES)
    assert shares.shape == (6, AGES)
    assert shares.sum(1).tolist() == pytest.approx([1] * 6, rel=1e-6)
    assert (shares.argmax(1) + 1).tolist() == [1, 2, 35, 99, 100, 100]
    middle = shares[2, 34].item()
    assert middle == pytest.approx(1 / np.exp(-(np.arange(-34.0, 66) ** 2) / 8).sum(), rel=1e-5)
    assert shares[2, [33, 35, 32]].tolist() == pytest.approx([middle * math.exp(-s / 8) for s in (1, 1, 4)], rel=1e-5)


def test_expected_years_are_mean_of_years_from_one() -> None:
    logits = torch.log(torch.tensor([[0.25, 0.75, 1e-9], [1e-9, 1e-9, 1.0], [1.0, 1.0, 1.0]]))
    assert losses.expected_years(logits).tolist() == pytest.approx([1.75, 3, 2], rel=1e-5)
    assert losses.expected_years(
        losses.gaussian_label_distribution(torch.tensor([40]), AGES).log()
    ).tolist() == pytest.approx([40], rel=1e-4)


def test_distance_is_angle() -> None:
    embedding = torch.tensor([[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0], [3.0, 3.0]])
    starting = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    assert float(losses.cosine_distance(embedding, starting)) == pytest.approx((0 + 1 + 2) / 3)
