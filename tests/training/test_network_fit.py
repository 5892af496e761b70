"""Test training runs: recipes, steps, teachers, and identical results after an interruption."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from scipy.special import log_softmax, softmax
from torch import Tensor

import mini_datasets
from fervid.core.errors import FervidError
from fervid.training import augment, export, fit, losses, mobilenet
from fervid.training import predict as predicting
from fervid.training.batches import FER2013_INDEX, BatchSampler, TrainingSets
from fervid.training.config import TrainConfig
from fervid.training.dataset_paths import DatasetPaths
from fervid.training.fit import Trainer
from fervid.training.losses import Targets
from fervid.training.model_card import save_with_card
from fervid.training.network import PIXEL_MEAN, FaceNetwork, supports_bfloat16, to_tensor
from fervid.training.predict import load_averaged_runs, load_run, predict


@pytest.fixture(scope="module")
def data() -> TrainingSets:
    return mini_datasets.data()


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save and validate every second step."""
    monkeypatch.setattr(fit, "VALIDATE_EVERY_STEPS", 2)


def begun(data: TrainingSets, **settings: object) -> Trainer:
    return Trainer(mini_datasets.recipe(**settings), mini_datasets.network(), data)


def state(run: Trainer) -> dict[str, Tensor]:
    """Return the trained state of a run, by name."""
    parts = {"network": run.network, "average": run.average}
    tensors = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    return {name: value.clone() for name, value in {**tensors, "people": run.people.weight.detach()}.items()}


def equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    """Return the names of tensors with equal bits."""
    assert ours.keys() == theirs.keys()
    return [name for name in ours if torch.equal(ours[name], theirs[name])]


def same_batch(ours: tuple[Tensor, Targets], theirs: tuple[Tensor, Targets]) -> bool:
    columns = [(getattr(ours[1], name), getattr(theirs[1], name)) for name in ours[1].__slots__]
    pairs = [(ours[0], theirs[0]), *columns]
    return all(a is b is None or torch.equal(a, b) for a, b in pairs)


def test_recipe_names_only_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"steps": 10, "sam_rho": 0, "weights": {"identity": 0.5}}))
    weights = losses.TaskWeights(identity=0.5)
    assert TrainConfig.from_json(path) == replace(TrainConfig(), steps=10, sam_rho=0, weights=weights)
    assert TrainConfig.from_dict(asdict(TrainConfig.from_json(path))) == TrainConfig.from_json(path)
    assert TrainConfig.from_dict({}) == TrainConfig()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '{"steps": 10, "stesp": 5, "colour": 1}',
            r"unknown setting colour, stesp; available are absent_prior, .*, years",
        ),
        ('{"weights": {"smile": 1}}', r"unknown setting smile; available are"),
        ('{"age": 0.5}', r"unknown setting age"),
        ('{"weights": 2}', r"weights must be an object .*, not 2"),
        ('{"steps": "many"}', r"steps cannot be 'many'; its default is 8000"),
        ('{"steps": 10.5}', r"steps cannot be 10\.5"),
        ('{"weights": {"age": null}}', r"age cannot be None; its default is 0\.2"),
        ("[1, 2]", r"recipe\.json is not a JSON object"),
        ("steps: 10", r"recipe\.json is not a JSON object of settings \(Expecting value"),
    ],
)
def test_invalid_recipe_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        TrainConfig.from_json(path)


def test_learning_rate_schedule() -> None:
    recipe = TrainConfig(steps=100, head_steps=20, warmup=10, learning_rate=3.0, head_learning_rate=8.0)
    rates = [recipe.learning_rates(step) for step in range(101)]
    assert [body for body, _ in rates[:21]] == [0] * 21
    assert [heads for _, heads in rates] == pytest.approx(
        [8 * (1 + math.cos(math.pi * t / 100)) / 2 for t in range(101)]
    )
    whole = [body / heads * 8 / 3 for body, heads in rates[:100]]
    assert whole[20:31] == pytest.approx([t / 10 for t in range(11)])
    assert whole[31:] == pytest.approx([1] * 69)
    assert (rates[0][1], rates[50]) == (8, (pytest.approx(1.5), pytest.approx(4)))
    assert rates[100] == (0, 0)


