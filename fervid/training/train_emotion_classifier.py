"""Train the shipped emotion classifier `emotion8`: calibrated mean logits of a clip.

    python -m fervid.training.train_emotion_classifier --data sets/ --cache features/ -o models/emotion8.onnx

Softmax of (mean logits + offset) / temperature. The offsets remove the class prior of the face network. Offsets and
temperature are fitted by maximum likelihood, with classes and sets weighted equally, on three sets of real faces:
Java-SED actors 01 to 05 (a development set), KERC 2020, whose valence classes are sums of expressions, and validation
images of RAF-DB. Figures on the first two are cross-validated by person, although nine parameters can hardly overfit;
SFEW is used for evaluation only. Early-exit thresholds are fitted on the clips of the first two.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp, softmax
from sklearn.model_selection import GroupKFold

from fervid.analysis.baseline import LOGITS, average_people, shift_features
from fervid.analysis.early_exit import STRIDES, fit_thresholds
from fervid.analysis.pooling import to_logits
from fervid.core.records import ClipFeatures, FloatArray
from fervid.learn.figures import list_figures
from fervid.learn.metrics import SEED
from fervid.models import registry
from fervid.training.clip_sets import DEVELOPMENT, KERC, SFEW, SPLITS, ClipSet, read_clip_sets
from fervid.training.dataset_paths import DatasetPaths
from fervid.training.expression_evaluation import run_on_crops
from fervid.training.faces import read_expressions
from fervid.training.ferplus import CLASSES
from fervid.training.model_card import save_with_card

FOLDS = 5
EARLY_EXIT_ERROR = 0.01  # allowed fraction of clips that an early exit gets wrong
RIDGE = 0.005  # weight of the squared offsets in the loss


@dataclass(frozen=True, slots=True, eq=False)
class LabelledLogits:
    """Clips to fit the parameters on.

    Attributes:
        logits: (n, 8) mean logits of the clips.
        truth: (n,) indices of the k classes.
        counts_as: (k, 8) whether an expression counts as a class.
        among: (8,) whether the set has an expression; others are excluded from the softmax.
    """

    logits: FloatArray
    truth: NDArray[np.int64]
    counts_as: NDArray[np.bool_]
    among: NDArray[np.bool_]

    def loss(self, offset: NDArray[np.float64], scale: float) -> float:
        """Compute the negative log-likelihood, averaged over the classes that occur."""
        logits = np.where(self.among, (self.logits + offset) * scale, -np.inf)
        log_probabilities = log_softmax(logits.astype(np.float64), axis=1)
        with np.errstate(divide="ignore"):
            likelihood = logsumexp(log_probabilities[:, None, :], axis=2, b=self.counts_as[self.truth][:, None, :])[
                :, 0
            ]
        return float(np.mean([-likelihood[self.truth == label].mean() for label in np.unique(self.truth)]))


@dataclass(frozen=True, slots=True, eq=False)
class Parameters:
    """The parameters of `softmax((logits + offset) / temperature)`."""

    offset: NDArray[np.float64]
    temperature: float

    def __call__(self, logits: FloatArray) -> FloatArray:
        """Compute probabilities (n, 8) from mean logits (n, 8)."""
        return np.asarray(softmax((logits + self.offset) / self.temperature, axis=1), np.float32)

    @classmethod
    def fit(cls, parts: Sequence[LabelledLogits]) -> Parameters:
        """Fit by maximum likelihood, with all parts weighted equally."""

        def loss(values: NDArray[np.float64]) -> float:
            offset, scale = values[:-1], float(np.exp(values[-1]))
            return sum(part.loss(offset, scale) for part in parts) / len(parts) + RIDGE * float(
                np.square(offset).mean()
            )

        values = minimize(loss, np.zeros(len(CLASSES) + 1), method="L-BFGS-B").x
        return cls(values[:-1] - values[:-1].mean(), float(np.exp(-values[-1])))


def to_labelled_logits(clips: ClipSet, rows: NDArray[np.int64] | None = None) -> LabelledLogits:
    """Select the mean logits of clips with a face: the given rows, or all."""
    chosen = np.arange(len(clips)) if rows is None else rows
    truth = clips.truth[: len(clips)]
    among = np.asarray(clips.counts_as[np.unique(truth)].any(axis=0), bool)
    return LabelledLogits(clips.table.statistics[LOGITS][chosen], truth[chosen], clips.counts_as, among)


def read_rafdb_logits(sources: DatasetPaths, cache: Path, network: str) -> LabelledLogits:
    """Run the network on the validation images of RAF-DB, each as a clip of one frame."""
    model = registry.load_model(network, "face_model", 2)
    part = read_expressions(sources, "rafdb", "valid", cache)
    logits = to_logits(run_on_crops(model, part.faces.crops).expression)
    return LabelledLogits(logits, part.faces.votes.argmax(axis=1), np.eye(len(CLASSES), dtype=bool), part.has)


def cross_validate(clips: ClipSet, other_sets: Sequence[LabelledLogits]) -> FloatArray:
    """Compute cross-validated probabilities (n, 8); each fold is fitted on other people and on the other sets."""
    if clips.people is None:
        raise ValueError("these clips have no person labels, so they cannot be split by person")
    predicted = np.zeros((len(clips), len(CLASSES)), np.float32)
    people = clips.people[: len(clips)]
    for train, test in GroupKFold(min(FOLDS, len(np.unique(people)))).split(people, groups=people):
        parameters = Parameters.fit([to_labelled_logits(clips, train), *other_sets])
        predicted[test] = parameters(clips.table.statistics[LOGITS][test])
    return predicted


def subtract_baseline(clips: ClipSet, usual: FloatArray) -> FloatArray:
    """Compute mean logits (n, 8) relative to each person's average over the set, as `--baseline person` does."""
    if clips.people is None:
        raise ValueError("these clips have no person labels")
    logits, people = clips.table.statistics[LOGITS], clips.people[: len(clips)]
    references = average_people({LOGITS: logits}, people)
    card = {"statistics": [LOGITS], "average_logits": {"person": usual}}
    features = [ClipFeatures({LOGITS: row}, 1) for row in logits]
    return np.stack(
        [
            shift_features(part, references.get(int(person)), card, "person").statistics[LOGITS]
            for part, person in zip(features, people, strict=True)
        ]
    )


