"""Clips -> their pooled statistics, each worked out once.

What was pooled is kept in a cache folder, a file a clip, under a name that changes with the clip's bytes, the models,
the options and `FEATURE_VERSION`; so a run that was cut off goes on where it stopped, and a clip that was moved is
not looked at again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fervid.analysis.aggregate import aggregate_clip
from fervid.analysis.extractor import Extractor
from fervid.analysis.pooling import STATISTICS
from fervid.core.array_cache import NPZ_READ_ERRORS, save
from fervid.core.atomic_io import atomic_write
from fervid.core.errors import DatasetError, InputError, InputUnreadable, NoFaceError, UsageError
from fervid.core.records import ClipFeatures, FloatArray, FrameObservation
from fervid.core.text import to_valid_utf8
from fervid.core.worker_pool import Limits, WorkerDied, map_ordered
from fervid.learn.dataset import Sample, frame_files
from fervid.media.video import read_image_sequence

IDENTITY = "identity.mean"
FITTED = ("embedding", "expression", "logit")
"""The pooled outputs that a classifier may be fitted on."""
FEATURE_VERSION = 1
"""Part of the name of a cached file; raised by one when the same clip, models and options give other features."""
DIGEST_DIGITS = 16
"""Of the SHA-256 of a clip, by which it is known again."""
PROVENANCE_KEYS = frozenset({"face", "network", "network_sha256", "detector"})


@dataclass(frozen=True, slots=True, eq=False)
class ClipFeaturesRow:
    """The features of one clip, or why it has none.

    Attributes:
        sample: The clip.
        features: Of all sampled frames.
        coarse: Of every so-many-th of them, where asked for; None where they show no face.
        problem: Why there are no features.
        digest: The first `DIGEST_DIGITS` hexadecimal digits of the SHA-256 of the clip, or of the digests of its
            pictures; empty if it is not known.
    """

    sample: Sample
    features: ClipFeatures | None
    coarse: Mapping[int, ClipFeatures | None] = field(default_factory=dict)
    problem: InputError | None = None
    digest: str = ""


def extract_features(
    samples: Iterable[Sample],
    extractor: Extractor,
    cache: Path | None = None,
    jobs: int = 0,
    strides: Sequence[int] = (),
    limits: Limits = Limits(),  # noqa: B008  frozen
) -> Iterator[ClipFeaturesRow]:
    """Features of every clip, in their order.

    Args:
        samples: The clips.
        extractor: What looks at them; its models and options are part of a cached file's name.
        cache: Folder to keep them in; None keeps none.
        jobs: Processes that work on a clip each; 0 to work in this one.
        strides: Of how many frames one is looked at, for the coarse features.
        limits: What a clip may cost in a process of its own.

    Raises:
        OutputError: The cache cannot be written.
    """

    def lost(sample: Sample, death: WorkerDied) -> ClipFeaturesRow:
        return ClipFeaturesRow(sample, None, problem=death.problem(sample.path))

    return map_ordered(partial(_row, extractor, cache, strides), samples, jobs, lost, limits)


def _row(extractor: Extractor, cache: Path | None, strides: Sequence[int], sample: Sample) -> ClipFeaturesRow:
    try:
        digest = compute_digest(frame_files(sample.path))
        found = _cached(sample.path, digest, extractor, cache, (1, *strides))
    except InputError as error:
        return ClipFeaturesRow(sample, None, problem=error)
    digest = digest[:DIGEST_DIGITS]
    if found[1] is None:
        return ClipFeaturesRow(sample, None, problem=NoFaceError(f"{sample.path} shows no face"), digest=digest)
    return ClipFeaturesRow(sample, found[1], {stride: found[stride] for stride in strides}, digest=digest)


def compute_digest(files: Sequence[Path]) -> str:
    """SHA-256 of a file, or of the digests of several files, in hexadecimal; empty if there are no files.

    Raises:
        InputUnreadable: One cannot be read.
    """
    digests = []
    for file in files:
        try:
            with file.open("rb") as stream:
                digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
        except OSError as error:
            raise InputUnreadable(f"{file} cannot be read ({error.strerror})") from error
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest() if digests else ""


def compute_clip_features(path: Path, extractor: Extractor, strides: Sequence[int]) -> dict[int, ClipFeatures | None]:
    """Stride to the features of a video, or of pictures that are its frames; None where no face is seen.

    Raises:
        InputError: The clip broke off before a face was seen.
    """
    files = frame_files(path)
    observed: list[FrameObservation] = []
    problem = None
    whole = files in ([], [path])
    with closing(extractor.watch(path) if whole else extractor.observe(read_image_sequence(files))) as stream:
        try:
            observed.extend(stream)
        except InputError as error:
            problem = error
    if problem is not None and not problem.nothing_missing and not any(one.faces for one in observed):
        raise problem
    found = {}
    for stride in strides:
        pool = aggregate_clip(observed[::stride], extractor.rule, stride).pool(extractor.options.face)
        found[stride] = _select_statistics(pool.features(), extractor.options.face) if pool else None
    return found


def _select_statistics(features: ClipFeatures, face: str) -> ClipFeatures:
    """What a classifier may be fitted on, and the identity to group people by, if the network knows it."""
    plain = [f"{name}.{kind}" for name in FITTED for kind in STATISTICS]
    spread = [f"{name}.spread.{kind}" for name in FITTED for kind in STATISTICS]
    known = (IDENTITY,) if IDENTITY in features.statistics else ()
    names = (*plain, *(spread if face == "all" else ()), *known)
    return ClipFeatures({name: features.statistics[name] for name in names}, features.count)


def _cached(
    path: Path, digest: str, extractor: Extractor, cache: Path | None, strides: Sequence[int]
) -> dict[int, ClipFeatures | None]:
    if cache is None or not digest:
        return compute_clip_features(path, extractor, strides)
    place = cache / f"{_cache_key(digest, extractor, strides)}.npz"
    with suppress(*NPZ_READ_ERRORS), place.open("rb") as old, np.load(old) as stored:
        return {stride: _unpacked(stored, f"{stride}/") for stride in strides}
    found = compute_clip_features(path, extractor, strides)
    columns: dict[str, FloatArray] = {}
    for stride, features in found.items():
        columns[f"{stride}/count"] = np.array([features.count if features else 0], np.float32)
        if features is not None:
            columns |= {f"{stride}/{name}": value for name, value in features.statistics.items()}
    save(place, columns)
    return found


def _unpacked(stored: Mapping[str, FloatArray], prefix: str) -> ClipFeatures | None:
    columns = {name.removeprefix(prefix): stored[name] for name in stored if name.startswith(prefix)}
    count = int(columns.pop("count")[0])  # which stands in every file of ours, also of a clip without a face
    return ClipFeatures(columns, count) if count else None


def _cache_key(digest: str, extractor: Extractor, strides: Sequence[int]) -> str:
    """Of the bytes of a clip, the models, the options, and the code that comes between."""
    shas = (extractor.detector.identity.sha256, extractor.network.identity.sha256)
    return hashlib.sha256(repr((FEATURE_VERSION, *shas, extractor.options, *strides, digest)).encode()).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class FeatureTable:
    """The features of n clips that show a face, a row each.

    Attributes:
        samples: The clips.
        statistics: Name to (n, d).
        counts: (n,) frames that went into each row.
        about: Which network, detector and options they come from.
        coarse: Stride to statistics as above, in which clips that show no face then have rows of NaN.
        faceless: Further clips, which show no face at all.
        broken: Further clips, which cannot be read.
        digests: (n,) of the clips, as of `ClipFeaturesRow`; empty if they are not known.
    """

    samples: tuple[Sample, ...]
    statistics: Mapping[str, FloatArray]
    counts: NDArray[np.int64]
    about: Mapping[str, Any]
    coarse: Mapping[int, Mapping[str, FloatArray]] = field(default_factory=dict)
    faceless: tuple[Sample, ...] = ()
    broken: tuple[Sample, ...] = ()
    digests: tuple[str, ...] = ()

    @classmethod
    def of(cls, rows: Iterable[ClipFeaturesRow], about: Mapping[str, Any]) -> FeatureTable:
        """The rows that have features, and beside them the clips that show no face or cannot be read.

        Raises:
            DatasetError: None has.
        """
        rows = list(rows)
        known = [(row, row.features) for row in rows if row.features is not None]
        faceless = tuple(row.sample for row in rows if isinstance(row.problem, NoFaceError))
        broken = tuple(row.sample for row in rows if row.problem and not isinstance(row.problem, NoFaceError))
        if not known:
            raise DatasetError("no clip shows a face, so nothing is left to learn from or to write; see --min-face")
        columns = _stacked([features for _, features in known], known[0][1])
        coarse = {
            stride: _stacked([row.coarse[stride] for row, _ in known], known[0][1]) for stride in known[0][0].coarse
        }
        counts = np.array([features.count for _, features in known])
        digests = tuple(row.digest for row, _ in known)
        samples = tuple(row.sample for row, _ in known)
        return cls(samples, columns, counts, about, coarse, faceless, broken, digests if all(digests) else ())

    def __getitem__(self, rows: NDArray[Any]) -> FeatureTable:
        """The rows of some clips, by number or by a mask; the faceless and broken ones stay beside them."""
        numbers = np.arange(len(self.samples))[rows]
        coarse = {stride: _rows(statistics, numbers) for stride, statistics in self.coarse.items()}
        samples = tuple(self.samples[i] for i in numbers)
        digests = tuple(self.digests[i] for i in numbers) if self.digests else ()
        statistics, counts = _rows(self.statistics, numbers), self.counts[numbers]
        return FeatureTable(samples, statistics, counts, self.about, coarse, self.faceless, self.broken, digests)

    def matrix(self, names: Sequence[str], stride: int = 1) -> FloatArray:
        """(n, d1 + d2 + ...) the named statistics side by side."""
        statistics = self.statistics if stride == 1 else self.coarse[stride]
        return np.concatenate([statistics[name] for name in names], axis=1)

    def save(self, path: Path, *, force: bool = False) -> None:
        """Write `.npz` (a matrix for each statistic) or `.parquet` (a list column for each), without the identities.

        Raises:
            UsageError: Another suffix, or pyarrow is not installed.
            OutputError: The file exists or cannot be written.
        """
        write = make_feature_writer(path)
        with atomic_write(path, force=force) as file:
            write(self, file)

    @classmethod
    def load(cls, path: Path) -> FeatureTable:
        """What `save` wrote to an `.npz` file.

        Raises:
            DatasetError: It is no such file.
        """
        try:
            with path.open("rb") as file, np.load(file) as stored:
                about = json.loads(str(stored["about"]))
                rows = json.loads(str(stored["samples"]))
                samples = tuple(map(_sample, rows))
                faceless = tuple(map(_sample, json.loads(str(stored["faceless"]))))
                broken = tuple(map(_sample, json.loads(str(stored["broken"])))) if "broken" in stored else ()
                digests = tuple(map(str, json.loads(str(stored["digests"])))) if "digests" in stored else ()
                statistics = {name: np.asarray(stored[name], np.float32) for name in about.pop("statistics")}
                counts = np.asarray(stored["count"], np.int64)
                if lacking := PROVENANCE_KEYS - about.keys():
                    raise ValueError(f"they lack their {', '.join(sorted(lacking))}")
                if not all(isinstance(about[name], str) for name in PROVENANCE_KEYS):
                    raise ValueError("what they say of themselves is no text")
        except NPZ_READ_ERRORS as error:
            raise DatasetError(
                f"{path} holds no features ({error}); `fervid features ... -o {path.name}` writes them"
            ) from error
        shapes = [counts.shape, *(matrix.shape[:1] for matrix in statistics.values() if matrix.ndim == 2)]
        if shapes != [(len(samples),)] * (1 + len(statistics)) or len(digests) not in (0, len(samples)):
            raise DatasetError(f"{path} is damaged: not every statistic has a row for each clip; write it again")
        if not all(np.isfinite(matrix).all() for matrix in statistics.values()):
            raise DatasetError(f"{path} is damaged: a value is not finite; write it again")
        return cls(samples, statistics, counts, about, faceless=faceless, broken=broken, digests=digests)


def _stacked(rows: Sequence[ClipFeatures | None], like: ClipFeatures) -> dict[str, FloatArray]:
    """Rows as matrices; of NaN where there is none."""
    lacking = {name: np.full_like(value, np.nan) for name, value in like.statistics.items()}
    return {name: np.stack([row.statistics[name] if row else lacking[name] for row in rows]) for name in lacking}


def _rows(statistics: Mapping[str, FloatArray], numbers: NDArray[np.int64]) -> dict[str, FloatArray]:
    return {name: matrix[numbers] for name, matrix in statistics.items()}


def _npz(table: FeatureTable, file: BinaryIO) -> None:
    statistics = {name: matrix for name, matrix in table.statistics.items() if name != IDENTITY}
    texts = {
        "about": {**table.about, "statistics": list(statistics)},
        "samples": [_plain(sample) for sample in table.samples],
        "faceless": [_plain(sample) for sample in table.faceless],
        "broken": [_plain(sample) for sample in table.broken],
        "digests": list(table.digests),
    }
    columns = {name: np.array(json.dumps(value)) for name, value in texts.items()}
    np.savez(file, count=table.counts, **columns, **statistics)  # type: ignore[arg-type]


def _parquet(table: FeatureTable, file: BinaryIO) -> None:
    import pyarrow
    from pyarrow import parquet

    plain = [_plain(sample) for sample in table.samples]
    columns = {
        name: [row[name] and to_valid_utf8(row[name]) for row in plain] for name in ("path", "label", "person", "split")
    }
    names = sorted({name for row in plain for name in row["ratings"]})
    ratings = {name: [row["ratings"].get(name) for row in plain] for name in names}
    lists = {
        name: pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(matrix.ravel()), matrix.shape[1])
        for name, matrix in table.statistics.items()
        if name != IDENTITY
    }
    rows = pyarrow.table({**columns, **ratings, "frames": table.counts, **lists})
    parquet.write_table(rows.replace_schema_metadata({"fervid": json.dumps(table.about)}), file)


def _sample(row: Mapping[str, Any]) -> Sample:
    """What `_plain` wrote.

    Raises:
        TypeError, ValueError: It did not write that.
    """
    sample = Sample(**{**row, "path": Path(row["path"])})
    texts = (sample.label, sample.person, sample.split)
    if not isinstance(sample.where, str) or not all(isinstance(text, str | None) for text in texts):
        raise ValueError(f"what is said of {sample.path} is no text")
    if not all(type(rating) in (int, float) and math.isfinite(rating) for rating in sample.ratings.values()):
        raise ValueError(f"the ratings of {sample.path} are no numbers")
    return sample


def _plain(sample: Sample) -> dict[str, Any]:
    plain = {name: getattr(sample, name) for name in ("label", "person", "split", "where")}
    return {"path": str(sample.path), **plain, "ratings": dict(sample.ratings)}


WRITERS: Mapping[str, Callable[[FeatureTable, BinaryIO], None]] = {".npz": _npz, ".parquet": _parquet}


def make_feature_writer(path: Path) -> Callable[[FeatureTable, BinaryIO], None]:
    """What writes a file of that suffix.

    Raises:
        UsageError: Nothing does, or pyarrow is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITERS:
        raise UsageError(f"features are written to {' or '.join(WRITERS)}, not to {path.name}")
    if suffix == ".parquet" and find_spec("pyarrow") is None:
        raise UsageError("parquet needs pyarrow; pip install 'fervid[parquet]', or write .npz")
    return WRITERS[suffix]