def test_class_without_examples(data: TrainingSets) -> None:
    votes = data.expressions.votes.copy()
    votes[:, 2] = 0
    votes[votes.sum(axis=1) == 0, 0] = 1
    lacking = replace(data, expressions=replace(data.expressions, votes=votes / votes.sum(axis=1, keepdims=True)))
    run = begun(lacking, fer2013_weight=0.0)
    assert all(torch.isfinite(adjustment).all() for adjustment in run.adjustments)
    assert math.isfinite(run.train_step(*run.batches(0)))


def test_input_size_grows() -> None:
    recipe = TrainConfig(size=112, initial_size=80, resize_fraction=0.5, steps=80)
    assert [recipe.input_size(step) for step in (0, 19, 20, 39, 40, 79)] == [80, 80, 96, 96, 112, 112]
    assert {TrainConfig(size=64, initial_size=80).input_size(step) for step in (0, 8000)} == {64}
    assert TrainConfig(size=120, initial_size=80, steps=10).input_size(0) == 88


def test_batch_depends_on_seed_and_step(data: TrainingSets) -> None:
    before = data.digests()
    one, other = BatchSampler(mini_datasets.recipe(), data), BatchSampler(mini_datasets.recipe(), data)
    found = [one(step) for step in range(5)]
    assert same_batch(other(4), found[4])
    assert same_batch(other(1), found[1])
    assert not same_batch(found[4], found[1])
    assert not same_batch(BatchSampler(mini_datasets.recipe(seed=1), data)(4), found[4])
    assert data.digests() == before


def test_batch_carries_labels_of_its_faces(data: TrainingSets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "augment", lambda crop, *_: crop)
    recipe = mini_datasets.recipe(
        mixup=0.0, fer2013_weight=0.0, expression_faces=20, attribute_faces=9, identity_faces=6
    )
    pictures, targets = BatchSampler(recipe, data)(3)
    raw = np.uint8((pictures.permute(0, 2, 3, 1).numpy()[..., ::-1] + np.float32(PIXEL_MEAN)[::-1]).round())
    starting = {data.attributes: data.initial_embeddings[:5], data.people: data.initial_embeddings[5:]}
    parts = [data.expressions] * 20 + [data.attributes] * 9 + [data.people] * 6
    for i, (part, picture) in enumerate(zip(parts, raw, strict=True)):
        (row,) = np.flatnonzero((part.crops == picture).all(axis=(1, 2, 3)))
        for name in ("age", "gender", "ethnicity", "person"):
            assert getattr(targets, name)[i] == getattr(part, name)[row]
        first = FER2013_INDEX[part.first[row]] if part.first[row] >= 0 else 7
        assert targets.votes[i].tolist() == part.votes[row].tolist()
        assert targets.first[i].tolist() == np.eye(8, 7)[first].tolist()
        expected = starting[part][row] if part in starting else np.zeros(mini_datasets.WIDTH)
        assert targets.initial_embeddings[i].tolist() == expected.tolist()


def test_mixup(data: TrainingSets) -> None:
    counts = {"expression_faces": 8, "attribute_faces": 3, "identity_faces": 2}
    plain, asked = BatchSampler(mini_datasets.recipe(mixup=0.0, **counts), data)(2)
    mixed, shares = BatchSampler(mini_datasets.recipe(mixup=1.0, **counts), data)(2)
    assert shares.votes.sum(1).tolist() == pytest.approx([1] * 8 + [0] * 5)
    assert float(shares.first.sum()) == pytest.approx(float(asked.first.sum()), abs=1)
    assert torch.equal(mixed[8:], plain[8:])
    assert not torch.equal(mixed[:8], plain[:8])
    found = set()
    for i in range(8):
        tried = []
        for j in range(8):
            apart = plain[i] - plain[j]
            share = float(((mixed[i] - plain[j]) * apart).sum() / apart.square().sum().clamp(min=1))
            tried.append((float((share * plain[i] + (1 - share) * plain[j] - mixed[i]).abs().max()), j, share))
        error, j, share = min(tried)  # a face mixed with itself determines no fraction
        assert error < 1e-2
        for name in ("votes", "first"):
            ours, theirs = getattr(asked, name)[[i, j]]
            torch.testing.assert_close(getattr(shares, name)[i], share * ours + (1 - share) * theirs, atol=1e-4, rtol=0)
        found |= {round(share, 3)} - {0.0, 1.0}
    assert len(found) == 1


