"""The pipeline: one clip, or frames in memory, to one record."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, BinaryIO

from fervid.analysis.aggregate import ClipObservations, aggregate_clip
from fervid.analysis.baseline import IDENTITY, LOGITS, BaselineReference, ObservedRecord, shift_features
from fervid.analysis.clip_classifier import ClipClassifier
from fervid.analysis.clip_timeline import ClipTimeline, build_clip_timeline
from fervid.analysis.compatibility import as_incompatible_model, check_compatible, check_labels, default_classifier
from fervid.analysis.early_exit import exit_levels
from fervid.analysis.extractor import Extractor, load_extractor
from fervid.analysis.frame_rows import RecordedClip, frame_columns, pool_rows, record_clip
from fervid.analysis.options import Options
from fervid.analysis.result_builder import AttributeNames, ResultBuilder
from fervid.analysis.windows import WindowObservations, WindowSpec
from fervid.core.errors import UsageError
from fervid.core.frame_rows import FrameColumns, FrameRow
from fervid.core.records import Frame
from fervid.core.results import Baseline, ClipResult, WindowResult
from fervid.media.latest_frame import LatestFrameSource
from fervid.media.sampling import Sampling
from fervid.models import registry
from fervid.models.session import Device


class Classifier:
    """The whole pipeline, with its models loaded. Several threads may call its methods at once.

    Everything runs in this process, so a file that crashes or hangs the decoder, or exhausts memory, affects it too;
    `batch.runner.classify_all` gives each clip a process. Unpickling in another process loads the same files there.
    """

    def __init__(self, extractor: Extractor, classifier: registry.Model) -> None:
        """Combine a clip classifier with the extractor that it was trained on.

        Args:
            extractor: Computes the features of a clip.
            classifier: The clip classifier.

        Raises:
            ModelIncompatible: The classifier was trained on another face model, or a model does not match its card.
            UsageError: The options and the models do not fit: unknown or fewer than two labels, early exit without
                thresholds, a missing baseline, attributes that the face model does not estimate, or a classifier that
                needs `face="all"`.
        """
        face_model, options = extractor.face_model, extractor.options
        check_compatible(face_model, classifier, options)
        self.extractor, self.options = extractor, options
        self._classifier = classifier
        models = {"detector": extractor.detector, "face_model": face_model, "classifier": classifier}
        self.models = {role: model.identity for role, model in models.items()}
        self.files = {role: model.path for role, model in models.items()}
        with as_incompatible_model(face_model):
            attributes = AttributeNames.from_card(face_model.card)
        with as_incompatible_model(classifier):
            self.labels: tuple[str, ...] = options.labels or tuple(classifier.card["labels"])
            self._classify = ClipClassifier(classifier.session, classifier.card, options.labels)
            check_labels(options.labels, classifier.card)
            self._exit_levels = exit_levels(classifier.card) if options.adaptive else ()
            requested = attributes if options.attributes else None
            self._results = ResultBuilder(
                self.models, self._classify, extractor.tracker_config, options.face, requested
            )
            self._results.make_person(0, extractor.warmup_stats)
            self._baseline_statistics = {*classifier.card["statistics"], LOGITS, IDENTITY}

    @property
    def card(self) -> Mapping[str, Any]:
        """Model card of the clip classifier."""
        return self._classifier.card

    def __reduce__(self) -> tuple[Any, ...]:
        return Classifier, (self.extractor, self._classifier)

    def classify(self, path: str | os.PathLike[str]) -> ClipResult:
        """Classify a clip.

        Args:
            path: Path of a video or image file.

        Raises:
            NoFaceError: No face was found.
            InputError: The file could not be read.
        """
        started = time.perf_counter()
        return self._results.build_or_raise(os.fspath(path), self._observe(path), started)

    def classify_or_error(self, path: str | os.PathLike[str]) -> ClipResult:
        """Classify a clip; if that fails, return a record of the error instead of raising it."""
        started = time.perf_counter()
        return self._results.build(os.fspath(path), self._observe(path), started)

    def classify_many(self, paths: Iterable[str | os.PathLike[str]]) -> Iterator[ClipResult]:
        """Classify clips in order, yielding a record of the error for each clip that fails.

        Raises:
            UsageError: `paths` is a single path.
        """
        if isinstance(paths, str | bytes | os.PathLike):
            raise UsageError(f"{paths!r} is a single path; use classify() for it, or pass a list of paths")
        return map(self.classify_or_error, paths)

    def classify_frames(self, frames: Iterable[Frame], name: str = "frames") -> ClipResult:
        """Classify frames that are in memory or come from another decoder.

        Args:
            frames: Frames in order of time.
            name: The `path` of the result.

        Raises:
            NoFaceError: No face was found.
            InputError: There are no frames, or iterating over them raised this error.
        """
        started = time.perf_counter()
        observations = self.extractor.observe_frames(frames)
        clip = aggregate_clip(observations, self.extractor.tracker_config)
        return self._results.build_or_raise(name, clip, started)

    def observe_clip(self, path: str | os.PathLike[str], sampling: Sampling | None = None) -> list[ObservedRecord]:
        """Classify a clip and keep the features that `apply_baseline` needs.

        Args:
            path: Path of a video or image file.
            sampling: Which frames to sample; None for those of the options.
        """
        started = time.perf_counter()
        clip = self.extractor.observe_clip(path, sampling)
        result = self._results.build(os.fspath(path), clip, started)
        return [ObservedRecord(result, clip.select_features(self._baseline_statistics))]

    def observe_windows(self, path: str | os.PathLike[str], spec: WindowSpec | None = None) -> list[ObservedRecord]:
        """Classify each window of a clip and keep the features that `apply_baseline` needs.

        Args:
            path: Path of a video or image file.
            spec: Length and step of the windows.

        Returns:
            A record for each window, or one record of the error if there is none.
        """
        with closing(self._iter_windows(path, spec)) as windows:
            return [
                ObservedRecord(result, clip.select_features(self._baseline_statistics))
                for result, clip in self._results.catch_error(os.fspath(path), windows)
            ]

    def apply_baseline(
        self, record: ObservedRecord, identities: Sequence[str], references: Sequence[BaselineReference | None]
    ) -> ClipResult:
        """Name the people of a record of `observe_clip` or `observe_windows`, and predict relative to their baselines.

        Takes a name and a baseline, or None, for each person in the record.
        """
        kind, result, main = self.options.baseline, record.result, next(iter(references), None)
        predictions = [
            self._classify(shift_features(features, reference, self.card, kind)) if kind else person.prediction
            for person, features, reference in zip(result.people, record.people, references, strict=True)
        ]
        people = [
            replace(person, prediction=prediction, identity=identity)
            for person, prediction, identity in zip(result.people, predictions, identities, strict=True)
        ]
        return replace(
            result,
            people=tuple(people),
            prediction=predictions[0] if kind and predictions else result.prediction,
            baseline=Baseline(main.kind, main.clips) if main else None,
        )

    def timeline(self, path: str | os.PathLike[str], spec: WindowSpec | None = None) -> Iterator[WindowResult]:
        """Classify each window of a clip and yield its record as soon as the window is complete.

        Frames in overlapping windows are analysed once. If the clip is truncated or has no frame, the last record
        reports it.

        Args:
            path: Path of a video or image file.
            spec: Length and step of the windows.
        """
        with closing(self._iter_windows(path, spec)) as windows:
            for result, _ in self._results.catch_error(os.fspath(path), windows):
                yield result

    def build_timeline(self, path: str | os.PathLike[str], spec: WindowSpec | None = None) -> ClipTimeline:
        """Track the people of a clip and their predictions over time, as `fervid annotate` draws them.

        The timeline of a truncated clip ends with the clip and has its `error` set. Takes what `timeline` takes.

        Raises:
            InputError: The file could not be read, or has no frame in the requested time range.
        """
        with closing(self._iter_windows(path, spec)) as windows:
            return build_clip_timeline(
                ((window, result.people) for result, window in windows), self.labels, self.extractor.tracker_config
            )

    def frames(
        self, path: str | os.PathLike[str], *, logits: bool = False, embedding: bool = False
    ) -> Iterator[FrameRow]:
        """Yield a row for each face in each sampled frame of a clip, and for each frame without a face.

        The first row comes when the clip has been read, because only then it is known who is who. Until then the rows
        are in a temporary file. If something is wrong with the clip, the last row has an `error` and no frame. Rows
        have no `identity`, which takes all clips of a run: see `fervid frames --identify`.

        Args:
            path: Path of a video or image file.
            logits: Whether rows have logits.
            embedding: Whether rows have the embedding, which `pool_frames` needs for some classifiers.
        """
        columns = frame_columns(self.extractor, logits=logits, embedding=embedding)
        with tempfile.TemporaryFile() as file:
            yield from self.record_frames(path, columns, file).rows(file)

    def record_frames(self, path: str | os.PathLike[str], columns: FrameColumns, file: BinaryIO) -> RecordedClip:
        """Analyse a clip and write the rows of its frames to an empty binary file."""
        return record_clip(os.fspath(path), self.extractor, self._results, columns, file)

    def pool_frames(self, rows: Iterable[FrameRow | Mapping[str, Any]]) -> ClipResult:
        """Pool the rows of a clip to the record that `classify_or_error` gives.

        Args:
            rows: All rows of one clip in order, from `frames`, or from JSON Lines or parquet of `fervid frames`.

        Raises:
            UsageError: The rows are those of several clips or of none, or lack what the classifier needs, such as the
                embedding.
        """
        return pool_rows(rows, self._results)

    def classify_stream(self, source: LatestFrameSource, spec: WindowSpec | None = None) -> Iterator[WindowResult]:
        """Classify each window of a live stream and yield its record as soon as the window is complete.

        While a frame is analysed, all but the newest of those that arrive are dropped; the record says how many.
        `elapsed_s` is the time since the last frame of the window arrived.

        Args:
            source: A stream or camera.
            spec: Length and step of the windows.
        """
        with closing(self.extractor.observe_frames(source.frames(), live=True)) as observations:
            yield from self._results.build_stream_results(source, observations, spec or WindowSpec())

    def _observe(self, path: str | os.PathLike[str]) -> ClipObservations:
        if not self._exit_levels:
            return self.extractor.observe_clip(path)
        return self.extractor.observe_adaptively(
            path, self._exit_levels, lambda features: self._classify(features).confidence
        )

    def _iter_windows(
        self, path: str | os.PathLike[str], spec: WindowSpec | None
    ) -> Generator[tuple[WindowResult, WindowObservations]]:
        with closing(self.extractor.iter_observations(path)) as observations:
            yield from self._results.build_windows(
                os.fspath(path), observations, spec or WindowSpec(), self.options.sampling.start
            )


def load_classifier(
    *,
    classifier: str | None = None,
    face_model: str = registry.DEFAULTS["face_model"],
    detector: str = registry.DEFAULTS["detector"],
    options: Options | None = None,
    threads: int | None = None,
    device: Device = "cpu",
) -> Classifier:
    """Load the models of the pipeline.

    Args:
        classifier: Name of a shipped clip classifier, or path of an ONNX file; by default the one that the face
            model's card names, else `emotion8` if it was fitted on this face model, else `mean8`.
        face_model: Name or path of the face model.
        detector: Name or path of the face detector.
        options: How to analyse a clip.
        threads: Number of threads; by default the CPUs available to this process (affinity and cgroup).
        device: Where the detector and the face model run: `cpu`, `cuda`, or `auto` for `cuda` where it is available.

    Raises:
        ModelError: A model is missing, fails verification, or does not fit the others.
        UsageError: The device is not available.
    """
    extractor = load_extractor(
        face_model=face_model, detector=detector, options=options, threads=threads, device=device
    )
    name = classifier or default_classifier(extractor.face_model)
    return Classifier(extractor, registry.load_model(name, "classifier", 1))
