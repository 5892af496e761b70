"""The clip classifier that ships: the mean of the logits over a clip, without the class prior, and calibrated.

    python -m fervid.training.emotion --data sets/ --cache features/ -o models/emotion8.onnx

A soft-max of (mean logits + offset) / temperature. The offset of each class takes out what the face network answers
too often; it and the temperature are fitted by likelihood, each class and each set alike, on three sets of real faces:
Java-SED actors 01 to 05 (a development set), KERC 2020, whose valence is told by sums of expressions, and validation
stills of RAF-DB. Nine numbers leave little to overfit; figures on the first two are cross-validated by person all the
same, and SFEW is only measured on. Thresholds for few frames are set on the clips of the first two.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
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

from fervid.analysis.baseline import LOGITS, average_people, move_features
from fervid.analysis.early_exit import STRIDES, fit_thresholds
from fervid.analysis.face_model import FaceModel
from fervid.analysis.pooling import to_logits
from fervid.core.records import ClipFeatures, FloatArray
from fervid.learn.model_selection import SEED
from fervid.models import registry
from fervid.training import augment
from fervid.training.card import save_with_card
from fervid.training.clip_sets import DEVELOPMENT, FILMS, STILLS, ClipSet, read_clip_sets
from fervid.training.faces import DatasetPaths, read_expressions
from fervid.training.ferplus import CLASSES

FOLDS = 5
ERROR = 0.01  # share of the clips that an answer from few frames may get wrong
RIDGE = 0.005  # weight of the squared offsets in the loss


@dataclass(frozen=True, slots=True, eq=False)
class LabelledLogits:
    """What the parameters are fitted on.

    Attributes:
        logits: (n, 8) means over clips.
        truth: (n,) indices of classes.
        counts_as: (k, 8) whether an expression counts as a class.
        among: (8,) the expressions that the set has, among which it is asked.
    """

    logits: FloatArray
    truth: NDArray[np.int64]
    counts_as: NDArray[np.bool_]
    among: NDArray[np.bool_]

    def loss(self, offset: NDArray[np.float64], scale: float) -> float:
        """Mean negative log-likelihood, each class that occurs alike."""
        logits = np.where(self.among, (self.logits + offset) * scale, -np.inf)
        shares = log_softmax(logits.astype(np.float64), axis=1)
        with np.errstate(divide="ignore"):
            own = logsumexp(shares[:, None, :], axis=2, b=self.counts_as[self.truth][:, None, :])[:, 0]
        return float(np.mean([-own[self.truth == label].mean() for label in np.unique(self.truth)]))


@dataclass(frozen=True, slots=True, eq=False)
class Parameters:
    """Of the classifier: `softmax((logits + offset) / temperature)`."""

    offset: NDArray[np.float64]
    temperature: float

    def __call__(self, logits: FloatArray) -> FloatArray:
        """Mean logits (n, 8) -> probabilities (n, 8)."""
        return np.asarray(softmax((logits + self.offset) / self.temperature, axis=1), np.float32)

    @classmethod
    def fit(cls, parts: Sequence[LabelledLogits]) -> Parameters:
        """By likelihood, each part alike."""

        def loss(values: NDArray[np.float64]) -> float:
            offset, scale = values[:-1], float(np.exp(values[-1]))
            return sum(part.loss(offset, scale) for part in parts) / len(parts) + RIDGE * float(
                np.square(offset).mean()
            )

        found = minimize(loss, np.zeros(len(CLASSES) + 1), method="L-BFGS-B").x
        return cls(found[:-1] - found[:-1].mean(), float(np.exp(-found[-1])))


def to_labelled_logits(known: ClipSet, rows: NDArray[np.int64] | None = None) -> LabelledLogits:
    """Clips that show a face, or some of them, to fit on."""
    chosen = np.arange(len(known)) if rows is None else rows
    truth = known.truth[: len(known)]
    among = np.asarray(known.counts_as[np.unique(truth)].any(axis=0), bool)
    return LabelledLogits(known.table.statistics[LOGITS][chosen], truth[chosen], known.counts_as, among)


def read_stills(sources: DatasetPaths, cache: Path, network: str) -> LabelledLogits:
    """The validation images of RAF-DB as clips of one frame."""
    model = registry.load_model(network, "network", 2)
    faces = read_expressions(sources, "rafdb", "valid", cache).faces
    size = model.card["input"]["size"]
    scores = FaceModel(model.session, model.card)(np.stack([augment.frame(crop, size) for crop in faces.crops]))
    among = faces.votes.any(axis=0)
    counts_as = np.eye(len(CLASSES), dtype=bool)
    return LabelledLogits(to_logits(scores.expression), faces.votes.argmax(axis=1), counts_as, np.asarray(among))


def cross_validate(known: ClipSet, others: Sequence[LabelledLogits]) -> FloatArray:
    """(n, 8) probabilities of clips by parameters that were fitted on other people of the set, and on other sets."""
    if known.people is None:
        raise ValueError("who is in these clips is not known, so they cannot be parted by person")
    answers = np.zeros((len(known), len(CLASSES)), np.float32)
    people = known.people[: len(known)]
    for train, test in GroupKFold(min(FOLDS, len(np.unique(people)))).split(people, groups=people):
        parameters = Parameters.fit([to_labelled_logits(known, train), *others])
        answers[test] = parameters(known.table.statistics[LOGITS][test])
    return answers


def move_to_usual(known: ClipSet, usual: FloatArray) -> FloatArray:
    """(n, 8) mean logits relative to each person's average over the clips of the set."""
    if known.people is None:
        raise ValueError("who is in these clips is not known")
    logits, people = known.table.statistics[LOGITS], known.people[: len(known)]
    references = average_people({LOGITS: logits}, people)
    card = {"statistics": [LOGITS], "usual_logits": {"person": usual}}
    features = [ClipFeatures({LOGITS: row}, 1) for row in logits]
    return np.stack(
        [
            move_features(part, references.get(int(person)), card, "person").statistics[LOGITS]
            for part, person in zip(features, people, strict=True)
        ]
    )