def test_first_label_takes_its_share_of_votes(data: TrainingSets) -> None:
    votes = BatchSampler(mini_datasets.recipe(fer2013_weight=0.25), data).votes
    for i, first in enumerate(data.expressions.first):
        expected = data.expressions.votes[i]
        if first >= 0:
            expected = 0.75 * expected + 0.25 * np.eye(8)[first]
        np.testing.assert_allclose(votes[i], expected, atol=1e-6)


def test_balanced_sampling_and_prior() -> None:
    data = mini_datasets.data()
    data.expressions.votes[:] = np.eye(8, dtype=np.float32)[[0] * 9 + list(range(1, 8))]
    even = BatchSampler(mini_datasets.recipe(resampling_power=0.0, fer2013_weight=0.0), data)
    assert even.sampling_weights == pytest.approx(np.full(16, 1 / 16))
    batches = BatchSampler(mini_datasets.recipe(resampling_power=0.5, fer2013_weight=0.0, logit_adjustment=2.0), data)
    assert batches.sampling_weights[9:] / batches.sampling_weights[0] == pytest.approx(np.full(7, 3.0))
    share = np.array([9, *[3] * 7]) / 30
    expression, first = batches.adjustments()
    assert expression.numpy() == pytest.approx(2 * np.log(share), rel=1e-5)
    assert first.exp().sqrt().sum().item() == pytest.approx(1, rel=1e-5)
    assert (first.dtype, first.shape) == (torch.float32, (7,))


def test_backbone_is_frozen_during_head_steps(data: TrainingSets) -> None:
    run = begun(data, head_steps=2)
    last = {"identity.weight", "identity.bias"}  # fitted after the last step
    before = {name: value.clone() for name, value in run.network.named_parameters()}
    for step in range(2):
        run.train_step(*run.batches(step))
    unchanged = {name for name, value in run.network.named_parameters() if torch.equal(value, before[name])}
    assert unchanged == {name for name in before if name.startswith("backbone.")} | last
    assert not set(run.network.backbone.parameters()) & run.optimiser.state.keys()
    run.train_step(*run.batches(2))
    run.train_step(*run.batches(3))
    assert {name for name, value in run.network.named_parameters() if torch.equal(value, before[name])} == last


def compute_step(run: Trainer, batch: tuple[Tensor, Targets], radius: float) -> list[Tensor]:
    """Compute the parameters after one step: SAM's ascent, the gradient there, and AdamW's first step."""
    network, bridge = copy.deepcopy(run.network).train(), copy.deepcopy(run.bridge)
    people = run.people.weight.detach().clone().requires_grad_()
    learning = {name: value for name, value in network.named_parameters() if value.requires_grad}
    parameters = [*learning.values(), people, *bridge.parameters()]

    def gradients() -> tuple[Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16):
            embedding = network.backbone(batch[0])
        heads = network.heads(embedding.float())
        loss = losses.multitask_loss(
            heads, bridge(heads.embedding), people, batch[1], run.recipe.weights, *run.adjustments
        )
        return torch.autograd.grad(loss, parameters)

    below = [parameter.detach().clone() for parameter in parameters]
    slope = gradients()
    if radius:
        length = torch.sqrt(sum(one.square().sum() for one in slope))
        with torch.no_grad():
            for parameter, one in zip(parameters, slope, strict=True):
                parameter += radius * one / length
        slope = gradients()
    body, heads = run.recipe.learning_rates(run.step)
    rates = [body if name.startswith("backbone.") else heads for name in learning]
    rates += [heads] * (len(parameters) - len(rates))
    return [
        (1 - rate * run.recipe.weight_decay) * value - rate * one / (one.abs() + 1e-8)
        for value, one, rate in zip(below, slope, rates, strict=True)
    ]


