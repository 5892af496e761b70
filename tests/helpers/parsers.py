"""Fuzz targets for everything but videos: any bytes give a result or a FervidError."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import typer

import feature_fixtures
import html_pages
import toy_models
from fervid.analysis import pipeline
from fervid.analysis.extractor import Extractor
from fervid.analysis.options import Options
from fervid.batch.resumable_lines import ResumableJsonlWriter, ledger_path
from fervid.batch.resume import run_fingerprint
from fervid.batch.writers import make_writer, to_json_line
from fervid.cli import flags, options
from fervid.core.errors import FervidError
from fervid.core.records import Frame
from fervid.core.results import ClipResult, Prediction
from fervid.learn import dataset, dataset_layouts, feature_table, metrics
from fervid.learn.model_selection import parse_statistics
from fervid.media import image_header, inputs
from fervid.models import registry
from fervid.models.card import REQUIRED_CARD_KEYS, ModelKind
from fervid.render import html_report, result_reader


@dataclass(frozen=True, slots=True)
class Target:
    """A parser of untrusted input.

    Attributes:
        take: Parses bytes, with a folder to write to, and checks the result.
        examples: Valid inputs to start from.
        refusals: Errors that may be raised.
    """

    take: Callable[[bytes, Path], object]
    examples: Callable[[], Sequence[bytes]]
    refusals: tuple[type[Exception], ...] = (FervidError,)

    def __call__(self, data: bytes) -> bool:
        """Parse bytes; return whether they were accepted."""
        with tempfile.TemporaryDirectory(dir=_QUICK) as folder, suppress(*self.refusals):
            self.take(data, Path(folder))
            return True
        return False


_QUICK = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
CLIPS = ("a.mp4", "b.mp4", "c.mp4")


# Lists of labelled clips


def _list(suffix: str, data: bytes, folder: Path) -> None:
    for name in CLIPS:
        (folder / name).touch()
    (folder / f"list{suffix}").write_bytes(data)
    found = dataset.load_dataset(str(folder / f"list{suffix}"))
    assert len(found.samples) >= len(found.labels)
    assert all(sample.label or sample.ratings for sample in found.samples)
    dataset.labels_with_few_people(found)
    for rating in found.samples[0].ratings:
        with suppress(FervidError):
            dataset.validate_dataset(found, target=rating)
            assert all(np.isfinite(sample.ratings[rating]) for sample in found.samples)
    with suppress(FervidError):
        dataset.filter_labels(found, ["joy"])


def _csv() -> list[bytes]:
    return [
        b"path,label\na.mp4,joy\nb.mp4,calm\n",
        b'\xef\xbb\xbfPath, Label ,person,split\r\n"a.mp4",joy,p1,train\r\n\r\nb.mp4,calm,p2,test\r\n',
        b"path,valence,arousal\na.mp4,1.5,3\nb.mp4,,4e0\nc.mp4,7,1\n",
    ]


def _jsonl() -> list[bytes]:
    return [
        b'{"path": "a.mp4", "label": "joy"}\n{"path": "b.mp4", "label": "calm", "person": 3, "split": null}\n',
        b'{"path": "a.mp4", "valence": 1.5}\n\n{"path": "b.mp4", "valence": 2, "label": null}\n',
    ]


# Known data sets


def _kerc(data: bytes, folder: Path) -> None:
    for number in (1, 2):
        (folder / "frame_img").mkdir(exist_ok=True)
        (folder / "frame_img" / f"v{number}-face_0.jpg").touch()
    (folder / "train_mean.csv").write_bytes(data)
    assert all(1 <= sample.ratings["valence"] <= 9 for sample in dataset.load_dataset(f"kerc2020:{folder}").samples)


def _vgaf(data: bytes, folder: Path) -> None:
    (folder / "Train").mkdir()
    (folder / "Train" / "1_1.mp4").touch()
    (folder / "Train_labels.txt").write_bytes(data)
    assert {sample.label for sample in dataset.load_dataset(f"vgaf:{folder}").samples} <= {
        "positive",
        "neutral",
        "negative",
    }


def _emotion(data: bytes, folder: Path) -> None:
    for part in ("cohn-kanade-images", "Emotion"):
        (folder / part / "S005" / "001").mkdir(parents=True)
    (folder / "cohn-kanade-images" / "S005" / "001" / "1.png").touch()
    (folder / "Emotion" / "S005" / "001" / "S005_001_1_emotion.txt").write_bytes(data)
    dataset.load_dataset(f"ck+:{folder}")


def _tree(data: bytes, folder: Path) -> None:
    """Read a folder with files of these names in every layout."""
    for line in data.split(b"\n")[:20]:
        names = [name[:200] for name in line.split(b"/")[:4] if name.strip(b".\0")]
        path = Path(os.fsdecode(os.path.join(os.fsencode(folder), *(name.replace(b"\0", b"") for name in names))))
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    for source in (str(folder), *(f"{name}:{folder}" for name in dataset_layouts.KNOWN_LAYOUTS)):
        with suppress(FervidError):
            dataset.load_dataset(source)


def _trees() -> list[bytes]:
    return [
        b"Train_AFEW/Angry/1.avi\nTrain_AFEW/Happy/2.avi\nVal_AFEW/Sad/3.avi",
        b"joy/a.mp4\ncalm/b.mp4\ncalm/frames/1.png",
        b"train/joy/a.mp4\ntest/joy/b.mp4",
        b"Actor_01/01-01-06-01-02-01-01.mp4\nActor_02/02-01-03-01-02-01-02.mp4",
        b"VideoFlash/1001_DFA_ANG_XX.flv\nVideoFlash/1002_DFA_HAP_HI.flv",
    ]


# Output of fervid


class _Silent:
    """The attributes of a classifier that a ledger needs."""

    models: Mapping[str, Any] = {}
    options = Options()


def _make_ledger() -> tuple[bytes, bytes]:
    """Make a ledger and its output, of two clips."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.jsonl"
        with ResumableJsonlWriter(output, run_fingerprint(_Silent()), CLIPS[:2], resume=False, force=False) as ledger:
            for name in CLIPS[:2]:
                ledger.write(ClipResult(name, "ok", Prediction({"calm": 0.75, "joy": 0.25})))
        return ledger_path(output).read_bytes(), output.read_bytes()


