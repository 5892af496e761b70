"""Every error message and help text; `python tests/helpers/messages.py` writes tests/golden/messages.txt again.

Messages are read from the source, with expressions in braces where they are filled in.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from fervid.cli import app
from fervid.core import errors

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden/messages.txt"
ERRORS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}


def to_template(node: ast.expr) -> str | None:
    """Return the text of a string or f-string, None for another expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            part.value if isinstance(part, ast.Constant) else f"{{{ast.unparse(part.value)}}}".replace('"', "'")
            for part in node.values
        )
    return None


def error_messages(source: str) -> Iterator[str]:
    """Yield the class and the message of each error that a module creates."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and node.args and ast.unparse(node.func).rpartition(".")[2] in ERRORS:
            template = to_template(node.args[0])
            if template is not None:
                yield f"{ast.unparse(node.func).rpartition('.')[2]}: {template}"


def help_texts(command: Any, name: str = "fervid") -> Iterator[str]:
    """Yield the help of a command, of its options and of its subcommands."""
    yield f"\n## {name}"
    yield (command.help or "").strip()
    for parameter in command.params:
        if parameter.name in ("help", "install_completion", "show_completion"):  # of typer
            continue
        text = " ".join((getattr(parameter, "help", None) or "").split())
        yield f"{' '.join([*parameter.opts, *parameter.secondary_opts])}: {text}"
    for word, child in getattr(command, "commands", {}).items():
        yield from help_texts(child, f"{name} {word}")


def compute_messages() -> str:
    """Return all error messages by module, then all help texts."""
    lines = ["# Error messages"]
    for path in sorted((ROOT / "fervid").rglob("*.py")):
        if found := sorted(set(error_messages(path.read_text()))):
            lines += [f"\n## {path.relative_to(ROOT).as_posix()}", *found]
    lines += ["\n# Help", *help_texts(typer.main.get_command(app.app))]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    GOLDEN.write_text(compute_messages())
