"""The clip classifier that ships: an SVM on clips that are simulated from FER+ stills.

    python -m fervid.train.clips --ferplus DATA --kerc DATA -o models/emotion8.onnx

There is no labelled video to fit on, so a clip is made of a still (`fervid.train.degrade.clip`): some frames of the
face under smoothly varying crop, scale, roll, light, blur and compression. What a still cannot show, the onset of an
expression from a neutral face, is simulated in the embedding: the first frames are moved along the line from the
class's mean embedding to that of neutral. The clips then take the ordinary way: statistics over the frames, L2
normalisation and a linear SVM (arXiv 2103.17107, section 4.2); statistics and C are chosen by cross-validation on clips
of the training split in which all clips of one still stay together. Thresholds for few frames are set on clips of the
public test stills, which neither network nor classifier has learned from; test clips come from the private ones and are
used once. Clips of films, of which only valence is known, are not fitted on, only measured by.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from sklearn.pipeline import Pipeline

from fervid import models
from fervid.adaptive import STRIDES, fitted, levels, saved
from fervid.align import crop
from fervid.classify import ClipClassifier
from fervid.evaluate import Predictions, evaluate
from fervid.fit import FOLDS, SEED, Examples, answers, candidates, fit, statistics_of, to_onnx
from fervid.fit import choose as choose_way
from fervid.network import FaceNetwork
from fervid.pool import FeaturePool
from fervid.records import ClipFeatures, FaceScores, Floats
from fervid.study import Study
from fervid.train import degrade, films
from fervid.train.card import save_with_card
from fervid.train.ferplus import CLASSES, FerPlus, read_split, stills_detector

FRAMES = 24
STILLS = 0.2  # share of the training clips that are one frame long, because pictures are classified too
ERROR = 0.01  # share of the clips that an answer from few frames may get wrong
WAYS = candidates(("mean", "mean+std", "mean+std+max", "mean+std+min+max"), ("linear",))


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedClips:
    """n clips: their features by stride, labels (n,) and the still (n,) that each was made from."""

    features: Mapping[int, list[ClipFeatures]]
    labels: NDArray[np.int64]
    stills: NDArray[np.int64]

    def matrix(self, statistics: Sequence[str], stride: int = 1) -> Floats:
        """(n, d) the named statistics of every clip."""
        return np.stack([features.vector(statistics) for features in self.features[stride]])

    def examples(self) -> Examples:
        """To fit on; the clips of a still stay together."""
        matrices = {way.statistics: self.matrix(statistics_of(way.statistics)) for way in WAYS}
        return Examples(matrices, self.labels, self.stills, SEED)


@dataclass(frozen=True, slots=True, eq=False)
class Onset:
    """Moves embeddings towards neutral, and the expression probabilities with them.

    Attributes:
        means: (c, d) mean embedding of each class.
        weight: (c, d) of the network's expression head.
    """

    means: Floats
    weight: Floats

    def __call__(self, scores: FaceScores, label: int, rng: np.random.Generator) -> FaceScores:
        """The frames of a clip, the first of them partly neutral; the expression is reached at a random time."""
        time = np.linspace(0, 1, len(scores))
        shown = 1 / (1 + np.exp(-(time - rng.uniform(0, 0.5)) * rng.uniform(8, 30)))
        lacking = (rng.uniform(0, 1) * (1 - shown))[:, None]
        neutral = self.means[CLASSES.index("neutral")]
        embedding = np.clip(scores.embedding + lacking * (neutral - self.means[label]), 0, None).astype(np.float32)
        logits = np.log(scores.expression + 1e-9) + (embedding - scores.embedding) @ self.weight.T
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        expression = odds / odds.sum(axis=1, keepdims=True)
        return replace(scores, embedding=embedding, expression=expression)


def choose(split: FerPlus, cap: int, repeat: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Stills to make clips of: up to `cap` a class among those with a majority, rare ones up to `repeat` times."""
    chosen = []
    for label in range(len(CLASSES)):
        stills = rng.permutation(np.flatnonzero(split.majority & (split.labels == label)))
        chosen.append(np.tile(stills, repeat)[:cap])
    return np.concatenate(chosen)


