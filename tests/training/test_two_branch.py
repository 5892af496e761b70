"""Test the two-branch network: mixing, losses, resuming, export, ensembles and initial weights."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import imagenet
import numpy as np
import onnx
import pytest
import safetensors.torch
import synthetic
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

import mini_datasets
from fervid.analysis.face_model import FaceModel
from fervid.cli import app
from fervid.models import registry
from fervid.training import ensemble, export, expression_transfer, fit, two_branch
from fervid.training.config import TrainConfig
from fervid.training.dataset_paths import DatasetPaths
from fervid.training.expression_transfer import EXPRESSIONS, Synthetic
from fervid.training.faces import SIDE
from fervid.training.fit import Start
from fervid.training.network import to_tensor
from fervid.training.two_branch import TwoBranch, TwoBranchConfig

RECIPE = TwoBranchConfig(size=24, faces_per_class=2, steps=3, batch_size=6, warmup=1)


@pytest.fixture(scope="module")
def made() -> Synthetic:
    chance = np.random.default_rng(0)
    count = 12
    return Synthetic(
        chance.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8),
        np.arange(count) % 6,
        chance.uniform(40, 100, (count, 6, 2)).astype(np.float32),
        chance.uniform(1, 90, count).astype(np.float32),
        np.arange(count) % 2,
        np.arange(count) % 5,
    )


def network(seed: int = 0) -> TwoBranch:
    torch.manual_seed(seed)
    return TwoBranch(mini_datasets.Backbone(), mini_datasets.WIDTH)


def start(seed: int = 0) -> Start:
    torch.manual_seed(seed)
    return Start(mini_datasets.network(), None)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (two_branch, fit):
        monkeypatch.setattr(module, "build", lambda name, weights=None: mini_datasets.network())


def test_recipe_errors_are_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"steps": 7, "mixing": "none"}))
    assert TwoBranchConfig.from_json(path) == replace(TwoBranchConfig(), steps=7, mixing="none")
    for settings, said in (
        ({"step": 7}, "unknown setting step; available are appearance_weight, augment_strength"),
        ({"steps": "7"}, "steps cannot be '7'; its default is 400"),
        ({"mixing": "cutmix"}, "mixing must be none, mixup or mixaugment, not 'cutmix'"),
        ([1], "is not a JSON object of settings"),
    ):
        path.write_text(json.dumps(settings))
        with pytest.raises(ValueError, match=said):
            TwoBranchConfig.from_json(path)


@pytest.mark.parametrize(("mixing", "mixed"), [("none", 0), ("mixaugment", 3), ("mixup", 6)])
def test_so_many_faces_of_batch_are_mixed(mixing: str, mixed: int, made: Synthetic) -> None:
    recipe = TwoBranchConfig.from_json(synthetic.TWO_BRANCH)
    recipe = replace(recipe, size=24, batch_size=6, mixing=mixing)  # type: ignore[arg-type]
    batch, plain = (two_branch.make_batch(one, made, 4) for one in (recipe, replace(recipe, mixing="none")))
    assert (batch.share[mixed:] == 1).all()
    assert torch.equal(batch.images[mixed:], plain.images[mixed:])
    assert torch.equal(batch.first.expression, plain.first.expression)
    for i in range(mixed):
        one, share = plain.images[i], batch.share[i]
        others = [j for j in range(6) if torch.allclose(batch.images[i], share * one + (1 - share) * plain.images[j])]
        assert batch.second.expression[i] in plain.first.expression[others]


def test_targets_are_those_of_view(made: Synthetic) -> None:
    batch = two_branch.make_batch(replace(RECIPE, mixing="none"), made, 0)
    assert batch.first.landmarks.shape == (6, 12)
    assert batch.first.landmarks.abs().max() < 2
    seen = (batch.first.landmarks.reshape(6, 6, 2).numpy() + 1) * 23 / 2
    assert np.allclose(batch.first.pose.numpy(), expression_transfer.head_pose(seen), atol=1e-3)
    assert set(batch.first.gender.tolist()) <= {0.0, 1.0}
    assert batch.first.age.max() < 1


def test_loss_of_mixed_faces(made: Synthetic) -> None:
    batch = two_branch.make_batch(replace(RECIPE, mixing="mixup"), made, 0)
    with torch.no_grad():
        found = network()(batch.images)
        first, second = (
            two_branch.loss(found, replace(batch, share=torch.full((6,), share)), 0.5) for share in (1.0, 0.0)
        )
        half = two_branch.loss(found, replace(batch, share=torch.full((6,), 0.5)), 0.5)
        alone = two_branch.loss(found, batch, 0.0)
    assert torch.isclose(half, (first + second) / 2)
    assert alone < two_branch.loss(found, batch, 0.5)


def find_gradients(appearance: float, made: Synthetic) -> dict[str, bool]:
    """Return for each part whether it gets gradients from a batch."""
    own = network()
    batch = two_branch.make_batch(RECIPE, made, 0)
    two_branch.loss(own(batch.images), batch, appearance).backward()
    parts = ("backbone.convolution", "emotion", "expression", "appearance", "rest")
    return {part: own.get_submodule(part).weight.grad is not None for part in parts}


def test_second_branch_of_zero_weight_is_not_trained(made: Synthetic) -> None:
    assert all(find_gradients(0.5, made).values())
    assert [part for part, learns in find_gradients(0.0, made).items() if not learns] == ["appearance", "rest"]


def test_killed_run_goes_on_to_same_result(
    made: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: None
) -> None:
    monkeypatch.setattr(two_branch, "SAVE_EVERY_STEPS", 1)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert [told["step"] for told in two_branch.train(RECIPE, made, start(), whole)] == [1, 2, 3]
    next(two_branch.train(RECIPE, made, start(), cut))
    with pytest.raises(ValueError, match="has completed 1 of 3 steps"):
        two_branch.load_network(cut)
    assert len(list(two_branch.train(RECIPE, made, start(5), cut))) == 2
    first, second = (two_branch.load_network(path)[1].state_dict() for path in (whole, cut))
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(ValueError, match="learning_rate"):
        list(two_branch.train(replace(RECIPE, learning_rate=0.1), made, start(), cut))
    with pytest.raises(ValueError, match="earlier"):
        list(two_branch.train(RECIPE, made, start()._replace(earlier={"exported": "0"}), cut))


@pytest.fixture(scope="module")
def exported(made: Synthetic, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export two networks, `0.onnx` and `1.onnx`, and `larger.onnx` for larger crops."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "CALIBRATION", 8)
        for name, seed, size in (("0", 0, 24), ("1", 1, 24), ("larger", 0, 32)):
            two_branch.save(network(seed).eval(), replace(RECIPE, size=size), made, {}, folder / f"{name}.onnx")
    return folder


def crops(count: int = 5) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (count, 24, 24, 3), np.uint8)


def test_file_answers_as_torch_does(exported: Path) -> None:
    model = registry.load_model(str(exported / "0.onnx"), "face_model")
    assert model.card["expressions"] == list(EXPRESSIONS)
    scores = FaceModel(model.session, model.card)(crops())
    with torch.no_grad():
        expected = network().eval()(to_tensor(crops()))
    assert np.abs(scores.expression - expected.expression.softmax(1).numpy()).max() < 0.05
    assert scores.embedding.shape == (5, two_branch.WIDTH)
    assert scores.age.shape == (5, 0)


def test_ensemble_averages_branches(exported: Path, tmp_path: Path) -> None:
    paths = [exported / "0.onnx", exported / "1.onnx"]
    fused = tmp_path / "two.onnx"
    done = CliRunner().invoke(app.app, ["network", "ensemble", *map(str, paths), "-o", str(fused)])
    assert done.exit_code == 0, done.output
    alone = [
        FaceModel(model.session, model.card)(crops(11))
        for model in (registry.load_model(str(p), "face_model") for p in paths)
    ]
    model = registry.load_model(str(fused), "face_model")
    together = FaceModel(model.session, model.card)(crops(11))
    assert np.allclose(together.expression, np.mean([one.expression for one in alone], axis=0), atol=1e-6)
    assert np.allclose(together.embedding, np.hstack([one.embedding for one in alone]), atol=1e-5)
    assert model.card["embedding"] == 2 * two_branch.WIDTH
    assert [member["name"] for member in model.card["members"]] == ["0", "1"]


def test_ensemble_averages_networks(tmp_path: Path) -> None:
    """Average networks with age, gender, ethnicity and identity."""
    fused = tmp_path / "two.onnx"
    ensemble.fuse([registry.models_dir() / f"{name}.onnx" for name in ("mobilenetv1", "mobilenetv1-fp32")], fused)
    model = registry.load_model(str(fused), "face_model")
    shown = np.random.default_rng(2).integers(0, 256, (2, 128, 128, 3), np.uint8)
    scores = FaceModel(model.session, model.card)(shown)
    one = registry.load_model("mobilenetv1", "face_model")
    single = FaceModel(one.session, one.card)(shown)
    assert scores.identity.shape == (2, 2 * single.identity.shape[1])
    assert np.allclose(scores.age, single.age, atol=3)


def test_networks_with_other_crops_are_refused(exported: Path, tmp_path: Path) -> None:
    one, other = exported / "0.onnx", exported / "larger.onnx"
    with pytest.raises(ValueError, match=r"differs from .*0\.onnx in input; they cannot be averaged"):
        ensemble.fuse([one, other], tmp_path / "both.onnx")
    with pytest.raises(ValueError, match="at least two networks"):
        ensemble.fuse([one], tmp_path / "both.onnx")
    done = CliRunner().invoke(
        app.app, ["network", "ensemble", str(one), str(tmp_path / "no"), "-o", str(tmp_path / "both.onnx")]
    )
    assert done.exit_code == 4
    older = onnx.load(one)
    older.opset_import[0].version -= 1
    onnx.save(older, tmp_path / "older.onnx")
    with pytest.raises(ValueError, match="different ONNX versions; export them again"):
        ensemble.fuse([one, tmp_path / "older.onnx"], tmp_path / "both.onnx")
    assert not (tmp_path / "both.onnx").exists()


def test_opsets_are_merged(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported / "0.onnx")
    assert model.opset_import.pop().domain == "org.pytorch.aten"
    onnx.save(model, tmp_path / "one.onnx")
    ensemble.fuse([tmp_path / "one.onnx", exported / "1.onnx"], tmp_path / "both.onnx")
    assert registry.load_model(str(tmp_path / "both.onnx"), "face_model").card["embedding"] == 2 * two_branch.WIDTH


def test_imagenet_weights_are_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: None) -> None:
    monkeypatch.setattr(imagenet, "build", lambda name: mini_datasets.network())
    published, output = tmp_path / "weights.pth", tmp_path / "lite0.safetensors"
    values = mini_datasets.Backbone().state_dict().values()
    torch.save({f"layer {i}": torch.full_like(value, 2) for i, value in enumerate(values)}, published)
    monkeypatch.setattr(sys, "argv", ["imagenet", "efficientnet_lite0", str(published), "-o", str(output)])
    imagenet.main()
    recipe = TrainConfig(backbone="efficientnet_lite0")
    own = list(fit.initial_weights(recipe, None, pretrained=output).network.backbone.state_dict().values())
    assert torch.allclose(own[0], torch.tensor(2 / 127.5))
    assert (own[1] == 2).all()
    for other in (published, mini_datasets.published(tmp_path)):
        with pytest.raises(ValueError, match="does not contain weights of efficientnet_lite0"):
            fit.initial_weights(recipe, None, pretrained=other)
    torch.save({"layer": torch.zeros(3, 3)}, published)
    with pytest.raises(ValueError, match=r"is not for mobilenetv2_100: convolution\.weight has another shape"):
        imagenet.convert_weights("mobilenetv2_100", published)


class Residual(torch.nn.Module):
    """A layer, and residual EfficientNet blocks with or without excitation."""

    def __init__(self, width: int, blocks: int, *, excited: bool) -> None:
        """Initialise with random weights."""
        super().__init__()
        self.stem = torch.nn.Conv2d(3, width, 3, bias=False)
        self.blocks = torch.nn.ModuleList(torch.nn.ModuleDict(self._block(width, excited)) for _ in range(blocks))

    @staticmethod
    def _block(width: int, excited: bool) -> dict[str, torch.nn.Module]:
        layers = {"conv_pwl": torch.nn.Conv2d(width, width, 1, bias=False), "bn3": torch.nn.BatchNorm2d(width)}
        excitation = torch.nn.ModuleDict({"conv_expand": torch.nn.Conv2d(width, width, 1)})
        return {**layers, "se": excitation} if excited else layers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            inside = x * block["se"]["conv_expand"](x).sigmoid() if "se" in block else x
            x = x + block["bn3"](block["conv_pwl"](inside))
        return x


def test_grown_network_starts_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet, "OPEN", 30.0)
    torch.manual_seed(0)
    small, large = Residual(4, 1, excited=False).eval(), Residual(6, 3, excited=True).eval()
    small.blocks[0]["bn3"].running_mean.uniform_()
    large.load_state_dict(imagenet.grow_weights(small.state_dict(), large.state_dict()))
    pictures = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(large(pictures)[:, :4], small(pictures))
    assert large(pictures)[:, 4:].abs().min() > 0, "new channels can be trained"


def test_added_block_starts_as_identity() -> None:
    chance = torch.full((4,), 0.5)
    for key in ("blocks.2.3.bn3.weight", "blocks.0.1.bn2.weight"):
        assert not imagenet.grow_weights({}, {key: chance})[key].any()
    for key in ("blocks.2.3.bn2.weight", "blocks.0.1.bn1.weight"):
        assert imagenet.grow_weights({}, {key: chance})[key].equal(chance)


def test_growth_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: None) -> None:
    asked: list[str] = []
    output = tmp_path / "b2.safetensors"
    monkeypatch.setattr(imagenet, "convert_weights", lambda name, path: asked.append(name) or {})
    monkeypatch.setattr(imagenet, "build", lambda name: asked.append(name) or mini_datasets.network())
    monkeypatch.setattr(
        sys, "argv", ["imagenet", "efficientnet_b2", "lite0.pth", "-o", str(tmp_path / "b2.safetensors")]
    )
    imagenet.main()
    assert asked == ["efficientnet_lite0", "efficientnet_b2"]
    mini_datasets.Backbone().load_state_dict(safetensors.torch.load_file(output))


def test_two_branch_end_to_end(
    sources: DatasetPaths,
    cache: Path,
    published: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(export, "CALIBRATION", 8)
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"size": 32, "faces_per_class": 1, "steps": 1, "batch_size": 2, "warmup": 1}))
    options = {"--data": sources.root, "--weights": published, "--recipe": recipe, "--cache": cache}
    output = tmp_path / "made.onnx"
    words = [str(word) for option in options.items() for word in option]
    monkeypatch.setattr(sys, "argv", ["branches", *words, "--run", str(tmp_path / "run"), "-o", str(output)])
    two_branch.main()
    assert '{"step": 1, ' in capsys.readouterr().out
    assert registry.load_model(str(output), "face_model").card["recipe"]["steps"] == 1


def test_comparison_differs_in_one_setting() -> None:
    two = TwoBranchConfig.from_json(synthetic.TWO_BRANCH)
    recipes = synthetic.recipes(two)
    assert list(synthetic.recipes(two, ["mixup"])) == [key for key in recipes if key[2] == "mixup"]
    assert recipes["mobilenetv1", "two", two.mixing] == two
    for (backbone, way, mixing), recipe in recipes.items():
        assert (recipe.backbone, recipe.appearance_weight > 0, recipe.mixing) == (backbone, way == "two", mixing)
        assert replace(recipe, backbone=two.backbone, appearance_weight=two.appearance_weight, mixing=two.mixing) == two


def test_figures_of_comparison() -> None:
    labels = np.arange(60) % 6
    right = np.eye(6, dtype=np.float32)[labels]
    assert synthetic.macro_f1(labels, labels) == 1
    assert synthetic.macro_f1(labels, np.zeros(60, int)) == pytest.approx(2 / 7 / 6)
    wrong = np.roll(right, 1, axis=1)
    found = dict.fromkeys(synthetic.recipes(TwoBranchConfig()), wrong)
    rows = synthetic.table(found, right, labels)
    assert rows[0]["macro F1, %"].startswith("0.0 ")
    assert rows[-1]["what"] == "the shipped network"
    assert rows[-1]["above the best with one branch"].startswith("100.0 ")
    blends = {row["what"]: row["macro F1, %"].split()[0] for row in rows if "of it" in row["what"]}
    assert blends == {"0.3 of it, 0.7 of the shipped network": "100.0", "0.7 of it, 0.3 of the shipped network": "0.0"}


def test_backbones_start_from_shipped_network(tmp_path: Path) -> None:
    assert synthetic.start_path("mobilenetv1", tmp_path).name == "mobilenetv1-fp32.onnx"
    assert synthetic.start_path("mobilenetv2_100", tmp_path) == tmp_path / "mobilenetv2_100.safetensors"


def test_faces_without_majority_are_not_tested() -> None:
    votes = mini_datasets.faces(8, 0, "votes")
    kept, labels = synthetic.select_test_faces(votes)
    assert len(kept) == len(labels) == 6
    assert [two_branch.EXPRESSIONS[i] for i in labels] == [
        expression_transfer.CLASSES[i]
        for i in votes.votes.argmax(axis=1)
        if expression_transfer.CLASSES[i] in EXPRESSIONS
    ]
