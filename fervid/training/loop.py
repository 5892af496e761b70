"""Batches and steps: what every training here goes through, whatever it learns.

The batch of a step comes from its number alone, so a run that was killed gives the same result.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from fervid.training import state

Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class Schedule:
    """What a recipe says of its steps.

    Attributes:
        steps: Batches in all; after the last the learning rate would be zero.
        rate: Highest learning rate.
        warmup: Steps until it is reached.
        decay: Weight decay.
        average: Share of the moving average that a step keeps.
    """

    steps: int
    rate: float
    warmup: int
    decay: float
    average: float

    def learning_rate(self, step: int) -> float:
        """Warm-up and cosine."""
        falling = (1 + math.cos(math.pi * step / self.steps)) / 2
        return self.rate * min(1.0, (step + 1) / max(self.warmup, 1)) * falling


def prefetch_batches(make: Callable[[int], Batch], start: int, stop: int) -> Iterator[Batch]:
    """The batches of those steps; while one is learned from, a thread makes the next.

    Raises:
        Exception: What `make` raises.
    """
    cv2.setNumThreads(1)
    with ThreadPoolExecutor(1) as ahead:
        steps = iter(range(start, stop))
        coming = [ahead.submit(make, step) for step in islice(steps, 1)]
        while coming:
            ready = coming.pop().result()
            coming += [ahead.submit(make, step) for step in islice(steps, 1)]
            yield ready


def fit(
    network: nn.Module,
    path: Path,
    about: Mapping[str, Any],
    schedule: Schedule,
    make: Callable[[int], Batch],
    loss: Callable[[Batch], Tensor],
    *,
    every: int,
    steepest: float = math.inf,
) -> Iterator[dict[str, float]]:
    """Train a network by AdamW to the last step, and keep it with its moving average in a file.

    Args:
        network: At step 0, or of the kind that is in the file.
        path: The state, which is continued if it is there.
        about: What decides the result.
        schedule: Steps and rates.
        make: Step number to batch.
        loss: Of a batch.
        every: Steps after which the state is kept.
        steepest: Length that gradients are cut to.

    Yields:
        Step, mean loss since the last time and seconds, each time that the state was kept.

    Raises:
        ValueError: The file is of another run.
    """
    average = copy.deepcopy(network).eval().requires_grad_(False)
    modules = {"network": network, "average": average}
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=schedule.decay, fused=True)
    step = state.restore(path, about, modules, optimiser) if path.exists() else 0
    losses, began = [], time.monotonic()
    for batch in prefetch_batches(make, step, schedule.steps):
        optimiser.param_groups[0]["lr"] = schedule.learning_rate(step)
        network.train()  # whoever looks at a run between steps may have left it in another mode
        value = loss(batch)
        value.backward()
        if steepest < math.inf:
            nn.utils.clip_grad_norm_(network.parameters(), steepest)
        optimiser.step()
        optimiser.zero_grad()
        step += 1
        state.update_ema(average, network, schedule.average, step)
        losses.append(float(value.detach()))
        if step % every == 0 or step == schedule.steps:
            state.save(path, about, step, modules, optimiser)
            yield {"step": step, "loss": float(np.mean(losses)), "seconds": time.monotonic() - began}
            losses = []
