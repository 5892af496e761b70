"""Fine-tune the shipped network on a user's own labelled faces: a folder per class, and faces without a label.

The recipe is that of the last runs of the shipped network: a soft-max over the classes that the folder has, with
adjusted logits for their prior, more samples of rare classes, and style exchange. Faces without a label learn what the
shipped network says of them in the style of FER2013. On all faces the embedding, the identity, age, gender and
ethnicity are distilled from the shipped network, so that people are still recognised.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fervid.core.records import FaceOutputs
from fervid.learn.figures import Figure, list_figures
from fervid.learn.metrics import Rows, bootstrap
from fervid.models import registry
from fervid.training import augment, checkpoint, export, loop, mobilenet
from fervid.training.expression_evaluation import measure_expressions, run_on_crops
from fervid.training.expression_sampling import LabelledSampler, UnlabelledTargets
from fervid.training.loop import Schedule
from fervid.training.losses import cosine_distance, soft_cross_entropy
from fervid.training.network import FaceNetwork, Heads, embed, load_exported, supports_bfloat16, to_tensor
from fervid.training.own_faces import OwnFaces
from fervid.training.predict import build_trained, predict

START = "mobilenetv1-fp32"
SIZE = 128  # pixels, side of its input
SAVE_EVERY_STEPS = 50
KIND = "own_faces"  # metadata key of these checkpoints
CARD: Mapping[str, Any] = {
    "title": "Multi-task face model, fine-tuned on own faces",
    "tracking": export.CARD["tracking"],
    "license": f"own faces; {export.CARD['license']}",
    "source": "fervid network train --data",
    "limitations": "The validation faces are from the same folder: for other people, cameras and light the figures are"
    " lower. How frequent a class is in the folder was not learned.",
}


@dataclass(frozen=True, slots=True)
class FinetuneConfig(Schedule):
    """Everything that determines the result besides the faces; `TrainConfig` explains what is not explained here.

    Attributes:
        labelled_faces: Faces with a label per batch.
        unlabelled_faces: Faces without a label per batch, if there are any.
        frozen_blocks: First blocks of the network that are not trained.
        label_smoothing: Label smoothing, over the classes of the folder.
        consistency_weight: Weight of the faces without a label.
        distillation_weight: Weight of the embedding and the identity.
        attribute_weight: Weight of age, gender and ethnicity.
        seed: Random seed.
    """

    steps: int = 300
    learning_rate: float = 1e-4
    warmup: int = 30
    weight_decay: float = 0.05
    ema_decay: float = 0.98
    labelled_faces: int = 32
    unlabelled_faces: int = 16
    frozen_blocks: int = 4
    augment_strength: float = 0.5
    style_probability: float = 0.4
    resampling_power: float = 0.4
    logit_adjustment: float = 1.0
    label_smoothing: float = 0.1
    consistency_weight: float = 0.5
    distillation_weight: float = 4.0
    attribute_weight: float = 0.2
    seed: int = 2021

    def __post_init__(self) -> None:
        if min(self.steps, self.labelled_faces) < 1:
            raise ValueError("steps and labelled_faces must be at least 1")


class Batch(NamedTuple):
    """Faces of a step, those with a label first."""

    images: Tensor  # (n, 3, s, s)
    expression: Tensor  # (n, 8) probabilities: labels, or what the shipped network predicts
    adjustment: Tensor  # (n, 8) added to the logits of expression
    shipped: Heads  # outputs of the shipped network


class BatchSampler:
    """Makes the batch of a step, given its number."""

    def __init__(self, recipe: FinetuneConfig, data: OwnFaces, shipped: FaceNetwork) -> None:
        """Run the shipped network on all training faces."""
        self.recipe = recipe
        self.faces = data.training
        self.labelled = LabelledSampler(
            data.train,
            recipe.labelled_faces,
            resampling_power=recipe.resampling_power,
            logit_adjustment=recipe.logit_adjustment,
            label_smoothing=recipe.label_smoothing,
        )
        self.shipped = {name: torch.from_numpy(v) for name, v in predict(shipped, self.faces, SIZE).items()}
        self.expression = torch.from_numpy(self.labelled.votes)
        self.adjustment = torch.from_numpy(self.labelled.adjustment).expand_as(self.expression)
        self.unlabelled_count = recipe.unlabelled_faces if len(data.unlabelled) else 0
        if self.unlabelled_count:
            views = [
                predict(shipped, data.unlabelled, SIZE, mirrored=mirrored, fer2013_style=True)["expression"]
                for mirrored in (False, True)
            ]
            targets = UnlabelledTargets(np.mean(views, axis=0), recipe.logit_adjustment)
            self.expression = torch.cat([self.expression, targets.probabilities])
            self.adjustment = torch.cat([self.adjustment, targets.adjustment.expand_as(targets.probabilities)])

    def __call__(self, step: int) -> Batch:
        """Make the batch of a step."""
        recipe = self.recipe
        rng = np.random.default_rng((recipe.seed, step))
        unlabelled = rng.integers(len(self.labelled.faces), len(self.faces), self.unlabelled_count)
        rows = np.concatenate([self.labelled.sample(rng), unlabelled])
        views = [
            augment.augment(self.faces.crops[i], SIZE, rng, recipe.augment_strength, recipe.style_probability)
            for i in rows
        ]
        return Batch(
            to_tensor(np.stack(views)),
            self.expression[rows],
            self.adjustment[rows],
            Heads(**{name: values[rows] for name, values in self.shipped.items()}),
        )


def loss(heads: Heads, batch: Batch, recipe: FinetuneConfig) -> Tensor:
    """Compute the weighted sum of the losses of labels, consistency and distillation."""
    logits, split, shipped = heads.expression + batch.adjustment, recipe.labelled_faces, batch.shipped
    people = cosine_distance(heads.embedding, shipped.embedding) + cosine_distance(heads.identity, shipped.identity)
    attributes = (
        soft_cross_entropy(heads.age, shipped.age.softmax(1))
        + soft_cross_entropy(heads.ethnicity, shipped.ethnicity.softmax(1))
        + functional.binary_cross_entropy_with_logits(heads.gender, shipped.gender.sigmoid())
    )
    return (
        soft_cross_entropy(logits[:split], batch.expression[:split])
        + recipe.consistency_weight * soft_cross_entropy(logits[split:], batch.expression[split:])
        + recipe.distillation_weight * people
        + recipe.attribute_weight * attributes
    )


def fit(recipe: FinetuneConfig, data: OwnFaces, path: Path) -> Iterator[dict[str, float]]:
    """Train to the last step, resuming from `path` if it exists; yield the loss every `SAVE_EVERY_STEPS` steps.

    Raises:
        ValueError: The checkpoint belongs to another run.
    """
    start = registry.load_model(START, "face_model")
    backbone = mobilenet.MobileNetV1()
    network = FaceNetwork(backbone, mobilenet.EMBEDDING)
    load_exported(network, start.path)
    network.autocast = False
    batches = BatchSampler(recipe, data, network.eval())
    mobilenet.insert_batch_norm(backbone, batches(0).images)
    mobilenet.freeze_normalisation(backbone)
    mobilenet.freeze_blocks(backbone, recipe.frozen_blocks)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    use_bfloat16 = supports_bfloat16()

    def batch_loss(batch: Batch) -> Tensor:
        return loss(network.heads(embed(backbone, batch.images, bfloat16=use_bfloat16)), batch, recipe)

    metadata = {"recipe": asdict(recipe), KIND: batches.faces.digest(), "start": start.identity.sha256}
    return loop.fit(network, path, metadata, recipe, batches, batch_loss, every=SAVE_EVERY_STEPS)


def save(run: Path, data: OwnFaces, output: Path) -> dict[str, list[Figure]]:
    """Write a finished run to `output` in int8 and to NAME-fp32 beside it in float32.

    Returns the figures on the validation faces, before and after fine-tuning, by name of the file.

    Raises:
        ValueError: The run is not finished, or a file differs from torch.
    """
    metadata, weights = checkpoint.load_final_weights(run, KIND)
    recipe = FinetuneConfig(**metadata["recipe"])
    faces = data.training.crops
    rows = np.random.default_rng(recipe.seed).permutation(len(faces))[: export.CALIBRATION]
    crops = augment.crops_to_inputs(faces[rows], SIZE)
    about = {
        **CARD,
        "data": {"initial_weights": START, "expression": "own faces", **data.counts()},
        "recipe": metadata["recipe"],
        "data_sha256": metadata[KIND],
        "initial_sha256": metadata["start"],
    }
    before = run_on_crops(registry.load_model(START, "face_model", 2), data.valid.crops)

    def measure(model: registry.Model) -> list[Figure]:
        after = run_on_crops(model, data.valid.crops)
        figures = _score(before, data, "before fine-tuning") + _score(after, data, "after fine-tuning")
        return figures + list_figures(_agreement(before, after), "own faces", "validation", "agreement with the start")

    return export.save_both(build_trained("mobilenetv1", weights), about, output, crops, measure)


def _score(outputs: FaceOutputs, data: OwnFaces, protocol: str) -> list[Figure]:
    """Measure the expressions, predicted among the classes of the folder."""
    scores = measure_expressions(outputs.expression * data.train.has, data.valid.votes.argmax(axis=1))
    del scores["mean_recall_among_own"]  # equals mean_recall
    return list_figures(scores, "own faces", "validation", protocol)


def _agreement(before: FaceOutputs, after: FaceOutputs) -> dict[str, Any]:
    """Compare attributes and identity with those before fine-tuning."""
    norms = np.linalg.norm(before.identity, axis=1) * np.linalg.norm(after.identity, axis=1)
    cosine = (before.identity * after.identity).sum(axis=1) / np.maximum(norms, 1e-6)

    def measure(rows: Rows) -> dict[str, float]:
        ethnicity = before.ethnicity[rows].argmax(axis=1) == after.ethnicity[rows].argmax(axis=1)
        return {
            "identity_cosine": cosine[rows].mean(),
            "age_difference": np.abs(before.age - after.age)[rows].mean(),
            "gender": ((before.gender > 0.5) == (after.gender > 0.5))[rows].mean(),
            "ethnicity": ethnicity.mean(),
        }

    return bootstrap(len(cosine), measure)
