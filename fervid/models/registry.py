"""Name or path -> a verified ONNX file, its card and an onnxruntime session.

The shipped models lie in the top-level folder `models/` (in a wheel: `fervid/_models/`) beside `manifest.json`, which
gives the SHA-256 of each. It names optional models too, which others have published and `fervid models pull` fetches
into the user's data folder. A file is read once, hashed, and handed to onnxruntime from memory, so what was verified is
what runs, and a model cannot pull in other files.

An optional model whose authors give no SHA-256 is pinned by the id of its blob in their git repository, `git_blob`: the
SHA-1 of its length and content. To find another file with the SHA-1 of one that exists is beyond anybody; only someone
who made both could have two, and that is who published it.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as onnx_errors

from fervid.core.atomic_io import user_dir
from fervid.core.errors import ChecksumMismatch, ModelIncompatible, ModelNotFound, UsageError
from fervid.core.records import ModelRef

Kind = Literal["detector", "network", "classifier", "regressor"]
Device = Literal["cpu", "cuda", "auto"]

DEFAULTS: Mapping[Kind, str] = {"detector": "blazeface-back", "network": "mobilenetv1", "classifier": "emotion8"}
REQUIRED_CARD_KEYS: Mapping[Kind, frozenset[str]] = {
    "detector": frozenset({"input", "threshold", "open_score", "smallest_face"}),
    "network": frozenset({"input", "margin", "embedding", "expressions"}),
    "classifier": frozenset({"labels", "statistics"}),
    "regressor": frozenset({"target", "statistics", "network_sha256"}),
}
REQUIRED_TENSORS: Mapping[Kind, frozenset[str]] = {
    "detector": frozenset({"images", "boxes", "landmarks", "scores"}),
    "network": frozenset({"crops", "embedding", "expression"}),
    "classifier": frozenset({"features", "probabilities"}),
    "regressor": frozenset({"features", "value"}),
}
OPTIONAL_OUTPUTS: Mapping[str, frozenset[str]] = {
    "age": frozenset({"first_age"}),
    "gender": frozenset({"genders"}),
    "ethnicity": frozenset({"ethnicities"}),
    "identity": frozenset({"identity", "same_person"}),
}
"""Outputs that a network may lack, and what its card says of those that it has."""
FILE_KEYS = frozenset({"file", "url", "bytes", "limit", "sha256", "git_blob"})
"""What an entry of the manifest says of the file; the rest is the card."""
MAX_MODEL_BYTES = 2**29  # bytes of a model file
LARGEST_INPUT = 2048  # pixels of a side
SMALLEST_FACE = (0.005, 0.25)  # of the side of an input; others make too many tiles, or none
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

    identity: ModelRef
    path: Path
    card: Mapping[str, Any]
    session: onnxruntime.InferenceSession
    threads: int = 1
    device: Device = "cpu"

    @property
    def sha256s(self) -> tuple[str, ...]:
        """By which others may know it: its own, and that of the file that it was quantised from."""
        return self.identity.sha256, str(self.card.get("quantised_from", ""))

    def __reduce__(self) -> tuple[Any, ...]:
        return _reload, (self.identity, self.path.absolute(), self.card["kind"], self.threads, self.device)


def models_dir() -> Path:
    """Where the shipped models are, in a wheel or in a checkout.

    Raises:
        ModelNotFound: Neither place has a manifest.
    """
    package = Path(__file__).parents[1]
    for place in (package / "_models", package.parent / "models"):
        if (place / "manifest.json").is_file():
            return place
    raise ModelNotFound("the shipped models are missing; install fervid again")


@cache
def manifest(section: Literal["models", "optional"] = "models") -> Mapping[str, Mapping[str, Any]]:
    """Name -> entry (file, bytes, digest and the card) of every shipped model, or of those that can be pulled.

    Raises:
        ModelUnverified: The manifest is damaged.
    """
    path = models_dir() / "manifest.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        models: Mapping[str, Mapping[str, Any]] = content["models"] if section == "models" else content.get(section, {})
        if all(_is_valid_entry(entry, section) for entry in models.values()):
            return models
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise ChecksumMismatch(f"{path} is damaged; install fervid again")


def _is_valid_entry(entry: Mapping[str, Any], section: str) -> bool:
    if section == "models":
        return (
            isinstance(entry["file"], str) and isinstance(entry["sha256"], str) and entry["kind"] in REQUIRED_CARD_KEYS
        )
    named = {"file", "url", "kind", "name", "published"} <= entry.keys()
    return named and not entry.keys().isdisjoint({"bytes", "limit"}) and not entry.keys().isdisjoint(_DIGESTS)


def manifest_entry(name: str) -> Mapping[str, Any]:
    """What the manifest says of a shipped or an optional model.

    Raises:
        ModelNotFound: No model has that name.
    """
    for models in (manifest(), manifest("optional")):
        if name in models:
            return models[name]
    raise ModelNotFound(f"no model is named {name!r}; there are {', '.join((*manifest(), *manifest('optional')))}")


def model_path(entry: Mapping[str, Any]) -> Path:
    """Where the file of a model lies, or of an optional one will lie."""
    if "url" in entry:
        return user_dir("data") / "models" / str(entry["file"])
    return models_dir() / str(entry["file"])


def installed_models() -> list[str]:
    """Names of the shipped models, and of the optional ones that were pulled."""
    with suppress(UsageError):  # who has no home has pulled none
        return [
            *manifest(),
            *(name for name, entry in manifest("optional").items() if os.path.isfile(model_path(entry))),
        ]
    return [*manifest()]


def digest_mismatch(data: bytes, entry: Mapping[str, Any]) -> str:
    """How the digest of a file differs from that of its entry in the manifest; nothing if it does not."""
    for name, digest in _DIGESTS.items():
        if name in entry and (found := digest(data)) != entry[name]:
            return f"its {_DIGEST_LABELS[name]} is {found}, not {entry[name]}"
    return ""


def _git_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


_DIGESTS: Mapping[str, Callable[[bytes], str]] = {
    "sha256": lambda data: hashlib.sha256(data).hexdigest(),
    "git_blob": _git_blob,
}
_DIGEST_LABELS = {"sha256": "SHA-256", "git_blob": "git blob id"}


def load_model(name: str, kind: Kind, threads: int = 1, device: Device = "cpu") -> Model:
    """Find a model by its name in the manifest or by the path of a file, verify it and open it.

    Args:
        name: Manifest name, or the path of an ONNX file with a card or of one that is an optional model.
        kind: What the model is needed for.
        threads: How many threads one call of the session may use.
        device: Where to run; `auto` is a GPU if one can be used, and the CPU otherwise.

    Raises:
        UsageError: There is no such device, or it cannot be used.
        ModelNotFound: Neither a known name nor a file, or an optional model that was not pulled.
        ModelUnverified: The file of a known model is not the one that the manifest names.
        ModelIncompatible: No ONNX model, no card, the card of another kind, or more than a model may ask for.
    """
    if device not in get_args(Device):
        raise UsageError(f"a device is {', '.join(get_args(Device))}, not {device!r}")
    entry = manifest().get(name) or manifest("optional").get(name)
    optional = entry is not None and "url" in entry
    path = model_path(entry) if entry else Path(name)
    advice = f"`fervid models pull {name}` fetches it" if optional else "install fervid again"
    try:
        data = _read(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        if optional and isinstance(error, FileNotFoundError):
            raise ModelNotFound(f"the optional {kind} {name} is not here yet; {advice}") from error
        raise ModelNotFound(
            f"{kind} {str(path) if entry else name!r} cannot be read ({reason}); "
            f"{advice if entry else _known_names_hint(kind)}"
        ) from error
    if entry and (difference := digest_mismatch(data, entry)):
        theirs = "published" if optional else "shipped"
        raise ChecksumMismatch(f"{path} is not the file that was {theirs}: {difference}; {advice}")
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        content = data if sha256 in {shipped["sha256"] for shipped in manifest().values()} else _prepare_bytes(data)
    except ValueError as error:
        raise _incompatible(path, kind, error) from error
    session = _session(content, path, kind, threads, device)
    card = _card(session, path, kind)
    identity = ModelRef(str(card.get("name", path.stem)), sha256)
    return Model(identity, path, card, session, threads, device)


def _read(path: Path) -> bytes:
    """The bytes of an ordinary file that is not too large.

    Raises:
        ModelIncompatible: It is too large.
        OSError: It cannot be read, or is none.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is no file")
    if found.st_size > MAX_MODEL_BYTES:
        raise ModelIncompatible(
            f"{path} has {found.st_size:,} bytes, and a model {MAX_MODEL_BYTES:,} at most; name another"
        )
    with path.open("rb") as file:
        return file.read(MAX_MODEL_BYTES)


