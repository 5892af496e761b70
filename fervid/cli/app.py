"""The command line: the commands put together, and what their errors say to a person. The only place that exits.

Heavy modules are imported inside the commands, so that help comes at once.
"""

from __future__ import annotations

import os
import re
import resource
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from fervid.cli import FAILED, INTERRUPTED, MODEL, NOTHING, OK, TERMINATED, USAGE
from fervid.cli.annotate import annotate_app
from fervid.cli.classify import clips_app
from fervid.cli.learn import labelled_app
from fervid.cli.models import about_app
from fervid.cli.network import network_app
from fervid.cli.report import report_app
from fervid.cli.watch import live_app
from fervid.core.errors import FervidError, InputError, ModelError, NoInputsFound, UsageError
from fervid.core.text import escape_control_chars

ADDRESS_SPACE_BYTES = 1_500_000_000
"""What libraries and models map into a process, though they use much less of it."""
_NO_MEMORY = re.compile(
    r"failed to map segment|[Cc]annot allocate memory|can't start new thread|bad_alloc|Insufficient memory"
)
_TOO_LITTLE_MEMORY = "fervid: there is too little memory; allow more (ulimit, container), or try fewer --jobs"
EXIT_CODES = {NoInputsFound: NOTHING, ModelError: MODEL, InputError: FAILED, FervidError: USAGE}


class _Terminated(SystemExit):
    """SIGTERM: everything is closed as after an interrupt."""


class _ErrorHandlingGroup(TyperGroup):
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if self.get_command(ctx, name) is None and (os.path.splitext(name)[1] or os.path.exists(name)):
            raise UsageError(f"{name} is no command; try fervid classify {shlex.join(args)}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with _handle_errors():
            try:
                return super().invoke(ctx)
            finally:
                if not isinstance(sys.exception(), FervidError):  # which may be that it cannot be written
                    sys.stdout.flush()


@contextmanager
def _handle_errors() -> Iterator[None]:
    """Errors become one line on standard error and an exit status: here, and nowhere else."""
    try:
        yield
    except FervidError as error:
        _exit(
            f"fervid: {error.message}", next(status for kind, status in EXIT_CODES.items() if isinstance(error, kind))
        )
    except (KeyboardInterrupt, _Terminated) as error:
        how, status = ("terminated", TERMINATED) if isinstance(error, _Terminated) else ("interrupted", INTERRUPTED)
        _exit(", ".join([f"fervid: {how}; what was answered is kept", *getattr(error, "__notes__", ())]), status)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(OK) from None
    except Exception as error:
        if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
            _exit(_TOO_LITTLE_MEMORY, USAGE)
        if not isinstance(error, OSError):
            raise
        _exit(f"fervid: {error}", USAGE)


def main() -> None:
    """Run the command line and leave at once: an ordinary exit would wait for clips that nobody wants any more."""
    for name, way in (("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:  # closed by the caller: data that is written there is an error, messages are not
            setattr(sys, name, open(os.open(os.devnull, way), "w"))  # noqa: SIM115
    if isinstance(sys.stdout, TextIOWrapper):  # what its encoding lacks is escaped
        sys.stdout.reconfigure(errors="backslashreplace")
    _survive_limit_of_memory()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        with _handle_errors():
            app()
    except (SystemExit, typer.Exit) as leaving:
        status = leaving.code if isinstance(leaving, SystemExit) else leaving.exit_code
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status if isinstance(status, int) else FAILED)


def _survive_limit_of_memory() -> None:
    """Under a limit of address space go on in a child: C libraries crash where they get none, and somebody must say so.

    The limit itself is told before, in case the whole group is killed.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY or limit >= ADDRESS_SPACE_BYTES:
        return
    megabytes = f"{limit / 1e6:.0f} MB (ulimit -v), and a clip needs about {ADDRESS_SPACE_BYTES / 1e6:.0f} MB"
    print(f"fervid: address space is limited to {megabytes}; allow more if this fails", file=sys.stderr, flush=True)
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the child has it too, and leaves as it should
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        print(_TOO_LITTLE_MEMORY, file=sys.stderr, flush=True)
    os._exit(USAGE if status < 0 else status)


def _terminate(*_: object) -> NoReturn:
    raise _Terminated(TERMINATED)


def _exit(message: str, status: int) -> NoReturn:
    print(escape_control_chars(message), file=sys.stderr, flush=True)
    raise typer.Exit(status) from None


HELP = """Exit status:
  0  every input was answered
  1  some input failed, and the others were answered
  2  wrong usage, or an output that cannot be written
  3  nothing matched
  4  a model cannot be used
  130, 143  interrupted (Ctrl-C), terminated (SIGTERM); answers are kept

Every option that shows an env var can be set by it. `fervid COMMAND --help` has examples."""

app = typer.Typer(
    cls=_ErrorHandlingGroup, no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, epilog=HELP
)
app.add_typer(clips_app)
app.add_typer(annotate_app)
app.add_typer(live_app)
app.add_typer(labelled_app)
app.add_typer(report_app)
app.add_typer(about_app)
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
    """Which emotion a video clip shows: video files in, one labelled record per clip out."""
