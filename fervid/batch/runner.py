"""Run a classifier over many clips: in worker processes, in input order, until a failure or without end."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import tee

from fervid.analysis.clip_timeline import ClipTimeline
from fervid.analysis.pipeline import Classifier
from fervid.analysis.windows import WindowSpec
from fervid.batch.folder_watcher import FolderWatcher
from fervid.batch.resume import FINAL_STATUSES
from fervid.core.results import ClipResult, ErrorInfo, Status, WindowResult
from fervid.core.worker_pool import map_ordered, map_unordered
from fervid.core.worker_process import Limits, WorkerDied


@dataclass(frozen=True, slots=True)
class RunConfig:
    """How to run a batch and what counts as a failure.

    Attributes:
        jobs: Number of worker processes, each of which handles one clip at a time; 0 to work in this process, which a
            clip can crash.
        fail_fast: Whether to stop at the first failure and mark the remaining clips as skipped.
        strict: Whether a clip without a face is a failure.
        limits: Time and memory that a clip may take in a worker. Predictions do not depend on them.
    """

    jobs: int = 0
    fail_fast: bool = False
    strict: bool = False
    limits: Limits = field(default_factory=Limits)

    def is_failure(self, status: Status) -> bool:
        """Return whether a clip with this status counts as failed."""
        return status not in FINAL_STATUSES or (self.strict and status == "no_face")

    def has_failure(self, results: Sequence[ClipResult]) -> bool:
        """Return whether any of a clip's records counts as failed."""
        return any(self.is_failure(result.status) for result in results)


def classify_all(classifier: Classifier, paths: Iterable[str], config: RunConfig) -> Iterator[ClipResult]:
    """Yield one record per clip, in input order; with `fail_fast`, skip the clips after the first failure."""
    inputs, paths = tee(paths)
    results = map_ordered(
        classifier.classify_or_error, inputs, config.jobs, partial(crash_result, classifier), config.limits
    )
    yield from stop_at_failure(classifier, paths, results, config)


def stop_at_failure(
    classifier: Classifier, paths: Iterable[str], results: Generator[ClipResult], config: RunConfig
) -> Generator[ClipResult]:
    """Pass on one result per path; with `fail_fast`, stop at the first failure and skip the remaining paths."""
    remaining, failed = iter(paths), ""
    with closing(results):
        for result, path in zip(results, remaining, strict=False):
            yield result
            if config.fail_fast and config.is_failure(result.status):
                failed = path
                break
    for path in remaining:
        reason = f"skipped because {failed} failed and --fail-fast was given"
        yield ClipResult(path, "skipped", models=classifier.models, error=ErrorInfo("skipped", reason))


def classify_folder(
    classifier: Classifier, folder: FolderWatcher, finished: Iterable[str], config: RunConfig
) -> Generator[ClipResult]:
    """Yield one record for each clip in a folder, and for each that is added, as soon as it is ready; without end.

    Args:
        classifier: Classifies the clips.
        folder: The watched folder.
        finished: Clips of the folder that have a record already.
        config: Number of workers, and what each clip may cost.
    """
    clips = folder.iter_stable_files(finished)
    with closing(
        map_unordered(
            classifier.classify_or_error, clips, config.jobs, partial(crash_result, classifier), config.limits
        )
    ) as results:
        for result in results:
            yield result
            folder.mark_done(result.path)


def classify_windows(
    classifier: Classifier, paths: Iterable[str], spec: WindowSpec, config: RunConfig
) -> Iterator[Sequence[WindowResult]]:
    """Yield the windows of each clip, in input order."""

    def on_death(path: str, death: WorkerDied) -> list[WindowResult]:
        return [WindowResult.from_clip_result(crash_result(classifier, path, death))]

    return map_ordered(partial(_windows, classifier, spec), paths, config.jobs, on_death, config.limits)


def build_timeline(classifier: Classifier, path: str, spec: WindowSpec, config: RunConfig) -> ClipTimeline:
    """Build the timeline of the people in a clip, in a worker process if `config.jobs` is positive.

    Raises:
        InputError: The file could not be read, or crashed the worker.
    """

    def on_death(path: str, death: WorkerDied) -> ClipTimeline:
        raise death.to_input_error(path)

    build = partial(classifier.build_timeline, spec=spec)
    (timeline,) = map_ordered(build, [path], config.jobs, on_death, config.limits)
    return timeline


def _windows(classifier: Classifier, spec: WindowSpec, path: str) -> list[WindowResult]:
    return list(classifier.timeline(path, spec))


def crash_result(classifier: Classifier, path: str, death: WorkerDied) -> ClipResult:
    """Return the record of a clip whose worker died."""
    error = death.to_input_error(path)
    return ClipResult(path, "error", models=classifier.models, error=ErrorInfo(error.code, error.message))
