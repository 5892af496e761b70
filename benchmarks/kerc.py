"""How well clips of films are told apart: KERC 2020, through the ordinary pipeline on the frame folders.

    python benchmarks/kerc.py --kerc DATA --weights faceres.json --cache CACHE --json kerc.json

Three classes of valence, by this network and by the frozen embedding of its starting weights, with each choice of
statistics and each kind of classifier: trained on the training part and measured on the validation part, and
cross-validated on all clips by person, as clustered by face. Hyper-parameters are chosen inside (nested). The same
actors occur in both parts, so the second column is the one to believe. Valence and arousal as ratings follow.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from network import show

from fervid import dataset, models
from fervid.extract import Options, load_extractor
from fervid.features import extract
from fervid.fit import Kind
from fervid.measure import methods, said_by
from fervid.records import Floats
from fervid.study import Study, about, looked_at, study
from fervid.train import export, mobilenet
from fervid.train.network import build

WAYS: Sequence[tuple[str, Sequence[Kind]]] = (
    ("expression", ("linear", "rbf")),
    ("expression+std+max", ("linear", "rbf")),
    ("mean", ("linear",)),
    ("mean+std", ("linear",)),
    ("mean+std+max", ("linear", "rbf", "logistic", "mlp")),
    ("mean+std+min+max", ("linear",)),
)
VALENCE = {"happiness": "positive", "neutral": "neutral", "surprise": "neutral"}
FROZEN: Sequence[tuple[str, Sequence[Kind]]] = (("mean", ("linear",)), ("mean+std+max", ("linear", "rbf")))
RATED: Sequence[tuple[str, Sequence[Kind]]] = (("expression", ("rbf",)), ("mean+std+max", ("linear", "rbf")))


def frozen(weights: Path, folder: Path) -> Path:
    """The network as it was published, as a file of ours; only its embedding is meant to be used."""
    network = build("mobilenetv1", mobilenet.read_tensorflowjs(weights)).eval()
    shipped = models.load(models.DEFAULTS["network"], "network")
    size = int(shipped.card["input"]["size"])
    path = folder / "frozen.onnx"
    card = {**export.CARD, **export.card("frozen", network, size)}
    crops = np.random.default_rng(0).integers(0, 256, (9, size, size, 3), np.uint8)
    export.save(network, card, path, crops)
    return path


def studied(kerc: Path, network: str, cache: Path, target: str | None = None) -> Study:
    """The clips as that network sees them."""
    found = dataset.read(f"kerc2020:{kerc}")
    extractor = load_extractor(network=network, options=Options(), threads=1)
    rows = extract(found.samples, extractor, cache, joblib.cpu_count())
    return study(found, *looked_at(rows, about(extractor)), target=target)


def rows(known: Study, name: str, ways: Sequence[tuple[str, Sequence[Kind]]]) -> Iterator[dict[str, Any]]:
    """A row for each way: of both protocols the figures with intervals."""
    for statistics, kinds in ways:
        for kind in kinds:
            row: dict[str, Any] = {"network": name, "statistics": statistics, "kind": kind}
            for protocol, cross in (("val", False), ("cross-validated", True)):
                (report,) = methods(known, [statistics], [kind], cross=cross).values()
                row |= {f"{key}, {protocol}": value for key, value in _figures(report).items()}
            yield row


def unfitted(known: Study, name: str) -> Iterator[dict[str, Any]]:
    """What needs no clips of films: emotions as valence, of the shipped classifier and of averaged probabilities."""
    model = models.load("emotion8", "classifier")
    labels = tuple(model.card["labels"])
    to_valence = np.array([[VALENCE.get(label, "negative") == wanted for wanted in known.labels] for label in labels])
    for title, said in (("emotion8", lambda part: said_by(part, model)), ("averaged", _averaged)):
        row: dict[str, Any] = {"network": name, "statistics": f"{title}, as valence", "kind": "not fitted"}
        for protocol, part in (("val", known.part(("val",))), ("cross-validated", known)):
            report = part.report(said(part) @ to_valence.astype(np.float32))
            row |= {f"{key}, {protocol}": value for key, value in _figures(report).items()}
        yield row


def _averaged(part: Study) -> Floats:
    return part.table.statistics["expression.mean"]


def _figures(report: dict[str, Any]) -> dict[str, str]:
    if "ccc" in report:
        return {"CCC": _text(report["ccc"], 1, 3), "MAE": _text(report["mae"], 1, 2)}
    part = report["answered"]
    recall = " / ".join(f"{100 * share:.0f}" for share in part["recall"].values())
    return {
        "UAR": _text(part["uar"], 100, 1),
        "all clips": f"{100 * report['all']['uar']['value']:.1f}",
        "recall": recall,
    }


def _text(figure: dict[str, Any], factor: int, digits: int) -> str:
    low, high = figure["interval"]
    return f"{factor * figure['value']:.{digits}f} ({factor * low:.{digits}f} to {factor * high:.{digits}f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kerc", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="faceres.json of the starting weights")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    ours = models.DEFAULTS["network"]
    known = studied(arguments.kerc, ours, arguments.cache)
    found = [*unfitted(known, ours), *rows(known, ours, WAYS)]
    with tempfile.TemporaryDirectory() as folder:
        published = str(frozen(arguments.weights, Path(folder)))
        other = studied(arguments.kerc, published, arguments.cache)
        found += rows(
            replace(other, groups=known.groups), "starting weights", FROZEN
        )  # the same detector, so the same rows
    show(found, arguments.json)
    for target in ("valence", "arousal"):
        rated = list(rows(studied(arguments.kerc, ours, arguments.cache, target), f"{ours}, {target}", RATED))
        show(rated, arguments.json and arguments.json.with_name(f"{arguments.json.stem}-{target}.json"))


if __name__ == "__main__":
    main()