@pytest.mark.parametrize(
    ("settings", "radius"),
    [({"sam_rho": 0.0}, 0), ({"sam_rho": 0.7, "sam_start": 0.5}, 0), ({"sam_rho": 0.7, "sam_start": 0.0}, 0.7)],
    ids=["without", "too early", "with"],
)
def test_sgd_and_sam_steps(settings: dict[str, float], radius: float, data: TrainingSets) -> None:
    run = begun(data, **settings)
    run.step = 2
    batch = run.batches(2)
    expected, other = compute_step(run, batch, radius), compute_step(run, batch, 0.7 - radius)
    run.train_step(*batch)
    learning = (value for value in run.network.parameters() if value.requires_grad)
    found = [*learning, run.people.weight, *run.bridge.parameters()]
    # where the gradient is near zero, AdamW's first step follows its sign, which depends on rounding
    apart = torch.cat([(a - b).detach().flatten().abs() for a, b in zip(found, expected, strict=True)])
    assert (apart < 1e-5).float().mean() > 0.99
    assert torch.cat([(a - b).detach().flatten().abs() for a, b in zip(found, other, strict=True)]).max() > 1e-4


def test_ema_warmup(data: TrainingSets) -> None:
    run = begun(data, ema_decay=0.3)
    expected = {name: value.clone() for name, value in run.network.state_dict().items()}
    for step, keep in enumerate((2 / 11, 3 / 12, 0.3, 0.3)):
        run.train_step(*run.batches(step))
        for name, value in run.network.state_dict().items():
            expected[name] = keep * expected[name] + (1 - keep) * value if value.is_floating_point() else value.clone()
    for name, value in run.average.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    assert run.average.backbone.norm.num_batches_tracked == run.network.backbone.norm.num_batches_tracked > 0
    assert not run.average.training
    assert not any(parameter.requires_grad for parameter in run.average.parameters())


@pytest.mark.parametrize("killed", [2, 4])
def test_killed_run_resumes(killed: int, data: TrainingSets, tmp_path: Path, often: None) -> None:
    settings = {"head_steps": 3, "sam_start": 0.7}
    whole = begun(data, **settings)
    told = list(whole.run(tmp_path / "whole.safetensors"))
    assert [figures["step"] for figures in told] == [2, 4, 6]

    path = tmp_path / "runs" / "killed.safetensors"
    first = begun(data, **settings).run(path)
    while next(first)["step"] < killed:
        pass
    first.close()
    again = Trainer(mini_datasets.recipe(**settings), mini_datasets.network(seed=5), data)
    assert len(equal(state(again), state(whole))) < 10
    rest = list(again.run(path))
    assert [figures["step"] for figures in rest] == list(range(killed + 2, 7, 2))
    assert equal(state(again), state(whole)) == list(state(whole))
    ours, theirs = (safetensors.torch.load_file(place) for place in (path, tmp_path / "whole.safetensors"))
    assert equal(ours, theirs) == list(ours)
    for ours, theirs in zip(rest, told[-len(rest) :], strict=True):
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}
    assert not list(tmp_path.rglob("*.partial"))


def test_finished_run_is_not_continued(data: TrainingSets, tmp_path: Path, often: None) -> None:
    path = tmp_path / "run.safetensors"
    list(begun(data, steps=2).run(path))
    before = path.read_bytes()
    assert list(begun(data, steps=2).run(path)) == []
    assert path.read_bytes() == before


