"""The windows of a clip with the most confident prediction of each label, explained and with thumbnails.

The records alone do not explain a prediction, so these windows are analysed again with the models that the records
name. The record of a whole clip counts as its only window.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fervid.analysis.aggregate import aggregate_clip
from fervid.analysis.clip_classifier import matches_face_model, predict_proba
from fervid.analysis.compatibility import as_incompatible_model
from fervid.analysis.explain import Explanation, baseline_features, explain, feature_groups
from fervid.analysis.extractor import Extractor
from fervid.analysis.options import Options
from fervid.analysis.thumbnails import Thumbnail, read_thumbnail
from fervid.core.errors import ModelError, ModelIncompatible, ModelNotFound
from fervid.core.records import ClipFeatures, FloatArray, FrameObservation
from fervid.core.text import format_percent
from fervid.core.worker_pool import map_ordered
from fervid.core.worker_process import NO_LIMITS, Limits, WorkerDied
from fervid.media.sampling import Sampling
from fervid.models import registry
from fervid.models.card import ModelKind
from fervid.models.registry import Model

Record = Mapping[str, Any]

TOLERANCE = 0.05
"""Allowed difference between the recorded confidence and that of the second analysis. They differ slightly, because
tracking depends on the frames before the window."""


@dataclass(frozen=True, slots=True)
class Highlight:
    """The window with the most confident prediction of a label.

    Attributes:
        record: The record of the window.
        explanation: What contributed to the prediction; None if it is unknown, and `note` says why.
        thumbnails: The frames of the window that suggest its label most, in order of time.
        note: A remark for the reader, or an empty string.
    """

    record: Record
    explanation: Explanation | None = None
    thumbnails: Sequence[Thumbnail] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class ClipHighlights:
    """The highlights of a clip.

    Attributes:
        highlights: One for each predicted label, in order of time.
        note: Why there are none, or an empty string.
    """

    highlights: Sequence[Highlight] = ()
    note: str = ""


def find_highlights(
    clips: Mapping[str, Sequence[Record]],
    files: Mapping[str, str],
    options: Options,
    *,
    thumbnails: int = 0,
    jobs: int = 0,
    threads: int = 0,
    limits: Limits = NO_LIMITS,
) -> Iterator[tuple[str, ClipHighlights]]:
    """Yield the path and the highlights of each clip; if a clip cannot be analysed, its note says why.

    Args:
        clips: Records of the windows of each clip, by path.
        files: Paths or names of models, by role, as for `load_recorded_models`.
        options: Options of the run that made the records.
        thumbnails: Number of thumbnails of each highlight.
        jobs: Number of worker processes; 0 to analyse the clips in this process.
        threads: Number of decoder threads.
        limits: Limits for a clip in a worker process.
    """

    def report_death(windows: Sequence[Record], death: WorkerDied) -> list[Highlight]:
        return [Highlight(windows[0], note=death.to_input_error(windows[0]["path"]).message)]

    for models, windows_by_path in _group_by_models(clips):
        if models is None:
            yield from ((path, ClipHighlights()) for path in windows_by_path)
            continue
        try:
            extractor = load_recorded_models(models, files, options)
        except ModelError as error:
            yield from ((path, ClipHighlights(note=error.message)) for path in windows_by_path)
            continue
        extractor = replace(extractor, thumbnails=thumbnails, threads=threads)
        results = map_ordered(extractor, windows_by_path.values(), jobs, report_death, limits)
        with closing(results):
            for path, highlights in zip(windows_by_path, results, strict=True):
                yield path, _join_notes(highlights)


def _group_by_models(
    clips: Mapping[str, Sequence[Record]],
) -> list[tuple[Mapping[str, Mapping[str, str]] | None, dict[str, list[Record]]]]:
    """Group the top windows of clips by the models that their records name; None for clips without a prediction."""
    groups: dict[str, dict[str, list[Record]]] = {}
    for path, windows in clips.items():
        top = top_window_per_label(windows)
        groups.setdefault(json.dumps(top[0]["model"] if top else None), {})[path] = top
    return [(json.loads(models), windows_by_path) for models, windows_by_path in groups.items()]


def _join_notes(highlights: Sequence[Highlight]) -> ClipHighlights:
    """Replace highlights that only repeat one note by a note for the whole clip."""
    notes = {highlight.note for highlight in highlights}
    if len(notes) > 1 or any(highlight.explanation for highlight in highlights):
        return ClipHighlights(highlights)
    return ClipHighlights(note="".join(notes))


def top_window_per_label(windows: Sequence[Record]) -> list[Record]:
    """Return the window with the most confident prediction of each label, in order of time."""
    best: dict[str, Record] = {}
    for window in windows:
        label = window["label"]
        if label is not None and (label not in best or window["confidence"] > best[label]["confidence"]):
            best[label] = window
    return sorted(best.values(), key=lambda window: window.get("start_s") or 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class HighlightExtractor:
    """Analyses windows again; picklable, and loads the same files in another process.

    Attributes:
        detector: Face detector that the records name.
        face_model: Face model that the records name.
        classifier: Clip classifier that the records name.
        options: Options of the run that made the records.
        thumbnails: Number of thumbnails of each window.
        threads: Number of decoder threads.
    """

    detector: Model
    face_model: Model
    classifier: Model
    options: Options
    thumbnails: int = 0
    threads: int = 0

    def __call__(self, windows: Sequence[Record]) -> list[Highlight]:
        """Analyse windows of a clip; the note of a window says what is wrong with it."""
        extractor = Extractor(self.detector, self.face_model, self.options, self.threads)
        return [self._analyze_window(window, extractor) for window in windows]

    def _analyze_window(self, window: Record, extractor: Extractor) -> Highlight:
        labels = tuple(window["probabilities"])
        if unknown := [label for label in labels if label not in self.classifier.card["labels"]]:
            return Highlight(window, note=f"{self.classifier.identity.name} has no label {', '.join(unknown)}.")
        observations: list[FrameObservation] = []
        sampling = _sample_window(self.options.sampling, window)
        with closing(extractor.iter_observations(window["path"], sampling)) as stream:
            clip = aggregate_clip(stream, extractor.tracker_config, 0, lambda frame, _: observations.append(frame))
        pool = clip.pool(self.options.face)
        if pool is None:
            changed = "No face was found here in a second analysis: the clip has changed."
            return Highlight(window, note=clip.error.message if clip.error else changed)
        explanation = self._explain(pool.features(), labels)
        note = ""
        if explanation.label != window["label"] or abs(explanation.confidence - window["confidence"]) > TOLERANCE:
            note = (
                f"A second analysis predicts {explanation.label} with {format_percent(explanation.confidence, 0)}: the"
                " clip has changed, or options such as --fps and --face differ from those of the run."
            )
        times = self._peak_frame_times(observations, extractor, window["label"], labels) if self.thumbnails else []
        thumbnails = [read_thumbnail(window["path"], time, self.options) for time in times]
        return Highlight(window, explanation, thumbnails, note)

    def _explain(self, features: ClipFeatures, labels: Sequence[str]) -> Explanation:
        with as_incompatible_model(self.classifier):
            names = list(self.classifier.card["statistics"])
            row = features.vector(names)
            baseline = baseline_features(self.classifier.path.read_bytes(), len(row))
            groups = feature_groups(features, names, self.face_model.card["expressions"])
            return explain(lambda rows: self._predict(rows, labels), row, baseline, groups, labels)

    def _predict(self, rows: FloatArray, labels: Sequence[str]) -> FloatArray:
        """Return (n, c) probabilities of the c labels, which may be a subset of the classifier's."""
        return predict_proba(self.classifier.session, self.classifier.card, rows, labels)

    def _peak_frame_times(
        self, observations: Sequence[FrameObservation], extractor: Extractor, label: str, labels: Sequence[str]
    ) -> list[float]:
        """Divide the frames with a face into as many parts as thumbnails.

        Returns:
            The time of the frame of each part from which alone the label is predicted with the highest probability.
        """
        names = self.classifier.card["statistics"]
        times, rows = [], []
        for observation in observations:
            pool = aggregate_clip([observation], extractor.tracker_config).pool(self.options.face)
            if pool is not None:
                times.append(observation.time)
                rows.append(pool.features().vector(names))
        probabilities = self._predict(np.array(rows), labels)[:, list(labels).index(label)]
        parts = np.array_split(np.arange(len(times)), min(self.thumbnails, len(times)))
        return [times[part[probabilities[part].argmax()]] for part in parts]


