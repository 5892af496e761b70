"""Crops are preprocessed as the card says, and a row does not depend on its batch."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

import clips
import toy_models
from fervid.analysis.align import align_face
from fervid.analysis.detector import Detector
from fervid.analysis.face_model import BATCH, FaceModel, empty_outputs, expected_age
from fervid.core.errors import ModelIncompatible
from fervid.models import registry
from fervid.models.card import OPTIONAL_OUTPUTS
from fervid.training.expression_evaluation import STYLES

MIN_COSINE, MAX_CHANGE = 0.8, 0.3

COLUMNS = ("embedding", "expression", "age", "gender", "ethnicity", "identity")
RAW = {"size": 8, "colour": "RGB", "mean": [0.0, 0.0, 0.0], "scale": [1.0, 1.0, 1.0]}


def network(folder: Path, **spec: object) -> FaceModel:
    model = registry.load_model(str(toy_models.face_model(folder / "toy.onnx", input=RAW | spec)), "face_model")
    return FaceModel(model.session, model.card)


def crops(count: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, 8, 8, 3), np.uint8)


@pytest.mark.parametrize("count", [0, 1, BATCH - 1, BATCH, BATCH + 1, 3 * BATCH + 2])
def test_row_does_not_depend_on_its_batch(tmp_path: Path, count: int) -> None:
    score, pictures = network(tmp_path, scale=[1 / 255] * 3), crops(count)
    whole = score(pictures)
    assert len(whole) == count
    assert whole.embedding.shape == (count, 3)
    assert whole.expression.shape == (count, 2)
    for i in range(count):
        alone = score(pictures[i : i + 1])
        for column in COLUMNS:
            assert getattr(whole, column)[i] == pytest.approx(getattr(alone, column)[0], rel=1e-6)


@pytest.mark.parametrize(
    ("count", "batches"),
    [
        (0, []),
        (1, [1]),
        (BATCH - 1, [BATCH - 1]),
        (BATCH, [BATCH]),
        (BATCH + 1, [BATCH, 1]),
        (2 * BATCH, [BATCH, BATCH]),
    ],
)
def test_crops_are_run_in_batches(tmp_path: Path, count: int, batches: list[int]) -> None:
    real, seen = network(tmp_path), []

    def run(names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        seen.append(len(feed["crops"]))
        assert feed["crops"].dtype == np.float32
        assert feed["crops"].flags.c_contiguous
        return real.session.run(names, feed)

    FaceModel(SimpleNamespace(run=run, get_outputs=real.session.get_outputs), real.card)(crops(count))
    assert seen == batches


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, [200, 100, 50]),
        ({"colour": "BGR"}, [50, 100, 200]),
        ({"mean": [10.0, 20.0, 30.0]}, [190, 80, 20]),
        ({"mean": [10.0, 20.0, 30.0], "colour": "BGR"}, [40, 80, 170]),
        ({"scale": [0.5, 0.1, 0.01]}, [100, 10, 0.5]),
        ({"mean": [100.0, 100.0, 100.0], "scale": [0.01, 0.02, 0.03], "colour": "BGR"}, [-0.5, 0, 3]),
        ({"mean": [127.5] * 3, "scale": [1 / 127.5] * 3}, [0.568627, -0.215686, -0.607843]),
    ],
    ids=["as it is", "turned", "mean", "mean of the turned", "scale", "mean before scale", "to one"],
)
def test_preprocessing_follows_card(tmp_path: Path, spec: dict[str, object], expected: list[float]) -> None:
    plain = np.broadcast_to(np.uint8([200, 100, 50]), (1, 8, 8, 3))
    assert network(tmp_path, **spec)(plain).embedding[0] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_crops_are_not_transposed_or_flipped(tmp_path: Path) -> None:
    nodes = [("Flatten", ["crops"], "embedding", {}), ("ReduceMean", ["crops"], "gender", {"axes": [1, 2, 3]})]
    nodes += [("Softmax", ["embedding"], name, {"axis": 1}) for name in ("expression", "age", "ethnicity", "identity")]
    inputs = {"crops": (1, ["n", 3, 2, 2])}
    path = toy_models.save(
        tmp_path / "flat.onnx", nodes, {}, inputs, COLUMNS, toy_models.FACE_MODEL | {"input": RAW | {"size": 2}}
    )
    model = registry.load_model(str(path), "face_model")
    crop = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    scores = FaceModel(model.session, model.card)(crop)
    assert scores.embedding[0].tolist() == [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]


def test_every_output_has_its_column(tmp_path: Path) -> None:
    scores = network(tmp_path, scale=[0.01, 0.01, 0.01])(np.broadcast_to(np.uint8([50, 100, 0]), (2, 8, 8, 3)))
    dark, bright = np.exp([-1.5, 1.5]) / np.exp([-1.5, 1.5]).sum()
    assert scores.expression == pytest.approx(np.array([[dark, bright]] * 2), rel=1e-5)
    assert scores.gender == pytest.approx([1 / (1 + np.exp(-1))] * 2, rel=1e-5)
    nearness = np.exp(-np.abs(5 - np.arange(10)))
    assert scores.age == pytest.approx([1 + nearness @ np.arange(10) / nearness.sum()] * 2, rel=1e-4)
    assert scores.identity.tolist() == scores.embedding.tolist()


def test_empty_outputs_have_widths_of_card() -> None:
    scores = empty_outputs(toy_models.FACE_MODEL | {"embedding": 7, "expressions": list("abcd")})
    assert len(scores) == 0
    assert scores.embedding.shape == (0, 7)
    assert scores.expression.shape == (0, 4)
    assert scores.age.shape == scores.gender.shape == (0,)


@pytest.mark.parametrize(
    ("probabilities", "first", "years"),
    [
        ([1, 0, 0], 1, 1),
        ([0, 0, 1], 1, 3),
        ([0.5, 0.5, 0], 1, 1.5),
        ([0.25, 0.75], 0, 0.75),
        ([0.1, 0.6, 0.3], 0, 1.2),
        ([0.6, 0.1, 0.3], 0, 0.7),
        ([0.4, 0.1, 0.1, 0.4], 20, 21.5),
        ([0.02, 0.03, 0.05, 0.9], 1, 3.83),
    ],
)
def test_expected_age_is_probability_weighted_mean(probabilities: list[float], first: int, years: float) -> None:
    assert expected_age(np.float32([probabilities]), first) == pytest.approx([years], rel=1e-5)


def test_expected_age_has_one_value_per_row() -> None:
    rows = np.eye(5, dtype=np.float32)[[4, 0, 2]]
    ages = expected_age(rows, 10)
    assert ages.tolist() == [14, 10, 12]
    assert ages.dtype == np.float32
    assert expected_age(np.zeros((0, 5), np.float32), 10).shape == (0,)


def test_model_may_have_expressions_only(tmp_path: Path) -> None:
    whole = onnx.load(toy_models.face_model(tmp_path / "whole.onnx"))
    del whole.graph.output[2:]
    card = {
        key: value for key, value in toy_models.FACE_MODEL.items() if key not in set().union(*OPTIONAL_OUTPUTS.values())
    }
    model = registry.load_model(str(toy_models.write(tmp_path / "plain.onnx", whole, card)), "face_model")
    some, none = (FaceModel(model.session, model.card)(crops(count)) for count in (3, 0))
    assert some.widths == none.widths == (3, 2, 0, 0, 0, 0)
    assert (len(some), len(none), len(some[[0, 2]])) == (3, 0, 2)


@pytest.mark.parametrize("key", ["first_age", "genders", "ethnicities", "identity", "tracking"])
def test_outputs_named_by_card_must_exist(tmp_path: Path, key: str) -> None:
    output = next(name for name, keys in OPTIONAL_OUTPUTS.items() if key in keys)
    whole = onnx.load(toy_models.face_model(tmp_path / "whole.onnx"))
    kept = [value for value in whole.graph.output if value.name != output]
    del whole.graph.output[:]
    whole.graph.output.extend(kept)
    path = toy_models.write(tmp_path / "plain.onnx", whole, toy_models.FACE_MODEL)
    with pytest.raises(ModelIncompatible, match=f"no input or output named {output}"):
        registry.load_model(str(path), "face_model")


@pytest.mark.parametrize("style", list(STYLES))
@pytest.mark.parametrize("person", range(4))
def test_shipped_model_is_robust_to_image_style(style: str, person: int) -> None:
    """Greyscale, 48 pixels or a tight crop, as in other datasets."""
    loaded = registry.load_model(registry.DEFAULTS["detector"], "detector")
    image = clips.portrait(320, 240, 1.6, person=person)
    (face, *_) = Detector(loaded.session, loaded.card).detect(image)
    shipped = registry.load_model(registry.DEFAULTS["face_model"], "face_model")
    plain = align_face(image, face, shipped.card["input"]["size"])
    scores = FaceModel(shipped.session, shipped.card)(np.stack([plain, STYLES[style](plain)]))
    plain_embedding, styled_embedding = scores.embedding
    norms = np.linalg.norm(plain_embedding), np.linalg.norm(styled_embedding)
    assert plain_embedding @ styled_embedding / norms[0] / norms[1] > MIN_COSINE
    assert np.abs(scores.expression[0] - scores.expression[1]).max() < MAX_CHANGE
