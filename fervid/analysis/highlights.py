"""A clip and what was said of its windows -> its strongest moments, looked at again.

The strongest moment of a label is the window that was given it most surely. Only those windows are read, and by the
models that answered, so that what is told of them is what happened.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from fervid.analysis.aggregate import aggregate_clip
from fervid.analysis.clip_classifier import matches_network, predict_proba
from fervid.analysis.explain import Explanation, baseline, explain, feature_groups
from fervid.analysis.extractor import Extractor, Options, as_incompatible_model
from fervid.core.errors import InputError, ModelError, ModelIncompatible, ModelNotFound
from fervid.core.records import ClipFeatures, FloatArray, Frame, FrameObservation, Image
from fervid.core.worker_pool import Limits, WorkerDied, map_ordered
from fervid.media import video
from fervid.models import registry
from fervid.models.registry import Model

Record = Mapping[str, Any]

THUMBNAIL_PX = 320
"""Pixels of the longer side of a thumbnail."""
TOLERANCE = 0.05
"""By how much a confidence may differ on looking again, for what came before a window bears on how it is followed."""
_MOMENT = 1e-3  # seconds; within it lies the frame that was asked for


@dataclass(frozen=True, slots=True)
class Highlight:
    """The window that was given a label most surely.

    Attributes:
        record: What was said of it.
        explanation: What spoke for the label; None if nobody can tell, and `note` says why.
        time: When the thumbnail was taken, in seconds.
        thumbnail: A frame of it as JPEG in a `data:` URL; None without.
        note: What has to be said besides, in plain words.
    """

    record: Record
    explanation: Explanation | None = None
    time: float | None = None
    thumbnail: str | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class ClipHighlights:
    """What looking at a clip again has shown.

    Attributes:
        moments: Its strongest moments, in order of time.
        note: Why there are none, in plain words.
    """

    moments: Sequence[Highlight] = ()
    note: str = ""


def find_highlights(
    clips: Mapping[str, Sequence[Record]],
    files: Mapping[str, str],
    options: Options,
    *,
    thumbnails: bool = False,
    jobs: int = 0,
    threads: int = 0,
    limits: Limits | None = None,
) -> Iterator[tuple[str, ClipHighlights]]:
    """Every clip with what looking at it again has shown; what cannot be looked at has a note that says why.

    Args:
        clips: Path to the records of its windows.
        files: As of `load_recorded_models`.
        options: How the clips were looked at.
        thumbnails: Whether to take a frame of each moment.
        jobs: Processes that look at a clip each; 0 to look in this one.
        threads: To decode with.
        limits: What a clip may cost in a process of its own.
    """

    def lost(windows: Sequence[Record], death: WorkerDied) -> list[Highlight]:
        return [Highlight(windows[0], note=death.problem(windows[0]["path"]).message)]

    by_models: dict[str, dict[str, list[Record]]] = {}
    for path, windows in clips.items():
        best = top_window_per_label(windows)
        by_models.setdefault(json.dumps(best[0]["model"] if best else None), {})[path] = best
    for key, some in by_models.items():
        named = json.loads(key)
        if named is None:
            yield from ((path, ClipHighlights()) for path in some)
            continue
        try:
            looker = load_recorded_models(named, files, options, thumbnails=thumbnails, threads=threads)
        except ModelError as error:
            yield from ((path, ClipHighlights(note=error.message)) for path in some)
            continue
        found = map_ordered(looker, some.values(), jobs, lost, limits or Limits())
        with closing(found):
            for path, moments in zip(some, found, strict=True):
                notes = {moment.note for moment in moments}
                told = any(moment.explanation for moment in moments) or len(notes) > 1
                yield path, ClipHighlights(moments) if told else ClipHighlights(note="".join(notes))


def top_window_per_label(windows: Sequence[Record]) -> list[Record]:
    """Of each label that a window was given the one with the highest confidence, in order of time."""
    best: dict[str, Record] = {}
    for window in windows:
        label = window["label"]
        if label is not None and (label not in best or window["confidence"] > best[label]["confidence"]):
            best[label] = window
    return sorted(best.values(), key=lambda window: window["start_s"] or 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class HighlightExtractor:
    """Looks at moments again; may be sent to another process, where it loads the same files.

    Attributes:
        detector: As the record names it.
        network: Likewise.
        classifier: Likewise.
        options: How the clip was looked at.
        thumbnails: Whether to take a frame of each moment.
        threads: To decode with.
    """

    detector: Model
    network: Model
    classifier: Model
    options: Options
    thumbnails: bool = False
    threads: int = 0

    def __call__(self, windows: Sequence[Record]) -> list[Highlight]:
        """Some windows of a clip, looked at again; what cannot be read is said in their notes."""
        return [self._moment(window) for window in windows]

    def _moment(self, window: Record) -> Highlight:
        begin, end, labels = window["start_s"], window["end_s"], tuple(window["probabilities"])
        if unknown := [label for label in labels if label not in self.classifier.card["labels"]]:
            return Highlight(window, note=f"{self.classifier.identity.name} does not know {', '.join(unknown)}.")
        sampling = replace(self.options.sampling, start=begin, end=end if end > begin else None)
        options = replace(self.options, sampling=sampling)
        extractor = Extractor(self.detector, self.network, options, self.threads)
        observed: list[FrameObservation] = []
        problem = ""
        try:
            with closing(extractor.watch(window["path"])) as watched:
                observed.extend(watched)
        except InputError as error:
            problem = error.message
        pool = aggregate_clip(observed, extractor.rule, 0).pool(options.face)
        if pool is None:
            return Highlight(window, note=problem or "On looking again no face was seen here: the clip has changed.")
        told = self._explained(pool.features(), labels)
        note = ""
        if told.label != window["label"] or abs(told.confidence - window["confidence"]) > TOLERANCE:
            note = (
                f"On looking again the answer is {told.label} with {100 * told.confidence:.0f} %: the clip has"
                " changed, or --fps, --face and the like are not what they were."
            )
        if not self.thumbnails:
            return Highlight(window, told, note=note)
        time = self._surest(observed, extractor, window["label"], labels)
        return Highlight(window, told, time, _thumbnail(window["path"], time, options), note)

    def _explained(self, features: ClipFeatures, labels: Sequence[str]) -> Explanation:
        with as_incompatible_model(self.classifier):
            names = list(self.classifier.card["statistics"])
            row = features.vector(names)
            data = self.classifier.path.read_bytes()
            parts = feature_groups(features, names, self.network.card["expressions"])
            return explain(lambda rows: self._say(rows, labels), row, baseline(data, len(row)), parts, labels)

    def _say(self, rows: FloatArray, labels: Sequence[str]) -> FloatArray:
        """(n, c) probabilities of those labels, which may be some of the classifier's."""
        return predict_proba(self.classifier.session, self.classifier.card, rows, labels)

    def _surest(
        self, observed: Sequence[FrameObservation], extractor: Extractor, label: str, labels: Sequence[str]
    ) -> float:
        """When the frame was shown from which alone the classifier would say the label most surely."""
        names = self.classifier.card["statistics"]
        pools = ((one, aggregate_clip([one], extractor.rule).pool(self.options.face)) for one in observed)
        found = [(one.time, pool.features().vector(names)) for one, pool in pools if pool is not None]
        sure = self._say(np.array([row for _, row in found]), labels)[:, list(labels).index(label)]
        return found[int(sure.argmax())][0]


