"""The options that commands share, and how they are read."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from fervid.core.errors import UsageError, usage

if TYPE_CHECKING:
    from fervid.analysis.extractor import Options
    from fervid.analysis.pipeline import Classifier
    from fervid.core.worker_pool import Limits

LABELS_WITHOUT_CONTEMPT = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")


def _seconds(text: str | float) -> float:
    """`12.5`, `12.5s` or `00:01:12.5` -> seconds."""
    parts = str(text).removesuffix("s").split(":")
    try:
        values = [float(part) for part in parts]
        if len(values) > 3 or min(values) < 0 or not max(values) < float("inf"):
            raise ValueError
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time; write 12.5, 12.5s or 00:01:12.5") from None
    return sum(value * 60.0**power for power, value in enumerate(reversed(values)))


def _ratio(text: str | float) -> float:
    """`16:9` or `1.78` -> width over height."""
    try:
        width, _, height = str(text).partition(":")
        return float(width) / float(height or 1)
    except (ValueError, ZeroDivisionError):
        raise typer.BadParameter(f"{text!r} is no aspect ratio; write 16:9 or 1.78") from None


def complete_model_names(*kinds: str, shipped: bool = True) -> Any:
    """What a shell completes the name of a model to.

    Args:
        kinds: Only those; without any, all.
        shipped: Those that are shipped too, not only those that can be pulled.
    """

    def complete(incomplete: str) -> list[str]:
        from fervid.models.registry import manifest

        entries = {**(manifest() if shipped else {}), **manifest("optional")}
        known = (name for name, entry in entries.items() if not kinds or entry["kind"] in kinds)
        return [name for name in known if name.startswith(incomplete)]

    return complete


def env_option(flag: str, help: str, **more: Any) -> Any:
    """An option that can be set by its environment variable too: --min-face by FERVID_MIN_FACE."""
    variable = "FERVID" + flag.split("/")[0].removeprefix("-").replace("-", "_").upper()
    return typer.Option(flag, envvar=variable, help=help, **more)


Inputs = Annotated[list[str] | None, typer.Argument(metavar="INPUT...", help="Files, folders or globs; - is a stream.")]
Camera = Annotated[
    int | None, typer.Option("--camera", help="Follow a camera of this machine instead: 0, 1 ...", min=0)
]
Recursive = Annotated[bool, env_option("--recursive/--no-recursive", "Search the folders within folders.")]
FromFile = Annotated[
    Path | None,
    typer.Option("--from-file", help="A list of inputs, one a line; # begins a comment; - is standard input."),
]
NullSeparated = Annotated[bool, typer.Option("-0", "--null", help="The list is separated by NUL.")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="Write here; the suffix chooses the format.")]
OutputFormat = Annotated[
    Literal["table", "jsonl", "json", "csv"] | None,
    env_option("--format", "Without it a table on a terminal, else JSON Lines."),
]
OutputTarget = Annotated[
    str | None,
    typer.Option("-o", "--output", help="Write here; the suffix chooses the format, and a URL is a folder of parquet."),
]
ClipOutputFormat = Annotated[
    Literal["table", "jsonl", "json", "csv", "parquet"] | None,
    env_option("--format", "Without it a table on a terminal, else JSON Lines. Parquet is a folder of parts."),
]
Force = Annotated[bool, env_option("--force/--no-force", "Replace an output that exists.")]
Resume = Annotated[bool, env_option("--resume/--no-resume", "Continue JSON Lines or parquet: skip what is answered.")]
Fps = Annotated[
    float | None, env_option("--fps", "Frames to look at, a second of presentation time.", show_default="5.0")
]
EveryFrame = Annotated[bool, env_option("--every-frame/--no-every-frame", "Look at every frame.")]
Start = Annotated[
    float, env_option("--start", "Begin here: 12.5, 12.5s or 00:01:12.5.", parser=_seconds, metavar="TIME")
]
End = Annotated[float | None, env_option("--end", "Stop here.", parser=_seconds, metavar="TIME")]
Rotate = Annotated[
    Literal["auto", "0", "90", "180", "270"], env_option("--rotate", "Turn clockwise; auto obeys the file.")
]
Stream = Annotated[
    int | None,
    env_option(
        "--stream",
        "Number of the video stream, as ffprobe counts them.",
        min=0,
        show_default="the default one, then the largest",
    ),
]
Aspect = Annotated[
    float | None,
    env_option(
        "--aspect",
        "Show the pictures with this ratio of width to height: 16:9 or 1.78.",
        parser=_ratio,
        metavar="RATIO",
        show_default="what the file says",
    ),
]
WhichFace = Annotated[Literal["main", "all"], env_option("--face", "Answer for the main person, or for all together.")]
MinFace = Annotated[
    int | None,
    env_option(
        "--min-face", "Smallest face that counts, in pixels. Default: a fortieth of the frame, at least 12.", min=1
    ),
]
Attributes = Annotated[
    bool, env_option("--attributes/--no-attributes", "Estimate age, gender and ethnicity of each person.")
]
ClassifierName = Annotated[
    str | None,
    env_option(
        "--classifier",
        "Clip classifier: a name or an ONNX file.",
        show_default="what goes with the network",
        autocompletion=complete_model_names("classifier"),
    ),
]
NetworkName = Annotated[
    str,
    env_option("--network", "Face network: a name or an ONNX file.", autocompletion=complete_model_names("network")),
]
DetectorName = Annotated[
    str,
    env_option("--detector", "Face detector: a name or an ONNX file.", autocompletion=complete_model_names("detector")),
]
Jobs = Annotated[
    int | None,
    env_option("--jobs", "Clips at the same time, a process for each. Default: the CPUs that may be used.", min=1),
]
Threads = Annotated[int | None, env_option("--threads", "Threads of decoder and models, for each clip.", min=1)]
Timeout = Annotated[
    float | None,
    env_option(
        "--timeout",
        "Give a clip up after this long: 90, 90s or 00:01:30; 0 never.",
        parser=_seconds,
        metavar="TIME",
        show_default="3600",
    ),
]
Memory = Annotated[
    int | None,
    env_option(
        "--memory", "Give a clip up that takes more MB of memory; 0 never. On Linux.", min=0, show_default="4096"
    ),
]
Engine = Annotated[
    Literal["local", "ray"], env_option("--engine", "Work on this machine, or on a Ray cluster, which reads URLs too.")
]
Address = Annotated[
    str | None,
    typer.Option("--address", help="Ray cluster: auto, HOST:PORT or ray://HOST:PORT. Default: one started here."),
]
Device = Annotated[
    Literal["cpu", "cuda", "auto"],
    env_option(
        "--device",
        "Where detector and network run; auto is cuda where it works. With cuda take --network mobilenetv1-fp32.",
    ),
]
ProgressMode = Annotated[
    Literal["auto", "bar", "none", "json"], env_option("--progress", "How to tell, on standard error.")
]
FailFast = Annotated[
    bool, env_option("--fail-fast/--no-fail-fast", "Stop at the first failure; the rest is recorded as skipped.")
]
ExitZero = Annotated[bool, env_option("--exit-zero/--no-exit-zero", "Exit with 0 although inputs failed.")]
Strict = Annotated[bool, env_option("--strict/--no-strict", "A clip without a face is a failure.")]
Adaptive = Annotated[
    bool, env_option("--adaptive/--no-adaptive", "Look at few frames first, and stop when the classifier is sure.")
]
BaselineOption = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        help="Answer relative to each person's average: person, or a CSV file with path,person to name people, or with"
        " path or path,start,end for clips in which they are at rest.",
        metavar="person|FILE",
    ),
]
Identify = Annotated[
    bool, env_option("--identify/--no-identify", "Recognise people across clips: fills people[].identity.")
]
Labels = Annotated[
    str | None, env_option("--labels", "Only these, with commas between; 7 stands for the emotions without contempt.")
]


def prepare() -> None:
    """Let a worker import what it needs while this process does the same."""
    from fervid.core.worker_pool import prestart_worker

    prestart_worker("fervid.analysis.pipeline", "fervid.media.video")


def parse_labels(text: str | None) -> tuple[str, ...] | None:
    """`a,b` or `7` -> labels."""
    if text is None:
        return None
    return (
        LABELS_WITHOUT_CONTEMPT
        if text.strip() == "7"
        else tuple(label.strip() for label in text.split(",") if label.strip())
    )


def build_options(
    *,
    fps: float | None = None,
    every_frame: bool = False,
    start: float = 0.0,
    end: float | None = None,
    rotate: str = "auto",
    stream: int | None = None,
    aspect: float | None = None,
    **more: Any,
) -> Options:
    """What to look at in a clip, from the flags that say so.

    Raises:
        UsageError: They contradict each other, or one has a value that cannot be.
    """
    from fervid.analysis.extractor import Options
    from fervid.media.sampling import Sampling

    with usage():
        if every_frame and fps is not None:
            raise UsageError("--every-frame and --fps contradict each other; give one, or add --no-every-frame")
        turn = None if rotate == "auto" else int(rotate)
        rate = None if every_frame else 5.0 if fps is None else fps
        return Options(Sampling(rate, start, end, turn, stream, aspect), **more)


def build_limits(timeout: float | None, memory: int | None) -> Limits:
    """What a clip may cost, from the flags that say so."""
    from fervid.core.worker_pool import Limits

    seconds, megabytes = 3600.0 if timeout is None else timeout, 4096 if memory is None else memory
    return Limits(seconds or None, megabytes * 1_000_000 or None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """Which frames and faces of a clip are looked at."""

    fps: Fps = None
    every_frame: EveryFrame = False
    start: Start = 0.0
    end: End = None
    rotate: Rotate = "auto"
    stream: Stream = None
    aspect: Aspect = None
    face: WhichFace = "main"
    min_face: MinFace = None

    def options(
        self,
        *,
        attributes: bool = False,
        labels: str | None = None,
        adaptive: bool = False,
        baseline: Literal["person", "rest"] | None = None,
    ) -> Options:
        """What to look at in a clip, and what to say of it.

        Raises:
            UsageError: The flags contradict each other, or one has a value that cannot be.
        """
        return build_options(
            fps=self.fps,
            every_frame=self.every_frame,
            start=self.start,
            end=self.end,
            rotate=self.rotate,
            stream=self.stream,
            aspect=self.aspect,
            face=self.face,
            min_face=self.min_face,
            attributes=attributes,
            labels=parse_labels(labels),
            adaptive=adaptive,
            baseline=baseline,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """The models of the pipeline."""

    classifier: ClassifierName = None
    network: NetworkName = "mobilenetv1"
    detector: DetectorName = "blazeface-back"
    device: Device = "cpu"

    def load(self, options: Options, threads: int | None, device: Device | None = None) -> Classifier:
        """The pipeline, put together and ready.

        Args:
            options: What to look at in a clip.
            threads: Of each model.
            device: Another than the flag says.
        """
        from fervid.analysis.pipeline import load_classifier

        return load_classifier(
            classifier=self.classifier,
            network=self.network,
            detector=self.detector,
            options=options,
            threads=threads,
            device=device or self.device,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitOptions:
    """What a clip may cost."""

    timeout: Timeout = None
    memory: Memory = None

    @property
    def limits(self) -> Limits:
        """In seconds and bytes."""
        return build_limits(self.timeout, self.memory)


def expand_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the options of each of its parameters that is a record of options, such as `SamplingOptions`.

    What the environment says against a flag of the command line does not count.
    """
    hints = get_type_hints(command, include_extras=True)
    records: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    plain = [one for one in inspect.signature(command).parameters.values() if one.name not in records]
    options = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=types[field.name]
        )
        for record in records.values()
        for types in [get_type_hints(record, include_extras=True)]
        for field in fields(record)
    ]

    defaults = {one.name: one.default for one in (*plain, *options)}

    @functools.wraps(command)
    def call(context: typer.Context, **given: Any) -> None:
        given |= {name: defaults[name] for name in _cli_over_env(context, given)}
        made = {
            name: record(**{field.name: given.pop(field.name) for field in fields(record)})
            for name, record in records.items()
        }
        command(**given, **made)

    first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    parameters = [first, *(one.replace(annotation=hints[one.name]) for one in plain), *options]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {one.name: one.annotation for one in parameters}
    return call


def _cli_over_env(context: typer.Context, given: Mapping[str, Any]) -> list[str]:
    """Options that the environment sets against what the command line says."""

    def comes(name: str, source: str) -> bool:
        found = context.get_parameter_source(name)
        return name in given and found is not None and found.name == source

    rivals = [("every_frame", "fps"), ("fps", "every_frame"), ("resume", "force"), ("force", "resume")]
    found = [other for flag, other in rivals if comes(flag, "COMMANDLINE") and comes(other, "ENVIRONMENT")]
    if given.get("output") and comes("format", "ENVIRONMENT"):
        from fervid.batch.writers import FORMAT_BY_SUFFIX

        found += ["format"] * (Path(given["output"]).suffix.lower() in FORMAT_BY_SUFFIX)
    return found


def plan_workers(clips: int, jobs: int | None, threads: int | None) -> tuple[int, int]:
    """Worker processes and threads for each, so that together they use the CPUs that this process may use.

    A single clip has a process of its own too, which it may bring down.
    """
    import cv2

    cpus = cv2.getNumberOfCPUs()
    jobs = min(jobs or cpus, max(1, clips))
    return jobs, threads or max(1, cpus // jobs)
