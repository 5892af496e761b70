"""Clips and models that many tests share."""

from __future__ import annotations

import faulthandler
import functools
import inspect
import os
import pickle
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import typer.main

import clips
import fervid
import fervid.cli.app
import toy_models
from fervid import cli
from fervid.analysis.face_model import FaceModel
from fervid.core.records import FaceOutputs
from fervid.learn import metrics
from fervid.learn.model_selection import HYPERPARAMETERS, STANDARDIZED_HYPERPARAMETERS
from fervid.models import registry, session

collect_ignore = [] if find_spec("torch") else ["training"]  # `make test-train` installs it
metrics.N_BOOTSTRAP = 20

POSIX_ONLY = re.compile(
    r"(mkfifo|symlink|chmod|umask|killpg|preexec_fn|pthread_sigmask|send_signal|SIG(INT|KILL|TERM)|getuid|os\.fork"
    r"|\"sh\"|/dev/|/proc)"
)
"""What a test may use that Windows lacks, or allows administrators only."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that need POSIX where it is missing."""
    if sys.platform == "win32":
        for item in items:
            if needed := POSIX_ONLY.search(inspect.getsource(item.function)):
                item.add_marker(pytest.mark.skip(reason=f"Windows has no {needed[1]}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """End the process when cleaning up hangs: once a test failed, no other limit of time holds."""
    faulthandler.dump_traceback_later(120, exit=True, file=sys.__stderr__)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session", autouse=True)
def _shared_sessions_and_commands() -> Iterator[None]:
    """Open each model once and build the command line once, which together take two thirds of a call's time."""
    on_cpu = functools.partial(session.open_session, device="cpu")
    large, small = functools.lru_cache(16)(on_cpu), functools.lru_cache(64)(on_cpu)  # toys do not displace the shipped

    def open_session(data: bytes, threads: int, device: session.Device) -> onnxruntime.InferenceSession:
        if device != "cpu":
            return session.open_session(data, threads, device)
        return (large if len(data) > 30_000 else small)(data, threads)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "open_session", open_session)
        patch.setattr("typer.testing._get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands start no workers, which takes a second each, unless a test says `--jobs`."""
    plan_workers = cli.options.plan_workers

    def plan(clips: int, jobs: int | None, threads: int | None) -> tuple[int, int]:
        return plan_workers(clips, jobs, threads) if jobs else (0, threads or cv2.getNumberOfCPUs())

    for part in (
        cli.annotate,
        cli.classify,
        cli.frames,
        cli.timeline,
        cli.stream,
        cli.dataset_features,
        cli.watch,
        cli.report,
    ):
        monkeypatch.setattr(part, "plan_workers", plan)
    for part in (cli.classify, cli.frames, cli.timeline, cli.watch):
        monkeypatch.setattr(part, "preload_worker", lambda: None)


@pytest.fixture
def through_pickle() -> Callable[..., Iterator[Any]]:
    """`map_ordered` in this process, with the function, the items and the results pickled as for workers."""

    def map_pickled(
        work: Callable[[Any], Any], items: Iterable[Any], jobs: int, on_death: object, limits: object = None
    ) -> Iterator[Any]:
        if not jobs:
            yield from map(work, items)
            return
        unpickled = copy(work)
        for item in items:
            yield copy(unpickled(copy(item)))

    def copy(value: Any) -> Any:
        return pickle.loads(pickle.dumps(value))

    return map_pickled


@pytest.fixture
def crops(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Every crop that reaches a face network from here on."""
    seen: list[np.ndarray] = []
    score = FaceModel.__call__

    def watched(network: FaceModel, crops: np.ndarray) -> FaceOutputs:
        seen.extend(crops)
        return score(network, crops)

    monkeypatch.setattr(FaceModel, "__call__", watched)
    return seen


@pytest.fixture
def resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many resamples as users get, for tests of intervals."""
    monkeypatch.setattr(metrics, "N_BOOTSTRAP", 1000)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few costs of each kind of classifier."""
    for table in (HYPERPARAMETERS, STANDARDIZED_HYPERPARAMETERS):
        for kind, costs in table.items():
            monkeypatch.setitem(table, kind, costs[:2])


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one clip of each common kind."""
    place = tmp_path_factory.mktemp("clips")
    clips.write(place / "smile.mp4", clips.smiling(30))
    clips.write(place / "scenery.mp4", clips.scenery(20))
    clips.write_sound(place / "sound.m4a")
    return place


@pytest.fixture(scope="session")
def smile(folder: Path) -> Path:
    """1.2 s of one smiling face."""
    return folder / "smile.mp4"


@pytest.fixture(scope="session")
def scenery(folder: Path) -> Path:
    """0.8 s without a face."""
    return folder / "scenery.mp4"


@pytest.fixture(scope="session")
def classifier() -> fervid.Classifier:
    """The shipped models."""
    return fervid.load_classifier(threads=2)


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths of matching toy models, by role."""
    return toy_models.family(tmp_path_factory.mktemp("toys"))


@pytest.fixture(scope="session")
def toy(family: dict[str, str]) -> fervid.Classifier:
    """A classifier of the toy models."""
    return fervid.load_classifier(**family, options=fervid.Options(min_face=toy_models.FACE), threads=1)


@pytest.fixture(scope="session")
def moods(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of each mood of one person, at five frames a second."""
    colours = (toy_models.FIRST, toy_models.SECOND, toy_models.THIRD)
    frames = [toy_models.picture(colour) for colour in colours for _ in range(10)]
    return clips.write(tmp_path_factory.mktemp("moods") / "moods.mp4", frames, rate=5)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium, for tests that are marked `browser`."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    assert path, "no Chromium is installed; on Debian: apt install chromium"
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.getuid() == 0 else [])
        yield chromium
        chromium.close()
