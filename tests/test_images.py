"""Downscaling by halves."""

from __future__ import annotations

import numpy as np
import pytest

from fervid.core.images import downscale_by_halves


@pytest.mark.parametrize("shape", [(4, 6), (5, 7), (4, 6, 3)])
def test_halving_averages_blocks(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    means = image[:4, :6].reshape(2, 2, 3, 2, -1).mean(axis=(1, 3)).reshape(2, 3, *shape[2:])
    np.testing.assert_allclose(downscale_by_halves(image, 1), means, atol=0.5)


def test_repeated_halving() -> None:
    image = np.full((9, 3, 3), 7, np.uint8)
    assert downscale_by_halves(image, 0) is image
    assert [downscale_by_halves(image, levels).shape[:2] for levels in (1, 2, 3, 9)] == [(4, 1), (2, 1), (1, 1), (1, 1)]
    assert (downscale_by_halves(image, 9) == 7).all()
