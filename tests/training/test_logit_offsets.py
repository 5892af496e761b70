"""Test fitting logit offsets on validation sets."""

from __future__ import annotations

import numpy as np

from fervid.training.logit_offsets import GRID, fit_logit_offsets


def test_offsets_raise_rarely_predicted_class() -> None:
    labels = np.repeat([0, 1], [40, 10])
    logits = np.zeros((50, 2), np.float32)
    logits[:40, 0], logits[40:, 0] = 2, 0.55
    offsets = fit_logit_offsets([(logits, labels)], 2)
    assert 0.55 < offsets[1] - offsets[0] < 2
    assert ((logits + offsets).argmax(axis=1) == labels).all()


def test_offsets_of_a_perfect_classifier_are_zero() -> None:
    labels = np.arange(30) % 3
    assert not fit_logit_offsets([(np.eye(3, dtype=np.float32)[labels], labels)], 3).any()


def test_offsets_of_missing_class_are_limited_by_other_set() -> None:
    labels = np.arange(40) % 2
    lacking = np.eye(3, dtype=np.float32)[labels]
    lacking[::2, 2] = 1.5
    having = np.eye(3, dtype=np.float32)[np.arange(60) % 3] * 4
    offsets = fit_logit_offsets([(lacking, labels), (having, np.arange(60) % 3)], 3)
    assert min(GRID) < offsets[2] - offsets[:2].max() <= -0.5
    assert ((having + offsets).argmax(axis=1) == np.arange(60) % 3).all()
