"""What networks, finished runs and exported files say of faces, as inference would cut them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fervid.analysis.align import MARGIN
from fervid.analysis.face_model import BATCH, preprocess
from fervid.core.array_cache import Arrays, load_or_compute
from fervid.core.records import FloatArray, Image
from fervid.models import registry
from fervid.training import augment, losses, mobilenet, state
from fervid.training.faces import UNKNOWN, FaceDataset
from fervid.training.ferplus import CLASSES
from fervid.training.network import FER2013_CLASSES, FaceNetwork, Heads, build, to_tensor
from fervid.training.recipe import TrainConfig

STARTING_SIZE = 224
EXPORTED = ".onnx"
THREADS = 2
LEAST = 1e-6  # probability that no logarithm is taken below


def predict(
    network: FaceNetwork, faces: FaceDataset, size: int, batch: int = 64, *, mirrored: bool = False
) -> dict[str, NDArray[np.float32]]:
    """Heads by name, (n, ...) each, of the faces as inference would cut them."""
    parts = []
    for crops in _batches(faces, size, batch, mirrored):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=network.autocast):
            embedding = network.backbone(to_tensor(crops))
        with torch.no_grad():
            parts.append([value.numpy() for value in network.heads(embedding.float())])
    names = Heads._fields
    return {name: np.concatenate(column) for name, column in zip(names, zip(*parts, strict=True), strict=True)}


def starting(known: FaceDataset, weights: mobilenet.TaskWeights, cache: Path) -> FloatArray:
    """Unit embeddings (n, d) of faces by the starting weights, at the size that those were trained at."""
    key = hashlib.sha256(known.digest().encode())
    for name in sorted(weights):
        key.update(np.ascontiguousarray(weights[name]).data)

    def embedded() -> Arrays:
        embedding = predict(build("mobilenetv1", weights).eval(), known, STARTING_SIZE)["embedding"]
        return {"embedding": embedding / np.linalg.norm(embedding, axis=1, keepdims=True)}

    return load_or_compute(cache / f"starting-{key.hexdigest()[:16]}.npz", embedded)["embedding"]


class Teacher(NamedTuple):
    """A network whose answers others learn."""

    identity: bytes  # what distinguishes it from others
    answers: Callable[[FaceDataset, bool], FloatArray]  # n faces or, if so, their mirror images -> (n, 8 + 7) logits


def taught(known: FaceDataset, teachers: Sequence[Teacher], cache: Path) -> FloatArray:
    """What teachers answer on average for faces and their mirror images, as targets for a pupil.

    Their answers are smoother than votes and first labels (born-again networks, Furlanello et al., arXiv 1805.04770).

    Args:
        known: n faces.
        teachers: One or more.
        cache: Folder for what they answer.

    Returns:
        (n, 8 + 7) logits of expression and of the first labels.
    """
    key = hashlib.sha256(known.digest().encode())
    for one in teachers:
        key.update(one.identity)

    def answered() -> Arrays:
        sums = sum(
            (one.answers(known, mirrored).astype(np.float64) for one in teachers for mirrored in (False, True)),
            np.zeros(()),
        )
        return {"logits": np.asarray(sums / (2 * len(teachers)), np.float32)}

    return load_or_compute(cache / f"taught-{key.hexdigest()[:16]}.npz", answered)["logits"]


def teacher(name: str) -> Teacher:
    """A finished run by its file, or an exported network by name or file, which must know the first labels too.

    A run's logits are free of the class prior; those of an exported network have been given back as much of it as
    `fervid.training.export.shift` chose.

    Raises:
        ValueError: The run has not come to its last step, or a network answers other classes or other crops.
        FervidError: There is no such network, or it cannot be used.
    """
    if name not in registry.manifest() and Path(name).is_file() and not name.endswith(EXPORTED):
        recipe, network, _ = load(Path(name))

        def by_run(known: FaceDataset, mirrored: bool) -> FloatArray:
            heads = predict(network, known, recipe.size, mirrored=mirrored)
            return np.hstack([heads["expression"], heads["first"]])

        return Teacher(hashlib.sha256(Path(name).read_bytes()).digest(), by_run)

    model = registry.load_model(name, "network", THREADS)
    if [model.card["expressions"], model.card.get("fer2013")] != [list(CLASSES), list(FER2013_CLASSES)]:
        raise ValueError(f"{name} answers other classes than those of FER+ and FER2013 and cannot teach them")
    if model.card["margin"] != MARGIN:
        raise ValueError(f"{name} wants faces with a margin of {model.card['margin']}, but they are cut with {MARGIN}")

    def by_file(known: FaceDataset, mirrored: bool) -> FloatArray:
        parts = []
        for crops in _batches(known, model.card["input"]["size"], BATCH, mirrored):
            shares = model.session.run(["expression", "fer2013"], {"crops": preprocess(crops, model.card)})
            parts.append(np.log(np.maximum(np.hstack(shares), LEAST)))
        return np.concatenate(parts)

    return Teacher(model.identity.sha256.encode(), by_file)


def _batches(faces: FaceDataset, size: int, batch: int, mirrored: bool) -> Iterator[Image]:
    """Faces as inference would cut them, some at a time."""
    for start in range(0, len(faces), batch):
        crops = np.stack([augment.frame(crop, size) for crop in faces.crops[start : start + batch]])
        yield np.ascontiguousarray(crops[:, :, ::-1]) if mirrored else crops


def pseudo_label(known: FaceDataset, run: Path) -> FaceDataset:
    """Faces with every label of the four tasks: those that they lack are what a finished run answers (`joint4`).

    Args:
        known: Faces; what is known of one stays.
        run: A finished run; its expressions become shares, its age the expected year, the others the likelier class.

    Raises:
        ValueError: The file is no run, or the run has not come to its last step.
    """
    recipe, network, _ = load(run)
    heads = predict(network, known, recipe.size)
    own = {name: torch.from_numpy(heads[name]) for name in ("expression", "age", "ethnicity")}
    answers = {
        "votes": own["expression"].softmax(1).numpy(),
        "age": losses.expected_years(own["age"]).round().long().numpy(),
        "gender": (heads["gender"] <= 0).astype(np.int64),
        "ethnicity": own["ethnicity"].argmax(1).numpy(),
    }
    lacking = {
        "votes": ~known.votes.any(axis=1, keepdims=True),
        **{name: getattr(known, name) == UNKNOWN for name in ("age", "gender", "ethnicity")},
    }
    labels = {name: np.where(lacking[name], answers[name], getattr(known, name)) for name in answers}
    return replace(known, **labels)


def load(path: Path) -> tuple[TrainConfig, FaceNetwork, dict[str, Any]]:
    """What a finished run gave: its recipe, its averaged weights, and all that decided them.

    Raises:
        ValueError: As `state.load_final_weights`.
    """
    about, weights = state.load_final_weights(path, "data")
    recipe = TrainConfig.of(about["recipe"])
    network = build(recipe.backbone)
    network.autocast = recipe.bfloat16
    network.load_state_dict(weights)
    if isinstance(network.backbone, mobilenet.MobileNetV1):
        network.backbone = mobilenet.fold_batch_norm(network.backbone)
    return recipe, network.eval(), about
