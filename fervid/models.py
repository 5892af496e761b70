"""Name or path -> a verified ONNX file, its card and an onnxruntime session.

The shipped models lie in the top-level folder `models/` (in a wheel: `fervid/_models/`) beside `manifest.json`, which
gives the SHA-256 of each. A file is read once, hashed, and handed to onnxruntime from memory, so what was verified is
what runs, and a model cannot pull in other files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as onnx_errors

from fervid.errors import ModelIncompatible, ModelNotFound, ModelUnverified, UsageError
from fervid.records import ModelIdentity

Kind = Literal["detector", "network", "classifier", "regressor"]
Device = Literal["cpu", "cuda", "auto"]

DEFAULTS: Mapping[Kind, str] = {"detector": "blazeface-back", "network": "mobilenetv1", "classifier": "emotion8"}
REQUIRED: Mapping[Kind, frozenset[str]] = {
    "detector": frozenset({"input", "threshold", "open_score", "smallest_face"}),
    "network": frozenset(
        {
            "input",
            "margin",
            "embedding",
            "expressions",
            "ethnicities",
            "genders",
            "first_age",
            "identity",
            "same_person",
        }
    ),
    "classifier": frozenset({"labels", "statistics", "network_sha256"}),
    "regressor": frozenset({"target", "statistics", "network_sha256"}),
}
TENSORS: Mapping[Kind, frozenset[str]] = {
    "detector": frozenset({"images", "boxes", "landmarks", "scores"}),
    "network": frozenset({"crops", "embedding", "expression", "age", "gender", "ethnicity", "identity"}),
    "classifier": frozenset({"features", "probabilities"}),
    "regressor": frozenset({"features", "value"}),
}
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
ONNX_ERRORS = (
    onnx_errors.Fail,
    onnx_errors.InvalidArgument,
    onnx_errors.InvalidGraph,
    onnx_errors.InvalidProtobuf,
    onnx_errors.NotImplemented,
    onnx_errors.RuntimeException,
    UnicodeDecodeError,  # its message quotes bytes of a damaged file
)


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A model file that has been verified; what is sent to another process is its name, and loaded there again.

    Attributes:
        identity: Name and SHA-256.
        path: Where it lies.
        card: What the file says of itself: kind, labels, preprocessing, data, licence, figures.
        session: Ready to run.
        threads: Threads it may use.
        device: Where it was asked to run.
    """

    identity: ModelIdentity
    path: Path
    card: Mapping[str, Any]
    session: onnxruntime.InferenceSession
    threads: int = 1
    device: Device = "cpu"

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.identity, self.path.absolute(), self.card["kind"], self.threads, self.device)


def folder() -> Path:
    """Where the shipped models are, in a wheel or in a checkout.

    Raises:
        ModelNotFound: Neither place has a manifest.
    """
    package = Path(__file__).parent
    for place in (package / "_models", package.parent / "models"):
        if (place / "manifest.json").is_file():
            return place
    raise ModelNotFound("the shipped models are missing; install fervid again")


