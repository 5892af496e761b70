"""Many clips: workers, input order, and where the records go."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import tee
from pathlib import Path
from typing import Literal

from fervid.analysis.aggregate import WindowSpec
from fervid.analysis.clip_timeline import ClipTimeline
from fervid.analysis.pipeline import Classifier
from fervid.batch.folder_watcher import FolderWatcher
from fervid.batch.parquet_writer import ParquetDatasetWriter
from fervid.batch.resumable_jsonl import FINAL_STATUSES, ResumableJsonlWriter, ledger_path
from fervid.batch.writers import Format, Writer, format_from_suffix, make_writer
from fervid.core.atomic_io import append_write, as_output_error, atomic_write, check_overwrite
from fervid.core.atomic_io import partial_path as partial_name
from fervid.core.errors import UsageError
from fervid.core.records import ClipResult, ErrorInfo, Status, WindowResult
from fervid.core.worker_pool import Limits, WorkerDied, map_ordered, map_unordered
from fervid.media.remote_files import is_url


@dataclass(frozen=True, slots=True)
class RunConfig:
    """How a run goes on when clips fail.

    Attributes:
        jobs: Processes that work on a clip each; 0 to work in this one, in which a clip that crashes ends all.
        fail_fast: Whether to stop at the first failure and mark the rest as skipped.
        strict: Whether a clip without a face is a failure.
        limits: What a clip may cost in a process of its own. Answers do not depend on it.
    """

    jobs: int = 0
    fail_fast: bool = False
    strict: bool = False
    limits: Limits = field(default_factory=Limits)

    def failed(self, status: Status) -> bool:
        """Whether a clip with that status counts as failed."""
        return status not in FINAL_STATUSES or (self.strict and status == "no_face")

    def any_failed(self, results: Sequence[ClipResult]) -> bool:
        """Whether a record of a clip counts as failed."""
        return any(self.failed(result.status) for result in results)


def classify_all(classifier: Classifier, paths: Iterable[str], policy: RunConfig) -> Iterator[ClipResult]:
    """One record per clip, in the order of the input; with `fail_fast` what follows a failure is skipped."""
    given, paths = tee(paths)
    results = map_ordered(classifier.answer, given, policy.jobs, partial(lost_clip, classifier), policy.limits)
    yield from stop_at_failure(classifier, paths, results, policy)


def stop_at_failure(
    classifier: Classifier, paths: Iterable[str], results: Generator[ClipResult], policy: RunConfig
) -> Generator[ClipResult]:
    """The results, one per path; with `fail_fast` they end at the first failure, and the rest is skipped."""
    left, failed = iter(paths), ""
    with closing(results):
        for result, path in zip(results, left, strict=False):
            yield result
            if policy.fail_fast and policy.failed(result.status):
                failed = path
                break
    for path in left:
        reason = f"not answered, because {failed} failed and --fail-fast was given"
        yield ClipResult(path, "skipped", models=classifier.models, problem=ErrorInfo("skipped", reason))


def classify_folder(
    classifier: Classifier, folder: FolderWatcher, answered: Iterable[str], policy: RunConfig
) -> Generator[ClipResult]:
    """One record for each clip that lies in a folder or comes into it, as soon as it is answered; without end.

    Args:
        classifier: Who answers.
        folder: Where they come.
        answered: Those that were there at the start and have an answer already.
        policy: How many at a time, and what each may cost.
    """
    clips = folder.clips(answered)
    with closing(
        map_unordered(classifier.answer, clips, policy.jobs, partial(lost_clip, classifier), policy.limits)
    ) as results:
        for result in results:
            yield result
            folder.settle(result.path)


def classify_windows(
    classifier: Classifier, paths: Iterable[str], cut: WindowSpec, policy: RunConfig
) -> Iterator[Sequence[WindowResult]]:
    """The windows of each clip, in the order of the input."""

    def lost(path: str, death: WorkerDied) -> list[WindowResult]:
        return [WindowResult.of(lost_clip(classifier, path, death))]

    return map_ordered(partial(_windows, classifier, cut), paths, policy.jobs, lost, policy.limits)


def build_timeline(classifier: Classifier, path: str, cut: WindowSpec, policy: RunConfig) -> ClipTimeline:
    """Where everybody is in a clip, and what they show; looked at in a process of its own, as the policy says.

    Raises:
        InputError: The file could not be read, or brought the process down.
    """

    def lost(path: str, death: WorkerDied) -> ClipTimeline:
        raise death.problem(path)

    (story,) = map_ordered(partial(_build_in_worker, classifier, cut), [path], policy.jobs, lost, policy.limits)
    return story


def _build_in_worker(classifier: Classifier, cut: WindowSpec, path: str) -> ClipTimeline:
    return classifier.follow(path, cut)


def _windows(classifier: Classifier, cut: WindowSpec, path: str) -> list[WindowResult]:
    return list(classifier.timeline(path, cut))


def lost_clip(classifier: Classifier, path: str, death: WorkerDied) -> ClipResult:
    """The record of a clip at which a worker died."""
    error = death.problem(path)
    return ClipResult(path, "error", models=classifier.models, problem=ErrorInfo(error.code, error.message))


@contextmanager
def open_writer(
    output: str | Path | None,
    format: Format | Literal["parquet"] | None,
    classifier: Classifier,
    clips: Collection[str],
    *,
    resume: bool = False,
    force: bool = False,
    record: type[ClipResult] = ClipResult,
    endless: bool = False,
    tell: Callable[[str], None] = lambda message: None,
) -> Iterator[tuple[Writer, Mapping[str, Status]]]:
    """Open where the records go, and close it whole on every path.

    Args:
        output: A file; a folder or URL for parquet; None for standard output.
        format: None for what the suffix says, and on standard output a table for a terminal and JSON Lines for a pipe.
            A URL is always parquet.
        classifier: Whose answers they are.
        clips: The inputs, none of which the output may overwrite; as a mapping with their stamps, as for
            `ResumableJsonlWriter`.
        resume: Whether to continue JSON Lines or parquet.
        force: Whether an existing file may be replaced.
        record: What is written; only `ClipResult`, of which a clip has one, can be continued.
        endless: Whether records come until somebody ends it. Then only what is whole after each of them is written.
        tell: Is told what of an output cannot be kept.

    Yields:
        The writer, and the inputs that the file answers already with their status.

    Raises:
        UsageError: The suffix says nothing, the output is of a kind that cannot be continued, or is an input.
        OutputError: The file exists or cannot be written.
    """
    if resume and force:
        raise UsageError("--resume continues the output and --force replaces it; give one of them")
    if endless and (
        format in ("json", "parquet") or (output and (format or format_from_suffix(Path(output))) != "jsonl")
    ):
        raise UsageError(
            "a file of what has no end is JSON Lines; name it with -o results.jsonl, or leave -o out for --format csv"
        )
    if format == "parquet" or (output is not None and is_url(str(output))):
        if output is None or format not in (None, "parquet"):
            raise UsageError("a URL is written as parquet, and parquet to a folder or URL; name it with -o results/")
        with ParquetDatasetWriter(str(output), classifier, clips, resume=resume, force=force) as parts:
            yield parts, parts.answered
        return
    output = Path(output) if output else None
    format = format or (format_from_suffix(output) if output else "table" if sys.stdout.isatty() else "jsonl")
    if resume and (output is None or format != "jsonl"):
        raise UsageError("--resume continues JSON Lines or parquet; name it with -o results.jsonl")
    if output is None:
        plain = make_writer(format, sys.stdout.buffer, classifier.labels, record, endless=endless)
        with as_output_error(Path("standard output")), _finishing(plain):
            yield plain, {}
        return
    touched = {f"{os.path.realpath(output)}{suffix}" for suffix in ("", ".partial", ".ledger")}
    if mine := next((clip for clip in clips if os.path.realpath(clip) in touched), None):
        raise UsageError(f"the output {output} would overwrite the input {mine}; choose another name")
    if format == "jsonl" and record is ClipResult:
        with ResumableJsonlWriter(output, classifier, clips, resume=resume, force=force, tell=tell) as ledger:
            yield ledger, ledger.answered
    elif endless:
        with append_write(output, force=force) as stream:
            yield make_writer(format, stream, classifier.labels, record), {}
    else:
        stale = ledger_path(output)  # a ledger of what was there before would seem to be that of what comes
        with atomic_write(output, force=force) as stream:
            check_overwrite(stale, force=force)
            with _noting(output), _finishing(make_writer(format, stream, classifier.labels, record)) as plain:
                yield plain, {}
            stale.unlink(missing_ok=True)


@contextmanager
def _noting(output: Path) -> Iterator[None]:
    """Let an interrupt say where the records are that were written."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as interrupt:
        interrupt.add_note(f"unfinished in {partial_name(output)}")
        raise


@contextmanager
def _finishing(plain: Writer) -> Iterator[Writer]:
    try:
        yield plain
    finally:
        plain.finish()
