"""Add commands to an app; a parameter that is a dataclass of options becomes options of the command."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_type_hints

import typer

Command = Callable[..., None]


def add_command(app: typer.Typer, *examples: str, name: str | None = None) -> Callable[[Command], Command]:
    """Return a decorator that adds a command to an app, with examples below its help.

    Typer reads options from a function's signature, so it gets a function with a keyword parameter for each field of
    a dataclass of options, and of the dataclasses in its fields. That function builds the dataclasses from the values
    and calls the command with them::

        @add_command(watch_app, "fervid watch inbox/")
        def watch(*, folder: Path, models: ModelOptions) -> None: ...

        # typer sees: watch(*, folder, face_model, detector, device, classifier)
    """
    epilog = "\n".join(["Examples:", *(f"  `{line}`" for line in examples)])

    def add(command: Command) -> Command:
        app.command(name or command.__name__, help=inspect.getdoc(command), epilog=epilog)(_expand(command))
        return command

    return add


def _expand(command: Command) -> Command:
    """Return a function that takes each option of a command as a keyword parameter."""
    hints = get_type_hints(command, include_extras=True)
    defaults = {name: parameter.default for name, parameter in inspect.signature(command).parameters.items()}
    parameters = [option for name in defaults for option in _options(name, hints[name], defaults[name])]

    def call(**values: Any) -> None:
        command(**{name: _take(name, hints[name], values) for name in defaults})

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def _is_group(hint: Any) -> bool:
    return is_dataclass(hint)


def _options(name: str, hint: Any, default: Any) -> Iterator[inspect.Parameter]:
    """Yield a parameter for an option, or for each option of a group."""
    if not _is_group(hint):
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
        return
    hints = get_type_hints(hint, include_extras=True)
    for field in fields(hint):
        field_default = inspect.Parameter.empty if field.default is MISSING else field.default
        yield from _options(field.name, hints[field.name], field_default)


def _take(name: str, hint: Any, values: dict[str, Any]) -> Any:
    """Return the value of an option, or the dataclass of a group."""
    if not _is_group(hint):
        return values[name]
    hints = get_type_hints(hint)
    return hint(**{field.name: _take(field.name, hints[field.name], values) for field in fields(hint)})
