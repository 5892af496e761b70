"""The Ray engine: the same records as the local one, on a real cluster of two workers."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet
import pytest
from typer.testing import CliRunner, Result

import clips
import fervid
from fervid.batch import ray_runner
from fervid.batch.ray_runner import AttemptCounter, ClassifierFactory, RayWorker, WorkerSpec, classify_on_ray
from fervid.batch.resume import run_fingerprint
from fervid.batch.runner import RunConfig
from fervid.cli import app
from fervid.core.errors import UsageError
from fervid.core.worker_process import Limits

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),  # about its own settings
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # it does not close pipes and processes
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def ray() -> Iterator[object]:
    """Ray with a cluster of two CPUs on this machine."""
    ray = ray_runner._import()
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield ray
    time.sleep(2)  # a failure while Ray shuts down would end this process
    ray.shutdown()


@pytest.fixture
def mixed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Inputs of every kind, with absolute, relative and unusual paths."""
    place = tmp_path / "mixed"
    shutil.copytree(folder, place)
    (place / "empty.mp4").touch()
    (place / "caf\udce9.mp4").write_text("no video\n" * 20)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "far").mkdir()
    shutil.copy(folder / "smile.mp4", tmp_path / "far" / "a smile.mp4")
    return ["mixed", "./mixed/gone.mp4", str(place / "sound.m4a")]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app.app, ["classify", "--progress", "none", *map(str, arguments)])


def parsed(text: str) -> list[dict]:
    """Records without the fields that differ between runs."""
    records = [json.loads(line) for line in text.splitlines()]
    for record in records:
        record.pop("elapsed_s")
    return records


def plain(results: list[fervid.ClipResult]) -> list[dict]:
    return parsed("\n".join(json.dumps(result.as_dict()) for result in results))


@pytest.mark.slow
def test_records_match_local_engine(ray: object, mixed: list[str]) -> None:
    local, far = run(*mixed), run(*mixed, "--engine", "ray")
    assert (local.exit_code, far.exit_code) == (1, 1)
    assert parsed(far.stdout) == parsed(local.stdout)
    assert [record["status"] for record in parsed(far.stdout)] == [
        *("error", "error", "no_face", "ok", "error", "error")
    ]


@pytest.mark.slow
def test_urls_are_classified_to_parquet_and_resumed(ray: object, mixed: list[str], tmp_path: Path) -> None:
    source, target = (tmp_path / "far").as_uri(), (tmp_path / "out").as_uri()
    local = parsed(run("far").stdout)
    assert run(source, f"{source}/gone.mp4", "--engine", "ray", "-o", target).exit_code == 1
    table = pyarrow.parquet.read_table(tmp_path / "out")
    answered, missing = table.to_pylist()
    assert answered["path"] == f"{source}/a smile.mp4"
    assert {field: answered[field] for field in local[0]} == {**local[0], "path": answered["path"]}
    assert answered["size"] == (tmp_path / "far" / "a smile.mp4").stat().st_size
    assert (missing["path"], missing["error"]["code"]) == (f"{source}/gone.mp4", "not_found")
    assert run(source, "--engine", "ray", "-o", target, "--resume").exit_code == 0
    assert pyarrow.parquet.read_table(tmp_path / "out") == table


@pytest.mark.slow
def test_each_engine_resumes_other(ray: object, smile: Path, scenery: Path, tmp_path: Path) -> None:
    output, gone = tmp_path / "out.jsonl", tmp_path / "gone.mp4"
    assert run(smile, "-o", output).exit_code == 0
    first = output.read_bytes()
    assert run(smile, gone, scenery, "-o", output, "--resume", "--engine", "ray", "--fail-fast").exit_code == 1
    assert output.read_bytes().startswith(first)
    local = run(gone, scenery, "--fail-fast", "--jobs", 1)
    assert parsed(output.read_text())[1:] == parsed(local.stdout)
    assert [record["status"] for record in parsed(local.stdout)] == ["error", "skipped"]
    assert run(smile, scenery, "-o", output, "--resume").exit_code == 0
    assert output.read_bytes().startswith(first)


