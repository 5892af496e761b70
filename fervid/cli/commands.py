"""Add commands to an app; a parameter that is a dataclass of options becomes options of the command."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from functools import cache
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
    parameters = _parameters(command)
    options = [option for parameter in parameters for option in _options(parameter)]

    def call(**values: Any) -> None:
        command(**{parameter.name: _take(parameter, values) for parameter in parameters})

    call.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    call.__annotations__ = {option.name: option.annotation for option in options}
    return call


@cache
def _parameters(function: Any) -> list[inspect.Parameter]:
    """Return the parameters of a function or dataclass as keyword parameters, with their types."""
    hints = get_type_hints(function, include_extras=True)
    return [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
        for name, parameter in inspect.signature(function).parameters.items()
    ]


def _is_group(parameter: inspect.Parameter) -> bool:
    return is_dataclass(parameter.annotation)


def _options(parameter: inspect.Parameter) -> Iterator[inspect.Parameter]:
    """Yield a parameter, or those of the options in a group."""
    if not _is_group(parameter):
        yield parameter
        return
    for member in _parameters(parameter.annotation):
        yield from _options(member)


def _take(parameter: inspect.Parameter, values: Mapping[str, Any]) -> Any:
    """Return the value of an option, or the dataclass of a group."""
    if not _is_group(parameter):
        return values[parameter.name]
    return parameter.annotation(**{member.name: _take(member, values) for member in _parameters(parameter.annotation)})
