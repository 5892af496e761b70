"""Models are evaluated on clips that they were not trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import feature_fixtures
import toy_models
from feature_fixtures import known, parted, rated
from fervid.core.errors import DatasetError, ModelIncompatible, UsageError
from fervid.learn.labeled_features import LabeledFeatures
from fervid.learn.model_evaluation import check_face_model, compare_configurations, evaluate_model, predict_with_model
from fervid.learn.model_selection import make_candidates
from fervid.learn.training import train_classifier
from fervid.models import registry

pytestmark = pytest.mark.usefixtures("quick")


def toy(place: Path, weights: Sequence[Sequence[float]] = ((9, 0), (0, 9), (0, 0)), **card: Any) -> registry.Model:
    """Says calm of clips whose first value is the higher one, and joy of the others."""
    path = toy_models.classifier(place / "toy.onnx", weights, **{"labels": ["calm", "joy"], **card})
    return registry.load_model(str(path), "classifier")


# Measuring


def test_predict(tmp_path: Path) -> None:
    one = known(strides=(2,))
    one.table.by_stride[2]["embedding.mean"][5, 1] = np.nan
    model = toy(tmp_path)
    said = predict_with_model(one, model, stride=2)
    assert np.flatnonzero(np.isnan(said).all(axis=1)).tolist() == [5]
    assert not np.isnan(np.delete(said, 5, axis=0)).any()
    assert predict_with_model(one, model).sum(axis=1) == pytest.approx(np.ones(24))


def test_labels_are_restricted(tmp_path: Path) -> None:
    one = known()
    model = toy(tmp_path, [[0, 5, 1]] * 3, labels=["calm", "fear", "joy"])
    assert predict_with_model(one, model, ["joy", "calm"]).argmax(axis=1).tolist() == [0] * 24
    assert predict_with_model(one, model, ["joy", "calm"]).sum(axis=1) == pytest.approx(np.ones(24))
    assert predict_with_model(one, model).argmax(axis=1).tolist() == [1] * 24
    never = toy(tmp_path, [[0, 999, 0]] * 3, labels=["calm", "fear", "joy"])
    assert predict_with_model(one, never, ["calm", "joy"]) == pytest.approx(np.full((24, 2), 0.5))


@pytest.mark.parametrize(
    ("card", "words"),
    [
        (
            {"face_model_sha256": "1" * 64},
            "toy-classifier was fitted on another face model than toy-face_model.*--face-model",
        ),
        ({"statistics": ["embedding.across_faces.mean"]}, r"needs embedding\.across_faces\.mean; .*--face"),
        ({"labels": ["calm"]}, "has no label joy; see --labels"),
        ({"labels": ["calm", "fear", "joy"]}, r"gives \[.*for the labels .* re-export it"),
        ({"statistics": ["embedding.mean", "embedding.std"]}, "does not match its model card"),
    ],
)
def test_incompatible_model_is_refused(card: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ModelIncompatible, match=words):
        predict_with_model(known(), toy(tmp_path, **card), ["calm", "joy"])


@pytest.mark.parametrize("weights", [[[math.nan, 0], [0, 1], [0, 0]], [[0, 0, 9], [0, 9, 0], [0, 0, 0]]])
def test_wrong_number_of_probabilities_is_refused(weights: list, tmp_path: Path) -> None:
    with pytest.raises(ModelIncompatible, match=r"gives \[.*for the labels .* re-export it"):
        predict_with_model(known(), toy(tmp_path, weights, labels=["calm", "joy"]))


def test_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelIncompatible, match="does not match its model card"):
        predict_with_model(rated(), toy(tmp_path))


def test_other_face_model_is_refused(tmp_path: Path) -> None:
    check_face_model(toy(tmp_path), feature_fixtures.ABOUT)
    with pytest.raises(ModelIncompatible, match="another face model"):
        check_face_model(toy(tmp_path), feature_fixtures.ABOUT | {"face_model_sha256": "f" * 64})


@pytest.mark.parametrize(("split", "clips"), [(None, 8), ("all", 32), ("train", 24), ("val", 4), ("test", 4)])
def test_evaluated_split(split: str | None, clips: int, tmp_path: Path) -> None:
    report = evaluate_model(parted(held=("val", "test")), toy(tmp_path, labels=["calm", "joy"]), split=split)
    assert report["clips"] == clips


def test_set_without_splits_is_evaluated_whole(tmp_path: Path) -> None:
    assert evaluate_model(known(), toy(tmp_path))["clips"] == 24
    only_val = parted().split(("val",))
    assert evaluate_model(only_val, toy(tmp_path))["clips"] == 8
    with pytest.raises(DatasetError, match="in the test split shows a face"):
        evaluate_model(known(), toy(tmp_path), split="test")


def digested(one: LabeledFeatures, names: Sequence[str]) -> LabeledFeatures:
    return replace(one, table=replace(one.table, digests=tuple(names)))


def test_training_clips_are_counted(tmp_path: Path) -> None:
    one = digested(known(), [f"{i:016x}" for i in range(24)])
    model = toy(tmp_path, training_digests=[f"{i:016x}" for i in range(20, 40)])
    report = evaluate_model(one, model, model)
    assert (report["training_clips"], report["comparison"]["training_clips"]) == (4, 4)
    assert evaluate_model(one, toy(tmp_path, training_digests=["f" * 16]))["training_clips"] == 0
    for digests in (None, [], "all", {"a": 1}):
        card = {} if digests is None else {"training_digests": digests}
        assert "training_clips" not in evaluate_model(one, toy(tmp_path, **card))
    assert evaluate_model(one, toy(tmp_path, training_digests=[[1], None, f"{0:016x}"]))["training_clips"] == 1
    assert "training_clips" not in evaluate_model(known(), model)  # features of old do not say


def test_only_clips_of_split_count(tmp_path: Path) -> None:
    whole = digested(parted(), [f"{i:016x}" for i in range(32)])
    data, card, _ = train_classifier(whole, make_candidates(["mean"], ["linear"]), "mine", 3)
    (tmp_path / "mine.onnx").write_bytes(data)
    model = registry.load_model(str(tmp_path / "mine.onnx"), "classifier")
    assert len(card["training_digests"]) == 24
    assert evaluate_model(whole, model)["training_clips"] == 0
    assert evaluate_model(whole, model, split="train")["training_clips"] == 24
    assert evaluate_model(whole, model, split="all")["training_clips"] == 24


def test_evaluate_one_clip(tmp_path: Path) -> None:
    one = known()
    single = replace(one, table=one.table[np.array([0])], groups=one.groups[:1])
    report = evaluate_model(single, toy(tmp_path))
    assert report["answered"]["accuracy"]["interval"] is None


def test_classifiers_are_compared_clip_by_clip(tmp_path: Path) -> None:
    good, bad = toy(tmp_path), toy(tmp_path, [[1, 0], [0, 0], [0, 0]], name="bad")
    report = evaluate_model(known(no_face_samples=feature_fixtures.samples(["joy"])), good, bad)
    assert report["comparison"]["name"] == "bad"
    assert (report["comparison"]["clips"], report["comparison"]["only_b_correct"]) == (25, 0)
    assert report["comparison"]["only_a_correct"] == 12
    for other in (
        toy(tmp_path, labels=["fear", "joy"]),
        registry.load_model(str(toy_models.regressor(tmp_path / "r")), "regressor"),
    ):
        with pytest.raises(ModelIncompatible, match="has no label calm"):
            evaluate_model(known(), good, other)


def test_few_frames_need_thresholds(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no early exits"):
        evaluate_model(known(), toy(tmp_path), adaptive=True)
    levels = [{"stride": stride, "confidence": least} for stride, least in ((8, 1.01), (4, 0.0))]
    model = toy(tmp_path, early_exit={"levels": levels})
    one = known(strides=(8, 4), no_face_samples=feature_fixtures.samples(["joy"]))
    one.table.by_stride[4]["embedding.mean"][:12] = np.nan
    few = evaluate_model(one, model, adaptive=True)["early_exit"]
    assert few == {"frame_fraction": round((12 * 16 + 12 * 4) / (24 * 16), 4), "accuracy": 1.0}


# Methods


def test_methods_by_person_on_all_clips() -> None:
    found = compare_configurations(known(), ["mean", "mean+std"], ["linear", "logistic"], 3)
    assert list(found) == ["mean, linear", "mean, logistic", "mean+std, linear", "mean+std, logistic"]
    assert all(report["answered"]["uar"]["value"] > 0.9 for report in found.values())


def test_methods_where_set_has_parts() -> None:
    whole = parted()
    ((name, report),) = compare_configurations(whole, ["mean"], ["logistic"], 3).items()
    assert name == "mean, logistic (0.3)"
    assert report["clips"] == 8
    ((name, report),) = compare_configurations(whole, ["mean"], ["logistic"], 3, cross=True).items()
    assert (name, report["clips"]) == ("mean, logistic", 32)


def test_class_missing_from_training_is_an_error() -> None:
    whole = parted()
    joyless = [one.split == "train" or one.label == "calm" for one in whole.table.samples]
    part = replace(whole, table=whole.table[np.array(joyless)], groups=whole.groups[joyless])
    (report,) = compare_configurations(part, ["mean"], ["logistic"], 3).values()
    assert report["answered"]["recall"]["joy"] is None
    joyless = [one.split == "val" or one.label == "calm" for one in whole.table.samples]
    part = replace(whole, table=whole.table[np.array(joyless)], groups=whole.groups[joyless])
    with pytest.raises(DatasetError, match="training clip of joy"):
        compare_configurations(part, ["mean"], ["logistic"], 3)


def test_split_without_faces_is_refused() -> None:
    learnt = parted().split(("train",))
    table = replace(learnt.table, no_face_samples=feature_fixtures.samples(["joy"], splits=["val"]))
    with pytest.raises(DatasetError, match="in the val/test split shows a face"):
        compare_configurations(replace(learnt, table=table), ["mean"], ["linear"])


def test_methods_with_another_scaling() -> None:
    one = known()
    one.table.statistics["embedding.mean"][:] = 1 + one.truth[:, None]  # which a clip of unit length does not show
    usual, other = (
        compare_configurations(one, ["mean"], ["linear"], 3, scalings=scalings) for scalings in (None, ["standard"])
    )
    assert list(usual) == list(other) == ["mean, linear"]
    assert other["mean, linear"]["answered"]["uar"]["value"] == 1 > usual["mean, linear"]["answered"]["uar"]["value"]


def test_methods_for_ratings() -> None:
    (report,) = compare_configurations(rated(), ["mean"], ["rbf"], 3).values()
    assert report["ccc"]["value"] > 0.8


def test_unfittable_method_is_named() -> None:
    with pytest.raises(DatasetError, match=r"mlp \(0.*\) on mean cannot be fitted on \d clips"):
        compare_configurations(known(people=3), ["mean"], ["linear", "mlp"], 3)
