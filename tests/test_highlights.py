"""The strongest moments of a clip, looked at again by the models that answered."""

from __future__ import annotations

import base64
import hashlib
import os
import signal
from collections.abc import Mapping, Sequence
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
from fervid.analysis import highlights
from fervid.analysis.aggregate import WindowSpec
from fervid.analysis.extractor import Options
from fervid.analysis.highlights import HighlightExtractor, find_highlights, load_recorded_models, top_window_per_label
from fervid.core.errors import ModelIncompatible, ModelNotFound
from fervid.core.worker_pool import Limits
from fervid.media.sampling import Sampling
from fervid.models import registry

Record = Mapping[str, Any]
OPTIONS = Options(Sampling(5.0), min_face=toy_models.FACE)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return toy_models.family(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four seconds: two of the first label, one of nobody, one of the second."""
    faces = [toy_models.FIRST] * 50 + [None] * 25 + [toy_models.SECOND] * 25
    path = tmp_path_factory.mktemp("moments") / "clip.mp4"
    return str(clips.write(path, [toy_models.picture(face) for face in faces], options={"crf": "4"}))


@pytest.fixture(scope="module")
def said(family: dict[str, str], clip: str) -> list[Record]:
    """What `fervid timeline` says of the clip."""
    classifier = fervid.load_classifier(**family, options=OPTIONS, threads=1)
    return [window.as_dict() for window in classifier.timeline(clip, WindowSpec(1.0, 1.0))]


def looked(
    said: Sequence[Record], family: dict[str, str], options: Options = OPTIONS, **more: Any
) -> highlights.ClipHighlights:
    ((path, found),) = find_highlights({said[0]["path"]: said}, family, options, **more)
    assert path == said[0]["path"]
    return found


def test_the_strongest_window_of_each_label_is_found_in_order_of_time() -> None:
    records = [one.as_dict() for one in html_pages.windows("a", [0.75, 0.125, None, 0.875, 0.875, 0.25])]
    assert [(one["label"], one["start_s"]) for one in top_window_per_label(records)] == [("joy", 1.0), ("calm", 3.0)]
    assert top_window_per_label([records[2]]) == []


def test_moments_are_explained_by_the_models_that_answered(said: list[Record], family: dict[str, str]) -> None:
    found = looked(said, family)
    assert found.note == ""
    assert [moment.record["label"] for moment in found.moments] == ["first", "second"]
    for moment in found.moments:
        told = moment.explanation
        assert told is not None
        assert (moment.note, moment.thumbnail, told.label) == ("", None, moment.record["label"])
        assert told.confidence == pytest.approx(moment.record["confidence"], abs=0.02)
        assert told.nothing == pytest.approx(1 / 3)
        assert told.shares == pytest.approx({"embedding, mean": told.confidence - told.nothing})


def test_a_thumbnail_shows_the_frame_that_was_surest(said: list[Record], family: dict[str, str]) -> None:
    first, second = looked(said, family, thumbnails=True).moments
    for moment, colour in ((first, toy_models.FIRST), (second, toy_models.SECOND)):
        assert moment.record["start_s"] <= moment.time < moment.record["end_s"]
        kind, _, data = moment.thumbnail.partition(",")
        assert kind == "data:image/jpeg;base64"
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR_RGB)
        assert picture.shape == (256, 256, 3)
        assert picture[120, 40] == pytest.approx(np.array(colour), abs=12)


def test_thumbnails_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(highlights, "THUMBNAIL_PX", 40)
    data = base64.b64decode(highlights._jpeg(np.zeros((10, 80, 3), np.uint8)).partition(",")[2])
    assert cv2.imdecode(np.frombuffer(data, np.uint8), 1).shape == (5, 40, 3)


def test_only_some_labels_are_told_apart_as_they_were(clip: str, family: dict[str, str]) -> None:
    options = replace(OPTIONS, labels=("second", "third"))
    classifier = fervid.load_classifier(**family, options=options, threads=1)
    records = [window.as_dict() for window in classifier.timeline(clip, WindowSpec(1.0, 1.0))]
    for moment in looked(records, family).moments:
        assert moment.note == ""
        assert moment.explanation.nothing == pytest.approx(0.5)


def test_a_clip_that_changed_is_said_to_have_changed(
    said: list[Record], family: dict[str, str], tmp_path: Path
) -> None:
    path = clips.write(tmp_path / "other.mp4", [toy_models.picture(toy_models.THIRD)] * 50, options={"crf": "4"})
    moved = [{**record, "path": str(path)} for record in said]
    first, second = looked(moved, family).moments
    assert "On looking again the answer is third" in first.note
    assert (second.explanation, "no face was seen here: the clip has changed" in second.note) == (None, True)
    nobody = clips.write(tmp_path / "nobody.mp4", clips.scenery(100))
    gone = looked([{**record, "path": str(nobody)} for record in said], family)
    assert gone == highlights.ClipHighlights(note="On looking again no face was seen here: the clip has changed.")


def test_a_clip_that_is_gone_is_said_to_be_gone(said: list[Record], family: dict[str, str], tmp_path: Path) -> None:
    found = looked([{**record, "path": str(tmp_path / "gone.mp4")} for record in said], family, thumbnails=True)
    assert not found.moments
    assert "gone.mp4 does not exist" in found.note


@pytest.mark.parametrize("name", ["mirrored", "upside-down", "mirrored-and-turned-right"])
def test_a_thumbnail_is_turned_and_mirrored_as_players_do(tmp_path: Path, name: str) -> None:
    matrix, shown = clips.ORIENTATIONS[name]
    image = clips.portrait(160, 128, 0.8)
    path = clips.orient(clips.write(tmp_path / "clip.mp4", [image] * 3), *matrix)
    url = highlights._thumbnail(str(path), 0.04, OPTIONS)
    assert url is not None
    found = cv2.imdecode(np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert np.abs(found.astype(int) - shown(image)).mean() < 8


def test_a_thumbnail_that_cannot_be_read_any_more_is_left_out(tmp_path: Path, clip: str) -> None:
    assert highlights._thumbnail(str(tmp_path / "gone.mp4"), 0.0, OPTIONS) is None
    assert highlights._thumbnail(clip, 0.0, OPTIONS) is not None


def test_labels_that_the_classifier_does_not_have_are_said(said: list[Record], family: dict[str, str]) -> None:
    strange = {**said[0], "label": "x", "probabilities": {"x": 0.9, "first": 0.1}}
    assert looked([strange], family).note == "toy-classifier does not know x."


def test_models_are_those_that_answered(said: list[Record], family: dict[str, str], tmp_path: Path) -> None:
    named = said[0]["model"]
    assert isinstance(load_recorded_models(named, family, OPTIONS), HighlightExtractor)
    with pytest.raises(ModelNotFound, match=r"toy-classifier, is not known here by that name; .* --classifier"):
        load_recorded_models(named, {role: path for role, path in family.items() if role != "classifier"}, OPTIONS)
    path = {**named, "classifier": {"name": family["classifier"], "sha256": named["classifier"]["sha256"]}}
    with pytest.raises(ModelNotFound, match=r"not known here by that name"):
        load_recorded_models(path, {role: path for role, path in family.items() if role != "classifier"}, OPTIONS)
    other = toy_models.family(tmp_path, note="another")
    with pytest.raises(ModelIncompatible, match=r"is not the classifier that answered .* --classifier"):
        load_recorded_models(named, {**family, "classifier": other["classifier"]}, OPTIONS)
    roles: tuple[registry.Kind, ...] = ("detector", "network", "classifier")
    shipped = {role: registry.load_model(registry.DEFAULTS[role], role).identity for role in roles}
    answered = {role: {"name": one.name, "sha256": one.sha256} for role, one in shipped.items()}
    assert load_recorded_models(answered, family, OPTIONS).classifier.identity == shipped["classifier"]
    with pytest.raises(ModelNotFound, match="names no network"):
        load_recorded_models({"detector": named["detector"]}, family, OPTIONS)
    stray = toy_models.classifier(tmp_path / "stray.onnx", 25 * np.eye(3))
    sha256 = hashlib.sha256(stray.read_bytes()).hexdigest()
    with pytest.raises(ModelIncompatible, match="fitted on another network"):
        load_recorded_models(
            {**named, "classifier": {"name": "stray", "sha256": sha256}}, {**family, "classifier": str(stray)}, OPTIONS
        )


def test_a_model_that_is_not_here_costs_the_clips_that_it_answered(said: list[Record], family: dict[str, str]) -> None:
    unknown = [{**record, "path": "x", "model": {}} for record in said]
    silent = [record for record in said if record["label"] is None]
    found = dict(find_highlights({"a": said, "b": unknown, "c": silent}, family, OPTIONS))
    assert len(found["a"].moments) == 2
    assert "names no detector" in found["b"].note
    assert found["c"] == highlights.ClipHighlights()


def test_a_clip_that_crashes_its_process_costs_itself(
    said: list[Record], family: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = [{**record, "path": "/nowhere/at all.mp4"} for record in said]
    found = dict(find_highlights({"a": moved, "b": said}, family, OPTIONS, jobs=1, threads=1, limits=Limits()))
    assert "does not exist" in found["a"].note
    assert len(found["b"].moments) == 2
    monkeypatch.setattr(highlights, "load_recorded_models", lambda *_, **__: _die)
    found = dict(find_highlights({"b": said}, family, OPTIONS, jobs=1, threads=1))
    assert "crashed on" in found["b"].note


def _die(windows: Sequence[Record]) -> list[highlights.Highlight]:
    os.kill(os.getpid(), signal.SIGSEGV)
    return []
