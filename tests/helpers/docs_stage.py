"""Prepare what the pages of the documentation need: a clone, clips, miniature data sets and programs."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np
import pytest

import clips
import published_models
from http_server import serving

ROOT = Path(__file__).parents[2]
FOLDERS = ("fervid", "models", "benchmarks", "examples")
FILES = ("pyproject.toml", "README.md", "LICENSE", "Dockerfile", ".dockerignore", "requirements-dev.lock")
PEOPLE = ("anna", "ben", "cara", "dan", "eve", "finn")

FFMPEG = """#!{python}
# A stand-in for `ffmpeg -i CAMERA -c copy -f mpegts -`: a camera that sends a video in a loop.
import sys
from pathlib import Path
sys.path.insert(0, {benchmarks!r})
from live import send
try:
    while True:
        list(send(Path({film!r}), "mpegts", sys.stdout.buffer))
except (BrokenPipeError, KeyboardInterrupt):
    sys.stderr.close()
    sys.exit(255)
"""
JQ = """#!{python}
# The part of jq that the pages use, based on the Python package jq.
import sys
import jq
*options, program = [word for word in sys.argv[1:] if not word.endswith(".jsonl")]
text = "".join(open(word).read() for word in sys.argv[1:] if word.endswith(".jsonl")) or sys.stdin.read()
for value in jq.compile(program).input_text(text):
    print(value if "-r" in options else jq.compile(".").input_value(value).text())
"""


def clone(place: Path) -> Path:
    """Copy the parts of the repository that the pages use."""
    place.mkdir(parents=True)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("*.ipynb", "make.py"))
    for name in FILES:
        shutil.copy(ROOT / name, place)
    return place


def change(path: Path, *pairs: str) -> None:
    """Replace texts in a file of the clone; `pairs` alternates old and new texts."""
    text = path.read_text()
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        assert old in text, f"{path} has no {old}"
        text = text.replace(old, new)
    path.write_text(text)


def programs(place: Path, film: Path) -> Path:
    """Create a folder of programs: `fervid`, a stand-in for ffmpeg, and jq if only its Python package is installed."""
    place.mkdir()
    known = {"python": sys.executable, "benchmarks": str(ROOT / "benchmarks"), "film": str(film)}
    texts = {
        "fervid": f"#!{sys.executable}\nfrom fervid.cli.app import main\nif __name__ == '__main__':\n    main()\n",
        "ffmpeg": FFMPEG.format(**known),
    }
    if shutil.which("jq") is None and importlib.util.find_spec("jq"):
        texts["jq"] = JQ.format(**known)
    for name, text in texts.items():
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    return place


def faces(person: int, label: int) -> list[np.ndarray]:
    """Draw frames of a person in light that is redder for higher labels."""
    light = 1 - np.array([0, 0.08, 0.08]) * label
    return [np.uint8(image * light) for image in clips.smiling(4, 240, 180, 1.2, person)]


def clip(path: Path, person: int, label: int, **more: str) -> None:
    """Write a clip of a person whose colour shows the label."""
    path.parent.mkdir(parents=True, exist_ok=True)
    clips.write(path, faces(person, label), rate=5, **more)


def videos(place: Path) -> None:
    """Write clips of every person into a folder per class."""
    for number, name in enumerate(PEOPLE):
        for label, folder in enumerate(("happiness", "sadness")):
            clip(place / "videos" / folder / f"{name}.mp4", number, label)


def few_classifiers(place: Path) -> None:
    """Limit training to one hyperparameter per kind of classifier, three folds and rough intervals."""
    pairs = {
        "FOLDS = 5": "FOLDS = 3",
        'folds.", min=3)] = 5': 'folds.", min=3)] = 3',
        "N_BOOTSTRAP = 1000": "N_BOOTSTRAP = 20",
        "(0.1, 0.3, 1.0, 3.0)": "(1.0,)",
        "(0.3, 1.0, 3.0, 10.0)": "(1.0,)",
        "(1e-3, 1e-1)": "(1e-2,)",
        "(0.003, 0.03, 0.3)": "(0.03,)",
    }
    modules = [path for folder in ("learn", "cli") for path in (place / "fervid" / folder).glob("*.py")]
    for old, new in pairs.items():
        paths = [path for path in modules if old in path.read_text()]
        assert paths, f"no module of fervid.learn or fervid.cli has {old}"
        for path in paths:
            change(path, old, new)


def published(sets: Path) -> None:
    """Write miniature data sets in the layouts of their authors."""
    for person in range(len(PEOPLE) + 2):
        part = "Train" if person < len(PEOPLE) else "Val"
        for label, name in enumerate(("Angry", "Happy", "Neutral")):
            clip(sets / "AFEW" / f"{part}_AFEW" / name / f"{person}.avi", person, label, codec="mpeg4")
        for label in range(3):
            clip(sets / "VGAF" / part / f"{person}_{label}.mp4", person, label)
            with (sets / "VGAF" / f"{part}_labels.txt").open("a") as labels:
                labels.write(f"{person}_{label}.mp4 {label + 1}\n")
    for person in range(len(PEOPLE)):
        for label in (0, 2, 3, 4, 5, 6):  # the classes of CREMA-D
            name = f"01-01-{label + 1:02}-01-01-01-{person + 1:02}.mp4"
            clip(sets / "RAVDESS" / f"Actor_{person + 1:02}" / name, person, label)
        for label, name in enumerate(("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")):
            clip(sets / "CREMA-D" / "VideoFlash" / f"{1001 + person}_DFA_{name}_XX.flv", person, label, codec="flv1")


@contextmanager
def trained(place: Path, environment: pytest.MonkeyPatch) -> Iterator[None]:
    """Provide data sets and a list of ratings, and limit the candidates."""
    few_classifiers(place)
    published(place / "sets")
    with (place / "ratings.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "person", "valence"])
        for number, name in enumerate(PEOPLE):
            table.writerow([f"videos/happiness/{name}.mp4", name, 7 + number / 10])
            table.writerow([f"videos/sadness/{name}.mp4", name, 2 + number / 10])
    shutil.copy(place / "examples" / "astronaut.mp4", place / "party.mp4")
    yield


@contextmanager
def own_faces(place: Path, environment: pytest.MonkeyPatch) -> Iterator[None]:
    """Write faces of two classes and some without a label, and shorten training."""
    few_classifiers(place)
    training = place / "fervid" / "training"
    change(training / "finetune.py", "steps: int = 300", "steps: int = 2")
    change(training / "finetune.py", "labelled_faces: int = 32", "labelled_faces: int = 4")
    change(training / "export.py", "CALIBRATION = 512", "CALIBRATION = 8")
    for label, folder in enumerate(("happiness", "sadness", "unlabelled")):
        for person in range(len(PEOPLE)):
            for number, image in enumerate(faces(person, label)[:2]):
                path = place / "faces" / folder / f"{person}-{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(path), image[..., ::-1])
    yield


@contextmanager
def optional_models(place: Path, environment: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve stand-ins for the optional models from a local server."""
    published_models.yunet(place / "yunet.onnx", [(256.0, 120.0, 384.0, 280.0)])
    published_models.hsemotion(place / "hsemotion.onnx")
    files = {"/yunet": (place / "yunet.onnx").read_bytes(), "/hsemotion-b0": (place / "hsemotion.onnx").read_bytes()}
    change(place / "fervid" / "models" / "download.py", '= ("https",)', '= ("http",)')
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        environment.delenv(name)
    with serving() as server:
        server.answer = lambda request: request.whole(files[request.path])
        manifest = place / "models" / "manifest.json"
        content = json.loads(manifest.read_text())
        for path, data in files.items():
            published_models.stand_in(content["optional"][path[1:]], data, url=server.url + path)
        manifest.write_text(json.dumps(content))
        yield


