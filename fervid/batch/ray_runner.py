"""Classify clips on a Ray cluster: each worker loads the models once, and records come in input order."""

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
from fervid.analysis.options import Options
from fervid.analysis.pipeline import Classifier, load_classifier
from fervid.batch.resume import run_fingerprint
from fervid.batch.runner import RunConfig, stop_at_failure
from fervid.core.errors import InputError, UsageError, WorkerCrashed
from fervid.core.packages import missing_extra
from fervid.core.results import ClipResult, ErrorInfo, ModelRef
from fervid.core.worker_process import Limits, WorkerDied, WorkerProcess
from fervid.media.remote_files import is_url, local_copy

MAX_ATTEMPTS = 3
"""Number of workers that a clip may crash before it gets an error record."""
MAX_CLIPS_PER_BLOCK = 64
"""Maximum number of clips that are sent to a worker at once."""


@dataclass(frozen=True, slots=True, eq=False)
class WorkerSpec:
    """What a worker needs to make the same records as this process.

    Attributes:
        files: File name and verified content of each model, by role.
        models: Names and digests of the models, for the records.
        options: The options of the analysis.
        limits: Time and memory that a clip may take.
        threads: Threads of the models.
        device: Device of the models.
        folder: Folder that relative paths refer to.
        run: Fingerprint of version, models and options.
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
    config: RunConfig,
    *,
    address: str | None = None,
    jobs: int | None = None,
    threads: int | None = None,
    device: Literal["cpu", "cuda", "auto"] = "cpu",
) -> Iterator[Callable[[Sequence[str]], Iterator[ClipResult]]]:
    """Connect to a Ray cluster, or start one on this machine, for the duration of the block.

    Args:
        classifier: The models and options of the workers.
        config: What counts as a failure, and what each clip may cost.
        address: `auto`, `host:port` or `ray://host:port` of a cluster; None to start one here.
        jobs: Number of workers; by default as many as there are CPUs for, or one per GPU. More of them share a GPU.
        threads: CPUs and threads of each worker; by default 1.
        device: `cuda` to use the GPUs of the cluster, `auto` to use them if there are any.

    Yields:
        A function that yields one record per clip, in input order, even if workers crash.

    Raises:
        UsageError: Ray is not installed, the cluster cannot be reached, or its workers cannot start.
    """
    ray, threads = _import(), threads or 1
    with _connect(ray, address, jobs * threads if jobs else cv2.getNumberOfCPUs()):
        available = ray.cluster_resources()
        gpus = available.get("GPU", 0) if device != "cpu" else 0
        if device == "cuda" and not gpus:
            raise UsageError("the Ray cluster has no GPU; use --device cpu")
        spec = WorkerSpec(
            {role: (path.name, path.read_bytes()) for role, path in classifier.files.items()},
            classifier.models,
            classifier.options,
            config.limits,
            threads,
            "cuda" if gpus else "cpu",
            os.getcwd(),
            run_fingerprint(classifier),
        )
        workers = jobs or max(1, int(gpus or available.get("CPU", 1) // threads))
        resources = {"num_cpus": threads, "num_gpus": min(1.0, gpus / workers)}

        def classify(clips: Sequence[str]) -> Iterator[ClipResult]:
            records = stop_at_failure(classifier, clips, _run(ray, spec, clips, workers, resources), config)
            return running.enter_context(closing(records))

        with ExitStack() as running:  # Ray must be idle when it is shut down
            yield classify


def _import() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray.data
    except ImportError as error:
        raise missing_extra("--engine ray", "ray") from error
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    return ray


@contextmanager
def _connect(ray: Any, address: str | None, cpus: int) -> Iterator[None]:
    if ray.is_initialized():  # by the caller, who shuts it down
        yield
        return
    local_options = {} if address else {"num_cpus": cpus, "include_dashboard": False}
    interrupted = False
    try:
        try:
            if address and address != "auto":  # Ray itself would retry for ten minutes
                host, _, port = address.rpartition("/")[2].rpartition(":")
                socket.create_connection((host, int(port)), 10).close()
            with redirect_stdout(sys.stderr):
                ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **local_options)
        except (OSError, ImportError, RuntimeError, ValueError) as error:
            hint = "; if it asks for a token, set RAY_AUTH_MODE=token" if address else ""
            raise UsageError(f"no Ray cluster at {address or 'this machine'} ({_last_line(error)}){hint}") from error
        yield
    except (KeyboardInterrupt, SystemExit):
        interrupted = True  # shutting Ray down while it works ends this process too, with another exit status
        raise
    finally:
        if not interrupted:  # otherwise its processes end with this one
            with redirect_stdout(sys.stderr):
                ray.shutdown()


def _run(
    ray: Any, spec: WorkerSpec, clips: Sequence[str], workers: int, resources: Mapping[str, float]
) -> Generator[ClipResult]:
    """Yield one record per clip, from workers that each reserve `resources` of the cluster."""
    if not clips:
        return
    size = min(MAX_CLIPS_PER_BLOCK, max(1, len(clips) // (MAX_CLIPS_PER_BLOCK * workers)))
    blocks = -(-len(clips) // size)
    attempts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(AttemptCounter).remote()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.execution_no_progress_timeout_s = -1  # a long video may exceed any limit
    inputs = ray.data.from_items([os.fsencode(clip) for clip in clips], override_num_blocks=blocks)
    records = inputs.map(
        RayWorker,
        compute=ray.data.ActorPoolStrategy(size=min(workers, blocks), max_tasks_in_flight_per_actor=2),
        fn_constructor_args=(ray.put(spec), attempts),
        **resources,
    )
    # Ray prints messages about its workers to standard output, which is for records only.
    with redirect_stdout(sys.stderr), closing(iter(records.iter_rows())) as rows:
        try:
            for _, row in zip(clips, rows, strict=True):
                yield row["result"]
        except ray.exceptions.ActorDiedError as error:
            raise UsageError(
                f"the Ray workers cannot start ({_last_line(error)}); install this version of fervid on every machine"
            ) from error


class AttemptCounter:
    """A count of attempts per clip, in an actor with a process of its own, so that it outlives crashed workers."""

    def __init__(self) -> None:
        """Start without attempts."""
        self._attempts: Counter[str] = Counter()

    def begin(self, clip: str) -> int:
        """Count an attempt, and return the number of attempts so far."""
        self._attempts[clip] += 1
        return self._attempts[clip]

    def end(self, clip: str) -> None:
        """Forget a clip that has a record."""
        del self._attempts[clip]


class ClassifierFactory:
    """A picklable factory, which unpickles as a function that classifies a clip with the models of a `WorkerSpec`."""

    def __init__(self, spec: WorkerSpec) -> None:
        """Store the spec."""
        self._spec = spec

    def __reduce__(self) -> tuple[Any, ...]:
        return _build_classifier, (self._spec,)


def _build_classifier(spec: WorkerSpec) -> Callable[[Path], ClipResult]:
    """Load the models and return the function that classifies a clip.

    Raises:
        UsageError: Another version of fervid is installed here.
    """
    with TemporaryDirectory(prefix="fervid-") as folder:
        paths = {}
        for role, (name, data) in spec.files.items():
            path = Path(folder, role, name)
            path.parent.mkdir()
            path.write_bytes(data)
            paths[role] = str(path)
        classifier = load_classifier(**paths, options=spec.options, threads=spec.threads, device=spec.device)
    if run_fingerprint(classifier) != spec.run:
        raise UsageError(
            f"version mismatch: the Ray worker (fervid {__version__}) has another version, models or options than the"
            " driver"
        )
    return classifier.classify_or_error


class RayWorker:
    """An actor that classifies one clip at a time in a child process, which a clip may crash.

    Ray retries the clip of a dead worker forever. So every clip is reported to `AttemptCounter` before it is started,
    and a clip that was started `MAX_ATTEMPTS` times without a record gets an error record.
    """

    def __init__(self, spec: Any, attempts: Any) -> None:
        """Start the child process, which loads the models.

        Args:
            spec: Reference to a `WorkerSpec`.
            attempts: The actor `AttemptCounter`.

        Raises:
            UsageError: Another version of fervid is installed here, or the process cannot start.
        """
        self._ray, self._attempts = _import(), attempts
        self._spec: WorkerSpec = self._ray.get(spec)
        self._process = WorkerProcess(ClassifierFactory(self._spec), self._spec.limits)
        self._process.start()

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Classify the clip of a row, and return its record in a row."""
        clip = os.fsdecode(row["item"])
        attempt = self._ray.get(self._attempts.begin.remote(clip))
        result = self.classify(clip) if attempt <= MAX_ATTEMPTS else self._error_result(clip, _too_many_crashes(clip))
        self._attempts.end.remote(clip)
        return {"result": result}

    def classify(self, clip: str) -> ClipResult:
        """Return the record of a local or remote clip."""
        if not is_url(clip):
            path = Path(self._spec.folder, clip)
            return replace(_restore_path(self._classify_file(path), path, str(Path(clip))), path=clip)
        started = time.perf_counter()
        try:
            with local_copy(clip) as path:
                result = _restore_path(self._classify_file(path), path, clip)
        except InputError as error:
            result = self._error_result(clip, error)
        return replace(result, elapsed_s=time.perf_counter() - started)

    def _classify_file(self, path: Path) -> ClipResult:
        try:
            result: ClipResult = self._process.call(path)
            return result
        except WorkerDied as death:
            return self._error_result(str(path), death.to_input_error(path))

    def _error_result(self, clip: str, error: InputError) -> ClipResult:
        return ClipResult(clip, "error", models=self._spec.models, error=ErrorInfo(error.code, error.message))


def _restore_path(result: ClipResult, path: Path, clip: str) -> ClipResult:
    """Replace the path of a local file by the path or URL that the user gave, also in the error message."""
    problem = result.error and replace(result.error, message=result.error.message.replace(str(path), clip))
    return replace(result, path=clip, error=problem)


def _too_many_crashes(clip: str) -> WorkerCrashed:
    return WorkerCrashed(
        f"{clip} crashed {MAX_ATTEMPTS} workers; convert it, e.g. to H.264 in mp4, or give the workers more memory"
    )


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2].strip()