def test_state_of_another_run_is_refused(data: TrainingSets, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    begun(data).save(path)
    begun(data).resume(path)
    with pytest.raises(
        ValueError,
        match=r"run\.safetensors is a checkpoint of another run: learning_rate, seed differ; choose another output",
    ):
        begun(data, learning_rate=1e-5, seed=3).resume(path)
    with pytest.raises(ValueError, match="another run: weights differ"):
        begun(data, weights={"age": 0.0}).resume(path)
    aged = data.attributes.age.copy()
    aged[0] += 1
    with pytest.raises(ValueError, match="another run: data differ"):
        begun(replace(data, attributes=replace(data.attributes, age=aged))).resume(path)


@pytest.mark.parametrize("content", [b"", b"a text, and no checkpoint\n" * 9, None])
def test_invalid_state_is_refused(content: bytes | None, data: TrainingSets, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    if content is None:
        safetensors.torch.save_file({"weight": torch.zeros(3)}, path)
    else:
        path.write_bytes(content)
    for read in (begun(data).resume, load_run):
        with pytest.raises(ValueError, match=r"other\.safetensors is not a checkpoint"):
            read(path)


def test_run_of_another_kind_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, steps = tmp_path / "other.safetensors", {"recipe": {"steps": 0}, "photographs": "0"}
    safetensors.torch.save_file({"average/x": torch.zeros(1)}, path, {"about": json.dumps(steps), "step": "0"})
    with pytest.raises(ValueError, match=r"other\.safetensors is a checkpoint of another kind of run"):
        load_run(path)
    monkeypatch.setattr(fit, "build", lambda *_: mini_datasets.network(seed=9))
    with pytest.raises(ValueError, match=r"other\.safetensors is a checkpoint of another kind of run"):
        fit.initial_weights(mini_datasets.recipe(), {}, path)


def test_load_gives_averaged_weights_of_finished_run(
    data: TrainingSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, often: None
) -> None:
    monkeypatch.setattr(predicting, "build", lambda name: mini_datasets.network(seed=9))
    path, run = tmp_path / "run.safetensors", begun(data)
    steps = run.run(path)
    next(steps)
    with pytest.raises(ValueError, match="has completed 2 of 6 steps; finish training"):
        load_run(path)
    assert [figures["step"] for figures in steps] == [4, 6]
    recipe, network, about = load_run(path)
    assert (recipe, about) == (run.recipe, run.metadata)
    assert about["data"] == data.digests()
    assert not network.training
    found = network.state_dict()
    assert equal(found, run.average.state_dict()) == list(found) != equal(found, run.network.state_dict())


def test_weights_of_runs_with_the_same_start_are_averaged(
    data: TrainingSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predicting, "build", lambda name: mini_datasets.network(seed=9))
    paths = [tmp_path / f"{seed}.safetensors" for seed in range(3)]
    for seed, path in enumerate(paths):
        recipe, earlier = mini_datasets.recipe(steps=1, seed=seed), {"exported": "other" if seed == 2 else "first"}
        list(Trainer(recipe, mini_datasets.network(seed=seed), data, earlier).run(path))
    recipe, network, origins = load_averaged_runs(paths[:2])
    assert (recipe.seed, [origin["recipe"]["seed"] for origin in origins]) == (0, [0, 1])
    first, second = (load_run(path)[1].state_dict() for path in paths[:2])
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value.float(), (first[name].float() + second[name].float()) / 2)
    with pytest.raises(ValueError, match=r"2\.safetensors and .*1\.safetensors cannot be averaged"):
        load_averaged_runs(paths[1:])
    with pytest.raises(ValueError, match=r"start\.onnx is no checkpoint of `fervid network train`"):
        load_averaged_runs([Path("start.onnx")])


def test_run_starts_from_another(data: TrainingSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "build", lambda *_: mini_datasets.network(seed=9))
    first, path = begun(data), tmp_path / "first.safetensors"
    first.train_step(*first.batches(0))
    first.save(path)
    recipe = mini_datasets.recipe(learning_rate=1e-5)
    second = fit.make_trainer(recipe, fit.initial_weights(recipe, {}, path), data)
    assert equal(second.network.state_dict(), first.average.state_dict()) == list(first.average.state_dict())
    assert second.metadata["earlier"] == {**first.metadata, "step": 1}
    assert second.step == 0
    with pytest.raises(ValueError, match=r"first\.safetensors is a run of mobilenetv1, not of other"):
        fit.initial_weights(mini_datasets.recipe(backbone="other"), {}, path)


def test_other_backbone_records_digest_of_weights(
    data: TrainingSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "build", lambda *_: mini_datasets.network(seed=9))
    path, published = tmp_path / "pretrained.safetensors", mini_datasets.network(seed=1).backbone.state_dict()
    safetensors.torch.save_file(published, path)
    recipe = mini_datasets.recipe(backbone="other")
    run = fit.make_trainer(recipe, fit.initial_weights(recipe, {}, pretrained=path), data)
    assert equal(run.network.backbone.state_dict(), published) == list(published)
    assert run.metadata["earlier"] == {"pretrained": hashlib.sha256(path.read_bytes()).hexdigest()}
    with pytest.raises(ValueError, match=r"pretrained\.safetensors cannot initialise mobilenetv1"):
        fit.initial_weights(mini_datasets.recipe(), {}, pretrained=path)
    with pytest.raises(ValueError, match="cannot initialise"):
        fit.initial_weights(recipe, {}, path, path)


def test_identity_projection() -> None:
    network, some = mini_datasets.network().eval(), mini_datasets.faces(40, 1)
    embedding = predict(network, some, 16)["embedding"]
    mixed = embedding @ np.random.default_rng(0).normal(size=(mini_datasets.WIDTH, 4)).astype(np.float32)
    fit.fit_identity(network, some, mixed, 16)
    identity = predict(network, some, 16)["identity"]
    assert not identity[:, 4:].any()
    apart = mixed - mixed.mean(axis=0)
    assert np.corrcoef(np.linalg.norm(identity, axis=1), np.linalg.norm(apart, axis=1))[0, 1] > 0.9
    ours, theirs = (rows @ rows.T for rows in (identity, apart))
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.9


def test_embedding_of_other_width_is_mapped(data: TrainingSets, tmp_path: Path) -> None:
    wider = replace(data, initial_embeddings=np.eye(9, 8, dtype=np.float32))
    only = {**dict.fromkeys(asdict(losses.TaskWeights()), 0.0), "distillation": 1.0}
    settings = {"weights": only, "warmup": 0, "steps": 60, "weight_decay": 0.0}
    settings |= {"learning_rate": 0.02, "head_learning_rate": 0.02}
    run = begun(wider, **settings)
    batch = run.batches(0)
    found = [run.train_step(*batch) for _ in range(40)]
    assert found[-1] < 0.7 * found[0]
    run.save(tmp_path / "run.safetensors")
    again = begun(wider, **settings)
    again.resume(tmp_path / "run.safetensors")
    assert again.train_step(*batch) == run.train_step(*batch)


def test_validation_metrics(data: TrainingSets, monkeypatch: pytest.MonkeyPatch) -> None:
    shown, aged = data.valid_expressions, data.valid_attributes
    predictions = np.eye(8, dtype=np.float32)[[0, 1, 2, 3, 4, 5, 0, 0, 1]]  # of classes 0 to 7 and 0 again
    first = np.eye(7, dtype=np.float32)[[0, 0, 1, 2, 3, 4, 5, 0, 0]]  # the second is unknown, the eighth is wrong
    years = np.full((6, 100), -1e3, np.float32)
    off = np.array([1, -1, 3, 0, 0, 2])
    years[np.arange(6), np.clip(aged.age + off, 1, 100) - 1] = 0
    gender = np.where(aged.gender == 0, 1, -1) * np.array([1, 1, 1, 1, -1, -1])
    ethnicity = np.eye(5, dtype=np.float32)[[0, 1, 2, 3, 4, 1]]

    def predict(network: FaceNetwork, faces: object, size: int) -> dict[str, np.ndarray]:
        assert size == 16
        if faces is shown:
            return {"expression": predictions, "first": first}
        assert faces is aged
        return {"age": years, "gender": gender, "ethnicity": ethnicity}

    monkeypatch.setattr(fit, "predict", predict)
    assert begun(data).validate() == {
        "accuracy_all": pytest.approx(6 / 9),
        "accuracy_majority": pytest.approx(6 / 9),
        "mean_recall": pytest.approx((0.5 + 5) / 8),
        "first": pytest.approx(7 / 8),
        "age_mae": pytest.approx(7 / 6, rel=1e-5),
        "gender": pytest.approx(4 / 6),
        "ethnicity": pytest.approx(5 / 6),
    }


def test_predictions_do_not_depend_on_batches() -> None:
    network, some = mini_datasets.network().eval(), mini_datasets.faces(7, 1)
    whole, parts = (predict(network, some, 16, batch) for batch in (64, 3))
    assert {name: value.shape for name, value in whole.items()} == {
        "embedding": (7, mini_datasets.WIDTH),
        "expression": (7, 8),
        "first": (7, 7),
        "age": (7, 100),
        "gender": (7,),
        "ethnicity": (7, 5),
        "identity": (7, 128),
    }
    for name, value in whole.items():
        np.testing.assert_allclose(value, parts[name], atol=1e-5)


@pytest.mark.skipif(not supports_bfloat16(), reason="this processor does not compute in bfloat16")
def test_predictions_use_bfloat16_by_default(data: TrainingSets) -> None:
    some = mini_datasets.faces(5, 1)
    rounded, exact = begun(data), begun(data, bfloat16=False)
    pictures = to_tensor(np.stack([augment.crop_to_input(crop, 16) for crop in some.crops]))
    with torch.no_grad():
        wanted = exact.average(pictures).expression.numpy()
    np.testing.assert_array_equal(predict(exact.average, some, 16)["expression"], wanted)
    off = np.abs(predict(rounded.average, some, 16)["expression"] - wanted).max()
    assert 0 < off < 0.1


def test_batch_norm_of_published_network_is_restored_and_folded(
    data: TrainingSets, weights: mobilenet.NamedTensors, tmp_path: Path
) -> None:
    wide = replace(data, initial_embeddings=np.eye(9, mobilenet.EMBEDDING, dtype=np.float32))
    recipe = mini_datasets.recipe(steps=2, head_steps=1, size=32, initial_size=32)
    run = fit.make_trainer(recipe, fit.initial_weights(recipe, weights), wide)
    backbone = run.network.backbone
    assert isinstance(backbone, mobilenet.MobileNetV1)
    plain = fit.build("mobilenetv1", weights).backbone
    assert not torch.allclose(backbone.stem.norm.running_var, plain.stem.norm.running_var)
    buffers = {name: value.clone() for name, value in backbone.named_buffers()}
    run.train_step(*run.batches(0))
    assert all(torch.equal(value, buffers[name]) for name, value in backbone.named_buffers())
    run.train_step(*run.batches(1))
    assert not torch.equal(backbone.stem.norm.running_var, buffers["stem.norm.running_var"])
    run.save(tmp_path / "run.safetensors")
    _, network, _ = load_run(tmp_path / "run.safetensors")
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in network.modules())