def _prepare_bytes(data: bytes) -> bytes:
    """A file as onnxruntime may have it: optional models, wherever they lie, are made to fit, others are looked at.

    Raises:
        ValueError: It is not built as it should be.
    """
    from fervid.models import onnx_adapters, onnx_validation  # which import onnx, and shipped models do without

    for entry in manifest("optional").values():
        if not digest_mismatch(data, entry):
            return onnx_adapters.adapt_published_model(
                data, {key: value for key, value in entry.items() if key not in FILE_KEYS}
            )
    onnx_validation.validate_onnx(data)
    return data


def _incompatible(path: Path, kind: Kind, error: Exception) -> ModelIncompatible:
    reason = (str(error).splitlines() or ["empty"])[0]
    return ModelIncompatible(f"{path} is no ONNX model that can be run ({reason}); {_known_names_hint(kind)}")


def _reload(identity: ModelRef, path: Path, kind: Kind, threads: int, device: Device) -> Model:
    """The same model in another process.

    Raises:
        ModelUnverified: The file is another one by now.
    """
    model = load_model(str(path), kind, threads, device)
    if model.identity != identity:
        raise ChecksumMismatch(f"{path} was replaced while it was in use; start again")
    return model


def verify(name: str) -> Model:
    """Load a shipped or optional model and compare its card with the manifest.

    Raises:
        ModelError: As `load_model`; and `ChecksumMismatch` if the two cards differ.
    """
    entry = manifest_entry(name)
    model = load_model(name, entry["kind"])
    card = {key: value for key, value in entry.items() if key not in FILE_KEYS}
    differing = sorted(key for key in card.keys() | model.card.keys() if card.get(key) != model.card.get(key))
    if differing:
        raise ChecksumMismatch(
            f"{model.path}: its card and the manifest differ in {', '.join(differing)}; install fervid again"
        )
    return model


