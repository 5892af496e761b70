"""A training loop with prefetching, warm-up and cosine decay, a moving average and checkpoints.

The batch of a step depends on its number only, so a resumed run gives the same result as an uninterrupted one.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from fervid.training import checkpoint
from fervid.training.config import read_settings

Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class Schedule:
    """The settings of the optimiser; subclasses add those of a kind of run, and defaults.

    Attributes:
        steps: Number of batches; the learning rate decays to zero over them.
        learning_rate: Maximum learning rate.
        warmup: Steps of linear warm-up.
        weight_decay: Weight decay.
        ema_decay: Decay of the moving average of the weights.
    """

    steps: int
    learning_rate: float
    warmup: int
    weight_decay: float
    ema_decay: float

    @classmethod
    def from_json(cls, path: Path) -> Self:
        """Read a JSON object; settings that it lacks keep their defaults.

        Raises:
            ValueError: It is not a JSON object, has unknown settings, or a value has the wrong type.
        """
        return cls(**read_settings(path, {field.name: field.default for field in fields(cls)}))

    def learning_rate_at(self, step: int) -> float:
        """Compute the learning rate of a step: linear warm-up, cosine decay."""
        cosine = (1 + math.cos(math.pi * step / self.steps)) / 2
        return self.learning_rate * min(1.0, (step + 1) / max(self.warmup, 1)) * cosine


def prefetch_batches(make: Callable[[int], Batch], start: int, stop: int) -> Iterator[Batch]:
    """Yield the batches of the given steps; a thread makes the next one meanwhile."""
    cv2.setNumThreads(1)
    with ThreadPoolExecutor(1) as pool:
        steps = iter(range(start, stop))
        pending = [pool.submit(make, step) for step in islice(steps, 1)]
        while pending:
            batch = pending.pop().result()
            pending += [pool.submit(make, step) for step in islice(steps, 1)]
            yield batch


def fit(
    network: nn.Module,
    path: Path,
    metadata: Mapping[str, Any],
    schedule: Schedule,
    make: Callable[[int], Batch],
    loss: Callable[[Batch], Tensor],
    *,
    every: int,
) -> Iterator[dict[str, float]]:
    """Train a network in place with AdamW to the last step, resuming from the checkpoint `path` if it exists.

    Saves a checkpoint every `every` steps, with `metadata`, which is everything that determines the result; yields
    step, mean loss since the last checkpoint and elapsed seconds. `make` makes the batch of a step.

    Raises:
        ValueError: The checkpoint belongs to another run.
    """
    average = copy.deepcopy(network).eval().requires_grad_(False)
    modules = {"network": network, "average": average}
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=schedule.weight_decay, fused=True)
    step = checkpoint.restore(path, metadata, modules, optimiser) if path.exists() else 0
    losses, started = [], time.monotonic()
    for batch in prefetch_batches(make, step, schedule.steps):
        optimiser.param_groups[0]["lr"] = schedule.learning_rate_at(step)
        network.train()  # the caller may have changed the mode between steps
        value = loss(batch)
        value.backward()
        optimiser.step()
        optimiser.zero_grad()
        step += 1
        checkpoint.update_ema(average, network, schedule.ema_decay, step)
        losses.append(float(value.detach()))
        if step % every == 0 or step == schedule.steps:
            checkpoint.save(path, metadata, step, modules, optimiser)
            yield {"step": step, "loss": float(np.mean(losses)), "seconds": time.monotonic() - started}
            losses = []
