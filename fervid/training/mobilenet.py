"""MobileNetV1 and its initial weights from TensorFlow.js files.

The network is that of Savchenko (arXiv 2103.17107, section 3): MobileNetV1 1.0 (Howard et al., arXiv 1704.04861) on
224-pixel faces, pre-trained on the identities of VGGFace2; age in 100 classes and gender on a dense layer of 256
units. In the published weights batch normalisation is folded into the convolutions. For training it is inserted again
(`insert_batch_norm`), because the network learns far more slowly without it; for inference it is folded
(`fold_batch_norm`).
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

EMBEDDING = 1024
EPS = 1e-5
BLOCKS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1)),
)  # (channels, stride) of the 13 depthwise-separable blocks

ELEMENTWISE = {"Mul": "Mul", "Add": "Add", "Relu": "Relu", "Minimum": "Min", "Maximum": "Max"}
"""Operators of TensorFlow, and their names in ONNX."""

NamedTensors = Mapping[str, NDArray[np.float32]]


class _SameConv(nn.Conv2d):
    """A 3x3 convolution with TensorFlow's "same" padding: with stride 2, even sides are padded at bottom and right."""

    def __init__(self, channels: int, width: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels, width, 3, stride, padding=1 if stride == 1 else 0, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == (1, 1):
            return super().forward(x)
        odd = x.shape[-1] % 2
        if self.training and self.groups > 1:  # the backward pass with stride is far slower in bfloat16
            dense = functional.conv2d(x, self.weight, self.bias, padding=1, groups=self.groups)
            return dense[:, :, 1 - odd :: 2, 1 - odd :: 2]
        return super().forward(functional.pad(x, (odd, 1, odd, 1)))


class _ConvBatchNorm(nn.Module):
    """A convolution without bias, and its batch normalisation."""

    frozen = False
    """Whether the statistics are constant; the normalisation is then computed as part of the kernel."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution
        self.norm: nn.Module = nn.BatchNorm2d(convolution.out_channels, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        if self.frozen:
            return self._forward_frozen(x)
        output: Tensor = self.norm(self.convolution(x))
        return output

    def _forward_frozen(self, x: Tensor) -> Tensor:
        """Normalise the kernel instead of the output, which is far larger."""
        scale = self.norm.get_parameter("weight") / (self.norm.get_buffer("running_var") + EPS).sqrt()
        kernel = self.convolution.weight * scale[:, None, None, None]
        offset = self.norm.get_parameter("bias") - self.norm.get_buffer("running_mean") * scale
        output: Tensor = functional_call(self.convolution, {"weight": kernel, "bias": offset}, (x,))
        return output


class MobileNetV1(nn.Module):
    """MobileNetV1; maps images (n, 3, s, s), scaled as the card says, to non-negative embeddings (n, 1024)."""

    def __init__(self) -> None:
        """Build the layers with random weights."""
        super().__init__()
        self.stem = _ConvBatchNorm(_SameConv(3, 32, stride=2))
        self.depthwise, self.pointwise = nn.ModuleList(), nn.ModuleList()
        channels = 32
        for width, stride in BLOCKS:
            self.depthwise.append(_ConvBatchNorm(_SameConv(channels, channels, stride=stride, groups=channels)))
            self.pointwise.append(_ConvBatchNorm(nn.Conv2d(channels, width, 1, bias=False)))
            channels = width

    def forward(self, x: Tensor) -> Tensor:
        """Compute the embeddings of images."""
        x = functional.relu6(self.stem(x))
        for depthwise, pointwise in zip(self.depthwise, self.pointwise, strict=True):
            x = functional.relu6(pointwise(functional.relu6(depthwise(x))))
        return x.mean(dim=(2, 3))

    def layers(self) -> list[_ConvBatchNorm]:
        """List all convolutions, each with its batch normalisation."""
        return [layer for layer in self.modules() if isinstance(layer, _ConvBatchNorm)]


def insert_batch_norm(backbone: MobileNetV1, images: Tensor) -> None:
    """Set the batch normalisation to the statistics of `images` (n, 3, s, s) without changing the outputs.

    Scales and offsets are set to invert the normalisation.
    """

    def set_statistics(layer: nn.Module, _: object, output: Tensor) -> Tensor:
        """Set the normalisation of a convolution from its output."""
        norm = layers[layer]
        mean, variance, factor, offset = (
            norm.state_dict()[name] for name in ("running_mean", "running_var", "weight", "bias")
        )
        scale = factor / (variance + EPS).sqrt()
        offset -= mean * scale
        variance[:], mean[:] = torch.var_mean(output, dim=(0, 2, 3))
        factor[:] = scale * (variance + EPS).sqrt()
        offset += mean * scale
        return output

    layers: dict[nn.Module, nn.Module] = {layer.convolution: layer.norm for layer in backbone.layers()}
    hooks = [convolution.register_forward_hook(set_statistics) for convolution in layers]
    with torch.no_grad():
        backbone.eval()(images)
    for hook in hooks:
        hook.remove()


def freeze_normalisation(backbone: MobileNetV1) -> None:
    """Keep the batch normalisation statistics constant in training; scales and offsets are still trained."""
    for layer in backbone.layers():
        layer.frozen = True


def freeze_blocks(backbone: MobileNetV1, blocks: int) -> None:
    """Exclude the first layer and the first blocks from training; with 0 blocks, nothing."""
    first = [*backbone.depthwise[:blocks], *backbone.pointwise[:blocks], *([backbone.stem] if blocks else [])]
    for layer in first:
        layer.requires_grad_(False)
        layer.frozen = True


def fold_batch_norm(backbone: MobileNetV1) -> MobileNetV1:
    """Copy the network with batch normalisation folded into the convolutions, for inference."""
    result = copy.deepcopy(backbone).eval()
    for layer in result.layers():
        if isinstance(layer.norm, nn.BatchNorm2d):
            layer.convolution, layer.norm = fuse_conv_bn_eval(layer.convolution, layer.norm), nn.Identity()
            layer.frozen = False
    return result


def read_tensorflowjs(manifest: Path) -> NamedTensors:
    """Read all tensors of a TensorFlow.js layers or graph model, by name.

    The binary files that the `.json` file names are in the same folder.

    Raises:
        ValueError: The manifest is damaged, or the binary files are too short or too long.
    """
    try:
        return _tensors(manifest)
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{manifest} is not a manifest of TensorFlow.js weights ({error!r}); download it again"
        ) from error


def _tensors(manifest: Path) -> NamedTensors:
    tensors: dict[str, NDArray[np.float32]] = {}
    for group in json.loads(manifest.read_text())["weightsManifest"]:
        data = b"".join((manifest.parent / name).read_bytes() for name in group["paths"])
        offset = 0
        for weight in group["weights"]:
            stored = np.dtype(weight.get("quantization", weight)["dtype"]).newbyteorder("<")
            count = int(np.prod(weight["shape"]))
            if offset + count * stored.itemsize > len(data):
                raise ValueError(
                    f"{manifest}: the weight files end before {weight['name']}; download the package again"
                )
            values = np.frombuffer(data, stored, count, offset)
            tensors[weight["name"]] = values.reshape(weight["shape"]).astype(np.float32)
            offset += count * stored.itemsize
        if offset != len(data):
            raise ValueError(
                f"{manifest}: the weight files have {len(data) - offset} extra bytes; download the package again"
            )
    return tensors


def load_layer(layer: nn.Module, kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
    """Copy a kernel, with torch's order of axes, and a bias into a layer."""
    layer.load_state_dict(
        {"weight": torch.from_numpy(np.array(kernel, order="C")), "bias": torch.from_numpy(bias.copy())}
    )


def load_faceres(backbone: MobileNetV1, weights: NamedTensors) -> None:
    """Copy the published weights into `backbone`; its batch normalisation then only adds their offsets.

    TensorFlow's kernels are (h, w, in, out), depthwise ones (h, w, channels, 1); the pointwise and first convolutions
    are already folded (`merged_input`), the depthwise ones consist of kernel, factor and offset.
    """
    _load_folded(
        backbone.stem,
        weights["conv1/convolution/merged_input"].transpose(3, 2, 0, 1),
        weights["conv1_bn/batchnorm_1/sub"],
    )
    for i, (depthwise, pointwise) in enumerate(zip(backbone.depthwise, backbone.pointwise, strict=True), start=1):
        factor = weights[f"conv_dw_{i}_bn/batchnorm_1/mul"]
        _load_folded(
            depthwise,
            weights[f"conv_dw_{i}/depthwise_kernel"].transpose(2, 3, 0, 1) * factor[:, None, None, None],
            weights[f"conv_dw_{i}_bn/batchnorm_1/sub"],
        )
        _load_folded(
            pointwise,
            weights[f"conv_pw_{i}/convolution/merged_input"].transpose(3, 2, 0, 1),
            weights[f"conv_pw_{i}_bn/batchnorm_1/sub"],
        )


def load_exported(backbone: MobileNetV1, stored: NamedTensors) -> None:
    """Copy weights of an exported file into `backbone`; its batch normalisation then only adds their offsets.

    Raises:
        KeyError: A weight is missing.
    """
    names = {layer: name for name, layer in backbone.named_modules()}
    for layer in backbone.layers():
        prefix = f"network.backbone.{names[layer]}.convolution"
        _load_folded(layer, stored[f"{prefix}.weight"], stored[f"{prefix}.bias"])


def _load_folded(layer: nn.Module, kernel: NDArray[np.float32], offset: NDArray[np.float32]) -> None:
    """Copy a kernel, with torch's order of axes, and an offset into a convolution and its normalisation."""
    values = {
        "convolution.weight": torch.from_numpy(np.array(kernel, order="C")),
        "norm.weight": torch.ones(len(offset)),
        "norm.bias": torch.from_numpy(offset.copy()),
        "norm.running_mean": torch.zeros(len(offset)),
        "norm.running_var": torch.full((len(offset),), 1 - EPS),
        "norm.num_batches_tracked": torch.tensor(0),
    }
    layer.load_state_dict(values)


def reference_difference(backbone: MobileNetV1, manifest: Path, size: int = 64) -> float:
    """Compute the largest difference between our embedding and that of the published graph.

    The graph of the TensorFlow.js file is rebuilt node by node in ONNX, without folding and with "SAME_UPPER" padding,
    and run by onnxruntime: an implementation independent of ours.
    """
    weights = read_tensorflowjs(manifest)
    nodes = []
    for node in json.loads(manifest.read_text())["modelTopology"]["node"]:
        name, operator = node["name"], node["op"]
        inputs = list(node.get("input", []))
        if operator in ("Conv2D", "DepthwiseConv2dNative"):
            stride = [int(s) for s in node["attr"]["strides"]["list"]["i"]][1:3]
            groups = weights[inputs[1]].shape[2] if operator != "Conv2D" else 1
            nodes.append(helper.make_node("Conv", inputs, [name], auto_pad="SAME_UPPER", strides=stride, group=groups))
        elif operator in ELEMENTWISE:
            nodes.append(helper.make_node(ELEMENTWISE[operator], inputs, [name]))
        elif operator == "Mean":
            nodes.append(helper.make_node("GlobalAveragePool", inputs[:1], [name]))
            break
    used = {i for node in nodes for i in node.input}
    constants = []
    for name in used & weights.keys():
        value = weights[name]
        if value.ndim == 4:
            value = value.transpose(2, 3, 0, 1) if "depthwise" in name else value.transpose(3, 2, 0, 1)
        elif value.ndim == 1:
            value = value[:, None, None]
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    image = "input_1"
    graph = helper.make_graph(
        nodes,
        "published",
        [helper.make_tensor_value_info(image, TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    pixels = np.random.default_rng(0).uniform(-120, 130, (1, 3, size, size)).astype(np.float32)
    (published,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {image: pixels})
    with torch.no_grad():
        ours = backbone(torch.from_numpy(pixels)).numpy()
    return float(np.abs(ours - published.reshape(ours.shape)).max())


def main() -> None:
    """Read the published weights and compare them with the published graph."""
    manifest = Path(sys.argv[1])
    backbone = MobileNetV1().eval()
    load_faceres(backbone, read_tensorflowjs(manifest))
    print(f"largest difference from the published graph: {reference_difference(backbone, manifest):.1e}")


if __name__ == "__main__":
    main()
