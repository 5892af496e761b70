"""What works here, and what mends what does not: packages, codecs, CPUs, providers, folders, settings and models."""

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

DECODERS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "cinepak", "gif")
MODULES = ("av", "cv2", "joblib", "onnx", "onnxruntime", "scipy", "skl2onnx", "sklearn")
"""Most have libraries in C, which can be there and not be loaded."""
CONFLICTING_PACKAGES = {"cv2": "opencv-python-headless", "onnxruntime": "onnxruntime"}
"""Modules that several packages bring, which write over one another, and which of them to install."""


@dataclass(frozen=True, slots=True)
class Check:
    """One finding.

    Attributes:
        name: What was looked at.
        state: `note` is for what is well, and may surprise.
        finding: What was seen; what to do, if it is wrong.
    """

    name: str
    state: Literal["ok", "note", "WRONG"]
    finding: str


def run_checks() -> Iterator[Check]:
    """Look at everything that a classification needs."""
    yield Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Check("fervid", "ok", __version__)
    yield from _packages()
    broken = list(_import_checks())
    yield from broken
    unusable = {check.name for check in broken}
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
    """Those that are needed, and then those of the extras."""
    brought = packages_distributions()
    lacking: dict[str, list[str]] = {}
    for need in map(Requirement, _requirements()):
        extra = re.search(r"""extra == ['"](\w+)['"]""", str(need.marker))
        if extra is None and (need.marker is None or need.marker.evaluate()):
            yield _package(need, brought)
        elif extra and extra[1] != "dev":
            lacking.setdefault(extra[1], []).extend([need.name] * (not _fits(need)))
    for module, wanted in CONFLICTING_PACKAGES.items():
        if len(several := sorted(set(brought.get(module, ())))) > 1:
            yield Check(
                f"import {module}",
                "WRONG",
                f"{' and '.join(several)} write over one another; pip uninstall -y {' '.join(several)}, then"
                f" pip install {wanted}",
            )
    for extra_name, names in lacking.items():
        missing = f"not installed (lacks {', '.join(names)}); if you need it: pip install 'fervid[{extra_name}]'"
        yield Check(f"extra {extra_name}", "note" if names else "ok", missing if names else "installed")


def _requirements() -> Sequence[str]:
    try:
        return requires("fervid") or ()
    except PackageNotFoundError:  # run where it lies
        return ()


def _package(need: Requirement, brought: Mapping[str, list[str]]) -> Check:
    others = next(
        (brought.get(module, []) for module, package in CONFLICTING_PACKAGES.items() if package == need.name), []
    )
    name = need.name if need.name in others or not others else others[0]
    try:
        found = version(name)
    except PackageNotFoundError:
        return Check(need.name, "WRONG", f"not installed; pip install '{need.name}{need.specifier}'")
    if not need.specifier.contains(found, prereleases=True):
        return Check(
            need.name, "WRONG", f"{found} does not do, {need.specifier} does; pip install '{name}{need.specifier}'"
        )
    return Check(need.name, "ok", found if name == need.name else f"{found}, as {name}")


def _fits(need: Requirement) -> bool:
    try:
        return need.specifier.contains(version(need.name), prereleases=True)
    except PackageNotFoundError:
        return False


def _import_checks() -> Iterator[Check]:
    for module in MODULES:
        try:
            import_module(module)
        except (ImportError, OSError) as error:
            said = " ".join(str(error).split())
            package = next(iter(packages_distributions().get(module, [])), CONFLICTING_PACKAGES.get(module, module))
            yield Check(
                f"import {module}", "WRONG", f"cannot be loaded ({said}); pip install --force-reinstall {package}"
            )


def _cpu_checks() -> Iterator[Check]:
    import cv2

    usable, there = cv2.getNumberOfCPUs(), os.cpu_count() or 1
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there
    reason = "the affinity of this process (taskset)" if bound <= usable else "a cgroup (as by docker --cpus)"
    limited = f"{usable} usable of {there}, limited by {reason}; --jobs and --threads go by that"
    yield Check("cpus", "note" if usable < there else "ok", limited if usable < there else f"{usable}")


def _folders() -> Iterator[Check]:
    uses: Mapping[Literal["cache", "data"], str] = {
        "cache": "features, train and evaluate need another: --cache FOLDER",
        "data": "models pull needs another: set XDG_DATA_HOME",
    }
    for what, use in uses.items():
        try:
            folder = user_dir(what)
        except UsageError as error:
            yield Check(f"{what} folder", "WRONG", error.message)
            continue
        there = next((place for place in (folder, *folder.parents) if os.path.exists(place)), Path("/"))
        well = os.path.isdir(there) and os.access(there, os.R_OK | os.W_OK | os.X_OK)
        fault = "cannot be read and written" if there == folder else f"cannot be made in {there}"
        mend = f"chown {os.getuid()} {there}" if _belongs_to_user(there) else "set HOME to a folder of yours"
        yield Check(
            f"{what} folder", "ok" if well else "WRONG", f"{folder}{'' if well else f' {fault}; {use}, or {mend}'}"
        )


def _belongs_to_user(place: Path) -> bool:
    """Whether a folder lies in a home folder of this user, and so should be the user's too."""
    home = Path(os.path.expanduser("~"))
    try:
        return home in place.parents and home.stat().st_uid == os.getuid()
    except OSError:
        return False


def _settings() -> Iterator[Check]:
    for name in sorted(os.environ):
        if name.startswith("FERVID_"):
            yield Check(name, "note", f"is set to {os.environ[name]!r}: an option that is not given takes that")
    if os.environ.get("NO_COLOR"):
        yield Check("NO_COLOR", "note", "is set: no colours")
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    if encoding not in ("utf-8", "utf8"):
        yield Check("encoding", "note", f"of the terminal is {encoding}: names may look odd; export PYTHONUTF8=1")


def _decoders() -> Check:
    import av

    missing = [name for name in DECODERS if name not in av.codecs_available]
    told = f"missing: {', '.join(missing)}; pip install --force-reinstall --only-binary av av"
    return Check("decoders", "WRONG" if missing else "ok", told if missing else ", ".join(DECODERS))


def _providers() -> Check:
    import onnxruntime

    found = onnxruntime.get_available_providers()
    gpu = "" if "CUDAExecutionProvider" in found else "; for --device cuda: pip install onnxruntime-gpu instead"
    return Check("providers", "ok", f"{', '.join(found)}{gpu}")


def _models() -> Iterator[Check]:
    from fervid.models import registry

    again = "pip install --force-reinstall --no-deps fervid"
    try:
        names = registry.installed_models()
    except ModelError as error:
        yield Check("models", "WRONG", f"{error.message}: {again}")
        return
    for name in names:
        try:
            yield Check(f"model {name}", "ok", f"verified, SHA-256 {registry.verify(name).identity.sha256[:12]}")
        except ModelError as error:
            shipped = name in registry.manifest()
            mend = (
                again
                if shipped
                else f"rm {registry.model_path(registry.manifest_entry(name))}, then fervid models pull {name}"
            )
            yield Check(f"model {name}", "WRONG", f"{error.message}: {mend}")
    for name in (name for name in registry.manifest("optional") if name not in names):
        yield Check(f"model {name}", "note", f"not pulled; if you need it: fervid models pull {name}")
