"""Fits the multi-task network: heads first, then all layers, with everything needed to continue after a kill.

SAM (Foret et al., arXiv 2010.01412) around AdamW as in arXiv 2103.17107, warm-up and cosine, a moving average of the
weights. The batch of step t comes from the seed and t alone, so a run that was killed gives the same result.
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
from fervid.training import loop, losses, mobilenet, state
from fervid.training.batches import FIRST_INDEX, BatchSampler, TrainingSets
from fervid.training.faces import FaceDataset
from fervid.training.ferplus import CLASSES
from fervid.training.losses import Targets
from fervid.training.network import IDENTITY, FaceNetwork, build, load_exported, load_pretrained
from fervid.training.predict import EXPORTED, predict
from fervid.training.recipe import TrainConfig

CHECK_EVERY = 500  # steps
RIDGE = 0.1  # of the mean variance of an embedding's values


class Trainer:
    """A network on its way: weights, their moving average, the optimiser and the step."""

    def __init__(
        self, recipe: TrainConfig, network: FaceNetwork, data: TrainingSets, earlier: Mapping[str, Any] | None = None
    ) -> None:
        """Begin at step 0 with the weights of `network`.

        Args:
            recipe: What decides the result.
            network: Starting weights.
            data: To learn from.
            earlier: What gave those weights, as in `Start`.
        """
        torch.manual_seed(recipe.seed)
        network.autocast = recipe.bfloat16
        if recipe.freeze_normalisation and isinstance(network.backbone, mobilenet.MobileNetV1):
            mobilenet.freeze_normalisation(network.backbone)
        self.recipe, self.data, self.step = recipe, data, 0
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        people = int(data.people.person.max()) + 1
        self.people = nn.Embedding(people, network.width)
        width = data.starting.shape[1]  # an embedding of another width is kept near through a linear map
        self.bridge = nn.Identity() if width == network.width else nn.Linear(network.width, width)
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        body = list(network.backbone.parameters())
        heads = [p for name, p in network.named_parameters() if p.requires_grad and not name.startswith("backbone.")]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": body, "lr": 0.0},
                {"params": [*heads, self.people.weight, *self.bridge.parameters()], "lr": 0.0},
            ],
            weight_decay=recipe.decay,
            fused=True,
        )
        self.batches = BatchSampler(recipe, data)
        self.adjustments = self.batches.adjustments()
        self.teacher = self.average if recipe.teacher == "average" else copy.deepcopy(self.average)
        self.answers = _Prior(len(CLASSES))
        self.about = {"data": data.digests(), "earlier": earlier, "recipe": asdict(recipe)}
        self._modules = {
            "network": self.network,
            "average": self.average,
            "people": self.people,
            "bridge": self.bridge,
        }
        if recipe.weights.consistency:
            self._modules["answers"] = self.answers
            if self.teacher is not self.average:
                self._modules["teacher"] = self.teacher

    def run(self, path: Path) -> Iterator[dict[str, Any]]:
        """Train to the last step, keep the state in `path`, and tell every `CHECK_EVERY` steps how it stands."""
        losses_, began = [], time.monotonic()
        for batch in loop.prefetch_batches(self.batches, self.step, self.recipe.steps):
            losses_.append(self.advance(*batch))
            if self.step == self.recipe.steps and self.recipe.weights.distillation:
                known = FaceDataset.union([self.data.attributes, self.data.people])
                fit_identity(self.average, known, self.data.starting, self.recipe.size)
            if self.step % CHECK_EVERY == 0 or self.step == self.recipe.steps:
                self.save(path)
                elapsed = time.monotonic() - began
                yield {"step": self.step, "loss": float(np.mean(losses_)), "seconds": elapsed, **self.watch()}
                losses_ = []

    def advance(self, pictures: Tensor, targets: Targets) -> float:
        """One step; the loss."""
        recipe = self.recipe
        for group, rate in zip(self.optimiser.param_groups, recipe.rates(self.step), strict=True):
            group["lr"] = rate
        self.network.train()
        learns = self.step >= recipe.head_steps
        self.network.backbone.requires_grad_(learns).train(learns)
        if targets.weak is not None:
            targets = self._teach(targets.weak, targets)
        loss = self._backward(pictures, targets)
        if recipe.sharpness and self.step >= recipe.sharp_from * recipe.steps:
            moved = self._climb()
            self.optimiser.zero_grad()
            self._backward(pictures, targets)
            with torch.no_grad():
                for parameter, change in moved:
                    parameter.sub_(change)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.step += 1
        state.update_ema(self.average, self.network, recipe.average, self.step)
        return loss

    def _teach(self, weak: Tensor, targets: Targets) -> Targets:
        """Let the teacher answer the faces without an expression.

        Their classes are as unequal as those of a labelled set, so the logits of both are adjusted alike, by the prior
        that the teacher's own answers show (Saerens, Latinne and Decaestecker, Neural Computation 14, 2002).
        """
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self.network.autocast):
            embedding = self.teacher.backbone(weak.to(memory_format=torch.channels_last))
        with torch.no_grad():
            adjustment = self.recipe.adjustment * self.answers.log()
            shares = (self.teacher.expression(embedding.float()) + adjustment).softmax(1)
            self.answers.follow(shares)
        return replace(targets, taught=shares, taught_adjustment=adjustment)

    def _backward(self, pictures: Tensor, targets: Targets) -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.network.autocast):
            embedding = self.network.backbone(pictures)
        heads = self.network.heads(embedding.float())
        kept = self.bridge(heads.embedding)
        loss = losses.multitask_loss(heads, kept, self.people.weight, targets, self.recipe.weights, *self.adjustments)
        loss.backward()
        return float(loss.detach())

    def _climb(self) -> list[tuple[Tensor, Tensor]]:
        """Move to where the loss is highest nearby; each parameter with what was added to it."""
        slopes = [p for group in self.optimiser.param_groups for p in group["params"] if p.grad is not None]
        with torch.no_grad():
            length = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(p.grad) for p in slopes]))
            moved = [(p, p.grad * (self.recipe.sharpness / (length + 1e-12))) for p in slopes]
            for parameter, change in moved:
                parameter.add_(change)
        return moved

    def watch(self) -> dict[str, float]:
        """Figures of the averaged weights on the validation faces, at the crop of inference."""
        faces = self.data.valid_expressions
        heads = predict(self.average, faces, self.recipe.size)
        answers, labels = heads["expression"].argmax(axis=1), faces.votes.argmax(axis=1)
        majority, known = faces.votes.max(axis=1) > 0.5, faces.first >= 0
        right, first = answers == labels, FIRST_INDEX[faces.first]
        told = macro_scores(confusion(labels, answers, len(CLASSES)))
        attributes = self.data.valid_attributes
        found = predict(self.average, attributes, self.recipe.size)
        years = losses.expected_years(torch.from_numpy(found["age"])).numpy()
        return {
            "accuracy_all": told["accuracy"],
            "accuracy_majority": right[majority].mean(),
            "mean_recall": told["uar"],
            "first": (heads["first"].argmax(axis=1) == first)[known].mean(),
            "age_mae": np.abs(years - attributes.age).mean(),
            "gender": ((found["gender"] > 0) == (attributes.gender == 0)).mean(),
            "ethnicity": (found["ethnicity"].argmax(axis=1) == attributes.ethnicity).mean(),
            **{key: value for name in self.data.valid_labelled for key, value in self._watch_set(name).items()},
        }

    def _watch_set(self, name: str) -> dict[str, float]:
        """Accuracy and mean recall on a further set, the answer among all classes."""
        known = self.data.valid_labelled[name].faces
        answers = predict(self.average, known, self.recipe.size)["expression"].argmax(axis=1)
        scores = macro_scores(confusion(known.votes.argmax(axis=1), answers, len(CLASSES)))
        return {f"{name}_accuracy": scores["accuracy"], f"{name}_mean_recall": scores["uar"]}

    def save(self, path: Path) -> None:
        """Write the state to a file, whole or not at all."""
        state.save(path, self.about, self.step, self._modules, self.optimiser)

    def resume(self, path: Path) -> None:
        """Continue from a file that `save` wrote.

        Raises:
            ValueError: It is of another recipe or other data; the message names what differs.
        """
        self.step = state.restore(path, self.about, self._modules, self.optimiser)


class _Prior(nn.Module):
    """Mean of the answers of a teacher, kept with the state of the run."""

    KEEP = 0.99
    LEAST = 0.02

    shares: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("shares", torch.full((classes,), 1 / classes))

    def log(self) -> Tensor:
        """(classes,) logarithms, of at least `LEAST`."""
        return self.shares.clamp(min=self.LEAST).log()

    def follow(self, answers: Tensor) -> None:
        """Take in answers (n, classes)."""
        self.shares.lerp_(answers.mean(dim=0), 1 - self.KEEP)


def fit_identity(network: FaceNetwork, known: FaceDataset, starting: FloatArray, size: int) -> None:
    """Fit the identity head: what of the embedding tells people apart, as the starting weights see it.

    Ridge regression from the network's embeddings to the principal components of the starting ones, both centred.
    Cosines between the outputs depend less on expression, age and light than those of the embeddings.

    Args:
        network: Its `identity` is set.
        known: n faces.
        starting: (n, d) their unit embeddings by the starting weights.
        size: Side of the input in pixels.
    """
    embedding = predict(network, known, size)["embedding"].astype(np.float64)
    wanted = starting - starting.mean(axis=0, dtype=np.float64)
    components = np.linalg.eigh(wanted.T @ wanted)[1][:, -IDENTITY:]
    centre = embedding.mean(axis=0)
    apart = embedding - centre
    square = apart.T @ apart
    ridge = RIDGE * np.trace(square) / len(square) * np.eye(len(square))
    weight = np.linalg.solve(square + ridge, apart.T @ (wanted @ components))
    with torch.no_grad():
        for layer, value in ((network.identity.weight, weight.T), (network.identity.bias, -centre @ weight)):
            layer.zero_()[: len(value)] = torch.from_numpy(value)


class Start(NamedTuple):
    """What a run begins with."""

    network: FaceNetwork
    earlier: Mapping[str, Any] | None  # what gave its weights: `about` of a run, or the SHA-256 of a file


def initial_weights(
    recipe: TrainConfig, weights: mobilenet.TaskWeights, earlier: Path | None = None, pretrained: Path | None = None
) -> Start:
    """The network that a run begins with.

    Args:
        recipe: Its backbone and seed.
        weights: The published ones of `mobilenetv1`; other backbones start from chance, unless they are given some.
        earlier: The state of a run whose averaged weights to start from instead, finished or not; or a float32
            file that was exported from one.
        pretrained: Weights of another backbone as safetensors, by the names that timm gives.

    Raises:
        ValueError: No backbone of that name, weights that are not for it, or a run of another backbone or kind.
    """
    if pretrained and (earlier or recipe.backbone == "mobilenetv1"):
        raise ValueError(f"{pretrained} can begin neither mobilenetv1 nor a run that begins with another; leave it out")
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
    about, step, tensors = state.read(earlier, "data")
    if (backbone := about["recipe"]["backbone"]) != recipe.backbone:
        raise ValueError(f"{earlier} is a run of {backbone}, not of {recipe.backbone}; begin anew or change the recipe")
    network.load_state_dict(state.strip_prefix(tensors, "average"))
    return Start(network, {**about, "step": step})


def digest(path: Path) -> str:
    """The SHA-256 of starting weights."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_trainer(recipe: TrainConfig, first: Start, data: TrainingSets) -> Trainer:
    """A run at step 0, which uses up what it begins with; the published weights are normalised on its first batch."""
    folded = first.earlier is None or "exported" in first.earlier
    if folded and isinstance(first.network.backbone, mobilenet.MobileNetV1):
        pictures, _ = BatchSampler(recipe, data)(0)
        mobilenet.insert_batch_norm(first.network.backbone, pictures)
    return Trainer(recipe, first.network, data, first.earlier)
