"""The command line: parse, call one function, print. The only place that exits, and with `train.commands` that prints.

Heavy modules are imported inside the commands, so that help comes at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperGroup

from fervid.errors import FervidError, InputError, ModelError, NothingMatched, UsageError, usage
from fervid.labelled import labelled_app
from fervid.options import (
    Adaptive,
    Address,
    Attributes,
    ClassifierName,
    ClipForm,
    DetectorName,
    Device,
    End,
    Engine,
    EveryFrame,
    ExitZero,
    FailFast,
    Force,
    Form,
    Fps,
    FromFile,
    Inputs,
    Jobs,
    Labels,
    Memory,
    MinFace,
    NetworkName,
    Null,
    Output,
    Recursive,
    Resume,
    Rotate,
    Show,
    Start,
    Strict,
    Target,
    Threads,
    Timeout,
    WhichFace,
    labels_of,
    limits_of,
    options_of,
    setting,
    workers,
)
from fervid.train.commands import network_app

if TYPE_CHECKING:
    from fervid.batch import Policy
    from fervid.output import Writer
    from fervid.pipeline import Classifier
    from fervid.progress import Progress
    from fervid.records import ClipResult, Status

OK, FAILED, USAGE, NOTHING, MODEL, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 4, 130, 143
STATUS = {NothingMatched: NOTHING, ModelError: MODEL, InputError: FAILED, FervidError: USAGE}


class _Terminated(SystemExit):
    """SIGTERM: everything is closed as after an interrupt."""


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        with _translated():
            try:
                return super().invoke(ctx)
            finally:
                if not isinstance(sys.exception(), FervidError):  # which may be that it cannot be written
                    sys.stdout.flush()


@contextmanager
def _translated() -> Iterator[None]:
    """Errors become one line on standard error and an exit status: here, and nowhere else."""
    try:
        yield
    except FervidError as error:
        _leave(f"fervid: {error.message}", next(status for kind, status in STATUS.items() if isinstance(error, kind)))
    except (KeyboardInterrupt, _Terminated) as error:
        how, status = ("terminated", TERMINATED) if isinstance(error, _Terminated) else ("interrupted", INTERRUPTED)
        _leave(f"fervid: {how}; what was answered is kept, in an unfinished csv or json as NAME.partial", status)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(OK) from None
    except OSError as error:
        _leave(f"fervid: {error}", USAGE)


def main() -> None:
    """Run the command line and leave at once: an ordinary exit would wait for clips that nobody wants any more."""
    for name, way in (("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:  # closed by the caller: data that is written there is an error, messages are not
            setattr(sys, name, open(os.open(os.devnull, way), "w"))  # noqa: SIM115
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except SystemExit as leaving:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(leaving.code if isinstance(leaving.code, int) else FAILED)


def _terminate(*_: object) -> NoReturn:
    raise _Terminated(TERMINATED)


def _leave(message: str, status: int) -> NoReturn:
    print(message, file=sys.stderr, flush=True)
    raise typer.Exit(status) from None


app = typer.Typer(cls=_Commands, no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False)
models_app = typer.Typer(
    no_args_is_help=True, help="The models: which there are, what they are, whether they are intact."
)
app.add_typer(labelled_app)
app.add_typer(models_app, name="models")
app.add_typer(network_app, name="network")


def _version(asked: bool) -> None:
    if asked:
        from fervid import __version__

        print(f"fervid {__version__}")
        raise typer.Exit


@app.callback()
def _fervid(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Which emotion a video clip shows: video files in, one labelled record per clip out.

    Exit status: 0 every input answered, 1 some input failed, 2 wrong usage, 3 nothing matched, 4 a model cannot be
    used, 130 interrupted, 143 terminated.
    """


