"""Observations of a clip or window -> its record."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from fervid.analysis.aggregate import ClipObservations, TrackStats, no_frames_error
from fervid.analysis.clip_classifier import ClipClassifier
from fervid.analysis.tracker import TrackerConfig
from fervid.analysis.windows import WindowObservations, WindowSpec, iter_windows
from fervid.core.errors import Discontinuity, FramesDropped, InputError, SeveralStreams
from fervid.core.records import ClipFeatures, FrameObservation
from fervid.core.results import ClipResult, ErrorInfo, ModelRef, Person, WindowResult
from fervid.media.latest_frame import LatestFrameSource

FORGET_PERSON_AFTER_S = 600.0  # without a face in a live stream; bounds memory
_MINOR_PROBLEMS = (Discontinuity.code, SeveralStreams.code)  # of a window, reported after dropped frames


@dataclass(frozen=True, slots=True)
class AttributeNames:
    """How to name the attributes that a face model estimates.

    Attributes:
        genders: Names of the genders with the least probability of the class "male" that each needs, highest first.
        ethnicities: Names of the ethnicities, in the order of the face model's output.
    """

    genders: Sequence[tuple[str, float]]
    ethnicities: Sequence[str]

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> AttributeNames:
        """Read the names from the card of a face model; without attributes there are none."""
        genders = sorted(card.get("genders", {}).items(), key=lambda entry: -entry[1])
        return cls(genders, tuple(map(str, card.get("ethnicities", ()))))

    def of_person(self, features: ClipFeatures) -> tuple[float, str, str]:
        """Return the age in years, the gender and the ethnicity of a person from the pooled features."""
        statistics = features.statistics
        male_probability = float(statistics["gender.mean"][0])
        gender = next(name for name, threshold in self.genders if male_probability >= threshold)
        ethnicity = self.ethnicities[int(statistics["ethnicity.mean"].argmax())]
        return float(statistics["age.mean"][0]), gender, ethnicity


@dataclass(frozen=True, slots=True)
class ResultBuilder:
    """Classifies clips and windows and makes their records.

    Attributes:
        models: The models that every record names, by role.
        classify: The clip classifier.
        tracker_config: When two faces are the same person.
        face: Whether to classify the main person or all faces pooled together.
        attributes: How to name age, gender and ethnicity; None to leave them out.
    """

    models: Mapping[str, ModelRef]
    classify: ClipClassifier
    tracker_config: TrackerConfig
    face: Literal["main", "all"]
    attributes: AttributeNames | None

    def build(self, path: str, clip: ClipObservations, started: float, ids: Sequence[int] | None = None) -> ClipResult:
        """Make the record of a clip or window.

        Args:
            path: The `path` of the record.
            clip: What was observed.
            started: When the work on it started, as of `time.perf_counter`.
            ids: Ids of its people; 0, 1, ... by default.
        """
        problem, pool = clip.errors_for(path)[0], clip.pool(self.face)
        prediction = self.classify(pool.features()) if pool else None
        return ClipResult(
            path=path,
            status="ok" if prediction else "no_face" if clip.frames else "error",
            prediction=prediction,
            people=tuple(map(self.make_person, ids or range(len(clip.people)), clip.people)),
            duration_s=clip.seconds if clip.frames else None,
            frames_sampled=clip.frames,
            frames_with_face=clip.frames_with_face,
            models=self.models,
            error=ErrorInfo(problem.code, problem.message) if problem else None,
            elapsed_s=time.perf_counter() - started,
        )

    def build_or_raise(self, path: str, clip: ClipObservations, started: float) -> ClipResult:
        """Make the record as `build` does, or raise the `InputError` because of which it has no prediction."""
        result, (_, error) = self.build(path, clip, started), clip.errors_for(path)
        if error is not None and result.status != "ok":
            raise error
        return result

    def make_person(self, id: int, person: TrackStats) -> Person:
        """Classify one person of a clip."""
        features = person.pool.features()
        age, gender, ethnicity = self.attributes.of_person(features) if self.attributes else (None, None, None)
        return Person(id, person.seconds, self.classify(features), age, gender, ethnicity)

    def build_windows(
        self,
        path: str,
        observations: Iterable[FrameObservation],
        spec: WindowSpec,
        origin: float,
        forget_after: float = math.inf,
    ) -> Iterator[tuple[WindowResult, WindowObservations]]:
        """Yield each window of a clip with its record.

        Args:
            path: The `path` of the records.
            observations: Frames of the clip in order of time.
            spec: Length and step of the windows.
            origin: Start of the first window in seconds.
            forget_after: Seconds without a face after which a person is forgotten.

        Raises:
            InputError: An error occurred before the first window, or there is no frame.
        """
        started, window = time.perf_counter(), None
        for window in iter_windows(observations, self.tracker_config, spec, origin, forget_after):
            ids = [person.number for person in window.clip.people]
            result = self.build(path, window.clip, started, ids)
            yield WindowResult.from_clip_result(result, window.start, window.end), window
            started = time.perf_counter()
        if window is None:
            raise no_frames_error(path)

    def catch_error(
        self, path: str, windows: Iterable[tuple[WindowResult, WindowObservations]]
    ) -> Iterator[tuple[WindowResult, ClipObservations]]:
        """Yield each window of `build_windows`, or a record of the error that it raises."""
        started = time.perf_counter()
        try:
            for result, window in windows:
                yield result, window.clip
        except InputError as error:
            clip = ClipObservations(error=error)
            yield WindowResult.from_clip_result(self.build(path, clip, started)), clip

    def build_stream_results(
        self, source: LatestFrameSource, observations: Iterable[FrameObservation], spec: WindowSpec
    ) -> Iterator[WindowResult]:
        """Yield the record of each window of a live stream, with dropped frames and latency."""
        windows = self.build_windows(source.name, observations, spec, 0.0, FORGET_PERSON_AFTER_S)
        for result, _ in self.catch_error(source.name, windows):
            dropped = source.dropped_between(result.start_s or 0.0, result.end_s or 0.0)
            problem = _report_dropped_frames(dropped, result.frames_sampled, result.error)
            yield replace(result, error=problem, elapsed_s=source.latency())


def _report_dropped_frames(dropped: int, sampled: int, problem: ErrorInfo | None) -> ErrorInfo | None:
    """Add the number of dropped frames to the problem of a window, unless it has a more serious one."""
    if not dropped or (problem is not None and problem.code not in _MINOR_PROBLEMS):
        return problem
    error = FramesDropped(
        f"{dropped} of {dropped + sampled} frames were dropped because this machine cannot keep up with the stream;"
        " lower --fps, or stop other work on it"
    )
    return ErrorInfo(error.code, error.message + (f"; {problem.message}" if problem else ""))
