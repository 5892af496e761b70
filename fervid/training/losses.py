"""What each task asks of the network; a face counts only for the labels that it carries."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fervid.training.network import Heads

AGE_SPREAD = 2.0  # years by which an apparent age is uncertain
IDENTITY_SCALE = 20.0  # cosines have to be stretched before a soft-max
SMOOTHING = 0.05
ABSENT = -1e4
"""Added to the logit of a class that a set lacks, so that its soft-max is over the classes that it has."""


@dataclass(frozen=True, slots=True)
class TaskWeights:
    """How much each task counts in the sum; 0 leaves it out."""

    expression: float = 2.0
    first: float = 0.6
    age: float = 0.2
    years: float = 0.04
    gender: float = 0.4
    ethnicity: float = 0.4
    distillation: float = 6.0
    identity: float = 0.2
    consistency: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What is known of n faces.

    Attributes:
        votes: (n, 8) shares; a row of zeros asks nothing.
        first: (n, 7) shares of the first labels; likewise.
        age: (n,) years, -1 where unknown, as in the three below.
        gender: (n,) 0 male, 1 female.
        ethnicity: (n,) class.
        person: (n,) class.
        starting: (n, d) embedding by the starting weights, of unit length; a row of zeros asks nothing.
        adjustment: (n, 8) what is added to the logits of expression, `ABSENT` for classes that the set of a face lacks.
        weak: (m, 3, s, s) other views of the last m faces, which have no votes, for a teacher to answer.
        taught: (m, 8) shares that the teacher answers.
        taught_adjustment: (8,) what is added to the logits of these m faces.
    """

    votes: Tensor
    first: Tensor
    age: Tensor
    gender: Tensor
    ethnicity: Tensor
    person: Tensor
    starting: Tensor
    adjustment: Tensor | None = None
    weak: Tensor | None = None
    taught: Tensor | None = None
    taught_adjustment: Tensor | None = None


def multitask_loss(
    heads: Heads,
    kept: Tensor,
    people: Tensor,
    targets: Targets,
    weights: TaskWeights,
    expression: Tensor,
    first: Tensor,
) -> Tensor:
    """The weighted sum of the losses of all tasks.

    Args:
        heads: What the network gave.
        kept: (n, d) what is to stay near the starting embedding.
        people: (p, d) one direction in the embedding for each known person.
        targets: What it should have given.
        weights: Of the tasks.
        expression: (8,) added to the logits of expression, so that what is left is free of the class prior (Menon et
            al., arXiv 2007.07314).
        first: (7,) the same for the first labels.
    """
    aged, sexed, placed, named = (
        column >= 0 for column in (targets.age, targets.gender, targets.ethnicity, targets.person)
    )
    male = 1 - targets.gender[sexed].float()
    likeness = functional.normalize(heads.embedding[named]) @ functional.normalize(people).T
    parts = {
        "expression": lambda: soft_cross_entropy(
            heads.expression + (expression if targets.adjustment is None else targets.adjustment), targets.votes
        ),
        "first": lambda: soft_cross_entropy(heads.first + first, targets.first),
        "age": lambda: soft_cross_entropy(
            heads.age[aged], gaussian_label_distribution(targets.age[aged], heads.age.shape[1])
        ),
        "years": lambda: _mean((expected_years(heads.age[aged]) - targets.age[aged]).abs()),
        "gender": lambda: _mean(
            functional.binary_cross_entropy_with_logits(heads.gender[sexed], male, reduction="none")
        ),
        "ethnicity": lambda: _mean(_hard(heads.ethnicity[placed], targets.ethnicity[placed])),
        "distillation": lambda: cosine_distance(kept, targets.starting),
        "identity": lambda: _mean(_hard(IDENTITY_SCALE * likeness, targets.person[named])),
        "consistency": lambda: _consistency(heads.expression, targets),
    }
    counting = [weight * parts[name]() for name, weight in asdict(weights).items() if weight]
    return torch.stack(counting).sum()


def soft_cross_entropy(logits: Tensor, shares: Tensor) -> Tensor:
    """Cross-entropy against shares, over the rows that have any."""
    return -(shares * logits.log_softmax(1)).sum() / shares.sum().clamp(min=1)


def _consistency(logits: Tensor, targets: Targets) -> Tensor:
    """Cross-entropy of the last faces against what the teacher answers; 0 without a teacher."""
    if targets.taught is None or targets.taught_adjustment is None:
        return logits.sum() * 0
    return soft_cross_entropy(logits[len(logits) - len(targets.taught) :] + targets.taught_adjustment, targets.taught)


def gaussian_label_distribution(years: Tensor, classes: int) -> Tensor:
    """Ages (n,) -> shares (n, classes) of the years from 1, spread as a bell (Gao et al., arXiv 1611.01731)."""
    off = torch.arange(1, classes + 1) - years.clamp(1, classes)[:, None]
    return torch.softmax(-(off**2) / (2 * AGE_SPREAD**2), dim=1)


def expected_years(logits: Tensor) -> Tensor:
    """Logits (n, classes) of the years from 1 -> expected age (n,)."""
    return logits.softmax(1) @ torch.arange(1.0, logits.shape[1] + 1)


def cosine_distance(embedding: Tensor, starting: Tensor) -> Tensor:
    """One minus the cosine, over the rows that have a starting embedding."""
    known = starting.square().sum(1) > 0
    return _mean(1 - functional.cosine_similarity(embedding[known], starting[known]))


def _hard(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, label_smoothing=SMOOTHING, reduction="none")


def _mean(values: Tensor) -> Tensor:
    """The mean, 0 of nothing."""
    return values.sum() / max(len(values), 1)
