"""Model cards: the JSON in the metadata of an ONNX file that describes the model, and the checks of its contract."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import onnxruntime

from fervid.core.errors import ModelIncompatible

ModelKind = Literal["detector", "face_model", "classifier", "regressor"]

REQUIRED_CARD_KEYS: Mapping[ModelKind, frozenset[str]] = {
    "detector": frozenset({"input", "threshold", "new_track_threshold", "smallest_face"}),
    "face_model": frozenset({"input", "margin", "embedding", "expressions"}),
    "classifier": frozenset({"labels", "statistics"}),
    "regressor": frozenset({"target", "statistics", "face_model_sha256"}),
}
REQUIRED_TENSORS: Mapping[ModelKind, frozenset[str]] = {
    "detector": frozenset({"images", "boxes", "landmarks", "scores"}),
    "face_model": frozenset({"crops", "embedding", "expression"}),
    "classifier": frozenset({"features", "probabilities"}),
    "regressor": frozenset({"features", "value"}),
}
OPTIONAL_OUTPUTS: Mapping[str, frozenset[str]] = {
    "age": frozenset({"first_age"}),
    "gender": frozenset({"genders"}),
    "ethnicity": frozenset({"ethnicities"}),
    "identity": frozenset({"identity", "tracking"}),
}
"""Outputs that a face model may lack, and the card keys that each of them requires."""
MAX_INPUT_PX = 2048
"""Maximum side of a model's input."""
FACE_SIZE_RANGE = (0.005, 0.25)
"""Range of `smallest_face`, as a fraction of the input's side: below it there are too many tiles, above it none."""


def read_card(session: onnxruntime.InferenceSession, path: Path, kind: ModelKind, hint: str) -> Mapping[str, Any]:
    """Read the card of a model, and check it against the model's inputs and outputs.

    Args:
        session: The opened model.
        path: Its file, for messages.
        kind: The kind of model that is needed.
        hint: Advice for the message about a model that has no card, or is of another kind.

    Raises:
        ModelIncompatible: The card is missing, of another kind or incomplete, or an input or output is missing.
    """
    try:
        card = json.loads(session.get_modelmeta().custom_metadata_map["fervid"])
    except (KeyError, ValueError, RecursionError):
        raise ModelIncompatible(f"{path} has no fervid card in its metadata; {hint}") from None
    _check_kind(card, path, kind, hint)
    names = {tensor.name for tensor in (*session.get_inputs(), *session.get_outputs())}
    keys, tensors = _requirements(card, names)
    if missing := sorted(keys - card.keys()):
        raise ModelIncompatible(f"the card of {path} lacks {', '.join(missing)}; export the model again")
    if missing := sorted(tensors - names):
        raise ModelIncompatible(f"{path} has no input or output named {', '.join(missing)}; export the model again")
    if requirement := _unmet_input_requirement(card) if "input" in keys else "":
        raise ModelIncompatible(f"the card of {path} must have {requirement}; export the model again")
    return dict(card)


def _check_kind(card: Any, path: Path, kind: ModelKind, hint: str) -> None:
    actual = card.get("kind", "unknown") if isinstance(card, dict) else "unknown"
    if actual == kind:
        return
    is_regressor = (actual, kind) == ("regressor", "classifier")
    advice = " (`fervid evaluate` measures it; to classify, train one without --target)" if is_regressor else ""
    raise ModelIncompatible(f"{path} is a model of the kind {actual} and a {kind} is needed{advice}; {hint}")


def _requirements(card: Mapping[str, Any], names: set[str]) -> tuple[set[str], set[str]]:
    """Return the card keys, and the inputs and outputs, that a model needs.

    Args:
        card: The card of the model.
        names: Inputs and outputs that the model has.
    """
    kind: ModelKind = card["kind"]
    keys, tensors = set(REQUIRED_CARD_KEYS[kind]), set(REQUIRED_TENSORS[kind])
    if kind == "face_model":
        for output, output_keys in OPTIONAL_OUTPUTS.items():
            if output in names or not output_keys.isdisjoint(card):
                tensors.add(output)
                keys |= output_keys
    if kind == "classifier" and "face_model_expressions" not in card:  # one of the two names its face model
        keys.add("face_model_sha256")
    return keys, tensors


def _unmet_input_requirement(card: Mapping[str, Any]) -> str:
    """Return what the card must have so that preprocessing stays within limits of memory and time; "" if it has it."""
    spec = card["input"] if isinstance(card["input"], dict) else {}
    size, multiple, smallest = spec.get("size"), spec.get("multiple", 1), card.get("smallest_face", FACE_SIZE_RANGE[1])
    if not (isinstance(size, int) and 1 <= size <= MAX_INPUT_PX):
        return f"an input.size of 1 to {MAX_INPUT_PX} pixels"
    if not (isinstance(multiple, int) and 1 <= multiple <= size):
        return f"an input.multiple of 1 to {size} pixels, or none"
    if not (isinstance(smallest, float) and FACE_SIZE_RANGE[0] <= smallest <= FACE_SIZE_RANGE[1]):
        return f"a smallest_face of {FACE_SIZE_RANGE[0]} to {FACE_SIZE_RANGE[1]}"
    return ""