def test_data_and_starting_embeddings_are_cached(
    sources: DatasetPaths, cache: Path, weights: mobilenet.NamedTensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predicting, "INITIAL_SIZE", 32)
    data = TrainingSets.read(sources, cache, weights)
    parts = (data.expressions, data.attributes, data.people, data.valid_expressions, data.valid_attributes)
    assert [len(part) for part in parts] == [8, 4, 3, 2, 2]
    assert data.initial_embeddings.shape == (7, mobilenet.EMBEDDING)
    np.testing.assert_allclose(np.linalg.norm(data.initial_embeddings, axis=1), 1, rtol=1e-5)
    monkeypatch.setattr(predicting, "predict", lambda *_: pytest.fail("embedded again"))
    again = TrainingSets.read(sources, cache, weights)
    np.testing.assert_array_equal(again.initial_embeddings, data.initial_embeddings)
    assert again.digests() == data.digests()


def test_teacher_logits_are_averaged_over_mirror_images_and_cached(
    data: TrainingSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predicting, "build", lambda name: mini_datasets.network(seed=9))
    runs = [tmp_path / f"{seed}.safetensors" for seed in (1, 2)]
    wanted = np.zeros((16, 15))
    some, mirrored = data.expressions, copy.copy(data.expressions)
    object.__setattr__(mirrored, "crops", np.ascontiguousarray(some.crops[:, :, ::-1]))
    for seed, path in enumerate(runs):
        run = Trainer(mini_datasets.recipe(steps=1, seed=seed), mini_datasets.network(seed=seed), data)
        list(run.run(path))
        for faces in (some, mirrored):
            heads = predict(load_run(path)[1], faces, 16)
            wanted += np.hstack([heads["expression"], heads["first"]]) / 4
    teachers = [predicting.load_teacher(str(run)) for run in runs]
    sets = {"expressions": some}
    found = predicting.compute_teacher_logits(sets, teachers, tmp_path)["expressions"]
    offset = found[0] - wanted[0]
    np.testing.assert_allclose(found, wanted + offset, atol=0.05)
    np.testing.assert_allclose(offset[8:], 0, atol=0.05)
    monkeypatch.setattr(predicting, "predict", lambda *_, **__: pytest.fail("asked again"))
    np.testing.assert_array_equal(predicting.compute_teacher_logits(sets, teachers, tmp_path)["expressions"], found)


