"""Open the output of a run over frames: standard output, a file of lines, or a folder of parquet."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Literal, Protocol

from fervid.analysis.baseline import name_numbers, number_people
from fervid.analysis.pipeline import Classifier
from fervid.batch.frame_formats import Encoder, make_encoder
from fervid.batch.output import check_not_an_input
from fervid.batch.parquet_writer import FrameParquetWriter
from fervid.batch.resumable_rows import ResumableRowsWriter
from fervid.batch.resume import run_fingerprint
from fervid.core.atomic_io import as_output_error
from fervid.core.errors import UsageError
from fervid.core.frame_rows import FrameColumns, FrameRow
from fervid.core.records import ClipFeatures
from fervid.core.results import ClipResult, Status
from fervid.media.remote_files import is_url

FrameFormat = Literal["csv", "excel", "jsonl", "parquet"]
FORMAT_BY_SUFFIX: dict[str, FrameFormat] = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}


class FrameWriter(Protocol):
    """A sink for the rows of clips."""

    @property
    def finished(self) -> Mapping[str, Status]:
        """Status of each input that has its rows already."""

    @property
    def people(self) -> Mapping[str, Sequence[ClipFeatures]]:
        """What the people of each clip in the output are recognised by."""

    def write(self, result: ClipResult, rows: Iterable[FrameRow], people: Sequence[ClipFeatures] = ()) -> None:
        """Write the rows of one clip, and keep what its people are recognised by."""

    def fill_identities(self, names: Mapping[str, Sequence[str]]) -> None:
        """Write the name of each person in each clip, by path and `face_id`, into the rows."""


class _StdoutWriter:
    """Writes rows to standard output."""

    def __init__(self, header: bytes, encode: Encoder) -> None:
        self._encode = encode
        self.finished: Mapping[str, Status] = {}
        self.people: Mapping[str, Sequence[ClipFeatures]] = {}
        sys.stdout.buffer.write(header)

    def write(self, result: ClipResult, rows: Iterable[FrameRow], people: Sequence[ClipFeatures] = ()) -> None:
        """Write the rows of one clip and flush them."""
        sys.stdout.buffer.writelines(map(self._encode, rows))
        sys.stdout.buffer.flush()

    def fill_identities(self, names: Mapping[str, Sequence[str]]) -> None:
        """Do nothing, because rows on standard output have no identity."""


def name_people_across_clips(writer: FrameWriter, clips: Iterable[str], min_similarity: float) -> None:
    """Recognise the people of all clips in an output, and write their names into its rows.

    Args:
        writer: The output, with the rows of all clips.
        clips: The clips in the order in which people are numbered; other clips of the output follow.
        min_similarity: Cosine similarity from which two faces are those of one person.
    """
    people_of = writer.people
    paths = dict.fromkeys([*clips, *people_of])
    people = [(clip, path, features) for clip, path in enumerate(paths) for features in people_of[path]]
    clip_of, features = [clip for clip, _, _ in people], [features for _, _, features in people]
    numbers = number_people(features, clip_of, min_similarity).tolist()
    name_of = name_numbers(numbers)
    names: dict[str, list[str]] = {path: [] for path in paths}
    for (_, path, _), number in zip(people, numbers, strict=True):
        names[path].append(name_of[number])
    writer.fill_identities(names)


def resolve_frame_format(
    output: str | Path | None,
    format: FrameFormat | None,
    *,
    resume: bool,
    force: bool,
    embedding: bool = False,
    identify: bool = False,
) -> FrameFormat:
    """Determine the format: that of the suffix if None, and JSON Lines on standard output.

    Raises:
        UsageError: The format is unknown or does not support the options.
    """
    if output is not None and is_url(str(output)):
        raise UsageError(f"frames are written to a local file or folder, not to {output}; upload it afterwards")
    suffix = Path(output).suffix.lower() if output else ".jsonl"
    if format is None and suffix not in FORMAT_BY_SUFFIX:
        raise UsageError(
            f"no format for this suffix: {output}; use one of {' '.join(FORMAT_BY_SUFFIX)}, or add --format"
        )
    format = format or FORMAT_BY_SUFFIX[suffix]
    example = f"-o frames.{'csv' if format == 'excel' else format}"
    if resume and force:
        raise UsageError("--resume continues the output and --force replaces it; give one of them")
    if output is None and identify:
        raise UsageError(
            "--identify recognises people when all clips have been read, and adds their names to rows that are already"
            f" written; name an output with {example}"
        )
    if output is None and (resume or format == "parquet"):
        raise UsageError(f"{'--resume' if resume else 'parquet'} needs an output; name it with {example}")
    if embedding and format != "parquet":
        raise UsageError("--embedding is written to parquet only; use -o frames.parquet")
    return format


def open_frame_writer(
    output: str | Path | None,
    format: FrameFormat,
    classifier: Classifier,
    columns: FrameColumns,
    clips: Sequence[str],
    *,
    resume: bool = False,
    force: bool = False,
) -> AbstractContextManager[FrameWriter]:
    """Open the output of a run over frames, which is completed and closed on every exit.

    Args:
        output: A file; a folder for parquet; None for standard output.
        format: As `resolve_frame_format` returns it.
        classifier: Makes the rows.
        columns: The columns of the rows.
        clips: The inputs, none of which the output may overwrite.
        resume: Whether to continue the output.
        force: Whether an existing output may be replaced.

    Raises:
        UsageError: The output is an input, or a package is missing.
        OutputError: The output exists or cannot be written.
    """
    run = run_fingerprint(classifier)
    run += "+identity" * columns.identity + "+logits" * columns.logits + "+embedding" * bool(columns.embedding)
    if output is None:
        return _open_stdout(*make_encoder(format, columns))
    path = Path(output)
    check_not_an_input(path, clips)
    if format == "parquet":
        return FrameParquetWriter(path, columns, run, clips, resume=resume, force=force)
    return ResumableRowsWriter(path, format, columns, run, clips, resume=resume, force=force)


@contextmanager
def _open_stdout(header: bytes, encode: Encoder) -> Iterator[FrameWriter]:
    with as_output_error(Path("standard output")):
        yield _StdoutWriter(header, encode)
