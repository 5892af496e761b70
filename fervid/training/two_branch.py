"""Train a network for six expressions on synthetic faces, with a second branch for appearance.

After Jeong et al. (arXiv 2207.10025): one backbone, a branch for expression, a branch for appearance (here landmarks,
head pose, age, gender and ethnicity), and mixup (Zhang et al., arXiv 1710.09412) or MixAugment (Psaroudakis and
Kollias, arXiv 2205.04442), which mixes only half of each batch.

    python -m fervid.training.two_branch --data sets/ --recipe models/recipes/two-branch.json --from start-fp32.onnx \
        --run run.safetensors -o two-branch.onnx
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fervid.training import augment, checkpoint, export, expression_transfer, faces, fit, loop, mobilenet
from fervid.training.augment import GeometricJitter
from fervid.training.config import TrainConfig
from fervid.training.dataset_paths import DatasetPaths
from fervid.training.expression_transfer import EXPRESSIONS, Synthetic
from fervid.training.faces import SIDE
from fervid.training.fit import Start
from fervid.training.loop import Schedule
from fervid.training.network import ETHNICITIES, build, embed, supports_bfloat16, to_tensor
from fervid.training.predict import load_for_inference
from fervid.training.torch_to_onnx import export_to_onnx

SAVE_EVERY_STEPS = 200  # steps
WIDTH = 256  # of each branch
AGE_UNIT = 100.0  # years
OUTPUTS = ("embedding", "expression")


@dataclass(frozen=True, slots=True)
class TwoBranchConfig(Schedule):
    """Everything that determines the result besides the faces and the initial weights.

    Attributes:
        backbone: `mobilenetv1`, or a model name of timm.
        size: Side of the input in pixels.
        faces_per_class: Synthetic faces per expression.
        batch_size: Faces per batch.
        augment_strength: Factor of the probabilities of low resolution, blur, compression and occlusion.
        mixing: How faces are mixed.
        mixup_alpha: Parameter of the Beta distribution of the mixing weights.
        appearance_weight: Weight of the loss of the appearance branch; 0 disables it.
        seed: Random seed.
    """

    backbone: str = "mobilenetv1"
    size: int = 96
    faces_per_class: int = 1200
    steps: int = 400
    batch_size: int = 48
    warmup: int = 40
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    ema_decay: float = 0.99
    augment_strength: float = 0.5
    mixing: Literal["none", "mixup", "mixaugment"] = "mixaugment"
    mixup_alpha: float = 0.4
    appearance_weight: float = 0.5
    seed: int = 2021

    def __post_init__(self) -> None:
        if self.mixing not in ("none", "mixup", "mixaugment"):
            raise ValueError(f"mixing must be none, mixup or mixaugment, not {self.mixing!r}")


class BranchOutputs(NamedTuple):
    """Outputs of the network for n images, before softmax and sigmoid."""

    embedding: Tensor  # (n, WIDTH), of the expression branch
    expression: Tensor  # (n, 6)
    landmarks: Tensor  # (n, 12), from -1 to 1 within the image
    pose: Tensor  # (n, 3), as from `expression_transfer.head_pose`
    age: Tensor  # (n,) centuries
    gender: Tensor  # (n,) logit, positive for male
    ethnicity: Tensor  # (n, 5)


class TwoBranch(nn.Module):
    """A backbone with two branches; maps BGR images (n, 3, s, s), mean subtracted, to `BranchOutputs`."""

    def __init__(self, backbone: nn.Module, width: int) -> None:
        """Add two branches to a backbone with `width` outputs."""
        super().__init__()
        self.backbone = backbone
        self.emotion, self.appearance = nn.Linear(width, WIDTH), nn.Linear(width, WIDTH)
        self.expression = nn.Linear(WIDTH, len(EXPRESSIONS))
        self.rest = nn.Linear(WIDTH, 12 + 3 + 1 + 1 + len(ETHNICITIES))

    def forward(self, images: Tensor) -> BranchOutputs:
        """Compute the outputs for images."""
        return self.branches(self.backbone(images).float())

    def branches(self, features: Tensor) -> BranchOutputs:
        """Compute the outputs from backbone features (n, width)."""
        embedding = functional.relu(self.emotion(features))
        appearance = self.rest(functional.relu(self.appearance(features)))
        landmarks, pose, age, gender, ethnicity = appearance.split((12, 3, 1, 1, len(ETHNICITIES)), dim=1)
        return BranchOutputs(
            embedding, self.expression(embedding), landmarks, pose, age.squeeze(1), gender.squeeze(1), ethnicity
        )


class BranchTargets(NamedTuple):
    """Labels of n images, for the outputs of the same names."""

    expression: Tensor  # (n,) index into `EXPRESSIONS`
    landmarks: Tensor
    pose: Tensor
    age: Tensor
    gender: Tensor  # (n,) 1 for male
    ethnicity: Tensor  # (n,) class


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Images, each a mixture of two faces."""

    images: Tensor  # (n, 3, s, s)
    first: BranchTargets  # labels of the first faces
    second: BranchTargets
    share: Tensor  # (n,) mixing weight of the first face


