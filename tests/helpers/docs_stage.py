"""Sets the stage for the pages of the documentation: a clone, clips, data sets in miniature, and programs."""

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
# What `ffmpeg -i CAMERA -c copy -f mpegts -` does, of a camera that shows a film in a loop.
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
# As much of jq as the pages use, by its own library.
import sys
import jq
*options, program = [word for word in sys.argv[1:] if not word.endswith(".jsonl")]
text = "".join(open(word).read() for word in sys.argv[1:] if word.endswith(".jsonl")) or sys.stdin.read()
for value in jq.compile(program).input_text(text):
    print(value if "-r" in options else jq.compile(".").input_value(value).text())
"""


def clone(place: Path) -> Path:
    """A clone of the repository, as far as the pages use it."""
    place.mkdir(parents=True)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__", "*.ipynb", "make.py"))
    for name in FILES:
        shutil.copy(ROOT / name, place)
    return place


def change(path: Path, *pairs: str) -> None:
    """Put each second text in the place of the one before it, in a file of the clone."""
    text = path.read_text()
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        assert old in text, f"{path} has no {old}"
        text = text.replace(old, new)
    path.write_text(text)


def programs(place: Path, film: Path) -> Path:
    """A folder of programs: `fervid`, a camera in place of ffmpeg, and jq if only its library is here."""
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
    """Frames of a person in light that is the redder the higher the number of the label is."""
    light = 1 - np.array([0, 0.08, 0.08]) * label
    return [np.uint8(image * light) for image in clips.smiling(4, 240, 180, 1.2, person)]


def clip(path: Path, person: int, label: int, **more: str) -> None:
    """A clip of a person in which the label can be seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    clips.write(path, faces(person, label), rate=5, **more)


def videos(place: Path) -> None:
    """A reader's own clips: a folder for each class, and in each a clip of each person."""
    for number, name in enumerate(PEOPLE):
        for label, folder in enumerate(("happiness", "sadness")):
            clip(place / "videos" / folder / f"{name}.mp4", number, label)


def few_classifiers(place: Path) -> None:
    """Of each kind of classifier one cost is tried, in three folds, and intervals are rough."""
    costs = ("(0.1, 0.3, 1.0, 3.0)", "(1.0,)", "(0.3, 1.0, 3.0, 10.0)", "(1.0,)", "(1e-3, 1e-1)", "(1e-2,)")
    costs += ("(0.003, 0.03, 0.3)", "(0.03,)")
    change(place / "fervid" / "fit.py", "FOLDS = 5", "FOLDS = 3", *costs)
    change(place / "fervid" / "commands" / "labelled.py", "folds: Folds = 5", "folds: Folds = 3")
    change(place / "fervid" / "evaluate.py", "RESAMPLES = 1000", "RESAMPLES = 20")


def published(sets: Path) -> None:
    """Data sets of clips as their authors publish them, with few people in them."""
    for person in range(len(PEOPLE) + 2):
        part = "Train" if person < len(PEOPLE) else "Val"
        for label, name in enumerate(("Angry", "Happy", "Neutral")):
            clip(sets / "AFEW" / f"{part}_AFEW" / name / f"{person}.avi", person, label, codec="mpeg4")
        for label in range(3):
            clip(sets / "VGAF" / part / f"{person}_{label}.mp4", person, label)
            with (sets / "VGAF" / f"{part}_labels.txt").open("a") as labels:
                labels.write(f"{person}_{label}.mp4 {label + 1}\n")
    for person in range(len(PEOPLE)):
        for label in (0, 2, 3, 4, 5, 6):  # those that CREMA-D has too
            name = f"01-01-{label + 1:02}-01-01-01-{person + 1:02}.mp4"
            clip(sets / "RAVDESS" / f"Actor_{person + 1:02}" / name, person, label)
        for label, name in enumerate(("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")):
            clip(sets / "CREMA-D" / "VideoFlash" / f"{1001 + person}_DFA_{name}_XX.flv", person, label, codec="flv1")


@contextmanager
def trained(place: Path, environment: pytest.MonkeyPatch) -> Iterator[None]:
    """What classifiers are trained on: published sets, a list of ratings, and few ways to try."""
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
def others(place: Path, environment: pytest.MonkeyPatch) -> Iterator[None]:
    """The optional models, by a server of this machine: files that look like those of their authors."""
    published_models.yunet(place / "yunet.onnx", [(256.0, 120.0, 384.0, 280.0)])
    published_models.hsemotion(place / "hsemotion.onnx")
    files = {"/yunet": (place / "yunet.onnx").read_bytes(), "/hsemotion-b0": (place / "hsemotion.onnx").read_bytes()}
    change(place / "fervid" / "pull.py", '= ("https",)', '= ("http",)')
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
    """A cluster of Ray on this machine, and two buckets of S3, one of which holds clips."""
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
        tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as short,  # a path of a socket may not be long
        _service(storage, "moto_server", "-p", str(storage)),
        _service(head, "ray", "start", "--head", "--block", f"--port={head}", "--num-cpus=2", f"--temp-dir={short}"),
    ):
        subprocess.run([sys.executable, "-c", fill], cwd=place, check=True)
        yield


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _answers(port: int) -> bool:
    with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@contextmanager
def _service(port: int, *command: str) -> Iterator[None]:
    """A server that answers at that port, and all that it starts."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        end = time.monotonic() + 60
        while not _answers(port):
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
