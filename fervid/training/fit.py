"""Train the multi-task network: first the heads, then all layers, resumable after an interruption.

AdamW with SAM (Foret et al., arXiv 2010.01412) as in arXiv 2103.17107, linear warm-up, cosine decay and an exponential
moving average (EMA) of the weights. The batch of step t depends on the seed and t only, so a resumed run gives the same
result as an uninterrupted one.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fervid.core.records import FloatArray
from fervid.learn.metrics import confusion, macro_scores
from fervid.training import checkpoint, loop, losses, mobilenet
from fervid.training.batches import FER2013_INDEX, BatchSampler, TrainingSets
from fervid.training.config import TrainConfig
from fervid.training.faces import FaceDataset
from fervid.training.ferplus import CLASSES
from fervid.training.losses import Targets
from fervid.training.network import IDENTITY, FaceNetwork, build, embed, load_exported, load_pretrained
from fervid.training.predict import EXPORTED, predict

VALIDATE_EVERY_STEPS = 500  # steps
RIDGE = 0.1  # relative to the mean variance of the embedding dimensions


class Trainer:
    """The state of a training run: weights, their moving average, the optimiser and the step."""

    def __init__(
        self, recipe: TrainConfig, network: FaceNetwork, data: TrainingSets, earlier: Mapping[str, Any] | None = None
    ) -> None:
        """Start at step 0 from the weights of `network`, which is trained in place; `earlier` is as in `Start`."""
        torch.manual_seed(recipe.seed)
        network.autocast &= recipe.bfloat16
        if recipe.freeze_normalisation and isinstance(network.backbone, mobilenet.MobileNetV1):
            mobilenet.freeze_normalisation(network.backbone)
        self.recipe, self.data, self.step = recipe, data, 0
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        people = int(data.people.person.max(initial=-1)) + 1
        self.people = nn.Embedding(people, network.width)
        # a linear map between both embeddings leaves this network free to learn what the initial weights ignored
        self.bridge = nn.Linear(network.width, data.initial_embeddings.shape[1])
        if network.width == self.bridge.out_features:
            nn.init.eye_(self.bridge.weight)
            nn.init.zeros_(self.bridge.bias)
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        body = list(network.backbone.parameters())
        heads = [p for name, p in network.named_parameters() if p.requires_grad and not name.startswith("backbone.")]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": body, "lr": 0.0},
                {"params": [*heads, self.people.weight, *self.bridge.parameters()], "lr": 0.0},
            ],
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self.batches = BatchSampler(recipe, data)
        self.adjustments = self.batches.adjustments()
        self.teacher = self.average if recipe.teacher == "average" else copy.deepcopy(self.average)
        self.teacher_prior = _TeacherPrior(len(CLASSES))
        self.metadata = {"data": data.digests(), "earlier": earlier, "recipe": asdict(recipe)}
        self._modules = {
            "network": self.network,
            "average": self.average,
            "people": self.people,
            "bridge": self.bridge,
        }
        if recipe.weights.consistency:
            self._modules["answers"] = self.teacher_prior
            if self.teacher is not self.average:
                self._modules["teacher"] = self.teacher

    def run(self, path: Path) -> Iterator[dict[str, Any]]:
        """Train to the last step; every `VALIDATE_EVERY_STEPS` steps save a checkpoint and yield loss and metrics.

        Resumes from the checkpoint `path` if it exists.

        Raises:
            ValueError: The checkpoint belongs to another run.
        """
        if path.exists():
            self.resume(path)
        step_losses, started = [], time.monotonic()
        for batch in loop.prefetch_batches(self.batches, self.step, self.recipe.steps):
            step_losses.append(self.train_step(*batch))
            if self.step == self.recipe.steps and self.recipe.weights.distillation:
                faces = FaceDataset.concat([self.data.attributes, self.data.people])
                fit_identity(self.average, faces, self.data.initial_embeddings, self.recipe.size)
            if self.step % VALIDATE_EVERY_STEPS == 0 or self.step == self.recipe.steps:
                self.save(path)
                elapsed = time.monotonic() - started
                yield {"step": self.step, "loss": float(np.mean(step_losses)), "seconds": elapsed, **self.validate()}
                step_losses = []

    def train_step(self, images: Tensor, targets: Targets) -> float:
        """Train on one batch and return its loss."""
        recipe = self.recipe
        for group, rate in zip(self.optimiser.param_groups, recipe.learning_rates(self.step), strict=True):
            group["lr"] = rate
        self.network.train()
        trains_backbone = self.step >= recipe.head_steps
        self.network.backbone.requires_grad_(trains_backbone).train(trains_backbone)
        if isinstance(self.network.backbone, mobilenet.MobileNetV1):
            mobilenet.freeze_blocks(self.network.backbone, recipe.frozen_blocks)
        if targets.weak is not None:
            targets = self._add_teacher_targets(targets.weak, targets)
        loss = self._backward(images, targets)
        if recipe.sam_rho and self.step >= recipe.sam_start * recipe.steps:
            perturbations = self._sam_perturb()
            self.optimiser.zero_grad()
            self._backward(images, targets)
            with torch.no_grad():
                for parameter, change in perturbations:
                    parameter.sub_(change)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.step += 1
        checkpoint.update_ema(self.average, self.network, recipe.ema_decay, self.step)
        return loss

    def _add_teacher_targets(self, weak: Tensor, targets: Targets) -> Targets:
        """Add the teacher's predictions for the faces without an expression label.

        Their classes are as imbalanced as those of a labelled set, so the logits of teacher and network get the same
        adjustment, by the class prior estimated from the teacher's predictions (Saerens, Latinne and Decaestecker,
        Neural Computation 14, 2002).
        """
        with torch.no_grad():
            weak = weak.to(memory_format=torch.channels_last)
            embedding = embed(self.teacher.backbone, weak, bfloat16=self.network.autocast)
            adjustment = self.recipe.logit_adjustment * self.teacher_prior.log()
            probabilities = (self.teacher.expression(embedding) + adjustment).softmax(1)
            self.teacher_prior.update(probabilities)
        return replace(targets, teacher_probabilities=probabilities, teacher_adjustment=adjustment)

    def _backward(self, images: Tensor, targets: Targets) -> float:
        heads = self.network.heads(embed(self.network.backbone, images, bfloat16=self.network.autocast))
        distilled = self.bridge(heads.embedding)
        loss = losses.multitask_loss(
            heads, distilled, self.people.weight, targets, self.recipe.weights, *self.adjustments
        )
        loss.backward()
        return float(loss.detach())

    def _sam_perturb(self) -> list[tuple[Tensor, Tensor]]:
        """Perturb the weights along the gradient, by a step of length `sam_rho`; return what was added to each."""
        parameters = [p for group in self.optimiser.param_groups for p in group["params"] if p.grad is not None]
        with torch.no_grad():
            length = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(p.grad) for p in parameters]))
            perturbations = [(p, p.grad * (self.recipe.sam_rho / (length + 1e-12))) for p in parameters]
            for parameter, change in perturbations:
                parameter.add_(change)
        return perturbations

    def validate(self) -> dict[str, float]:
        """Evaluate the averaged weights on the validation faces, cropped as at inference."""
        faces = self.data.valid_expressions
        heads = predict(self.average, faces, self.recipe.size)
        predicted, labels = heads["expression"].argmax(axis=1), faces.votes.argmax(axis=1)
        has_majority, has_first = faces.votes.max(axis=1) > 0.5, faces.first >= 0
        correct, first = predicted == labels, FER2013_INDEX[faces.first]
        scores = macro_scores(confusion(labels, predicted, len(CLASSES)))
        attributes = self.data.valid_attributes
        outputs = predict(self.average, attributes, self.recipe.size)
        years = losses.expected_years(torch.from_numpy(outputs["age"])).numpy()
        figures = {
            "accuracy_all": scores["accuracy"],
            "accuracy_majority": correct[has_majority].mean(),
            "mean_recall": scores["uar"],
            "age_mae": np.abs(years - attributes.age).mean(),
            "gender": ((outputs["gender"] > 0) == (attributes.gender == 0)).mean(),
            "ethnicity": (outputs["ethnicity"].argmax(axis=1) == attributes.ethnicity).mean(),
            **{key: value for name in self.data.valid_labelled for key, value in self._validate_set(name).items()},
        }
        if has_first.any():
            figures["first"] = (heads["first"].argmax(axis=1) == first)[has_first].mean()
        return figures

    def _validate_set(self, name: str) -> dict[str, float]:
        """Compute accuracy and mean recall on an additional set, predicting among all classes."""
        faces = self.data.valid_labelled[name].faces
        predicted = predict(self.average, faces, self.recipe.size)["expression"].argmax(axis=1)
        scores = macro_scores(confusion(faces.votes.argmax(axis=1), predicted, len(CLASSES)))
        return {f"{name}_accuracy": scores["accuracy"], f"{name}_mean_recall": scores["uar"]}

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically."""
        checkpoint.save(path, self.metadata, self.step, self._modules, self.optimiser)

    def resume(self, path: Path) -> None:
        """Restore a checkpoint that `save` wrote.

        Raises:
            ValueError: It was written with another recipe or other data; the message names what differs.
        """
        self.step = checkpoint.restore(path, self.metadata, self._modules, self.optimiser)