def _known_names_hint(kind: Kind) -> str:
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
        raise _incompatible(path, kind, error) from error
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
        raise ModelIncompatible(f"{path} has no fervid card in its metadata; {_known_names_hint(kind)}") from None
    if not isinstance(card, dict) or card.get("kind") != kind:
        found = card.get("kind", "unknown") if isinstance(card, dict) else "unknown"
        rates = (found, kind) == ("regressor", "classifier")
        hint = " (`fervid evaluate` measures it; to classify, train one without --target)" if rates else ""
        raise ModelIncompatible(
            f"{path} is a model of the kind {found} and a {kind} is needed{hint}; {_known_names_hint(kind)}"
        )
    tensors = {tensor.name for tensor in (*session.get_inputs(), *session.get_outputs())}
    needed, said = set(REQUIRED_TENSORS[kind]), set(REQUIRED_CARD_KEYS[kind])
    for output, keys in OPTIONAL_OUTPUTS.items() if kind == "network" else ():
        if output in tensors or not keys.isdisjoint(card):
            needed.add(output)
            said |= keys
    if kind == "classifier" and "network_expressions" not in card:  # it goes with one network, or with those classes
        said.add("network_sha256")
    if missing := sorted(said - card.keys()):
        raise ModelIncompatible(f"the card of {path} lacks {', '.join(missing)}; export the model again")
    if missing := sorted(needed - tensors):
        raise ModelIncompatible(f"{path} has no input or output named {', '.join(missing)}; export the model again")
    if fault := _card_problem(card) if "input" in said else "":
        raise ModelIncompatible(f"the card of {path} {fault}; export the model again")
    return card


def _card_problem(card: Mapping[str, Any]) -> str:
    """What a card says that would fill the memory, or take for ever."""
    spec = card["input"] if isinstance(card["input"], dict) else {}
    size, multiple, smallest = spec.get("size"), spec.get("multiple", 1), card.get("smallest_face", SMALLEST_FACE[1])
    if not (isinstance(size, int) and 1 <= size <= LARGEST_INPUT):
        return f"must say input.size, of 1 to {LARGEST_INPUT} pixels"
    if not (isinstance(multiple, int) and 1 <= multiple <= size):
        return f"must say an input.multiple of 1 to {size} pixels, or none"
    if not (isinstance(smallest, float) and SMALLEST_FACE[0] <= smallest <= SMALLEST_FACE[1]):
        return f"must say a smallest_face of {SMALLEST_FACE[0]} to {SMALLEST_FACE[1]}"
    return ""
