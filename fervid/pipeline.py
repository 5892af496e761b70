"""The stages in order: one clip, or frames from anywhere, to one answer."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

import joblib
import numpy as np

from fervid import models, video
from fervid.align import MARGIN, crop
from fervid.classify import ClipClassifier
from fervid.detect import Detector
from fervid.errors import InputError, ModelIncompatible, NoFaces, NothingSampled
from fervid.models import ONNX_ERRORS
from fervid.network import BATCH, FaceNetwork
from fervid.pool import FeaturePool
from fervid.records import ClipResult, Face, FaceScores, Frame, Person, Problem
from fervid.track import Tracker, TrackingRule
from fervid.video import Sampling


@dataclass(frozen=True, slots=True)
class Options:
    """What to look at in a clip.

    Attributes:
        sampling: Which frames.
        face: `main` answers for the person who fills most of the picture over time, `all` for everybody together.
        min_face: Shorter side in pixels of the smallest face that counts; None for a fortieth of the frame's longer
            side, and at least 12.
        attributes: Whether to estimate age, gender and ethnicity of each person.
    """

    sampling: Sampling = field(default_factory=Sampling)
    face: Literal["main", "all"] = "main"
    min_face: int | None = None
    attributes: bool = False

    def __post_init__(self) -> None:
        if self.face not in ("main", "all"):
            raise ValueError(f"face is main or all, not {self.face!r}")
        if self.min_face is not None and self.min_face < 8:
            raise ValueError(f"a face needs at least 8 pixels to be found, not {self.min_face}")


@dataclass(slots=True)
class _Followed:
    """One track or person, as it grows."""

    pool: FeaturePool = field(default_factory=FeaturePool)
    seconds: float = 0.0
    area: float = 0.0  # share of the picture, summed over frames
    weight: float = 0.0  # and that times the seconds that each frame lasts

    @classmethod
    def union(cls, tracks: Iterable[_Followed]) -> _Followed:
        parts = list(tracks)
        return cls(
            FeaturePool.union(part.pool for part in parts),
            sum(part.seconds for part in parts),
            sum(part.area for part in parts),
            sum(part.weight for part in parts),
        )


@dataclass(slots=True)
class _Seen:
    """What the frames of a clip have shown so far."""

    frames: int = 0
    frames_with_face: int = 0
    seconds: float = 0.0
    tracks: list[_Followed] = field(default_factory=list)
    group: FeaturePool = field(default_factory=FeaturePool)
    people: list[_Followed] = field(default_factory=list)
    problem: InputError | None = None

    def add(self, frame: Frame, faces: Sequence[Face], scores: FaceScores, numbers: Sequence[int | None]) -> None:
        """Count a frame, and pool those of its faces that belong to a track."""
        known = []
        for i, number in enumerate(numbers):
            if number is None:
                continue
            known.append(i)
            if number == len(self.tracks):
                self.tracks.append(_Followed())
            track = self.tracks[number]
            share = faces[i].area / frame.image[..., 0].size
            track.pool.update_group(scores[[i]])
            track.seconds += frame.duration
            track.area += share
            track.weight += share * frame.duration
        self.group.update_group(scores[known])
        self.frames += 1
        self.frames_with_face += bool(known)
        self.seconds += frame.duration


class Classifier:
    """The whole pipeline, loaded and ready. Its methods may be called from several threads at once."""

    def __init__(
        self,
        detector: models.Model,
        network: models.Model,
        classifier: models.Model,
        options: Options,
        threads: int = 0,
    ) -> None:
        """Fit the three models together, and let each answer once on a black picture.

        Args:
            detector: A model of that kind.
            network: A model of that kind.
            classifier: A model of that kind.
            options: What to look at in a clip.
            threads: How many threads to decode with; 0 leaves it to the decoder.

        Raises:
            ModelIncompatible: The classifier was fitted on another network, the network on another crop, or a model
                does not do what its card says.
        """
        if network.card["margin"] != MARGIN:
            raise ModelIncompatible(
                f"{network.identity.name} was trained on crops with a margin of {network.card['margin']},"
                f" this version cuts {MARGIN}; export it again"
            )
        if classifier.card["network_sha256"] not in (network.identity.sha256, network.card.get("quantised_from", "")):
            raise ModelIncompatible(
                f"{classifier.identity.name} was fitted on network {classifier.card['network_sha256'][:12]},"
                f" not on {network.identity.name} ({network.identity.sha256[:12]}); fit it again, or name its network"
            )
        self.options = options
        self.models = {
            "detector": detector.identity,
            "network": network.identity,
            "classifier": classifier.identity,
        }
        self._threads = threads
        with _fitting(detector):
            self._detect = Detector(detector.session, detector.card, options.min_face)
            self._detect(np.zeros((64, 64, 3), np.uint8))
        with _fitting(network):
            self._network = FaceNetwork(network.session, network.card)
            self._crop_size = int(network.card["input"]["size"])
            self._rule = TrackingRule(float(detector.card["open_score"]), **network.card["same_person"])
            self._genders = sorted(network.card["genders"].items(), key=lambda entry: -entry[1])
            self._ethnicities: tuple[str, ...] = tuple(network.card["ethnicities"])
            tried = _Followed()
            tried.pool.update_group(self._network(np.zeros((1, self._crop_size, self._crop_size, 3), np.uint8)))
        with _fitting(classifier):
            self.labels: tuple[str, ...] = tuple(classifier.card["labels"])
            self._classify = ClipClassifier(classifier.session, classifier.card)
            self._person(0, tried)

    def classify(self, path: str | os.PathLike[str]) -> ClipResult:
        """The answer for one clip.

        Args:
            path: A video or image file.

        Raises:
            NoFaces: No face was found.
            InputError: The file could not be read.
        """
        return _or_raise(*self._answer(path))

    def classify_frames(self, frames: Iterable[Frame], name: str = "frames") -> ClipResult:
        """The answer for frames that are already in memory, or come from elsewhere.

        Args:
            frames: In order of time.
            name: What to put into the result as the path.

        Raises:
            NoFaces: No face was found.
        """
        return _or_raise(*self._summarise(name, self._look(frames), time.perf_counter()))

    def answer(self, path: str | os.PathLike[str]) -> ClipResult:
        """The record of one clip whatever happens to it: problems with the clip are told in the record."""
        return self._answer(path)[0]

    def classify_many(self, paths: Iterable[str | os.PathLike[str]]) -> Iterator[ClipResult]:
        """One record per clip, in the order of the input; one bad file does not stop the rest."""
        return map(self.answer, paths)

    def _answer(self, path: str | os.PathLike[str]) -> tuple[ClipResult, InputError | None]:
        started = time.perf_counter()
        with closing(video.read(path, self.options.sampling, self._threads)) as frames:
            return self._summarise(os.fspath(path), self._look(frames), started)

    def _look(self, frames: Iterable[Frame]) -> _Seen:
        """Every stage up to the pooled statistics; memory does not grow with the number of frames."""
        tracker = Tracker(self._rule)
        seen = _Seen()
        stream = iter(frames)
        while batch := self._detected(stream, seen):
            crops = [crop(frame.image, face, self._crop_size) for frame, faces in batch for face in faces]
            scores = self._network(np.array(crops, np.uint8))
            start = 0
            for frame, faces in batch:
                rows = scores[start : start + len(faces)]
                start += len(faces)
                seen.add(frame, faces, rows, tracker.update(frame.time, faces, rows.identity))
        seen.people = sorted(
            (_Followed.union(seen.tracks[number] for number in numbers) for numbers in tracker.people()),
            key=lambda person: (-person.weight, -person.area),
        )
        return seen

    def _detected(self, stream: Iterator[Frame], seen: _Seen) -> list[tuple[Frame, list[Face]]]:
        """The next frames with their faces, enough for one pass of the network; empty at the end."""
        batch: list[tuple[Frame, list[Face]]] = []
        found = 0
        try:
            for frame in islice(stream, BATCH):
                faces = self._detect(frame.image)
                batch.append((frame, faces))
                found += len(faces)
                if found >= BATCH:
                    break
        except InputError as error:
            seen.problem = error
        return batch

    def _summarise(self, path: str, seen: _Seen, started: float) -> tuple[ClipResult, InputError | None]:
        problem = seen.problem
        if problem is None and not seen.frames:
            problem = NothingSampled(f"{path} has no frame in the time that was asked for; check --start and --end")
        answer = None
        error = problem
        if seen.people:
            pool = seen.group if self.options.face == "all" else seen.people[0].pool
            answer = self._classify(pool.features())
        elif seen.frames:
            error = NoFaces(
                f"{path} shows no face in {seen.frames} frames;"
                " try more of them (--fps, --every-frame) or smaller faces (--min-face)"
            )
            error.__cause__ = problem
        result = ClipResult(
            path=path,
            status="ok" if answer else "no_face" if seen.frames else "error",
            answer=answer,
            people=tuple(self._person(i, person) for i, person in enumerate(seen.people)),
            duration_s=seen.seconds if seen.frames else None,
            frames_sampled=seen.frames,
            frames_with_face=seen.frames_with_face,
            models=self.models,
            problem=Problem(problem.code, problem.message) if problem else None,
            elapsed_s=time.perf_counter() - started,
        )
        return result, error

    def _person(self, number: int, person: _Followed) -> Person:
        features = person.pool.features()
        age = gender = ethnicity = None
        if self.options.attributes:
            age = float(features.statistics["age.mean"][0])
            share = float(features.statistics["gender.mean"][0])
            gender = next(name for name, least in self._genders if share >= least)
            ethnicity = self._ethnicities[int(features.statistics["ethnicity.mean"].argmax())]
        return Person(number, person.seconds, self._classify(features), age, gender, ethnicity)


def load(
    *,
    classifier: str = models.DEFAULTS["classifier"],
    network: str = models.DEFAULTS["network"],
    detector: str = models.DEFAULTS["detector"],
    options: Options | None = None,
    threads: int | None = None,
) -> Classifier:
    """Load the models and put the pipeline together.

    Args:
        classifier: Name of a shipped clip classifier, or the path of an ONNX file.
        network: Name or path of the face network.
        detector: Name or path of the face detector.
        options: What to look at in a clip.
        threads: Threads a model may use; by default the CPUs that this process may use (affinity and cgroup).

    Raises:
        ModelError: A model is missing, unverifiable, or does not fit the others.
    """
    threads = threads or joblib.cpu_count()
    return Classifier(
        models.load(detector, "detector", threads),
        models.load(network, "network", threads),
        models.load(classifier, "classifier", 1),
        options or Options(),
        threads,
    )


def _or_raise(result: ClipResult, error: InputError | None) -> ClipResult:
    if error is not None and result.status != "ok":
        raise error
    return result


@contextmanager
def _fitting(model: models.Model) -> Iterator[None]:
    """What goes wrong when a model is tried is the model's fault: its card was written by hand, or its graph was."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, StopIteration, TypeError, ValueError, *ONNX_ERRORS) as error:
        reason = str(error).partition("\n")[0]
        raise ModelIncompatible(f"{model.path} does not do what its card says ({reason}); export it again") from error
