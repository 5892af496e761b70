"""Many clips: workers, input order, and where the records go."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fervid.errors import UsageError
from fervid.ledger import ANSWERED, Ledger
from fervid.output import Format, Writer, format_of, replacing, writer, writing
from fervid.pipeline import Classifier
from fervid.records import ClipResult, Problem, Status


@dataclass(frozen=True, slots=True)
class Policy:
    """How a run goes on when clips fail.

    Attributes:
        jobs: Clips that are worked on at the same time.
        fail_fast: Whether to stop at the first failure and mark the rest as skipped.
        strict: Whether a clip without a face is a failure.
    """

    jobs: int = 1
    fail_fast: bool = False
    strict: bool = False

    def failed(self, status: Status) -> bool:
        """Whether a clip with that status counts as failed."""
        return status not in ANSWERED or (self.strict and status == "no_face")


def answer_all(classifier: Classifier, paths: Iterable[str], policy: Policy) -> Iterator[ClipResult]:
    """One record per clip, in the order of the input.

    No more than twice as many clips as there are workers are read ahead, so memory does not grow with the list.
    """
    failures: list[str] = []

    def work(path: str) -> ClipResult:
        if policy.fail_fast and failures:
            reason = f"not tried, because {failures[0]} failed and --fail-fast was given"
            return ClipResult(path, "skipped", models=classifier.models, problem=Problem("skipped", reason))
        return classifier.answer(path)

    for result in _ordered(work, iter(paths), policy.jobs):
        if policy.failed(result.status):
            failures.append(result.path)
        yield result


def _ordered(work: Callable[[str], ClipResult], paths: Iterator[str], jobs: int) -> Iterator[ClipResult]:
    if jobs == 1:
        yield from map(work, paths)
        return
    waiting: deque[Future[ClipResult]] = deque()
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="fervid")
    try:
        for path in paths:
            waiting.append(pool.submit(work, path))
            if len(waiting) >= 2 * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def destination(
    output: Path | None,
    format: Format | None,
    classifier: Classifier,
    clips: Sequence[str],
    *,
    resume: bool = False,
    force: bool = False,
) -> Iterator[tuple[Writer, Mapping[str, Status]]]:
    """Open where the records go, and close it whole on every path.

    Args:
        output: A file; None for standard output.
        format: None for what the suffix says, and on standard output a table for a terminal and JSON Lines for a pipe.
        classifier: Whose answers they are.
        clips: The inputs, none of which the output may overwrite.
        resume: Whether to continue a JSON Lines file.
        force: Whether an existing file may be replaced.

    Yields:
        The writer, and the inputs that the file answers already with their status.

    Raises:
        UsageError: The suffix says nothing, the output is of a kind that cannot be continued, or is an input.
        OutputError: The file exists or cannot be written.
    """
    format = format or (format_of(output) if output else "table" if sys.stdout.isatty() else "jsonl")
    if resume and (output is None or format != "jsonl"):
        raise UsageError("--resume continues a JSON Lines file; name it with -o results.jsonl")
    if resume and force:
        raise UsageError("--resume continues the output and --force replaces it; give one of them")
    if output is None:
        with writing(Path("standard output")), _finished(writer(format, sys.stdout.buffer, classifier.labels)) as plain:
            yield plain, {}
        return
    touched = {os.path.realpath(f"{output}{suffix}") for suffix in ("", ".partial", ".ledger")}
    if mine := next((clip for clip in clips if os.path.realpath(clip) in touched), None):
        raise UsageError(f"the output {output} would overwrite the input {mine}; choose another name")
    if format == "jsonl":
        with Ledger(output, classifier, clips, resume=resume, force=force) as ledger:
            yield ledger, ledger.answered
    else:
        with replacing(output, force=force) as stream, _finished(writer(format, stream, classifier.labels)) as plain:
            yield plain, {}


@contextmanager
def _finished(plain: Writer) -> Iterator[Writer]:
    try:
        yield plain
    finally:
        plain.finish()
