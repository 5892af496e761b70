"""Extract and cache the pooled features of clips.

The cache holds one file for each clip. Its name is a hash of the clip's bytes, the models, the options and
`FEATURE_VERSION`, so an interrupted run resumes and a clip that was moved is not processed again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from fervid.analysis.aggregate import aggregate_clip
from fervid.analysis.baseline import IDENTITY
from fervid.analysis.extractor import Extractor
from fervid.analysis.pooling import STATISTICS
from fervid.core.array_cache import NPZ_READ_ERRORS, save
from fervid.core.errors import DatasetError, InputError, InputUnreadable, NoFaceError
from fervid.core.records import ClipFeatures, FloatArray, FrameObservation
from fervid.core.worker_pool import map_ordered
from fervid.core.worker_process import Limits, WorkerDied
from fervid.learn.clip_files import frame_files
from fervid.learn.dataset_layouts import Sample
from fervid.media.video import read_image_sequence

CLASSIFIER_INPUTS = ("embedding", "expression", "logit")
"""The pooled outputs that a classifier may be fitted on."""
VECTORS = (*CLASSIFIER_INPUTS, *(f"{name}.across_faces" for name in CLASSIFIER_INPUTS))
"""The same, and their standard deviation over the faces of each frame."""
FEATURE_VERSION = 1
"""Part of the cache key; increase it when the same clip, models and options give other features."""
DIGEST_DIGITS = 16
"""Hexadecimal digits of the SHA-256 that identify a clip."""


@dataclass(frozen=True, slots=True, eq=False)
class ClipFeaturesRow:
    """The features of one clip, or the reason why it has none.

    Attributes:
        sample: The clip.
        features: Features of all sampled frames; None if there is an error.
        by_stride: Features of every `stride`-th frame, by stride; None where those frames show no face.
        error: Why there are no features.
        digest: The first `DIGEST_DIGITS` digits of `compute_digest`; empty if the clip cannot be read.
    """

    sample: Sample
    features: ClipFeatures | None
    by_stride: Mapping[int, ClipFeatures | None] = field(default_factory=dict)
    error: InputError | None = None
    digest: str = ""


def extract_features(
    samples: Iterable[Sample],
    extractor: Extractor,
    cache: Path | None = None,
    jobs: int = 0,
    strides: Sequence[int] = (),
    limits: Limits = Limits(),  # noqa: B008  frozen
) -> Iterator[ClipFeaturesRow]:
    """Extract the features of clips, in their order.

    Args:
        samples: The clips.
        extractor: Models and options to extract with.
        cache: Folder for the features; None to disable caching.
        jobs: Number of worker processes; 0 to work in this process.
        strides: Also pool only every `stride`-th frame, for early exits.
        limits: Time and memory limits of a clip in a worker process.

    Raises:
        OutputError: The cache cannot be written.
    """

    def make_crash_row(sample: Sample, death: WorkerDied) -> ClipFeaturesRow:
        return ClipFeaturesRow(sample, None, error=death.to_input_error(sample.path))

    return map_ordered(partial(_extract_row, extractor, cache, strides), samples, jobs, make_crash_row, limits)


def _extract_row(extractor: Extractor, cache: Path | None, strides: Sequence[int], sample: Sample) -> ClipFeaturesRow:
    try:
        digest = compute_digest(frame_files(sample.path))
        features = _load_or_compute(sample.path, digest, extractor, cache, (1, *strides))
    except InputError as error:
        return ClipFeaturesRow(sample, None, error=error)
    except DatasetError as error:  # a folder that cannot be listed
        return ClipFeaturesRow(sample, None, error=InputUnreadable(str(error)))
    digest = digest[:DIGEST_DIGITS]
    if features[1] is None:
        return ClipFeaturesRow(sample, None, error=NoFaceError(f"{sample.path} shows no face"), digest=digest)
    return ClipFeaturesRow(sample, features[1], {stride: features[stride] for stride in strides}, digest=digest)


def compute_digest(files: Sequence[Path]) -> str:
    """Compute the SHA-256 of a file, or of the digests of several files, in hexadecimal; empty for no files.

    Raises:
        InputUnreadable: A file cannot be read.
    """
    digests = []
    for file in files:
        try:
            with file.open("rb") as stream:
                digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
        except OSError as error:
            raise InputUnreadable(f"{file} cannot be read ({error.strerror})") from error
    if len(digests) <= 1:
        return "".join(digests)
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def compute_clip_features(path: Path, extractor: Extractor, strides: Sequence[int]) -> dict[int, ClipFeatures | None]:
    """Compute the features of a video, or of a folder or pattern of frames, for each stride.

    Returns:
        Features by stride; None where the frames show no face.

    Raises:
        InputError: The clip cannot be read, or is truncated before a face was found.
    """
    files = frame_files(path)
    is_video = files in ([], [path])
    frames: list[FrameObservation] = []
    read_error = None
    with closing(
        extractor.iter_observations(path) if is_video else extractor.observe_frames(read_image_sequence(files))
    ) as stream:
        try:
            frames.extend(stream)
        except InputError as error:
            read_error = error
    if read_error is not None and not read_error.is_notice and not any(frame.faces for frame in frames):
        raise read_error
    features = {}
    for stride in strides:
        pool = aggregate_clip(frames[::stride], extractor.tracker_config, stride).pool(extractor.options.face)
        features[stride] = _select_statistics(pool.features(), extractor.options.face) if pool else None
    return features


def _select_statistics(features: ClipFeatures, face: str) -> ClipFeatures:
    """Keep the statistics that a classifier may be fitted on, and the identity if the face model has one."""
    vectors = VECTORS if face == "all" else CLASSIFIER_INPUTS
    names = [f"{vector}.{kind}" for vector in vectors for kind in STATISTICS]
    if IDENTITY in features.statistics:
        names.append(IDENTITY)
    return ClipFeatures({name: features.statistics[name] for name in names}, features.count)


def _load_or_compute(
    path: Path, digest: str, extractor: Extractor, cache: Path | None, strides: Sequence[int]
) -> dict[int, ClipFeatures | None]:
    if cache is None or not digest:
        return compute_clip_features(path, extractor, strides)
    entry = cache / f"{_cache_key(digest, extractor, strides)}.npz"
    with suppress(*NPZ_READ_ERRORS), entry.open("rb") as file, np.load(file) as stored:
        return {stride: _load_stride(stored, f"{stride}/") for stride in strides}
    computed = compute_clip_features(path, extractor, strides)
    columns: dict[str, FloatArray] = {}
    for stride, features in computed.items():
        columns[f"{stride}/count"] = np.array([features.count if features else 0], np.float32)
        if features is not None:
            columns |= {f"{stride}/{name}": value for name, value in features.statistics.items()}
    save(entry, columns)
    return computed


def _load_stride(stored: Mapping[str, FloatArray], prefix: str) -> ClipFeatures | None:
    columns = {name.removeprefix(prefix): stored[name] for name in stored if name.startswith(prefix)}
    count = int(columns.pop("count")[0])  # a KeyError here means that the file is damaged
    return ClipFeatures(columns, count) if count else None


def _cache_key(digest: str, extractor: Extractor, strides: Sequence[int]) -> str:
    """Hash the bytes of a clip, the models, the options and the version of this code."""
    shas = (extractor.detector.identity.sha256, extractor.face_model.identity.sha256)
    return hashlib.sha256(repr((FEATURE_VERSION, *shas, extractor.options, *strides, digest)).encode()).hexdigest()
