"""Find models by name or path, verify their files and load them.

The shipped models are in the top-level folder `models/` (in a wheel: `fervid/_models/`), beside `manifest.json`, which
lists the SHA-256 of each. The manifest also lists optional third-party models, which `fervid models pull` downloads
into the user's data folder. A file is read once, hashed, and passed to onnxruntime from memory, so the bytes that were
verified are the bytes that run, and a model cannot load other files.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import onnxruntime

from fervid.core.atomic_io import user_dir
from fervid.core.errors import ChecksumMismatch, ModelIncompatible, ModelNotFound, UsageError
from fervid.core.results import ModelRef
from fervid.models.card import REQUIRED_CARD_KEYS, ModelKind, read_card
from fervid.models.file_digest import DIGESTS, digest_mismatch
from fervid.models.session import ONNX_ERRORS, Device, check_device, open_session

DEFAULTS: Mapping[ModelKind, str] = {
    "detector": "blazeface-back",
    "face_model": "mobilenetv1",
    "classifier": "emotion8",
}
AVERAGING_CLASSIFIER = "mean8"
"""Classifies by the mean of the probabilities, which every face model with these eight expressions has."""
FILE_KEYS = frozenset({"file", "url", "bytes", "max_bytes", "sha256", "git_blob"})
"""Keys of a manifest entry that describe the file; the other keys are the card."""
MAX_MODEL_BYTES = 2**29


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A verified model. Pickling it keeps the path, and unpickling loads and verifies the file again.

    Attributes:
        identity: Name and SHA-256.
        path: The ONNX file.
        card: The file's description of itself: kind, labels, preprocessing, data, license, figures.
        session: The opened model.
        threads: Threads that the session may use.
        device: The requested device.
    """

    identity: ModelRef
    path: Path
    card: Mapping[str, Any]
    session: onnxruntime.InferenceSession
    threads: int = 1
    device: Device = "cpu"

    @property
    def sha256s(self) -> tuple[str, ...]:
        """Digests that other cards may refer to: its own, and that of the file it was quantised from, or ""."""
        return self.identity.sha256, str(self.card.get("quantised_from", ""))

    def __reduce__(self) -> tuple[Any, ...]:
        return _reload, (self.identity, self.path.absolute(), self.card["kind"], self.threads, self.device)


def models_dir() -> Path:
    """Return the folder of the shipped models, in a wheel or in a checkout.

    Raises:
        ModelNotFound: Neither folder has a manifest.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "_models", package.parent / "models"):
        if (folder / "manifest.json").is_file():
            return folder
    raise ModelNotFound("the shipped models are missing; install fervid again")


@cache
def manifest(section: Literal["models", "optional"] = "models") -> Mapping[str, Mapping[str, Any]]:
    """Return the manifest entry (file, size, digest and card) of every shipped or every optional model, by name.

    Raises:
        ChecksumMismatch: The manifest is damaged.
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
    complete = {"file", "url", "kind", "name", "published"} <= entry.keys()
    return complete and not entry.keys().isdisjoint({"bytes", "max_bytes"}) and not entry.keys().isdisjoint(DIGESTS)


def manifest_entry(name: str) -> Mapping[str, Any]:
    """Return the manifest entry of a shipped or optional model.

    Raises:
        ModelNotFound: No model has that name.
    """
    for models in (manifest(), manifest("optional")):
        if name in models:
            return models[name]
    raise ModelNotFound(f"no model is named {name!r}; known models: {', '.join((*manifest(), *manifest('optional')))}")


def model_path(entry: Mapping[str, Any]) -> Path:
    """Return the path of a model's file; that of an optional model exists only once it was downloaded."""
    if "url" in entry:
        return user_dir("data") / "models" / str(entry["file"])
    return models_dir() / str(entry["file"])


def installed_models() -> list[str]:
    """List the names of the shipped models and of the optional ones that were downloaded."""
    names = [*manifest()]
    with suppress(UsageError):  # without a home folder nothing was downloaded
        names += [name for name, entry in manifest("optional").items() if os.path.isfile(model_path(entry))]
    return names


