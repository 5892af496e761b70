"""What is learnt from is not measured by, clips without a face count as wrong, and files answer only what they know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scenes
import toys
from fervid import evaluate, models
from fervid.adaptive import STRIDES
from fervid.dataset import Dataset, Sample
from fervid.errors import DatasetError, InputError, ModelIncompatible, NoFaces, UsageError
from fervid.features import IDENTITY, Row
from fervid.fit import COSTS, candidates, people
from fervid.measure import belongs, measured, methods, said_by
from fervid.records import ClipFeatures
from fervid.study import Study, about, check, looked_at, study, train

LINEAR = candidates(["mean"], ["linear"])[:2]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "RESAMPLES", 20)
    for kind, costs in COSTS.items():
        monkeypatch.setitem(COSTS, kind, costs[:2])


def known(
    labels: Sequence[str] = ("calm", "joy"), faceless: Sequence[Sample] = (), target: str | None = None, **more: Any
) -> Study:
    clips, table = scenes.told_apart(labels, **more)
    return study(Dataset("set", (*clips, *faceless)), table, tuple(faceless), target=target)


def parted(faceless: Sequence[Sample] = (), held: Sequence[str] = ("val",), **more: Any) -> Study:
    """The last two people are for measuring."""
    clips, table = scenes.told_apart(people=8, **more)
    splits = {"p6": held[0], "p7": held[-1]}
    clips = tuple(replace(clip, split=splits.get(clip.person, "train")) for clip in clips)
    return study(Dataset("set", (*clips, *faceless)), replace(table, samples=clips), tuple(faceless))


def rated(count: int = 30, faceless: Sequence[Sample] = (), **more: Any) -> Study:
    values = np.linspace(1, 9, count)
    people = [f"p{i % 10}" for i in range(count)]
    clips = scenes.samples([None] * count, people, ratings=[{"valence": value} for value in values])
    table = scenes.table(clips, (values - 5)[:, None] * [1, 0, 0], **more)
    return study(Dataset("set", (*clips, *faceless)), table, tuple(faceless), target="valence")


def loaded(place: Path, data: bytes, name: str = "mine.onnx") -> models.Model:
    (place / name).write_bytes(data)
    kind = "classifier" if b'"kind": "classifier"' in data else "regressor"
    return models.load(str(place / name), kind)


def toy(place: Path, weights: Sequence[Sequence[float]] = ((9, 0), (0, 9), (0, 0)), **card: Any) -> models.Model:
    """Says calm of clips whose first value is the higher one, and joy of the others."""
    path = toys.classifier(place / "toy.onnx", weights, **{"labels": ["calm", "joy"], **card})
    return models.load(str(path), "classifier")


# What clips will do


def found(*samples: Sample) -> Dataset:
    return Dataset("set", samples)


def clip(label: str | None, person: str | None = None, where: str = "list:1", **ratings: float) -> Sample:
    return Sample(Path("a.mp4"), label, person, None, ratings, where)


@pytest.mark.parametrize(
    ("samples", "options", "words"),
    [
        ([clip("joy"), clip(None)], {}, r"a\.mp4 \(list:1\) has no label; give it one, or name a --target"),
        ([clip("joy"), clip(None, where="")], {}, r"a\.mp4 has no label"),
        ([clip("joy")], {}, "set has only the class joy; it takes two"),
        (
            [clip("joy", "A"), clip("joy", "B"), clip("fear", "A")],
            {},
            "fear \\(.*\\): a class with fewer than two people",
        ),
        ([clip("joy", valence=1), clip("joy")], {"target": "valence"}, "no number for 'valence'"),
        ([clip("joy"), clip("bored")], {"answerable": ["joy", "fear"]}, "know bored, but joy, fear; .*--labels joy$"),
        ([clip("bored")], {"answerable": ["joy", "fear"]}, "know bored, but joy, fear; measure another"),
        ([clip(None)], {"answerable": ["joy"]}, "has no label"),
    ],
)
def test_clips_that_will_not_do(samples: list[Sample], options: dict[str, Any], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        check(found(*samples), **options)


@pytest.mark.parametrize(
    ("samples", "options"),
    [
        ([clip("joy", "A"), clip("fear", "A")], {"group": "none"}),
        ([clip("joy", "A"), clip("joy", "B"), clip("fear", "A"), clip("fear", "C")], {}),
        ([clip("joy"), clip("fear")], {}),
        ([clip("joy", "A")], {"answerable": ["joy", "fear"]}),
        ([clip(None, valence=1.0)], {"target": "valence"}),
    ],
)
def test_clips_that_will_do(samples: list[Sample], options: dict[str, Any]) -> None:
    check(found(*samples), **options)


def test_who_is_who_by_name_by_face_or_not_at_all() -> None:
    clips, table = scenes.told_apart(people=3)
    nameless = replace(table, samples=tuple(replace(one, person=None) for one in clips))
    named, seen, alone = (
        study(found(*one.samples), one, group=group).groups
        for one, group in ((table, "auto"), (nameless, "auto"), (table, "none"))
    )
    assert named.tolist() == sorted(named) == [0] * 4 + [1] * 4 + [2] * 4
    assert len({(a, b) for a, b in zip(named.tolist(), seen.tolist(), strict=True)}) == 3
    assert seen.tolist() == people(table.statistics[IDENTITY], 0.62).tolist()
    assert alone is None
    blind = replace(nameless, statistics={"embedding.mean": table.statistics["embedding.mean"]})
    with pytest.raises(UsageError, match=r"who is who.*--group none"):
        study(found(*clips), blind)
    assert study(found(*clips), blind, group="none").groups is None


def test_clips_that_were_looked_at() -> None:
    features = ClipFeatures({"embedding.mean": np.ones(3, np.float32)}, 2)
    seen, nobody = Row(clip("joy"), features), Row(clip("fear"), None, problem=NoFaces("nobody"))
    table, faceless = looked_at(iter([nobody, seen]), scenes.ABOUT)
    assert (table.samples, faceless) == ((seen.sample,), (nobody.sample,))
    broken = [Row(clip("joy"), None, problem=InputError(f"{i}.mp4 is empty")) for i in range(4)]
    with pytest.raises(DatasetError, match=r"4 clips cannot be read.*0\.mp4 is empty; 1\.mp4.*2\.mp4 is empty; mend"):
        looked_at([seen, *broken], scenes.ABOUT)


def test_what_features_come_from(tmp_path: Path) -> None:
    extractor = scenes.extractor(tmp_path)
    assert about(extractor) == scenes.ABOUT | {"network_sha256": extractor.network.identity.sha256}
    quantised = scenes.extractor(tmp_path, quantised_from="f" * 64)
    assert about(quantised)["network_sha256"] == "f" * 64


# Studies


def test_truth_and_examples() -> None:
    one = known()
    assert one.labels == ("calm", "joy")
    assert one.truth.tolist() == [0, 0, 1, 1] * 6
    examples = one.examples(["mean", "mean+std"])
    assert {name: matrix.shape for name, matrix in examples.matrices.items()} == {"mean": (24, 3), "mean+std": (24, 6)}
    assert examples.groups.tolist() == one.groups.tolist()
    assert rated(10).truth.tolist() == pytest.approx(np.linspace(1, 9, 10).tolist())


def test_statistics_of_groups_need_everybody() -> None:
    with pytest.raises(UsageError, match=r"group need embedding\.spread\.mean; .*--face all"):
        known().examples(["group"])


def test_a_class_of_which_no_clip_shows_a_face_cannot_be_learnt() -> None:
    faceless = scenes.samples(["fear"] * 2, ["x", "y"])
    with pytest.raises(DatasetError, match=r"no clip of fear in set .*--labels"):
        train(known(faceless=faceless), LINEAR, "mine")


def test_parts_keep_their_people_and_faceless_clips() -> None:
    whole = parted(scenes.samples(["joy", "calm"], splits=["val", "train"]), held=("val", "test"))
    learnt, held = whole.held_out()
    assert (len(learnt.table.samples), len(held.table.samples)) == (24, 8)
    assert not set(learnt.groups) & set(held.groups)
    assert ([one.label for one in learnt.faceless], [one.label for one in held.faceless]) == (["calm"], ["joy"])
    assert whole.part(("test",)).faceless == ()
    assert known().held_out() is None
    assert replace(whole.part(("train",)), faceless=()).held_out() is None
    with pytest.raises(DatasetError, match=r"no clip of set in the part unheard shows a face.*--split"):
        whole.part(("unheard",))


def test_a_part_that_shows_no_face_is_not_replaced_by_another() -> None:
    learnt = parted().part(("train",))
    faceless = scenes.samples(["joy"], splits=["val"])
    with pytest.raises(DatasetError, match="in the part val/test shows a face"):
        train(replace(learnt, faceless=faceless), LINEAR, "mine")
    with pytest.raises(DatasetError, match="in the part val/test shows a face"):
        methods(replace(learnt, faceless=faceless), ["mean"], ["linear"])


def test_reports_count_faceless_clips_as_wrong() -> None:
    one = known(faceless=scenes.samples(["joy", "calm"]))
    said = np.eye(2, dtype=np.float32)[one.truth]
    report = one.report(said)
    assert (report["answered"]["count"], report["answered"]["accuracy"]["value"]) == (24, 1)
    assert (report["all"]["count"], report["all"]["accuracy"]["value"]) == (26, round(24 / 26, 4))
    alone = replace(one, groups=None).report(said)
    assert alone["all"]["count"] == 26
    predictions = one.predictions(said)
    assert len(set(predictions.groups)) == 8
    more = replace(one, labels=("calm", "joy")).report(
        np.eye(3, dtype=np.float32)[one.truth + 1], ("fear", *one.labels)
    )
    assert more["answered"]["recall"] == {"fear": None, "calm": 1, "joy": 1}


def test_reports_of_ratings() -> None:
    one = rated(faceless=scenes.samples([None], ratings=[{"valence": 2.0}]))
    report = one.report(one.truth.astype(np.float32) + 0.5)
    assert (report["clips"], report["unanswered"]) == (31, 1)
    assert report["mae"]["value"] == pytest.approx(0.5)


# Fitting


@pytest.mark.parametrize("labels", [("calm", "joy"), ("calm", "fear", "joy")])
def test_a_classifier_is_fitted_and_says_how_good_it_is(labels: tuple[str, ...], tmp_path: Path) -> None:
    one = known(labels, scenes.samples(["joy"]))
    data, card = train(one, LINEAR, "mine", 3)
    model = loaded(tmp_path, data)
    assert model.card == card
    assert model.identity.name == "mine"
    assert card["labels"] == list(labels)
    assert card["statistics"] == ["embedding.mean"]
    assert {key: card[key] for key in ("network", "network_sha256", "detector", "face")} == {
        key: scenes.ABOUT[key] for key in ("network", "network_sha256", "detector", "face")
    }
    clips = dict.fromkeys(labels, 12)
    assert card["data"] == {"name": "set", "clips": clips, "people": 6, "faceless": 1}
    assert card["candidates"].keys() == {str(way) for way in LINEAR}
    assert card["recipe"].startswith("linear (")
    ((name, report),) = card["figures"].items()
    assert name == "cross-validated by person on set"
    assert report["answered"]["uar"]["value"] > 0.9
    assert report["all"]["count"] == 12 * len(labels) + 1
    said = said_by(one, model)
    assert (said.argmax(axis=1) == one.truth).mean() > 0.9


def test_clips_that_stand_alone_are_said_to() -> None:
    _, card = train(replace(known(), groups=None), LINEAR, "mine", 3)
    assert list(card["figures"]) == ["cross-validated by clip on set"]
    assert card["data"]["people"] is None


def test_a_part_for_measuring_is_kept_out() -> None:
    whole = parted(scenes.samples(["joy"], splits=["val"]), held=("val", "test"))
    upside_down = np.where([one.split == "train" for one in whole.table.samples], 1, -1)[:, None].astype(np.float32)
    statistics = {name: matrix * upside_down for name, matrix in whole.table.statistics.items()}
    _, card = train(replace(whole, table=replace(whole.table, statistics=statistics)), LINEAR, "mine", 3)
    inside, held = card["figures"].values()
    assert list(card["figures"]) == ["cross-validated by person on set", "held-out test/val of set"]
    assert inside["answered"]["accuracy"]["value"] > 0.9
    assert inside["all"]["count"] == 24
    assert held["answered"]["accuracy"]["value"] < 0.6
    assert (held["answered"]["count"], held["all"]["count"]) == (8, 9)
    assert card["data"]["clips"] == {"calm": 12, "joy": 12}


def test_a_regressor_is_fitted_on_ratings(tmp_path: Path) -> None:
    one = rated(faceless=scenes.samples([None], ratings=[{"valence": 2.0}]))
    ways = candidates(["mean"], ["rbf"])
    data, card = train(one, ways, "pleasure", 3)
    model = loaded(tmp_path, data)
    assert (card["kind"], card["target"], "labels" in card) == ("regressor", "valence", False)
    assert card["data"] == {"name": "set", "clips": 30, "people": 10, "faceless": 1}
    (report,) = card["figures"].values()
    assert report["ccc"]["value"] > 0.8
    assert report["mae"]["value"] < 1
    assert report["unanswered"] == 1
    again = measured(one, model)
    assert again["ccc"]["value"] > 0.8
    assert said_by(one, model).shape == (30,)


def test_the_same_seed_gives_the_same_file() -> None:
    first, again, other = (train(replace(known(noise=1.5), seed=seed), LINEAR, "a", 3)[0] for seed in (1, 1, 2))
    assert first == again != other


def test_thresholds_for_few_frames_are_set_on_other_people(tmp_path: Path) -> None:
    one = known(people=8, each=3, strides=STRIDES)
    lost = one.table.coarse[8]["embedding.mean"]
    lost[:] = np.nan
    data, card = train(one, LINEAR, "mine", 3, error=0.02)
    assert [level["stride"] for level in card["adaptive"]["levels"]] == list(STRIDES)
    assert card["adaptive"]["accuracy"] > 0.9
    assert 0.25 <= card["adaptive"]["share of frames"] <= 1
    few = measured(one, loaded(tmp_path, data), adaptive=True)["adaptive"]
    assert few["accuracy"] > 0.9
    assert 0.25 <= few["share of frames"] <= 1


# Measuring


def test_what_a_file_says_of_clips(tmp_path: Path) -> None:
    one = known(strides=(2,))
    one.table.coarse[2]["embedding.mean"][5, 1] = np.nan
    model = toy(tmp_path)
    said = said_by(one, model, stride=2)
    assert np.flatnonzero(np.isnan(said).all(axis=1)).tolist() == [5]
    assert not np.isnan(np.delete(said, 5, axis=0)).any()
    assert said_by(one, model).sum(axis=1) == pytest.approx(np.ones(24))


def test_only_some_labels_may_be_answered(tmp_path: Path) -> None:
    one = known()
    model = toy(tmp_path, [[0, 5, 1]] * 3, labels=["calm", "fear", "joy"])
    assert said_by(one, model, ["joy", "calm"]).argmax(axis=1).tolist() == [0] * 24
    assert said_by(one, model, ["joy", "calm"]).sum(axis=1) == pytest.approx(np.ones(24))
    assert said_by(one, model).argmax(axis=1).tolist() == [1] * 24
    never = toy(tmp_path, [[0, 999, 0]] * 3, labels=["calm", "fear", "joy"])
    assert said_by(one, never, ["calm", "joy"]) == pytest.approx(np.full((24, 2), 0.5))


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ({"network_sha256": "1" * 64}, "toy-classifier was fitted on another network than toy-network.*--network"),
        ({"statistics": ["embedding.spread.mean"]}, r"needs embedding\.spread\.mean; give --face"),
        ({"labels": ["calm"]}, "does not know joy; see --labels"),
        ({"labels": ["calm", "fear", "joy"]}, "does not do what its card says"),
        ({"statistics": ["embedding.mean", "embedding.std"]}, "does not do what its card says"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(card: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ModelIncompatible, match=words):
        said_by(known(), toy(tmp_path, **card), ["calm", "joy"])


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelIncompatible, match="does not do what its card says"):
        said_by(rated(), toy(tmp_path))


def test_another_network_is_found_before_clips_are_looked_at(tmp_path: Path) -> None:
    belongs(toy(tmp_path), scenes.ABOUT)
    with pytest.raises(ModelIncompatible, match="another network"):
        belongs(toy(tmp_path), scenes.ABOUT | {"network_sha256": "f" * 64})


@pytest.mark.parametrize(("split", "clips"), [(None, 8), ("all", 32), ("train", 24), ("val", 4), ("test", 4)])
def test_the_part_that_is_measured_by(split: str | None, clips: int, tmp_path: Path) -> None:
    report = measured(parted(held=("val", "test")), toy(tmp_path, labels=["calm", "joy"]), split=split)
    assert report["clips"] == clips


def test_a_set_without_parts_is_measured_by_as_a_whole(tmp_path: Path) -> None:
    assert measured(known(), toy(tmp_path))["clips"] == 24
    only_val = parted().part(("val",))
    assert measured(only_val, toy(tmp_path))["clips"] == 8
    with pytest.raises(DatasetError, match="in the part test shows a face"):
        measured(known(), toy(tmp_path), split="test")


def test_one_clip_can_be_measured_by(tmp_path: Path) -> None:
    one = known()
    single = replace(one, table=one.table[np.array([0])], groups=one.groups[:1])
    report = measured(single, toy(tmp_path))
    assert report["answered"]["accuracy"]["interval"] is None


def test_classifiers_are_compared_clip_by_clip(tmp_path: Path) -> None:
    good, bad = toy(tmp_path), toy(tmp_path, [[1, 0], [0, 0], [0, 0]], name="bad")
    report = measured(known(faceless=scenes.samples(["joy"])), good, bad)
    assert report["against"]["name"] == "bad"
    assert (report["against"]["clips"], report["against"]["only_theirs"]) == (25, 0)
    assert report["against"]["only_ours"] == 12
    for other in (toy(tmp_path, labels=["fear", "joy"]), models.load(str(toys.regressor(tmp_path / "r")), "regressor")):
        with pytest.raises(ModelIncompatible, match="does not know calm"):
            measured(known(), good, other)


def test_few_frames_need_thresholds(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fitted without --adaptive"):
        measured(known(), toy(tmp_path), adaptive=True)
    levels = [{"stride": stride, "confidence": least} for stride, least in ((8, 1.01), (4, 0.0))]
    model = toy(tmp_path, adaptive={"levels": levels})
    one = known(strides=(8, 4), faceless=scenes.samples(["joy"]))
    one.table.coarse[4]["embedding.mean"][:12] = np.nan
    few = measured(one, model, adaptive=True)["adaptive"]
    assert few == {"share of frames": round((12 * 16 + 12 * 4) / (24 * 16), 4), "accuracy": 1.0}


# Methods


def test_methods_by_person_on_all_clips() -> None:
    found = methods(known(), ["mean", "mean+std"], ["linear", "logistic"], 3)
    assert list(found) == ["mean, linear", "mean, logistic", "mean+std, linear", "mean+std, logistic"]
    assert all(report["answered"]["uar"]["value"] > 0.9 for report in found.values())


def test_methods_where_the_set_has_parts() -> None:
    whole = parted()
    ((name, report),) = methods(whole, ["mean"], ["logistic"], 3).items()
    assert name == "mean, logistic (0.3)"
    assert report["clips"] == 8
    ((name, report),) = methods(whole, ["mean"], ["logistic"], 3, cross=True).items()
    assert (name, report["clips"]) == ("mean, logistic", 32)


def test_a_class_that_is_only_measured_by_is_an_error_and_one_that_is_only_learnt_is_none() -> None:
    whole = parted()
    joyless = [one.split == "train" or one.label == "calm" for one in whole.table.samples]
    part = replace(whole, table=whole.table[np.array(joyless)], groups=whole.groups[joyless])
    (report,) = methods(part, ["mean"], ["logistic"], 3).values()
    assert report["answered"]["recall"]["joy"] is None
    joyless = [one.split == "val" or one.label == "calm" for one in whole.table.samples]
    part = replace(whole, table=whole.table[np.array(joyless)], groups=whole.groups[joyless])
    with pytest.raises(DatasetError, match="no clip of joy"):
        methods(part, ["mean"], ["logistic"], 3)


def test_methods_for_ratings() -> None:
    (report,) = methods(rated(), ["mean"], ["rbf"], 3).values()
    assert report["ccc"]["value"] > 0.8


def test_a_method_that_cannot_be_fitted_is_named() -> None:
    with pytest.raises(DatasetError, match=r"mlp \(0.*\) on mean cannot be fitted on \d clips"):
        methods(known(people=3), ["mean"], ["linear", "mlp"], 3)
