"""The stages in order: one clip, or frames from anywhere, to one answer."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from fervid.analysis.aggregate import (
    ClipObservations,
    TrackStats,
    WindowObservations,
    WindowSpec,
    aggregate_clip,
    iter_windows,
    no_frames_error,
)
from fervid.analysis.baseline import LOGITS, BaselineReference, check_card, move_features
from fervid.analysis.clip_classifier import ClipClassifier, matches_network
from fervid.analysis.clip_timeline import ClipTimeline, build_clip_timeline
from fervid.analysis.early_exit import exit_levels
from fervid.analysis.extractor import Extractor, Options, as_incompatible_model, load_extractor
from fervid.core.errors import Discontinuity, FramesDropped, InputError, ModelIncompatible, SeveralStreams, UsageError
from fervid.core.records import (
    Baseline,
    ClipFeatures,
    ClipResult,
    ErrorInfo,
    Frame,
    FrameObservation,
    Person,
    WindowResult,
)
from fervid.media.latest_frame import LatestFrameSource
from fervid.media.sampling import Sampling
from fervid.models import registry

IDENTITY = "identity.mean"
ATTRIBUTES = {"age": "first_age", "gender": "genders", "ethnicity": "ethnicities"}
"""What `Options.attributes` asks for, and what the card of a network that estimates it says of it."""


FORGET_PERSON_AFTER_S = 600.0
"""Seconds after which a person who left is not known again in what goes on without end."""


@dataclass(frozen=True, slots=True, eq=False)
class ObservedRecord:
    """A record, and what a baseline needs of the people in it: a few kilobytes.

    Attributes:
        result: The record, with answers that are relative to nothing.
        people: Features of each person in it.
    """

    result: ClipResult
    people: tuple[ClipFeatures, ...]


class Classifier:
    """The whole pipeline, loaded and ready. Its methods may be called from several threads at once.

    They work in this process, which a file that crashes, hangs or exhausts the decoder then does too; a process for
    each clip is what `batch.answer_all` has. Sent to another process it loads the same files there again.
    """

    def __init__(self, extractor: Extractor, classifier: registry.Model) -> None:
        """Put a clip classifier behind the stages that it was fitted on.

        Args:
            extractor: Gives the statistics of a clip.
            classifier: A model of that kind.

        Raises:
            ModelIncompatible: The classifier was fitted on another network, or does not do what its card says.
            UsageError: The options name fewer than two labels or some that it does not have, it needs everybody in a
                clip and is to be asked for one, it cannot be asked early, it needs the mean of a person, or the network
                estimates no attributes.
        """
        network, options = extractor.network, extractor.options
        if not matches_network(classifier.card, network.sha256s, network.card["expressions"]):
            theirs = str(classifier.card.get("network_sha256", "of other expressions"))
            raise ModelIncompatible(
                f"{classifier.identity.name} was fitted on network {theirs[:12] if len(theirs) == 64 else theirs},"
                f" not on {network.identity.name} ({network.identity.sha256[:12]}); fit it again, or name its network"
            )
        check_card(classifier.card, options.baseline)
        lacking = [name for name, known in ATTRIBUTES.items() if known not in network.card]
        if options.attributes and lacking:
            raise UsageError(
                f"{network.identity.name} estimates no {', '.join(lacking)};"
                f" leave out --attributes, or name --network {registry.DEFAULTS['network']}"
            )
        self.extractor, self.options = extractor, options
        self._classifier = classifier
        self.models = {
            "detector": extractor.detector.identity,
            "network": network.identity,
            "classifier": classifier.identity,
        }
        self.files = {"detector": extractor.detector.path, "network": network.path, "classifier": classifier.path}
        with as_incompatible_model(network):
            self._genders = sorted(network.card.get("genders", {}).items(), key=lambda entry: -entry[1])
            self._ethnicities: tuple[str, ...] = tuple(map(str, network.card.get("ethnicities", ())))
        with as_incompatible_model(classifier):
            if options.face != "all" and classifier.card.get("face") == "all":
                raise UsageError(
                    f"{classifier.identity.name} was fitted on everybody in a clip together; add --face all"
                )
            self.labels: tuple[str, ...] = self.options.labels or tuple(classifier.card["labels"])
            self._classify = ClipClassifier(classifier.session, classifier.card, self.options.labels)
            if options.labels is not None and len(set(options.labels)) < max(len(options.labels), 2):
                raise UsageError(
                    f"labels are two or more different ones of {', '.join(classifier.card['labels'])}, not"
                    f" {', '.join(options.labels) or 'none'}"
                )
            self._levels = exit_levels(classifier.card) if self.options.adaptive else ()
            self._person(0, extractor.tried)

    @property
    def card(self) -> Mapping[str, Any]:
        """Of the clip classifier."""
        return self._classifier.card

    def __reduce__(self) -> tuple[Any, ...]:
        return Classifier, (self.extractor, self._classifier)

    def classify(self, path: str | os.PathLike[str]) -> ClipResult:
        """The answer for one clip.

        Args:
            path: A video or image file.

        Raises:
            NoFaces: No face was found.
            InputError: The file could not be read.
        """
        return _raise_unless_ok(*self._answer(path))

    def observe(self, path: str | os.PathLike[str], sampling: Sampling | None = None) -> list[ObservedRecord]:
        """The record of one clip with the features behind it, to be moved by a baseline (`relate`).

        Args:
            path: A video or image file.
            sampling: Which frames; None for those of the options.
        """
        started = time.perf_counter()
        with closing(self.extractor.watch(path, sampling)) as observed:
            seen = aggregate_clip(observed, self.extractor.rule)
        return [self._record(self._summarise(os.fspath(path), seen, started)[0], seen)]

    def observe_windows(self, path: str | os.PathLike[str], cut: WindowSpec | None = None) -> list[ObservedRecord]:
        """As `observe`, a record for each window of a clip."""
        started, name = time.perf_counter(), os.fspath(path)
        try:
            with closing(self.extractor.watch(path)) as observed:
                return [
                    self._record(WindowResult.of(result, part.start, part.end), part.seen)
                    for result, part in self._windows(name, observed, cut, self.options.sampling.start)
                ]
        except InputError as error:
            seen = ClipObservations(problem=error)
            return [self._record(WindowResult.of(self._summarise(name, seen, started)[0]), seen)]

    def _record(self, result: ClipResult, seen: ClipObservations) -> ObservedRecord:
        """With the statistics that the classifier takes, and what tells people and their average."""
        names = {*self.card["statistics"], LOGITS, IDENTITY}
        people = tuple(
            ClipFeatures({name: value for name, value in features.statistics.items() if name in names}, features.count)
            for features in (person.pool.features() for person in seen.people)
        )
        return ObservedRecord(result, people)

    def relate(
        self,
        record: ObservedRecord,
        identities: Sequence[str],
        references: Sequence[BaselineReference | None],
    ) -> ClipResult:
        """The record with names of people, and answers relative to their averages.

        Args:
            record: What `observe` gave.
            identities: A name for each person in it.
            references: What each person's answer is relative to; None for a person without an average.
        """
        kind, people = self.options.baseline, []
        for person, features, identity, reference in zip(
            record.result.people, record.people, identities, references, strict=True
        ):
            answer = person.answer
            if kind is not None:
                answer = self._classify(move_features(features, reference, self.card, kind))
            people.append(replace(person, answer=answer, identity=identity))
        main = references[0] if references else None
        return replace(
            record.result,
            people=tuple(people),
            answer=people[0].answer if people else None,
            baseline=Baseline(main.kind, main.clips) if main else None,
        )

    def classify_frames(self, frames: Iterable[Frame], name: str = "frames") -> ClipResult:
        """The answer for frames that are already in memory, or come from elsewhere.

        Args:
            frames: In order of time.
            name: What to put into the result as the path.

        Raises:
            NoFaces: No face was found.
            InputError: There are no frames, or what they raised.
        """
        started = time.perf_counter()
        observed = self.extractor.observe(frames)
        return _raise_unless_ok(*self._summarise(name, aggregate_clip(observed, self.extractor.rule), started))

    def answer(self, path: str | os.PathLike[str]) -> ClipResult:
        """The record of one clip whatever happens to it: problems with the clip are told in the record."""
        return self._answer(path)[0]

    def classify_many(self, paths: Iterable[str | os.PathLike[str]]) -> Iterator[ClipResult]:
        """One record per clip, in the order of the input; one bad file does not stop the rest.

        Raises:
            UsageError: It is a single path.
        """
        if isinstance(paths, str | bytes | os.PathLike):
            raise UsageError(f"{paths!r} is one path; call classify, or give a list of them")
        return map(self.answer, paths)

    def timeline(self, path: str | os.PathLike[str], cut: WindowSpec | None = None) -> Iterator[WindowResult]:
        """One record for each window of a clip, as soon as it is over; no frame is looked at twice.

        A clip that breaks off, or has no frame, has a last record that says so.

        Args:
            path: A video or image file.
            cut: Length and step of the windows.
        """
        with closing(self.extractor.watch(path)) as observed:
            yield from self._told(os.fspath(path), observed, cut, self.options.sampling.start)

    def follow(self, path: str | os.PathLike[str], cut: WindowSpec | None = None) -> ClipTimeline:
        """Where everybody is in a clip, and what they show as it goes on: what `fervid annotate` draws.

        A clip that breaks off is told as far as it goes, and the story says so.

        Args:
            path: A video or image file.
            cut: Length and step of the windows that are answered, as of `timeline`.

        Raises:
            InputError: The file could not be read, or none of it lies in the time that was asked for.
        """
        with closing(self.extractor.watch(path)) as observed:
            answered = self._windows(os.fspath(path), observed, cut, self.options.sampling.start)
            return build_clip_timeline(
                ((part, result.people) for result, part in answered), self.labels, self.extractor.rule
            )

    def live(self, source: LatestFrameSource, cut: WindowSpec | None = None) -> Iterator[WindowResult]:
        """One record for each window of what does not wait, as soon as it is over.

        A frame is looked at when it comes. Those that come meanwhile are dropped, but for the newest, and the record
        says how many. Its `elapsed_s` is the time since the frame came that ended the window.

        Args:
            source: A stream or camera.
            cut: Length and step of the windows.
        """
        with closing(self.extractor.observe(source.frames(), live=True)) as observed:
            for result in self._told(source.name, observed, cut, 0.0, FORGET_PERSON_AFTER_S):
                missed = source.missed(result.start_s or 0.0, result.end_s or 0.0)
                told = FramesDropped(
                    f"{missed} of {missed + result.frames_sampled} frames were dropped, because this machine does not"
                    " keep up; lower --fps, or leave more of it to this"
                )
                problem, minor = result.problem, (Discontinuity.code, SeveralStreams.code)
                if missed and (problem is None or problem.code in minor):
                    besides = f"; {problem.message}" if problem else ""
                    problem = ErrorInfo(told.code, told.message + besides)
                yield replace(result, problem=problem, elapsed_s=source.since())

    def _told(
        self,
        name: str,
        observed: Generator[FrameObservation],
        cut: WindowSpec | None,
        origin: float,
        memory: float = math.inf,
    ) -> Iterator[WindowResult]:
        """A record for each window, or one that says why there is none."""
        started = time.perf_counter()
        try:
            for result, part in self._windows(name, observed, cut, origin, memory):
                yield WindowResult.of(result, part.start, part.end)
                started = time.perf_counter()
        except InputError as error:
            yield WindowResult.of(self._summarise(name, ClipObservations(problem=error), started)[0])

    def _windows(
        self,
        name: str,
        observed: Generator[FrameObservation],
        cut: WindowSpec | None,
        origin: float,
        memory: float = math.inf,
    ) -> Iterator[tuple[ClipResult, WindowObservations]]:
        """Each window with its answer.

        Raises:
            InputError: The frames broke off before the first window, or there is none.
        """
        started, part = time.perf_counter(), None
        for part in iter_windows(observed, self.extractor.rule, cut or WindowSpec(), origin, memory):
            numbers = [person.number for person in part.seen.people]
            yield self._summarise(name, part.seen, started, numbers)[0], part
            started = time.perf_counter()
        if part is None:
            raise no_frames_error(name)

    def _answer(self, path: str | os.PathLike[str]) -> tuple[ClipResult, InputError | None]:
        started = time.perf_counter()
        return self._summarise(os.fspath(path), self._look(path), started)

    def _look(self, path: str | os.PathLike[str]) -> ClipObservations:
        """What a clip shows; with an adaptive rate, from no more frames than the classifier needs to be sure.

        The first rates are coarse and each finer one looks only at what is new (Savchenko, ICML 2023).
        """
        if not self._levels:
            return self.extractor.look(path)
        known: dict[float, FrameObservation] = {}
        for level in self._levels:
            seen = aggregate_clip(self.extractor.refine(path, level.stride, known), self.extractor.rule, level.stride)
            pool = seen.pool(self.options.face)
            if not seen.frames or (pool and self._classify(pool.features()).confidence >= level.confidence):
                return seen
        seen = aggregate_clip(self.extractor.refine(path, 1, known), self.extractor.rule)
        if seen.people or not seen.frames:
            return seen
        again = aggregate_clip(self.extractor.restretch(path), self.extractor.rule)
        again.problem = seen.problem
        return again if again.people else seen

    def _summarise(
        self, path: str, seen: ClipObservations, started: float, numbers: Sequence[int] | None = None
    ) -> tuple[ClipResult, InputError | None]:
        (problem, error), pool = seen.problems(path), seen.pool(self.options.face)
        answer = self._classify(pool.features()) if pool else None
        result = ClipResult(
            path=path,
            status="ok" if answer else "no_face" if seen.frames else "error",
            answer=answer,
            people=tuple(map(self._person, numbers or range(len(seen.people)), seen.people)),
            duration_s=seen.seconds if seen.frames else None,
            frames_sampled=seen.frames,
            frames_with_face=seen.frames_with_face,
            models=self.models,
            problem=ErrorInfo(problem.code, problem.message) if problem else None,
            elapsed_s=time.perf_counter() - started,
        )
        return result, error

    def _person(self, number: int, person: TrackStats) -> Person:
        features = person.pool.features()
        age = gender = ethnicity = None
        if self.options.attributes:
            age = float(features.statistics["age.mean"][0])
            share = float(features.statistics["gender.mean"][0])
            gender = next(name for name, least in self._genders if share >= least)
            ethnicity = self._ethnicities[int(features.statistics["ethnicity.mean"].argmax())]
        return Person(number, person.seconds, self._classify(features), age, gender, ethnicity)


def load_classifier(
    *,
    classifier: str | None = None,
    network: str = registry.DEFAULTS["network"],
    detector: str = registry.DEFAULTS["detector"],
    options: Options | None = None,
    threads: int | None = None,
    device: registry.Device = "cpu",
) -> Classifier:
    """Load the models and put the pipeline together.

    Args:
        classifier: Name of a shipped clip classifier, or the path of an ONNX file; by default what goes with the
            network.
        network: Name or path of the face network.
        detector: Name or path of the face detector.
        options: What to look at in a clip.
        threads: Threads a model may use; by default the CPUs that this process may use (affinity and cgroup).
        device: Where detector and network run: `cuda`, or `auto` for it if it can be used; by default `cpu`.

    Raises:
        ModelError: A model is missing, unverifiable, or does not fit the others.
        UsageError: The device cannot be used.
    """
    extractor = load_extractor(network=network, detector=detector, options=options, threads=threads, device=device)
    name = classifier or str(extractor.network.card.get("classifier", registry.DEFAULTS["classifier"]))
    return Classifier(extractor, registry.load_model(name, "classifier", 1))


def _raise_unless_ok(result: ClipResult, error: InputError | None) -> ClipResult:
    if error is not None and result.status != "ok":
        raise error
    return result
