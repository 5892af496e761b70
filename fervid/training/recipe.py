"""The settings of a training run of the face network: a frozen record, kept as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fervid.training import losses


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything that decides the result beside the data and the starting weights.

    Attributes:
        backbone: `mobilenetv1`, or a name of timm.
        size: Side of the input in pixels.
        small: That of the first training pictures; it grows to `size` in steps of 16, which saves half of the time.
        growth: Share of the steps over which it grows.
        steps: Batches in all; after the last the learning rate would be zero.
        head_steps: Batches at the start in which only the heads learn.
        warmup: Batches over which the learning rate of the backbone then rises.
        expressions: Faces with votes in a batch.
        attributes: Faces with age, gender and ethnicity in a batch.
        people: Faces of known people in a batch.
        labelled: Faces in a batch of each further set with expressions, by its name in `faces.EXPRESSION_SETS`.
        frames: Film frames without labels in a batch.
        rate: Highest learning rate of the backbone.
        head_rate: That of the heads.
        decay: Weight decay.
        sharpness: SAM's radius; 0 leaves SAM out.
        sharp_from: Share of the steps after which SAM sets in; late is enough (Zhou et al., arXiv 2410.10373).
        average: Share of the moving average that a step keeps.
        mixup: Parameter of the Beta distribution that mixes two faces with votes; 0 leaves it out.
        degraded: Factor of the chances of low resolution, blur, compression and occlusion.
        first_share: How much of the shares the first label takes from the votes.
        taught: How much of the shares the answers of teachers take, if there are any.
        balance: Votes are sampled by the prior of their class to the power of minus this.
        adjustment: How much of the logarithm of the prior the logits are freed from.
        style: Chance that a colour face is shown as another set would: grey, small, cut at the box.
        smoothing: Share of a label of the further sets that goes to the other classes of the set.
        teacher: Who answers faces without an expression, if `weights.consistency` is not 0: `start`, the network that
            the run begins with, which sees them as FER2013 would show them, or `average`, the moving average.
        freeze_normalisation: Whether the batch normalisation of `mobilenetv1` keeps the statistics that it starts with,
            which saves a third of a step's time.
        bfloat16: Whether the backbone is trained in bfloat16: faster, but far slower where widths are odd, as rexnet's.
        weights: Of the tasks.
        seed: Of every random choice.
    """

    backbone: str = "mobilenetv1"
    size: int = 112
    small: int = 80
    growth: float = 0.7
    steps: int = 8000
    head_steps: int = 100
    warmup: int = 300
    expressions: int = 64
    attributes: int = 22
    people: int = 10
    labelled: Mapping[str, int] = field(default_factory=dict)
    frames: int = 0
    rate: float = 1.5e-3
    head_rate: float = 1.5e-3
    decay: float = 0.05
    sharpness: float = 0.0
    sharp_from: float = 0.75
    average: float = 0.999
    mixup: float = 0.0
    degraded: float = 0.5
    first_share: float = 0.1
    taught: float = 0.5
    balance: float = 0.3
    adjustment: float = 0.5
    style: float = 0.0
    smoothing: float = 0.0
    teacher: str = "average"
    freeze_normalisation: bool = False
    bfloat16: bool = True
    weights: losses.TaskWeights = field(default_factory=losses.TaskWeights)
    seed: int = 2021

    @classmethod
    def read(cls, path: Path) -> TrainConfig:
        """Settings from a JSON object; what it does not name stays as it is here.

        Raises:
            ValueError: It is no JSON object, names settings that there are not, or gives one a value of another type.
        """
        return cls.of(_settings(path))

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> TrainConfig:
        """Settings by name, those of the tasks below `weights`."""
        weights = settings.get("weights", {})
        if not isinstance(weights, Mapping):
            raise ValueError(f"weights has the tasks by name, not {weights!r}")
        _check(settings, asdict(cls()), tasks := asdict(losses.TaskWeights()))
        _check(weights, tasks, {})
        return cls(**{**settings, "weights": losses.TaskWeights(**weights)})

    def side(self, step: int) -> int:
        """Side of the training pictures of a step."""
        smaller = max(self.size - self.small, 0) // 16
        grown = min(step / max(self.growth * self.steps, 1), 1.0)
        return self.size - 16 * (smaller - int(grown * smaller))

    def rates(self, step: int) -> tuple[float, float]:
        """Learning rates of backbone and heads."""
        falling = (1 + math.cos(math.pi * step / self.steps)) / 2
        rising = min(max(step - self.head_steps, 0) / max(self.warmup, 1), 1.0)
        return self.rate * falling * rising, self.head_rate * falling


def checked(path: Path, standard: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from a JSON object, for a recipe with other names than `TrainConfig`.

    Args:
        path: The file.
        standard: Every setting there is.

    Raises:
        ValueError: It is no JSON object, names settings that there are not, or gives one a value of another type.
    """
    settings = _settings(path)
    _check(settings, standard, {})
    return settings


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} holds no JSON object of settings ({error})") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} holds no JSON object of settings")
    return settings


def _check(settings: Mapping[str, Any], standard: Mapping[str, Any], others: Mapping[str, Any]) -> None:
    """Whether all are there and of the type that they are by default; the error tells of `others` too."""
    if unknown := sorted(settings.keys() - standard.keys()):
        known = sorted({**standard, **others})
        raise ValueError(f"there is no setting {', '.join(unknown)}; there are {', '.join(known)}")
    for name, value in settings.items():
        wanted = (int, float) if isinstance(standard[name], float) else type(standard[name])
        if not isinstance(value, wanted):
            raise ValueError(f"{name} cannot be {value!r}; by default it is {standard[name]!r}")