@pytest.mark.slow
def test_killed_worker_costs_no_record(ray: object, classifier: fervid.Classifier, smile: Path, tmp_path: Path) -> None:
    names = [shutil.copy(smile, tmp_path / f"{i:02}.mp4") for i in range(12)]
    ending = workers()  # workers of the previous test
    with classify_on_ray(classifier, RunConfig()) as answer:
        results = answer(names)
        found = [next(results)]
        working = [worker for worker in workers() if worker not in ending]
        os.kill(working[0], signal.SIGKILL)
        found += results
    assert len(working) == 2
    assert plain(found) == plain([classifier.classify_or_error(name) for name in names])
    assert {result.status for result in found} == {"ok"}


def workers() -> list[int]:
    """Process ids of the workers of this cluster."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            title, parent = (
                (process / "cmdline").read_text(),
                (process / "stat").read_text().rpartition(")")[2].split()[1],
            )
            above = Path("/proc", parent, "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if title.startswith("ray::MapWorker") and int(above) == os.getpid():
            found.append(int(process.name))
    return found


@pytest.mark.slow
def test_clip_that_kills_every_worker_costs_one_record(
    ray: object, classifier: fervid.Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deadly(RayWorker):
        def classify(self, clip: str) -> fervid.ClipResult:
            if clip == "poison.mp4":
                os.kill(os.getpid(), signal.SIGKILL)
            return super().classify(clip)

    monkeypatch.setattr(ray_runner, "RayWorker", Deadly)
    monkeypatch.setattr(ray_runner, "MAX_CLIPS_PER_BLOCK", 3)
    names = [f"gone{i}.mp4" for i in range(8)] + ["poison.mp4"]
    with classify_on_ray(classifier, RunConfig(), jobs=1) as answer:
        *others, poisoned = answer(names)
    assert plain(others) == plain([classifier.classify_or_error(name) for name in names[:-1]])
    assert (poisoned.path, poisoned.status, poisoned.error.code) == ("poison.mp4", "error", "crashed")
    assert poisoned.models == classifier.models


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "code"), [(Limits(seconds=0.001), "timeout"), (Limits(memory=1), "memory")], ids=["time", "memory"]
)
def test_clip_beyond_limits_is_an_error_record(
    limits: Limits, code: str, ray: object, classifier: fervid.Classifier, tmp_path: Path
) -> None:
    long = str(clips.write(tmp_path / "long.mp4", clips.smiling(20) * 20))
    gone = str(tmp_path / "gone.mp4")
    with classify_on_ray(classifier, RunConfig(limits=limits), jobs=1) as answer:
        result, other = answer([long, gone])
    assert (result.path, result.status, result.error.code) == (long, "error", code)
    assert (result.models, other.path) == (classifier.models, gone)


@pytest.mark.slow
def test_other_version_on_workers_is_a_usage_error(ray: object, smile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_runner, "run_fingerprint", lambda _: "another")
    result = run(smile, "--engine", "ray")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1].startswith("fervid: the Ray workers cannot start (")
    assert f"version mismatch: the Ray worker (fervid {fervid.__version__})" in result.stderr


@pytest.mark.slow
def test_no_clips_start_no_worker(ray: object, classifier: fervid.Classifier) -> None:
    with classify_on_ray(classifier, RunConfig()) as answer:
        assert list(answer([])) == []


class LocalActor:
    """An actor in this process."""

    def __init__(self, attempts: AttemptCounter) -> None:
        """Wrap a counter."""
        self.begin = SimpleNamespace(remote=attempts.begin)
        self.end = SimpleNamespace(remote=attempts.end)


@pytest.fixture
def spec(classifier: fervid.Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkerSpec:
    """The spec of a worker that runs without Ray."""
    monkeypatch.setattr(ray_runner, "_import", without_ray)
    return spec_in(tmp_path, classifier)


def without_ray() -> SimpleNamespace:
    return SimpleNamespace(get=lambda value: value)


def spec_in(folder: Path, classifier: fervid.Classifier) -> WorkerSpec:
    files = {role: (path.name, path.read_bytes()) for role, path in classifier.files.items()}
    return WorkerSpec(
        files, classifier.models, classifier.options, Limits(), 1, "cpu", str(folder), run_fingerprint(classifier)
    )


@pytest.fixture(scope="module")
def started(classifier: fervid.Classifier, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayWorker]:
    """A worker in this process, with its child process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_runner, "_import", without_ray)
        worker = RayWorker(spec_in(tmp_path_factory.mktemp("worker"), classifier), LocalActor(AttemptCounter()))
    yield worker
    worker._process.stop()
    worker._process.reap()


