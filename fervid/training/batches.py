"""The data sets of a training run, and the batch of each step.

Faces with rare expressions are sampled more often, and the logits are adjusted for the class prior. The random choices
of step t depend on the seed and t only.
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
from fervid.training.config import TrainConfig
from fervid.training.dataset_paths import DatasetPaths
from fervid.training.expression_sampling import RAREST, LabelledSampler, UnlabelledTargets, compute_sampling_weights
from fervid.training.faces import ExpressionSet, FaceDataset
from fervid.training.ferplus import CLASSES
from fervid.training.losses import Targets
from fervid.training.network import FER2013_CLASSES, to_tensor
from fervid.training.predict import Teacher, compute_initial_embeddings, compute_teacher_logits

FER2013_INDEX = np.array([FER2013_CLASSES.index(c) if c in FER2013_CLASSES else -1 for c in CLASSES])


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSets:
    """Training and validation sets of a run.

    Attributes:
        expressions: Faces with votes and FER2013 labels.
        attributes: Faces with age, gender and ethnicity.
        people: Faces with identities.
        initial_embeddings: (len(attributes) + len(people), d) unit embeddings by the initial weights.
        valid_expressions: Validation faces with votes.
        valid_attributes: Validation faces with age, gender and ethnicity.
        teacher_logits: For each set by name, (n, 8 + 7) logits of expression and FER2013 label by teachers, if there
            are any; unlabelled sets are `attributes`, `people` and `frames`.
        labelled: Additional expression sets, by name.
        valid_labelled: Validation splits of these.
        frames: Video frames without labels, if the recipe uses them.
    """

    expressions: FaceDataset
    attributes: FaceDataset
    people: FaceDataset
    initial_embeddings: FloatArray
    valid_expressions: FaceDataset
    valid_attributes: FaceDataset
    teacher_logits: Mapping[str, FloatArray] = field(default_factory=dict)
    labelled: Mapping[str, ExpressionSet] = field(default_factory=dict)
    valid_labelled: Mapping[str, ExpressionSet] = field(default_factory=dict)
    frames: FaceDataset | None = None

    @classmethod
    def read(
        cls,
        sources: DatasetPaths,
        cache: Path,
        weights: mobilenet.NamedTensors,
        teachers: Sequence[Teacher] = (),
        recipe: TrainConfig | None = None,
    ) -> TrainingSets:
        """Read all data sets of a recipe, by default of one without additional sets; crops and embeddings are cached.

        The initial embeddings are computed with the initial `weights`; the predictions of the teachers are blended with
        the votes.

        Raises:
            FileNotFoundError: Images are missing.
            ValueError: Images are damaged.
        """
        expressions = faces.read_ferplus(sources.ferplus, sources.fer2013, "Training", cache)
        attributes = faces.read_utkface(sources.utkface, 2, cache)
        people = faces.read_celeba(sources.celeba, cache)
        initial = compute_initial_embeddings(FaceDataset.concat([attributes, people]), weights, cache)
        recipe = recipe or TrainConfig()
        labelled, valid = (
            {name: faces.read_expressions(sources, name, split, cache) for name in recipe.labelled_faces}
            for split in ("train", "valid")
        )
        if recipe.labelled_faces:
            tests = faces.read_test_crops(sources, cache)
            labelled = {
                name: ExpressionSet(part.faces[faces.is_unseen(part.faces, tests, name)], part.has)
                for name, part in labelled.items()
            }
            expressions = expressions[faces.is_unseen(expressions, tests, "ferplus")]
            unseen = faces.is_unseen(attributes, tests, "utkface")
            attributes, initial = attributes[unseen], initial[np.concatenate([unseen, np.ones(len(people), bool)])]
        data = cls(
            expressions,
            attributes,
            people,
            initial,
            faces.read_ferplus(sources.ferplus, sources.fer2013, "PublicTest", cache),
            faces.read_utkface(sources.utkface, 1, cache),
            {},
            labelled,
            valid,
            faces.read_frames(sources, cache) if recipe.video_frames else None,
        )
        if not teachers:
            return data
        taught = {"expressions": expressions, **{name: part.faces for name, part in labelled.items()}}
        if recipe.weights.consistency:
            taught |= data.unlabelled()
        return replace(data, teacher_logits=compute_teacher_logits(taught, teachers, cache))

    def unlabelled(self) -> dict[str, FaceDataset]:
        """Return the sets without an expression label, in their order in a batch."""
        sets = {"attributes": self.attributes, "people": self.people}
        return sets if self.frames is None else {**sets, "frames": self.frames}

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of each set by name; the names are stored in checkpoints."""
        parts = ("expressions", "attributes", "people")
        arrays = {"starting": self.initial_embeddings}
        arrays |= {f"taught {name}": logits for name, logits in self.teacher_logits.items()}
        digests = {name: getattr(self, name).digest() for name in parts}
        digests |= {name: part.faces.digest() for name, part in self.labelled.items()}
        if self.frames is not None:
            digests["frames"] = self.frames.digest()
        return digests | {
            name: hashlib.sha256(np.ascontiguousarray(values).data).hexdigest() for name, values in arrays.items()
        }


