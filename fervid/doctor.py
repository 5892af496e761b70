"""What works here: versions, codecs, threads, providers and models."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import av
import joblib
import onnxruntime

from fervid import models
from fervid.errors import ModelError

PACKAGES = ("fervid", "av", "opencv-python-headless", "numpy", "scikit-learn", "typer", "rich", "tqdm")
DECODERS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "cinepak", "gif")


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: what was looked at, whether it is well, and what was seen or what to do."""

    name: str
    well: bool
    finding: str


def checks() -> Iterator[Check]:
    """Look at everything that a classification needs."""
    yield Check("python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in PACKAGES:
        try:
            yield Check(package, True, version(package))
        except PackageNotFoundError:
            yield Check(package, False, f"not installed; pip install {package}")
    missing = [name for name in DECODERS if name not in av.codecs_available]
    yield Check(
        "decoders", not missing, f"missing: {', '.join(missing)}; reinstall av" if missing else ", ".join(DECODERS)
    )
    yield Check("cpus", True, f"{joblib.cpu_count()} usable of {os.cpu_count()}")
    yield Check("onnxruntime", True, onnxruntime.__version__)  # which of its packages is installed does not matter
    yield Check("providers", True, ", ".join(onnxruntime.get_available_providers()))
    try:
        names = models.here()
    except ModelError as error:
        yield Check("models", False, error.message)
        return
    for name in names:
        try:
            yield Check(f"model {name}", True, f"verified, SHA-256 {models.verify(name).identity.sha256[:12]}")
        except ModelError as error:
            yield Check(f"model {name}", False, error.message)
