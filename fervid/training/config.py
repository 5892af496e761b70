"""The configuration of a training run of the face network, read from JSON."""

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
    """Everything that determines the result besides the data and the initial weights.

    Attributes:
        backbone: `mobilenetv1`, or a model name of timm.
        size: Side of the input in pixels.
        initial_size: Initial side of the training images, which grows to `size` in steps of 16; halves the
            training time.
        resize_fraction: Fraction of the steps over which the side grows.
        steps: Number of batches; the learning rate decays to zero over them.
        head_steps: Initial steps that train only the heads.
        warmup: Steps of linear warm-up of the backbone's learning rate, after `head_steps`.
        expression_faces: Faces with votes per batch.
        attribute_faces: Faces with age, gender and ethnicity per batch.
        identity_faces: Faces with identities per batch.
        labelled_faces: Faces per batch of additional expression sets, by name (`faces.EXPRESSION_SETS`).
        absent_prior: Assumed frequency of the expressions that an additional set lacks, by name of the set, if they may
            occur in it under other labels; without it they are excluded from the softmax of the set.
        video_frames: Unlabelled video frames per batch.
        learning_rate: Maximum learning rate of the backbone.
        head_learning_rate: Maximum learning rate of the heads.
        weight_decay: Weight decay.
        sam_rho: Radius of SAM; 0 disables it.
        sam_start: Fraction of the steps after which SAM starts; late is enough (Zhou et al., arXiv 2410.10373).
        ema_decay: Decay of the moving average of the weights.
        mixup: Parameter of mixup's Beta distribution, for faces with votes; 0 disables it.
        augment_strength: Factor of the probabilities of low resolution, blur, compression and occlusion.
        fer2013_weight: Weight of the FER2013 label against the votes.
        teacher_weight: Weight of the teachers' predictions against the labels, if there are teachers.
        resampling_power: Exponent of resampling: faces are sampled by the class prior to the power of
            `-resampling_power`.
        logit_adjustment: Factor of the log prior in the logit adjustment.
        style_probability: Probability that a colour face is changed to the style of another data set: grey,
            small, tightly cropped.
        label_smoothing: Label smoothing of the additional sets, over the classes of each set.
        teacher: Network that labels faces without an expression, if `weights.consistency` is not 0: `start`, the
            initial network, which gets them in the style of FER2013, or `average`, the moving average.
        freeze_normalisation: Keep the initial batch normalisation statistics of `mobilenetv1`; saves a good part of the
            time of a step.
        frozen_blocks: First blocks of `mobilenetv1` that are not trained, nor is the layer before them; saves time.
        bfloat16: Train the backbone in bfloat16: faster, except for odd channel numbers such as rexnet's.
        weights: Weights of the tasks.
        seed: Random seed.
    """

    backbone: str = "mobilenetv1"
    size: int = 112
    initial_size: int = 80
    resize_fraction: float = 0.7
    steps: int = 8000
    head_steps: int = 100
    warmup: int = 300
    expression_faces: int = 64
    attribute_faces: int = 22
    identity_faces: int = 10
    labelled_faces: Mapping[str, int] = field(default_factory=dict)
    absent_prior: Mapping[str, float] = field(default_factory=dict)
    video_frames: int = 0
    learning_rate: float = 1.5e-3
    head_learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    sam_rho: float = 0.0
    sam_start: float = 0.75
    ema_decay: float = 0.999
    mixup: float = 0.0
    augment_strength: float = 0.5
    fer2013_weight: float = 0.1
    teacher_weight: float = 0.5
    resampling_power: float = 0.3
    logit_adjustment: float = 0.5
    style_probability: float = 0.0
    label_smoothing: float = 0.0
    teacher: str = "average"
    freeze_normalisation: bool = False
    frozen_blocks: int = 0
    bfloat16: bool = True
    weights: losses.TaskWeights = field(default_factory=losses.TaskWeights)
    seed: int = 2021

    @classmethod
    def from_json(cls, path: Path) -> TrainConfig:
        """Read a JSON object; settings that it lacks keep their defaults.

        Raises:
            ValueError: It is not a JSON object, has unknown settings, or a value has the wrong type.
        """
        return cls.from_dict(_load_object(path))

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> TrainConfig:
        """Build a configuration from settings by name; `weights` is a nested object.

        Raises:
            ValueError: A setting is unknown, or a value has the wrong type.
        """
        weights = settings.get("weights", {})
        if not isinstance(weights, Mapping):
            raise ValueError(f"weights must be an object of task weights, not {weights!r}")
        _check(settings, asdict(cls()), tasks := asdict(losses.TaskWeights()))
        _check(weights, tasks, {})
        return cls(**{**settings, "weights": losses.TaskWeights(**weights)})

    def input_size(self, step: int) -> int:
        """Compute the side of the training images of a step."""
        increments = max(self.size - self.initial_size, 0) // 16
        progress = min(step / max(self.resize_fraction * self.steps, 1), 1.0)
        return self.size - 16 * (increments - int(progress * increments))

    def learning_rates(self, step: int) -> tuple[float, float]:
        """Compute the learning rates of backbone and heads."""
        cosine = (1 + math.cos(math.pi * step / self.steps)) / 2
        warmup = min(max(step - self.head_steps, 0) / max(self.warmup, 1), 1.0)
        return self.learning_rate * cosine * warmup, self.head_learning_rate * cosine


def read_settings(path: Path, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Read settings from a JSON object; `defaults` has all of them.

    Raises:
        ValueError: It is not a JSON object, has unknown settings, or a value has the wrong type.
    """
    settings = _load_object(path)
    _check(settings, defaults, {})
    return settings


def _load_object(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON object of settings ({error})") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} is not a JSON object of settings")
    return settings


def _check(settings: Mapping[str, Any], defaults: Mapping[str, Any], nested: Mapping[str, Any]) -> None:
    """Raise if a setting is unknown or has another type than its default; `nested` names are only listed."""
    if unknown := sorted(settings.keys() - defaults.keys()):
        names = sorted({**defaults, **nested})
        raise ValueError(f"unknown setting {', '.join(unknown)}; available are {', '.join(names)}")
    for name, value in settings.items():
        expected = (int, float) if isinstance(defaults[name], float) else type(defaults[name])
        if not isinstance(value, expected):
            raise ValueError(f"{name} cannot be {value!r}; its default is {defaults[name]!r}")
