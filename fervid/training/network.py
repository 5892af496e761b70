"""The multi-task network in torch: a backbone, an embedding, and a small head for each task.

After Savchenko (arXiv 2103.17107, section 3): expression is linear on the embedding; age in 100 classes, gender and
ethnicity on a dense layer of 256 units. The embedding is distilled from that of the initial weights, so identity is
linear on it too, and fitted last, in closed form (`fervid.training.fit`). The labels of FER2013 have a head of their
own beside the one for the votes of FER+, because the two sets of annotators often disagree.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx.numpy_helper
import safetensors
import safetensors.torch
import torch
from google.protobuf.message import DecodeError
from torch import Tensor, nn
from torch.nn import functional

from fervid.core.packages import missing_extra
from fervid.training import mobilenet
from fervid.training.ferplus import CLASSES, FER2013_FOLDERS

AGES = 100
IDENTITY = 128
ETHNICITIES = ("White", "Black", "Asian", "Indian", "Other")
FER2013_CLASSES = tuple(FER2013_FOLDERS)
PIXEL_MEAN = (103.939, 116.779, 123.68)  # BGR, of the training images of the initial weights


class Heads(NamedTuple):
    """Outputs of the network for n images, before softmax and sigmoid."""

    embedding: Tensor  # (n, d)
    expression: Tensor  # (n, 8)
    first: Tensor  # (n, 7), FER2013 label
    age: Tensor  # (n, 100), years from 1
    gender: Tensor  # (n,) logit, positive for male
    ethnicity: Tensor  # (n, 5)
    identity: Tensor  # (n, 128)


class FaceNetwork(nn.Module):
    """The multi-task network; maps BGR images (n, 3, s, s), mean subtracted, to `Heads`.

    Attributes:
        backbone: Computes the embedding, of size `width`.
        autocast: Whether the backbone runs in bfloat16 in training and validation; as the processor allows.
    """

    def __init__(self, backbone: nn.Module, width: int) -> None:
        """Add heads with random weights to a backbone with embeddings of size `width`."""
        super().__init__()
        self.backbone = backbone
        self.width = width
        self.autocast = supports_bfloat16()
        self.expression = nn.Linear(width, len(CLASSES))
        self.first = nn.Linear(width, len(FER2013_CLASSES))
        self.attributes = nn.Linear(width, 256)
        self.age = nn.Linear(256, AGES)
        self.gender = nn.Linear(256, 1)
        self.ethnicity = nn.Linear(256, len(ETHNICITIES))
        self.identity = nn.Linear(width, IDENTITY).requires_grad_(False)

    def forward(self, images: Tensor) -> Heads:
        """Compute the outputs for images."""
        return self.heads(self.backbone(images).float())

    def heads(self, embedding: Tensor) -> Heads:
        """Compute the outputs from embeddings (n, d)."""
        attributes = functional.relu(self.attributes(embedding))
        return Heads(
            embedding,
            self.expression(embedding),
            self.first(embedding),
            self.age(attributes),
            self.gender(attributes).squeeze(1),
            self.ethnicity(attributes),
            self.identity(embedding),
        )


def build(backbone: str, weights: mobilenet.NamedTensors | None = None) -> FaceNetwork:
    """Build a network by the name of its backbone: `mobilenetv1`, or any model name of timm.

    For `mobilenetv1`, `weights` may be the published ones from `read_tensorflowjs`: backbone, age and gender.

    Raises:
        ValueError: The backbone is unknown, timm is not installed, or the weights are not those of `mobilenetv1`.
    """
    if backbone != "mobilenetv1":
        if weights is not None:
            raise ValueError(f"the published weights are for mobilenetv1, not for {backbone}; omit them")
        return _from_timm(backbone)
    layers = mobilenet.MobileNetV1()
    network = FaceNetwork(layers, mobilenet.EMBEDDING)
    if weights is not None:
        try:
            mobilenet.load_faceres(layers, weights)
            published = {"feats": network.attributes, "age_pred": network.age, "gender_pred": network.gender}
            for name, layer in published.items():
                mobilenet.load_layer(layer, weights[f"{name}/kernel"].T, weights[f"{name}/bias"])
        except (KeyError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"these are not the published weights of mobilenetv1 ({reason}); download them again"
            ) from error
    return network


def load_exported(network: FaceNetwork, path: Path) -> None:
    """Load the weights of an exported float32 file into a network of `mobilenetv1`.

    Raises:
        ValueError: The file is not such an export.
    """
    if not isinstance(network.backbone, mobilenet.MobileNetV1):
        raise ValueError(f"{path} can only initialise mobilenetv1; omit it, or give a checkpoint of that backbone")
    try:
        stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
        mobilenet.load_exported(network.backbone, stored)
        for name, layer in network.named_children():
            if isinstance(layer, nn.Linear):
                mobilenet.load_layer(layer, stored[f"network.{name}.weight"], stored[f"network.{name}.bias"])
    except (DecodeError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path} is not a float32 export of mobilenetv1 ({reason}); give one, or a checkpoint"
        ) from error


def load_pretrained(name: str, backbone: nn.Module, path: Path) -> None:
    """Load weights from a safetensors file with timm's names into the backbone `name`.

    Raises:
        ValueError: The weights do not fit it.
    """
    try:
        backbone.load_state_dict(safetensors.torch.load_file(path))
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path} does not contain weights of {name} ({error})") from error


def _from_timm(name: str) -> FaceNetwork:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ValueError(missing_extra(f"the backbone {name}", "training,backbones").message) from error

    if name not in timm.list_models():
        raise ValueError(f"unknown backbone {name!r}; use mobilenetv1 or a name from timm.list_models()")
    backbone: Any = timm.create_model(name, pretrained=False, num_classes=0)
    return FaceNetwork(backbone, backbone.num_features)


def embed(backbone: nn.Module, images: Tensor, *, bfloat16: bool) -> Tensor:
    """Compute the embeddings (n, d) in float32, by a backbone that may compute in bfloat16."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        embedding: Tensor = backbone(images).float()
    return embedding


def supports_bfloat16() -> bool:
    """Check whether the processor computes in bfloat16; others emulate it, many times slower than float32."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def to_tensor(crops: np.ndarray) -> Tensor:
    """Convert uint8 RGB (n, s, s, 3) to float32 BGR (n, 3, s, s), mean subtracted, channels last in memory."""
    scaled = crops[..., ::-1].astype(np.float32) - np.array(PIXEL_MEAN, np.float32)
    return torch.from_numpy(scaled).permute(0, 3, 1, 2)
