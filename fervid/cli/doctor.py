"""Checks of the installation: packages, codecs, CPUs, providers, folders, settings and models."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from fervid import __version__
from fervid.core.atomic_io import user_dir
from fervid.core.errors import ModelError, UsageError
from fervid.core.packages import install_command

DECODERS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "cinepak", "gif")
MODULES = ("av", "cv2", "joblib", "onnx", "onnxruntime", "psutil", "scipy", "skl2onnx", "sklearn")
"""Modules to import, as most use C libraries that may fail to load although the package is installed."""
CONFLICTING_PACKAGES = {"cv2": "opencv-python-headless", "onnxruntime": "onnxruntime"}
"""Modules that several packages provide and overwrite, with the package to install."""
SETTINGS = ("FERVID_CACHE", "FERVID_JOBS", "FERVID_MEMORY", "FERVID_TIMEOUT")
"""Environment variables that set the default of an option."""

SYSTEM_LIMITS = {
    "Darwin": "a power failure may cost records that the drive had only in its cache",
    "Windows": "a power failure may undo the last renames of files; Ctrl-Break ends a run as SIGTERM does elsewhere",
}
"""What differs from Linux, by `platform.system()`."""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check.

    Attributes:
        name: What was checked.
        state: `error` for a problem; `note` for what is no problem but may surprise.
        message: The result, with the command that fixes a problem.
    """

    name: str
    state: Literal["ok", "note", "error"]
    message: str


def run_checks() -> Iterator[Check]:
    """Check everything that classification needs."""
    yield Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Check("fervid", "ok", __version__)
    if system_limit := SYSTEM_LIMITS.get(platform.system()):
        yield Check("system", "note", f"{platform.system()}: {system_limit}")
    yield from _packages()
    failed_imports = list(_import_checks())
    yield from failed_imports
    unusable = {check.name for check in failed_imports}
    if "import cv2" not in unusable:
        yield from _cpu_checks()
    yield from _folders()
    yield from _settings()
    if "import av" not in unusable:
        yield _decoders()
    if "import onnxruntime" not in unusable:
        yield _providers()
        yield from _models()


def _packages() -> Iterator[Check]:
    """Check the required packages, then those of the extras."""
    distributions = packages_distributions()
    missing_by_extra: dict[str, list[str]] = {}
    for requirement in map(Requirement, _requirements()):
        extra = re.search(r"""extra == ['"](\w+)['"]""", str(requirement.marker))
        if extra is None and (requirement.marker is None or requirement.marker.evaluate()):
            yield _package(requirement, distributions)
        elif extra and extra[1] != "dev":
            missing_by_extra.setdefault(extra[1], []).extend([requirement.name] * (not _is_installed(requirement)))
    for module, package in CONFLICTING_PACKAGES.items():
        if len(conflicting := sorted(set(distributions.get(module, ())))) > 1:
            yield Check(
                f"import {module}",
                "error",
                f"{' and '.join(conflicting)} overwrite each other; pip uninstall -y {' '.join(conflicting)}, then"
                f" pip install {package}",
            )
    for name, packages in missing_by_extra.items():
        if packages:
            message = (
                f"not installed (lacks {', '.join(packages)}); if you need it: {install_command(f'fervid[{name}]')}"
            )
            yield Check(f"extra {name}", "note", message)
        else:
            yield Check(f"extra {name}", "ok", "installed")


def _requirements() -> Sequence[str]:
    try:
        return requires("fervid") or ()
    except PackageNotFoundError:  # run from a source tree
        return ()


def _package(requirement: Requirement, distributions: Mapping[str, list[str]]) -> Check:
    """Check that a package, or another one that provides the same module, is installed in the right version."""
    package, specifier = requirement.name, requirement.specifier
    modules = [module for module, usual in CONFLICTING_PACKAGES.items() if usual == package]
    providers = distributions.get(modules[0], []) if modules else []
    name = package if package in providers or not providers else providers[0]
    try:
        installed = version(name)
    except PackageNotFoundError:
        return Check(package, "error", f"not installed; {install_command(f'{package}{specifier}')}")
    if not specifier.contains(installed, prereleases=True):
        fix = install_command(f"{name}{specifier}")
        return Check(package, "error", f"{installed} is installed, needs {specifier}; {fix}")
    return Check(package, "ok", installed if name == package else f"{installed}, as {name}")