@pytest.fixture
def worker(started: RayWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RayWorker:
    """That worker, in the folder of a test."""
    monkeypatch.setattr(started, "_spec", replace(started._spec, folder=str(tmp_path)))
    return started


def test_worker_makes_same_records(
    worker: RayWorker, classifier: fervid.Classifier, mixed: list[str], tmp_path: Path
) -> None:
    for name in ("mixed/smile.mp4", "./mixed/empty.mp4", str(tmp_path / "gone.mp4"), "mixed/caf\udce9.mp4"):
        result = worker({"item": os.fsencode(name)})["result"]
        assert plain([result]) == plain([classifier.classify_or_error(name)])
    url = f"{tmp_path.as_uri()}/mixed/empty.mp4"
    result = worker({"item": url.encode()})["result"]
    assert (result.path, result.error.code) == (url, "empty_file")
    assert result.error.message.startswith(f"{url} is empty")
    result = worker({"item": b"nowhere://a/b.mp4"})["result"]
    assert (result.path, result.error.code) == ("nowhere://a/b.mp4", "unreadable")


def test_clip_is_given_up_after_max_attempts(worker: RayWorker) -> None:
    for _ in range(ray_runner.MAX_ATTEMPTS):
        worker._attempts.begin.remote("a.mp4")
    row = {"item": b"a.mp4"}
    assert [worker(row)["result"].error.code for _ in range(2)] == ["crashed", "not_found"]


def test_worker_with_another_fingerprint_does_not_start(spec: WorkerSpec) -> None:
    with pytest.raises(UsageError, match="version mismatch"):
        RayWorker(replace(spec, run="another"), None)


def test_factory_unpickles_as_classifier(spec: WorkerSpec, classifier: fervid.Classifier, smile: Path) -> None:
    loaded, arguments = ClassifierFactory(spec).__reduce__()
    assert plain([loaded(*arguments)(smile)]) == plain([classifier.classify_or_error(smile)])


class Unconnected:
    """A stub of Ray before it is started, which records how it is started."""

    def __init__(self, error: Exception | None = None) -> None:
        """Fail to connect if an error is given."""
        self.error, self.asked, self.up = error, [], False

    def is_initialized(self) -> bool:
        return self.up

    def init(self, address: str, **options: object) -> None:
        sys.stdout.write("Ray is chatty")
        if self.error:
            raise self.error
        self.asked.append((address, options))

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 7.0, "GPU": 2.0}

    def shutdown(self) -> None:
        sys.stdout.write("Ray is chatty")
        self.asked.append("shutdown")