def average_logits(clips: ClipSet) -> dict[str, list[float]]:
    """Compute the mean logits over all classes ("person") and over neutral clips ("rest")."""
    logits, truth = clips.table.statistics[LOGITS], clips.truth[: len(clips)]
    means = {label: logits[truth == label].mean(axis=0) for label in np.unique(truth)}
    result = {"person": np.mean(list(means.values()), axis=0), "rest": means[CLASSES.index("neutral")]}
    return {kind: [round(float(value), 4) for value in values] for kind, values in result.items()}


def to_onnx(parameters: Parameters) -> onnx.ModelProto:
    """Build the ONNX model from `features`, the mean logits (n, 8), to `probabilities` (n, 8)."""
    count = len(CLASSES)
    features, probabilities = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", count]) for name in ("features", "probabilities")
    )
    constants = {"offset": parameters.offset, "temperature": np.array([parameters.temperature])}
    nodes = [
        helper.make_node("Add", ["features", "offset"], ["balanced"]),
        helper.make_node("Div", ["balanced", "temperature"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    initializers = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "emotion", [features], [probabilities], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def fit_early_exit(sets: Sequence[ClipSet], parameters: Parameters) -> dict[str, Any]:
    """Fit the early-exit thresholds (Savchenko, ICML 2023) on clips of real people."""
    confidences, correct = [], []
    for stride in (*STRIDES, 1):
        maxima, matches = [], []
        for clips in sets:
            rows = clips.table.matrix([LOGITS], stride)
            finite = np.asarray(np.isfinite(rows).all(axis=1), bool)
            predicted = np.where(finite[:, None], parameters(np.where(finite[:, None], rows, 0)), 0)
            maxima.append(np.where(finite, predicted.max(axis=1), -np.inf))
            matches.append(finite & ((predicted @ clips.counts_as.T).argmax(axis=1) == clips.truth[: len(clips)]))
        confidences.append(np.concatenate(maxima).astype(np.float32))
        correct.append(np.concatenate(matches))
    return fit_thresholds(
        confidences, correct, np.concatenate([clips.table.counts for clips in sets]), EARLY_EXIT_ERROR
    )


def main() -> None:
    """Fit, export and report the classifier."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the data sets")
    parser.add_argument("--face-model", default=registry.DEFAULTS["face_model"])
    parser.add_argument("--cache", type=Path, help="folder for features and crops; default: DATA/cache")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    sources, cache = DatasetPaths(arguments.data), arguments.cache or arguments.data / "cache"
    sets = read_clip_sets(sources, cache / "features", arguments.face_model)
    acted, scenes = sets[DEVELOPMENT], sets[KERC]
    stills = read_rafdb_logits(sources, cache, arguments.face_model)
    parameters = Parameters.fit([to_labelled_logits(acted), to_labelled_logits(scenes), stills])
    typical = average_logits(acted)
    moved = subtract_baseline(acted, np.array(typical["person"], np.float32))
    scores = [
        (DEVELOPMENT, "cross-validated by person", cross_validate(acted, [to_labelled_logits(scenes), stills])),
        (DEVELOPMENT, "baseline person, on the training clips", parameters(moved)),
        (KERC, "cross-validated by person", cross_validate(scenes, [to_labelled_logits(acted), stills])),
        (SFEW, "not trained on", parameters(sets[SFEW].table.statistics[LOGITS])),
        *(
            (name, "mean of the probabilities", clips.table.statistics["expression.mean"])
            for name, clips in sets.items()
        ),
    ]
    figures = [
        figure
        for name, protocol, probabilities in scores
        for figure in list_figures(sets[name].evaluate(probabilities), name, SPLITS[name], protocol)
    ]
    card: dict[str, Any] = {
        "name": arguments.output.stem,
        "kind": "classifier",
        "title": "Emotion of a clip in eight classes: mean logits, calibrated on real clips",
        "labels": list(CLASSES),
        "statistics": [LOGITS],
        "average_logits": typical,
        "early_exit": fit_early_exit([acted, scenes], parameters),
        "face": "main",
        **{key: acted.table.provenance[key] for key in ("face_model", "face_model_sha256")},
        "data": "Java-SED actors 01 to 05 (120 clips), KERC 2020 (valence), RAF-DB (a tenth of its training images)",
        "license": "fitted on KERC 2020 and RAF-DB, which are for non-commercial research only",
        "recipe": "eight offsets and a temperature by likelihood, classes and sets alike",
        "seed": SEED,
        "source": "python -m fervid.training.train_emotion_classifier",
        "figures": [figure.as_dict() for figure in figures],
        "limitations": "Acted speech of five people and film scenes; spontaneous expressions of people in everyday life"
        " were not measured. Contempt occurs in neither set of clips.",
    }
    save_with_card(to_onnx(parameters), card, arguments.output)
    print(f"offset {np.round(parameters.offset, 2).tolist()}, temperature {parameters.temperature:.2f}")
    print(json.dumps(card["figures"], indent=2))


if __name__ == "__main__":
    main()
