"""What a network is fitted on, and the batch of each step.

Votes are sampled so that rare expressions are seen more often, and the logits are freed from the class prior. Every
random choice of step t comes from the seed and t alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fervid.records import Floats
from fervid.train import augment, faces, mobilenet
from fervid.train.faces import Faces, Sources
from fervid.train.ferplus import CLASSES
from fervid.train.losses import Targets
from fervid.train.network import FIRST_CLASSES, pixels
from fervid.train.predict import Teacher, starting, taught
from fervid.train.recipe import Recipe

RAREST = 1e-6  # share that a class without any example is taken to have
FIRST_INDEX = np.array([FIRST_CLASSES.index(c) if c in FIRST_CLASSES else -1 for c in CLASSES])


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """What a network is fitted on and watched on.

    Attributes:
        expressions: Faces with votes and first labels.
        attributes: Faces with age, gender and ethnicity.
        people: Faces of known people.
        starting: (len(attributes) + len(people), d) unit embeddings by the starting weights.
        valid_expressions: Faces with votes, to watch.
        valid_attributes: Faces with age, gender and ethnicity, to watch.
        taught: (len(expressions), 8 + 7) logits of expression and first labels by teachers, if there are any.
    """

    expressions: Faces
    attributes: Faces
    people: Faces
    starting: Floats
    valid_expressions: Faces
    valid_attributes: Faces
    taught: Floats | None = None

    @classmethod
    def read(cls, sources: Sources, cache: Path, weights: mobilenet.Weights, teachers: Sequence[Teacher] = ()) -> Data:
        """Read all data sets; what was cut and embedded is kept in the folder `cache`.

        Args:
            sources: Where they lie.
            cache: Folder for crops and embeddings.
            weights: The starting weights, whose embedding is to be kept.
            teachers: Whose answers for the expressions to learn beside the votes.

        Raises:
            FileNotFoundError: Pictures are missing.
            ValueError: Pictures are damaged.
        """
        expressions = faces.read_ferplus(sources.ferplus, sources.first, "Training", cache)
        attributes = faces.read_utkface(sources.utkface, 2, cache)
        people = faces.read_celeba(sources.celeba, cache)
        return cls(
            expressions,
            attributes,
            people,
            starting(Faces.union([attributes, people]), weights, cache),
            faces.read_ferplus(sources.ferplus, sources.first, "PublicTest", cache),
            faces.read_utkface(sources.utkface, 1, cache),
            taught(expressions, teachers, cache) if teachers else None,
        )

    def digests(self) -> dict[str, str]:
        """Name of each part to the SHA-256 of its pixels and labels, and that of the starting embeddings."""
        parts = ("expressions", "attributes", "people")
        given = {"starting": self.starting, "taught": self.taught}
        return {name: getattr(self, name).digest() for name in parts} | {
            name: hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()
            for name, values in given.items()
            if values is not None
        }


class Batches:
    """Step number to pictures and targets."""

    def __init__(self, recipe: Recipe, data: Data) -> None:
        """Prepare targets and chances of being drawn."""
        self.recipe, self.data = recipe, data
        known = data.expressions.first
        self.first = np.zeros((len(known), len(FIRST_CLASSES)), np.float32)
        has = np.flatnonzero(known >= 0)
        self.first[has, FIRST_INDEX[known[has]]] = 1
        share = recipe.first_share * (known >= 0).astype(np.float32)[:, None]
        self.votes = data.expressions.votes * (1 - share)
        self.votes[has, known[has]] += share[has, 0]
        prior = np.maximum(self.votes.mean(axis=0), RAREST)
        chance = self.votes @ prior**-recipe.balance
        self.chance = chance / chance.sum()
        self.prior, self.first_prior = self.chance @ self.votes, self.chance @ self.first
        if data.taught is not None:
            self._blend(data.taught, has)

    def adjustments(self) -> tuple[Tensor, Tensor]:
        """(8,) and (7,) what is added to the logits while training."""
        shares = (self.prior, self.first_prior / self.first_prior.sum())
        logs = (np.log(np.maximum(share, RAREST)) for share in shares)
        expression, first = (torch.from_numpy(self.recipe.adjustment * log).float() for log in logs)
        return expression, first

    def _blend(self, logits: Floats, has: NDArray[np.intp]) -> None:
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
        rows = ((data.expressions, voted), (data.attributes, aged), (data.people, named))
        views = [
            augment.view(faces.crops[i], recipe.side(step), rng, recipe.degraded)
            for faces, chosen in rows
            for i in chosen
        ]
        pictures = pixels(np.stack(views))
        votes = np.concatenate([faces.votes[chosen] for faces, chosen in rows])
        first = np.zeros((len(votes), self.first.shape[1]), np.float32)
        votes[: len(voted)], first[: len(voted)] = self.votes[voted], self.first[voted]
        if recipe.mixup:
            share, partner = float(rng.beta(recipe.mixup, recipe.mixup)), rng.permutation(len(voted))
            for part in (pictures, torch.from_numpy(votes), torch.from_numpy(first)):
                part[: len(voted)] = share * part[: len(voted)] + (1 - share) * part[: len(voted)][partner]
        starting = np.zeros((len(votes), data.starting.shape[1]), np.float32)
        starting[len(voted) :] = data.starting[np.concatenate([aged, len(data.attributes) + named])]
        labels = {
            name: torch.from_numpy(np.concatenate([getattr(faces, name)[chosen] for faces, chosen in rows]))
            for name in ("age", "gender", "ethnicity", "person")
        }
        shares = {"votes": votes, "first": first, "starting": starting}
        return pictures, Targets(**labels, **{name: torch.from_numpy(value) for name, value in shares.items()})