class BatchSampler:
    """Makes the images and targets of a step, given its number."""

    def __init__(self, recipe: TrainConfig, data: TrainingSets) -> None:
        """Compute soft labels and sampling weights."""
        self.recipe, self.data = recipe, data
        first = data.expressions.first
        self.first = np.zeros((len(first), len(FER2013_CLASSES)), np.float32)
        rows = np.flatnonzero(first >= 0)
        self.first[rows, FER2013_INDEX[first[rows]]] = 1
        share = recipe.fer2013_weight * (first >= 0).astype(np.float32)[:, None]
        self.votes = data.expressions.votes * (1 - share)
        self.votes[rows, first[rows]] += share[rows, 0]
        self.sampling_weights = compute_sampling_weights(self.votes, recipe.resampling_power)
        self.prior, self.first_prior = self.sampling_weights @ self.votes, self.sampling_weights @ self.first
        self.labelled = [
            LabelledSampler(
                part,
                recipe.labelled_faces[name],
                resampling_power=recipe.resampling_power,
                logit_adjustment=recipe.logit_adjustment,
                label_smoothing=recipe.label_smoothing,
                teacher_logits=data.teacher_logits.get(name),
                teacher_weight=recipe.teacher_weight,
                absent_prior=recipe.absent_prior.get(name, 0.0),
            )
            for name, part in data.labelled.items()
        ]
        self.unlabelled = {
            name: UnlabelledTargets(data.teacher_logits[name], recipe.logit_adjustment)
            for name in data.unlabelled()
            if name in data.teacher_logits
        }
        if data.teacher_logits:
            self._blend_teacher(data.teacher_logits["expressions"], rows)

    def adjustments(self) -> tuple[Tensor, Tensor]:
        """Compute the logit adjustments (8,) of expression and (7,) of the FER2013 label."""
        shares = (self.prior, self.first_prior / max(self.first_prior.sum(), RAREST))
        logs = (np.log(np.maximum(share, RAREST)) for share in shares)
        expression, first = (torch.from_numpy(self.recipe.logit_adjustment * log).float() for log in logs)
        return expression, first

    def _blend_teacher(self, logits: FloatArray, rows: NDArray[np.intp]) -> None:
        """Blend the teachers' predictions into the votes, and into the FER2013 labels of the given rows."""
        expression, first = self.adjustments()
        teacher, share = torch.from_numpy(logits), self.recipe.teacher_weight
        predicted = (teacher[:, : len(CLASSES)] + expression).softmax(1).numpy()
        self.votes += share * (predicted - self.votes)
        predicted = (teacher[:, len(CLASSES) :] + first).softmax(1).numpy()
        self.first[rows] += share * (predicted - self.first)[rows]

    def __call__(self, step: int) -> tuple[Tensor, Targets]:
        """Make the batch of a step."""
        recipe, data = self.recipe, self.data
        rng = np.random.default_rng((recipe.seed, step))
        voted = rng.choice(len(self.votes), recipe.expression_faces, p=self.sampling_weights)
        attributes = rng.integers(0, len(data.attributes), recipe.attribute_faces)
        people = rng.integers(0, len(data.people), recipe.identity_faces)
        labelled = [(part, part.sample(rng)) for part in self.labelled]
        chosen_unlabelled = {"attributes": attributes, "people": people}
        if data.frames is not None:
            chosen_unlabelled["frames"] = rng.integers(0, len(data.frames), recipe.video_frames)
        sets = data.unlabelled()
        unlabelled = [(sets[name], chosen) for name, chosen in chosen_unlabelled.items()]
        rows = [(data.expressions, voted), *((part.faces, chosen) for part, chosen in labelled), *unlabelled]
        side = recipe.input_size(step)
        views = [
            augment.augment(faces.crops[i], side, rng, recipe.augment_strength, recipe.style_probability)
            for faces, chosen in rows
            for i in chosen
        ]
        images = to_tensor(np.stack(views))
        own_votes = [self.votes[voted], *(part.votes[chosen] for part, chosen in labelled)]
        votes = np.concatenate([*own_votes, *(faces.votes[chosen] for faces, chosen in unlabelled)])
        first = np.zeros((len(votes), self.first.shape[1]), np.float32)
        first[: len(voted)] = self.first[voted]
        if recipe.mixup:
            share, partner = float(rng.beta(recipe.mixup, recipe.mixup)), rng.permutation(len(voted))
            for tensor in (images, torch.from_numpy(votes), torch.from_numpy(first)):
                tensor[: len(voted)] = share * tensor[: len(voted)] + (1 - share) * tensor[: len(voted)][partner]
        begin = sum(map(len, own_votes))
        initial = np.zeros((len(votes), data.initial_embeddings.shape[1]), np.float32)
        embedded = np.concatenate([attributes, len(data.attributes) + people])
        initial[begin : begin + len(embedded)] = data.initial_embeddings[embedded]
        labels = {
            name: torch.from_numpy(np.concatenate([getattr(faces, name)[chosen] for faces, chosen in rows]))
            for name in ("age", "gender", "ethnicity", "person")
        }
        adjustment = np.zeros((len(votes), len(CLASSES)), np.float32)
        own_adjustments = [self.adjustments()[0].numpy(), *(part.adjustment for part, _ in labelled)]
        adjustment[:begin] = np.repeat(own_adjustments, [len(part) for part in own_votes], axis=0)
        arrays = {"votes": votes, "first": first, "initial_embeddings": initial, "adjustment": adjustment}
        targets = Targets(**labels, **{name: torch.from_numpy(value) for name, value in arrays.items()})
        if self.unlabelled:
            taught = [(self.unlabelled[name], chosen) for name, chosen in chosen_unlabelled.items()]
            return images, replace(
                targets,
                teacher_probabilities=torch.cat([part.probabilities[chosen] for part, chosen in taught]),
                teacher_adjustment=torch.cat([part.adjustment.expand(len(chosen), -1) for part, chosen in taught]),
            )
        if recipe.weights.consistency:
            crops = [faces.crops[i] for faces, chosen in unlabelled for i in chosen]
            targets = replace(targets, weak=self._weak_views(crops, side, rng))
        return images, targets

    def _weak_views(self, crops: Sequence[Image], side: int, rng: np.random.Generator) -> Tensor:
        """Make weakly augmented views (m, 3, s, s) for the teacher."""
        mirrored = rng.random(len(crops)) < 0.5
        views = [
            augment.crop_to_input(crop, side, GeometricJitter(mirrored=bool(m)))
            for crop, m in zip(crops, mirrored, strict=True)
        ]
        if self.recipe.teacher == "start":
            views = [augment.simulate_fer2013(view) for view in views]
        return to_tensor(np.stack(views))
