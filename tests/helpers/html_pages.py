"""Make results for reports: records of `classify` and `timeline`, and evaluations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fervid.core.results import ClipResult, ErrorInfo, ModelRef, Person, Prediction, Status, WindowResult
from fervid.learn.metrics import Predictions, evaluate

EVIL = "</script><img src=x onerror=alert(1)>\"' & \u202e {{ 7 * 7 }} 😀 \udcff.mp4"
"""A clip name with markup."""
MODELS = {role: ModelRef(f"toy-{role}", "0" * 64) for role in ("detector", "face_model", "classifier")}


def clip(path: str, status: Status = "ok", sure: float = 0.75, labels: Sequence[str] = ("calm", "joy")) -> ClipResult:
    """Make a record with the probability of the first of two labels."""
    answer = Prediction({labels[0]: sure, labels[1]: 1 - sure}) if status == "ok" else None
    return ClipResult(
        path,
        status,
        answer,
        (Person(0, 1.5, answer),) if answer else (),
        duration_s=None if status == "error" else 2.5,
        models=MODELS,
        error=ErrorInfo("not_found", f"{path} does not exist") if status in ("error", "skipped") else None,
    )


def windows(path: str, sure: Iterable[float | None], **more: Any) -> list[WindowResult]:
    """Make a window of 2 s each second; None is a window without a face."""
    return [
        WindowResult.from_clip_result(
            clip(path, "no_face") if p is None else clip(path, sure=p, **more), float(i), i + 2.0
        )
        for i, p in enumerate(sure)
    ]


def lines(path: Path, results: Iterable[ClipResult | Mapping[str, Any]]) -> Path:
    """Write records as JSON Lines."""
    plain = (result if isinstance(result, Mapping) else result.as_dict() for result in results)
    path.write_text("".join(json.dumps(record) + "\n" for record in plain))
    return path


def report(
    labels: Sequence[str] = ("calm", "joy"), truth: Sequence[int] = (0, 0, 0, 1), said: Sequence[int] = (0, 0, 1, 1)
) -> dict[str, Any]:
    """Make the result of `evaluate`; -1 is a clip without a prediction."""
    probabilities = np.full((len(truth), len(labels)), 0.2 / (len(labels) - 1), np.float32)
    for row, answer in enumerate(said):
        probabilities[row] = np.nan if answer < 0 else probabilities[row]
        if answer >= 0:
            probabilities[row, answer] = 0.8
    return evaluate(Predictions(labels, np.array(truth), probabilities))
