"""Write a model with its card as metadata, and its entry in the manifest of the folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from fervid.core.atomic_io import atomic_write
from fervid.learn.classifier_export import serialize_with_card

MANIFEST = "manifest.json"
SCHEMA = 2


def save_with_card(model: onnx.ModelProto, card: Mapping[str, Any], path: Path) -> str:
    """Write the model with `card` in its metadata, and update `manifest.json` beside it, unless that is another's.

    Returns:
        The SHA-256 of the file, in hexadecimal.
    """
    data = serialize_with_card(model, card)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)

    manifest_path = path.parent / MANIFEST
    manifest = _load_manifest(manifest_path)
    sha256 = hashlib.sha256(data).hexdigest()
    if manifest is not None:
        manifest["models"][card["name"]] = {"file": path.name, "bytes": len(data), "sha256": sha256, **card}
        manifest["models"] = dict(sorted(manifest["models"].items()))
        with atomic_write(manifest_path, force=True) as file:
            file.write(json.dumps(manifest, indent=2, ensure_ascii=False).encode() + b"\n")
    print(f"{path}: {len(data):,} bytes, sha256 {sha256}")
    return sha256


def _load_manifest(path: Path) -> dict[str, Any] | None:
    """Load a manifest of models; an empty one if there is none, and None if the file is something else."""
    if not path.exists():
        return {"schema": SCHEMA, "models": {}}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return manifest if isinstance(manifest, dict) and isinstance(manifest.get("models"), dict) else None
