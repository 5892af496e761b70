"""A table of clip features, their averages by person, and the files that it is written to and read from."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fervid.analysis.baseline import IDENTITY
from fervid.core.array_cache import NPZ_READ_ERRORS
from fervid.core.atomic_io import atomic_write
from fervid.core.errors import DatasetError, NoFaceError, UsageError
from fervid.core.packages import missing_extra
from fervid.core.records import ClipFeatures, FloatArray
from fervid.core.text import to_valid_utf8
from fervid.learn.dataset_layouts import Sample
from fervid.learn.feature_extraction import ClipFeaturesRow

PROVENANCE_KEYS = frozenset({"face", "face_model", "face_model_sha256", "detector"})


@dataclass(frozen=True, slots=True, eq=False)
class FeatureTable:
    """Features of n clips that show a face, one row for each.

    Attributes:
        samples: The clips.
        statistics: Pooled statistics (n, d) by name.
        counts: (n,) number of frames that each row was pooled from.
        provenance: Models and options that the features come from.
        by_stride: Statistics of every `stride`-th frame, by stride; rows of NaN where those frames show no face.
        no_face_samples: Clips that show no face and so have no row.
        unreadable_samples: Clips that cannot be read and so have no row.
        digests: (n,) digests of the clips, as in `ClipFeaturesRow`; empty if they are unknown.
    """

    samples: tuple[Sample, ...]
    statistics: Mapping[str, FloatArray]
    counts: NDArray[np.int64]
    provenance: Mapping[str, Any]
    by_stride: Mapping[int, Mapping[str, FloatArray]] = field(default_factory=dict)
    no_face_samples: tuple[Sample, ...] = ()
    unreadable_samples: tuple[Sample, ...] = ()
    digests: tuple[str, ...] = ()

    @classmethod
    def from_rows(cls, rows: Iterable[ClipFeaturesRow], provenance: Mapping[str, Any]) -> FeatureTable:
        """Build a table of the rows that have features, and list the other clips.

        Raises:
            DatasetError: No row has features.
        """
        rows = list(rows)
        usable = [(row, row.features) for row in rows if row.features is not None]
        if not usable:
            raise DatasetError("no clip shows a face; check the clips, or allow smaller faces with --min-face")
        (first_row, first_features), *_ = usable
        digests = tuple(row.digest for row, _ in usable)
        return cls(
            samples=tuple(row.sample for row, _ in usable),
            statistics=_stack([features for _, features in usable], first_features),
            counts=np.array([features.count for _, features in usable]),
            provenance=provenance,
            by_stride={
                stride: _stack([row.by_stride[stride] for row, _ in usable], first_features)
                for stride in first_row.by_stride
            },
            no_face_samples=tuple(row.sample for row in rows if isinstance(row.error, NoFaceError)),
            unreadable_samples=tuple(
                row.sample for row in rows if row.error and not isinstance(row.error, NoFaceError)
            ),
            digests=digests if all(digests) else (),
        )

    def __getitem__(self, rows: NDArray[Any]) -> FeatureTable:
        """Select rows by index or mask; the clips without a row stay listed."""
        numbers = np.arange(len(self.samples))[rows]
        return replace(
            self,
            samples=tuple(self.samples[i] for i in numbers),
            statistics=_select_rows(self.statistics, numbers),
            counts=self.counts[numbers],
            by_stride={stride: _select_rows(statistics, numbers) for stride, statistics in self.by_stride.items()},
            digests=tuple(self.digests[i] for i in numbers) if self.digests else (),
        )

    def matrix(self, names: Sequence[str], stride: int = 1) -> FloatArray:
        """Concatenate the named statistics to (n, d1 + d2 + ...)."""
        statistics = self.statistics if stride == 1 else self.by_stride[stride]
        return np.concatenate([statistics[name] for name in names], axis=1)

    def save(self, path: Path, *, force: bool = False) -> None:
        """Write `.npz` (a matrix for each statistic) or `.parquet` (a list column for each), without identities.

        Raises:
            UsageError: The suffix is another one, or pyarrow is not installed.
            OutputError: The file exists or cannot be written.
        """
        write = make_feature_writer(path)
        with atomic_write(path, force=force) as file:
            write(self, file)

    @classmethod
    def load(cls, path: Path) -> FeatureTable:
        """Read an `.npz` file that `save` wrote.

        Raises:
            DatasetError: The file cannot be read, or is no such file.
        """
        try:
            with path.open("rb") as file, np.load(file) as stored:
                provenance = json.loads(str(stored["about"]))
                statistics = {name: np.asarray(stored[name], np.float32) for name in provenance.pop("statistics")}
                if missing := PROVENANCE_KEYS - provenance.keys():
                    raise ValueError(f"missing {', '.join(sorted(missing))}")
                if not all(isinstance(provenance[name], str) for name in PROVENANCE_KEYS):
                    raise ValueError(f"{', '.join(sorted(PROVENANCE_KEYS))} must be strings")
                table = cls(
                    samples=_load_samples(stored, "samples"),
                    statistics=statistics,
                    counts=np.asarray(stored["count"], np.int64),
                    provenance=provenance,
                    no_face_samples=_load_samples(stored, "no_face"),
                    unreadable_samples=_load_samples(stored, "unreadable") if "unreadable" in stored else (),
                    digests=tuple(map(str, json.loads(str(stored["digests"])))) if "digests" in stored else (),
                )
        except NPZ_READ_ERRORS as error:
            raise DatasetError(
                f"{path} is no file of features ({error}); write one with `fervid features ... -o {path.name}`"
            ) from error
        table._check(path)
        return table

    def _check(self, path: Path) -> None:
        """Raise DatasetError if columns differ in length, or values are not finite."""
        n = len(self.samples)
        matrices = self.statistics.values()
        complete = self.counts.shape == (n,) and all(matrix.ndim == 2 and len(matrix) == n for matrix in matrices)
        if not complete or len(self.digests) not in (0, n):
            raise DatasetError(f"{path} is damaged: a statistic has not one row for each clip; write the file again")
        if not all(np.isfinite(matrix).all() for matrix in matrices):
            raise DatasetError(f"{path} is damaged: a value is not finite; write the file again")


def center_by_group(
    x: FloatArray, groups: NDArray[np.int64], min_clips: int = 1, fallback_mean: Sequence[float] | float = 0.0
) -> FloatArray:
    """Subtract the mean of each group (n,) from its rows of features (n, d); rows of NaN are ignored and stay NaN.

    Groups with fewer than `min_clips` clips use the fallback mean, (d,) or scalar.
    """
    centered, is_finite = x.copy(), np.isfinite(x).all(axis=1)
    for group in np.unique(groups):
        rows = np.flatnonzero(is_finite & (groups == group))
        mean = x[rows].mean(axis=0, dtype=np.float64) if len(rows) >= min_clips else np.asarray(fallback_mean)
        centered[rows] = x[rows] - mean
    return centered


def average_by_group(table: FeatureTable, groups: NDArray[np.int64], names: Iterable[str]) -> dict[str, list[float]]:
    """Average statistics over the people (n,) in the clips, each with the same weight, rounded to four digits."""
    rows_by_person = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    averages = {
        name: np.mean([table.statistics[name][rows].mean(axis=0) for rows in rows_by_person], axis=0)
        for name in dict.fromkeys(names)
    }
    return {name: [round(float(value), 4) for value in values] for name, values in averages.items()}


def _stack(rows: Sequence[ClipFeatures | None], like: ClipFeatures) -> dict[str, FloatArray]:
    """Stack rows to matrices, with NaN for a missing row."""
    missing = {name: np.full_like(value, np.nan) for name, value in like.statistics.items()}
    return {name: np.stack([row.statistics[name] if row else missing[name] for row in rows]) for name in missing}


def _select_rows(statistics: Mapping[str, FloatArray], numbers: NDArray[np.int64]) -> dict[str, FloatArray]:
    return {name: matrix[numbers] for name, matrix in statistics.items()}


def write_npz(table: FeatureTable, file: BinaryIO) -> None:
    """Write a table as `.npz`."""
    statistics = {name: matrix for name, matrix in table.statistics.items() if name != IDENTITY}
    texts = {
        "about": {**table.provenance, "statistics": list(statistics)},
        "samples": [_sample_to_dict(sample) for sample in table.samples],
        "no_face": [_sample_to_dict(sample) for sample in table.no_face_samples],
        "unreadable": [_sample_to_dict(sample) for sample in table.unreadable_samples],
        "digests": list(table.digests),
    }
    columns = {name: np.array(json.dumps(value)) for name, value in texts.items()}
    np.savez(file, count=table.counts, **columns, **statistics)  # type: ignore[arg-type]


def write_parquet(table: FeatureTable, file: BinaryIO) -> None:
    """Write a table as parquet."""
    import pyarrow
    from pyarrow import parquet

    samples = [_sample_to_dict(sample) for sample in table.samples]
    columns = {
        name: [sample[name] and to_valid_utf8(sample[name]) for sample in samples]
        for name in ("path", "label", "person", "split")
    }
    rating_names = sorted({name for sample in samples for name in sample["ratings"]})
    ratings = {name: [sample["ratings"].get(name) for sample in samples] for name in rating_names}
    lists = {
        name: pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(matrix.ravel()), matrix.shape[1])
        for name, matrix in table.statistics.items()
        if name != IDENTITY
    }
    arrow = pyarrow.table({**columns, **ratings, "frames": table.counts, **lists})
    parquet.write_table(arrow.replace_schema_metadata({"fervid": json.dumps(table.provenance)}), file)


def _load_samples(stored: Mapping[str, Any], name: str) -> tuple[Sample, ...]:
    return tuple(map(_sample_from_dict, json.loads(str(stored[name]))))


def _sample_from_dict(values: Mapping[str, Any]) -> Sample:
    """Restore a sample from `_sample_to_dict`.

    Raises:
        TypeError, ValueError: Keys or values are of another kind.
    """
    values = {**values}
    sample = Sample(path=Path(values.pop("path")), source=values.pop("source", ""), **values)
    texts = (sample.label, sample.person, sample.split)
    if not isinstance(sample.source, str) or not all(isinstance(text, str | None) for text in texts):
        raise ValueError(f"label, person, split and source of {sample.path} must be strings")
    if not all(type(rating) in (int, float) and math.isfinite(rating) for rating in sample.ratings.values()):
        raise ValueError(f"the ratings of {sample.path} must be finite numbers")
    return sample


def _sample_to_dict(sample: Sample) -> dict[str, Any]:
    return asdict(sample) | {"path": str(sample.path)}


WRITERS: Mapping[str, Callable[[FeatureTable, BinaryIO], None]] = {".npz": write_npz, ".parquet": write_parquet}


def make_feature_writer(path: Path) -> Callable[[FeatureTable, BinaryIO], None]:
    """Return the function that writes files with that suffix.

    Raises:
        UsageError: The suffix is unknown, or pyarrow is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITERS:
        raise UsageError(f"features are written to {' or '.join(WRITERS)}, not to {path.name}; change the suffix")
    if suffix == ".parquet" and find_spec("pyarrow") is None:
        raise missing_extra(".parquet", "parquet")
    return WRITERS[suffix]