@cache
def manifest() -> Mapping[str, Mapping[str, Any]]:
    """Name -> entry (file, bytes, sha256 and the card) of every shipped model.

    Raises:
        ModelUnverified: The manifest is damaged.
    """
    path = folder() / "manifest.json"
    try:
        models: Mapping[str, Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["models"]
        if all({"file", "sha256", "kind"} <= entry.keys() for entry in models.values()):
            return models
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise ModelUnverified(f"{path} is damaged; install fervid again")


def load(name: str, kind: Kind, threads: int = 1, device: Device = "cpu") -> Model:
    """Find a model by its name in the manifest or by the path of a file, verify it and open it.

    Args:
        name: Manifest name, or the path of an ONNX file with a card.
        kind: What the model is needed for.
        threads: How many threads one call of the session may use.
        device: Where to run; `auto` is a GPU if one can be used, and the CPU otherwise.

    Raises:
        UsageError: There is no such device, or it cannot be used.
        ModelNotFound: Neither a known name nor a file.
        ModelUnverified: The file of a shipped model is not the one that the manifest names.
        ModelIncompatible: No ONNX model, no card, or the card of another kind.
    """
    if device not in get_args(Device):
        raise UsageError(f"a device is {', '.join(get_args(Device))}, not {device!r}")
    entry = manifest().get(name)
    path = folder() / entry["file"] if entry else Path(name)
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        advice = "install fervid again" if entry else _choice(kind)
        raise ModelNotFound(f"{kind} {str(path) if entry else name!r} cannot be read ({reason}); {advice}") from error
    sha256 = hashlib.sha256(data).hexdigest()
    if entry and sha256 != entry["sha256"]:
        raise ModelUnverified(
            f"{path} is not the file that was shipped: its SHA-256 is {sha256}, not {entry['sha256']};"
            " install fervid again"
        )
    session = _session(data, path, kind, threads, device)
    card = _card(session, path, kind)
    return Model(ModelIdentity(str(card.get("name", path.stem)), sha256), path, card, session, threads, device)


def _again(identity: ModelIdentity, path: Path, kind: Kind, threads: int, device: Device) -> Model:
    """The same model in another process.

    Raises:
        ModelUnverified: The file is another one by now.
    """
    model = load(str(path), kind, threads, device)
    if model.identity != identity:
        raise ModelUnverified(f"{path} was replaced while it was in use; start again")
    return model


def verify(name: str) -> Model:
    """Load a shipped model and compare its card with the manifest.

    Raises:
        ModelError: As `load`; and `ModelUnverified` if the two cards differ.
    """
    entry = manifest().get(name)
    if entry is None:
        raise ModelNotFound(f"no shipped model is named {name!r}; `fervid models list` shows them")
    model = load(name, entry["kind"])
    card = {key: value for key, value in entry.items() if key not in ("file", "bytes", "sha256")}
    differing = sorted(key for key in card.keys() | model.card.keys() if card.get(key) != model.card.get(key))
    if differing:
        raise ModelUnverified(
            f"{model.path}: its card and the manifest differ in {', '.join(differing)}; install fervid again"
        )
    return model


def _choice(kind: Kind) -> str:
    known = ", ".join(sorted(name for name, entry in manifest().items() if entry["kind"] == kind))
    return f"known names: {known or 'none'}; or give the path of an ONNX file that fervid made"


def _session(data: bytes, path: Path, kind: Kind, threads: int, device: Device) -> onnxruntime.InferenceSession:
    """Where the device says; a graph that does not run on the CPU is the model's fault, and not the device's."""
    session, reason = (None, "") if device == "cpu" else _on_cuda(data, threads)
    if session is not None:
        return session
    try:
        session = _open(data, threads, CPU)
    except ONNX_ERRORS as error:
        reason = str(error).splitlines()[0]
        raise ModelIncompatible(f"{path} is no ONNX model that can be run ({reason}); {_choice(kind)}") from error
    if device == "cuda":
        raise UsageError(f"the device cuda cannot be used: {reason}, or use cpu or auto")
    return session


def _on_cuda(data: bytes, threads: int) -> tuple[onnxruntime.InferenceSession | None, str]:
    """A session there, or why there is none."""
    if CUDA not in onnxruntime.get_available_providers():
        return None, "this onnxruntime knows none; pip uninstall onnxruntime and pip install onnxruntime-gpu"
    try:
        session = _open(data, threads, CUDA, CPU)
    except (RuntimeError, *ONNX_ERRORS) as error:
        reason = str(error).partition("\n")[0]
    else:
        if CUDA in session.get_providers():  # a provider that cannot be loaded is left out without a word
            return session, ""
        reason = "its libraries are missing"
    return None, f"it does not start ({reason}); `nvidia-smi` must show a GPU, and CUDA and cuDNN be installed"


def _open(data: bytes, threads: int, *providers: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the decoder has work for that CPU
    options.log_severity_level = 4
    # Tensors in other files are looked for below this path, not in the current folder, and it can hold none.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    # The fallback would print to standard output and try the same again.
    return onnxruntime.InferenceSession(data, options, providers=list(providers), enable_fallback=0)


def _card(session: onnxruntime.InferenceSession, path: Path, kind: Kind) -> Mapping[str, Any]:
    try:
        card = json.loads(session.get_modelmeta().custom_metadata_map["fervid"])
    except (KeyError, ValueError, RecursionError):
        raise ModelIncompatible(f"{path} has no fervid card in its metadata; {_choice(kind)}") from None
    if not isinstance(card, dict) or card.get("kind") != kind:
        found = card.get("kind", "unknown") if isinstance(card, dict) else "unknown"
        raise ModelIncompatible(f"{path} is a model of the kind {found} and a {kind} is needed; {_choice(kind)}")
    if missing := sorted(REQUIRED[kind] - card.keys()):
        raise ModelIncompatible(f"the card of {path} lacks {', '.join(missing)}; export the model again")
    tensors = {tensor.name for tensor in (*session.get_inputs(), *session.get_outputs())}
    if missing := sorted(TENSORS[kind] - tensors):
        raise ModelIncompatible(f"{path} has no input or output named {', '.join(missing)}; export the model again")
    return card