def _sample_window(sampling: Sampling, window: Record) -> Sampling:
    """Limit the sampling to a window; a record without times covers the whole clip."""
    if "start_s" not in window:
        return sampling
    start, end = window["start_s"], window["end_s"]
    return replace(sampling, start=start, end=end if end > start else None)


def load_recorded_models(
    models: Mapping[str, Mapping[str, str]], files: Mapping[str, str], options: Options
) -> HighlightExtractor:
    """Load the models that a record names.

    Args:
        models: `name` and `sha256` of each model, by role, as in a record.
        files: Paths or names, by role, of models that are not installed under the name in the record.
        options: Options of the run that made the record.

    Raises:
        ModelError: A model is missing, or is not the one that the record names.
    """
    detector = _load_recorded_model("detector", models, files)
    face_model = _load_recorded_model("face_model", models, files)
    classifier = _load_recorded_model("classifier", models, files)
    if not matches_face_model(classifier.card, face_model.sha256s, face_model.card["expressions"]):
        raise ModelIncompatible(
            f"{classifier.identity.name} was trained on another face model than the one that the record names"
        )
    return HighlightExtractor(detector, face_model, classifier, options)


def _load_recorded_model(role: ModelKind, models: Mapping[str, Mapping[str, str]], files: Mapping[str, str]) -> Model:
    role_name, flag = role.replace("_", " "), f"--{role.replace('_', '-')}"
    if role not in models:
        raise ModelNotFound(f"the record names no {role_name}, so its predictions cannot be explained")
    name, sha256 = models[role]["name"], models[role]["sha256"]
    # A record may come from anywhere, so its name of a model must not be used as a path.
    candidates = [name] if name in registry.installed_models() else []
    candidates += [files[role]] if role in files else []
    if not candidates:
        raise ModelNotFound(f"the {role_name} {name} is not an installed model; pass its file with {flag}")
    loaded = [registry.load_model(candidate, role, 1) for candidate in candidates]
    model = next((model for model in loaded if model.identity.sha256 == sha256), loaded[-1])
    if model.identity.sha256 != sha256:
        raise ModelIncompatible(
            f"{model.path} is not the {role_name} that the record names: its SHA-256 begins with"
            f" {model.identity.sha256[:12]}, not {sha256[:12]}; pass the right file with {flag}"
        )
    return model
