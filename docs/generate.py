"""Writes the reference of the site from the code, when MkDocs asks for it, and takes in the pages that lie elsewhere.

What is generated cannot be out of date: the command line comes from typer's commands, the API from docstrings, the
record from its schema, errors and statuses from `errors.py` and `cli.py`.
"""

from __future__ import annotations

import inspect
import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

import fervid
from fervid import cli as commands
from fervid.cli import app
from fervid.core import errors
from fervid.core.schema import record_json_schema
from fervid.models import registry

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
BESIDE = ("truncated", "damaged", "discontinuity", "several_streams", "too_long")
ELSEWHERE = {
    "models/README.md": "models/index.md",
    "benchmarks/README.md": "benchmarks/index.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages that lie beside what they are about, and where they are on the site."""

STATUSES = {
    "OK": "every input was answered; `no_face` is an answer unless `--strict`",
    "FAILED": "some input failed, and the rest went on; not with `--exit-zero`",
    "USAGE": "wrong usage, settings that do not fit together, or an output that cannot be written",
    "NOTHING": "nothing matched, so there was nothing to do",
    "MODEL": "a model is missing, cannot be verified, or does not fit the others",
    "INTERRUPTED": "interrupted by Ctrl-C; what was answered is kept",
    "TERMINATED": "terminated by SIGTERM; likewise",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is generated and what lies elsewhere."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    for source, path in ELSEWHERE.items():
        files.append(File.generated(config, path, abs_src_path=str(ROOT / source)))
    for picture in sorted((ROOT / "benchmarks").glob("*.png")):
        files.append(File.generated(config, f"benchmarks/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Fill in what a mark stands for, and let links that work in the repository work on the site too."""
    for mark, filling in (("<!-- licences -->", licences), ("<!-- card -->", card)):
        if mark in markdown:
            markdown = markdown.replace(mark, filling())
    return relinked(markdown, page.file.src_uri)


def relinked(markdown: str, path: str) -> str:
    """The text of the page at `path` with its links to `ELSEWHERE` as they are on the site."""
    source = next((name for name, there in ELSEWHERE.items() if there == path), f"docs/{path}")

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[1]))
        if target not in ELSEWHERE:
            return found[0]
        return f"]({posixpath.relpath(ELSEWHERE[target], posixpath.dirname(path) or '.')}{found[2] or ''})"

    return re.sub(r"\]\(([\w./-]+\.md)(#[\w-]+)?\)", link, markdown)


def pages() -> dict[str, str]:
    """The generated pages by their path on the site."""
    return {
        "reference/command-line.md": command_line(),
        "reference/api.md": api(),
        "reference/record.md": record(),
        "reference/errors.md": failures(),
    }


def command_line() -> str:
    """Every command with its arguments and options."""
    parts = [
        "# Command line",
        (
            "Generated from the commands themselves. A setting that names an environment variable can be set by it too;"
            " the flag wins."
        ),
    ]
    for name, command in listed(typer.main.get_command(app.app)):
        context = typer.Context(command, info_name=name)
        usage = " ".join([name, *command.collect_usage_pieces(context)])
        parts += [f"## `{name}`", _prose(command.help), f"```text\n{usage}\n```", *_parameters(command, context)]
        if command.epilog:
            parts.append(_prose(command.epilog))
    return _page(parts)


def listed(command: Any, name: str = "fervid") -> Iterator[tuple[str, Any]]:
    """Every command below one that can be called, with its full name."""
    inner: Mapping[str, Any] = getattr(command, "commands", {})
    if not inner:
        yield name, command
    for word, below in inner.items():
        yield from listed(below, f"{name} {word}")


def _parameters(command: Any, context: typer.Context) -> Iterator[str]:
    arguments, options = [], []
    for parameter in command.params:
        found = parameter.get_help_record(context)
        if found is None or parameter.name == "help":
            continue
        named, described = found
        if parameter.param_type_name == "argument":
            arguments.append((f"`{parameter.metavar or parameter.name.upper()}`", _prose(parameter.help)))
            continue
        default = re.search(r"default: \(?(.*?)\)?(;|\]|$)", described)
        value = "required" if parameter.required else f"`{default[1]}`" if default else ""
        variable = f" (`{parameter.envvar}`)" if parameter.envvar else ""
        flags = ", ".join(f"`{flag}`" for flag in named.split(" / "))
        options.append((flags, _prose(parameter.help) + variable, "off" if value.startswith("`no-") else value))
    if arguments:
        yield _table(("argument", "meaning"), arguments)
    if options:
        yield _table(("option", "meaning", "default"), options)


def api() -> str:
    """A place for the docstring of every public name; mkdocstrings fills it in."""
    parts = ["# Python API", (inspect.getdoc(fervid) or "").partition("\n")[0]]
    parts.append("Every name can be imported from `fervid`; nothing heavy is loaded before one is used.")
    names = [name for name in fervid.__all__ if name != "__version__"]
    parts += [f"::: {getattr(fervid, name).__module__}.{name}" for name in names]
    return _page(parts)


def record() -> str:
    """The fields of a record, and its schema whole."""
    parts = [
        "# The record",
        (
            "Every input has exactly one record, in the order of the inputs, whatever happens to it. `fervid schema`"
            " prints the JSON Schema below; the fields and their order are part of the version."
        ),
    ]
    for command, title in (("classify", "A clip"), ("timeline", "A window")):
        found = record_json_schema(command)  # type: ignore[arg-type]
        rows = [(f"`{name}`", _type(of), _prose(_described(of))) for name, of in found["properties"].items()]
        document = json.dumps(found, indent=2)
        parts += [
            f"## {title}: `fervid {command}`",
            _table(("field", "type", "meaning"), rows),
            f'??? note "JSON Schema of `fervid schema {command}`"',
            "\n".join(f"    {line}" for line in ["```json", *document.splitlines(), "```"]),
        ]
    return _page(parts)


def _type(of: Mapping[str, Any]) -> str:
    if "anyOf" in of:
        return " or ".join(_type(one) for one in of["anyOf"])
    if "enum" in of:
        return ", ".join(f"`{value}`" for value in of["enum"])
    return f"`{of['const']}`" if "const" in of else str(of["type"])


def _described(of: Mapping[str, Any]) -> str:
    return of.get("description") or next(iter(map(_described, of.get("anyOf", ()))), "")


def failures() -> str:
    """Codes of errors and statuses of exit."""
    numbers = [(f"`{getattr(commands, name)}`", meaning) for name, meaning in STATUSES.items()]
    parts = [
        "# Errors and exit statuses",
        "A message says what is wrong, with which file, and what to try. The code is for scripts and does not change.",
        "## Exit status",
        _table(("status", "meaning"), numbers),
        "## Codes",
        "Those with the status 1 stand in the record of a clip, as `error.code`; the others end the command.",
        _table(
            ("code", "in Python", "status", "meaning"),
            [(f"`{kind.code}`", f"`{kind.__name__}`", str(_status(kind)), _prose(kind.__doc__)) for kind in _kinds()],
        ),
        f"Beside an answer too, if there was enough for one, stand {', '.join(f'`{kind}`' for kind in BESIDE)}.",
    ]
    return _page(parts)


def card() -> str:
    """What a notebook shows of a clip of `examples/`."""
    result = fervid.load_classifier().classify(ROOT / "examples" / "astronaut.mp4")
    return replace(result, path="examples/astronaut.mp4")._repr_html_()


def licences() -> str:
    """Whose the models are, as their cards say."""
    rows = [
        (f"`{name}`", entry["kind"], _prose(entry["licence"]), how)
        for part, how in (("models", "shipped"), ("optional", "`fervid models pull`"))
        for name, entry in registry.manifest(part).items()
    ]
    return _table(("model", "kind", "licence", ""), rows)


def _kinds(kind: type[errors.FervidError] = errors.FervidError) -> Iterator[type[errors.FervidError]]:
    for below in kind.__subclasses__():
        yield below
        yield from _kinds(below)


def _status(kind: type[errors.FervidError]) -> int:
    if issubclass(kind, errors.NoFaceError):
        return commands.OK
    return next(status for of, status in app.EXIT_CODES.items() if issubclass(kind, of))


def _prose(text: str | None) -> str:
    """On one line, with the brackets that are no links escaped, outside of code."""
    line = re.sub(r"\s*\n\s*", " ", inspect.cleandoc(text or "")).replace("\\[", "[")
    return re.sub(r"(`[^`]*`)|([\[\]<>|])", lambda found: found[1] or "\\" + found[2], line)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _page(parts: Iterable[str]) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"