def test_remove_class_prior_makes_mean_probabilities_equal_the_prior() -> None:
    logits = np.random.default_rng(0).normal((0, 3, -1), size=(200, 3)).astype(np.float32)
    prior = np.array([0.6, 0.3, 0.1], np.float32)
    offset = predicting.remove_class_prior(logits, prior)
    np.testing.assert_allclose(softmax(logits + offset + np.log(prior), axis=1).mean(axis=0), prior, atol=1e-3)


def test_estimate_class_prior_finds_the_class_frequencies() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(3, 4000, p=(0.7, 0.2, 0.1))
    logits = 6 * np.eye(3)[labels] + rng.normal(size=(4000, 3))
    np.testing.assert_allclose(predicting.estimate_class_prior(logits), (0.7, 0.2, 0.1), atol=0.03)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[FaceNetwork, Path]:
    """Make a network and its file."""
    network, file = mini_datasets.network(seed=3).eval(), tmp_path_factory.mktemp("exported") / "teacher.onnx"
    save_with_card(export.to_onnx(network, 16), {**export.CARD, **export.card("teacher", network, 16)}, file)
    return network, file


def test_teacher_gets_faces_in_fer2013_style(data: TrainingSets, exported: tuple[FaceNetwork, Path]) -> None:
    network, file = exported
    plain, styled = (predicting.load_teacher(str(file), fer2013_style=style) for style in (False, True))
    assert plain.identity != styled.identity
    view = predict(network, data.expressions, 16, fer2013_style=True)["expression"]
    np.testing.assert_allclose(
        styled.predict_logits(data.expressions, False)[:, :8], log_softmax(view, axis=1), atol=0.02
    )


