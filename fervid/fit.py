"""Features of labelled clips -> a clip classifier or regressor as one ONNX file with its card.

Statistics, kind and hyper-parameters are chosen by cross-validation in which all clips of a person stay together; how
good the choice is, is measured by a second cross-validation around the first (nested; Varma and Simon, BMC
Bioinformatics 7, 2006). Pooled statistics with an SVM are the pipelines of AFEW and VGAF (arXiv 2103.17107, sections
4.2 and 4.3). Truth is (n,) int64 class numbers, or (n,) float64 ratings, on which a regression is fitted.
"""

from __future__ import annotations

import itertools
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import joblib
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import AgglomerativeClustering
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC, LinearSVR
from sklearn.utils.class_weight import compute_sample_weight

from fervid.errors import DatasetError, UsageError
from fervid.evaluate import concordance
from fervid.pool import STATISTICS
from fervid.records import Floats

SEED = 2021
FOLDS = 5
Kind = Literal["linear", "rbf", "mlp", "logistic"]
Scaling = Literal["l2", "standard"]
Truth = NDArray[np.int64] | NDArray[np.float64]
Groups = NDArray[np.int64] | None
Folds = Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]

COMPARED = (
    *("expression", "expression+std+max", "expression+std+min+max"),
    *("mean", "mean+std", "mean+std+max", "mean+std+min+max", "group"),
)
"""What is tried where nobody says which."""
VECTORS = ("embedding", "expression", "logit", "embedding.spread", "expression.spread", "logit.spread")
GROUP = ("embedding.mean", "embedding.std", "embedding.spread.mean", "embedding.spread.std")
COSTS: Mapping[Kind, tuple[float, ...]] = {
    "linear": (0.1, 0.3, 1.0, 3.0),
    "rbf": (0.3, 1.0, 3.0, 10.0),
    "mlp": (1e-3, 1e-1),
    "logistic": (0.3, 1.0, 3.0, 10.0),
}
"""C of SVMs and logistic regression, whose ridge for ratings has 1 / C; the weight decay of the MLP."""

Maker = Callable[[float, int], BaseEstimator]


def _mlp(network: Callable[..., BaseEstimator], decay: float, seed: int) -> BaseEstimator:
    return network(hidden_layer_sizes=(128,), alpha=decay, early_stopping=True, max_iter=300, random_state=seed)