@contextmanager
def cluster(place: Path, environment: pytest.MonkeyPatch) -> Iterator[None]:
    """Start a local Ray cluster and an S3 server with a bucket of clips and one for results."""
    if not (shutil.which("moto_server") and importlib.util.find_spec("s3fs")):
        yield
        return
    storage, head = _free_port(), _free_port()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{storage}"),
        ("AWS_ACCESS_KEY_ID", "anybody"),
        ("AWS_SECRET_ACCESS_KEY", "none"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("RAY_ADDRESS", f"127.0.0.1:{head}"),
        ("RAY_AUTH_MODE", "token"),
        ("RAY_AUTH_TOKEN", "a secret of the cluster's members"),
    ):
        environment.setenv(name, value)
    fill = "import fsspec; s3 = fsspec.filesystem('s3'); s3.mkdir('results'); s3.put('examples/', 'clips/', True)"
    with (
        tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as short,  # socket paths have a length limit
        _service(storage, "moto_server", "-p", str(storage)),
        _service(head, "ray", "start", "--head", "--block", f"--port={head}", "--num-cpus=2", f"--temp-dir={short}"),
    ):
        subprocess.run([sys.executable, "-c", fill], cwd=place, check=True)
        yield


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_listening(port: int) -> bool:
    with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@contextmanager
def _service(port: int, *command: str) -> Iterator[None]:
    """Run a server and its children until the end of the block."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        end = time.monotonic() + 60
        while not _is_listening(port):
            assert process.poll() is None, f"{command} ended"
            assert time.monotonic() < end, f"{command} does not answer"
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