def _is_installed(requirement: Requirement) -> bool:
    """Return whether a package is installed in the right version."""
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False


def _import_checks() -> Iterator[Check]:
    for module in MODULES:
        try:
            import_module(module)
        except (ImportError, OSError) as error:
            reason = " ".join(str(error).split())
            package = next(iter(packages_distributions().get(module, [])), CONFLICTING_PACKAGES.get(module, module))
            yield Check(
                f"import {module}", "error", f"cannot be loaded ({reason}); pip install --force-reinstall {package}"
            )


def _cpu_checks() -> Iterator[Check]:
    import cv2

    usable, total = cv2.getNumberOfCPUs(), os.cpu_count() or 1
    if usable >= total:
        yield Check("cpus", "ok", f"{usable}")
        return
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    reason = "the affinity of this process (taskset)" if affinity <= usable else "a cgroup (docker --cpus)"
    yield Check(
        "cpus", "note", f"{usable} usable of {total}, limited by {reason}; defaults of --jobs and --threads follow it"
    )


def _folders() -> Iterator[Check]:
    remedies: Mapping[Literal["cache", "data"], str] = {
        "cache": "for features, train and evaluate use --cache FOLDER",
        "data": "for models pull set XDG_DATA_HOME",
    }
    for kind, remedy in remedies.items():
        try:
            folder = user_dir(kind)
        except UsageError as error:
            yield Check(f"{kind} folder", "error", error.message)
            continue
        existing = next((path for path in (folder, *folder.parents) if os.path.exists(path)), Path("/"))
        if os.path.isdir(existing) and os.access(existing, os.R_OK | os.W_OK | os.X_OK):
            yield Check(f"{kind} folder", "ok", str(folder))
            continue
        problem = "is not readable and writable" if existing == folder else f"cannot be created in {existing}"
        fix = f"chown {os.getuid()} {existing}" if _is_in_home(existing) else "set HOME to a folder of yours"
        yield Check(f"{kind} folder", "error", f"{folder} {problem}; {remedy}, or {fix}")


def _is_in_home(folder: Path) -> bool:
    """Return whether a folder is inside the user's own home folder, and so should be owned by the user."""
    home = Path(os.path.expanduser("~"))
    try:
        return home in folder.parents and home.stat().st_uid == os.getuid()
    except (OSError, AttributeError):  # Windows has no user ids
        return False


def _settings() -> Iterator[Check]:
    for name in sorted(os.environ):
        if name.startswith("FERVID_"):
            effect = "the default of that option" if name in SETTINGS else "unknown, so it has no effect"
            yield Check(name, "note", f"is set to {os.environ[name]!r}: {effect}")
    if os.environ.get("NO_COLOR"):
        yield Check("NO_COLOR", "note", "is set: no colours")
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    if encoding not in ("utf-8", "utf8"):
        yield Check("encoding", "note", f"of the terminal is {encoding}: names may be garbled; set PYTHONUTF8=1")


def _decoders() -> Check:
    import av

    missing = [name for name in DECODERS if name not in av.codecs_available]
    if missing:
        fix = "pip install --force-reinstall --only-binary av av"
        return Check("decoders", "error", f"missing: {', '.join(missing)}; {fix}")
    return Check("decoders", "ok", ", ".join(DECODERS))


def _providers() -> Check:
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    gpu = "" if "CUDAExecutionProvider" in providers else "; for --device cuda: pip install onnxruntime-gpu instead"
    return Check("providers", "ok", f"{', '.join(providers)}{gpu}")


def _models() -> Iterator[Check]:
    from fervid.models import registry

    reinstall = "pip install --force-reinstall --no-deps fervid"
    try:
        names = registry.installed_models()
    except ModelError as error:
        yield Check("models", "error", f"{error.message}: {reinstall}")
        return
    for name in names:
        try:
            yield Check(f"model {name}", "ok", f"verified, SHA-256 {registry.verify(name).identity.sha256[:12]}")
        except ModelError as error:
            fix = reinstall
            if name not in registry.manifest():
                fix = f"rm {registry.model_path(registry.manifest_entry(name))}, then fervid models pull {name}"
            yield Check(f"model {name}", "error", f"{error.message}: {fix}")
    for name in (name for name in registry.manifest("optional") if name not in names):
        yield Check(f"model {name}", "note", f"not downloaded; if you need it: fervid models pull {name}")
