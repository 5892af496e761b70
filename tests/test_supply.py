"""Dependencies: lower bounds, the lock file, and the audit."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = ROOT / "requirements-dev.lock"

_spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
audit = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(audit)

FINE = {"name": "numpy", "version": "2.4.0", "vulns": []}
KNOWN = {"name": "pillow", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}]}
OPEN = {"name": "onnx", "version": "2.0", "vulns": [{"id": "CVE-2", "fix_versions": []}]}
SKIPPED = {"name": "torch", "skip_reason": "Dependency not found on PyPI"}


def required(*extras: str) -> dict[str, Requirement]:
    optional = PROJECT["optional-dependencies"]
    found = map(Requirement, [*PROJECT["dependencies"], *(line for extra in extras for line in optional[extra])])
    return {requirement.name: requirement for requirement in found}


@pytest.mark.parametrize(
    ("packages", "status", "said"),
    [
        ([], 0, "NOT AUDITED: no vulnerability service"),
        ([SKIPPED, SKIPPED], 0, "NOT AUDITED: no vulnerability service"),
        ([FINE], 0, "1 packages audited, 0 known"),
        ([FINE, SKIPPED], 0, "does not know them: torch"),
        ([FINE, KNOWN], 1, "pillow 1.0: PYSEC-1, mended in 1.1"),
        ([OPEN, SKIPPED], 1, "onnx 2.0: CVE-2, mended in none"),
    ],
)
def test_audit_fails_on_known_vulnerabilities(packages: list[dict], status: int, said: str) -> None:
    lines, found = audit.verdict(packages)
    assert found == status
    assert said in "\n".join(lines)


@pytest.mark.parametrize("answer", ["", "no JSON", '{"dependencies": []}'])
def test_failed_audit_is_reported(
    answer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, answer))
    assert audit.main([]) == 0
    assert "NOT AUDITED" in capsys.readouterr().err


def test_audit_times_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def hanging(command: list[str], timeout: float, **_: object) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hanging)
    assert audit.main([]) == 0
    assert "NOT AUDITED" in capsys.readouterr().err


def test_lowest_versions_match_project() -> None:
    (command,) = re.findall(r"^\tsed -n '(.*)' pyproject", (ROOT / "Makefile").read_text(), re.MULTILINE)
    done = subprocess.run(["sed", "-n", command, ROOT / "pyproject.toml"], capture_output=True, text=True, check=True)
    pinned = set(done.stdout.split())
    bounds = {f"{name}=={next(iter(of.specifier)).version}" for name, of in required("dev").items()}
    assert bounds <= pinned


def test_dependencies_have_lower_bounds_only() -> None:
    for requirement in required(*PROJECT["optional-dependencies"]).values():
        (bound,) = requirement.specifier
        assert bound.operator == ">=", requirement


def test_lock_has_hashes_and_no_host() -> None:
    text = LOCK.read_text()
    locked = re.findall(r"^([a-z0-9-]+)==([0-9a-z.]+)(?: ;.*)? \\\n    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)
    assert len(locked) == len(re.findall(r"^[^\s#]", text, re.MULTILINE))
    assert "://" not in text
    for name, requirement in required("dev").items():
        versions = [version for found, version in locked if found == name]
        assert versions, name
        assert all(version in requirement.specifier for version in versions), name


@pytest.mark.skipif(sys.platform != "linux", reason="needs make")
def test_named_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    for target in phony.split():
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
