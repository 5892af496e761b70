"""Run networks, finished runs and exported files on data sets, with the crops of inference."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import nn

from fervid.analysis.align import MARGIN
from fervid.analysis.face_model import BATCH, preprocess
from fervid.core.array_cache import Arrays, load_or_compute
from fervid.core.records import FloatArray, Image
from fervid.models import registry
from fervid.training import augment, checkpoint, mobilenet
from fervid.training.config import TrainConfig
from fervid.training.faces import FaceDataset
from fervid.training.ferplus import CLASSES
from fervid.training.network import (
    FER2013_CLASSES,
    FaceNetwork,
    Heads,
    build,
    embed,
    load_exported,
    to_tensor,
)

INITIAL_SIZE = 224
EXPORTED = ".onnx"
THREADS = 2
MIN_PROBABILITY = 1e-6  # before the logarithm
MIN_PRIOR = 0.02
PRIOR_ITERATIONS = 100


def predict(
    network: FaceNetwork,
    faces: FaceDataset,
    size: int,
    batch: int = 64,
    *,
    mirrored: bool = False,
    fer2013_style: bool = False,
) -> dict[str, NDArray[np.float32]]:
    """Run a network on faces, cropped as at inference; return arrays (n, ...) by head."""
    parts = []
    for crops in _iter_crops(faces, size, batch, mirrored, fer2013_style):
        with torch.no_grad():
            embedding = embed(network.backbone, to_tensor(crops), bfloat16=network.autocast)
            parts.append([value.numpy() for value in network.heads(embedding)])
    names = Heads._fields
    return {name: np.concatenate(column) for name, column in zip(names, zip(*parts, strict=True), strict=True)}


def compute_initial_embeddings(faces: FaceDataset, weights: mobilenet.NamedTensors, cache: Path) -> FloatArray:
    """Compute unit embeddings (n, d) by the initial weights, at the input size they were trained with; cached."""
    key = hashlib.sha256(faces.digest().encode())
    for name in sorted(weights):
        key.update(np.ascontiguousarray(weights[name]).data)

    def embed() -> Arrays:
        embedding = predict(build("mobilenetv1", weights).eval(), faces, INITIAL_SIZE)["embedding"]
        return {"embedding": embedding / np.linalg.norm(embedding, axis=1, keepdims=True)}

    return load_or_compute(cache / f"starting-{key.hexdigest()[:16]}.npz", embed)["embedding"]


class Teacher(NamedTuple):
    """A network whose predictions are distilled into another."""

    identity: bytes  # part of the cache key
    predict_logits: Callable[[FaceDataset, bool], FloatArray]  # n faces, whether to mirror them -> (n, 8 + 7)


def compute_teacher_logits(
    sets: Mapping[str, FaceDataset], teachers: Sequence[Teacher], cache: Path
) -> dict[str, FloatArray]:
    """Average the logits of teachers over faces and their mirror images.

    They are smoother targets than labels (born-again networks, Furlanello et al., arXiv 1805.04770). Teachers that were
    trained on different class frequencies become comparable by `remove_class_prior`.

    Args:
        sets: Faces by name; `expressions` has votes for all classes.
        teachers: One or more networks.
        cache: Folder for the result.

    Returns:
        For each set of n faces, (n, 8 + 7) logits of expression and of the FER2013 label.
    """
    prior = sets["expressions"].votes.mean(axis=0)
    averages: dict[str, FloatArray] = {}
    for teacher in teachers:
        logits = {name: _mirror_averaged_logits(faces, teacher, cache) for name, faces in sets.items()}
        offset = remove_class_prior(logits["expressions"][:, : len(CLASSES)], prior)
        for name, values in logits.items():
            values[:, : len(CLASSES)] += offset
            averages[name] = np.asarray(averages.get(name, 0.0) + values / len(teachers), np.float32)
    return averages


def _mirror_averaged_logits(faces: FaceDataset, teacher: Teacher, cache: Path) -> FloatArray:
    """Average one teacher's logits over faces and their mirror images; cached."""
    key = hashlib.sha256(faces.digest().encode() + teacher.identity).hexdigest()

    def average() -> Arrays:
        sides = [teacher.predict_logits(faces, mirrored) for mirrored in (False, True)]
        return {"logits": np.asarray(np.mean(sides, axis=0), np.float32)}

    return load_or_compute(cache / f"taught-{key[:16]}.npz", average)["logits"]


def remove_class_prior(logits: FloatArray, prior: FloatArray) -> FloatArray:
    """Compute the offset (c,) that removes the class prior from logits (n, c).

    With the offset and the log prior added, the mean probability of each class equals its prior.
    """
    log_prior = np.log(np.maximum(prior, MIN_PROBABILITY))
    offset = np.zeros_like(log_prior)
    for _ in range(PRIOR_ITERATIONS):
        mean = softmax(logits + offset + log_prior, axis=1).mean(axis=0)
        offset += log_prior - np.log(np.maximum(mean, MIN_PROBABILITY))
    return np.asarray(offset, np.float32)


def estimate_class_prior(logits: FloatArray) -> FloatArray:
    """Estimate the class frequencies (c,) of n unlabelled faces from logits (n, c) without a prior.

    Expectation maximisation (Saerens, Latinne and Decaestecker, Neural Computation 14, 2002).
    """
    prior = np.full(logits.shape[1], 1 / logits.shape[1], np.float32)
    for _ in range(PRIOR_ITERATIONS):
        prior = softmax(logits + np.log(np.maximum(prior, MIN_PRIOR)), axis=1).mean(axis=0)
    return np.maximum(prior, np.float32(MIN_PRIOR))


