"""Where the CPU goes: the stages one after another on the same frames, each on one thread.

The functions that the pipeline calls are wrapped from outside, and only here.
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
from timing import rounded

import fervid
from fervid.analysis import extractor
from fervid.analysis.aggregate import ClipObservations
from fervid.analysis.clip_classifier import ClipClassifier
from fervid.analysis.detector import Detector
from fervid.analysis.face_model import FaceModel
from fervid.analysis.propagation import FlowTracker
from fervid.analysis.tracker import Tracker
from fervid.media import video

FRAMES = 100  # are looked at, and held in memory
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


class _Inside(threading.local):
    seconds = 0.0  # of watched functions that the one that runs has called


class Stopwatch:
    """CPU seconds that threads spend in each of several functions, without those in others that they call.

    Attributes:
        seconds: By name.
    """

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        """Start at 0."""
        self.seconds: dict[str, float] = defaultdict(float)
        self._clock, self._inside, self._lock = clock, _Inside(), threading.Lock()

    def watched(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, watched under that name."""

        @functools.wraps(work)
        def call(*args: Any, **more: Any) -> Any:
            before, self._inside.seconds = self._inside.seconds, 0.0
            started = self._clock()
            try:
                return work(*args, **more)
            finally:
                whole = self._clock() - started
                with self._lock:
                    self.seconds[name] += whole - self._inside.seconds
                self._inside.seconds = before + whole

        return call

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While inside, whatever the pipeline calls is watched."""
        with ExitStack() as patches:
            for name, owner, function in POINTS:
                patches.enter_context(patch.object(owner, function, self.watched(name, getattr(owner, function))))
            yield


@contextmanager
def _one_thread() -> Iterator[None]:
    usual = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(usual)


def stages(path: Path, sampling: fervid.Sampling) -> dict[str, float]:
    """CPU milliseconds for each frame that is looked at, by stage, and how many were."""
    classifier = fervid.load_classifier(options=fervid.Options(sampling), threads=1)
    stopwatch = Stopwatch()
    started = time.process_time()
    with closing(video.read_frames(path, sampling)) as stream:
        frames = list(islice(stream, FRAMES))
    decoded = time.process_time()
    with _one_thread(), stopwatch.watching(), suppress(fervid.NoFaceError):
        classifier.classify_frames(frames)
    rest = time.process_time() - decoded - sum(stopwatch.seconds.values())
    names = dict.fromkeys(name for name, *_ in POINTS)
    spent = {"decode, convert": decoded - started, **{name: stopwatch.seconds[name] for name in names}, "rest": rest}
    return {"frames": len(frames), **{name: rounded(1e3 * seconds / len(frames)) for name, seconds in spent.items()}}