@pytest.mark.parametrize(("address", "own"), [(None, {"num_cpus": 6, "include_dashboard": False}), ("auto", {})])
def test_local_cluster_is_shut_down_on_every_exit(
    address: str | None, own: dict, classifier: fervid.Classifier, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    ray = Unconnected()
    monkeypatch.setattr(ray_runner, "_import", lambda: ray)
    with pytest.raises(KeyError), classify_on_ray(classifier, RunConfig(), address=address, jobs=3, threads=2):
        raise KeyError
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    assert ray.asked == [(address or "local", {**quiet, **own}), "shutdown"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("asked", "workers", "share", "device"),
    [
        ({}, 7, {"num_cpus": 1, "num_gpus": 0}, "cpu"),
        ({"threads": 2}, 3, {"num_cpus": 2, "num_gpus": 0}, "cpu"),
        ({"threads": 8}, 1, {"num_cpus": 8, "num_gpus": 0}, "cpu"),
        ({"jobs": 9}, 9, {"num_cpus": 1, "num_gpus": 0}, "cpu"),
        ({"device": "cuda"}, 2, {"num_cpus": 1, "num_gpus": 1}, "cuda"),
        ({"device": "auto", "jobs": 4}, 4, {"num_cpus": 1, "num_gpus": 0.5}, "cuda"),
        ({"device": "cuda", "jobs": 1}, 1, {"num_cpus": 1, "num_gpus": 1}, "cuda"),
    ],
)
def test_workers_fill_cluster_by_default(
    asked: dict, workers: int, share: dict, device: str,
    classifier: fervid.Classifier, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    given = []

    def run(ray: object, spec: WorkerSpec, clips: list[str], *more: object) -> Iterator[fervid.ClipResult]:
        given.append((spec.threads, spec.device, *more))
        yield from map(classifier.classify_or_error, clips)

    monkeypatch.setattr(ray_runner, "_import", Unconnected)
    monkeypatch.setattr(ray_runner, "_run", run)
    with classify_on_ray(classifier, RunConfig(), address="auto", **asked) as answer:
        assert [result.path for result in answer(["a.mp4"])] == ["a.mp4"]
    assert given == [(asked.get("threads", 1), device, workers, share)]


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_cluster_without_gpus_has_no_cuda(
    device: str, classifier: fervid.Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_runner, "_import", Unconnected)
    monkeypatch.setattr(Unconnected, "cluster_resources", lambda _: {"CPU": 1.0})
    if device == "auto":
        with classify_on_ray(classifier, RunConfig(), address="auto", device=device):
            return
    with (
        pytest.raises(UsageError, match="no GPU"),
        classify_on_ray(classifier, RunConfig(), address="auto", device=device),
    ):
        pass


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("auto", r"at auto \(nobody there\)"),
        (None, r"at this machine \(nobody there\)"),
        ("127.0.0.1:1", "Connection refused"),
        ("ray://127.0.0.1:1", "Connection refused"),
        ("nonsense", "invalid literal"),
    ],
)
def test_unreachable_cluster_is_a_usage_error(
    address: str | None, said: str, classifier: fervid.Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_runner, "_import", lambda: Unconnected(ConnectionError("a long story\nnobody there\n")))
    with (
        pytest.raises(UsageError, match=f"no Ray cluster .*{said}"),
        classify_on_ray(classifier, RunConfig(), address=address),
    ):
        pass


def test_missing_ray_says_what_to_install(smile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = run(smile, "--engine", "ray")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith('fervid: --engine ray needs more packages; pip install "fervid[ray]"')


def test_address_needs_ray_engine(smile: Path) -> None:
    result = run(smile, "--address", "auto")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--engine ray" in result.stderr


@pytest.mark.slow
def test_local_cluster_can_be_interrupted(tmp_path: Path) -> None:
    place = tmp_path / "clips"
    place.mkdir()
    clips.write(place / "00.mp4", clips.smiling(50))
    for i in range(1, 60):
        shutil.copy(place / "00.mp4", place / f"{i:02}.mp4")
    # A background process of a shell ignores the signal, and its children do too.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from fervid.cli.app import main; main()"
    )
    command = [sys.executable, "-c", code, "classify", "--engine", "ray"]
    running = subprocess.Popen(
        [*command, "--progress", "json", str(place)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with running:
        for line in running.stderr:
            if line.startswith('{"event"'):
                break
        os.killpg(running.pid, signal.SIGINT)  # a terminal signals the whole process group
        output, errors = running.communicate()
    assert running.returncode == 130
    assert "fervid: interrupted" in errors
    records = parsed(output)
    assert [Path(record["path"]).name for record in records] == [f"{i:02}.mp4" for i in range(len(records))]
    assert 1 <= len(records) < 60
