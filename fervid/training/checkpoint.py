"""Checkpoints: the tensors of a training run with its configuration as metadata, in one file.

The format is safetensors, which cannot contain code. Files are written atomically.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn, optim

from fervid.core.atomic_io import commit


def update_ema(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Update a moving average of a network's weights; the decay is lower in the first steps."""
    decay = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for mean, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
            mean.lerp_(value, 1 - decay) if mean.is_floating_point() else mean.copy_(value)


def save(
    path: Path, metadata: Mapping[str, Any], step: int, modules: Mapping[str, nn.Module], optimiser: optim.Optimizer
) -> None:
    """Write a checkpoint atomically.

    `metadata` is everything that determines the result, as JSON types; `restore` compares it.
    """
    tensors = {f"{name}/{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser/{number}/{key}": value for key, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    stored = {"about": json.dumps(metadata), "step": str(step)}
    safetensors.torch.save_file({k: v.detach().contiguous() for k, v in tensors.items()}, partial, stored)
    with partial.open("rb+") as file:
        commit(file, path)


def restore(
    path: Path, metadata: Mapping[str, Any], modules: Mapping[str, nn.Module], optimiser: optim.Optimizer
) -> int:
    """Load a checkpoint that `save` wrote into modules and optimiser, and return the number of completed steps.

    Raises:
        ValueError: It belongs to another run; the message names what differs.
    """
    stored, step, tensors = load(path)
    if differing := _differing_keys(stored, metadata):
        raise ValueError(
            f"{path} is a checkpoint of another run: {', '.join(differing)} differ; choose another output or remove it"
        )
    for name, module in modules.items():
        module.load_state_dict(strip_prefix(tensors, name))
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in strip_prefix(tensors, "optimiser").items():
        number, _, name = key.partition("/")
        parameter = parameters[int(number)]
        if value.shape == parameter.shape:  # a fused optimiser needs the memory layout of the parameter
            value = torch.empty_like(parameter, requires_grad=False).copy_(value)
        state.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return step


def _differing_keys(stored: Mapping[str, Any], metadata: Mapping[str, Any]) -> list[str]:
    """Return the keys whose values differ; within "recipe", the names of the settings."""
    names = []
    for name in sorted(stored.keys() | metadata.keys()):
        theirs, ours = stored.get(name), metadata.get(name)
        if theirs != ours:
            both = isinstance(theirs, Mapping) and isinstance(ours, Mapping) and name == "recipe"
            names += _differing_keys(theirs, ours) if both else [name]  # type: ignore[arg-type]
    return names


def load(path: Path, data: str | None = None) -> tuple[dict[str, Any], int, dict[str, Tensor]]:
    """Load metadata, the number of completed steps, and the tensors.

    `data` is a metadata key that only runs of the expected kind have ("data" or "faces"); None for any kind.

    Raises:
        ValueError: The file is not a checkpoint, or belongs to another kind of run.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            stored = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata, step = json.loads(stored["about"]), int(stored["step"])
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is not a checkpoint ({error}); choose another output or remove it") from error
    if data is not None and data not in metadata:
        raise ValueError(f"{path} is a checkpoint of another kind of run; give one that this command wrote")
    return metadata, step, tensors


def load_final_weights(path: Path, data: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Load the metadata and the averaged weights of a finished run; `data` is as in `load`.

    Raises:
        ValueError: As in `load`, or the run is not finished.
    """
    metadata, step, tensors = load(path, data)
    if step < (steps := metadata["recipe"]["steps"]):
        raise ValueError(f"{path} has completed {step} of {steps} steps; finish training first")
    return metadata, strip_prefix(tensors, "average")


def strip_prefix(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Select the tensors of one module, without the prefix of its name."""
    return {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
