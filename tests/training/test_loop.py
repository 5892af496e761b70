"""Test the training loop: batches, learning rates, modes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fervid.training import loop
from fervid.training.loop import Schedule

SCHEDULE = Schedule(steps=8, learning_rate=0.1, warmup=4, weight_decay=0.0, ema_decay=0.5)


def test_batches_are_made_once_in_order() -> None:
    made: list[int] = []

    def make(step: int) -> int:
        made.append(step)
        return step

    assert list(loop.prefetch_batches(make, 3, 6)) == [3, 4, 5] == made
    assert not list(loop.prefetch_batches(make, 6, 6))
    assert made == [3, 4, 5]


def test_batch_error_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        list(loop.prefetch_batches(lambda step: 1 // step, 0, 2))


def test_rate_rises_and_falls_to_nothing() -> None:
    rates = [SCHEDULE.learning_rate_at(step) for step in range(SCHEDULE.steps + 1)]
    assert rates[0] == 0.025
    assert max(rates) == rates[3] < 0.1
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] == pytest.approx(0)
    assert replace(SCHEDULE, warmup=0).learning_rate_at(0) == 0.1


def test_evaluation_between_steps_keeps_training_mode(tmp_path: Path) -> None:
    network, modes = nn.Linear(1, 1), []

    def missed(batch: float) -> Tensor:
        modes.append(network.training)
        return network(torch.ones(1, 1)).sum()

    for _ in loop.fit(network, tmp_path / "run", {}, SCHEDULE, float, missed, every=2):
        network.eval()
    assert modes == [True] * 8
