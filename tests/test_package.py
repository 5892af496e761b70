"""The wheel: its contents, and an installation in a clean environment."""

from __future__ import annotations

import email
import json
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
def test_wheel_has_models_and_templates(wheel: Path) -> None:
    assert wheel.stat().st_size < 20e6
    templates = {f"render/templates/{path.name}" for path in (ROOT / "fervid" / "render" / "templates").iterdir()}
    models = {f"_models/{path.name}" for path in (ROOT / "models").glob("*.onnx")}
    assert len(models) >= 5
    assert {f"fervid/{name}" for name in templates | models} <= set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
def test_description_has_no_relative_links(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
    description = email.message_from_bytes(archive.read(name)).get_payload()
    assert "# fervid" in description
    links = re.findall(r"\]\(([^)]+)\)", description)
    assert links
    assert all(link.startswith("https://") for link in links)


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_installed_wheel_classifies_clip(wheel: Path, smile: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "clean", with_pip=True)
    python = tmp_path / "clean" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel, cwd=tmp_path)
    home = run(python, "-c", "import fervid; print(fervid.__file__)", cwd=tmp_path).strip()
    assert home.startswith(str(tmp_path / "clean"))
    record = json.loads(run(python.with_name("fervid"), "classify", smile, cwd=tmp_path))
    assert (record["status"], record["label"]) == ("ok", "happiness")
    assert "sha256" in run(python.with_name("fervid"), "models", "info", "mobilenetv1", cwd=tmp_path)
