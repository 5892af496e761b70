"""Prepare what the pages in docs/papers need: miniature data sets, weights and schedules. Requires torch."""

from __future__ import annotations

import csv
import importlib.util
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

import clips
import mini_datasets
from docs_stage import change, faces, few_classifiers, optional_models, published
from fervid.training import ferplus

FEW = {
    "size": 32,
    "initial_size": 32,
    "steps": 2,
    "head_steps": 1,
    "warmup": 1,
    "expression_faces": 4,
    "batch_size": 4,
    "faces_per_class": 4,
}
"""Settings that replace those of a recipe."""

CHANCE = """
import timm, torch
for name, file in (
    ("efficientnet_lite0", "efficientnet-lite0-57934424.pth"),
    ("mobilenetv2_100", "mobilenet_v2-b0353104.pth"),
):
    torch.save(timm.create_model(name).state_dict(), file)
"""
TORCHVISION = """
# The names that timm imports; PyPI has no torchvision build for CPU-only torch.
import enum, sys, types
from torch import nn

class Mode(enum.Enum):
    NEAREST, BILINEAR, BICUBIC, BOX, HAMMING, LANCZOS = "nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"

class Module(types.ModuleType):
    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Mode if name == "InterpolationMode" else nn.Module

__path__ = []
for name in ("ops", "ops.misc", "transforms", "transforms.functional", "datasets", "datasets.folder", "models"):
    sys.modules[f"torchvision.{name}"] = Module(f"torchvision.{name}")
sys.modules["torchvision.models.feature_extraction"] = Module("torchvision.models.feature_extraction")

def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return sys.modules[f"torchvision.{name}"]
"""


def stills(sets: Path) -> None:
    """Write FER+ and the copies of its images by first label, with enough of each class for a split."""
    for name in ("ferplus", "faceexp"):
        shutil.rmtree(sets / name)
    (sets / "ferplus").mkdir()
    with (sets / "ferplus" / "fer2013new.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["Usage", "Image name", *ferplus.COLUMNS], restval=0)
        table.writeheader()
        number = 0
        for usage, each in (("Training", 7), ("PublicTest", 2), ("PrivateTest", 3)):
            for label in ferplus.CLASSES:
                for person in range(each):
                    name = f"fer{number:07}.png"
                    light = 1 - 0.005 * number  # so that no two are duplicates
                    view = np.uint8(clips.portrait(160, 160, 1.2, 222, 116, person) * light)
                    small = cv2.resize(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY), (48, 48), interpolation=cv2.INTER_AREA)
                    table.writerow({"Usage": usage, "Image name": name, label: 10})
                    mini_datasets.picture(sets / "ferplus" / "data" / ferplus.SPLITS[usage] / name, small)
                    if label in ferplus.FER2013_FOLDERS:
                        copy = cv2.resize(small, (96, 96), interpolation=cv2.INTER_CUBIC)
                        folder = sets / "faceexp" / "data" / ferplus.FER2013_FOLDERS[label]
                        mini_datasets.picture(folder / f"im{number:07}.jpg", copy)
                    number += 1


def films(kerc: Path) -> None:
    """Write KERC 2020 with the same eight actors in both parts, in clips of three frames."""
    for split, name in (("train", "frame_img/v{}-face_{}.jpg"), ("val", "new_Test_img/{}_{}.jpg")):
        lines = ["video_name,Valence,Arousal,Stress"]
        for number, (person, valence) in enumerate(itertools.product(range(8), (2, 5, 8)), 1):
            lines.append(f"{split.title()}/{number:04}.mp4,{valence},{1 + person},5")
            for frame, image in enumerate(faces(person, valence // 3)[:3]):
                mini_datasets.picture(kerc / name.format(number, frame), image)
        (kerc / f"{split}_mean.csv").write_text("\n".join(lines))


def backbones(place: Path) -> None:
    """Write files of random backbone weights as in published packages; none without timm."""
    if not importlib.util.find_spec("timm"):
        return
    if not importlib.util.find_spec("torchvision"):
        (place / "torchvision.py").write_text(TORCHVISION)
    subprocess.run([sys.executable, "-c", CHANCE], cwd=place, check=True)


def material(place: Path) -> Path:
    """Write miniature data sets and random initial weights."""
    sets = place / "sets"
    mini_datasets.data_sets(sets)
    stills(sets)
    films(sets / "kerc")
    published(sets)
    mini_datasets.published(place).rename(place / "faceres.json")
    backbones(place)
    return place


@contextmanager
def studied(place: Path, environment: pytest.MonkeyPatch) -> Iterator[None]:
    """Provide recipes of a few steps and the optional models."""
    few_classifiers(place)
    change(place / "benchmarks" / "backbones.py", "default=30", "default=1")
    change(place / "fervid" / "training" / "export.py", "CALIBRATION = 512", "CALIBRATION = 8")
    for path in (place / "models" / "recipes").iterdir():
        recipe = json.loads(path.read_text())
        path.write_text(json.dumps({**recipe, **{name: FEW[name] for name in FEW.keys() & recipe.keys()}}))
    with optional_models(place, environment):
        yield
