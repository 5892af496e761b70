"""Trains a network for six expressions on synthetic faces, with a second branch for what of a face is not expression.

After Jeong et al. (arXiv 2207.10025): one backbone, a branch for expression, a branch for appearance (here landmarks,
how the head is held, age, gender and ethnicity), and mixing of faces: mixup (Zhang et al., arXiv 1710.09412), or
MixAugment (Psaroudakis and Kollias, arXiv 2205.04442), where half of a batch is mixed from the other half.

    python -m fervid.training.branches --data sets/ --recipe models/recipes/two-branch.json --weights faceres.json \
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

from fervid.training import augment, export, faces, loop, mobilenet, state, synthesis
from fervid.training.augment import GeometricJitter
from fervid.training.faces import SIDE, DatasetPaths
from fervid.training.loop import Schedule
from fervid.training.network import ETHNICITIES, build, load_pretrained, to_tensor
from fervid.training.recipe import checked
from fervid.training.synthesis import EXPRESSIONS, Synthetic
from fervid.training.trace import traced

SAVE_EVERY = 200  # steps
WIDTH = 256  # of each branch
CENTURY = 100.0  # years, the unit in which ages are told apart
OUTPUTS = ("embedding", "expression")


@dataclass(frozen=True, slots=True)
class Recipe(Schedule):
    """Everything that decides the result beside the faces and the starting weights.

    Attributes:
        backbone: `mobilenetv1`, or a name of timm.
        size: Side of the input in pixels.
        each: Faces that are made of each expression.
        steps: Batches in all.
        batch: Faces in a batch.
        warmup: Batches over which the learning rate rises.
        rate: Highest learning rate of AdamW.
        decay: Weight decay.
        average: Share of the moving average that a step keeps.
        degraded: Factor of the chances of low resolution, blur, compression and occlusion.
        mixing: How faces are mixed.
        evenness: Parameter of the Beta distribution of the shares of two mixed faces.
        appearance: How much the second branch counts; 0 leaves it out.
        seed: Of every random choice.
    """

    backbone: str = "mobilenetv1"
    size: int = 96
    each: int = 1200
    steps: int = 400
    batch: int = 48
    warmup: int = 40
    rate: float = 1e-3
    decay: float = 0.05
    average: float = 0.99
    degraded: float = 0.5
    mixing: Literal["none", "mixup", "mixaugment"] = "mixaugment"
    evenness: float = 0.4
    appearance: float = 0.5
    seed: int = 2021

    def __post_init__(self) -> None:
        if self.mixing not in ("none", "mixup", "mixaugment"):
            raise ValueError(f"mixing is none, mixup or mixaugment, not {self.mixing!r}")

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Settings from a JSON object; what it does not name stays as it is here.

        Raises:
            ValueError: It is no JSON object, names settings that there are not, or gives one a value of another type.
        """
        return cls(**checked(path, asdict(cls())))


class Branches(NamedTuple):
    """What the network gives for n pictures, before any soft-max or sigmoid."""

    embedding: Tensor  # (n, WIDTH), of the branch for expression
    expression: Tensor  # (n, 6)
    landmarks: Tensor  # (n, 12), from -1 to 1 within the picture
    pose: Tensor  # (n, 3), as `synthesis.pose` tells it
    age: Tensor  # (n,) centuries
    gender: Tensor  # (n,), male above 0
    ethnicity: Tensor  # (n, 5)


class TwoBranch(nn.Module):
    """(n, 3, s, s) BGR pictures, mean subtracted -> `Branches`."""

    def __init__(self, backbone: nn.Module, width: int) -> None:
        """Put two branches on a backbone with that many outputs."""
        super().__init__()
        self.backbone = backbone
        self.emotion, self.appearance = nn.Linear(width, WIDTH), nn.Linear(width, WIDTH)
        self.expression = nn.Linear(WIDTH, len(EXPRESSIONS))
        self.rest = nn.Linear(WIDTH, 12 + 3 + 1 + 1 + len(ETHNICITIES))

    def forward(self, pictures: Tensor) -> Branches:
        """Pictures to branches."""
        return self.branches(self.backbone(pictures).float())

    def branches(self, features: Tensor) -> Branches:
        """What the backbone gave (n, width) to branches."""
        embedding = functional.relu(self.emotion(features))
        rest = self.rest(functional.relu(self.appearance(features)))
        landmarks, pose, age, gender, ethnicity = rest.split((12, 3, 1, 1, len(ETHNICITIES)), dim=1)
        return Branches(
            embedding, self.expression(embedding), landmarks, pose, age.squeeze(1), gender.squeeze(1), ethnicity
        )


