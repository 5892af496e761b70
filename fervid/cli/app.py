"""The command-line program: all commands, and the conversion of errors to messages and exit statuses.

Heavy modules are imported inside the commands, so that help is fast. No other module ends the process.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from fervid.cli import ExitCode
from fervid.cli.address_space import OUT_OF_MEMORY, fork_under_memory_limit
from fervid.cli.annotate import annotate_app
from fervid.cli.classify import classify_app
from fervid.cli.compare import compare_app
from fervid.cli.evaluate import evaluate_app
from fervid.cli.features import features_app
from fervid.cli.frames import frames_app
from fervid.cli.models import info_app
from fervid.cli.network import network_app
from fervid.cli.report import report_app
from fervid.cli.suggest import suggest_app
from fervid.cli.timeline import timeline_app
from fervid.cli.train import train_app
from fervid.cli.watch import watch_app
from fervid.core.errors import FervidError, InputError, ModelError, NoInputsFound, UsageError
from fervid.core.signals import prevent_process_starts
from fervid.core.text import escape_control_chars

TERMINATION_SIGNALS = {"SIGTERM", "SIGBREAK"}
"""Signals that end a run; SIGBREAK is Ctrl-Break and CTRL_BREAK_EVENT on Windows."""
_MEMORY_ERRORS = re.compile(
    r"failed to map segment|[Cc]annot allocate memory|can't start new thread|bad_alloc|Insufficient memory"
)
EXIT_CODES = {
    NoInputsFound: ExitCode.NO_INPUT,
    ModelError: ExitCode.MODEL_UNUSABLE,
    InputError: ExitCode.INPUT_FAILED,
    FervidError: ExitCode.USAGE,
}


class _Terminated(SystemExit):
    """Raised by a termination signal, so that files are closed as after Ctrl-C."""


class _ErrorHandlingGroup(TyperGroup):
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if self.get_command(ctx, name) is None and (os.path.splitext(name)[1] or os.path.exists(name)):
            raise UsageError(f"{name} is not a command; try fervid classify {shlex.join(args)}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with _handle_errors():
            try:
                return super().invoke(ctx)
            finally:
                if not isinstance(sys.exception(), FervidError):  # it may be that stdout is not writable
                    sys.stdout.flush()


@contextmanager
def _handle_errors() -> Iterator[None]:
    """Convert errors to one line on standard error and an exit status."""
    try:
        yield
    except FervidError as error:
        _exit(
            f"fervid: {error.message}",
            next(status for kind, status in EXIT_CODES.items() if isinstance(error, kind)),
        )
    except (KeyboardInterrupt, _Terminated) as error:
        reason, status = (
            ("terminated", ExitCode.TERMINATED)
            if isinstance(error, _Terminated)
            else ("interrupted", ExitCode.INTERRUPTED)
        )
        _exit(", ".join([f"fervid: {reason}; finished clips are kept", *getattr(error, "__notes__", ())]), status)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(ExitCode.OK) from None
    except Exception as error:
        if isinstance(error, MemoryError) or _MEMORY_ERRORS.search(str(error)):
            _exit(OUT_OF_MEMORY, ExitCode.USAGE)
        if not isinstance(error, OSError):
            raise
        _exit(f"fervid: {error}", ExitCode.USAGE)


def main() -> None:
    """Run the command line and end the process at once, without waiting for clips that are still being processed."""
    for name, mode in (("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:  # closed by the caller: writing records fails, writing messages does not
            setattr(sys, name, open(os.open(os.devnull, mode), "w"))  # noqa: SIM115
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    fork_under_memory_limit()
    for name in TERMINATION_SIGNALS & set(signal.Signals.__members__):
        signal.signal(signal.Signals[name], _terminate)
    try:
        with _handle_errors():
            app()
    except (SystemExit, typer.Exit) as leaving:
        status = leaving.code if isinstance(leaving, SystemExit) else leaving.exit_code
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        prevent_process_starts()
        os._exit(status if isinstance(status, int) else ExitCode.INPUT_FAILED)


def _terminate(*_: object) -> NoReturn:
    raise _Terminated(ExitCode.TERMINATED)


def _exit(message: str, status: int) -> NoReturn:
    print(escape_control_chars(message), file=sys.stderr, flush=True)
    raise typer.Exit(status) from None


HELP = """Exit status:
  0  all inputs were processed
  1  some inputs failed, the others were processed
  2  wrong usage, or the output is not writable
  3  no input was found
  4  a model cannot be used
  130, 143  interrupted (Ctrl-C), terminated (SIGTERM); finished clips are kept

FERVID_CACHE, FERVID_JOBS, FERVID_MEMORY and FERVID_TIMEOUT set the default of the option of that name.
`fervid COMMAND --help` has examples."""

app = typer.Typer(
    cls=_ErrorHandlingGroup, no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, epilog=HELP
)
for part in (
    classify_app,
    timeline_app,
    frames_app,
    annotate_app,
    watch_app,
    features_app,
    train_app,
    evaluate_app,
    compare_app,
    report_app,
    suggest_app,
    info_app,
):
    app.add_typer(part)
app.add_typer(network_app, name="network")


def _version(requested: bool) -> None:
    if requested:
        from fervid import __version__

        print(f"fervid {__version__}")
        raise typer.Exit


@app.callback()
def _fervid(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Classify the emotion shown in video clips: video files in, one record per clip out."""