_make_ledger = cache(_make_ledger)
_BETWEEN = b"\n\0\n"  # separates a ledger from its output


def _ledger(data: bytes, folder: Path) -> None:
    entries, _, records = data.partition(_BETWEEN)
    output = folder / "out.jsonl"
    output.write_bytes(records or _make_ledger()[1])
    ledger_path(output).write_bytes(entries)
    with ResumableJsonlWriter(output, run_fingerprint(_Silent()), CLIPS, resume=True, force=False) as ledger:
        assert all(isinstance(path, str) for path in ledger.finished)
        assert set(ledger.finished.values()) <= {"ok", "no_face", "error", "skipped"}
        ledger.write(ClipResult(CLIPS[2], "ok", Prediction({"calm": 1.0})))
    with ResumableJsonlWriter(output, run_fingerprint(_Silent()), CLIPS, resume=True, force=False) as ledger:
        assert CLIPS[2] in ledger.finished


def _table(data: bytes, folder: Path) -> None:
    path = folder / "features.npz"
    path.write_bytes(data)
    found = feature_table.FeatureTable.load(path)
    count = len(found.samples)
    assert len(found.counts) == count
    assert all(matrix.shape[0] == count and np.isfinite(matrix).all() for matrix in found.statistics.values())
    assert len(found[np.zeros(count, bool)].samples) == 0
    assert all(isinstance(sample.path, Path) and isinstance(sample.source, str) for sample in found.samples)
    found.save(folder / "again.npz")


@cache
def _columns() -> Mapping[str, np.ndarray]:
    _, table = feature_fixtures.told_apart(people=2, each=1)
    buffer = io.BytesIO()
    feature_table.write_npz(table, buffer)
    with np.load(io.BytesIO(buffer.getvalue())) as columns:
        return dict(columns)


def _tables() -> list[bytes]:
    found = []
    for write in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        write(buffer, **_columns())
        found.append(buffer.getvalue())
    return found


def _rows(data: bytes, folder: Path) -> None:
    """Make a table with two text columns, one value per line."""
    about, _, samples = data.decode("utf-8", "replace").replace("\0", "").partition("\n")
    buffer = io.BytesIO()
    np.savez(buffer, **_columns() | {"about": np.array(about), "samples": np.array(samples)})
    _table(buffer.getvalue(), folder)


def _texts() -> list[bytes]:
    return [b"\n".join(str(_columns()[name]).encode() for name in ("about", "samples"))]


# Models


def _classifier(folder: Path) -> tuple[bytes, str]:
    path = toy_models.classifier(folder / "classifier.onnx", np.eye(3))
    return path.read_bytes(), hashlib.sha256(path.read_bytes()).hexdigest()


def _manifest(data: bytes, folder: Path) -> None:
    _classifier(folder)
    (folder / "manifest.json").write_bytes(data)
    place, registry.models_dir = registry.models_dir, lambda: folder
    registry.manifest.cache_clear()
    try:
        for name, entry in registry.manifest().items():
            with suppress(FervidError):
                assert registry.load_model(name, entry["kind"]).identity.sha256 == entry["sha256"]
            with suppress(FervidError):
                registry.verify(name)
            with suppress(FervidError):
                registry.load_model("nothing", "face_model")
    finally:
        registry.models_dir = place
        registry.manifest.cache_clear()


