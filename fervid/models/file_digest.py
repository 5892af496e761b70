"""Compare a model's file with the digest in the manifest.

Optional models whose authors publish no SHA-256 are pinned by `git_blob`, the id of the file in the authors' git
repository: the SHA-1 of its length and content. Only the publisher could make two files with the same SHA-1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any


def _git_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


DIGESTS: Mapping[str, Callable[[bytes], str]] = {
    "sha256": lambda data: hashlib.sha256(data).hexdigest(),
    "git_blob": _git_blob,
}
"""Key of a manifest entry -> digest of a file in hexadecimal."""
_LABELS = {"sha256": "SHA-256", "git_blob": "git blob id"}


def digest_mismatch(data: bytes, entry: Mapping[str, Any]) -> str:
    """Compare a file with its manifest entry; return how the digest differs, or "" if it does not."""
    for name, digest in DIGESTS.items():
        if name in entry and (actual := digest(data)) != entry[name]:
            return f"its {_LABELS[name]} is {actual}, not {entry[name]}"
    return ""
