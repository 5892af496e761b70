"""The state of a training run in one file: tensors by name, and as metadata what decides the result.

The format is safetensors, which holds no code. A file is replaced whole or not at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn, optim


def update_ema(average: nn.Module, network: nn.Module, keep: float, step: int) -> None:
    """Move the running average of a network's weights on; the first steps keep less, so that the start is forgotten."""
    keep = min(keep, (1 + step) / (10 + step))
    with torch.no_grad():
        for mean, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
            mean.lerp_(value, 1 - keep) if mean.is_floating_point() else mean.copy_(value)


def save(
    path: Path, about: Mapping[str, Any], step: int, modules: Mapping[str, nn.Module], optimiser: optim.Optimizer
) -> None:
    """Write weights and optimiser.

    Args:
        path: The file.
        about: What decides the result, as JSON types; `restore` compares it.
        step: How many steps are done.
        modules: By name.
        optimiser: With the state of its parameters.
    """
    tensors = {f"{name}/{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser/{number}/{key}": value for key, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".partial")
    metadata = {"about": json.dumps(about), "step": str(step)}
    safetensors.torch.save_file({k: v.detach().contiguous() for k, v in tensors.items()}, unfinished, metadata)
    os.replace(unfinished, path)


def restore(path: Path, about: Mapping[str, Any], modules: Mapping[str, nn.Module], optimiser: optim.Optimizer) -> int:
    """Continue from a file that `save` wrote.

    Returns:
        How many steps are done.

    Raises:
        ValueError: It is of another run; the message names what differs.
    """
    stored, step, tensors = read(path)
    if differing := _differing(stored, about):
        raise ValueError(f"{path} is of another run: {', '.join(differing)} differ; give another output or remove it")
    for name, module in modules.items():
        module.load_state_dict(strip_prefix(tensors, name))
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in strip_prefix(tensors, "optimiser").items():
        number, _, name = key.partition("/")
        like = parameters[int(number)]
        if value.shape == like.shape:  # a fused step goes through memory, so both must lie in the same order
            value = torch.empty_like(like, requires_grad=False).copy_(value)
        state.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return step


def _differing(stored: Mapping[str, Any], about: Mapping[str, Any]) -> list[str]:
    """The names under which two descriptions differ, those within a part by their own names."""
    names = []
    for name in sorted(stored.keys() | about.keys()):
        theirs, ours = stored.get(name), about.get(name)
        if theirs != ours:
            both = isinstance(theirs, Mapping) and isinstance(ours, Mapping) and name == "recipe"
            names += _differing(theirs, ours) if both else [name]  # type: ignore[arg-type]
    return names


def read(path: Path, data: str | None = None) -> tuple[dict[str, Any], int, dict[str, Tensor]]:
    """What decided the result, the steps done, and the tensors.

    Args:
        path: The file.
        data: The name under which runs of that kind, and no others, keep the hash of their data; None for any kind.

    Raises:
        ValueError: The file is no state of a run, or of another kind of run.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about, step = json.loads(metadata["about"]), int(metadata["step"])
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is no state of a run ({error}); give another output or remove it") from error
    if data is not None and data not in about:
        raise ValueError(f"{path} is a run of another kind; give one of this command")
    return about, step, tensors


def load_final_weights(path: Path, data: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What decided the result of a run that came to its last step, and its averaged weights.

    Args:
        path: The file.
        data: As of `read`.

    Raises:
        ValueError: As `read`, or the run has not come to its last step.
    """
    about, step, tensors = read(path, data)
    if step < (steps := about["recipe"]["steps"]):
        raise ValueError(f"{path} has done {step} of {steps} steps; train it to its end")
    return about, strip_prefix(tensors, "average")


def strip_prefix(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors of one module."""
    return {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