def load_teacher(name: str, *, fer2013_style: bool = False) -> Teacher:
    """Load a finished run by path, or an exported network by name or path, as a teacher.

    Args:
        name: Path of a run or of an ONNX file, or name of a shipped network.
        fer2013_style: Whether it gets the faces in the style of FER2013 (`augment.simulate_fer2013`), for a network
            that was trained on that set.

    Raises:
        ValueError: The run is not finished, or the network has other classes or other crops.
        FervidError: There is no such network, or it cannot be used.
    """
    suffix = b"fer2013" if fer2013_style else b""
    if name not in registry.manifest() and Path(name).is_file() and not name.endswith(EXPORTED):
        recipe, network, _ = load_run(Path(name))

        def predict_by_run(faces: FaceDataset, mirrored: bool) -> FloatArray:
            heads = predict(network, faces, recipe.size, mirrored=mirrored, fer2013_style=fer2013_style)
            return np.hstack([heads["expression"], heads["first"]])

        return Teacher(hashlib.sha256(Path(name).read_bytes()).digest() + suffix, predict_by_run)

    model = registry.load_model(name, "face_model", THREADS)
    if [model.card["expressions"], model.card.get("fer2013")] != [list(CLASSES), list(FER2013_CLASSES)]:
        raise ValueError(f"{name} cannot be a teacher: its classes are not those of FER+ and FER2013")
    if model.card["margin"] != MARGIN:
        raise ValueError(f"{name} cannot be a teacher: its crops have a margin of {model.card['margin']}, not {MARGIN}")

    def predict_by_file(faces: FaceDataset, mirrored: bool) -> FloatArray:
        parts = []
        for crops in _iter_crops(faces, model.card["input"]["size"], BATCH, mirrored, fer2013_style):
            probabilities = model.session.run(["expression", "fer2013"], {"crops": preprocess(crops, model.card)})
            parts.append(np.log(np.maximum(np.hstack(probabilities), MIN_PROBABILITY)))
        return np.concatenate(parts)

    return Teacher(model.identity.sha256.encode() + suffix, predict_by_file)


def _iter_crops(faces: FaceDataset, size: int, batch: int, mirrored: bool, fer2013_style: bool) -> Iterator[Image]:
    """Yield batches of crops as at inference."""
    for start in range(0, len(faces), batch):
        crops = augment.crops_to_inputs(faces.crops[start : start + batch], size)
        if fer2013_style:
            crops = np.stack([augment.simulate_fer2013(crop) for crop in crops])
        yield np.ascontiguousarray(crops[:, :, ::-1]) if mirrored else crops


def load_run(path: Path) -> tuple[TrainConfig, FaceNetwork, dict[str, Any]]:
    """Load the recipe, the network with averaged weights, and the metadata of a finished run.

    Raises:
        ValueError: As `checkpoint.load_final_weights`.
    """
    metadata, weights = checkpoint.load_final_weights(path, "data")
    recipe = TrainConfig.from_dict(metadata["recipe"])
    network = build_trained(recipe.backbone, weights)
    network.autocast &= recipe.bfloat16
    return recipe, network, metadata


def load_averaged_runs(paths: Sequence[Path]) -> tuple[TrainConfig, FaceNetwork, list[dict[str, Any]]]:
    """Load finished runs and average their weights (model soups, Wortsman et al., arXiv 2203.05482).

    Args:
        paths: Checkpoints, and optionally the float32 ONNX file that all of them started from, which keeps more of what
            it knows (WiSE-FT, Wortsman et al., arXiv 2109.01903).

    Returns:
        The recipe of the first run, the network, and the metadata of each run.

    Raises:
        ValueError: As `load_run`; there is no run; or the runs started from different weights, so that their average is
            meaningless.
    """
    runs = {path: load_run(path) for path in paths if path.suffix != EXPORTED}
    if not runs:
        raise ValueError(f"{paths[0]} is no checkpoint of `fervid network train`; add one")
    first_path, (recipe, network, first) = next(iter(runs.items()))
    networks = []
    for path in paths:
        if path in runs:
            _, other, metadata = runs[path]
            alike = metadata["earlier"] == first["earlier"] and metadata["recipe"]["backbone"] == recipe.backbone
        else:
            other = build(recipe.backbone)
            load_exported(other, path)
            other = build_trained(recipe.backbone, other.state_dict())
            alike = first["earlier"] == {"exported": hashlib.sha256(path.read_bytes()).hexdigest()}
        if not alike:
            raise ValueError(f"{path} and {first_path} cannot be averaged: they started from different weights")
        networks.append(other.state_dict())
    network.load_state_dict(
        {
            name: torch.stack([weights[name] for weights in networks]).mean(dim=0)
            if value.is_floating_point()
            else value
            for name, value in networks[0].items()
        }
    )
    return recipe, network, [metadata for _, _, metadata in runs.values()]


def load_for_inference(network: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Load the weights of a finished run into a network with a `backbone`, and fold its batch normalisation."""
    network.load_state_dict(weights)
    if isinstance(network.backbone, mobilenet.MobileNetV1):
        network.backbone = mobilenet.fold_batch_norm(network.backbone)
    network.eval()


def build_trained(backbone: str, weights: Mapping[str, torch.Tensor]) -> FaceNetwork:
    """Build a network for inference with the weights of a finished run."""
    network = build(backbone)
    load_for_inference(network, weights)
    return network
