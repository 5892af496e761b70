"""The options --baseline and --identify, which compare the people of all clips of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fervid.cli.output import ClipOutputOptions
from fervid.core.errors import UsageError

if TYPE_CHECKING:
    from fervid.analysis.baseline import ObservedRecord
    from fervid.analysis.pipeline import Classifier
    from fervid.batch.baseline_runner import ShowProgress
    from fervid.batch.baseline_spec import BaselineSpec
    from fervid.batch.runner import RunConfig
    from fervid.core.progress import Progress
    from fervid.core.results import ClipResult


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineOptions:
    """Options that compare the people of all clips."""

    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline",
            help="Classify relative to each person's average. person recognises people by face; a CSV file names them"
            " (path,person) or lists clips in which they are at rest (path or path,start,end).",
            metavar="person|FILE",
        ),
    ] = None
    identify: Annotated[
        bool, typer.Option("--identify", help="Recognise people across clips; fills people[].identity.")
    ] = False

    def read(self, per_clip: Mapping[str, bool]) -> BaselineSpec | None:
        """Return the baseline of a run; None if each clip is classified on its own.

        Args:
            per_clip: Flags that need each clip to be classified on its own, with their values.

        Raises:
            UsageError: The baseline cannot be read, or is combined with one of those flags.
        """
        if self.baseline is None and not self.identify:
            return None
        if flags := [flag for flag, value in per_clip.items() if value]:
            raise UsageError(
                f"{flags[0]} cannot be combined with --baseline or --identify, which compare people across clips; drop"
                " one"
            )
        from fervid.batch.baseline_spec import BaselineSpec

        return BaselineSpec.read(self.baseline) if self.baseline else BaselineSpec()


def observation_progress(clips: int, config: RunConfig, progress: Progress) -> ShowProgress:
    """Return a function that shows progress while clips are analysed, before they are classified."""
    from fervid.core.progress import track_clips

    def failed(records: Sequence[ObservedRecord]) -> bool:
        return config.has_failure([record.result for record in records])

    return lambda records: track_clips(records, clips, progress, failed)


@contextmanager
def open_baseline_engine(
    classifier: Classifier, config: RunConfig, spec: BaselineSpec, progress: Progress, output: ClipOutputOptions
) -> Iterator[Callable[[list[str]], Iterable[ClipResult]]]:
    """Open a function that classifies clips relative to a baseline.

    What was observed in the clips is kept beside a JSON Lines output, so that --resume need not read them again.

    Raises:
        UsageError: --resume without a JSON Lines output, or a classifier that cannot be used with a baseline.
        OutputError: The output exists, and neither --resume nor --force is given.
    """
    from fervid.batch.baseline_runner import check_relative, classify_relative
    from fervid.batch.observation_store import ObservationFile
    from fervid.batch.writers import format_from_suffix
    from fervid.core.atomic_io import check_overwrite

    check_relative(classifier, spec)
    path = Path(output.output or "")
    is_local = output.output is not None and "://" not in output.output
    is_jsonl = is_local and (output.writer_format or format_from_suffix(path)) == "jsonl"
    if output.resume and not is_jsonl:
        raise UsageError("--resume with --baseline or --identify needs a JSON Lines output; use -o results.jsonl")
    if is_jsonl:
        check_overwrite(path, force=output.force or output.resume, resumable=True)
    store = ObservationFile.open(path, classifier, resume=output.resume) if is_jsonl else nullcontext()
    with store as observations:
        yield lambda clips: classify_relative(
            classifier, clips, config, spec, observation_progress(len(clips), config, progress), observations
        )
