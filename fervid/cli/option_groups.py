"""Groups of options: a dataclass whose fields become options of every command that takes one as a parameter."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import typer

_EXCLUSIVE = [("every_frame", "fps"), ("fps", "every_frame"), ("resume", "force"), ("force", "resume")]
"""Pairs of an option and the one that it contradicts."""


def expand_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Replace each parameter that is annotated with a dataclass of options by the options of that dataclass.

    Typer reads options from a function's signature, so the wrapper gets a signature with one keyword parameter per
    field. When it is called, it builds the dataclasses from those values and calls `command` with them::

        @expand_option_groups
        def watch(folder: Path, *, models: ModelOptions) -> None: ...

        # typer sees: watch(context, folder, *, classifier, face_model, detector, device)

    An option of the command line takes precedence over an environment variable that contradicts it.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters = [inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)]
    parameters += [
        parameter.replace(annotation=hints[name])
        for name, parameter in inspect.signature(command).parameters.items()
        if name not in groups
    ]
    for group in groups.values():
        parameters += _parameters(group)
    defaults = {parameter.name: parameter.default for parameter in parameters}

    @functools.wraps(command)
    def call(context: typer.Context, **values: Any) -> None:
        values |= {name: defaults[name] for name in _overridden_by_cli(context, values)}
        records = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**values, **records)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def _parameters(group: Any) -> list[inspect.Parameter]:
    """Return a keyword parameter for each field of a group, with its default and annotation."""
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(group)
    ]


def _overridden_by_cli(context: typer.Context, values: Mapping[str, Any]) -> list[str]:
    """Return the options that an environment variable sets and that the command line contradicts."""

    def set_by(name: str, source: str) -> bool:
        parameter_source = context.get_parameter_source(name)
        return name in values and parameter_source is not None and parameter_source.name == source

    names = [rival for name, rival in _EXCLUSIVE if set_by(name, "COMMANDLINE") and set_by(rival, "ENVIRONMENT")]
    if values.get("output") and set_by("format", "ENVIRONMENT"):
        from fervid.batch.writers import FORMAT_BY_SUFFIX

        names += ["format"] * (Path(values["output"]).suffix.lower() in FORMAT_BY_SUFFIX)
    return names