def simulate(
    split: FerPlus,
    stills: NDArray[np.int64],
    network: FaceNetwork,
    onset: Onset,
    rng: np.random.Generator,
    one_frame: float = 0.0,
) -> SimulatedClips:
    """Make one clip of each still and pool it; a share `one_frame` of them is one frame long, without an onset."""
    pooled: dict[int, list[ClipFeatures]] = {stride: [] for stride in (1, *STRIDES)}
    size = network.card["input"]["size"]
    for still in stills:
        moving = rng.random() >= one_frame
        views = degrade.clip(split.images[still], split.faces[still], FRAMES if moving else 1, rng)
        scores = network(np.stack([crop(image, face, size) for image, face in views]))
        if moving:
            scores = onset(scores, int(split.labels[still]), rng)
        for stride, found in pooled.items():
            pool = FeaturePool()
            pool.update(scores[::stride])
            found.append(pool.features())
    return SimulatedClips(pooled, split.labels[stills], stills)


def by_rate(
    pipeline: Pipeline, statistics: Sequence[str], clips: SimulatedClips
) -> tuple[list[Floats], list[NDArray[np.bool_]], NDArray[np.int64]]:
    """At each of `STRIDES` and at the full rate: how sure answers are, and which are right; and how long clips are."""
    said = [pipeline.predict_proba(clips.matrix(statistics, stride)) for stride in (*STRIDES, 1)]
    confidences = [rows.max(axis=1).astype(np.float32) for rows in said]
    right = [rows.argmax(axis=1) == clips.labels for rows in said]
    return confidences, right, np.array([features.count for features in clips.features[1]])


def figures(said: Floats, clips: SimulatedClips) -> dict[str, Any]:
    """Accuracy, mean recall and recall by (n, 8) probabilities, with intervals by bootstrap over stills."""
    return _brief(evaluate(Predictions(CLASSES, clips.labels, said, clips.stills)))


def on_films(pipeline: Pipeline, statistics: Sequence[str], real: Study) -> dict[str, Any]:
    """The same of real clips whose valence is known, with intervals by bootstrap over people."""
    meant = "happiness as positive, neutral and surprise as neutral, the rest as negative"
    found = {}
    for name, part in (("validation part", real.part(("val",))), ("both parts", real)):
        said = answers(pipeline, part.table.matrix(statistics), part.truth)
        found[f"{len(said)} film clips of KERC 2020, {name}, {meant}"] = _brief(films.as_valence(part, said, CLASSES))
    return found


def _brief(report: Mapping[str, Any]) -> dict[str, Any]:
    """Of clips with a face."""
    return {name: report["answered"][name] for name in ("accuracy", "uar", "recall")}


