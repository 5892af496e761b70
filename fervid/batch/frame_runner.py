"""Run a classifier over many clips and give the rows of their frames, in input order."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from fervid.analysis.frame_rows import RecordedClip
from fervid.analysis.pipeline import Classifier
from fervid.batch.runner import RunConfig, crash_result
from fervid.core.atomic_io import as_output_error
from fervid.core.frame_rows import FrameColumns, FrameRow
from fervid.core.results import ClipResult
from fervid.core.worker_pool import map_ordered
from fervid.core.worker_process import WorkerDied


@dataclass(frozen=True, slots=True)
class ClipFrames:
    """A clip and the file with the rows of its frames.

    Attributes:
        clip: The clip.
        file: The file; empty if the worker of the clip died.
    """

    clip: RecordedClip
    file: Path

    @property
    def result(self) -> ClipResult:
        """The record of the clip."""
        return self.clip.result

    def rows(self) -> Iterator[FrameRow]:
        """Read the rows of the clip; if its worker died, only the row of its error."""
        with self.file.open("rb") as file:
            yield from self.clip.rows(file)


def record_all(
    classifier: Classifier, paths: Iterable[str], columns: FrameColumns, config: RunConfig
) -> Generator[ClipFrames]:
    """Yield the frames of each clip, in input order; its file exists until the next clip is requested.

    Raises:
        OutputError: The folder for temporary files is full.
    """
    with TemporaryDirectory(prefix="fervid-frames-") as folder:
        items = ((path, Path(folder, str(number))) for number, path in enumerate(paths))

        def on_death(item: tuple[str, Path], death: WorkerDied) -> ClipFrames:
            path, file = item
            file.write_bytes(b"")
            return ClipFrames(RecordedClip(crash_result(classifier, path, death), columns, {}), file)

        for frames in map_ordered(partial(_record, classifier, columns), items, config.jobs, on_death, config.limits):
            yield frames
            frames.file.unlink()


def _record(classifier: Classifier, columns: FrameColumns, item: tuple[str, Path]) -> ClipFrames:
    path, target = item
    with as_output_error(target), target.open("wb") as file:
        return ClipFrames(classifier.record_frames(path, columns, file), target)
