"""Halving averages two by two, and leaves nothing of a picture but its last odd row and column out."""

from __future__ import annotations

import numpy as np
import pytest

from fervid.core.images import downscale_by_halves


@pytest.mark.parametrize("shape", [(4, 6), (5, 7), (4, 6, 3)])
def test_four_pixels_become_their_mean(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    means = image[:4, :6].reshape(2, 2, 3, 2, -1).mean(axis=(1, 3)).reshape(2, 3, *shape[2:])
    np.testing.assert_allclose(downscale_by_halves(image, 1), means, atol=0.5)


def test_it_can_be_done_again_down_to_one_pixel_and_not_at_all() -> None:
    image = np.full((9, 3, 3), 7, np.uint8)
    assert downscale_by_halves(image, 0) is image
    assert [downscale_by_halves(image, times).shape[:2] for times in (1, 2, 3, 9)] == [(4, 1), (2, 1), (1, 1), (1, 1)]
    assert (downscale_by_halves(image, 9) == 7).all()
