"""Test reading KERC 2020 with valence, and evaluating emotions as valence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import feature_fixtures
import mini_datasets
from fervid.core.errors import DatasetError
from fervid.models import registry
from fervid.training import kerc
from fervid.training.ferplus import CLASSES


def test_film_clips_are_preprocessed(tmp_path: Path) -> None:
    folder, cache = mini_datasets.films(tmp_path / "kerc"), tmp_path / "cache"
    known = kerc.load_features(folder, cache)
    assert known.labels == ("negative", "neutral", "positive")
    assert known.truth.tolist() == [0, 1, 2] * 2
    assert [sample.split for sample in known.table.samples] == ["train"] * 3 + ["val"] * 3
    assert [sample.path.name for sample in known.no_face_samples] == ["9_*.jpg"]
    assert known.groups.tolist() == [0] * 6, "all clips have the same face"
    assert known.table.provenance["face_model"] == registry.DEFAULTS["face_model"]
    kept = sorted(cache.iterdir())
    assert len(kept) == 7
    again = kerc.load_features(folder, cache, target="valence")
    assert sorted(cache.iterdir()) == kept
    assert (again.target, again.truth.tolist()) == ("valence", [2, 5, 8] * 2)
    other = kerc.load_features(folder, cache, "mobilenetv1-fp32", strides=(2,))
    assert len(list(cache.iterdir())) == 14
    assert (other.table.provenance["face_model"], list(other.table.by_stride)) == ("mobilenetv1-fp32", [2])


def test_folder_without_films_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is not a folder"):
        kerc.load_features(tmp_path / "nothing")


@pytest.mark.usefixtures("quick")
def test_probabilities_of_merged_classes_are_added() -> None:
    known = feature_fixtures.known(("negative", "neutral", "positive"), people=2, each=1)
    said = np.zeros((6, 8), np.float32)
    for row, emotions in enumerate(
        (
            {"happiness": 0.4, "anger": 0.2, "contempt": 0.1, "disgust": 0.1, "fear": 0.1, "sadness": 0.1},
            {"happiness": 0.4, "neutral": 0.3, "surprise": 0.3},
            {"happiness": 0.4, "neutral": 0.3, "sadness": 0.3},
            {"happiness": 1.0},
            {"surprise": 1.0},
            {"sadness": 1.0},
        )
    ):
        for emotion, share in emotions.items():
            said[row, CLASSES.index(emotion)] = share
    report = kerc.to_valence_report(known, said, CLASSES)
    assert report["answered"]["confusion"] == [[1, 0, 1, 0], [0, 2, 0, 0], [1, 0, 1, 0]]
    assert report["answered"]["recall"] == {"negative": 0.5, "neutral": 1.0, "positive": 0.5}
