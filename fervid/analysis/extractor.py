"""Frames -> what they show: detector, crop and face network behind one another."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import cv2
import numpy as np

from fervid.analysis.aggregate import ClipObservations, TrackStats, aggregate_clip
from fervid.analysis.align import align_face
from fervid.analysis.detector import Detector
from fervid.analysis.face_model import BATCH, FaceModel, empty_outputs
from fervid.analysis.propagation import FlowTracker
from fervid.analysis.tracker import TrackerConfig
from fervid.core.errors import InputError, ModelIncompatible
from fervid.core.prefetch import prefetch
from fervid.core.records import Face, Frame, FrameObservation, Image
from fervid.media.sampling import Sampling, reshape
from fervid.models import registry
from fervid.models.registry import ONNX_ERRORS

_IOU_ONLY = {"same_face": -1.0, "same_person": 2.0}  # cosines that every face has, and none
_MALLOC_WARMUP_BYTES = 31 << 20
"""Bytes. Once as many were freed, glibc keeps what is freed later (mallopt(3), dynamic threshold, 32 MiB at most): the
memory of frames, for the next ones. It would go back to the system otherwise, which clears it anew, page by page."""
_STRETCHES = (16 / 9, 9 / 16)  # of a picture sideways, to see a face that was squeezed or pulled apart
_PROBED_FPS = 1.0  # frames a second that are looked at with each
_PROBED_FRAMES = 2  # of them in which a stretch has to show somebody
_PREFETCH_BATCHES = 4  # batches that are cut out before the network asks for them

_FrameFaces = tuple[
    float, float, list[Face], list[float]
]  # time, duration, faces and shares of a frame, as in `FrameObservation`


@dataclass(frozen=True, slots=True)
class Options:
    """What to look at in a clip.

    Attributes:
        sampling: Which frames.
        face: `main` answers for the person who fills most of the picture over time, `all` for everybody together.
        min_face: Shorter side in pixels of the smallest face that counts; None for a fortieth of the frame's longer
            side, and at least 12.
        attributes: Whether to estimate age, gender and ethnicity of each person.
        labels: Which of the classifier's labels may be answered; None for all.
        adaptive: Whether to look at few frames first and stop when the classifier is sure.
        baseline: What answers are relative to, if `relative` asks for them: each person's average, or clips at rest.
        detect_every: Seconds from one glance of the face detector to the next while all faces can be followed; 0 makes
            it search every sampled frame.
    """

    sampling: Sampling = field(default_factory=Sampling)
    face: Literal["main", "all"] = "main"
    min_face: int | None = None
    attributes: bool = False
    labels: tuple[str, ...] | None = None
    adaptive: bool = False
    baseline: Literal["person", "rest"] | None = None
    detect_every: float = 1.0

    def __post_init__(self) -> None:
        if self.face not in ("main", "all"):
            raise ValueError(f"face is main or all, not {self.face!r}")
        if self.min_face is not None and self.min_face < 8:
            raise ValueError(f"a face needs at least 8 pixels to be found, not {self.min_face}")
        if self.adaptive and self.sampling.fps is None:
            raise ValueError("an adaptive frame rate begins below --fps, so it cannot look at every frame")
        if not self.detect_every >= 0:
            raise ValueError(f"the detector looks every 0 s or more, not {self.detect_every} s")


def _stretched(frame: Frame, stretch: float) -> Frame:
    """A frame, made so many times as wide."""
    height, width = frame.image.shape[:2]
    return replace(frame, image=reshape(frame.image, stretch * width / height))


def _narrowed(face: Face, stretch: float) -> Face:
    """A face of a stretched frame, where it is in the frame itself."""
    x1, y1, x2, y2 = face.box
    scale = np.array([stretch, 1], np.float32)
    return Face((x1 / stretch, y1, x2 / stretch, y2), face.landmarks / scale, face.score)


class Extractor:
    """The stages up to the pooled statistics, loaded and ready; may be used from several threads at once.

    Sent to another process it is put together there again.
    """

    def __init__(self, detector: registry.Model, network: registry.Model, options: Options, threads: int = 0) -> None:
        """Fit the two models together, and let each answer once on a black picture.

        Args:
            detector: A model of that kind.
            network: A model of that kind.
            options: What to look at in a clip.
            threads: How many threads to decode with; 0 leaves it to the decoder.

        Raises:
            ModelIncompatible: A model does not do what its card says.
        """
        self.options = options
        self.detector, self.network = detector, network
        self._threads = threads
        cv2.setNumThreads(1)  # of the whole process: for pictures as small as faces its threads only wait
        np.empty(_MALLOC_WARMUP_BYTES, np.uint8)  # freed at once, which is of the whole process too
        silence = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel  # in OpenCV 4 and 5
        silence(0)  # of a damaged picture the record says what there is to say
        with as_incompatible_model(detector):
            self._detect = Detector(detector.session, detector.card, options.min_face)
            self._detect(np.zeros((64, 64, 3), np.uint8))
        with as_incompatible_model(network):
            self._embed = FaceModel(network.session, network.card)
            self._crop_size = int(network.card["input"]["size"])
            self._margin = float(network.card["margin"])
            if not 0 <= self._margin <= 1:
                raise ValueError(f"a margin of {self._margin}")
            same = network.card.get("same_person", _IOU_ONLY)
            self.rule = TrackerConfig(float(detector.card["open_score"]), **same)
            black = self._embed(np.zeros((1, self._crop_size, self._crop_size, 3), np.uint8))
            if black.widths != (said := empty_outputs(network.card).widths):
                raise ValueError(f"outputs as wide as {black.widths}, not {said}")
            self.tried = TrackStats()
            self.tried.pool.update_group(black)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle_extractor, (self.detector, self.network, self.options, self._threads)

    def look(self, path: str | os.PathLike[str]) -> ClipObservations:
        """What a clip shows; its problem, if it has one, is told in the result."""
        with closing(self.watch(path)) as observed:
            return aggregate_clip(observed, self.rule)

    def watch(self, path: str | os.PathLike[str], sampling: Sampling | None = None) -> Generator[FrameObservation]:
        """What each sampled frame of a clip shows; a clip that shows nobody is looked at again, as `restretch` does.

        Args:
            path: The clip.
            sampling: Which frames; None for those of the options.

        Raises:
            InputError: As `video.read_frames`, after the last frame that could be read.
        """
        sampling = sampling or self.options.sampling
        faceless: list[FrameObservation] | None = []  # until somebody is seen
        problem = None
        with closing(self._read(path, sampling)) as frames, closing(self.observe(frames)) as observed:
            try:
                for one in observed:
                    if faceless is not None and any(face.score >= self._detect.sure for face in one.faces):
                        yield from faceless
                        faceless = None
                    if faceless is None:
                        yield one
                    else:
                        faceless.append(one)
            except InputError as error:
                problem = error
        if faceless:
            yield from self.restretch(path, sampling) or faceless
        if problem is not None:
            raise problem

    def restretch(self, path: str | os.PathLike[str], sampling: Sampling | None = None) -> list[FrameObservation]:
        """What the frames of a clip show, stretched sideways so that a face which the file squeezes can be found.

        A few frames are looked at with each stretch, and all of them with the one that shows somebody. Boxes and
        landmarks are in pixels of the frames as they were.

        Args:
            path: The clip.
            sampling: Which frames; None for those of the options.

        Returns:
            What each sampled frame shows that could be read; empty if no stretch shows anybody, or the options say how
            wide the pictures are.
        """
        sampling = sampling or self.options.sampling
        if sampling.aspect is not None:
            return []
        probed = replace(sampling, fps=min(sampling.fps or _PROBED_FPS, _PROBED_FPS))
        count, seen = 0, dict.fromkeys(_STRETCHES, 0)
        with closing(self._read(path, probed)) as frames, suppress(InputError):
            for frame in frames:
                count += 1
                for stretch in _STRETCHES:
                    found = self._detect(_stretched(frame, stretch).image)
                    seen[stretch] += any(face.score >= self._detect.sure for face in found)
                if max(seen.values()) >= _PROBED_FRAMES:
                    break
        best = max(_STRETCHES, key=lambda stretch: seen[stretch])
        if not seen[best] or seen[best] < min(count, _PROBED_FRAMES):
            return []
        observed: list[FrameObservation] = []
        with closing(self._read(path, sampling)) as frames, suppress(InputError):
            observed.extend(self.observe(_stretched(frame, best) for frame in frames))
        return [replace(one, faces=[_narrowed(face, best) for face in one.faces]) for one in observed]

    def refine(
        self, path: str | os.PathLike[str], stride: int, known: dict[float, FrameObservation]
    ) -> Iterator[FrameObservation]:
        """What every `stride`-th sampled frame of a clip shows.

        Args:
            path: The clip.
            stride: How many times fewer frames a second than the options say.
            known: What frames have shown already, by their time; they are not looked at again, and new ones are added.

        Raises:
            InputError: As `watch`.
        """
        sampling = self.options.sampling
        sampling = replace(sampling, fps=sampling.fps and sampling.fps / stride)
        durations: dict[float, float] = {}

        def unknown() -> Iterator[Frame]:
            with closing(self._read(path, sampling)) as frames:
                for frame in frames:
                    durations[frame.time] = frame.duration
                    if frame.time not in known:
                        yield frame

        problem = None
        try:
            for one in self.observe(unknown()):
                known[one.time] = one
        except InputError as error:
            problem = error
        for time, duration in durations.items():
            yield replace(known[time], duration=duration)
        if problem is not None:
            raise problem

    def _read(self, path: str | os.PathLike[str], sampling: Sampling) -> Generator[Frame]:
        from fervid.media import (
            video,  # and the decoder with it, for which whoever gives clips to other processes has no use
        )

        return video.read_frames(path, sampling, self._threads)

    def observe(self, frames: Iterable[Frame], *, live: bool = False) -> Generator[FrameObservation]:
        """What each frame shows, looked at in batches of the network.

        Args:
            frames: In order of time.
            live: Whether to look at each alone and at once, and to take the next only then.

        Raises:
            InputError: What `frames` raised, after everything that came before it.
        """
        batches = self._batches(frames, 1 if live else BATCH)
        with closing(prefetch(batches, _PREFETCH_BATCHES) if self._threads > 1 and not live else batches) as ready:
            for batch, crops in ready:
                scores, start = self._embed(crops), 0
                for time, duration, faces, shares in batch:
                    yield FrameObservation(time, duration, faces, shares, scores[start : (start := start + len(faces))])

    def _batches(self, frames: Iterable[Frame], size: int) -> Generator[tuple[list[_FrameFaces], Image]]:
        """What was found in the next frames, and the crops (n, s, s, 3) for one pass of the network."""
        find = FlowTracker(self._detect, self.options.detect_every)
        batch: list[_FrameFaces] = []
        crops: list[Image] = []
        try:
            for frame in frames:
                faces = find(frame)
                shares = [face.area / frame.image[..., 0].size for face in faces]
                batch.append((frame.time, frame.duration, faces, shares))
                crops += [align_face(frame.image, face, self._crop_size, self._margin) for face in faces]
                if max(len(batch), len(crops)) >= size:
                    yield batch, np.array(crops, np.uint8)
                    batch, crops = [], []
        except InputError:
            yield batch, np.array(crops, np.uint8)
            raise
        yield batch, np.array(crops, np.uint8)


def _unpickle_extractor(*parts: Any) -> Extractor:
    """An extractor in another process, where it will read: what that needs is loaded with it."""
    import fervid.media.video  # noqa: F401

    return Extractor(*parts)


def load_extractor(
    *,
    network: str = registry.DEFAULTS["network"],
    detector: str = registry.DEFAULTS["detector"],
    options: Options | None = None,
    threads: int | None = None,
    device: registry.Device = "cpu",
) -> Extractor:
    """Load detector and network alone, to pool clips without classifying them.

    Args:
        network: Name or path of the face network.
        detector: Name or path of the face detector.
        options: What to look at in a clip.
        threads: Threads a model may use; by default the CPUs that this process may use (affinity and cgroup).
        device: `cuda`, or `auto` for it if it can be used; by default `cpu`.

    Raises:
        ModelError: A model is missing, unverifiable, or does not fit the other.
        UsageError: The device cannot be used.
    """
    threads = threads or cv2.getNumberOfCPUs()
    found = registry.load_model(detector, "detector", 1, device)  # too small a network to gain from more
    face = registry.load_model(network, "network", max(1, threads // 2), device)  # the other half decodes and follows
    return Extractor(found, face, options or Options(), threads)


@contextmanager
def as_incompatible_model(model: registry.Model) -> Iterator[None]:
    """What goes wrong when a model is tried is the model's fault: its card was written by hand, or its graph was."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, StopIteration, TypeError, ValueError, *ONNX_ERRORS) as error:
        reason = str(error).partition("\n")[0]
        raise ModelIncompatible(f"{model.path} does not do what its card says ({reason}); export it again") from error