@app.command(
    epilog="Examples: `fervid classify clip.mp4`, `fervid classify videos/ --recursive -o results.jsonl --resume`"
)
def classify(
    inputs: Inputs = None,
    recursive: Recursive = False,
    from_file: FromFile = None,
    nul: Null = False,
    output: Target = None,
    format: ClipForm = None,
    force: Force = False,
    resume: Resume = False,
    fps: Fps = None,
    every_frame: EveryFrame = False,
    start: Start = 0.0,
    end: End = None,
    rotate: Rotate = "auto",
    face: WhichFace = "main",
    min_face: MinFace = None,
    attributes: Attributes = False,
    adaptive: Adaptive = False,
    labels: Labels = None,
    classifier: ClassifierName = None,
    network: NetworkName = "mobilenetv1",
    detector: DetectorName = "blazeface-back",
    device: Device = "cpu",
    jobs: Jobs = None,
    threads: Threads = None,
    timeout: Timeout = None,
    memory: Memory = None,
    engine: Engine = "local",
    address: Address = None,
    progress: Show = "auto",
    fail_fast: FailFast = False,
    exit_zero: ExitZero = False,
    strict: Strict = False,
) -> None:
    """Say which emotion each clip shows: one record per clip, whatever happens to it."""
    cluster = engine == "ray"
    if not cluster:
        _prepare()
    from fervid import inputs as named
    from fervid.batch import Policy, destination
    from fervid.pipeline import load

    options = options_of(
        fps=fps,
        every_frame=every_frame,
        start=start,
        end=end,
        rotate=rotate,
        face=face,
        min_face=min_face,
        attributes=attributes,
        labels=labels_of(labels),
        adaptive=adaptive,
    )
    if address and not cluster:
        raise UsageError("--address names a Ray cluster; add --engine ray")
    if cluster and (timeout, memory) != (None, None):
        raise UsageError("--timeout and --memory limit the processes of --engine local; Ray has limits of its own")
    clips = named.expand([*(inputs or []), *_listed(from_file, nul)], recursive=recursive, urls=cluster)
    if not cluster:
        jobs, threads = workers(len(clips), jobs, threads)
    loaded = load(
        classifier=classifier,
        network=network,
        detector=detector,
        options=options,
        threads=threads,
        device="cpu" if cluster else device,
    )
    policy = Policy(jobs or 0, fail_fast, strict, limits_of(timeout, memory))
    with (
        _engine(engine, loaded, policy, address=address, jobs=jobs, threads=threads, device=device) as answer,
        destination(output, format, loaded, clips, resume=resume, force=force) as (writer, answered),
    ):
        failures = _run(answer, clips, policy, writer, answered, progress)
    raise typer.Exit(FAILED if failures and not exit_zero else OK)


@app.command(
    epilog="Examples: `fervid timeline clip.mp4`, `fervid timeline videos/ --window 2 --step 0.5 -o windows.csv`"
)
def timeline(
    inputs: Inputs = None,
    window: Annotated[float, setting("--window", "Seconds that a window lasts.")] = 4.0,
    step: Annotated[
        float | None, setting("--step", "Seconds from the start of a window to that of the next. Default: 1 at most.")
    ] = None,
    recursive: Recursive = False,
    from_file: FromFile = None,
    nul: Null = False,
    output: Output = None,
    format: Form = None,
    force: Force = False,
    fps: Fps = None,
    every_frame: EveryFrame = False,
    start: Start = 0.0,
    end: End = None,
    rotate: Rotate = "auto",
    face: WhichFace = "main",
    min_face: MinFace = None,
    attributes: Attributes = False,
    labels: Labels = None,
    classifier: ClassifierName = None,
    network: NetworkName = "mobilenetv1",
    detector: DetectorName = "blazeface-back",
    device: Device = "cpu",
    jobs: Jobs = None,
    threads: Threads = None,
    timeout: Timeout = None,
    memory: Memory = None,
    progress: Show = "auto",
    exit_zero: ExitZero = False,
    strict: Strict = False,
) -> None:
    """Say which emotion each window of a clip shows: one record per window, in order."""
    _prepare()
    from fervid import inputs as named
    from fervid.batch import Policy, destination, timelines
    from fervid.gather import Windows
    from fervid.pipeline import load
    from fervid.progress import shown
    from fervid.records import WindowResult

    with usage():
        cut = Windows(window, min(1.0, window) if step is None else step)
    options = options_of(
        fps=fps,
        every_frame=every_frame,
        start=start,
        end=end,
        rotate=rotate,
        face=face,
        min_face=min_face,
        attributes=attributes,
        labels=labels_of(labels),
    )
    clips = named.expand([*(inputs or []), *_listed(from_file, nul)], recursive=recursive)
    jobs, threads = workers(len(clips), jobs, threads)
    loaded = load(
        classifier=classifier, network=network, detector=detector, options=options, threads=threads, device=device
    )
    policy, failures = Policy(jobs, strict=strict, limits=limits_of(timeout, memory)), 0
    with destination(output, format, loaded, clips, force=force, record=WindowResult) as (writer, _):
        for parts in shown(timelines(loaded, clips, cut, policy), len(clips), progress, policy.any_failed):
            failures += policy.any_failed(parts)
            for part in parts:
                writer.write(part)
    raise typer.Exit(FAILED if failures and not exit_zero else OK)


def _prepare() -> None:
    """Let a worker import what it needs while this process does the same."""
    from fervid.workers import prepare

    prepare("fervid.pipeline")


