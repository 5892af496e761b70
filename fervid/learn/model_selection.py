"""Features of labelled clips -> a clip classifier or regressor as one ONNX file with its card.

Pooled statistics with an SVM are the pipelines of AFEW and VGAF (arXiv 2103.17107, sections 4.2 and 4.3). Which of them
is fitted is decided in `choice`. Truth is (n,) int64 class numbers, or (n,) float64 ratings, on which a regression is
fitted.
"""

from __future__ import annotations

import itertools
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC, LinearSVR
from sklearn.utils.class_weight import compute_sample_weight

from fervid.analysis.pooling import STATISTICS
from fervid.core.errors import DatasetError, UsageError
from fervid.core.records import FloatArray
from fervid.core.text import plural
from fervid.learn.metrics import ccc

SEED = 2021
FOLDS = 5
Kind = Literal["linear", "rbf", "mlp", "logistic"]
Scaling = Literal["l2", "standard"]
Truth = NDArray[np.int64] | NDArray[np.float64]
Groups = NDArray[np.int64] | None
Folds = Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]

DEFAULT_STATISTICS = (
    "logit+std+max+min",
    *("expression", "expression+std+max", "expression+std+min+max"),
    *("mean", "mean+std", "mean+std+max", "mean+std+min+max", "group"),
)
"""What is compared where nobody says which."""
USUAL_STATISTICS = (
    "logit+std",
    "logit+std+max+min",
    "expression+std+max+min",
    "mean+std",
    "mean+std+max",
    "mean+std+min+max",
)
"""What a classifier is chosen from where nobody says which."""
USUAL_GROUP_STATISTICS = ("logit+std+logit.spread+std", "group")
"""The same of everybody in a clip."""
VECTORS = ("embedding", "expression", "logit", "embedding.spread", "expression.spread", "logit.spread")
GROUP = ("embedding.mean", "embedding.std", "embedding.spread.mean", "embedding.spread.std")
HYPERPARAMETERS: Mapping[Kind, tuple[float, ...]] = {
    "linear": (0.1, 0.3, 1.0, 3.0),
    "rbf": (0.3, 1.0, 3.0, 10.0),
    "mlp": (1e-3, 1e-1),
    "logistic": (0.3, 1.0, 3.0, 10.0),
}
"""C of SVMs and logistic regression, whose ridge for ratings has 1 / C; the weight decay of the MLP."""
STANDARD_COSTS: Mapping[Kind, tuple[float, ...]] = {
    "linear": (0.003, 0.03, 0.3),
    "rbf": (0.1, 0.3, 1.0, 3.0),
    "mlp": (1e-3, 1e-1),
    "logistic": (0.003, 0.03, 0.3),
}
"""The same for values of deviation 1: a clip is then as long as the root of their number, and not of unit length."""

Maker = Callable[[float, int], BaseEstimator]
SHARPNESS_RANGE = (0.01, 100.0)
"""Least and greatest factor on margins, as multiples of one over their standard deviation."""
SHARPNESS_STEPS = 401
TINY = float(np.finfo(np.float64).tiny)


