"""The multi-task network in torch: one backbone, an embedding, and a small head for every task.

After Savchenko (arXiv 2103.17107, section 3): expression is linear on the embedding; age in 100 classes, gender and
ethnicity on a dense layer of 256 units. The embedding is kept close to that of the starting weights, so identity is
linear on it too, and fitted last, in closed form (`fervid.training.fit`). A head for the first labels of FER2013
stands beside the one for the votes, because the two sets of annotators often disagree.
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

from fervid.training import mobilenet
from fervid.training.ferplus import CLASSES, FIRST_FOLDERS

AGES = 100
IDENTITY = 128
ETHNICITIES = ("White", "Black", "Asian", "Indian", "Other")
FER2013_CLASSES = tuple(FIRST_FOLDERS)
PIXEL_MEAN = (103.939, 116.779, 123.68)  # BGR, of the pictures that the starting weights were trained on


class Heads(NamedTuple):
    """What the network gives for n pictures, before any soft-max or sigmoid."""

    embedding: Tensor  # (n, d)
    expression: Tensor  # (n, 8)
    first: Tensor  # (n, 7)
    age: Tensor  # (n, 100), the years from 1
    gender: Tensor  # (n,), male above 0
    ethnicity: Tensor  # (n, 5)
    identity: Tensor  # (n, 128)


class FaceNetwork(nn.Module):
    """(n, 3, s, s) BGR pictures, mean subtracted -> `Heads`.

    Attributes:
        backbone: Pictures to embedding; its `width` is that of the embedding.
        autocast: Whether the backbone is worked out in bfloat16 in training and while training is watched.
    """

    autocast = True

    def __init__(self, backbone: nn.Module, width: int) -> None:
        """Put fresh heads on a backbone with embeddings of that width."""
        super().__init__()
        self.backbone = backbone
        self.width = width
        self.expression = nn.Linear(width, len(CLASSES))
        self.first = nn.Linear(width, len(FER2013_CLASSES))
        self.attributes = nn.Linear(width, 256)
        self.age = nn.Linear(256, AGES)
        self.gender = nn.Linear(256, 1)
        self.ethnicity = nn.Linear(256, len(ETHNICITIES))
        self.identity = nn.Linear(width, IDENTITY).requires_grad_(False)

    def forward(self, pictures: Tensor) -> Heads:
        """Pictures to heads."""
        return self.heads(self.backbone(pictures).float())

    def heads(self, embedding: Tensor) -> Heads:
        """Embedding (n, d) to heads."""
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


def build(backbone: str, weights: mobilenet.TaskWeights | None = None) -> FaceNetwork:
    """A network by the name of its backbone.

    Args:
        backbone: `mobilenetv1`, or the name of any network of timm.
        weights: For `mobilenetv1`, what `read_tensorflowjs` read: backbone and heads for age and gender.

    Raises:
        ValueError: No backbone of that name, timm is not installed, or the weights are not those of `mobilenetv1`.
    """
    if backbone != "mobilenetv1":
        if weights is not None:
            raise ValueError(f"the published weights are for mobilenetv1, not for {backbone}; leave them out")
        return _from_timm(backbone)
    layers = mobilenet.MobileNetV1()
    network = FaceNetwork(layers, mobilenet.EMBEDDING)
    if weights is not None:
        try:
            _load(network, layers, weights)
        except (KeyError, RuntimeError, ValueError) as error:
            said = " ".join(str(error).split())
            raise ValueError(
                f"these are not the published weights of mobilenetv1 ({said}); fetch them again"
            ) from error
    return network


def load_exported(network: FaceNetwork, path: Path) -> None:
    """Give a network of `mobilenetv1` the weights of a float32 file that was exported from one.

    Raises:
        ValueError: The file is no such export.
    """
    if not isinstance(network.backbone, mobilenet.MobileNetV1):
        raise ValueError(f"{path} can begin a run of mobilenetv1 alone; leave it out, or give a run of that backbone")
    try:
        stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
        mobilenet.load_exported(network.backbone, stored)
        for name, layer in network.named_children():
            if isinstance(layer, nn.Linear):
                mobilenet.load_layer(layer, stored[f"network.{name}.weight"], stored[f"network.{name}.bias"])
    except (DecodeError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no float32 export of mobilenetv1 ({reason}); give one, or a run") from error


def load_pretrained(name: str, backbone: nn.Module, path: Path) -> None:
    """Give the backbone of that name weights of safetensors, by the names that timm gives.

    Raises:
        ValueError: They are not for it.
    """
    try:
        backbone.load_state_dict(safetensors.torch.load_file(path))
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path} holds no weights of {name} ({error})") from error


def _load(network: FaceNetwork, layers: mobilenet.MobileNetV1, weights: mobilenet.TaskWeights) -> None:
    mobilenet.load_faceres(layers, weights)
    for layer, name in ((network.attributes, "feats"), (network.age, "age_pred"), (network.gender, "gender_pred")):
        mobilenet.load_layer(layer, weights[f"{name}/kernel"].T, weights[f"{name}/bias"])


def _from_timm(name: str) -> FaceNetwork:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ValueError(f"the backbone {name} needs timm; pip install 'fervid[train,backbones]'") from error

    if name not in timm.list_models():
        raise ValueError(f"no backbone is named {name!r}; give mobilenetv1 or a name of timm.list_models()")
    backbone: Any = timm.create_model(name, pretrained=False, num_classes=0)
    return FaceNetwork(backbone, backbone.num_features)


def to_tensor(crops: np.ndarray) -> Tensor:
    """(n, s, s, 3) uint8 RGB -> (n, 3, s, s) float32 BGR, mean subtracted, channels last in memory."""
    scaled = crops[..., ::-1].astype(np.float32) - np.array(PIXEL_MEAN, np.float32)
    return torch.from_numpy(scaled).permute(0, 3, 1, 2)
