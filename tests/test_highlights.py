"""Highlights of a clip are explained by the models that its records name."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import clips
import fervid
import html_pages
import toy_models
from fervid.analysis import highlights, thumbnails
from fervid.analysis.highlights import HighlightExtractor, find_highlights, load_recorded_models, top_window_per_label
from fervid.analysis.options import Options
from fervid.analysis.thumbnails import read_thumbnail
from fervid.analysis.windows import WindowSpec
from fervid.core.errors import ModelIncompatible, ModelNotFound
from fervid.core.worker_process import Limits, WorkerDied
from fervid.media.sampling import Sampling
from fervid.models import registry
from fervid.models.card import ModelKind

Record = Mapping[str, Any]
OPTIONS = Options(Sampling(5.0), min_face=toy_models.FACE)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four seconds: two of the first label, one of nobody, one of the second."""
    faces = [toy_models.FIRST] * 50 + [None] * 25 + [toy_models.SECOND] * 25
    path = tmp_path_factory.mktemp("moments") / "clip.mp4"
    return str(clips.write(path, [toy_models.picture(face) for face in faces], options={"crf": "4"}))


@pytest.fixture(scope="module")
def records(family: dict[str, str], clip: str) -> list[Record]:
    """The records of `fervid timeline` for the clip."""
    classifier = fervid.load_classifier(**family, options=OPTIONS, threads=1)
    return [window.as_dict() for window in classifier.timeline(clip, WindowSpec(1.0, 1.0))]


def highlight(
    records: Sequence[Record], family: dict[str, str], options: Options = OPTIONS, **more: Any
) -> highlights.ClipHighlights:
    ((path, clip_highlights),) = find_highlights({records[0]["path"]: records}, family, options, **more)
    assert path == records[0]["path"]
    return clip_highlights


def test_top_window_per_label() -> None:
    records = [window.as_dict() for window in html_pages.windows("a", [0.75, 0.125, None, 0.875, 0.875, 0.25])]
    assert [(window["label"], window["start_s"]) for window in top_window_per_label(records)] == [
        ("joy", 1.0),
        ("calm", 3.0),
    ]
    assert top_window_per_label([records[2]]) == []


def test_highlights_are_explained_by_recorded_models(records: list[Record], family: dict[str, str]) -> None:
    clip_highlights = highlight(records, family)
    assert clip_highlights.note == ""
    assert [item.record["label"] for item in clip_highlights.highlights] == ["first", "second"]
    for item in clip_highlights.highlights:
        explanation = item.explanation
        assert explanation is not None
        assert (item.note, item.thumbnails, explanation.label) == ("", [], item.record["label"])
        assert explanation.confidence == pytest.approx(item.record["confidence"], abs=0.02)
        assert explanation.baseline_probability == pytest.approx(1 / 3)
        assert explanation.contributions == pytest.approx(
            {"embedding, mean": explanation.confidence - explanation.baseline_probability}
        )


def test_thumbnail_shows_most_confident_frame(records: list[Record], family: dict[str, str]) -> None:
    first, second = highlight(records, family, thumbnails=1).highlights
    for item, colour in ((first, toy_models.FIRST), (second, toy_models.SECOND)):
        (thumbnail,) = item.thumbnails
        assert item.record["start_s"] <= thumbnail.time < item.record["end_s"]
        kind, _, data = thumbnail.url.partition(",")
        assert kind == "data:image/jpeg;base64"
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR_RGB)
        assert picture.shape == (256, 256, 3)
        assert picture[120, 40] == pytest.approx(np.array(colour), abs=12)


def test_whole_clip_has_thumbnails_of_its_label(clip: str, family: dict[str, str]) -> None:
    record = fervid.load_classifier(**family, options=OPTIONS, threads=1).classify(clip).as_dict()
    (item,) = highlight([record], family, thumbnails=3).highlights
    times = [thumbnail.time for thumbnail in item.thumbnails]
    assert item.note == ""
    assert times == sorted(set(times))
    assert [time < 2 for time in times] == [True, True, False]
    assert all(thumbnail.url for thumbnail in item.thumbnails)


def test_thumbnails_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "THUMBNAIL_PX", 40)
    data = base64.b64decode(thumbnails._jpeg_data_url(np.zeros((10, 80, 3), np.uint8)).partition(",")[2])
    assert cv2.imdecode(np.frombuffer(data, np.uint8), 1).shape == (5, 40, 3)


def test_restricted_labels_are_kept(clip: str, family: dict[str, str]) -> None:
    options = replace(OPTIONS, labels=("second", "third"))
    classifier = fervid.load_classifier(**family, options=options, threads=1)
    records = [window.as_dict() for window in classifier.timeline(clip, WindowSpec(1.0, 1.0))]
    for item in highlight(records, family).highlights:
        assert item.note == ""
        assert item.explanation.baseline_probability == pytest.approx(0.5)


