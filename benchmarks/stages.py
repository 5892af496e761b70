"""Measure the CPU time of each stage: one after another on the same frames, each on one thread.

The functions of the pipeline are patched with wrappers that measure them.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
from timing import round_figures

import fervid
from fervid.analysis import extractor
from fervid.analysis.aggregate import ClipObservations
from fervid.analysis.clip_classifier import ClipClassifier
from fervid.analysis.detector import Detector
from fervid.analysis.face_model import FaceModel
from fervid.analysis.propagation import FlowTracker
from fervid.analysis.tracker import Tracker
from fervid.media import video

FRAMES = 100  # maximum number of processed frames, which are kept in memory
POINTS = (
    ("full detection", Detector, "detect"),
    ("coarse detection", Detector, "detect_coarse"),
    ("coarse detection", Detector, "detect_around"),
    ("propagation", FlowTracker, "update"),
    ("crop", extractor, "align_face"),
    ("embed", FaceModel, "__call__"),
    ("track, pool", Tracker, "update"),
    ("track, pool", Tracker, "group_identities"),
    ("track, pool", Tracker, "compact"),
    ("track, pool", ClipObservations, "add"),
    ("track, pool", ClipObservations, "merge_tracks"),
    ("track, pool", ClipObservations, "finalize_people"),
    ("classify", ClipClassifier, "__call__"),
)


class _NestedTime(threading.local):
    seconds = 0.0  # spent in measured functions that the current one has called


class Stopwatch:
    """Measures the CPU seconds of threads in each of several functions, without those in other measured functions.

    Attributes:
        seconds: Seconds by name.
    """

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        """Start at 0."""
        self.seconds: dict[str, float] = defaultdict(float)
        self._clock, self._nested, self._lock = clock, _NestedTime(), threading.Lock()

    def wrap(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function to measure it under a name."""

        @functools.wraps(work)
        def call(*args: Any, **more: Any) -> Any:
            before, self._nested.seconds = self._nested.seconds, 0.0
            started = self._clock()
            try:
                return work(*args, **more)
            finally:
                whole = self._clock() - started
                with self._lock:
                    self.seconds[name] += whole - self._nested.seconds
                self._nested.seconds = before + whole

        return call

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Measure the functions of the pipeline inside the block."""
        with ExitStack() as patches:
            for name, owner, function in POINTS:
                patches.enter_context(patch.object(owner, function, self.wrap(name, getattr(owner, function))))
            yield


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def stages(path: Path, sampling: fervid.Sampling) -> dict[str, float]:
    """Measure CPU milliseconds per processed frame, by stage, and the number of frames."""
    classifier = fervid.load_classifier(options=fervid.Options(sampling), threads=1)
    stopwatch = Stopwatch()
    started = time.process_time()
    with closing(video.read_frames(path, sampling)) as stream:
        frames = list(islice(stream, FRAMES))
    decoded = time.process_time()
    with _one_thread(), stopwatch.measuring(), suppress(fervid.NoFaceError):
        classifier.classify_frames(frames)
    rest = time.process_time() - decoded - sum(stopwatch.seconds.values())
    names = dict.fromkeys(name for name, *_ in POINTS)
    spent = {"decode, convert": decoded - started, **{name: stopwatch.seconds[name] for name in names}, "rest": rest}
    return {
        "frames": len(frames),
        **{name: round_figures(1e3 * seconds / len(frames)) for name, seconds in spent.items()},
    }