def load_model(name: str, kind: ModelKind, threads: int = 1, device: Device = "cpu") -> Model:
    """Load a model by its name in the manifest or by the path of its file, after verifying it.

    Args:
        name: Manifest name, or the path of an ONNX file that has a card or is an optional model.
        kind: The kind of model that is needed.
        threads: Threads that one call of the session may use.
        device: Where to run; `auto` is a GPU if one can be used, and the CPU otherwise.

    Raises:
        UsageError: `device` is unknown, or is `cuda` and cannot be used.
        ModelNotFound: `name` is no model and no readable file, or is an optional model that was not downloaded.
        ChecksumMismatch: The file of a shipped or optional model is not the one in the manifest.
        ModelIncompatible: The file is no ONNX model, has no card or a card of another kind, or exceeds a limit.
    """
    check_device(device)
    source = _find(name, kind)
    data = _read_source(source)
    sha256, hint = hashlib.sha256(data).hexdigest(), _suggest_names(kind)
    try:
        is_shipped = any(sha256 == entry["sha256"] for entry in manifest().values())
        session = open_session(data if is_shipped else _prepare_bytes(data), threads, device)
    except (ValueError, *ONNX_ERRORS) as error:
        reason = (str(error).splitlines() or ["empty"])[0]
        raise ModelIncompatible(f"{source.path} is no ONNX model that can be run ({reason}); {hint}") from error
    card = read_card(session, source.path, kind, hint)
    identity = ModelRef(str(card.get("name", source.path.stem)), sha256)
    return Model(identity, source.path, card, session, threads, device)


@dataclass(frozen=True, slots=True)
class _Source:
    """The file of a model, and its entry in the manifest; None if `name` is a path."""

    name: str
    kind: ModelKind
    path: Path
    entry: Mapping[str, Any] | None

    @property
    def is_optional(self) -> bool:
        return self.entry is not None and "url" in self.entry

    @property
    def advice(self) -> str:
        """What to do if the file is missing or damaged."""
        if self.entry is None:
            return _suggest_names(self.kind)
        return f"`fervid models pull {self.name}` downloads it" if self.is_optional else "install fervid again"


def _find(name: str, kind: ModelKind) -> _Source:
    entry = manifest().get(name) or manifest("optional").get(name)
    return _Source(name, kind, model_path(entry) if entry else Path(name), entry)


def _read_source(source: _Source) -> bytes:
    """Read a model's file, and compare it with the manifest.

    Raises:
        ModelNotFound: It cannot be read.
        ModelIncompatible: It is too large.
        ChecksumMismatch: It is not the file in the manifest.
    """
    path, entry, kind = source.path, source.entry, source.kind.replace("_", " ")
    try:
        data = _read(path)
    except (OSError, ValueError) as error:
        if source.is_optional and isinstance(error, FileNotFoundError):
            message = f"the optional {kind} {source.name} was not downloaded yet"
        else:
            reason = getattr(error, "strerror", None) or error
            message = f"{kind} {str(path) if entry else source.name!r} cannot be read ({reason})"
        raise ModelNotFound(f"{message}; {source.advice}") from error
    if entry and (difference := digest_mismatch(data, entry)):
        origin = "published" if source.is_optional else "shipped"
        raise ChecksumMismatch(f"{path} is not the file that was {origin}: {difference}; {source.advice}")
    return data


def _read(path: Path) -> bytes:
    """Read a regular file of at most `MAX_MODEL_BYTES`.

    Raises:
        ModelIncompatible: It is larger.
        OSError: It cannot be read, or is no regular file.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a regular file")
    if status.st_size > MAX_MODEL_BYTES:
        raise ModelIncompatible(
            f"{path} has {status.st_size:,} bytes, but a model may have at most {MAX_MODEL_BYTES:,}; use another file"
        )
    with path.open("rb") as file:
        return file.read(MAX_MODEL_BYTES)


def _prepare_bytes(data: bytes) -> bytes:
    """Make a file safe to open: adapt it if it is an optional model, wherever it is stored, and validate it otherwise.

    Raises:
        ValueError: It is not a valid file of its kind.
    """
    from fervid.models import onnx_adapters, onnx_validation  # these import onnx, which shipped models do not need

    for entry in manifest("optional").values():
        if not digest_mismatch(data, entry):
            return onnx_adapters.adapt_published_model(
                data, {key: value for key, value in entry.items() if key not in FILE_KEYS}
            )
    onnx_validation.validate_onnx(data)
    return data


def _reload(identity: ModelRef, path: Path, kind: ModelKind, threads: int, device: Device) -> Model:
    """Load the same model in another process.

    Raises:
        ChecksumMismatch: The file has changed since.
    """
    model = load_model(str(path), kind, threads, device)
    if model.identity != identity:
        raise ChecksumMismatch(f"{path} was replaced while it was in use; start again")
    return model


def verify(name: str) -> Model:
    """Load a shipped or optional model, and compare its card with the manifest.

    Raises:
        ModelError: As for `load_model`; `ChecksumMismatch` also if the two cards differ.
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


def _suggest_names(kind: ModelKind) -> str:
    names = ", ".join(sorted(name for name, entry in manifest().items() if entry["kind"] == kind))
    return f"known names: {names or 'none'}; or give the path of an ONNX file that fervid made"