def _manifests() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        data, sha256 = _classifier(Path(folder))
    entry = {"file": "classifier.onnx", "bytes": len(data), "sha256": sha256, **toy_models.CLASSIFIER}
    return [json.dumps({"models": {"toy-classifier": entry}}).encode()]


@cache
def _family() -> tuple[Path, Mapping[str, str]]:
    folder = Path(tempfile.mkdtemp(dir=_QUICK))
    return folder, toy_models.family(folder)


def _card(kind: ModelKind, data: bytes, folder: Path) -> None:
    """Replace the card of one of the matching models."""
    files = dict(_family()[1])
    model = onnx.load(files[kind] if kind in files else toy_models.regressor(folder / "regressor.onnx"))
    files[kind] = str(toy_models.write(folder / f"{kind}.onnx", model, data.decode("utf-8", "replace")))
    if kind == "face_model":
        sha256 = hashlib.sha256(Path(files[kind]).read_bytes()).hexdigest()
        files["classifier"] = str(
            toy_models.classifier(folder / "classifier.onnx", 25 * np.eye(3), face_model_sha256=sha256)
        )
    _classify_with(kind, files)


def _classify_with(kind: ModelKind, files: Mapping[str, str]) -> None:
    """Load models and classify a face with them."""
    if kind == "regressor":
        registry.load_model(files[kind], kind)
        return
    found = {role: registry.load_model(path, role) for role, path in files.items()}
    extractor = Extractor(found["detector"], found["face_model"], Options(min_face=toy_models.FACE, attributes=True), 1)
    classifier = pipeline.Classifier(extractor, found["classifier"])
    to_json_line(classifier.classify_frames([Frame(toy_models.picture(toy_models.FIRST))]).as_dict())


def _cards(kind: ModelKind) -> list[bytes]:
    if kind == "regressor":
        return [json.dumps(toy_models.REGRESSOR).encode()]
    model = onnx.load(_family()[1][kind])
    return [next(entry.value.encode() for entry in model.metadata_props if entry.key == "fervid")]


def _onnx(data: bytes, folder: Path) -> None:
    path = folder / "classifier.onnx"
    path.write_bytes(data)
    _classify_with("classifier", {**_family()[1], "classifier": str(path)})


# Options and lists of files


def _names(data: bytes, _: Path) -> None:
    for nul in (False, True):
        with suppress(FervidError):
            names = inputs.read_list(data, nul=nul)
            assert all(names)
            assert all(os.fsdecode(os.fsencode(name)) == name for name in names)


def _flags(data: bytes, _: Path) -> None:
    """Parse a time, then labels, then the names of statistics."""
    text, _, more = data.decode("utf-8", "replace").partition("|")
    labels, _, statistics = more.partition("|")
    assert 0 <= flags.parse_seconds(text) < np.inf
    options.build_options(start=flags.parse_seconds(text), labels=labels)
    parse_statistics(statistics)


def _images() -> list[bytes]:
    picture = np.zeros((9, 16, 3), np.uint8)
    return [cv2.imencode(suffix, picture)[1].tobytes() for suffix in (".jpg", ".png", ".webp", ".bmp", ".tiff")]


# Results and reports


def _page(data: bytes, folder: Path) -> None:
    (folder / "results").write_bytes(data)
    found = result_reader.load_results(folder / "results")
    assert html_report.render_html(found, "results").startswith(b"<!DOCTYPE html>")


def _results() -> list[bytes]:
    clips = [html_pages.clip("a.mp4"), html_pages.clip("b.mp4", "error"), html_pages.clip("c.mp4", "no_face")]
    windows = html_pages.windows("a.mp4", [0.75, None, 0.25])
    texts = [io.BytesIO() for _ in range(3)]
    for text, form in zip(texts, ("jsonl", "json", "csv"), strict=True):
        records = windows if form == "jsonl" else clips
        out = make_writer(form, text, ("calm", "joy"), type(records[0]))
        for record in records:
            out.write(record)
        out.finish()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "N_BOOTSTRAP", 20)
        measured = html_pages.report()
    difference = {name: measured["all"][name] for name in ("accuracy", "uar", "f1")}
    measured["comparison"] = {
        "name": "b",
        "difference": difference,
        "only_a_correct": 1,
        "only_b_correct": 2,
        "test": "of signs",
        "p": 0.5,
    }
    measured["early_exit"] = {"frame_fraction": 0.25}
    rated = {name: {"value": 0.5, "interval": None} for name in ("ccc", "mae", "pearson")}
    methods = {"methods": {"a": measured, "b": measured, "c": {"clips": 3, "unanswered": 1, **rated}}}
    return [*(text.getvalue() for text in texts), *(json.dumps(one).encode() for one in (measured, methods))]


