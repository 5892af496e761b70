"""How to install a package that is missing, whichever way fervid was installed."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from fervid.core.errors import UsageError


def install_command(requirement: str) -> str:
    """Return the command that installs a requirement into the environment that fervid runs in.

    Double quotes are understood by the shells of all systems.

    Args:
        requirement: Such as `fervid[report]` or `av>=18.1`.
    """
    environment = Path(sys.prefix)
    if (environment / "pipx_metadata.json").is_file():
        return f'pipx runpip fervid install "{requirement}"'
    if (environment / "uv-receipt.toml").is_file():
        return f'uv tool install --with "{requirement}" fervid'
    if find_spec("pip") is not None:
        return f'pip install "{requirement}"'
    if "archive-v0" in environment.parts:  # the cache of uvx, which makes another environment for other requirements
        return f'uvx --with "{requirement}" fervid'
    return f'uv pip install "{requirement}"'


def missing_extra(what: str, extra: str) -> UsageError:
    """Return the error of a feature that needs packages which are not installed.

    Args:
        what: What needs them.
        extra: The extra of fervid that has them.
    """
    return UsageError(f"{what} needs more packages; {install_command(f'fervid[{extra}]')}")
