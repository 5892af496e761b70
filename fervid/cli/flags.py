"""The flags that several commands share, as annotated types, with their parsers and shell completion."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer


def parse_seconds(text: str | float) -> float:
    """Convert `12.5`, `12.5s` or `00:01:12.5` to seconds.

    Raises:
        typer.BadParameter: The text is no time, or a negative or infinite one.
    """
    parts = str(text).removesuffix("s").split(":")
    try:
        values = [float(part) for part in parts]
        if len(values) > 3 or min(values) < 0 or not max(values) < float("inf"):
            raise ValueError
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a time; use 12.5, 12.5s or 00:01:12.5") from None
    return sum(value * 60.0**power for power, value in enumerate(reversed(values)))


def parse_ratio(text: str | float) -> float:
    """Convert `16:9` or `1.78` to width divided by height.

    Raises:
        typer.BadParameter: The text is no ratio.
    """
    try:
        width, _, height = str(text).partition(":")
        return float(width) / float(height or 1)
    except (ValueError, ZeroDivisionError):
        raise typer.BadParameter(f"{text!r} is not an aspect ratio; use 16:9 or 1.78") from None


def complete_model_names(*kinds: str, shipped: bool = True) -> Any:
    """Return a function that completes the name of a model in a shell.

    Args:
        kinds: Kinds of models to offer; all kinds if none is given.
        shipped: Whether to offer the shipped models as well as those that can be downloaded.
    """

    def complete(incomplete: str) -> list[str]:
        from fervid.models.registry import manifest

        entries = {**(manifest() if shipped else {}), **manifest("optional")}
        names = (name for name, entry in entries.items() if not kinds or entry["kind"] in kinds)
        return [name for name in names if name.startswith(incomplete)]

    return complete


Inputs = Annotated[
    list[str] | None,
    typer.Argument(metavar="INPUT...", help="Video files, folders or globs; - reads a live stream from stdin."),
]
Camera = Annotated[
    int | None,
    typer.Option("--camera", help="Classify a live camera instead of files; 0 is the first camera.", min=0),
]
Recursive = Annotated[bool, typer.Option("--recursive", help="Search folders recursively.")]
FromFile = Annotated[
    Path | None,
    typer.Option(
        "--from-file", help="Read more inputs from a file, one per line; # starts a comment, - reads from stdin."
    ),
]
NullSeparated = Annotated[
    bool,
    typer.Option("-0", "--null", help="Entries of --from-file are separated by NUL, as find -print0 writes them."),
]
WindowOutputTarget = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        help="Output file; the suffix selects the format, e.g. windows.jsonl or .csv. With --format eaf or vtt a"
        " folder of files, one for each clip.",
    ),
]
WindowOutputFormat = Annotated[
    Literal["table", "jsonl", "json", "csv", "eaf", "vtt"] | None,
    typer.Option(
        "--format",
        help="Output format. Default: by the suffix of -o, else a table on a terminal, else jsonl. eaf is for ELAN, vtt"
        " are subtitles.",
    ),
]
OutputTarget = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--output",
        help="Output file; the suffix selects the format, e.g. results.jsonl or .csv. A URL is a folder of"
        " parquet files.",
    ),
]
ClipOutputFormat = Annotated[
    Literal["table", "jsonl", "json", "csv", "parquet"] | None,
    typer.Option(
        "--format",
        help="Output format. Default: by the suffix of -o, else a table on a terminal, else jsonl. parquet writes a"
        " folder of files.",
    ),
]
Excel = Annotated[
    bool, typer.Option("--excel", help="Start CSV with a byte order mark, so that Excel reads it as UTF-8.")
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an existing output.")]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Continue an existing JSON Lines or parquet output; finished clips are skipped."),
]
Fps = Annotated[
    float | None,
    typer.Option(
        "--fps", help="Frames to analyse per second of video. Higher is slower and more precise.", show_default="5.0"
    ),
]
EveryFrame = Annotated[bool, typer.Option("--every-frame", help="Analyse every frame. Cannot be combined with --fps.")]
Start = Annotated[
    float,
    typer.Option("--start", help="Start time: 12.5, 12.5s or 00:01:12.5.", parser=parse_seconds, metavar="TIME"),
]
End = Annotated[
    float | None,
    typer.Option("--end", help="End time: 12.5, 12.5s or 00:01:12.5.", parser=parse_seconds, metavar="TIME"),
]
Rotate = Annotated[
    Literal["auto", "0", "90", "180", "270"],
    typer.Option("--rotate", help="Rotate frames clockwise, in degrees; auto uses the rotation stored in the file."),
]
Stream = Annotated[
    int | None,
    typer.Option(
        "--stream",
        help="Index of the video stream, as ffprobe numbers it.",
        min=0,
        show_default="the default stream, else the largest",
    ),
]
Aspect = Annotated[
    float | None,
    typer.Option(
        "--aspect",
        help="Display aspect ratio, e.g. 16:9 or 1.78. Use it when faces look stretched.",
        parser=parse_ratio,
        metavar="RATIO",
        show_default="stored in the file",
    ),
]
WhichFace = Annotated[
    Literal["main", "all"], typer.Option("--face", help="Classify the main person, or all faces pooled together.")
]
MinFace = Annotated[
    int | None,
    typer.Option(
        "--min-face",
        help="Ignore faces smaller than this, in pixels. Default: 1/40 of the frame's longer side, at least 12.",
        min=1,
    ),
]
Attributes = Annotated[
    bool, typer.Option("--attributes", help="Also estimate age, gender and ethnicity of each person.")
]
ClassifierName = Annotated[
    str | None,
    typer.Option(
        "--classifier",
        help="Clip classifier: a model name or an ONNX file.",
        show_default="the one that matches the face model",
        autocompletion=complete_model_names("classifier"),
    ),
]
FaceModelName = Annotated[
    str,
    typer.Option(
        "--face-model",
        help="Face model: a model name or an ONNX file.",
        autocompletion=complete_model_names("face_model"),
    ),
]
DetectorName = Annotated[
    str,
    typer.Option(
        "--detector",
        help="Face detector: a model name or an ONNX file.",
        autocompletion=complete_model_names("detector"),
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        envvar="FERVID_JOBS",
        help="Clips processed in parallel, each in its own process. Default: number of CPUs.",
        min=1,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", help="Threads per clip, for the decoder and the models. Default: CPUs / jobs.", min=1),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        envvar="FERVID_TIMEOUT",
        help="Time limit per clip: 90, 90s or 00:01:30; 0 disables it.",
        parser=parse_seconds,
        metavar="TIME",
        show_default="3600",
    ),
]
Memory = Annotated[
    int | None,
    typer.Option(
        "--memory",
        envvar="FERVID_MEMORY",
        help="Memory limit per clip in MB; 0 disables it.",
        min=0,
        show_default="4096",
    ),
]
Engine = Annotated[
    Literal["local", "ray"],
    typer.Option("--engine", help="Run on this machine, or on a Ray cluster, which also reads URLs such as s3://."),
]
Address = Annotated[
    str | None,
    typer.Option("--address", help="Ray cluster: auto, HOST:PORT or ray://HOST:PORT. Default: start a local one."),
]
Device = Annotated[
    Literal["cpu", "cuda", "auto"],
    typer.Option(
        "--device",
        help="Device for the detector and the face model; auto uses cuda if available. With cuda, use --face-model"
        " mobilenetv1-fp32.",
    ),
]
ProgressMode = Annotated[
    Literal["auto", "bar", "none", "json"],
    typer.Option("--progress", help="Progress display on stderr; auto shows a bar on a terminal."),
]
FailFast = Annotated[
    bool,
    typer.Option("--fail-fast", help="Stop at the first failure; remaining clips are recorded as skipped."),
]
ExitZero = Annotated[bool, typer.Option("--exit-zero", help="Exit with status 0 even if inputs failed.")]
Strict = Annotated[bool, typer.Option("--strict", help="Count a clip without a face as a failure.")]
Adaptive = Annotated[
    bool,
    typer.Option(
        "--adaptive",
        help="Analyse few frames first, and stop early once the classifier is confident.",
    ),
]
BaselineOption = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        help="Classify relative to each person's average. person recognises people by face; a CSV file names them"
        " (path,person) or lists clips in which they are at rest (path or path,start,end).",
        metavar="person|FILE",
    ),
]
Identify = Annotated[bool, typer.Option("--identify", help="Recognise people across clips; fills people[].identity.")]
Labels = Annotated[
    str | None,
    typer.Option(
        "--labels", help="Comma-separated labels to allow, e.g. anger,neutral. 7 = all emotions except contempt."
    ),
]
