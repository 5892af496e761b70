"""Groups of options: a dataclass whose fields become options of every command that takes one as a parameter."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_type_hints


def expand_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Replace each parameter that is annotated with a dataclass of options by the options of that dataclass.

    Typer reads options from a function's signature, so the wrapper gets a signature with one keyword parameter per
    field; a field may be a dataclass of options too. When the wrapper is called, it builds the dataclasses from those
    values and calls `command` with them::

        @expand_option_groups
        def watch(*, folder: Path, models: ModelOptions) -> None: ...

        # typer sees: watch(*, folder, face_model, detector, device, classifier)
    """
    hints = get_type_hints(command, include_extras=True)
    defaults = {name: parameter.default for name, parameter in inspect.signature(command).parameters.items()}
    parameters = [option for name in defaults for option in _options(name, hints[name], defaults[name])]

    @functools.wraps(command)
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
