"""Shared data sets, weights and models of the training tests."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import mini_datasets
from fervid.analysis.detector import Detector
from fervid.training import ferplus, mobilenet
from fervid.training.dataset_paths import DatasetPaths


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> DatasetPaths:
    """Create all data sets in miniature; tests must not change them."""
    return DatasetPaths(mini_datasets.data_sets(tmp_path_factory.mktemp("sets")))


@pytest.fixture
def copied(sources: DatasetPaths, tmp_path: Path) -> DatasetPaths:
    """Copy the data sets, so that a test may damage them."""
    return DatasetPaths(shutil.copytree(sources.root, tmp_path / "sets"))


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace timm by a module with one network, `tiny`."""

    def create_model(name: str, *, pretrained: bool, num_classes: int) -> mini_datasets.Backbone:
        assert (name, pretrained, num_classes) == ("tiny", False, 0)
        backbone = mini_datasets.Backbone()
        backbone.num_features = mini_datasets.WIDTH
        return backbone

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(list_models=lambda: ["tiny"], create_model=create_model))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create the cache folder for the faces of `sources`, so that they are cropped once for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write random weights in the published layout and return their manifest."""
    return mini_datasets.published(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="session")
def weights(published: Path) -> mobilenet.NamedTensors:
    """Read these weights."""
    return mobilenet.read_tensorflowjs(published)


@pytest.fixture(scope="session")
def detector() -> Detector:
    """Return the detector that crops FER+."""
    return ferplus.stills_detector()
