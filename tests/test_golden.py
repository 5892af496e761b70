"""Records of the clips of examples/ are unchanged; `python tests/helpers/golden.py` accepts new ones."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import golden

PROBABILITY_TOLERANCE = 0.05
"""int8 kernels differ between processors."""
FEATURE_TOLERANCE = 0.1
"""In standard deviations of the values of a statistic."""


def assert_close(actual: Any, expected: Any, place: str = "") -> None:
    """Whether both are alike: numbers within a tolerance, all else equal."""
    if isinstance(expected, dict):
        assert list(actual) == list(expected), place
        for key, value in expected.items():
            assert_close(actual[key], value, f"{place}.{key}")
    elif isinstance(expected, list):
        assert len(actual) == len(expected), place
        for i, value in enumerate(expected):
            assert_close(actual[i], value, f"{place}[{i}]")
    elif isinstance(expected, float):
        scale = max(1.0, abs(expected))
        assert actual == pytest.approx(expected, abs=PROBABILITY_TOLERANCE * scale), place
    else:
        assert actual == expected, place


def test_records_match_golden_records() -> None:
    assert_close(golden.compute_records(), json.loads(golden.RECORDS.read_text()))


def test_features_match_golden_features() -> None:
    actual, expected = golden.compute_features(), json.loads(golden.FEATURES.read_text())
    assert actual["version"] == expected["version"], "write tests/golden again after raising FEATURE_VERSION"
    for clip, statistics in expected["features"].items():
        for name, values in statistics.items():
            spread = max(float(np.std(values)), 0.05)
            np.testing.assert_allclose(
                actual["features"][clip][name],
                values,
                atol=FEATURE_TOLERANCE * spread + 0.02,
                err_msg=f"{clip} {name}: raise FEATURE_VERSION and write tests/golden again",
            )
