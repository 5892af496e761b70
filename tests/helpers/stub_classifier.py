"""A stub classifier for batches; a worker imports this module and not pytest."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from fervid.analysis.options import Options
from fervid.analysis.windows import WindowSpec
from fervid.core.results import ClipResult, ErrorInfo, Prediction, WindowResult


@dataclass
class Stub:
    """A classifier that fails for names starting with `bad`, is slow for `slow`, and kills its process for `deadly`."""

    models: dict = field(default_factory=dict)
    options: Options = field(default_factory=Options)
    labels: tuple[str, ...] = ("calm", "angry")
    asked: list[str] = field(default_factory=list)

    def classify_or_error(self, path: str) -> ClipResult:
        """Return the record of a clip."""
        self.asked.append(path)
        time.sleep(0.05 if path.startswith("slow") else 0.001)
        if path.startswith("deadly"):
            os.kill(os.getpid(), signal.SIGKILL)
        if path.startswith("bad"):
            return ClipResult(path, "error", error=ErrorInfo("not_found", "gone"))
        return ClipResult(path, "ok", Prediction({"calm": 0.9, "angry": 0.1}))

    def timeline(self, path: str, cut: WindowSpec) -> Iterator[WindowResult]:
        """Yield three windows of a clip, or one that failed."""
        result = self.classify_or_error(path)
        for number in range(1 if path.startswith("bad") else 3):
            yield WindowResult.from_clip_result(result, number * cut.step, number * cut.step + cut.length)
