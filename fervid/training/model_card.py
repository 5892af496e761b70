"""Write a model with its card as metadata, and its entry in the manifest of the folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from fervid.learn.classifier_export import serialize_with_card

MANIFEST = "manifest.json"


def save_with_card(model: onnx.ModelProto, card: Mapping[str, Any], path: Path) -> str:
    """Write the model with `card` in its metadata, and update `manifest.json` beside it.

    Returns:
        The SHA-256 of the file, in hexadecimal.
    """
    data = serialize_with_card(model, card)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)

    manifest_path = path.parent / MANIFEST
    empty: dict[str, Any] = {"schema": 2, "models": {}}
    manifest = json.loads(manifest_path.read_text()) if manifest_path.exists() else empty
    sha256 = hashlib.sha256(data).hexdigest()
    manifest["models"][card["name"]] = {"file": path.name, "bytes": len(data), "sha256": sha256, **card}
    manifest["models"] = dict(sorted(manifest["models"].items()))
    manifest_path.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    print(f"{path}: {len(data):,} bytes, sha256 {sha256}")
    return sha256