class _TeacherPrior(nn.Module):
    """Moving average of a teacher's predicted probabilities, saved in the checkpoint."""

    DECAY = 0.99
    MIN_PROBABILITY = 0.02

    shares: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("shares", torch.full((classes,), 1 / classes))

    def log(self) -> Tensor:
        """Return the logarithms (classes,), clamped below at `MIN_PROBABILITY`."""
        return self.shares.clamp(min=self.MIN_PROBABILITY).log()

    def update(self, probabilities: Tensor) -> None:
        """Include the probabilities (n, classes) of a batch."""
        self.shares.lerp_(probabilities.mean(dim=0), 1 - self.DECAY)


def fit_identity(network: FaceNetwork, faces: FaceDataset, initial_embeddings: FloatArray, size: int) -> None:
    """Fit the identity head in closed form, so that it preserves the identity information of the initial weights.

    Ridge regression from the network's embeddings to the principal components of the initial ones, both centred.
    Cosine similarities of the outputs depend less on expression, age and lighting than those of the embeddings.
    `initial_embeddings` (n, d) are the unit embeddings of the n faces by the initial weights; `size` is in pixels.
    """
    embedding = predict(network, faces, size)["embedding"].astype(np.float64)
    target = initial_embeddings - initial_embeddings.mean(axis=0, dtype=np.float64)
    components = np.linalg.eigh(target.T @ target)[1][:, -IDENTITY:]
    mean = embedding.mean(axis=0)
    centred = embedding - mean
    gram = centred.T @ centred
    ridge = RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    weight = np.linalg.solve(gram + ridge, centred.T @ (target @ components))
    with torch.no_grad():
        for layer, value in ((network.identity.weight, weight.T), (network.identity.bias, -mean @ weight)):
            layer.zero_()[: len(value)] = torch.from_numpy(value)