CLASSIFIERS: Mapping[Kind, Maker] = {
    "linear": lambda c, seed: LinearSVC(C=c, random_state=seed, max_iter=5000),
    "rbf": lambda c, seed: SVC(C=c, random_state=seed),
    "mlp": lambda c, seed: _mlp(MLPClassifier, c, seed),
    "logistic": lambda c, seed: LogisticRegression(C=c, max_iter=2000, random_state=seed),
}
REGRESSORS: Mapping[Kind, Maker] = {
    "linear": lambda c, seed: LinearSVR(C=c, random_state=seed, max_iter=20000),
    "rbf": lambda c, _: SVR(C=c),
    "mlp": lambda c, seed: _mlp(MLPRegressor, c, seed),
    "logistic": lambda c, _: Ridge(alpha=1 / c),
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to classify.

    Attributes:
        statistics: As `statistics_of` reads them.
        kind: Of classifier.
        cost: C, or the weight decay of the MLP.
        scaling: Clips of unit length (`l2`), or values of mean 0 and deviation 1 (`standard`); None for what suits the
            kind: unit length as in the paper, but for the MLP values.
    """

    statistics: str
    kind: Kind
    cost: float
    scaling: Scaling | None = None

    def __str__(self) -> str:
        return f"{self.kind} ({self.cost:g}) on {self.statistics}{f', {self.scaling}' if self.scaling else ''}"

    def estimator(self, truth: Truth, seed: int) -> tuple[BaseEstimator, BaseEstimator]:
        """Scaler and classifier, or regressor if `truth` is ratings."""
        scaling = self.scaling or ("standard" if self.kind == "mlp" else "l2")
        scaler = StandardScaler() if scaling == "standard" else Normalizer()
        makers = REGRESSORS if rated(truth) else CLASSIFIERS
        return scaler, makers[self.kind](self.cost, seed)


def statistics_of(name: str) -> tuple[str, ...]:
    """`mean+std+expression+max` -> the names under which those statistics are pooled.

    Each is of the vector that was named last, at first of the embedding: that maximum is of the probabilities, as in
    `expression.max`. A vector alone stands for its mean, and `group` for the statistics of the method for VGAF.

    Raises:
        UsageError: There is no such statistic.
    """
    found, vector = [], "embedding"
    for part in itertools.chain.from_iterable(GROUP if part == "group" else (part,) for part in name.split("+")):
        named, _, kind = (f"{part}.mean" if part in VECTORS else part).rpartition(".")
        vector = named or vector
        if vector not in VECTORS or kind not in STATISTICS:
            raise UsageError(
                f"there is no statistic {part!r}; join {', '.join(STATISTICS)} of {', '.join(VECTORS)} by +,"
                " as in mean+std+expression.max, or name group"
            )
        found.append(f"{vector}.{kind}")
    return tuple(dict.fromkeys(found))


def candidates(
    statistics: Sequence[str], kinds: Sequence[Kind], scalings: Sequence[Scaling] | None = None
) -> list[Candidate]:
    """All combinations of statistics, kinds, scalings and costs."""
    return [
        Candidate(name, kind, cost, scaling)
        for name, kind, scaling in itertools.product(statistics, kinds, scalings or (None,))
        for cost in COSTS[kind]
    ]


def rated(truth: Truth) -> bool:
    """Whether truth is ratings, not classes."""
    return bool(np.issubdtype(truth.dtype, np.floating))


def score(truth: Truth, answers: Truth) -> float:
    """What candidates are chosen by: unweighted average recall of classes, concordance of ratings."""
    if rated(truth):
        return concordance(truth, answers)
    return float(balanced_accuracy_score(truth, answers))


def folds(truth: Truth, groups: Groups, count: int = FOLDS, seed: int = SEED) -> Folds:
    """Splits (train, test) of the rows with like shares of the classes; a group is never on both sides.

    Raises:
        DatasetError: There are too few people, or clips of a class, for so many folds.
    """
    splitter: Any
    if groups is None:
        splitter = (KFold if rated(truth) else StratifiedKFold)(count, shuffle=True, random_state=seed)
    else:
        splitter = (GroupKFold if rated(truth) else StratifiedGroupKFold)(count, shuffle=True, random_state=seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # a class with fewer clips than folds
            found = list(splitter.split(truth, truth, groups))
    except (UserWarning, ValueError) as error:
        raise DatasetError(
            f"the clips cannot be parted into {count} folds ({error}); add clips or people, or ask for fewer --folds"
        ) from error
    if not rated(truth) and any(len(np.unique(truth[train])) < len(np.unique(truth)) for train, _ in found):
        raise DatasetError(
            f"a class lies with too few people to be in every one of {count} folds; add people, or use fewer --folds,"
            " or --group none where it does not matter who is in a clip"
        )
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """What is fitted on.

    Attributes:
        matrices: Name of statistics to (n, d).
        truth: (n,).
        groups: (n,) people, or None.
        seed: Of folds and classifiers.
    """

    matrices: Mapping[str, Floats]
    truth: Truth
    groups: Groups = None
    seed: int = SEED

    def __getitem__(self, rows: NDArray[Any]) -> Examples:
        """Some of them."""
        matrices = {name: matrix[rows] for name, matrix in self.matrices.items()}
        return Examples(matrices, self.truth[rows], None if self.groups is None else self.groups[rows], self.seed)

    def folds(self, count: int) -> Folds:
        """Splits by person."""
        return folds(self.truth, self.groups, count, self.seed)


def choose(known: Examples, ways: Sequence[Candidate], count: int = FOLDS) -> tuple[Candidate, dict[Candidate, float]]:
    """The candidate with the highest cross-validated score, the first of equals; and the score of each.

    Raises:
        DatasetError: As `fit`.
    """
    splits = known.folds(count)

    def tried(way: Candidate) -> float:
        x, answers = known.matrices[way.statistics], np.empty_like(known.truth)
        for train, test in splits:
            pipeline = _fitted(way, way.estimator(known.truth, known.seed), x[train], known.truth[train])
            answers[test] = pipeline.predict(x[test])
        return score(known.truth, answers)

    with _quiet():
        scores = joblib.Parallel(joblib.cpu_count(), prefer="threads")(joblib.delayed(tried)(way) for way in ways)
    return ways[int(np.argmax(scores))], dict(zip(ways, scores, strict=True))


def fit(way: Candidate, known: Examples, count: int = FOLDS) -> BaseEstimator:
    """A candidate fitted on all examples; margins of SVMs become probabilities by Platt's sigmoid on held-out folds.

    All classes weigh the same, whatever their share of the clips, in the fit and in the probabilities.

    Raises:
        DatasetError: As `folds`, or there are too few examples for this candidate.
    """
    scaler, classifier = way.estimator(known.truth, known.seed)
    if way.kind in ("linear", "rbf") and not rated(known.truth):
        classifier = CalibratedClassifierCV(classifier, cv=known.folds(count), ensemble=False)
    with _quiet():
        return _fitted(way, (scaler, classifier), known.matrices[way.statistics], known.truth)


def _fitted(way: Candidate, steps: tuple[BaseEstimator, BaseEstimator], x: Floats, truth: Truth) -> BaseEstimator:
    scaler, last = steps
    name = f"{type(last).__name__.lower()}__sample_weight"
    pipeline = make_pipeline(scaler, last)
    try:
        if rated(truth):  # where zero lies and how wide the scale is must not matter
            return TransformedTargetRegressor(pipeline, transformer=StandardScaler()).fit(x, truth)
        return pipeline.fit(x, truth, **{name: compute_sample_weight("balanced", truth)})
    except ValueError as error:
        if way.kind != "mlp":  # which parts some off, to know when to stop
            raise
        reason = str(error).partition("\n")[0]
        raise DatasetError(
            f"{way} cannot be fitted on {len(x)} clips ({reason}); add clips, or name another --kind"
        ) from error


def answers(pipeline: BaseEstimator, x: Floats, truth: Truth) -> Floats:
    """(n, c) probabilities of n clips, or (n,) ratings if `truth` is ratings."""
    return np.asarray(pipeline.predict(x) if rated(truth) else pipeline.predict_proba(x), np.float32)


def nested(known: Examples, ways: Sequence[Candidate], count: int = FOLDS) -> tuple[Floats, list[Candidate]]:
    """What is said of people whom neither the fit nor the choice has seen.

    Returns:
        (n, c) probabilities or (n,) ratings, and the candidate that each outer fold chose.

    Raises:
        DatasetError: As `fit`.
    """
    width = () if rated(known.truth) else (int(known.truth.max()) + 1,)
    said = np.full((len(known.truth), *width), np.nan, np.float32)
    chosen = []
    for train, test in known.folds(count):
        way = ways[0] if len(ways) == 1 else choose(known[train], ways, count - 1)[0]
        pipeline = fit(way, known[train], count - 1)
        said[test] = answers(pipeline, known.matrices[way.statistics][test], known.truth)
        chosen.append(way)
    return said, chosen


def people(identity: Floats, alike: float) -> NDArray[np.int64]:
    """Who is who, by average linkage until no two people are more alike than that cosine.

    Args:
        identity: (n, d) a mean identity vector for each clip.
        alike: A cosine.

    Returns:
        (n,) numbers.
    """
    if len(identity) < 2:
        return np.zeros(len(identity), np.int64)
    clusters = AgglomerativeClustering(None, metric="cosine", linkage="average", distance_threshold=1 - alike)
    return np.asarray(clusters.fit_predict(identity), np.int64)


def to_onnx(pipeline: BaseEstimator, width: int) -> onnx.ModelProto:
    """`features` (n, width) to `probabilities` (n, c), or to `value` (n, 1) for a regression."""
    from skl2onnx import to_onnx as converted
    from skl2onnx.common.data_types import FloatTensorType

    logging.getLogger("skl2onnx").setLevel(logging.ERROR)
    rating = isinstance(pipeline, TransformedTargetRegressor)
    steps = pipeline.regressor_ if rating else pipeline
    options = None if rating else {id(steps): {"zipmap": False}}
    types = [("features", FloatTensorType([None, width]))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # skl2onnx asks SVC for what scikit-learn 1.9 deprecates
        model: onnx.ModelProto = converted(steps, initial_types=types, options=options, target_opset=17)
    if rating:
        _rescaled(model.graph, pipeline.transformer_)
    return model


def _rescaled(graph: onnx.GraphProto, scaler: StandardScaler) -> None:
    """Let the one output be `value`, on the scale of the ratings that were fitted."""
    (output,) = graph.output
    for name, number in (("scale", scaler.scale_[0]), ("shift", scaler.mean_[0])):
        graph.initializer.append(numpy_helper.from_array(np.array([number], np.float32), name))
    graph.node.append(helper.make_node("Mul", [output.name, "scale"], ["scaled"]))
    graph.node.append(helper.make_node("Add", ["scaled", "shift"], ["value"]))
    output.name = "value"


def sealed(model: onnx.ModelProto, card: Mapping[str, Any]) -> bytes:
    """The bytes of a model file with that card inside."""
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = "fervid", json.dumps(card, sort_keys=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the remark that more iterations might help: cross-validation says whether a candidate is any good."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
