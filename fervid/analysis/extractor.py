"""Frames -> faces and their face model outputs: detection, alignment and the face model, in batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from fervid.analysis.aggregate import ClipObservations, TrackStats, aggregate_clip
from fervid.analysis.align import align_face
from fervid.analysis.aspect_ratio import PROBE_FPS, find_stretch, stretch_frame, unstretch_face
from fervid.analysis.compatibility import as_incompatible_model
from fervid.analysis.detector import Detector
from fervid.analysis.early_exit import ExitLevel
from fervid.analysis.face_model import BATCH, FaceModel, empty_outputs
from fervid.analysis.options import Options
from fervid.analysis.propagation import FlowTracker
from fervid.analysis.tracker import TrackerConfig
from fervid.core.errors import InputError
from fervid.core.prefetch import prefetch
from fervid.core.records import ClipFeatures, Face, Frame, FrameObservation, Image, check
from fervid.media.sampling import Sampling
from fervid.models import registry
from fervid.models.session import Device

_IOU_ONLY = {"min_track_similarity": -1.0, "min_person_similarity": 2.0}
"""Tracker thresholds without identity embeddings: every face is similar enough to its track, no two tracks merge."""
_MALLOC_WARMUP_BYTES = 31 << 20
"""Size of an allocation that is freed at once, so that glibc raises its dynamic mmap threshold (mallopt(3), at most
32 MiB) and reuses the memory of frames. Otherwise that memory returns to the system, which clears it page by page."""
_PREFETCH_BATCHES = 4  # of crops, prepared ahead of the face model

_FrameFaces = tuple[float, float, list[Face], list[float], int]
"""Time, duration, faces, area fractions and index of a frame, as in `FrameObservation`."""


class Extractor:
    """The stages from frames to pooled statistics, with their models loaded.

    Several threads may use it at once. Unpickling it in another process loads the models there again.
    """

    def __init__(
        self, detector: registry.Model, face_model: registry.Model, options: Options, threads: int = 0
    ) -> None:
        """Check the two models by running each on a black image.

        This has effects on the whole process: OpenCV uses one thread and logs nothing, and glibc keeps freed memory
        of frames. `threads` is the number of decoder threads; 0 lets the decoder choose.

        Raises:
            ModelIncompatible: A model does not match its card.
        """
        self.detector, self.face_model = detector, face_model
        self.options, self._threads = options, threads
        cv2.setNumThreads(1)  # images as small as faces gain nothing from more
        np.empty(_MALLOC_WARMUP_BYTES, np.uint8)
        set_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel  # OpenCV 4, OpenCV 5
        set_log_level(0)  # the record reports damaged images
        with as_incompatible_model(detector):
            self._face_detector = Detector(detector.session, detector.card, options.min_face)
            self._face_detector.detect(np.zeros((64, 64, 3), np.uint8))
        with as_incompatible_model(face_model):
            self._embed = FaceModel(face_model.session, face_model.card)
            self._crop_size = int(face_model.card["input"]["size"])
            self._margin = float(face_model.card["margin"])
            check(0 <= self._margin <= 1, f"margin must be between 0 and 1, not {self._margin}")
            thresholds = face_model.card.get("tracking", _IOU_ONLY)
            self.tracker_config = TrackerConfig(float(detector.card["new_track_threshold"]), **thresholds)
            outputs = self._embed(np.zeros((1, self._crop_size, self._crop_size, 3), np.uint8))
            expected = empty_outputs(face_model.card).widths
            check(outputs.widths == expected, f"outputs have widths {outputs.widths}, the card says {expected}")
            self.warmup_stats = TrackStats()
            self.warmup_stats.pool.update_group(outputs)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle_extractor, (self.detector, self.face_model, self.options, self._threads)

    def observe_clip(self, path: str | os.PathLike[str], sampling: Sampling | None = None) -> ClipObservations:
        """Analyse a clip and pool the faces of each person; an input error is kept in the result's `error`.

        Takes what `iter_observations` takes.
        """
        with closing(self.iter_observations(path, sampling)) as observations:
            return aggregate_clip(observations, self.tracker_config)

    def observe_adaptively(
        self, path: str | os.PathLike[str], levels: Sequence[ExitLevel], confidence_of: Callable[[ClipFeatures], float]
    ) -> ClipObservations:
        """Analyse a clip at each level's frame rate in turn, and stop at the first confident prediction.

        This is early exit (Savchenko, ICML 2023). Each level analyses only the frames that the levels before it left
        out. After the last level comes the full frame rate, and after that, if no face was found, the full frame rate
        with stretched frames.

        Args:
            path: Path of the clip.
            levels: Reduced frame rates, the lowest first, with the confidence that each needs.
            confidence_of: Confidence of the classifier in its prediction from the features of a clip.
        """
        cache: dict[float, FrameObservation] = {}
        for level in levels:
            observations = self.observe_at_stride(path, level.stride, cache)
            clip = aggregate_clip(observations, self.tracker_config, level.stride)
            pool = clip.pool(self.options.face)
            if not clip.frames or (pool and confidence_of(pool.features()) >= level.confidence):
                return clip
        clip = aggregate_clip(self.observe_at_stride(path, 1, cache), self.tracker_config)
        if clip.people or not clip.frames:
            return clip
        stretched = aggregate_clip(self.observe_stretched(path), self.tracker_config)
        stretched.error = clip.error
        return stretched if stretched.people else clip

    def iter_observations(
        self, path: str | os.PathLike[str], sampling: Sampling | None = None
    ) -> Generator[FrameObservation]:
        """Yield an observation of each sampled frame of a clip.

        If no frame shows a face, the clip is read again with other aspect ratios (`observe_stretched`).

        Args:
            path: Path of the clip.
            sampling: Which frames to sample; None for those of the options.

        Raises:
            InputError: As `video.read_frames`, after the last readable frame.
        """
        sampling = sampling or self.options.sampling
        pending: list[FrameObservation] = []  # held back until the first frame with a face
        has_face, problem = False, None
        with closing(self._read(path, sampling)) as frames, closing(self.observe_frames(frames)) as observations:
            try:
                for observation in observations:
                    pending.append(observation)
                    has_face = has_face or self._starts_track(observation.faces)
                    if has_face:
                        yield from pending
                        pending.clear()
            except InputError as error:
                problem = error
        if pending:
            yield from self.observe_stretched(path, sampling) or pending
        if problem is not None:
            raise problem

    def observe_stretched(
        self, path: str | os.PathLike[str], sampling: Sampling | None = None
    ) -> list[FrameObservation]:
        """Analyse a clip with horizontally stretched frames, to find faces in files with a wrong aspect ratio.

        Each stretch factor is tried on a few frames, and the whole clip is read with the one that shows most faces.
        Boxes and landmarks are in pixels of the original frames.

        Args:
            path: Path of the clip.
            sampling: Which frames to sample; None for those of the options.

        Returns:
            An observation of each readable sampled frame; empty if no stretch shows a face, or if the options set the
            aspect ratio.
        """
        sampling = sampling or self.options.sampling
        if sampling.aspect is not None:
            return []
        probe = replace(sampling, fps=min(sampling.fps or PROBE_FPS, PROBE_FPS))
        with closing(self._read(path, probe)) as frames:
            stretch = find_stretch(frames, lambda image: self._starts_track(self._face_detector.detect(image)))
        if stretch is None:
            return []
        observations: list[FrameObservation] = []
        with closing(self._read(path, sampling)) as frames, suppress(InputError):
            for observation in self.observe_frames(stretch_frame(frame, stretch) for frame in frames):
                faces = [unstretch_face(face, stretch) for face in observation.faces]
                observations.append(replace(observation, faces=faces))
        return observations

    def _starts_track(self, faces: Iterable[Face]) -> bool:
        """Whether the detector is confident enough in one of the faces to start a track."""
        return any(face.score >= self._face_detector.new_track_threshold for face in faces)

    def observe_at_stride(
        self, path: str | os.PathLike[str], stride: int, cache: dict[float, FrameObservation]
    ) -> Iterator[FrameObservation]:
        """Yield observations of every `stride`-th sampled frame of a clip, analysing only new frames.

        Args:
            path: Path of the clip.
            stride: Factor by which the frame rate of the options is divided.
            cache: Observations by frame time. Frames in it are not analysed again; new ones are added.

        Raises:
            InputError: As `iter_observations`.
        """
        sampling = self.options.sampling
        sampling = replace(sampling, fps=sampling.fps and sampling.fps / stride)
        durations: dict[float, float] = {}

        def new_frames() -> Iterator[Frame]:
            with closing(self._read(path, sampling)) as frames:
                for frame in frames:
                    durations[frame.time] = frame.duration
                    if frame.time not in cache:
                        yield frame

        problem = None
        try:
            for observation in self.observe_frames(new_frames()):
                cache[observation.time] = observation
        except InputError as error:
            problem = error
        for time, duration in durations.items():
            yield replace(cache[time], duration=duration)
        if problem is not None:
            raise problem

    def _read(self, path: str | os.PathLike[str], sampling: Sampling) -> Generator[Frame]:
        from fervid.media import video  # a process that only hands clips to workers does not need the decoder

        return video.read_frames(path, sampling, self._threads)

    def observe_frames(self, frames: Iterable[Frame], *, live: bool = False) -> Generator[FrameObservation]:
        """Detect the faces in each frame and run the face model on them, in batches.

        Args:
            frames: Frames in order of time.
            live: Whether to process each frame by itself before taking the next one.

        Raises:
            InputError: As raised by `frames`, after the observations of all frames before it.
        """
        batches = self._batches(frames, 1 if live else BATCH)
        with closing(prefetch(batches, _PREFETCH_BATCHES) if self._threads > 1 and not live else batches) as ready:
            for batch, crops in ready:
                outputs, start = self._embed(crops), 0
                for time, duration, faces, area_fractions, index in batch:
                    end = start + len(faces)
                    yield FrameObservation(time, duration, faces, area_fractions, outputs[start:end], index)
                    start = end

    def _batches(self, frames: Iterable[Frame], size: int) -> Generator[tuple[list[_FrameFaces], Image]]:
        """Yield the faces of consecutive frames with their crops (n, s, s, 3), a batch for one run of the face model.

        The last batch may be empty.
        """
        tracker = FlowTracker(self._face_detector, self.options.detection_interval_s)
        batch: list[_FrameFaces] = []
        crops: list[Image] = []
        try:
            for frame in frames:
                faces = tracker.update(frame)
                area_fractions = [face.area / frame.image[..., 0].size for face in faces]
                batch.append((frame.time, frame.duration, faces, area_fractions, frame.index))
                crops += [align_face(frame.image, face, self._crop_size, self._margin) for face in faces]
                if max(len(batch), len(crops)) >= size:
                    yield batch, np.array(crops, np.uint8)
                    batch, crops = [], []
        except InputError:
            yield batch, np.array(crops, np.uint8)
            raise
        yield batch, np.array(crops, np.uint8)


def _unpickle_extractor(*arguments: Any) -> Extractor:
    """Build an extractor in another process, importing the decoder, which it will need."""
    import fervid.media.video  # noqa: F401

    return Extractor(*arguments)


def load_extractor(
    *,
    face_model: str = registry.DEFAULTS["face_model"],
    detector: str = registry.DEFAULTS["detector"],
    options: Options | None = None,
    threads: int | None = None,
    device: Device = "cpu",
) -> Extractor:
    """Load the detector and the face model alone, to compute features of clips without classifying them.

    Takes and raises what `pipeline.load_classifier` does.
    """
    threads = threads or cv2.getNumberOfCPUs()
    models = (
        registry.load_model(detector, "detector", 1, device),  # too small to gain from more threads
        registry.load_model(face_model, "face_model", max(1, threads // 2), device),  # decoding gets the other half
    )
    return Extractor(*models, options or Options(), threads)