class Start(NamedTuple):
    """A network with initial weights, and where they come from."""

    network: FaceNetwork
    earlier: Mapping[str, Any] | None  # metadata of the run that gave the weights, or the SHA-256 of a file


def initial_weights(
    recipe: TrainConfig,
    weights: mobilenet.NamedTensors | None,
    earlier: Path | None = None,
    pretrained: Path | None = None,
) -> Start:
    """Build the network of a new run and load its initial weights.

    Args:
        recipe: Gives the backbone and the seed.
        weights: Published weights for `mobilenetv1`, None for random weights; other backbones start from random weights
            or `pretrained`.
        earlier: Checkpoint of a run, finished or not, whose averaged weights are used instead; or a float32 ONNX file
            exported from one.
        pretrained: Safetensors file with weights of another backbone, under timm's names.

    Raises:
        ValueError: The backbone is unknown, the weights do not fit it, or the run has another backbone or kind.
    """
    if pretrained and (earlier or recipe.backbone == "mobilenetv1"):
        raise ValueError(f"{pretrained} cannot initialise mobilenetv1 or a run started with --from; omit --pretrained")
    torch.manual_seed(recipe.seed)
    network = build(recipe.backbone, weights if recipe.backbone == "mobilenetv1" else None)
    if pretrained:
        load_pretrained(recipe.backbone, network.backbone, pretrained)
        return Start(network, {"pretrained": digest(pretrained)})
    if earlier is None:
        return Start(network, None)
    if earlier.suffix == EXPORTED:
        load_exported(network, earlier)
        return Start(network, {"exported": digest(earlier)})
    metadata, step, tensors = checkpoint.load(earlier, "data")
    if (backbone := metadata["recipe"]["backbone"]) != recipe.backbone:
        raise ValueError(
            f"{earlier} is a run of {backbone}, not of {recipe.backbone}; omit --from or change the recipe"
        )
    network.load_state_dict(checkpoint.strip_prefix(tensors, "average"))
    return Start(network, {**metadata, "step": step})


def digest(path: Path) -> str:
    """Hash a file with SHA-256, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_trainer(recipe: TrainConfig, first: Start, data: TrainingSets) -> Trainer:
    """Make a trainer at step 0, which takes over `first.network`; batch normalisation is fitted to the first batch."""
    restore_normalisation(first, BatchSampler(recipe, data)(0)[0])
    return Trainer(recipe, first.network, data, first.earlier)


def restore_normalisation(first: Start, images: Tensor) -> None:
    """Insert batch normalisation fitted to images where the initial weights of `mobilenetv1` come without it."""
    folded = first.earlier is None or "exported" in first.earlier
    if folded and isinstance(first.network.backbone, mobilenet.MobileNetV1):
        mobilenet.insert_batch_norm(first.network.backbone, images)
