"""Help texts, their examples and exit statuses, and shell completion."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from fervid.cli import ExitCode, app

ROOT: Any = typer.main.get_command(app.app)


def commands(group: Any = ROOT, *before: str) -> Iterator[tuple[str, Any]]:
    """Yield every callable command with its words."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *before, name)
        else:
            yield " ".join((*before, name)), command


COMMANDS = dict(commands())


def calls(text: str) -> list[list[str]]:
    """Return the arguments of each example."""
    lines = re.findall(r"`([^`]*)`", text)
    parts = (part.strip() for line in lines for part in re.split(r"[|><]", line))
    return [shlex.split(part)[1:] for part in parts if part.startswith("fervid ")]


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_have_two_examples_that_parse(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [variable for variable in os.environ if variable.startswith("FERVID_")]:
        monkeypatch.delenv(variable)
    assert COMMANDS[name].epilog.startswith("Example")
    examples = calls(COMMANDS[name].epilog)
    assert len(set(re.findall(r"`([^`]*fervid [^`]*)`", COMMANDS[name].epilog))) >= 2
    for words in examples:
        assert " ".join(words).startswith(name)
        arguments = words[len(name.split()) :]
        with COMMANDS[name].make_context(name, arguments) as context:
            assert not context.args


@pytest.mark.parametrize("name", ["", "models", "network", *COMMANDS])
def test_help_fits_terminal(name: str) -> None:
    result = CliRunner().invoke(app.app, [*name.split(), "--help"], env={"COLUMNS": "80", "NO_COLOR": "1"})
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert name in ("models", "network") or ("Example" in result.stdout) == bool(name)


def test_help_lists_exit_statuses() -> None:
    output = CliRunner().invoke(app.app, ["--help"], env={"COLUMNS": "100", "NO_COLOR": "1"}).stdout
    for code in set(ExitCode) - {ExitCode.INTERRUPTED, ExitCode.TERMINATED}:
        assert re.search(rf"^ +{code}  \w", output, re.MULTILINE)
    assert f"{ExitCode.INTERRUPTED}, {ExitCode.TERMINATED}  interrupted" in output


def complete(**variables: str) -> list[str]:
    """Return the completions that a shell gets."""
    done = CliRunner().invoke(app.app, [], prog_name="fervid", env=variables)
    assert done.exit_code == 0
    return re.findall(r"[\w-]+(?=[\"\s]|$)", done.stdout.replace("_arguments '*: :((", ""))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("fervid classify --face-model m", {"mobilenetv1", "mobilenetv1-fp32"}),
        ("fervid classify --face-model ", {"mobilenetv1", "mobilenetv1-fp32", "hsemotion-b0"}),
        ("fervid watch in/ --detector ", {"blazeface-back", "yunet"}),
        ("fervid timeline --classifier e", {"emotion8"}),
        ("fervid evaluate set/ --compare-to m", {"mean6", "mean8"}),
        ("fervid models pull ", {"hsemotion-b0", "yunet"}),
        ("fervid models verify mo", {"mobilenetv1", "mobilenetv1-fp32"}),
        ("fervid classify --face ", {"main", "all"}),
        ("fervid wat", {"watch"}),
    ],
)
def test_bash_completes_names(line: str, expected: set[str]) -> None:
    words = shlex.split(line)
    number = len(words) - (not line.endswith(" "))
    assert set(complete(_FERVID_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(number))) == expected


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_complete_names(shell: str) -> None:
    request = {"_TYPER_COMPLETE_ARGS": "fervid classify --face-model m", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    assert set(complete(_FERVID_COMPLETE=f"complete_{shell}", **request)) == {"mobilenetv1", "mobilenetv1-fp32"}


def test_completion_scripts_are_printed() -> None:
    shells = ("bash", "zsh", "fish")
    code = """
import sys
from contextlib import suppress
from fervid.cli.app import app
for shell in sys.argv[1:]:
    with suppress(SystemExit):
        app(["--show-completion", shell], prog_name="fervid")
    print(end="\\0")
"""
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    printed = subprocess.check_output([sys.executable, "-c", code, *shells], text=True, env=environment)
    for shell, script in zip(shells, printed.split("\0"), strict=False):
        assert f"_FERVID_COMPLETE=complete_{shell}" in script
        if sys.platform != "win32" and (program := shutil.which(shell)):
            check = "\ncomplete -p fervid\n" if shell == "bash" else ""
            done = subprocess.run(
                [program, "-c", script + check], capture_output=True, text=True, check=False, timeout=20
            )
            assert shell != "bash" or "_fervid_completion" in done.stdout


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    heavy = {"numpy", "onnxruntime", "cv2", "av", "scipy", "sklearn", "torch", "tqdm"}
    code = f"""
import sys
from typer.testing import CliRunner
from fervid.cli.app import app
for name in [[], ["classify"], ["watch"], ["models"]]:
    assert CliRunner().invoke(app, [*name, "--help"]).exit_code == 0
print(sorted({heavy} & set(sys.modules)))
"""
    started = time.monotonic()
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
    assert time.monotonic() - started < 10
