"""What a network is fitted on, and the batch of each step.

Votes are sampled so that rare expressions are seen more often, and the logits are freed from the class prior. Every
random choice of step t comes from the seed and t alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fervid.core.records import FloatArray, Image
from fervid.training import augment, faces, mobilenet
from fervid.training.augment import GeometricJitter
from fervid.training.faces import DatasetPaths, ExpressionSet, FaceDataset
from fervid.training.ferplus import CLASSES
from fervid.training.losses import ABSENT, Targets
from fervid.training.network import FER2013_CLASSES, to_tensor
from fervid.training.predict import Teacher, starting, taught
from fervid.training.recipe import TrainConfig

RAREST = 1e-6  # share that a class without any example is taken to have
FIRST_INDEX = np.array([FER2013_CLASSES.index(c) if c in FER2013_CLASSES else -1 for c in CLASSES])


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSets:
    """What a network is fitted on and watched on.

    Attributes:
        expressions: Faces with votes and first labels.
        attributes: Faces with age, gender and ethnicity.
        people: Faces of known people.
        starting: (len(attributes) + len(people), d) unit embeddings by the starting weights.
        valid_expressions: Faces with votes, to watch.
        valid_attributes: Faces with age, gender and ethnicity, to watch.
        taught: (len(expressions), 8 + 7) logits of expression and first labels by teachers, if there are any.
        labelled: Further sets with expressions, by name.
        valid_labelled: The parts of these to watch.
        frames: Film frames without labels, if the recipe asks for them.
    """

    expressions: FaceDataset
    attributes: FaceDataset
    people: FaceDataset
    starting: FloatArray
    valid_expressions: FaceDataset
    valid_attributes: FaceDataset
    taught: FloatArray | None = None
    labelled: Mapping[str, ExpressionSet] = field(default_factory=dict)
    valid_labelled: Mapping[str, ExpressionSet] = field(default_factory=dict)
    frames: FaceDataset | None = None

    @classmethod
    def read(
        cls,
        sources: DatasetPaths,
        cache: Path,
        weights: mobilenet.TaskWeights,
        teachers: Sequence[Teacher] = (),
        recipe: TrainConfig | None = None,
    ) -> TrainingSets:
        """Read all data sets that a recipe asks for; what was cut and embedded is kept in the folder `cache`.

        Args:
            sources: Where they lie.
            cache: Folder for crops and embeddings.
            weights: The starting weights, whose embedding is to be kept.
            teachers: Whose answers for the expressions to learn beside the votes.
            recipe: Names the further sets; None for those that every run needs.

        Raises:
            FileNotFoundError: Pictures are missing.
            ValueError: Pictures are damaged.
        """
        expressions = faces.read_ferplus(sources.ferplus, sources.first, "Training", cache)
        attributes = faces.read_utkface(sources.utkface, 2, cache)
        people = faces.read_celeba(sources.celeba, cache)
        kept = starting(FaceDataset.union([attributes, people]), weights, cache)
        recipe = recipe or TrainConfig()
        labelled, valid = (
            {name: faces.read_expressions(sources, name, split, cache) for name in recipe.labelled}
            for split in ("train", "valid")
        )
        if recipe.labelled:
            tests = faces.read_test_crops(sources, cache)
            labelled = {
                name: ExpressionSet(known.faces[faces.is_unseen(known.faces, tests, name)], known.has)
                for name, known in labelled.items()
            }
            expressions = expressions[faces.is_unseen(expressions, tests, "ferplus")]
            unseen = faces.is_unseen(attributes, tests, "utkface")
            attributes, kept = attributes[unseen], kept[np.concatenate([unseen, np.ones(len(people), bool)])]
        return cls(
            expressions,
            attributes,
            people,
            kept,
            faces.read_ferplus(sources.ferplus, sources.first, "PublicTest", cache),
            faces.read_utkface(sources.utkface, 1, cache),
            taught(expressions, teachers, cache) if teachers else None,
            labelled,
            valid,
            faces.read_frames(sources, cache) if recipe.frames else None,
        )

    def digests(self) -> dict[str, str]:
        """Name of each part to the SHA-256 of its pixels and labels, and that of the starting embeddings."""
        parts = ("expressions", "attributes", "people")
        given = {"starting": self.starting, "taught": self.taught}
        digests = {name: getattr(self, name).digest() for name in parts}
        digests |= {name: known.faces.digest() for name, known in self.labelled.items()}
        if self.frames is not None:
            digests["frames"] = self.frames.digest()
        return digests | {
            name: hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()
            for name, values in given.items()
            if values is not None
        }


class BatchSampler:
    """Step number to pictures and targets."""

    def __init__(self, recipe: TrainConfig, data: TrainingSets) -> None:
        """Prepare targets and chances of being drawn."""
        self.recipe, self.data = recipe, data
        known = data.expressions.first
        self.first = np.zeros((len(known), len(FER2013_CLASSES)), np.float32)
        has = np.flatnonzero(known >= 0)
        self.first[has, FIRST_INDEX[known[has]]] = 1
        share = recipe.first_share * (known >= 0).astype(np.float32)[:, None]
        self.votes = data.expressions.votes * (1 - share)
        self.votes[has, known[has]] += share[has, 0]
        prior = np.maximum(self.votes.mean(axis=0), RAREST)
        chance = self.votes @ prior**-recipe.balance
        self.chance = chance / chance.sum()
        self.prior, self.first_prior = self.chance @ self.votes, self.chance @ self.first
        self.labelled = [_DrawnSet(known, recipe.labelled[name], recipe) for name, known in data.labelled.items()]
        if data.taught is not None:
            self._blend(data.taught, has)

    def adjustments(self) -> tuple[Tensor, Tensor]:
        """(8,) and (7,) what is added to the logits while training."""
        shares = (self.prior, self.first_prior / self.first_prior.sum())
        logs = (np.log(np.maximum(share, RAREST)) for share in shares)
        expression, first = (torch.from_numpy(self.recipe.adjustment * log).float() for log in logs)
        return expression, first

    def _blend(self, logits: FloatArray, has: NDArray[np.intp]) -> None:
        """Let votes and first labels, where there are any, give way to what teachers answer."""
        expression, first = self.adjustments()
        own, share = torch.from_numpy(logits), self.recipe.taught
        answers = (own[:, : len(CLASSES)] + expression).softmax(1).numpy()
        self.votes += share * (answers - self.votes)
        answers = (own[:, len(CLASSES) :] + first).softmax(1).numpy()
        self.first[has] += share * (answers - self.first)[has]

    def __call__(self, step: int) -> tuple[Tensor, Targets]:
        """The batch of one step, whatever came before."""
        recipe, data = self.recipe, self.data
        rng = np.random.default_rng((recipe.seed, step))
        voted = rng.choice(len(self.votes), recipe.expressions, p=self.chance)
        aged = rng.integers(0, len(data.attributes), recipe.attributes)
        named = rng.integers(0, len(data.people), recipe.people)
        labelled = [(drawn, rng.choice(len(drawn.chance), drawn.count, p=drawn.chance)) for drawn in self.labelled]
        unlabelled = [(data.attributes, aged), (data.people, named)]
        if data.frames is not None:
            unlabelled.append((data.frames, rng.integers(0, len(data.frames), recipe.frames)))
        rows = [(data.expressions, voted), *((drawn.faces, chosen) for drawn, chosen in labelled), *unlabelled]
        side = recipe.side(step)
        views = [
            augment.augment(faces.crops[i], side, rng, recipe.degraded, recipe.style)
            for faces, chosen in rows
            for i in chosen
        ]
        pictures = to_tensor(np.stack(views))
        votes = np.concatenate([faces.votes[chosen] for faces, chosen in rows])
        first = np.zeros((len(votes), self.first.shape[1]), np.float32)
        votes[: len(voted)], first[: len(voted)] = self.votes[voted], self.first[voted]
        if recipe.mixup:
            share, partner = float(rng.beta(recipe.mixup, recipe.mixup)), rng.permutation(len(voted))
            for part in (pictures, torch.from_numpy(votes), torch.from_numpy(first)):
                part[: len(voted)] = share * part[: len(voted)] + (1 - share) * part[: len(voted)][partner]
        begin = sum(len(chosen) for _, chosen in rows[: 1 + len(labelled)])
        starting = np.zeros((len(votes), data.starting.shape[1]), np.float32)
        known = np.concatenate([aged, len(data.attributes) + named])
        starting[begin : begin + len(known)] = data.starting[known]
        labels = {
            name: torch.from_numpy(np.concatenate([getattr(faces, name)[chosen] for faces, chosen in rows]))
            for name in ("age", "gender", "ethnicity", "person")
        }
        adjustment = np.zeros((len(votes), len(CLASSES)), np.float32)
        adjustment[: len(voted)] = self.adjustments()[0]
        end = len(voted)
        for drawn, chosen in labelled:
            votes[end : end + drawn.count] = drawn.votes[chosen]
            adjustment[end : end + drawn.count] = drawn.adjustment
            end += drawn.count
        shares = {"votes": votes, "first": first, "starting": starting, "adjustment": adjustment}
        targets = Targets(**labels, **{name: torch.from_numpy(value) for name, value in shares.items()})
        if recipe.weights.consistency:
            crops = [faces.crops[i] for faces, chosen in unlabelled for i in chosen]
            targets = replace(targets, weak=self._weak_views(crops, side, rng))
        return pictures, targets

    def _weak_views(self, crops: Sequence[Image], side: int, rng: np.random.Generator) -> Tensor:
        """What the teacher sees of faces: (m, 3, s, s)."""
        mirrored = rng.random(len(crops)) < 0.5
        views = [
            augment.frame(crop, side, GeometricJitter(mirrored=bool(m)))
            for crop, m in zip(crops, mirrored, strict=True)
        ]
        if self.recipe.teacher == "start":
            views = [augment.as_fer2013(view) for view in views]
        return to_tensor(np.stack(views))


class _DrawnSet:
    """A labelled set as its faces are drawn."""

    def __init__(self, known: ExpressionSet, count: int, recipe: TrainConfig) -> None:
        """Prepare targets and chances of being drawn; `count` faces go into a batch."""
        self.faces, self.count = known.faces, count
        smoothed = known.has / known.has.sum()
        self.votes = known.faces.votes + np.float32(recipe.smoothing) * (
            smoothed.astype(np.float32) - known.faces.votes
        )
        prior = np.maximum(known.faces.votes.mean(axis=0), RAREST)
        chance = known.faces.votes @ prior**-recipe.balance
        self.chance = chance / chance.sum()
        drawn = np.maximum(self.chance @ self.votes, RAREST)
        self.adjustment = np.where(known.has, recipe.adjustment * np.log(drawn), ABSENT).astype(np.float32)