def test_changed_clip_is_noted(records: list[Record], family: dict[str, str], tmp_path: Path) -> None:
    path = clips.write(tmp_path / "other.mp4", [toy_models.picture(toy_models.THIRD)] * 50, options={"crf": "4"})
    moved = [{**record, "path": str(path)} for record in records]
    first, second = highlight(moved, family).highlights
    assert "predicts third" in first.note
    assert (second.explanation, "No face was found" in second.note) == (None, True)
    nobody = clips.write(tmp_path / "nobody.mp4", clips.scenery(100))
    gone = highlight([{**record, "path": str(nobody)} for record in records], family)
    assert gone == highlights.ClipHighlights(note=second.note)


def test_missing_clip_is_noted(records: list[Record], family: dict[str, str], tmp_path: Path) -> None:
    missing = highlight([{**record, "path": str(tmp_path / "gone.mp4")} for record in records], family, thumbnails=1)
    assert not missing.highlights
    assert "gone.mp4 does not exist" in missing.note


@pytest.mark.parametrize("name", ["mirrored", "upside-down", "mirrored-and-turned-right"])
def test_thumbnail_follows_display_matrix(tmp_path: Path, name: str) -> None:
    matrix, display = clips.ORIENTATIONS[name]
    image = clips.portrait(160, 128, 0.8)
    path = clips.orient(clips.write(tmp_path / "clip.mp4", [image] * 3), *matrix)
    url = read_thumbnail(str(path), 0.04, OPTIONS).url
    assert url is not None
    thumbnail = cv2.imdecode(np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert np.abs(thumbnail.astype(int) - display(image)).mean() < 8


def test_thumbnail_of_missing_clip_is_none(tmp_path: Path, clip: str) -> None:
    assert read_thumbnail(str(tmp_path / "gone.mp4"), 0.0, OPTIONS).url is None
    assert read_thumbnail(clip, 0.0, OPTIONS).url is not None


def test_unknown_labels_are_noted(records: list[Record], family: dict[str, str]) -> None:
    strange = {**records[0], "label": "x", "probabilities": {"x": 0.9, "first": 0.1}}
    assert highlight([strange], family).note == "toy-classifier has no label x."


def test_load_recorded_models(records: list[Record], family: dict[str, str], tmp_path: Path) -> None:
    recorded = records[0]["model"]
    assert isinstance(load_recorded_models(recorded, family, OPTIONS), HighlightExtractor)
    with pytest.raises(ModelNotFound, match=r"toy-classifier is not an installed model; .*--classifier"):
        load_recorded_models(recorded, {role: path for role, path in family.items() if role != "classifier"}, OPTIONS)
    path = {**recorded, "classifier": {"name": family["classifier"], "sha256": recorded["classifier"]["sha256"]}}
    with pytest.raises(ModelNotFound, match="not an installed model"):
        load_recorded_models(path, {role: path for role, path in family.items() if role != "classifier"}, OPTIONS)
    other = toy_models.family(tmp_path, note="another")
    with pytest.raises(ModelIncompatible, match=r"is not the classifier that the record names.*--classifier"):
        load_recorded_models(recorded, {**family, "classifier": other["classifier"]}, OPTIONS)
    roles: tuple[ModelKind, ...] = ("detector", "face_model", "classifier")
    shipped = {role: registry.load_model(registry.DEFAULTS[role], role).identity for role in roles}
    names = {role: {"name": model.name, "sha256": model.sha256} for role, model in shipped.items()}
    assert load_recorded_models(names, family, OPTIONS).classifier.identity == shipped["classifier"]
    with pytest.raises(ModelNotFound, match="names no face model"):
        load_recorded_models({"detector": recorded["detector"]}, family, OPTIONS)
    stray = toy_models.classifier(tmp_path / "stray.onnx", 25 * np.eye(3))
    sha256 = hashlib.sha256(stray.read_bytes()).hexdigest()
    with pytest.raises(ModelIncompatible, match="another face model"):
        load_recorded_models(
            {**recorded, "classifier": {"name": "stray", "sha256": sha256}},
            {**family, "classifier": str(stray)},
            OPTIONS,
        )


def test_missing_model_affects_its_clips_only(records: list[Record], family: dict[str, str]) -> None:
    unknown = [{**record, "path": "x", "model": {}} for record in records]
    silent = [record for record in records if record["label"] is None]
    results = dict(find_highlights({"a": records, "b": unknown, "c": silent}, family, OPTIONS))
    assert len(results["a"].highlights) == 2
    assert "names no detector" in results["b"].note
    assert results["c"] == highlights.ClipHighlights()


def test_crash_affects_one_clip_only(
    records: list[Record],
    family: dict[str, str],
    through_pickle: Callable[..., Iterator[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lose_first(
        work: object, items: Iterable[Any], jobs: int, on_death: Callable[..., Any], limits: object
    ) -> Iterator[Any]:
        first, *others = items
        yield on_death(first, WorkerDied("SIGSEGV"))
        yield from through_pickle(work, others, jobs, on_death, limits)

    monkeypatch.setattr(highlights, "map_ordered", lose_first)
    moved = [{**record, "path": "/nowhere/at all.mp4"} for record in records]
    clips_by_name = {"a": records, "b": moved, "c": records}
    results = dict(find_highlights(clips_by_name, family, OPTIONS, jobs=1, threads=1, limits=Limits()))
    assert "crashed on" in results["a"].note
    assert "does not exist" in results["b"].note
    assert len(results["c"].highlights) == 2
