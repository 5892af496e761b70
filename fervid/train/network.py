"""Trains the expression head of the face network on the frozen embedding, and exports the whole as one ONNX file.

    python -m fervid.train.network --weights faceres.json --ferplus DATA -o models/mobilenetv1.onnx

The backbone and the heads for age and gender are the published ones (see `fervid.train.mobilenet`); only the expression
head is fitted here: multinomial logistic regression on the votes of FER+, on crops cut by `fervid.align` around
the faces of the ordinary detector, once as they are and once as a video would show them (`fervid.train.degrade`). The
logits are adjusted by the class prior (Menon et al., arXiv 2007.07314) so that the rare classes are answered; how much,
and the weight decay, are chosen on the validation split. The test split is looked at once, at the end.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch.nn import functional

from fervid import models
from fervid.align import MARGIN, crop
from fervid.network import BATCH, FaceNetwork
from fervid.records import Floats
from fervid.train import degrade, mobilenet
from fervid.train.card import save_with_card
from fervid.train.ferplus import CLASSES, FerPlus, read_split, stills_detector
from fervid.train.measure import SEED, Rows, recall, report

SIZE = 224
DECAYS = (1e-4, 1e-3, 1e-2)
ADJUSTMENTS = (0.0, 0.25, 0.5, 0.75)

CARD: Mapping[str, Any] = {
    "name": "mobilenetv1",
    "kind": "network",
    "title": "MobileNetV1 multi-task face network: identity embedding, expression, age, gender",
    "input": {
        "size": SIZE,
        "colour": "BGR",
        "mean": [103.939, 116.779, 123.68],
        "scale": [1.0, 1.0, 1.0],
        "layout": "NCHW",
        "dtype": "float32",
    },
    "margin": MARGIN,
    "aligned": "eyes level",
    "embedding": mobilenet.EMBEDDING,
    "expressions": list(CLASSES),
    "genders": {"male": 0.6, "female": 0.0},
    "first_age": 1,
    "same_person": {"same_face": 0.45, "same_person": 0.62},
    "data": {
        "backbone, age, gender": "VGGFace2 and age/gender collections, by the authors of HSE_FaceRec_tf",
        "expression": "FER+ (pictures of FER2013, votes of microsoft/FERPlus), training split",
    },
    "licence": "backbone Apache-2.0 (HSE_FaceRec_tf, from npm @vladmandic/human 3.3.6); expression head fitted on"
    " FER2013 pictures, which are for research use only",
    "source": "python -m fervid.train.network",
    "seed": SEED,
}


def export(network: mobilenet.FaceNetwork, card: Mapping[str, Any], path: Path) -> str:
    """Write the network as ONNX with named outputs and a dynamic batch, compared with torch at several batch sizes.

    Returns:
        The SHA-256 of the file.

    Raises:
        ValueError: The file and the torch network differ by more than 1e-4.
    """
    network.eval()
    size = card["input"]["size"]
    names = ["embedding", "expression", "age", "gender"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (torch.zeros(2, 3, size, size),),
            input_names=["crops"],
            output_names=names,
            dynamic_shapes=({0: torch.export.Dim("n")},),
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch gave no ONNX program")
    model: onnx.ModelProto = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    sha256 = save_with_card(model, card, path)
    session = models.load(str(path), "network").session
    for batch in (1, 2, BATCH + 1):
        pictures = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(batch)) * 60
        with torch.no_grad():
            expected = network(pictures)
        for name, ours, theirs in zip(names, session.run(names, {"crops": pictures.numpy()}), expected, strict=True):
            difference = float(np.abs(ours - theirs.numpy()).max())
            if difference > 1e-4:
                raise ValueError(f"{path}: {name} differs from torch by {difference:.1e} at batch {batch}")
            print(f"batch {batch:2d} {name}: largest difference from torch {difference:.1e}")
    return sha256


def embed(network: FaceNetwork, split: FerPlus, rng: np.random.Generator | None = None) -> Floats:
    """Embeddings (n, d) of the faces of a split; of a degraded view of each if `rng` is given."""
    rows = []
    for start in range(0, len(split.images), BATCH):
        pairs = zip(split.images[start : start + BATCH], split.faces[start : start + BATCH], strict=True)
        views = [degrade.still(image, face, rng) if rng else (image, face) for image, face in pairs]
        rows.append(network(np.stack([crop(image, face, SIZE) for image, face in views])).embedding)
    return np.concatenate(rows)


def fit_head(
    embedding: Floats, votes: Floats, decay: float, adjustment: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight (c, d) and bias (c,) of multinomial logistic regression on soft labels.

    Embeddings are standardised; the standardisation is folded into what is returned.

    Args:
        embedding: (n, d).
        votes: (n, c) shares.
        decay: Squared penalty of the weights on standardised embeddings.
        adjustment: How much of the logarithm of the class prior the answers are freed from, 0 to 1.
    """
    mean, std = embedding.mean(axis=0), embedding.std(axis=0) + 1e-3
    x, y = torch.from_numpy((embedding - mean) / std), torch.from_numpy(votes)
    prior = torch.log(y.mean(0))
    weight = torch.zeros(y.shape[1], x.shape[1], requires_grad=True)
    bias = torch.zeros(y.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        logits = x @ weight.T + bias + adjustment * prior
        loss = functional.cross_entropy(logits, y) + decay * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)
    folded = weight.detach().numpy() / std
    return folded, bias.detach().numpy() - folded @ mean


