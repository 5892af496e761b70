"""Groups of options that commands share, and the conversion of options to settings of the pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fervid.cli.flags import (
    Aspect,
    ClassifierName,
    DetectorName,
    Device,
    End,
    EveryFrame,
    FaceModelName,
    Fps,
    Memory,
    MinFace,
    Rotate,
    Start,
    Stream,
    Timeout,
    WhichFace,
)
from fervid.core.errors import UsageError, as_usage_error

if TYPE_CHECKING:
    from fervid.analysis.options import Options
    from fervid.analysis.pipeline import Classifier
    from fervid.core.worker_process import Limits

LABELS_WITHOUT_CONTEMPT = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
"""What `--labels 7` stands for."""


def parse_labels(text: str | None) -> tuple[str, ...] | None:
    """Split comma-separated labels; `7` stands for `LABELS_WITHOUT_CONTEMPT`."""
    if text is None:
        return None
    if text.strip() == "7":
        return LABELS_WITHOUT_CONTEMPT
    return tuple(label.strip() for label in text.split(",") if label.strip())


def csv_for_excel(format: str | None, output: str | Path | None, excel: bool) -> Any:
    """Return the output format, which --excel changes from CSV to CSV for Excel.

    Raises:
        UsageError: --excel is given, and the format is not CSV.
    """
    if not excel:
        return format
    if format != "csv" and (format is not None or Path(output or "").suffix.lower() != ".csv"):
        raise UsageError("--excel is for CSV; add --format csv, or name the output results.csv")
    return "excel"


def build_options(
    *,
    fps: float | None = None,
    every_frame: bool = False,
    start: float = 0.0,
    end: float | None = None,
    rotate: str = "auto",
    stream: int | None = None,
    aspect: float | None = None,
    **settings: Any,
) -> Options:
    """Build the options of the pipeline from command-line options.

    Raises:
        UsageError: Options contradict each other, or a value is out of range.
    """
    from fervid.analysis.options import Options
    from fervid.media.sampling import Sampling

    with as_usage_error():
        if every_frame and fps is not None:
            raise UsageError("--every-frame and --fps contradict each other; give one")
        degrees = None if rotate == "auto" else int(rotate)
        rate = None if every_frame else 5.0 if fps is None else fps
        return Options(Sampling(rate, start, end, degrees, stream, aspect), **settings)


def build_limits(timeout: float | None, memory: int | None) -> Limits:
    """Build the limits of a clip from --timeout in seconds and --memory in MB; 0 disables a limit."""
    from fervid.core.worker_process import Limits

    seconds, megabytes = 3600.0 if timeout is None else timeout, 4096 if memory is None else memory
    return Limits(seconds or None, megabytes * 1_000_000 or None)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameOptions:
    """Options that select the frames to analyse and the smallest face."""

    fps: Fps = None
    every_frame: EveryFrame = False
    start: Start = 0.0
    end: End = None
    rotate: Rotate = "auto"
    stream: Stream = None
    aspect: Aspect = None
    min_face: MinFace = None

    def build(self, **settings: Any) -> Options:
        """Build the options of the pipeline, with further settings by name.

        Raises:
            UsageError: Options contradict each other, or a value is out of range.
        """
        return build_options(
            fps=self.fps,
            every_frame=self.every_frame,
            start=self.start,
            end=self.end,
            rotate=self.rotate,
            stream=self.stream,
            aspect=self.aspect,
            min_face=self.min_face,
            **settings,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions(FrameOptions):
    """Options that select the frames and faces to analyse."""

    face: WhichFace = "main"

    def options(
        self,
        *,
        attributes: bool = False,
        labels: str | None = None,
        adaptive: bool = False,
        baseline: Literal["person", "rest"] | None = None,
    ) -> Options:
        """Build the options of the pipeline.

        Raises:
            UsageError: Options contradict each other, or a value is out of range.
        """
        return self.build(
            face=self.face, attributes=attributes, labels=parse_labels(labels), adaptive=adaptive, baseline=baseline
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """Options that select the models and the device."""

    classifier: ClassifierName = None
    face_model: FaceModelName = "mobilenetv1"
    detector: DetectorName = "blazeface-back"
    device: Device = "cpu"

    def load(self, options: Options, threads: int | None, device: Device | None = None) -> Classifier:
        """Load the models and return the pipeline.

        Args:
            options: What to analyse in a clip.
            threads: Threads of each model.
            device: Overrides --device.
        """
        from fervid.analysis.pipeline import load_classifier

        return load_classifier(
            classifier=self.classifier,
            face_model=self.face_model,
            detector=self.detector,
            options=options,
            threads=threads,
            device=device or self.device,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitOptions:
    """Options that limit the time and memory of a clip."""

    timeout: Timeout = None
    memory: Memory = None

    @property
    def limits(self) -> Limits:
        """The limits in seconds and bytes."""
        return build_limits(self.timeout, self.memory)


def preload_worker() -> None:
    """Start a worker process and let it import the pipeline while this process reads the options."""
    from fervid.core.worker_process import prestart_worker

    prestart_worker("fervid.analysis.pipeline", "fervid.media.video")


def plan_workers(clips: int, jobs: int | None, threads: int | None) -> tuple[int, int]:
    """Return the number of worker processes and of threads per worker, so that together they use all usable CPUs.

    A single clip has a worker of its own too, so that a crash of the decoder does not end the command.
    """
    import cv2

    cpus = cv2.getNumberOfCPUs()
    jobs = min(jobs or cpus, max(1, clips))
    return jobs, threads or max(1, cpus // jobs)
