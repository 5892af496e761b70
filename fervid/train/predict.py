"""What a network says of faces, as inference would cut them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fervid.records import Floats
from fervid.train import augment, mobilenet
from fervid.train.faces import Faces
from fervid.train.network import FaceNetwork, Heads, build, pixels

STARTING_SIZE = 224


def predict(network: FaceNetwork, faces: Faces, size: int, batch: int = 64) -> dict[str, NDArray[np.float32]]:
    """Heads by name, (n, ...) each, of the faces as inference would cut them."""
    parts = []
    for start in range(0, len(faces), batch):
        crops = np.stack([augment.frame(crop, size) for crop in faces.crops[start : start + batch]])
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=network.autocast):
            embedding = network.backbone(pixels(crops))
        with torch.no_grad():
            parts.append([value.numpy() for value in network.heads(embedding.float())])
    names = Heads._fields
    return {name: np.concatenate(column) for name, column in zip(names, zip(*parts, strict=True), strict=True)}


def starting(known: Faces, weights: mobilenet.Weights, cache: Path) -> Floats:
    """Unit embeddings (n, d) of faces by the starting weights, at the size that those were trained at."""
    key = hashlib.sha256(known.digest().encode())
    for name in sorted(weights):
        key.update(np.ascontiguousarray(weights[name]).data)
    path = cache / f"starting-{key.hexdigest()[:16]}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        embedding = predict(build("mobilenetv1", weights).eval(), known, STARTING_SIZE)["embedding"]
        unfinished = path.with_suffix(".partial.npy")
        np.save(unfinished, embedding / np.linalg.norm(embedding, axis=1, keepdims=True))
        os.replace(unfinished, path)
    return np.asarray(np.load(path))