def test_exported_network_teaches_like_its_run(data: TrainingSets, exported: tuple[FaceNetwork, Path]) -> None:
    network, file = exported
    teacher = predicting.load_teacher(str(file))
    found = teacher.predict_logits(data.expressions, False) + teacher.predict_logits(data.expressions, True)
    sides = [predict(network, data.expressions, 16, mirrored=mirrored) for mirrored in (False, True)]
    wanted = sum(np.hstack([log_softmax(heads[name], axis=1) for name in ("expression", "first")]) for heads in sides)
    np.testing.assert_allclose(found, wanted, atol=0.04)


@pytest.mark.parametrize(
    ("differs", "said"),
    [
        ({"expressions": ["joy"] * 8}, r"other\.onnx cannot be a teacher: its classes"),
        ({"margin": 0.5}, r"other\.onnx cannot be a teacher: its crops have a margin of 0\.5"),
    ],
)
def test_incompatible_teacher_is_refused(
    differs: dict[str, Any], said: str, exported: tuple[FaceNetwork, Path], tmp_path: Path
) -> None:
    network, file = exported[0], tmp_path / "other.onnx"
    save_with_card(onnx.load(exported[1]), {**export.CARD, **export.card("other", network, 16), **differs}, file)
    with pytest.raises(ValueError, match=said):
        predicting.load_teacher(str(file))


@pytest.mark.parametrize("name", ["blazeface-back", "gone.onnx", "gone.safetensors", "wat"])
def test_invalid_teacher_is_refused(name: str) -> None:
    with pytest.raises(FervidError, match=name.replace(".", r"\.")):
        predicting.load_teacher(name)


def test_teacher_share_of_labels(data: TrainingSets) -> None:
    sure = np.full((16, 15), -40, np.float32)
    sure[:, [3, 8 + 2]] = 40
    plain = BatchSampler(mini_datasets.recipe(), data)
    pupil = BatchSampler(mini_datasets.recipe(teacher_weight=0.25), replace(data, teacher_logits={"expressions": sure}))
    np.testing.assert_allclose(pupil.votes, 0.75 * plain.votes + 0.25 * np.eye(8)[3], atol=1e-6)
    has = data.expressions.first >= 0
    np.testing.assert_allclose(pupil.first[has], 0.75 * plain.first[has] + 0.25 * np.eye(7)[2], atol=1e-6)
    assert not pupil.first[~has].any()
    np.testing.assert_array_equal(pupil.sampling_weights, plain.sampling_weights)
    assert pupil.data.digests().keys() - plain.data.digests().keys() == {"taught expressions"}
