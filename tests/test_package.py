"""The wheel: what ships, installed alone in a clean environment, classifies a clip."""

from __future__ import annotations

import json
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


@pytest.mark.timeout(280)
def test_the_wheel_alone_classifies_a_clip(smile: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", ROOT, cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert wheel.stat().st_size < 20e6
    page = {"report.html", "report.css", "report.js", "run.html", "timelines.html", "evaluation.html"}
    assert {f"fervid/render/templates/{name}" for name in page} <= set(zipfile.ZipFile(wheel).namelist())
    venv.create(tmp_path / "clean", with_pip=True)
    python = tmp_path / "clean" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel, cwd=tmp_path)
    home = run(python, "-c", "import fervid; print(fervid.__file__)", cwd=tmp_path).strip()
    assert home.startswith(str(tmp_path / "clean"))
    record = json.loads(run(python.with_name("fervid"), "classify", smile, cwd=tmp_path))
    assert (record["status"], record["label"]) == ("ok", "happiness")
    assert "sha256" in run(python.with_name("fervid"), "models", "info", "mobilenetv1", cwd=tmp_path)