TARGETS: Mapping[str, Target] = {
    "csv": Target(partial(_list, ".csv"), _csv),
    "jsonl": Target(partial(_list, ".jsonl"), _jsonl),
    "kerc": Target(_kerc, lambda: [b"name,valence,arousal,stress\nTrain/0001.mp4,4.5,3,2\nTrain/0002.mp4,1,9,5.5\n"]),
    "vgaf": Target(_vgaf, lambda: [b"Vid_name Label\n1_1 3\n", b"1_1.mp4,1\n"]),
    "ck+": Target(_emotion, lambda: [b"   3.0000000e+00\n"]),
    "folders": Target(_tree, _trees),
    "ledger": Target(_ledger, lambda: [_make_ledger()[0], _BETWEEN.join(_make_ledger())]),
    "features": Target(_table, _tables),
    "features-rows": Target(_rows, _texts),
    "manifest": Target(_manifest, _manifests),
    **{f"{kind}-card": Target(partial(_card, kind), partial(_cards, kind)) for kind in REQUIRED_CARD_KEYS},
    "onnx": Target(_onnx, lambda: [Path(_family()[1]["classifier"]).read_bytes()]),
    "results": Target(_page, _results),
    "list": Target(_names, lambda: [b"a.mp4\nb.mp4\r\n\n", b"a\nb\0c\0", "ä.mp4\n".encode("latin-1")]),
    "still": Target(lambda data, _: image_header.image_size(data), _images),
    "flags": Target(
        _flags,
        lambda: [b"00:01:12.5|a,b|mean+std", b"12.5s|7|group", b"1e3|a,b|expression+max"],
        (FervidError, typer.BadParameter),
    ),
}


# Mutations

_TOKENS = (
    *(b"NaN", b"Infinity", b"-1", b"0", b"1e999", b"9" * 30, b"null", b"true", b'""', b"[]", b"{}", b'"\\ud800"'),
    *(b",", b"\n", b"\r", b"\0", b'"', b"\xef\xbb\xbf", b"\xff", b"[" * 3000, b'{"a":' * 3000, b"../", b"\\", b"_"),
)
_VALUES = (
    *(None, True, "", "x", "\ud800", "a" * 999, -1, 0, 1, 1.5, 2, 63, 1e308, float("inf"), float("nan")),
    *(10**30, -(10**30), 2**31, 2**63, [], {}, [[]], [None], {"": None}, ["a", "a"], [1, 2, 3], [0.0] * 3, "calm"),
)


def case(name: str, number: int, examples: Sequence[bytes]) -> bytes:
    """Mutate one of the examples of a target, seeded by name and number."""
    rng = random.Random(zlib.crc32(f"{name}/{number}".encode()))
    return mutate(rng.choice(examples), rng)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Mutate bytes."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = rng.choice((_mutate_json, _mutate_json, _line, _splice, _flip, _truncate, _duplicate))(data, rng)
    return data


def _flip(data: bytes, rng: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 9)) if found else 0):
        found[rng.randrange(len(found))] = rng.randrange(256)
    return bytes(found)


def _truncate(data: bytes, rng: random.Random) -> bytes:
    start, end = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
    return data[:start] + data[end:] if rng.random() < 0.7 else data[:start]


def _duplicate(data: bytes, rng: random.Random) -> bytes:
    start, end = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
    return data[:end] + data[start:end] * rng.choice((1, 1, 50)) + data[end:]


def _splice(data: bytes, rng: random.Random) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + rng.choice(_TOKENS) + data[at + rng.choice((0, 0, 1, 5)) :]


def _line(data: bytes, rng: random.Random) -> bytes:
    """Replace a field of a line."""
    fields = re.split(rb"([,\n\t ])", data)
    at = 2 * rng.randrange(len(fields) // 2 + 1)
    fields[min(at, len(fields) - 1)] = rng.choice(_TOKENS)
    return b"".join(fields)


def _mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Replace, rename or remove a value in a line of JSON."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    try:
        value = json.loads(lines[at])
    except (ValueError, RecursionError):
        return _line(data, rng)
    places = list(_list_values(value))
    if not places:
        return json.dumps(rng.choice(_VALUES)).encode()
    place, key = rng.choice(places)
    how = rng.random()
    if how < 0.1:
        del place[key]
    elif how < 0.2 and isinstance(place, dict):
        place[rng.choice(("", "x", key + " ", key.upper()))] = place.pop(key)
    else:
        place[key] = rng.choice((*_VALUES, *(place[key] for place, key in places)))
    with suppress(ValueError, RecursionError):  # a value that contains itself
        lines[at] = json.dumps(value).encode()
    return b"\n".join(lines)


def _list_values(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _list_values(value[key])
