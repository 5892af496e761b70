"""Writes a model with its card inside, and the entry of it in the manifest beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from fervid.learn.model_selection import serialize_with_card

MANIFEST = "manifest.json"


def save_with_card(model: onnx.ModelProto, card: Mapping[str, Any], path: Path) -> str:
    """Store `card` in the model's metadata, write the file and its manifest entry.

    Returns:
        The SHA-256 of the file, in hexadecimal.
    """
    data = serialize_with_card(model, card)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)

    manifest_path = path.parent / MANIFEST
    empty: dict[str, Any] = {"schema": 1, "models": {}}
    manifest = json.loads(manifest_path.read_text()) if manifest_path.exists() else empty
    sha256 = hashlib.sha256(data).hexdigest()
    manifest["models"][card["name"]] = {"file": path.name, "bytes": len(data), "sha256": sha256, **card}
    manifest["models"] = dict(sorted(manifest["models"].items()))
    manifest_path.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    print(f"{path}: {len(data):,} bytes, sha256 {sha256}")
    return sha256
