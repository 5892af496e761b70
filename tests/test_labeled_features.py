"""Training and evaluation use different clips, and clips without a face count as errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import feature_fixtures
from feature_fixtures import known, parted, rated
from fervid.analysis.early_exit import STRIDES
from fervid.core.errors import DatasetError, InputError, NoFaceError, UsageError
from fervid.core.records import ClipFeatures
from fervid.learn.classifier_export import to_onnx
from fervid.learn.dataset import Dataset, validate_dataset
from fervid.learn.dataset_layouts import Sample
from fervid.learn.feature_extraction import ClipFeaturesRow
from fervid.learn.figures import find_figure
from fervid.learn.labeled_features import build_feature_table, feature_provenance, label_features, relative_to_people
from fervid.learn.model_evaluation import evaluate_model, predict_with_model
from fervid.learn.model_selection import make_candidates
from fervid.learn.training import train_classifier
from fervid.models import registry

pytestmark = pytest.mark.usefixtures("quick")
LINEAR = make_candidates(["mean"], ["linear"])[:2]


def loaded(place: Path, data: bytes, name: str = "mine.onnx") -> registry.Model:
    (place / name).write_bytes(data)
    kind = "classifier" if b'"kind": "classifier"' in data else "regressor"
    return registry.load_model(str(place / name), kind)


# What clips will do


def found(*samples: Sample) -> Dataset:
    return Dataset("set", samples)


def clip(label: str | None, person: str | None = None, source: str = "list:1", **ratings: float) -> Sample:
    return Sample(Path("a.mp4"), label, person, None, ratings, source)


@pytest.mark.parametrize(
    ("samples", "options", "words"),
    [
        ([clip("joy"), clip(None)], {}, r"a\.mp4 \(list:1\) has no label; .*--target"),
        ([clip("joy"), clip(None, source="")], {}, r"a\.mp4 has no label"),
        ([clip("joy")], {}, "set has only the class joy"),
        (
            [clip("joy", "A"), clip("joy", "B"), clip("fear", "A")],
            {},
            r"^fear \(list:1\): .*two or more people.*--group-by none",
        ),
        ([clip("joy", valence=1), clip("joy")], {"target": "valence"}, "no rating 'valence'"),
        ([clip("joy"), clip("bored")], {"model_labels": ["joy", "fear"]}, "no label bored; .*--labels joy$"),
        ([clip("bored")], {"model_labels": ["joy", "fear"]}, "no label bored; .* joy, fear; use another"),
        ([clip(None)], {"model_labels": ["joy"]}, "has no label"),
    ],
)
def test_unusable_clips_are_refused(samples: list[Sample], options: dict[str, Any], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        validate_dataset(found(*samples), **options)


@pytest.mark.parametrize(
    ("samples", "options"),
    [
        ([clip("joy", "A"), clip("fear", "A")], {"group": "none"}),
        ([clip("joy", "A"), clip("joy", "B"), clip("fear", "A"), clip("fear", "C")], {}),
        ([clip("joy"), clip("fear")], {}),
        ([clip("joy", "A")], {"model_labels": ["joy", "fear"]}),
        ([clip(None, valence=1.0)], {"target": "valence"}),
    ],
)
def test_usable_clips_are_labelled(samples: list[Sample], options: dict[str, Any]) -> None:
    validate_dataset(found(*samples), **options)


def test_groups_by_name_by_face_or_none() -> None:
    clips, table = feature_fixtures.told_apart(people=3)
    nameless = replace(table, samples=tuple(replace(one, person=None) for one in clips))
    named, seen, alone = (
        label_features(found(*one.samples), one, group=group).groups
        for one, group in ((table, "auto"), (nameless, "auto"), (table, "none"))
    )
    assert named.tolist() == sorted(named) == [0] * 4 + [1] * 4 + [2] * 4
    assert len({(a, b) for a, b in zip(named.tolist(), seen.tolist(), strict=True)}) == 3
    assert seen.tolist() == named.tolist()
    assert alone is None
    some = replace(table, samples=(*clips[:4], *nameless.samples[4:]))
    assert label_features(found(*some.samples), some).groups.tolist() == named.tolist()
    blind = replace(nameless, statistics={"embedding.mean": table.statistics["embedding.mean"]})
    with pytest.raises(UsageError, match=r"do not identify people.*--group-by none"):
        label_features(found(*clips), blind)
    assert label_features(found(*clips), blind, group="none").groups is None


def test_no_face_clips_are_counted() -> None:
    features = ClipFeatures({"embedding.mean": np.ones(3, np.float32)}, 2)
    seen, nobody = (
        ClipFeaturesRow(clip("joy"), features),
        ClipFeaturesRow(clip("fear"), None, error=NoFaceError("nobody")),
    )
    table = build_feature_table(iter([nobody, seen]), feature_fixtures.ABOUT)
    assert (table.samples, table.no_face_samples) == ((seen.sample,), (nobody.sample,))
    broken = [ClipFeaturesRow(clip("joy"), None, error=InputError(f"{i}.mp4 is empty")) for i in range(4)]
    every = "; ".join(rf"{i}\.mp4 is empty" for i in range(4))
    with pytest.raises(DatasetError, match=rf"^4 clips cannot be read: {every}; repair or remove .*--skip-broken"):
        build_feature_table([seen, *broken], feature_fixtures.ABOUT)
    with pytest.raises(DatasetError, match=r"^1 clip cannot be read: "):
        build_feature_table([seen, broken[0]], feature_fixtures.ABOUT)
    table = build_feature_table([seen, *broken, nobody], feature_fixtures.ABOUT, skip_broken=True)
    assert (table.samples, table.no_face_samples) == ((seen.sample,), (nobody.sample,))
    assert table.unreadable_samples == tuple(row.sample for row in broken)


def test_provenance_of_features(tmp_path: Path) -> None:
    extractor = feature_fixtures.extractor(tmp_path)
    assert feature_provenance(extractor) == feature_fixtures.ABOUT | {
        "face_model_sha256": extractor.face_model.identity.sha256
    }
    quantised = feature_fixtures.extractor(tmp_path, quantised_from="f" * 64)
    assert feature_provenance(quantised)["face_model_sha256"] == "f" * 64


# Studies


def test_truth_and_examples() -> None:
    one = known()
    assert one.labels == ("calm", "joy")
    assert one.truth.tolist() == [0, 0, 1, 1] * 6
    examples = one.training_data(["mean", "mean+std"])
    assert {name: matrix.shape for name, matrix in examples.matrices.items()} == {"mean": (24, 3), "mean+std": (24, 6)}
    assert examples.groups.tolist() == one.groups.tolist()
    assert rated(10).truth.tolist() == pytest.approx(np.linspace(1, 9, 10).tolist())


def test_features_are_centred_by_person_in_each_part() -> None:
    one = replace(known(each=3), center="person")
    x, plain = (study.matrix(["embedding.mean", "embedding.std"]) for study in (one, known(each=3)))
    for person in np.unique(one.groups):
        rows = one.groups == person
        assert x[rows, :3].mean(axis=0) == pytest.approx(np.zeros(3), abs=1e-6)
        assert x[rows, :3] == pytest.approx(plain[rows, :3] - plain[rows, :3].mean(axis=0), abs=1e-6)
    assert np.array_equal(x[:, 3:], plain[:, 3:])  # deviations are left alone
    assert np.array_equal(one.training_data(["mean+std"]).matrices["mean+std"], x)
    learnt, held = replace(parted(each=3), center="person").held_out()
    for part in (learnt, held):
        sums = np.zeros((part.groups.max() + 1, 3))
        np.add.at(sums, part.groups, part.matrix(["embedding.mean"]))
        assert sums == pytest.approx(0, abs=1e-5)


def test_rows_without_face_do_not_count_for_mean_of_person() -> None:
    one = replace(known(each=3, strides=(2,)), center="person")
    one.table.by_stride[2]["embedding.mean"][1] = np.nan
    x = one.matrix(["embedding.mean"], 2)
    assert np.isnan(x[1]).all()
    assert x[one.groups == 0][[0, 2, 3, 4, 5]].mean(axis=0) == pytest.approx(np.zeros(3), abs=1e-6)


def test_people_with_few_clips_are_compared_with_usual_mean() -> None:
    """Of the first person there are four clips, as many as say nothing at use."""
    whole = known(each=3)
    few = replace(whole, table=whole.table[np.arange(36) > 1], groups=whole.groups[2:], center="person")
    x, plain = few.matrix(["embedding.mean"]), few.table.statistics["embedding.mean"]
    means = np.stack([plain[few.groups == group].mean(axis=0) for group in range(6)])
    assert x[:4] == pytest.approx(plain[:4] - means.mean(axis=0), abs=1e-4)
    assert x[4:10] == pytest.approx(plain[4:10] - means[1], abs=1e-5)
    given = few.matrix(["embedding.mean"], fallback_means={"embedding.mean": [1.0, 2.0, 3.0]})
    assert given[:4] == pytest.approx(plain[:4] - [1, 2, 3], abs=1e-5)
    assert given[4:] == pytest.approx(x[4:])


def test_card_has_mean_for_people_with_few_clips(tmp_path: Path) -> None:
    one = replace(known(each=3), center="person")
    data, card, _ = train_classifier(one, LINEAR, "mine", 3)
    assert card["average_statistics"].keys() == {"embedding.mean"}
    model = loaded(tmp_path, data)
    few = known()
    told = predict_with_model(few, model)
    rows = few.table.statistics["embedding.mean"] - np.float32(card["average_statistics"]["embedding.mean"])
    assert told == pytest.approx(model.session.run(["probabilities"], {"features": rows})[0], abs=1e-5)


def test_centering_needs_people_with_five_clips() -> None:
    with pytest.raises(UsageError, match="leave out --group-by none"):
        replace(known(), groups=None, center="person").training_data(["mean"])
    clips = feature_fixtures.samples(["joy", "calm"] * 4, [f"p{i % 2}" for i in range(8)])
    with pytest.raises(DatasetError, match=r"nobody has 5 clips.*--center person"):
        label_features(found(*clips), feature_fixtures.table(clips, np.zeros((8, 3))), center="person")


def test_statistics_of_groups_need_everybody() -> None:
    with pytest.raises(UsageError, match=r"group need embedding\.across_faces\.mean; .*--face all"):
        known().training_data(["group"])


def test_class_without_faces_is_refused() -> None:
    no_face_samples = feature_fixtures.samples(["fear"] * 2, ["x", "y"])
    with pytest.raises(DatasetError, match=r"no face found in any training clip of fear in set.*--labels"):
        train_classifier(known(no_face_samples=no_face_samples), LINEAR, "mine")


def test_parts_keep_their_people_and_faceless_clips() -> None:
    whole = parted(feature_fixtures.samples(["joy", "calm"], splits=["val", "train"]), held=("val", "test"))
    learnt, held = whole.held_out()
    assert (len(learnt.table.samples), len(held.table.samples)) == (24, 8)
    assert not set(learnt.groups) & set(held.groups)
    assert ([one.label for one in learnt.no_face_samples], [one.label for one in held.no_face_samples]) == (
        ["calm"],
        ["joy"],
    )
    assert whole.split(("test",)).no_face_samples == ()
    assert known().held_out() is None
    assert parted().split(("train",)).held_out() is None
    with pytest.raises(DatasetError, match=r"no clip of set in the unheard split shows a face.*--split"):
        whole.split(("unheard",))


def test_split_without_faces_is_refused() -> None:
    learnt = parted().split(("train",))
    no_face_samples = feature_fixtures.samples(["joy"], splits=["val"])
    with pytest.raises(DatasetError, match="in the val/test split shows a face"):
        train_classifier(replace(learnt, table=replace(learnt.table, no_face_samples=no_face_samples)), LINEAR, "mine")


def test_reports_count_faceless_clips_as_wrong() -> None:
    one = known(no_face_samples=feature_fixtures.samples(["joy", "calm"]))
    said = np.eye(2, dtype=np.float32)[one.truth]
    report = one.evaluate(said)
    assert (report["answered"]["count"], report["answered"]["accuracy"]["value"]) == (24, 1)
    assert (report["all"]["count"], report["all"]["accuracy"]["value"]) == (26, round(24 / 26, 4))
    alone = replace(one, groups=None).evaluate(said)
    assert alone["all"]["count"] == 26
    predictions = one.predictions(said)
    assert len(set(predictions.groups)) == 8
    more = replace(one, labels=("calm", "joy")).evaluate(
        np.eye(3, dtype=np.float32)[one.truth + 1], ("fear", *one.labels)
    )
    assert more["answered"]["recall"] == {"fear": None, "calm": 1, "joy": 1}


def test_reports_of_ratings() -> None:
    one = rated(no_face_samples=feature_fixtures.samples([None], ratings=[{"valence": 2.0}]))
    report = one.evaluate(one.truth.astype(np.float32) + 0.5)
    assert (report["clips"], report["unanswered"]) == (31, 1)
    assert report["mae"]["value"] == pytest.approx(0.5)


# Fitting


def test_trained_classifier_reports_metrics(tmp_path: Path) -> None:
    labels = ("calm", "fear", "joy")
    one = known(labels, feature_fixtures.samples(["joy"]))
    data, card, evaluations = train_classifier(one, LINEAR, "mine", 3)
    model = loaded(tmp_path, data)
    assert model.card == card
    assert model.identity.name == "mine"
    assert card["labels"] == list(labels)
    assert card["statistics"] == ["embedding.mean"]
    assert {key: card[key] for key in ("face_model", "face_model_sha256", "detector", "face")} == {
        key: feature_fixtures.ABOUT[key] for key in ("face_model", "face_model_sha256", "detector", "face")
    }
    clips = dict.fromkeys(labels, 12)
    assert card["data"] == {"name": "set", "clips": clips, "people": 6, "no_face": 1}
    assert card["candidates"].keys() == {str(way) for way in LINEAR}
    assert card["recipe"].startswith("linear (")
    ((name, report),) = evaluations.items()
    assert name == "cross_validation_by_person"
    figure = find_figure(card["figures"], protocol="cross-validated by person, all clips", metric="accuracy")
    assert figure == {
        "dataset": "set",
        "split": "all",
        "protocol": "cross-validated by person, all clips",
        "metric": "accuracy",
        **report["all"]["accuracy"],
    }
    assert report["answered"]["uar"]["value"] > 0.9
    assert report["all"]["count"] == 12 * len(labels) + 1
    said = predict_with_model(one, model)
    assert (said.argmax(axis=1) == one.truth).mean() > 0.9


def test_centering_separates_people_who_look_different(tmp_path: Path) -> None:
    """What tells people apart is far more than what they show."""
    one = known(people=8, each=3)
    looks = np.random.default_rng(0).normal(scale=30, size=(8, 3)).astype(np.float32)[one.groups]
    for name in ("embedding.mean", "embedding.max"):
        one.table.statistics[name][:] += looks
    ways = make_candidates(["mean", "max"], ["linear"], ["standard"])
    (plain,) = train_classifier(one, ways, "mine", 3).evaluations.values()
    data, card, evaluations = train_classifier(replace(one, center="person"), ways, "mine", 3)
    (centered,) = evaluations.values()
    assert card["center"] == "person"
    assert centered["answered"]["uar"]["value"] > 0.95 > plain["answered"]["uar"]["value"]
    model = loaded(tmp_path, data)
    assert (predict_with_model(one, model).argmax(axis=1) == one.truth).mean() > 0.95
    with pytest.raises(UsageError, match="leave out --group-by none"):
        predict_with_model(replace(one, groups=None), model)


def test_ungrouped_clips_are_named_in_card() -> None:
    _, card, evaluations = train_classifier(replace(known(), groups=None), LINEAR, "mine", 3)
    assert list(evaluations) == ["cross_validation_by_clip"]
    assert card["data"]["people"] is None


def test_held_out_split_is_not_trained_on() -> None:
    whole = parted(feature_fixtures.samples(["joy"], splits=["val"]), held=("val", "test"))
    upside_down = np.where([one.split == "train" for one in whole.table.samples], 1, -1)[:, None].astype(np.float32)
    statistics = {name: matrix * upside_down for name, matrix in whole.table.statistics.items()}
    _, card, evaluations = train_classifier(
        replace(whole, table=replace(whole.table, statistics=statistics)), LINEAR, "mine", 3
    )
    inside, held = evaluations.values()
    assert list(evaluations) == ["cross_validation_by_person", "held_out"]
    assert {figure["split"] for figure in card["figures"]} == {"train", "test/val"}
    assert inside["answered"]["accuracy"]["value"] > 0.9
    assert inside["all"]["count"] == 24
    assert held["answered"]["accuracy"]["value"] < 0.6
    assert (held["answered"]["count"], held["all"]["count"]) == (8, 9)
    assert card["data"]["clips"] == {"calm": 12, "joy": 12}


def test_regressor_is_fitted_on_ratings(tmp_path: Path) -> None:
    one = rated(no_face_samples=feature_fixtures.samples([None], ratings=[{"valence": 2.0}]))
    ways = make_candidates(["mean"], ["rbf"])
    data, card, evaluations = train_classifier(one, ways, "pleasure", 3)
    model = loaded(tmp_path, data)
    assert (card["kind"], card["target"], "labels" in card) == ("regressor", "valence", False)
    assert card["data"] == {"name": "set", "clips": 30, "people": 10, "no_face": 1}
    (report,) = evaluations.values()
    assert report["ccc"]["value"] > 0.8
    assert report["mae"]["value"] < 1
    assert report["unanswered"] == 1
    again = evaluate_model(one, model)
    assert again["ccc"]["value"] > 0.8
    assert predict_with_model(one, model).shape == (30,)


def test_wrong_export_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    right = to_onnx

    def inverted(pipeline: Any, width: int) -> Any:
        model = right(pipeline, width)
        (factor,) = (one for one in model.graph.initializer if one.name == "logits_1")
        factor.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(factor), "logits_1"))
        return model

    monkeypatch.setattr("fervid.learn.training.to_onnx", inverted)
    with pytest.raises(DatasetError, match=r"mean recall of 0\.000 on its own training clips.*is not written; try"):
        train_classifier(known(), LINEAR, "mine", 3)


def test_few_people_train_a_usable_file(tmp_path: Path) -> None:
    """14 people with two clips each, of whom held-out folds say little."""
    few = known(people=14, each=1, noise=2.5)
    data, _, evaluations = train_classifier(few, LINEAR, "mine", 3)
    (report,) = evaluations.values()
    answers = predict_with_model(few, loaded(tmp_path, data)).argmax(axis=1)
    assert (answers == few.truth).mean() >= report["answered"]["accuracy"]["interval"][0]


def test_thresholds_for_few_frames_are_set_on_other_people(tmp_path: Path) -> None:
    one = known(people=8, each=3, strides=STRIDES)
    lost = one.table.by_stride[8]["embedding.mean"]
    lost[:] = np.nan
    data, card, _ = train_classifier(one, LINEAR, "mine", 3, early_exit_error=0.02)
    assert [level["stride"] for level in card["early_exit"]["levels"]] == list(STRIDES)
    assert card["early_exit"]["accuracy"] > 0.9
    assert 0.25 <= card["early_exit"]["frame_fraction"] <= 1
    few = evaluate_model(one, loaded(tmp_path, data), adaptive=True)["early_exit"]
    assert few["accuracy"] > 0.9
    assert 0.25 <= few["frame_fraction"] <= 1


def test_features_relative_to_people_are_written_and_not_trained_on() -> None:
    clips, features = feature_fixtures.told_apart(people=3, each=2)
    rng = np.random.default_rng(0)
    logits = {f"logit.{kind}": rng.normal(2, 1, (len(clips), 8)).astype(np.float32) for kind in ("mean", "std")}
    features = replace(features, statistics={**features.statistics, **logits})
    moved = relative_to_people(features)
    people = np.array([clip.person for clip in clips])
    for person in np.unique(people):
        np.testing.assert_allclose(moved.statistics["logit.mean"][people == person].mean(axis=0), 0, atol=1e-6)
    for name in ("logit.std", "embedding.mean"):
        np.testing.assert_array_equal(moved.statistics[name], features.statistics[name])
    with pytest.raises(UsageError, match="train with --center person"):
        label_features(Dataset("set", clips), moved)
