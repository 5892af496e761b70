"""Make inputs of the record writers: a stub classifier, placeholder clips, and records."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fervid.analysis.options import Options
from fervid.core.results import ClipResult, ModelRef, Prediction

MODELS = {role: ModelRef("toy", "0" * 64) for role in ("detector", "face_model", "classifier")}


@dataclass
class Stub:
    """The attributes of a classifier that the writers need."""

    models: dict = field(default_factory=lambda: MODELS)
    options: Options = field(default_factory=Options)
    labels: tuple[str, ...] = ("calm", "angry")


def files(folder: Path, count: int) -> list[str]:
    """Write that many files of ten bytes."""
    paths = [folder / f"clip {i}.mp4" for i in range(count)]
    for path in paths:
        path.write_bytes(b"x" * 10)
    return [str(path) for path in paths]


def answer(path: str) -> ClipResult:
    """Make the record of a clip."""
    return ClipResult(path, "ok", Prediction({"calm": 0.75, "angry": 0.25}))
