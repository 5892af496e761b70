"""Test the comparison of joint training with training for expression only."""

from __future__ import annotations

from dataclasses import astuple, replace

import joint
import numpy as np
import pytest

import mini_datasets
from fervid.models import registry
from fervid.training.batches import BatchSampler, TrainingSets


@pytest.fixture(scope="module")
def data() -> TrainingSets:
    return mini_datasets.data()


def test_methods_see_the_same_expressions() -> None:
    single, filled, masked = (joint.make_recipe(method, 7) for method in joint.METHODS)
    assert [recipe.expression_faces for recipe in (single, filled, masked)] == [masked.expression_faces] * 3
    assert [recipe.attribute_faces for recipe in (single, filled, masked)] == [0, 0, masked.attribute_faces]
    assert replace(filled, attribute_faces=masked.attribute_faces) == masked
    assert sum(astuple(single.weights)) == masked.weights.expression == single.weights.expression
    assert masked.seed == 7


def test_missing_attributes_are_filled(data: TrainingSets) -> None:
    filled = joint.fill_attributes(data.attributes[:3], registry.load_model(joint.TEACHER, "face_model"))
    assert ((filled.age > 0) & (filled.age < 100)).all()
    assert set(filled.gender) <= {0, 1}
    assert ((filled.ethnicity >= 0) & (filled.ethnicity < 5)).all()
    np.testing.assert_array_equal(filled.votes, data.attributes.votes[:3])


def test_batches_without_people(data: TrainingSets) -> None:
    unmeasured = replace(data, people=data.people[:0], initial_embeddings=np.zeros((len(data.attributes), 1)))
    recipe = mini_datasets.recipe(identity_faces=0)
    _, targets = BatchSampler(recipe, unmeasured)(0)
    assert len(targets.votes) == recipe.expression_faces + recipe.attribute_faces


def test_differences_are_paired() -> None:
    truth = np.tile([0, 2, 3, 4], 25)
    single = np.stack([np.where(np.arange(100) % 4 == 0, 2, truth)] * 2)
    better = np.stack([truth, single[0]])
    row = joint.make_row(joint.METHODS[1], truth, better, single)
    assert row["accuracy"].startswith("87.50% (")
    assert row["mean recall"].startswith("87.50% (")
    assert row["seeds"] == "100.00%, 75.00%"
    assert row["difference"].startswith("12.50% (")
    assert float(row["p"]) < 0.01
    assert joint.make_row(joint.METHODS[0], truth, single, single)["difference"] == ""