class Wanted(NamedTuple):
    """What `Branches` should be of n pictures."""

    expression: Tensor  # (n,) number in `EXPRESSIONS`
    landmarks: Tensor
    pose: Tensor
    age: Tensor
    gender: Tensor  # (n,) 1 male
    ethnicity: Tensor  # (n,) class


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Pictures, each a mixture of two faces.

    Attributes:
        pictures: (n, 3, s, s).
        one: What is true of the first face.
        other: Of the second.
        share: (n,) of the first.
    """

    pictures: Tensor
    one: Wanted
    other: Wanted
    share: Tensor


def batch(recipe: Recipe, made: Synthetic, step: int) -> Batch:
    """The batch of one step, whatever came before."""
    rng = np.random.default_rng((recipe.seed, step))
    rows = rng.integers(0, len(made), recipe.batch)
    placed = [GeometricJitter.random(rng) for _ in rows]
    views = [
        augment.augment_appearance(augment.frame(made.crops[i], recipe.size, how), rng, recipe.degraded)
        for i, how in zip(rows, placed, strict=True)
    ]
    pictures = to_tensor(np.stack(views))
    wanted = targets(made, rows, placed, recipe.size)
    count = {"none": 0, "mixup": recipe.batch, "mixaugment": recipe.batch // 2}[recipe.mixing]
    partner = np.arange(recipe.batch)
    partner[:count] = rng.permutation(recipe.batch)[:count]
    share = torch.ones(recipe.batch)
    share[:count] = torch.from_numpy(rng.beta(recipe.evenness, recipe.evenness, count)).float()
    if count:
        part = share[:, None, None, None]
        pictures = part * pictures + (1 - part) * pictures[partner]
    return Batch(pictures, wanted, Wanted(*(column[partner] for column in wanted)), share)


def targets(made: Synthetic, rows: NDArray[np.int64], placed: list[GeometricJitter], size: int) -> Wanted:
    """What is true of faces that are seen so."""
    seen = np.stack([how.landmarks(made.landmarks[i], SIDE, size) for i, how in zip(rows, placed, strict=True)])
    return Wanted(
        torch.from_numpy(made.expression[rows]),
        torch.from_numpy(seen / ((size - 1) / 2) - 1).flatten(1),
        torch.from_numpy(synthesis.pose(seen)),
        torch.from_numpy(made.age[rows] / CENTURY).float(),
        torch.from_numpy(1.0 - made.gender[rows]).float(),
        torch.from_numpy(made.ethnicity[rows]),
    )


def loss(found: Branches, batch: Batch, appearance: float) -> Tensor:
    """Mean over the pictures: of what is true of both faces, by their shares."""
    first, second = (_each(found, wanted, appearance) for wanted in (batch.one, batch.other))
    return (batch.share * first + (1 - batch.share) * second).mean()


def _each(found: Branches, wanted: Wanted, appearance: float) -> Tensor:
    """(n,) the loss of each picture."""
    expression = functional.cross_entropy(found.expression, wanted.expression, reduction="none")
    if not appearance:
        return expression
    rest = (
        *((found.landmarks - wanted.landmarks).abs().mean(1), (found.pose - wanted.pose).abs().mean(1)),
        (found.age - wanted.age).abs(),
        functional.binary_cross_entropy_with_logits(found.gender, wanted.gender, reduction="none"),
        functional.cross_entropy(found.ethnicity, wanted.ethnicity, reduction="none"),
    )
    return expression + appearance * torch.stack(rest).sum(0)


def begin(recipe: Recipe, made: Synthetic, weights: mobilenet.TaskWeights | None, pretrained: Path | None) -> TwoBranch:
    """The network at step 0.

    Args:
        recipe: Its backbone and seed.
        made: Faces to learn from.
        weights: The published ones, for `mobilenetv1`.
        pretrained: Starting weights of another backbone as safetensors, by the names that timm gives; or from chance.

    Raises:
        ValueError: No backbone of that name, or weights that are not for it.
    """
    torch.manual_seed(recipe.seed)
    start = build(recipe.backbone, weights if recipe.backbone == "mobilenetv1" else None)
    backbone: nn.Module = start.backbone
    if isinstance(backbone, mobilenet.MobileNetV1):
        mobilenet.insert_batch_norm(backbone, batch(recipe, made, 0).pictures)
    elif pretrained is not None:
        load_pretrained(recipe.backbone, backbone, pretrained)
    return TwoBranch(backbone, start.width).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def fit(recipe: Recipe, made: Synthetic, network: TwoBranch, path: Path) -> Iterator[dict[str, float]]:
    """Train to the last step, continuing what `path` holds; tells every `SAVE_EVERY` steps how it stands."""
    half = isinstance(network.backbone, mobilenet.MobileNetV1)  # inverted residuals are slower in bfloat16
    about = {"recipe": asdict(recipe), "faces": made.digest()}

    def missed(shown: Batch) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            features = network.backbone(shown.pictures)
        return loss(network.branches(features.float()), shown, recipe.appearance)

    return loop.fit(network, path, about, recipe, partial(batch, recipe, made), missed, every=SAVE_EVERY)


def load(path: Path) -> tuple[Recipe, TwoBranch, dict[str, Any]]:
    """What a finished run gave: its recipe, its averaged weights, and all that decided them.

    Raises:
        ValueError: As `state.load_final_weights`.
    """
    about, weights = state.load_final_weights(path, "faces")
    recipe = Recipe(**about["recipe"])
    start = build(recipe.backbone)
    network = TwoBranch(start.backbone, start.width)
    network.load_state_dict(weights)
    if isinstance(network.backbone, mobilenet.MobileNetV1):
        network.backbone = mobilenet.fold_batch_norm(network.backbone)
    return recipe, network.eval(), about


class _Exported(nn.Module):
    """The branch for expression, as `fervid.analysis.face_model` reads it."""

    def __init__(self, network: TwoBranch) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        found = self.network(pictures)
        return found.embedding, found.expression.softmax(1)


def save(network: TwoBranch, recipe: Recipe, made: Synthetic, about: Mapping[str, Any], path: Path) -> None:
    """Write the int8 file, calibrated on synthetic faces.

    Args:
        network: What to export.
        recipe: That it was trained by.
        made: Faces that it was trained on.
        about: What to put into the card beside what it says of the tensors.
        path: Where to.
    """
    rows = np.random.default_rng(recipe.seed).choice(len(made), min(export.CALIBRATION, len(made)), replace=False)
    crops = np.stack([augment.frame(made.crops[i], recipe.size) for i in rows])
    described = {**CARD, **export.shape(path.stem, recipe.size), **about, "recipe": asdict(recipe)}
    example = torch.zeros(2, 3, recipe.size, recipe.size)
    with tempfile.TemporaryDirectory() as folder:
        full = Path(folder) / "full.onnx"
        onnx.save(traced(_Exported(network), example, "crops", OUTPUTS, {0: torch.export.Dim("n")}), full)
        export.save_quantised(full, described, path, crops)


CARD: Mapping[str, Any] = {
    "title": "Six expressions, learned from synthetic faces alone",
    "data": {"expression": "faces made by fervid.training.synthesis from training faces of FER+ and UTKFace"},
    "licence": "made from FER2013 and UTKFace, which are for non-commercial research only",
    "source": "python -m fervid.training.branches",
    "embedding": WIDTH,
    "expressions": list(EXPRESSIONS),
    "classifier": "mean6",
}


def main() -> None:
    """Make the faces, train, export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--recipe", type=Path, help="JSON with settings that differ from ours")
    parser.add_argument("--weights", type=Path, help="faceres.json of npm @vladmandic/human, for mobilenetv1")
    parser.add_argument("--pretrained", type=Path, help="safetensors to begin other backbones with")
    parser.add_argument("--run", type=Path, required=True, help="the state of the run; continued if it exists")
    parser.add_argument("--cache", type=Path, help="by default cache/ in the folder of the data")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    recipe = Recipe.read(arguments.recipe) if arguments.recipe else Recipe()
    made = faces_to_learn_from(DatasetPaths(arguments.data), arguments.cache or arguments.data / "cache", recipe)
    weights = mobilenet.read_tensorflowjs(arguments.weights) if arguments.weights else None
    for progress in fit(recipe, made, begin(recipe, made, weights, arguments.pretrained), arguments.run):
        print(json.dumps(progress), flush=True)
    _, network, about = load(arguments.run)
    save(network, recipe, made, {"data_sha256": about["faces"]}, arguments.output)


def faces_to_learn_from(sources: DatasetPaths, cache: Path, recipe: Recipe) -> Synthetic:
    """The synthetic faces of a recipe."""
    voted = faces.read_ferplus(sources.ferplus, sources.first, "Training", cache)
    return synthesis.read(voted, faces.read_utkface(sources.utkface, 2, cache), recipe.each, recipe.seed, cache)


if __name__ == "__main__":
    main()
