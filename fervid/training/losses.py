"""The losses of all tasks; a face contributes only to the tasks for which it has labels."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fervid.training.network import Heads

AGE_STD = 2.0  # years, of the label distribution
IDENTITY_SCALE = 20.0  # factor of the cosines before the softmax
LABEL_SMOOTHING = 0.05
ABSENT = -1e4
"""Added to the logits of classes that a data set lacks, which excludes them from its softmax."""


@dataclass(frozen=True, slots=True)
class TaskWeights:
    """Weights of the tasks in the total loss; 0 disables a task."""

    expression: float = 2.0
    fer2013: float = 0.6
    age: float = 0.2
    years: float = 0.04
    gender: float = 0.4
    ethnicity: float = 0.4
    distillation: float = 6.0
    identity: float = 0.2
    consistency: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Labels of n faces.

    Attributes:
        votes: (n, 8) probabilities of expression; rows of zeros are ignored.
        first: (n, 7) probabilities of the FER2013 label; rows of zeros are ignored.
        age: (n,) years, -1 where unknown, as in the three below.
        gender: (n,) 0 male, 1 female.
        ethnicity: (n,) class.
        person: (n,) class.
        initial_embeddings: (n, d) unit embeddings by the initial weights; rows of zeros are ignored.
        adjustment: (n, 8) added to the logits of expression, `ABSENT` for classes that the data set of a face lacks.
        weak: (m, 3, s, s) weakly augmented views of the last m faces, which have no votes, for a teacher.
        teacher_probabilities: (m, 8) the teacher's predictions for these m faces.
        teacher_adjustment: (8,) or (m, 8) added to the logits of these m faces.
    """

    votes: Tensor
    first: Tensor
    age: Tensor
    gender: Tensor
    ethnicity: Tensor
    person: Tensor
    initial_embeddings: Tensor
    adjustment: Tensor | None = None
    weak: Tensor | None = None
    teacher_probabilities: Tensor | None = None
    teacher_adjustment: Tensor | None = None


def multitask_loss(
    heads: Heads,
    distilled: Tensor,
    people: Tensor,
    targets: Targets,
    weights: TaskWeights,
    expression: Tensor,
    first: Tensor,
) -> Tensor:
    """Compute the weighted sum of the losses of all tasks.

    `distilled` (n, d) should stay close to the initial embeddings; `people` (p, d) are the class weights of p people,
    in the space of the embedding. `expression` (8,) and `first` (7,) are the logit adjustments of expression and
    FER2013 label, which remove the class prior (Menon et al., arXiv 2007.07314).
    """
    has_age, has_gender, has_ethnicity, has_person = (
        column >= 0 for column in (targets.age, targets.gender, targets.ethnicity, targets.person)
    )
    male = 1 - targets.gender[has_gender].float()
    cosines = functional.normalize(heads.embedding[has_person]) @ functional.normalize(people).T
    parts = {
        "expression": lambda: soft_cross_entropy(
            heads.expression + (expression if targets.adjustment is None else targets.adjustment), targets.votes
        ),
        "fer2013": lambda: soft_cross_entropy(heads.first + first, targets.first),
        "age": lambda: soft_cross_entropy(
            heads.age[has_age], gaussian_label_distribution(targets.age[has_age], heads.age.shape[1])
        ),
        "years": lambda: _mean((expected_years(heads.age[has_age]) - targets.age[has_age]).abs()),
        "gender": lambda: _mean(
            functional.binary_cross_entropy_with_logits(heads.gender[has_gender], male, reduction="none")
        ),
        "ethnicity": lambda: _mean(_cross_entropy(heads.ethnicity[has_ethnicity], targets.ethnicity[has_ethnicity])),
        "distillation": lambda: cosine_distance(distilled, targets.initial_embeddings),
        "identity": lambda: _mean(_cross_entropy(IDENTITY_SCALE * cosines, targets.person[has_person])),
        "consistency": lambda: _consistency(heads.expression, targets),
    }
    weighted = [weight * parts[name]() for name, weight in asdict(weights).items() if weight]
    return torch.stack(weighted).sum()


def soft_cross_entropy(logits: Tensor, probabilities: Tensor) -> Tensor:
    """Compute the mean cross-entropy against probabilities; rows of zeros are ignored."""
    return -(probabilities * logits.log_softmax(1)).sum() / probabilities.sum().clamp(min=1)


def _consistency(logits: Tensor, targets: Targets) -> Tensor:
    """Compute the cross-entropy of the last faces against the teacher's predictions; 0 without a teacher."""
    expected, adjustment = targets.teacher_probabilities, targets.teacher_adjustment
    if expected is None or adjustment is None:
        return logits.sum() * 0
    return soft_cross_entropy(logits[len(logits) - len(expected) :] + adjustment, expected)


def gaussian_label_distribution(years: Tensor, classes: int) -> Tensor:
    """Spread ages (n,) as Gaussians over the years from 1: (n, classes) (Gao et al., arXiv 1611.01731)."""
    difference = torch.arange(1, classes + 1) - years.clamp(1, classes)[:, None]
    return torch.softmax(-(difference**2) / (2 * AGE_STD**2), dim=1)


def expected_years(logits: Tensor) -> Tensor:
    """Compute expected ages (n,) from logits (n, classes) of the years from 1."""
    return logits.softmax(1) @ torch.arange(1.0, logits.shape[1] + 1)


def cosine_distance(embedding: Tensor, initial: Tensor) -> Tensor:
    """Compute the mean cosine distance; rows where `initial` is zero are ignored."""
    rows = initial.square().sum(1) > 0
    return _mean(1 - functional.cosine_similarity(embedding[rows], initial[rows]))


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, label_smoothing=LABEL_SMOOTHING, reduction="none")


def _mean(values: Tensor) -> Tensor:
    """Compute the mean, 0 if there are no values."""
    return values.sum() / max(len(values), 1)
