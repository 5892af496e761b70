"""The doctor finds problems and names the command that fixes each."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType

import cv2
import pytest
from typer.testing import CliRunner

from fervid.cli import app, doctor
from fervid.cli.doctor import Check, run_checks
from fervid.core import atomic_io
from fervid.core.errors import UsageError
from fervid.models import registry

NEEDS = [
    "av>=18.1",
    "numpy>=2.0",
    "onnxruntime>=1.25",
    "opencv-python-headless>=4.11",
    "tomli>=2; python_version < '3'",
    "torch>=2.9; extra == 'training'",
    "safetensors>=0.5; extra == 'training'",
    "matplotlib>=3.10; extra == 'plot'",
    "ruff>=0.14; extra == 'dev'",
]
VERSIONS = {
    "av": "18.1.0",
    "numpy": "2.4.6",
    "onnxruntime": "1.31.1",
    "opencv-python-headless": "5.0.0.93",
    "matplotlib": "3.10.7",
}
BROUGHT = {"cv2": ["opencv-python-headless"], "onnxruntime": ["onnxruntime"], "av": ["av"]}


@pytest.fixture(autouse=True)
def healthy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine on which all is well, but for two extras, whatever this one is like."""
    for variable in [variable for variable in os.environ if variable.startswith(("FERVID_", "NO_COLOR"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cv2, "getNumberOfCPUs", lambda: os.cpu_count())
    monkeypatch.setattr(doctor, "requires", lambda name: NEEDS)
    monkeypatch.setattr(doctor.platform, "system", lambda: "Linux")
    installed(monkeypatch, {})


def installed(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str | None], **brought: list[str]) -> None:
    """Let other packages be there."""

    def version(name: str) -> str:
        if found := {**VERSIONS, **versions}.get(name):
            return found
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", version)
    monkeypatch.setattr(doctor, "packages_distributions", lambda: {**BROUGHT, **brought})


def wrong() -> list[Check]:
    return [check for check in run_checks() if check.state == "error"]


def status() -> int:
    return CliRunner().invoke(app.app, ["doctor"]).exit_code


def test_doctor_passes() -> None:
    found = {check.name: check for check in run_checks()}
    assert {name for name, check in found.items() if check.state == "note"} == {
        "extra training",
        "model hsemotion-b0",
        "model yunet",
    }
    assert wrong() == []
    assert found["extra plot"] == Check("extra plot", "ok", "installed")
    assert "torch, safetensors" in found["extra training"].message
    assert 'pip install "fervid[training]"' in found["extra training"].message
    assert "h264" in found["decoders"].message
    result = CliRunner().invoke(app.app, ["doctor"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert {line.split()[0] for line in result.stdout.splitlines()} == {"ok", "note"}


@pytest.mark.parametrize(
    ("versions", "distributions", "name", "command"),
    [
        ({"av": None}, {}, "av", 'pip install "av>=18.1"'),
        ({"numpy": "1.26.4"}, {}, "numpy", 'pip install "numpy>=2.0"'),
        (
            {"opencv-python": "4.12"},
            {"cv2": ["opencv-python-headless", "opencv-python"]},
            "import cv2",
            "pip uninstall -y opencv-python opencv-python-headless",
        ),
    ],
)
def test_missing_old_or_duplicate_packages_fail(
    versions: dict[str, str | None],
    distributions: dict[str, list[str]],
    name: str,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed(monkeypatch, versions, **distributions)
    (check,) = wrong()
    assert (check.name, command in check.message) == (name, True)
    assert status() == 2


def test_alternative_package_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(
        monkeypatch,
        {"onnxruntime": None, "onnxruntime-gpu": "1.30", "opencv-python-headless": None, "opencv-python": "4.12"},
        onnxruntime=["onnxruntime-gpu"],
        cv2=["opencv-python"],
    )
    assert wrong() == []
    found = {check.name: check.message for check in run_checks()}
    assert found["onnxruntime"] == "1.30, as onnxruntime-gpu"


def test_source_checkout_has_no_requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "requires", none)
    assert wrong() == []


@pytest.mark.parametrize("broken", ["av", "cv2", "onnxruntime"])
def test_unloadable_library_is_reported(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(name: str) -> ModuleType:
        if name == broken:
            raise ImportError("libGL.so.1: cannot open shared object file:\nNo such file")
        return import_module(name)

    monkeypatch.setattr(doctor, "import_module", failing)
    (check,) = wrong()
    assert check.name == f"import {broken}"
    assert "(libGL.so.1: cannot open shared object file: No such file); pip install" in check.message
    names = {check.name for check in run_checks()}
    assert {"cache folder", "python"} <= names
    assert ("model emotion8" in names) == (broken != "onnxruntime")
    assert ("decoders" in names) == (broken != "av")
    assert status() == 2


def test_missing_decoders_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "DECODERS", ("h264", "no-such-codec"))
    (check,) = wrong()
    assert "no-such-codec; pip install" in check.message


@pytest.mark.parametrize(("affinity", "reason"), [({0}, "affinity"), ({0, 1, 2}, "cgroup")])
def test_unusable_cpus_are_noted(affinity: set[int], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "getNumberOfCPUs", lambda: 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: affinity, raising=False)
    (check,) = (check for check in run_checks() if check.name == "cpus")
    assert check.state == "note"
    assert check.message.startswith("1 usable of 4, limited by ")
    assert reason in check.message


@pytest.mark.parametrize("system", ["Darwin", "Windows"])
def test_what_a_system_cannot_do_is_noted(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.platform, "system", lambda: system)
    (note,) = (check for check in run_checks() if check.name == "system")
    assert (note.state, "power failure" in note.message) == ("note", True)


def test_folders_where_users_have_no_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "getuid")
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    assert {"chown" in check.message for check in doctor._folders()} == {False}


def test_unwritable_folders_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    plain = os.access
    monkeypatch.setattr(os, "access", lambda place, mode: place != tmp_path and plain(place, mode))
    cache, data = wrong()
    assert (cache.name, data.name) == ("cache folder", "data folder")
    assert "--cache FOLDER" in cache.message
    assert "XDG_DATA_HOME" in data.message


@pytest.mark.parametrize("home", ["missing", "of another"])
def test_no_advice_to_own_folders_of_others(home: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nonexistent" if home == "missing" else str(tmp_path))
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    monkeypatch.setattr(os, "getuid", lambda: 65534)
    for check in doctor._folders():
        assert check.state == "error"
        assert "chown" not in check.message
        assert "set HOME to a folder of yours" in check.message


def test_advice_to_own_folder_in_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".cache").mkdir()
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    cache, _ = doctor._folders()
    assert cache.state == "error"
    assert f"chown {os.getuid()} {tmp_path / '.cache'}" in cache.message


def test_unreadable_folders_stop_no_check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain = os.stat

    def refuse(path: object, *more: object, **other: object) -> os.stat_result:
        if str(path).startswith((f"{tmp_path / 'data'}{os.sep}", f"{tmp_path / 'cache'}{os.sep}")):
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path, *more, **other)

    monkeypatch.setattr(os, "stat", refuse)
    (tmp_path / "data").mkdir()
    listed = CliRunner().invoke(app.app, ["models", "list"])
    assert (listed.exit_code, "not pulled" in listed.stdout) == (0, True)
    assert {check.name for check in run_checks()} >= {"cache folder", "data folder", "model yunet"}


def test_missing_home_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(name: str) -> Path:
        raise RuntimeError("Could not determine home directory.")

    for what in ("cache", "data"):
        monkeypatch.setattr(f"platformdirs.user_{what}_path", homeless)
    found = {check.name: check for check in doctor._folders()}
    assert {check.state for check in found.values()} == {"error"}
    assert "set HOME, or XDG_DATA_HOME" in found["data folder"].message
    assert registry.installed_models() == list(registry.manifest())
    assert CliRunner().invoke(app.app, ["models", "list"]).exit_code == 0
    with pytest.raises(UsageError, match=r"no home folder .*set HOME, or XDG_CACHE_HOME"):
        atomic_io.user_dir("cache")
    assert status() == 2


def test_settings_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FERVID_JOBS", "2\x1b[31m")
    found = {check.name: check.state for check in run_checks()}
    assert (found["NO_COLOR"], found["FERVID_JOBS"]) == ("note", "note")
    assert r"2\x1b[31m" in CliRunner().invoke(app.app, ["doctor"], env={"PYTHONIOENCODING": "latin-1"}).stdout
    monkeypatch.setattr(doctor.sys, "stdout", type("Ascii", (), {"encoding": "ascii"})())
    assert "encoding" in {check.name for check in doctor._settings()}


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The shipped models, in a folder where they may be spoilt."""
    place = tmp_path / "models"
    shutil.copytree(registry.models_dir(), place, ignore=shutil.ignore_patterns("*.md"))
    monkeypatch.setattr(registry, "models_dir", lambda: place)
    registry.manifest.cache_clear()
    yield place
    registry.manifest.cache_clear()


def test_missing_or_damaged_model_fails(copied: Path) -> None:
    (copied / registry.manifest()["emotion8"]["file"]).unlink()
    with (copied / registry.manifest()["mean8"]["file"]).open("ab") as file:
        file.write(b"more")
    found = wrong()
    assert [check.name for check in found] == ["model emotion8", "model mean8"]
    assert all(check.message.endswith("pip install --force-reinstall --no-deps fervid") for check in found)
    assert status() == 4


def test_damaged_manifest_fails(copied: Path) -> None:
    (copied / "manifest.json").write_text("{")
    registry.manifest.cache_clear()
    (check,) = wrong()
    assert check.name == "models"
    assert status() == 4


def test_damaged_download_advice(tmp_path: Path) -> None:
    file = registry.model_path(registry.manifest_entry("yunet"))
    file.parent.mkdir(parents=True)
    file.write_bytes(json.dumps({}).encode())
    (check,) = wrong()
    assert check.name == "model yunet"
    assert check.message.endswith(f"rm {file}, then fervid models pull yunet")