def figures(scores: Floats, split: FerPlus) -> dict[str, Any]:
    """Accuracy on all images and on those with a majority, and mean recall, with intervals; recall of each class."""
    answers, labels, majority = scores.argmax(axis=1), split.labels, split.majority

    def measure(rows: Rows) -> dict[str, float]:
        right = answers[rows] == labels[rows]
        return {
            "accuracy_all": right.mean(),
            "accuracy_majority": right[majority[rows]].mean(),
            "mean_recall": recall(answers[rows], labels[rows]).mean(),
        }

    each = zip(np.unique(labels), recall(answers, labels), strict=True)
    return {
        **report(len(labels), measure),
        "recall": {CLASSES[c]: round(float(share), 4) for c, share in each},
        "images": len(labels),
        "faces_found": round(float(split.found.mean()), 4),
    }


def main() -> None:
    """Train, export and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="faceres.json of npm @vladmandic/human 3.3.6")
    parser.add_argument("--ferplus", type=Path, required=True, help="folder with fer2013new.csv and data/")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()

    torch.manual_seed(SEED)
    threads = torch.get_num_threads()
    face_network = mobilenet.FaceNetwork(len(CLASSES))
    mobilenet.load_faceres(face_network, mobilenet.read_tensorflowjs(arguments.weights))
    difference = mobilenet.reference_difference(face_network, arguments.weights)
    print(f"largest difference from the published graph: {difference:.1e}")
    if difference > 1e-4:
        raise SystemExit("the weights were read wrongly")
    export(face_network, CARD, arguments.output)

    detector = stills_detector()
    loaded = models.load(str(arguments.output), "network", threads)
    network = FaceNetwork(loaded.session, loaded.card)
    splits = {name: read_split(arguments.ferplus, name, detector) for name in ("Training", "PublicTest", "PrivateTest")}
    train, valid, test = splits.values()
    embeddings = {name: embed(network, split) for name, split in splits.items()}
    degraded = embed(network, train, np.random.default_rng(SEED))
    x, y = np.concatenate([embeddings["Training"], degraded]), np.concatenate([train.votes, train.votes])

    def answer(head: tuple[Floats, Floats], name: str) -> Floats:
        return np.asarray(embeddings[name] @ head[0].T + head[1])

    tried = {}
    for decay in DECAYS:
        for adjustment in ADJUSTMENTS:
            head = fit_head(x, y, decay, adjustment)
            found = figures(answer(head, "PublicTest"), valid)
            score = found["accuracy_all"]["value"] + found["mean_recall"]["value"]
            tried[decay, adjustment] = (score, head, found)
            print(f"decay {decay} adjustment {adjustment}: {json.dumps(found)}", flush=True)
    (decay, adjustment), (_, head, validated) = max(tried.items(), key=lambda item: item[1][0])

    with torch.no_grad():
        face_network.expression.weight.copy_(torch.from_numpy(head[0]))
        face_network.expression.bias.copy_(torch.from_numpy(head[1]))
    card = {
        **CARD,
        "recipe": f"frozen embedding; logistic regression on {len(x)} views of {len(train.images)} faces,"
        f" weight decay {decay}, prior adjustment {adjustment}",
        "figures": {
            "FER+ PublicTest (chosen on it)": validated,
            "FER+ PrivateTest": figures(answer(head, "PrivateTest"), test),
            "largest difference from the published graph": float(f"{difference:.1e}"),
        },
    }
    export(face_network, card, arguments.output)
    print(json.dumps(card["figures"], indent=2))


if __name__ == "__main__":
    main()