def load_recorded_models(
    named: Mapping[str, Mapping[str, str]],
    files: Mapping[str, str],
    options: Options,
    *,
    thumbnails: bool = False,
    threads: int = 0,
) -> HighlightExtractor:
    """The models that a record names, to look again with them.

    Args:
        named: Role to `name` and `sha256`, as in a record.
        files: Role to the path or name of a model, where the name in the record is none that is known here.
        options: How the clips were looked at.
        thumbnails: Whether to take a frame of each moment.
        threads: To decode with.

    Raises:
        ModelError: A model is not here, or is another one than that which answered.
    """
    found = {}
    for role in ("detector", "network", "classifier"):
        if role not in named:
            raise ModelNotFound(f"the record names no {role}, so what it rests on cannot be told")
        name, sha256 = named[role]["name"], named[role]["sha256"]
        places = (
            [name] if name in registry.installed_models() else []
        )  # a record comes from anywhere, so it names no files
        places += [files[role]] if role in files else []
        if not places:
            raise ModelNotFound(
                f"the {role} that answered, {name}, is not known here by that name; give its file with --{role}"
            )
        loaded = [registry.load_model(place, role, 1) for place in places]
        model = next((one for one in loaded if one.identity.sha256 == sha256), loaded[-1])
        if model.identity.sha256 != sha256:
            raise ModelIncompatible(
                f"{model.path} is not the {role} that answered (its SHA-256 begins with {model.identity.sha256[:12]},"
                f" not {sha256[:12]}); give that with --{role}"
            )
        found[role] = model
    network = found["network"]
    if not matches_network(found["classifier"].card, network.sha256s, network.card["expressions"]):
        raise ModelIncompatible(
            f"{found['classifier'].identity.name} was fitted on another network than the record names"
        )
    return HighlightExtractor(**found, options=options, thumbnails=thumbnails, threads=threads)


def _thumbnail(path: str, time: float, options: Options) -> str | None:
    """The frame that is shown at that time, small, as a `data:` URL."""
    sampling = replace(options.sampling, fps=None, start=max(0.0, time - _MOMENT), end=time + _MOMENT)
    try:
        with closing(video.read_frames(path, sampling)) as frames:
            shown: Frame | None = next((frame for frame in frames if frame.time >= time - _MOMENT), None)
            return _jpeg(shown.image) if shown else None
    except InputError:  # it has been read a moment ago, and the page can do without
        return None


def _jpeg(image: Image) -> str:
    scale = min(1.0, THUMBNAIL_PX / max(image.shape[:2]))
    size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    data = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"