def usual(known: ClipSet) -> dict[str, list[float]]:
    """What people show on average over classes, and what they show when neutral."""
    logits, truth = known.table.statistics[LOGITS], known.truth[: len(known)]
    means = {label: logits[truth == label].mean(axis=0) for label in np.unique(truth)}
    found = {"person": np.mean(list(means.values()), axis=0), "rest": means[CLASSES.index("neutral")]}
    return {kind: [round(float(value), 4) for value in values] for kind, values in found.items()}


def to_onnx(parameters: Parameters) -> onnx.ModelProto:
    """`features`, the mean logits (n, 8), to `probabilities` (n, 8)."""
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


def set_thresholds(sets: Sequence[ClipSet], parameters: Parameters) -> dict[str, Any]:
    """Thresholds for few frames (Savchenko, ICML 2023), on clips of real people."""
    confidences, right = [], []
    for stride in (*STRIDES, 1):
        sure, true = [], []
        for known in sets:
            rows = known.table.matrix([LOGITS], stride)
            seen = np.asarray(np.isfinite(rows).all(axis=1), bool)
            answers = np.where(seen[:, None], parameters(np.where(seen[:, None], rows, 0)), 0)
            sure.append(np.where(seen, answers.max(axis=1), -np.inf))
            true.append(seen & ((answers @ known.counts_as.T).argmax(axis=1) == known.truth[: len(known)]))
        confidences.append(np.concatenate(sure).astype(np.float32))
        right.append(np.concatenate(true))
    return fit_thresholds(confidences, right, np.concatenate([known.table.counts for known in sets]), ERROR)


def main() -> None:
    """Fit, export, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the data sets")
    parser.add_argument("--network", default=registry.DEFAULTS["network"])
    parser.add_argument("--cache", type=Path, help="where features and crops are kept; default: DATA/cache")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    sources, cache = DatasetPaths(arguments.data), arguments.cache or arguments.data / "cache"
    sets = read_clip_sets(sources, cache / "features", arguments.network)
    acted, scenes = sets[DEVELOPMENT], sets[FILMS]
    stills = read_stills(sources, cache, arguments.network)
    parameters = Parameters.fit([to_labelled_logits(acted), to_labelled_logits(scenes), stills])
    typical = usual(acted)
    moved = move_to_usual(acted, np.array(typical["person"], np.float32))
    card: dict[str, Any] = {
        "name": arguments.output.stem,
        "kind": "classifier",
        "title": "Emotion of a clip in eight classes: mean logits, calibrated on real clips",
        "labels": list(CLASSES),
        "statistics": [LOGITS],
        "usual_logits": typical,
        "adaptive": set_thresholds([acted, scenes], parameters),
        "face": "main",
        **{key: acted.table.about[key] for key in ("network", "network_sha256")},
        "data": "Java-SED actors 01 to 05 (120 clips), KERC 2020 (valence), RAF-DB (a tenth of its training images)",
        "licence": "fitted on KERC 2020 and RAF-DB, which are for non-commercial research only",
        "recipe": "eight offsets and a temperature by likelihood, classes and sets alike",
        "seed": SEED,
        "source": "python -m fervid.training.emotion",
        "figures": {
            f"{DEVELOPMENT}, cross-validated by person": acted.report(
                cross_validate(acted, [to_labelled_logits(scenes), stills])
            ),
            f"{DEVELOPMENT}, the same clips that it was fitted on, --baseline person": acted.report(parameters(moved)),
            f"{FILMS}, cross-validated by person": scenes.report(
                cross_validate(scenes, [to_labelled_logits(acted), stills])
            ),
            STILLS: sets[STILLS].report(parameters(sets[STILLS].table.statistics[LOGITS])),
            **{f"{name}, probabilities averaged": _averaged(known) for name, known in sets.items()},
        },
        "limits": "Acted speech of five people and film scenes; spontaneous expressions of people in everyday life were"
        " not measured. Contempt occurs in neither set of clips.",
    }
    save_with_card(to_onnx(parameters), card, arguments.output)
    print(f"offset {np.round(parameters.offset, 2).tolist()}, temperature {parameters.temperature:.2f}")
    print(json.dumps(card["figures"], indent=2))


def _averaged(known: ClipSet) -> Mapping[str, Any]:
    return known.report(known.table.statistics["expression.mean"])


if __name__ == "__main__":
    main()