def _engine(
    name: str, loaded: Classifier, policy: Policy, **cluster: Any
) -> AbstractContextManager[Callable[[list[str]], Iterable[ClipResult]]]:
    """What gives one record per clip, as long as the block lasts."""
    if name == "ray":
        from fervid.ray_engine import answering

        return answering(loaded, policy, **cluster)
    from fervid.batch import answer_all

    return nullcontext(lambda clips: answer_all(loaded, clips, policy))


def _run(
    answer: Callable[[list[str]], Iterable[ClipResult]],
    clips: list[str],
    policy: Policy,
    writer: Writer,
    answered: Mapping[str, Status],
    show: Progress,
) -> int:
    """Answer what is not answered yet; how many of all clips failed."""
    from fervid.progress import shown

    left = [clip for clip in clips if clip not in answered]
    failures = sum(policy.failed(answered[clip]) for clip in clips if clip in answered)
    for result in shown(answer(left), len(left), show, lambda result: policy.failed(result.status)):
        writer.write(result)
        failures += policy.failed(result.status)
    return failures


def _listed(source: Path | None, nul: bool) -> list[str]:
    if source is None:
        return []
    from fervid.inputs import read_list

    try:
        data = sys.stdin.buffer.read() if str(source) == "-" else source.read_bytes()
    except OSError as error:
        raise UsageError(f"the list {source} cannot be read ({error.strerror})") from error
    return read_list(data, nul=nul)


@models_app.command("list")
def models_list() -> None:
    """Every model, what it is for, its size and licence; those that others publish can be pulled."""
    from fervid.models import manifest, place

    for name, entry in [*manifest().items(), *manifest("optional").items()]:
        file = place(entry)
        size = f"{file.stat().st_size / 1e6:6.1f} MB" if file.is_file() else "not pulled"
        print(f"{name:16} {entry['kind']:11} {size:>10}  {entry['licence']}")


@models_app.command("info")
def models_info(name: Annotated[str, typer.Argument(help="A name from `fervid models list`.")]) -> None:
    """The card of a model: data, licence, recipe, figures, limits."""
    from fervid.models import entry_of, place, verify

    entry = dict(entry_of(name))
    if "sha256" not in entry and place(entry).is_file():
        entry["sha256"] = verify(name).identity.sha256
    print(json.dumps(entry, indent=2, ensure_ascii=False))


@models_app.command("path")
def models_path(name: Annotated[str, typer.Argument(help="A name from `fervid models list`.")]) -> None:
    """Where the file of a model lies, or will lie when it is pulled."""
    from fervid.models import entry_of, place

    print(place(entry_of(name)))


@models_app.command("verify")
def models_verify(
    names: Annotated[list[str] | None, typer.Argument(help="Default: all that are here.")] = None,
) -> None:
    """Compare files and cards with the manifest, by SHA-256 or, where their authors give none, by the id in git."""
    from fervid.models import here, verify

    failures = 0
    for name in names or here():
        try:
            print(f"ok      {name:16} {verify(name).identity.sha256}")
        except ModelError as error:
            failures += 1
            print(f"failed  {name:16} {error.message}")
    raise typer.Exit(MODEL if failures else OK)


@models_app.command(
    "pull", epilog="Example: `fervid models pull yunet hsemotion-b0`, then `fervid classify --network hsemotion-b0 ...`"
)
def models_pull(
    names: Annotated[list[str], typer.Argument(help="Optional models from `fervid models list`.")],
    progress: Show = "auto",
) -> None:
    """Fetch models that others publish into the user's data folder: verified, and continued where it broke off.

    No other command reaches the network. HTTPS_PROXY names a proxy.
    """
    from fervid.models import entry_of, place
    from fervid.pull import pull

    for name in names:
        fetched = pull(name, progress)
        print(f"{name} is here now" if fetched else f"{name} was here already", file=sys.stderr)
        print(place(entry_of(name)))


@app.command()
def doctor() -> None:
    """Versions, codecs, CPUs, providers and models: what works here."""
    from fervid.doctor import checks

    found = list(checks())
    for check in found:
        print(f"{'ok' if check.well else 'WRONG':5} {check.name:24} {check.finding}")
    raise typer.Exit(OK if all(check.well for check in found) else MODEL)


@app.command()
def schema(
    command: Annotated[
        Literal["classify", "timeline"], typer.Argument(help="Which command writes the record.")
    ] = "classify",
) -> None:
    """The JSON Schema of a record."""
    from fervid.schema import schema

    print(json.dumps(schema(command), indent=2))
