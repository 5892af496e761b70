"""Groups of options that commands share, and the conversion of options to settings of the pipeline.

Annotations are no strings here, because evaluating those of all options would delay the help.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fervid.cli import ExitCode
from fervid.cli.flags import (
    Jobs,
    Labels,
    ProgressMode,
    Rotate,
    Threads,
    WhichFace,
    complete_model_names,
    parse_ratio,
    parse_seconds,
)
from fervid.core.errors import UsageError, as_usage_error

if TYPE_CHECKING:
    from fervid.analysis.options import Options
    from fervid.analysis.pipeline import Classifier
    from fervid.core.progress import Summary
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


def build_options(
    *,
    fps: float | None = None,
    every_frame: bool = False,
    start: float = 0.0,
    end: float | None = None,
    rotate: str = "auto",
    stream: int | None = None,
    aspect: float | None = None,
    labels: str | None = None,
    **settings: Any,
) -> "Options":
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
        return Options(Sampling(rate, start, end, degrees, stream, aspect), labels=parse_labels(labels), **settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameOptions:
    """Options that select the frames to analyse and the smallest face."""

    fps: Annotated[
        float | None,
        typer.Option(
            "--fps",
            help="Frames to analyse per second of video. Higher is slower and more precise.",
            show_default="5.0",
        ),
    ] = None
    every_frame: Annotated[
        bool, typer.Option("--every-frame", help="Analyse every frame. Cannot be combined with --fps.")
    ] = False
    stream: Annotated[
        int | None,
        typer.Option(
            "--stream",
            help="Index of the video stream, as ffprobe numbers it.",
            min=0,
            show_default="the default stream, else the largest",
        ),
    ] = None
    aspect: Annotated[
        float | None,
        typer.Option(
            "--aspect",
            help="Display aspect ratio, e.g. 16:9 or 1.78. Use it when faces look stretched.",
            parser=parse_ratio,
            metavar="RATIO",
            show_default="stored in the file",
        ),
    ] = None
    min_face: Annotated[
        int | None,
        typer.Option(
            "--min-face",
            help="Ignore faces smaller than this, in pixels. Default: 1/40 of the frame's longer side, at least 12.",
            min=1,
        ),
    ] = None

    def build(self, **settings: Any) -> "Options":
        """Build the options of the pipeline, with further settings by name.

        Raises:
            UsageError: Options contradict each other, or a value is out of range.
        """
        return build_options(**asdict(self), **settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipOptions(FrameOptions):
    """Options that say which part of a clip to analyse, and for what."""

    start: Annotated[
        float,
        typer.Option("--start", help="Start time: 12.5, 12.5s or 00:01:12.5.", parser=parse_seconds, metavar="TIME"),
    ] = 0.0
    end: Annotated[
        float | None,
        typer.Option("--end", help="End time: 12.5, 12.5s or 00:01:12.5.", parser=parse_seconds, metavar="TIME"),
    ] = None
    rotate: Rotate = "auto"
    attributes: Annotated[
        bool, typer.Option("--attributes", help="Also estimate age, gender and ethnicity of each person.")
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionOptions(ClipOptions):
    """Options that say which frames, faces and labels a prediction is about."""

    face: WhichFace = "main"
    labels: Labels = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceModelOptions:
    """Options that select the models of faces and the device."""

    face_model: Annotated[
        str,
        typer.Option(
            "--face-model",
            help="Face model: a model name or an ONNX file.",
            autocompletion=complete_model_names("face_model"),
        ),
    ] = "mobilenetv1"
    detector: Annotated[
        str,
        typer.Option(
            "--detector",
            help="Face detector: a model name or an ONNX file.",
            autocompletion=complete_model_names("detector"),
        ),
    ] = "blazeface-back"
    device: Annotated[
        Literal["cpu", "cuda", "auto"],
        typer.Option(
            "--device",
            help="Device for the detector and the face model; auto uses cuda if available. With cuda, use --face-model"
            " mobilenetv1-fp32.",
        ),
    ] = "cpu"

    def load(self, options: "Options", threads: int | None, **overrides: Any) -> "Classifier":
        """Load the models and return the pipeline.

        Args:
            options: What to analyse in a clip.
            threads: Threads of each model.
            overrides: Models and device that differ from the options.
        """
        from fervid.analysis.pipeline import load_classifier

        return load_classifier(options=options, threads=threads, **{**asdict(self), **overrides})


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions(FaceModelOptions):
    """Options that select all models and the device."""

    classifier: Annotated[
        str | None,
        typer.Option(
            "--classifier",
            help="Clip classifier: a model name or an ONNX file.",
            show_default="the one that matches the face model",
            autocompletion=complete_model_names("classifier"),
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitOptions:
    """Options that limit the time and memory of a clip, and show the progress."""

    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            envvar="FERVID_TIMEOUT",
            help="Time limit per clip: 90, 90s or 00:01:30; 0 disables it.",
            parser=parse_seconds,
            metavar="TIME",
            show_default="3600",
        ),
    ] = None
    memory: Annotated[
        int | None,
        typer.Option(
            "--memory",
            envvar="FERVID_MEMORY",
            help="Memory limit per clip in MB; 0 disables it.",
            min=0,
            show_default="4096",
        ),
    ] = None
    progress: ProgressMode = "auto"

    @property
    def limits(self) -> "Limits":
        """The limits in seconds and bytes; the options are in seconds and MB, and 0 disables them."""
        from fervid.core.worker_process import Limits

        seconds = 3600.0 if self.timeout is None else self.timeout
        megabytes = 4096 if self.memory is None else self.memory
        return Limits(seconds or None, megabytes * 1_000_000 or None)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions(LimitOptions):
    """Options of the worker processes, and of what counts as a failure."""

    jobs: Jobs = None
    threads: Threads = None
    strict: Annotated[bool, typer.Option("--strict", help="Count a clip without a face as a failure.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions(WorkerOptions):
    """Options of a run that ends, with an exit status."""

    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="Exit with status 0 even if inputs failed.")] = False

    def finish(self, summary: "Summary", output: object, subject: str = "records are") -> typer.Exit:
        """Write the summary of a run with an output, and return the exit with the status of the run."""
        if output:
            summary.log(output, self.progress, subject)
        return typer.Exit(ExitCode.INPUT_FAILED if summary.failures and not self.exit_zero else ExitCode.OK)


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