def main() -> None:
    """Simulate, choose, fit, export, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ferplus", type=Path, required=True, help="folder with fer2013new.csv and data/")
    parser.add_argument("--network", default=models.DEFAULTS["network"])
    parser.add_argument("--clips", type=int, default=600, help="training clips a class, at most")
    parser.add_argument("--kerc", type=Path, help="folder of KERC 2020, to be measured on too")
    parser.add_argument("--cache", type=Path, help="where to keep the features of its clips")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()

    real = films.read(arguments.kerc, arguments.cache, arguments.network) if arguments.kerc else None
    detector = stills_detector()
    loaded = models.load(arguments.network, "network", 2)
    network = FaceNetwork(loaded.session, loaded.card)
    train = read_split(arguments.ferplus, "Training", detector)
    test = read_split(arguments.ferplus, "PrivateTest", detector)
    rng = np.random.default_rng(SEED)
    size = loaded.card["input"]["size"]
    stills = choose(train, arguments.clips, 2, rng)
    means = np.stack(
        [
            network(
                np.stack([crop(train.images[i], train.faces[i], size) for i in stills[train.labels[stills] == c][:300]])
            ).embedding.mean(axis=0)
            for c in range(len(CLASSES))
        ]
    )
    onset = Onset(means, _expression_weight(loaded.path))
    fitted_on = simulate(train, stills, network, onset, rng, STILLS)
    tested_on = simulate(test, choose(test, arguments.clips // 4, 3, rng), network, onset, rng)
    valid = read_split(arguments.ferplus, "PublicTest", detector)
    set_on = simulate(valid, choose(valid, arguments.clips // 4, 3, rng), network, onset, rng)

    way, tried = choose_way(fitted_on.examples(), WAYS)
    for one, uar in tried.items():
        print(f"{one}: cross-validated UAR {uar:.4f}", flush=True)
    pipeline = fit(way, fitted_on.examples())
    statistics = statistics_of(way.statistics)
    x = tested_on.matrix(statistics)
    adaptive = fitted(*by_rate(pipeline, statistics, set_on), ERROR)
    card: dict[str, Any] = {
        "name": "emotion8",
        "kind": "classifier",
        "title": "Emotion of a clip in eight classes: linear SVM on pooled embeddings",
        "labels": list(CLASSES),
        "statistics": list(statistics),
        "adaptive": adaptive,
        "face": "main",
        "network": loaded.identity.name,
        "network_sha256": loaded.card.get("quantised_from", loaded.identity.sha256),
        "data": "clips SIMULATED from FER+ stills (training split), not real video",
        "licence": "fitted on FER2013 pictures, which are for research use only",
        "recipe": f"{len(fitted_on.labels)} clips of {FRAMES} frames, {STILLS:.0%} of them one frame; {way}, of"
        f" {len(WAYS)} candidates by {FOLDS}-fold cross-validation grouped by still; all classes weigh the same",
        "seed": SEED,
        "source": "python -m fervid.train.clips",
        "figures": {
            "cross-validated UAR, simulated clips of the training split": round(tried[way], 4),
            f"{len(x)} simulated clips of PrivateTest stills": figures(pipeline.predict_proba(x), tested_on),
            "the same clips by plain averaging of expression probabilities": figures(
                tested_on.matrix(["expression.mean"]), tested_on
            ),
            "the same clips with --adaptive": saved(
                levels({"adaptive": adaptive}), *by_rate(pipeline, statistics, tested_on)
            ),
            **(on_films(pipeline, statistics, real) if real else {}),
        },
        "limits": "It was fitted on no real video. It knows faces of photographs from the web, mostly posed. Contempt"
        " and disgust rest on about a hundred stills each.",
    }
    save_with_card(to_onnx(pipeline, x.shape[1]), card, arguments.output)
    exported = models.load(str(arguments.output), "classifier")
    classifier = ClipClassifier(exported.session, exported.card)
    ours = np.array([list(classifier(features).probabilities.values()) for features in tested_on.features[1]])
    print(f"largest difference of ONNX from scikit-learn: {np.abs(ours - pipeline.predict_proba(x)).max():.1e}")
    print(json.dumps(card["figures"], indent=2))


def _expression_weight(path: Path) -> Floats:
    """The (c, d) weight of the linear layer that gives the expression logits."""
    tensors = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in onnx.load(path, load_external_data=False).graph.initializer
    }
    (name,) = (name for name in tensors if name.endswith(("expression.weight", "expression.weight_quantized")))
    weight = tensors[name].astype(np.float32)
    if name.endswith("_quantized"):
        scale = tensors[name.removesuffix("quantized") + "scale"]
        weight *= scale.reshape(-1, 1) if len(scale.ravel()) in (1, len(weight)) else scale
    return weight


if __name__ == "__main__":
    main()
