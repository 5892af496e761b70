"""The same on a Ray cluster: paths in, models loaded once by each worker, records out in the order of the inputs."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import cv2

from fervid import __version__
from fervid.analysis.extractor import Options
from fervid.analysis.pipeline import Classifier, load_classifier
from fervid.batch.resumable_jsonl import run_fingerprint
from fervid.batch.runner import RunConfig, stop_at_failure
from fervid.core.errors import InputError, UsageError, WorkerCrashed
from fervid.core.records import ClipResult, ErrorInfo, ModelRef
from fervid.core.worker_pool import Limits, WorkerDied
from fervid.core.worker_pool import Worker as Process
from fervid.media.remote_files import is_url, local_copy

MAX_ATTEMPTS = 3
BLOCK = 64  # most clips that are handed to a worker at once


@dataclass(frozen=True, slots=True, eq=False)
class WorkerSpec:
    """What a worker needs in order to answer as this process would.

    Attributes:
        files: The models as they were verified here: of each role the name of the file and its bytes.
        models: What records say of them.
        options: What to look at in a clip.
        limits: What a clip may cost.
        threads: Threads of the models.
        device: Where the models run.
        folder: Where relative paths begin.
        run: The digest of all that an answer depends on beside the clip.
    """

    files: Mapping[str, tuple[str, bytes]]
    models: Mapping[str, ModelRef]
    options: Options
    limits: Limits
    threads: int
    device: Literal["cpu", "cuda"]
    folder: str
    run: str


@contextmanager
def classify_on_ray(
    classifier: Classifier,
    policy: RunConfig,
    *,
    address: str | None = None,
    jobs: int | None = None,
    threads: int | None = None,
    device: Literal["cpu", "cuda", "auto"] = "cpu",
) -> Iterator[Callable[[Sequence[str]], Iterator[ClipResult]]]:
    """Connect to a cluster, or start one on this machine for as long as the block lasts.

    Args:
        classifier: Whose models and options the workers use.
        policy: How a run goes on when clips fail.
        address: `auto`, `host:port` or `ray://host:port` of a cluster; None to start one here.
        jobs: Workers; by default as many as the CPUs suffice for, or one a GPU. On GPUs more of them share each.
        threads: CPUs and threads of a worker; by default 1.
        device: `cuda` to work on the GPUs of the cluster, `auto` to do so if it has any.

    Yields:
        What gives one record per clip, in the order of the input, whatever happens to a worker.

    Raises:
        UsageError: Ray is not installed, the cluster cannot be reached, or its workers cannot start.
    """
    ray, threads = _import(), threads or 1
    with _connected(ray, address, jobs * threads if jobs else cv2.getNumberOfCPUs()):
        there = ray.cluster_resources()
        gpus = there.get("GPU", 0) if device != "cpu" else 0
        if device == "cuda" and not gpus:
            raise UsageError("the Ray cluster has no GPU; take --device cpu")
        setup = WorkerSpec(
            {role: (path.name, path.read_bytes()) for role, path in classifier.files.items()},
            classifier.models,
            classifier.options,
            policy.limits,
            threads,
            "cuda" if gpus else "cpu",
            os.getcwd(),
            run_fingerprint(classifier),
        )
        workers = jobs or max(1, int(gpus or there.get("CPU", 1) // threads))
        share = {"num_cpus": threads, "num_gpus": min(1.0, gpus / workers)}

        def answer(clips: Sequence[str]) -> Iterator[ClipResult]:
            records = stop_at_failure(classifier, clips, _answers(ray, setup, clips, workers, share), policy)
            return running.enter_context(closing(records))

        with ExitStack() as running:  # Ray must have nothing to do any more when it is shut down
            yield answer


def _import() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UsageError(f"ray is not installed; pip install 'fervid[ray]' ({error})") from error
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    return ray


@contextmanager
def _connected(ray: Any, address: str | None, cpus: int) -> Iterator[None]:
    if ray.is_initialized():  # by the caller, whose it stays
        yield
        return
    own = {} if address else {"num_cpus": cpus, "include_dashboard": False}
    leaving = False
    try:
        try:
            if address and address != "auto":  # Ray would try for ten minutes
                host, _, port = address.rpartition("/")[2].rpartition(":")
                socket.create_connection((host, int(port)), 10).close()
            with redirect_stdout(sys.stderr):
                ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
        except (OSError, ImportError, RuntimeError, ValueError) as error:
            hint = "; if it asks for a token, set RAY_AUTH_MODE=token" if address else ""
            raise UsageError(f"no Ray cluster at {address or 'this machine'} ({_last_line(error)}){hint}") from error
        yield
    except (KeyboardInterrupt, SystemExit):
        leaving = True  # a Ray that is shut down at its work takes this process along, with another exit status
        raise
    finally:
        if not leaving:  # and otherwise its processes end with this one
            with redirect_stdout(sys.stderr):
                ray.shutdown()


def _answers(
    ray: Any, setup: WorkerSpec, clips: Sequence[str], workers: int, share: Mapping[str, float]
) -> Generator[ClipResult]:
    """One record per clip; `share` is what a worker takes of the cluster."""
    if not clips:
        return
    size = min(BLOCK, max(1, len(clips) // (BLOCK * workers)))
    blocks = -(-len(clips) // size)
    tries = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(AttemptCounter).remote()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.execution_no_progress_timeout_s = -1  # a film may take longer than any limit
    inputs = ray.data.from_items([os.fsencode(clip) for clip in clips], override_num_blocks=blocks)
    records = inputs.map(
        RayWorker,
        compute=ray.data.ActorPoolStrategy(size=min(workers, blocks), max_tasks_in_flight_per_actor=2),
        fn_constructor_args=(ray.put(setup), tries),
        **share,
    )
    # Ray prints there what happens to its workers, and standard output carries data only.
    with redirect_stdout(sys.stderr), closing(iter(records.iter_rows())) as rows:
        try:
            for _, row in zip(clips, rows, strict=True):
                yield row["result"]
        except ray.exceptions.ActorDiedError as error:
            raise UsageError(
                f"the workers cannot start ({_last_line(error)}); install this version of fervid on every machine"
            ) from error


class AttemptCounter:
    """How often clips were begun that are not answered yet. It lives in a process of its own, and outlives workers."""

    def __init__(self) -> None:
        """Nothing was begun."""
        self._begun: Counter[str] = Counter()

    def begin(self, clip: str) -> int:
        """Count one; the how many-th it is."""
        self._begun[clip] += 1
        return self._begun[clip]

    def end(self, clip: str) -> None:
        """Forget a clip that is answered."""
        del self._begun[clip]


class ClassifierFactory:
    """A `WorkerSpec` that becomes, in the process that it is sent to, what answers a clip there."""

    def __init__(self, setup: WorkerSpec) -> None:
        """Keep it until then."""
        self._setup = setup

    def __reduce__(self) -> tuple[Any, ...]:
        return _build_classifier, (self._setup,)


def _build_classifier(setup: WorkerSpec) -> Callable[[Path], ClipResult]:
    """Load the models.

    Raises:
        UsageError: Another version of this package is installed here.
    """
    with TemporaryDirectory(prefix="fervid-") as folder:
        paths = {}
        for role, (name, data) in setup.files.items():
            path = Path(folder, role, name)
            path.parent.mkdir()
            path.write_bytes(data)
            paths[role] = str(path)
        classifier = load_classifier(**paths, options=setup.options, threads=setup.threads, device=setup.device)
    if run_fingerprint(classifier) != setup.run:
        raise UsageError(f"fervid {__version__} of the worker would answer otherwise than the one that asks")
    return classifier.answer


class RayWorker:
    """Answers one clip after the other on a machine of a cluster, in a process that a clip may end.

    Ray retries the clip of a dead worker forever. So every clip is reported to `AttemptCounter` before it is begun, and
    one that has ended `MAX_ATTEMPTS` workers is given up.
    """

    def __init__(self, setup: Any, tries: Any) -> None:
        """Let a process load the models.

        Args:
            setup: Refers to a `WorkerSpec`.
            tries: The actor `AttemptCounter`.

        Raises:
            UsageError: Another version of this package is installed here, or the process cannot start.
        """
        self._ray, self._tries = _import(), tries
        self._setup: WorkerSpec = self._ray.get(setup)
        self._process = Process(ClassifierFactory(self._setup), self._setup.limits)
        self._process.start()

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The record of the clip of a row, in a row."""
        clip = os.fsdecode(row["item"])
        begun = self._ray.get(self._tries.begin.remote(clip))
        result = self.answer(clip) if begun <= MAX_ATTEMPTS else self._failed(clip, _crashed(clip))
        self._tries.end.remote(clip)
        return {"result": result}

    def answer(self, clip: str) -> ClipResult:
        """The record of a clip, which may be anywhere."""
        if not is_url(clip):
            path = Path(self._setup.folder, clip)
            return replace(_restore_path(self._look(path), path, str(Path(clip))), path=clip)
        started = time.perf_counter()
        try:
            with local_copy(clip) as path:
                result = _restore_path(self._look(path), path, clip)
        except InputError as error:
            result = self._failed(clip, error)
        return replace(result, elapsed_s=time.perf_counter() - started)

    def _look(self, path: Path) -> ClipResult:
        try:
            result: ClipResult = self._process.ask(path)
            return result
        except WorkerDied as death:
            return self._failed(str(path), death.problem(path))

    def _failed(self, clip: str, error: InputError) -> ClipResult:
        return ClipResult(clip, "error", models=self._setup.models, problem=ErrorInfo(error.code, error.message))


def _restore_path(result: ClipResult, path: Path, clip: str) -> ClipResult:
    """The record of a file under the name that the user gave it."""
    problem = result.problem and replace(result.problem, message=result.problem.message.replace(str(path), clip))
    return replace(result, path=clip, problem=problem)


def _crashed(clip: str) -> WorkerCrashed:
    return WorkerCrashed(
        f"{clip} ended {MAX_ATTEMPTS} workers; convert it, as to H.264 in mp4, or give the workers more memory"
    )


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2].strip()
