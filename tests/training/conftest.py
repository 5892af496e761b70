"""Data sets, weights and models that many tests of the training share."""

from __future__ import annotations

from pathlib import Path

import pytest

import mini_datasets
from fervid.analysis.detector import Detector
from fervid.training import ferplus, mobilenet
from fervid.training.faces import DatasetPaths


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> DatasetPaths:
    """Every data set in miniature; tests only read it."""
    return DatasetPaths(mini_datasets.data_sets(tmp_path_factory.mktemp("sets")))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the faces of `sources` are kept, so that they are cut once for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of random weights in the published layout."""
    return mini_datasets.published(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="session")
def weights(published: Path) -> mobilenet.NamedTensors:
    """Those weights."""
    return mobilenet.read_tensorflowjs(published)


@pytest.fixture(scope="session")
def detector() -> Detector:
    """The one that cuts FER+."""
    return ferplus.stills_detector()
