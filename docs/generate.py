"""MkDocs hooks: generate the reference pages from the code and add the pages that are outside docs/.

The command line comes from the typer commands, the API from docstrings, the record from its schema, errors and exit
statuses from `fervid.core.errors` and `fervid.cli`.
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
from fervid.cli import ExitCode, app
from fervid.core import errors
from fervid.core.schema import record_json_schema
from fervid.models import registry

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PARTIAL_RESULT_CODES = ("truncated", "damaged", "discontinuity", "several_streams", "too_long")
ELSEWHERE = {
    "models/README.md": "models/index.md",
    "benchmarks/README.md": "benchmarks/index.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages outside docs/ and their paths on the site."""

MEANINGS = {
    ExitCode.OK: "every input was processed; `no_face` is a failure only with `--strict`",
    ExitCode.INPUT_FAILED: "some inputs failed and the others were processed; 0 with `--exit-zero`",
    ExitCode.USAGE: "wrong usage, contradictory options, or an output that cannot be written",
    ExitCode.NO_INPUT: "no input was found",
    ExitCode.MODEL_UNUSABLE: "a model is missing, fails verification, or does not match the others",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C; finished records are kept",
    ExitCode.TERMINATED: "terminated by SIGTERM; finished records are kept",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages and those of `ELSEWHERE`."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    for source, path in ELSEWHERE.items():
        files.append(File.generated(config, path, abs_src_path=str(ROOT / source)))
    for image in sorted((ROOT / "benchmarks").glob("*.png")):
        files.append(File.generated(config, f"benchmarks/{image.name}", abs_src_path=str(image)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Replace placeholders by generated content, and rewrite links for the site."""
    for placeholder, make_content in (("<!-- licences -->", licences), ("<!-- card -->", card)):
        if placeholder in markdown:
            markdown = markdown.replace(placeholder, make_content())
    return relink(markdown, page.file.src_uri)


def relink(markdown: str, path: str) -> str:
    """Rewrite the links of the page at `path`, which are valid in the repository, as links on the site."""
    source = next((name for name, page in ELSEWHERE.items() if page == path), f"docs/{path}")

    def replace_link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        site_path = ELSEWHERE.get(target, target.removeprefix("docs/"))
        if site_path == target:
            return match[0]
        return f"]({posixpath.relpath(site_path, posixpath.dirname(path) or '.')}{match[2] or ''})"

    return re.sub(r"\]\(([\w./-]+\.md)(#[\w-]+)?\)", replace_link, markdown)


def pages() -> dict[str, str]:
    """Generate the reference pages; keys are their paths on the site."""
    return {
        "reference/command-line.md": command_line(),
        "reference/api.md": api(),
        "reference/record.md": record(),
        "reference/errors.md": failures(),
    }


def command_line() -> str:
    """Describe every command with its arguments and options."""
    parts = [
        "# Command line",
        (
            "Generated from the commands. An option that names an environment variable can also be set by it;"
            " the flag takes precedence."
        ),
    ]
    for name, command in list_commands(typer.main.get_command(app.app)):
        context = typer.Context(command, info_name=name)
        usage = " ".join([name, *command.collect_usage_pieces(context)])
        parts += [f"## `{name}`", _prose(command.help), f"```text\n{usage}\n```", *_parameters(command, context)]
        if command.epilog:
            parts.append(_prose(command.epilog))
    return _page(parts)


def list_commands(command: Any, name: str = "fervid") -> Iterator[tuple[str, Any]]:
    """Yield every callable command of a group with its full name."""
    subcommands: Mapping[str, Any] = getattr(command, "commands", {})
    if not subcommands:
        yield name, command
    for word, subcommand in subcommands.items():
        yield from list_commands(subcommand, f"{name} {word}")


def _parameters(command: Any, context: typer.Context) -> Iterator[str]:
    arguments, options = [], []
    for parameter in command.params:
        help_record = parameter.get_help_record(context)
        if help_record is None or parameter.name == "help":
            continue
        declaration, description = help_record
        if parameter.param_type_name == "argument":
            arguments.append((f"`{parameter.metavar or parameter.name.upper()}`", _prose(parameter.help)))
            continue
        default = re.search(r"default: \(?(.*?)\)?(;|\]|$)", description)
        value = "required" if parameter.required else f"`{default[1]}`" if default else ""
        variable = f" (`{parameter.envvar}`)" if parameter.envvar else ""
        flags = ", ".join(f"`{flag}`" for flag in declaration.split(" / "))
        options.append((flags, _prose(parameter.help) + variable, "off" if value.startswith("`no-") else value))
    if arguments:
        yield _table(("argument", "meaning"), arguments)
    if options:
        yield _table(("option", "meaning", "default"), options)


def api() -> str:
    """List the public names; mkdocstrings inserts their docstrings."""
    parts = ["# Python API", (inspect.getdoc(fervid) or "").partition("\n")[0]]
    parts.append("Import every name from `fervid`. Heavy modules are loaded when a name is first used.")
    names = [name for name in fervid.__all__ if name != "__version__"]
    parts += [f"::: {getattr(fervid, name).__module__}.{name}" for name in names]
    return _page(parts)


def record() -> str:
    """Describe the fields of a record and print its schema."""
    parts = [
        "# The record",
        (
            "Every input has exactly one record, in input order, whatever happens to it. `fervid schema` prints the"
            " JSON Schema below. The fields and their order are part of the public interface."
        ),
    ]
    for command, title in (("classify", "A clip"), ("timeline", "A window")):
        schema = record_json_schema(command)  # type: ignore[arg-type]
        rows = [(f"`{name}`", _type(of), _prose(_description(of))) for name, of in schema["properties"].items()]
        document = json.dumps(schema, indent=2)
        parts += [
            f"## {title}: `fervid {command}`",
            _table(("field", "type", "meaning"), rows),
            f'??? note "JSON Schema of `fervid schema {command}`"',
            "\n".join(f"    {line}" for line in ["```json", *document.splitlines(), "```"]),
        ]
    return _page(parts)


def _type(of: Mapping[str, Any]) -> str:
    if "anyOf" in of:
        return " or ".join(_type(option) for option in of["anyOf"])
    if "enum" in of:
        return ", ".join(f"`{value}`" for value in of["enum"])
    return f"`{of['const']}`" if "const" in of else str(of["type"])


def _description(of: Mapping[str, Any]) -> str:
    return of.get("description") or next(iter(map(_description, of.get("anyOf", ()))), "")


def failures() -> str:
    """List the error codes and exit statuses."""
    numbers = [(f"`{code}`", meaning) for code, meaning in MEANINGS.items()]
    parts = [
        "# Errors and exit statuses",
        "A message says what is wrong, names the file or option, and says what to try. Codes are stable, for scripts.",
        "## Exit status",
        _table(("status", "meaning"), numbers),
        "## Codes",
        "Errors with status 1 are in the record of a clip, as `error.code`; the others end the command.",
        _table(
            ("code", "in Python", "status", "meaning"),
            [(f"`{kind.code}`", f"`{kind.__name__}`", str(_status(kind)), _prose(kind.__doc__)) for kind in _kinds()],
        ),
        (
            "A record may have a prediction and an error with one of these codes:"
            f" {', '.join(f'`{code}`' for code in PARTIAL_RESULT_CODES)}."
        ),
    ]
    return _page(parts)


def card() -> str:
    """Render the notebook card of a clip of `examples/`."""
    result = fervid.load_classifier().classify(ROOT / "examples" / "astronaut.mp4")
    return replace(result, path="examples/astronaut.mp4")._repr_html_()


def licences() -> str:
    """List the licences of the models, from their cards."""
    rows = [
        (f"`{name}`", entry["kind"], _prose(entry["license"]), how)
        for part, how in (("models", "shipped"), ("optional", "`fervid models pull`"))
        for name, entry in registry.manifest(part).items()
    ]
    return _table(("model", "kind", "licence", ""), rows)


def _kinds(kind: type[errors.FervidError] = errors.FervidError) -> Iterator[type[errors.FervidError]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _kinds(subclass)


def _status(kind: type[errors.FervidError]) -> int:
    if issubclass(kind, errors.NoFaceError):
        return ExitCode.OK
    return next(status for of, status in app.EXIT_CODES.items() if issubclass(kind, of))


def _prose(text: str | None) -> str:
    """Join a text to one line and escape brackets outside code."""
    line = re.sub(r"\s*\n\s*", " ", inspect.cleandoc(text or "")).replace("\\[", "[")
    return re.sub(r"(`[^`]*`)|([\[\]<>|])", lambda match: match[1] or "\\" + match[2], line)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _page(parts: Iterable[str]) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"