class PairwiseSVC(SVC):  # type: ignore[misc] # scikit-learn has no types
    """An RBF SVM for each pair of classes; the margin of a class is the sum of its pairwise margins.

    Votes, by which `SVC` decides, say hardly more than the order of the classes, so no confidence can be made of them.
    """

    def decision_function(self, X: FloatArray) -> NDArray[np.float64]:  # noqa: N803  the name that scikit-learn gives it
        """(n, c) margins of n rows; (n,) those of the second of two classes."""
        weights, offsets = self.kernel_expansion()
        margins = rbf_kernel(X, self.support_vectors_, gamma=self._gamma) @ weights + offsets
        return np.asarray(margins[:, 1] - margins[:, 0] if len(self.classes_) == 2 else margins, np.float64)

    def predict(self, X: FloatArray) -> NDArray[Any]:  # noqa: N803
        """(n,) the classes with the largest margin."""
        margins = self.decision_function(X)
        numbers = (margins > 0).astype(np.int64) if margins.ndim == 1 else margins.argmax(axis=1)
        return np.asarray(self.classes_[numbers])

    def kernel_expansion(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights (s, c) of the kernel values of s support vectors, and offsets (c,), which give the margins."""
        classes = len(self.classes_)
        ends = np.cumsum(self.n_support_)
        rows = [slice(end - size, end) for end, size in zip(ends, self.n_support_, strict=True)]
        weights, offsets = np.zeros((ends[-1], classes)), np.zeros(classes)
        # libsvm keeps the weights of class i against j > i in row j - 1, and those of j against i in row i. With two
        # classes scikit-learn turns the signs round, so that a positive margin means the second.
        sign = -0.5 if classes == 2 else 1.0
        for (i, j), offset in zip(itertools.combinations(range(classes), 2), self.intercept_, strict=True):
            for support, duals in ((rows[i], self.dual_coef_[j - 1]), (rows[j], self.dual_coef_[i])):
                weights[support, i] += sign * duals[support]
                weights[support, j] -= sign * duals[support]
            offsets[i] += sign * offset
            offsets[j] -= sign * offset
        return weights, offsets


def _mlp(network: Callable[..., BaseEstimator], decay: float, seed: int) -> BaseEstimator:
    return network(hidden_layer_sizes=(128,), alpha=decay, early_stopping=True, max_iter=300, random_state=seed)


CLASSIFIERS: Mapping[Kind, Maker] = {
    "linear": lambda c, seed: LinearSVC(C=c, random_state=seed, max_iter=5000),
    "rbf": lambda c, seed: PairwiseSVC(C=c, random_state=seed),
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
        statistics: As `parse_statistics` reads them.
        kind: Of classifier.
        cost: C, or the weight decay of the MLP.
        scaling: Clips of unit length (`l2`), or values of mean 0 and deviation 1 (`standard`); None for what suits:
            unit length as in the paper, but values for the MLP and for logits.
    """

    statistics: str
    kind: Kind
    cost: float
    scaling: Scaling | None = None

    def __str__(self) -> str:
        return f"{self.kind} ({self.cost:g}) on {self.statistics}{f', {self.scaling}' if self.scaling else ''}"

    def estimator(self, truth: Truth, seed: int) -> tuple[BaseEstimator, BaseEstimator]:
        """Scaler and classifier, or regressor if `truth` is ratings."""
        scaler = StandardScaler() if scaling_of(self) == "standard" else Normalizer()
        makers = REGRESSORS if is_regression(truth) else CLASSIFIERS
        return scaler, makers[self.kind](self.cost, seed)


def parse_statistics(name: str) -> tuple[str, ...]:
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


def scaling_of(way: Candidate) -> Scaling:
    """What its scaling is, also where it is None."""
    return _scaling(way.statistics, way.kind, way.scaling)


def of_expressions(name: str) -> bool:
    """Whether statistics are of the probabilities or logits of expressions alone, which are few numbers a clip."""
    return all(part.startswith(("expression.", "logit.")) for part in parse_statistics(name))


def candidates(
    statistics: Sequence[str], kinds: Sequence[Kind] = (), scalings: Sequence[Scaling] = ()
) -> list[Candidate]:
    """All combinations of statistics, kinds, scalings and costs.

    Args:
        statistics: As `parse_statistics` reads them.
        kinds: Of classifier; none for linear SVMs with RBF SVMs on expressions, and with logistic regression on others.
        scalings: None for what suits, as in `Candidate`.
    """
    return [
        Candidate(name, kind, cost, scaling)
        for name in statistics
        for kind in kinds or _usual_kinds(name)
        for scaling in scalings or (None,)
        for cost in (STANDARD_COSTS if _scaling(name, kind, scaling) == "standard" else HYPERPARAMETERS)[kind]
    ]


def _usual_kinds(name: str) -> tuple[Kind, ...]:
    return ("linear", "rbf") if of_expressions(name) else ("linear", "logistic")


def _scaling(name: str, kind: Kind, scaling: Scaling | None) -> Scaling:
    if scaling:
        return scaling
    logits = all(part.startswith("logit.") for part in parse_statistics(name))
    return "standard" if kind == "mlp" or logits else "l2"


def is_regression(truth: Truth) -> bool:
    """Whether truth is ratings, not classes."""
    return bool(np.issubdtype(truth.dtype, np.floating))


def selection_score(truth: Truth, answers: Truth) -> float:
    """What candidates are chosen by: unweighted average recall of classes, concordance of ratings."""
    if is_regression(truth):
        return ccc(truth, answers)
    return float(balanced_accuracy_score(truth, answers))


def folds(truth: Truth, groups: Groups, count: int = FOLDS, seed: int = SEED) -> Folds:
    """Splits (train, test) of the rows with like shares of the classes; a group is never on both sides.

    Raises:
        DatasetError: There are too few people, or clips of a class, for so many folds.
    """
    splitter: Any
    if groups is None:
        splitter = (KFold if is_regression(truth) else StratifiedKFold)(count, shuffle=True, random_state=seed)
    else:
        splitter = (GroupKFold if is_regression(truth) else StratifiedGroupKFold)(
            count, shuffle=True, random_state=seed
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # a class with fewer clips than folds
            found = list(splitter.split(truth, truth, groups))
    except (UserWarning, ValueError) as error:
        raise DatasetError(
            f"the clips cannot be parted into {count} folds ({error}); add clips or people, or ask for fewer --folds"
        ) from error
    if not is_regression(truth) and any(len(np.unique(truth[train])) < len(np.unique(truth)) for train, _ in found):
        raise DatasetError(
            f"a class lies with too few people to be in every one of {count} folds; add people, or use fewer --folds,"
            " or --group none where it does not matter who is in a clip"
        )
    return found


@dataclass(frozen=True, slots=True, eq=False)
class TrainingData:
    """What is fitted on.

    Attributes:
        matrices: Name of statistics to (n, d).
        truth: (n,).
        groups: (n,) people, or None.
        seed: Of folds and classifiers.
        centered: Whether the mean of each person was taken away.
    """

    matrices: Mapping[str, FloatArray]
    truth: Truth
    groups: Groups = None
    seed: int = SEED
    centered: bool = False

    def __getitem__(self, rows: NDArray[Any]) -> TrainingData:
        """Some of them."""
        matrices = {name: matrix[rows] for name, matrix in self.matrices.items()}
        groups = None if self.groups is None else self.groups[rows]
        return replace(self, matrices=matrices, truth=self.truth[rows], groups=groups)

    def folds(self, count: int) -> Folds:
        """Splits by person."""
        return folds(self.truth, self.groups, count, self.seed)


@dataclass(frozen=True, slots=True, eq=False)
class Calibrated:
    """A classifier whose margins become probabilities by a soft-max.

    One positive factor for all classes, the inverse of a temperature (Guo et al., arXiv 1706.04599, section 4.2), can
    only say how sure the classifier is: the most probable class is always that with the largest margin.

    Attributes:
        pipeline: Scaler and classifier.
        sharpness: The factor on margins, greater than 0.
    """

    pipeline: Pipeline
    sharpness: float

    def predict_proba(self, x: FloatArray) -> FloatArray:
        """(n, c) probabilities of n rows."""
        return np.asarray(softmax(self.sharpness * compute_margins(self.pipeline, x), axis=1), np.float32)


def fit(way: Candidate, known: TrainingData, count: int = FOLDS) -> Calibrated | TransformedTargetRegressor:
    """A candidate fitted on all examples, its confidence fitted on held-out folds.

    All classes weigh the same, whatever their share of the clips, in the fit and in the probabilities. An MLP holds
    clips out itself to know when to stop, and its probabilities are taken as they are.

    Raises:
        DatasetError: As `folds`, or there are too few examples for this candidate.
    """
    x, truth = known.matrices[way.statistics], known.truth

    def fit_rows(rows: slice | NDArray[np.int64]) -> BaseEstimator:
        return fit_candidate(way, x[rows], truth[rows], known.seed)

    with quiet():
        pipeline = fit_rows(slice(None))
        if is_regression(truth):
            return pipeline
        if way.kind == "mlp":
            return Calibrated(pipeline, 1.0)
        margins = compute_margins(pipeline, x)
        held_out = np.empty_like(margins)
        for train, test in known.folds(count):
            held_out[test] = compute_margins(fit_rows(train), x[test])
    spread = float((margins - margins.mean(axis=1, keepdims=True)).std())
    return Calibrated(pipeline, fit_sharpness(held_out, np.asarray(truth, np.int64), spread))


def compute_margins(pipeline: Pipeline, x: FloatArray) -> NDArray[np.float64]:
    """(n, c) margins of n rows: what an SVM or a logistic regression decides by, or the logarithms of probabilities."""
    if not hasattr(pipeline, "decision_function"):
        return np.asarray(np.log(np.maximum(pipeline.predict_proba(x), TINY)))
    margins = np.asarray(pipeline.decision_function(x), np.float64)
    return np.stack([-margins, margins], axis=1) / 2 if margins.ndim == 1 else margins


def fit_sharpness(margins: NDArray[np.float64], truth: NDArray[np.int64], spread: float) -> float:
    """The factor on held-out margins under which the truth is most likely, all classes weighing the same.

    As if one more clip of each class had been seen in every place (Platt 1999), so that a few clips that are all right
    do not make it sure of everything. Margins that say nothing, or the opposite of the truth, get the least factor.

    Args:
        margins: (n, c).
        truth: (n,) class numbers.
        spread: Standard deviation of the margins of the classifier that is used in the end.
    """
    if not spread:
        return 1.0
    counts = np.bincount(truth, minlength=margins.shape[1])[truth][:, None]
    targets = (np.eye(margins.shape[1])[truth] * counts + 1) / (counts + margins.shape[1])
    targets *= compute_sample_weight("balanced", truth)[:, None]
    factors = np.geomspace(*SHARPNESS_RANGE, SHARPNESS_STEPS) / spread
    losses = [-(targets * log_softmax(factor * margins, axis=1)).sum() for factor in factors]
    return float(factors[int(np.argmin(losses))])


def fit_candidate(way: Candidate, x: FloatArray, truth: Truth, seed: int) -> BaseEstimator:
    """A candidate fitted on rows (n, d), all classes weighing the same; of a classifier the confidence is not fitted.

    Raises:
        DatasetError: There are too few rows for this candidate.
    """
    scaler, last = way.estimator(truth, seed)
    name = f"{type(last).__name__.lower()}__sample_weight"
    pipeline = make_pipeline(scaler, last)
    try:
        if is_regression(truth):  # where zero lies and how wide the scale is must not matter
            return TransformedTargetRegressor(pipeline, transformer=StandardScaler()).fit(x, truth)
        return pipeline.fit(x, truth, **{name: compute_sample_weight("balanced", truth)})
    except ValueError as error:
        if way.kind != "mlp":  # which parts some off, to know when to stop
            raise
        reason = str(error).partition("\n")[0]
        raise DatasetError(
            f"{way} cannot be fitted on {plural(len(x), 'clip')} ({reason}); add clips, or name another --kind"
        ) from error


def predict(pipeline: Calibrated | TransformedTargetRegressor, x: FloatArray, truth: Truth) -> FloatArray:
    """(n, c) probabilities of n clips, or (n,) ratings if `truth` is ratings."""
    return np.asarray(
        pipeline.predict_proba(x) if isinstance(pipeline, Calibrated) else pipeline.predict(x), np.float32
    )


def to_onnx(pipeline: Calibrated | TransformedTargetRegressor, width: int) -> onnx.ModelProto:
    """`features` (n, width) to `probabilities` (n, c), or to `value` (n, 1) for a regression."""
    if isinstance(pipeline, Calibrated):
        return _classifier_graph(pipeline, width)
    from skl2onnx import to_onnx as converted
    from skl2onnx.common.data_types import FloatTensorType

    logging.getLogger("skl2onnx").setLevel(logging.ERROR)
    types = [("features", FloatTensorType([None, width]))]
    model: onnx.ModelProto = converted(pipeline.regressor_, initial_types=types, target_opset=17)
    _append_inverse_scaling(model.graph, pipeline.transformer_)
    return model


def _classifier_graph(calibrated: Calibrated, width: int) -> onnx.ModelProto:
    """Scaler, margins, factor, soft-max."""
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def add(operator: str, inputs: Sequence[str | NDArray[Any] | float], output: str, **attributes: Any) -> str:
        names = []
        for number, value in enumerate(inputs):
            if not isinstance(value, str):
                array = np.asarray(value)
                array = array if array.dtype == np.int64 else array.astype(np.float32)
                constants.append(numpy_helper.from_array(array, f"{output}_{number}"))
                value = constants[-1].name
            names.append(value)
        domain = "ai.onnx.ml" if operator in ("Scaler", "Normalizer") else ""
        nodes.append(helper.make_node(operator, names, [output], domain=domain, **attributes))
        return output

    scaler, classifier = (step for _, step in calibrated.pipeline.steps)
    if isinstance(scaler, StandardScaler):
        add("Scaler", ["features"], "scaled", offset=scaler.mean_.tolist(), scale=(1 / scaler.scale_).tolist())
    else:
        add("Normalizer", ["features"], "scaled", norm="L2")
    x = "scaled"
    if isinstance(classifier, PairwiseSVC):
        # exp(-gamma |x - v|^2) with |x - v|^2 = |x|^2 - 2 x v + |v|^2
        vectors, gamma = classifier.support_vectors_, classifier._gamma
        squares = add("ReduceSumSquare", [x], "squares", axes=[1])
        products = add("MatMul", [x, -2 * vectors.T], "products")
        shifted = add("Add", [products, (vectors**2).sum(axis=1)], "shifted")
        distances = add("Add", [shifted, squares], "distances")
        x = add("Exp", [add("Mul", [distances, -gamma], "exponents")], "kernel")
        weights, offsets = classifier.kernel_expansion()
    elif isinstance(classifier, MLPClassifier):
        for number, layer in enumerate(zip(classifier.coefs_[:-1], classifier.intercepts_[:-1], strict=True)):
            x = add("Gemm", [x, *layer], f"layer{number}")
            x = add("Relu", [x], f"relu{number}")
        weights, offsets = classifier.coefs_[-1], classifier.intercepts_[-1]
    else:
        weights, offsets = classifier.coef_.T, classifier.intercept_
    if weights.shape[1] == 1:  # of the second of two classes
        weights, offsets = weights * [-0.5, 0.5], offsets * [-0.5, 0.5]
    margins = add("Gemm", [x, weights, offsets], "margins")
    logits = add("Mul", [margins, calibrated.sharpness], "logits")
    add("Softmax", [logits], "probabilities", axis=1)
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, [None, weights.shape[1]])],
        constants,
    )
    versions = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    return helper.make_model(graph, opset_imports=versions, ir_version=8, producer_name="fervid")


def _append_inverse_scaling(graph: onnx.GraphProto, scaler: StandardScaler) -> None:
    """Let the one output be `value`, on the scale of the ratings that were fitted."""
    (output,) = graph.output
    for name, number in (("scale", scaler.scale_[0]), ("shift", scaler.mean_[0])):
        graph.initializer.append(numpy_helper.from_array(np.array([number], np.float32), name))
    graph.node.append(helper.make_node("Mul", [output.name, "scale"], ["scaled"]))
    graph.node.append(helper.make_node("Add", ["scaled", "shift"], ["value"]))
    output.name = "value"


def serialize_with_card(model: onnx.ModelProto, card: Mapping[str, Any]) -> bytes:
    """The bytes of a model file with that card inside."""
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = "fervid", json.dumps(card, sort_keys=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


@contextmanager
def quiet() -> Iterator[None]:
    """Without the remark that more iterations might help: cross-validation says whether a candidate is any good."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