def make_batch(recipe: TwoBranchConfig, made: Synthetic, step: int) -> Batch:
    """Make the batch of a step."""
    rng = np.random.default_rng((recipe.seed, step))
    rows = rng.integers(0, len(made), recipe.batch_size)
    jitters = [GeometricJitter.random(rng) for _ in rows]
    views = [
        augment.augment_appearance(
            augment.crop_to_input(made.crops[i], recipe.size, jitter), rng, recipe.augment_strength
        )
        for i, jitter in zip(rows, jitters, strict=True)
    ]
    images = to_tensor(np.stack(views))
    labels = make_targets(made, rows, jitters, recipe.size)
    count = {"none": 0, "mixup": recipe.batch_size, "mixaugment": recipe.batch_size // 2}[recipe.mixing]
    partner = np.arange(recipe.batch_size)
    partner[:count] = rng.permutation(recipe.batch_size)[:count]
    share = torch.ones(recipe.batch_size)
    share[:count] = torch.from_numpy(rng.beta(recipe.mixup_alpha, recipe.mixup_alpha, count)).float()
    if count:
        weight = share[:, None, None, None]
        images = weight * images + (1 - weight) * images[partner]
    return Batch(images, labels, BranchTargets(*(column[partner] for column in labels)), share)


def make_targets(made: Synthetic, rows: NDArray[np.int64], jitters: list[GeometricJitter], size: int) -> BranchTargets:
    """Make the labels of synthetic faces, with landmarks and pose as in the jittered views."""
    landmarks = np.stack(
        [jitter.transform_landmarks(made.landmarks[i], SIDE, size) for i, jitter in zip(rows, jitters, strict=True)]
    )
    return BranchTargets(
        torch.from_numpy(made.expression[rows]),
        torch.from_numpy(landmarks / ((size - 1) / 2) - 1).flatten(1),
        torch.from_numpy(expression_transfer.head_pose(landmarks)),
        torch.from_numpy(made.age[rows] / AGE_UNIT).float(),
        torch.from_numpy(1.0 - made.gender[rows]).float(),
        torch.from_numpy(made.ethnicity[rows]),
    )


def loss(outputs: BranchOutputs, batch: Batch, appearance: float) -> Tensor:
    """Compute the mean loss, weighting the labels of the two faces of an image by its mixing weight."""
    first, second = (_loss_per_image(outputs, labels, appearance) for labels in (batch.first, batch.second))
    return (batch.share * first + (1 - batch.share) * second).mean()


def _loss_per_image(outputs: BranchOutputs, labels: BranchTargets, appearance: float) -> Tensor:
    """Compute the losses (n,)."""
    expression = functional.cross_entropy(outputs.expression, labels.expression, reduction="none")
    if not appearance:
        return expression
    losses = [
        (outputs.landmarks - labels.landmarks).abs().mean(1),
        (outputs.pose - labels.pose).abs().mean(1),
        (outputs.age - labels.age).abs(),
        functional.binary_cross_entropy_with_logits(outputs.gender, labels.gender, reduction="none"),
        functional.cross_entropy(outputs.ethnicity, labels.ethnicity, reduction="none"),
    ]
    return expression + appearance * torch.stack(losses).sum(0)


def initial_weights(recipe: TwoBranchConfig, weights: mobilenet.NamedTensors | None, earlier: Path | None) -> Start:
    """Load the initial weights of the backbone, as `fit.initial_weights`."""
    return fit.initial_weights(TrainConfig(backbone=recipe.backbone, seed=recipe.seed), weights, earlier)


def train(recipe: TwoBranchConfig, made: Synthetic, start: Start, path: Path) -> Iterator[dict[str, float]]:
    """Train to the last step, resuming from `path` if it exists; yield the loss every `SAVE_EVERY_STEPS` steps.

    The backbone of `start` is trained in place; its batch normalisation is fitted to the first batch.
    """
    fit.restore_normalisation(start, make_batch(recipe, made, 0).images)
    network = TwoBranch(start.network.backbone, start.network.width).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    is_mobilenetv1 = isinstance(network.backbone, mobilenet.MobileNetV1)  # inverted residuals are slower in bfloat16
    use_bfloat16 = is_mobilenetv1 and supports_bfloat16()
    metadata = {"recipe": asdict(recipe), "faces": made.digest(), "earlier": start.earlier}

    def batch_loss(batch: Batch) -> Tensor:
        features = embed(network.backbone, batch.images, bfloat16=use_bfloat16)
        return loss(network.branches(features), batch, recipe.appearance_weight)

    return loop.fit(
        network, path, metadata, recipe, partial(make_batch, recipe, made), batch_loss, every=SAVE_EVERY_STEPS
    )


def load_network(path: Path) -> tuple[TwoBranchConfig, TwoBranch, dict[str, Any]]:
    """Load the recipe, the network with averaged weights, and the metadata of a finished run.

    Raises:
        ValueError: As in `checkpoint.load_final_weights`.
    """
    metadata, weights = checkpoint.load_final_weights(path, "faces")
    recipe = TwoBranchConfig(**metadata["recipe"])
    start = build(recipe.backbone)
    network = TwoBranch(start.backbone, start.width)
    load_for_inference(network, weights)
    return recipe, network, metadata


class _Exported(nn.Module):
    """The expression branch, with the outputs that `fervid.analysis.face_model` expects."""

    def __init__(self, network: TwoBranch) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.network(images)
        return outputs.embedding, outputs.expression.softmax(1)


def save(network: TwoBranch, recipe: TwoBranchConfig, made: Synthetic, card: Mapping[str, Any], path: Path) -> None:
    """Write the network as int8 ONNX, calibrated on its training faces; `card` has more entries of the model card."""
    rows = np.random.default_rng(recipe.seed).choice(len(made), min(export.CALIBRATION, len(made)), replace=False)
    crops = augment.crops_to_inputs(made.crops[rows], recipe.size)
    card = {**CARD, **export.crop_spec(path.stem, recipe.size), **card, "recipe": asdict(recipe)}
    example = torch.zeros(2, 3, recipe.size, recipe.size)
    with tempfile.TemporaryDirectory() as folder:
        full = Path(folder) / "full.onnx"
        onnx.save(export_to_onnx(_Exported(network), example, "crops", OUTPUTS, {0: torch.export.Dim("n")}), full)
        export.save_quantised(full, card, path, crops)


CARD: Mapping[str, Any] = {
    "title": "Six expressions, learned from synthetic faces alone",
    "data": {
        "expression": "faces made by fervid.training.expression_transfer from training faces of RAF-DB and UTKFace"
    },
    "license": "made from RAF-DB and UTKFace, which are for non-commercial research only",
    "source": "python -m fervid.training.two_branch",
    "embedding": WIDTH,
    "expressions": list(EXPRESSIONS),
    "classifier": "mean6",
}


def main() -> None:
    """Synthesise faces, train and export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--recipe", type=Path, help="JSON file with settings that differ from the defaults")
    parser.add_argument("--weights", type=Path, help="faceres.json of npm @vladmandic/human, for mobilenetv1")
    parser.add_argument(
        "--from", dest="earlier", type=Path, help="checkpoint or float32 ONNX file of `fervid network` to start from"
    )
    parser.add_argument("--run", type=Path, required=True, help="checkpoint; training resumes if it exists")
    parser.add_argument("--cache", type=Path, help="cache folder; default: DATA/cache")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    recipe = TwoBranchConfig.from_json(arguments.recipe) if arguments.recipe else TwoBranchConfig()
    made = load_synthetic_faces(DatasetPaths(arguments.data), arguments.cache or arguments.data / "cache", recipe)
    weights = mobilenet.read_tensorflowjs(arguments.weights) if arguments.weights else None
    for progress in train(recipe, made, initial_weights(recipe, weights, arguments.earlier), arguments.run):
        print(json.dumps(progress), flush=True)
    _, network, metadata = load_network(arguments.run)
    save(network, recipe, made, {"data_sha256": metadata["faces"]}, arguments.output)


def load_synthetic_faces(sources: DatasetPaths, cache: Path, recipe: TwoBranchConfig) -> Synthetic:
    """Load the synthetic faces of a recipe, or make them."""
    rafdb, utkface = faces.read_unseen(sources, cache)
    return expression_transfer.load_synthetic(rafdb, utkface, recipe.faces_per_class, recipe.seed, cache)


if __name__ == "__main__":
    main()
