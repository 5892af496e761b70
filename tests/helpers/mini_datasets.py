"""Make the inputs of the training tests: miniature data sets, weights as published, and a tiny network."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import clips
from fervid.training import ferplus, mobilenet
from fervid.training.batches import TrainingSets
from fervid.training.config import TrainConfig
from fervid.training.faces import FaceDataset
from fervid.training.network import FaceNetwork

WIDTH = 6

VOTES: Mapping[str, tuple[str, dict[str, int]]] = {
    "fer0000000.png": ("Training", {"happiness": 9, "neutral": 1}),  # a single vote is ignored
    "fer0000001.png": ("Training", {"sadness": 5, "neutral": 5}),
    "fer0000002.png": ("Training", {"unknown": 8, "fear": 2}),
    "fer0000003.png": ("Training", {"anger": 10}),  # same pixels as number 10
    "fer0000004.png": ("Training", {"contempt": 8, "neutral": 2}),
    "fer0000005.png": ("Training", {"disgust": 10}),
    "fer0000006.png": ("Training", {"fear": 7, "surprise": 3}),
    "fer0000007.png": ("Training", {"neutral": 10}),
    "fer0000008.png": ("Training", {"surprise": 10}),
    "fer0000009.png": ("Training", {"anger": 10}),
    "fer0000010.png": ("PublicTest", {"disgust": 6, "contempt": 4}),
    "fer0000011.png": ("PublicTest", {"happiness": 10}),
    "fer0000012.png": ("PrivateTest", {"surprise": 10}),
    "fer0000013.png": ("PrivateTest", {"neutral": 4, "sadness": 4, "fear": 2}),
    "fer0000014.png": ("PrivateTest", {"happiness": 10}),
}
FIRST: Mapping[str, str] = {  # folder of an image's copy; numbers 4 and 13 have none
    "fer0000000.png": "happy",
    "fer0000001.png": "sad",
    "fer0000005.png": "disgust",
    "fer0000006.png": "surprise",
    "fer0000007.png": "neutral",
    "fer0000008.png": "fear",
    "fer0000009.png": "angry",
    "fer0000010.png": "disgust",
    "fer0000011.png": "happy",
    "fer0000012.png": "surprise",
    "fer0000014.png": "happy",
}
PORTRAITS = (  # split, age, gender, ethnicity
    *((0, 8, 0, 0), (0, 44, 1, 2), (0, 81, 1, 4)),
    *((1, 27, 0, 1), (1, 35, 1, 3)),
    *((2, 1, 0, 0), (2, 33, 1, 1), (2, 52, 0, 2), (2, 109, 1, 3)),
)
RAFDB = {"train": (1, 2, 3, 4, 5, 6, 7) * 8, "test": (1, 4, 7, 3)}
"""Split -> the labels of its images, 1 to 7; each is left without the copies of test images."""
PEOPLE = {"000012.jpg": 2880, "000007.jpg": 31, "000031.jpg": 2880}


def still(number: int) -> np.ndarray:
    """Draw a grey image (48, 48) of the face; position and light differ by number."""
    place = 10 if number == 3 else number
    view = clips.portrait(160, 160, 1.2, 222 + place % 3, 116 + place % 5)
    small = cv2.resize(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY), (48, 48), interpolation=cv2.INTER_AREA)
    return np.uint8(small * (0.4 + 0.04 * place))


def data_sets(root: Path) -> Path:
    """Write all data sets in the folders of `DatasetPaths`; the images show the astronaut."""
    _ferplus(root / "ferplus")
    for name, folder in FIRST.items():
        copy = cv2.resize(still(int(name[3:10])), (96, 96), interpolation=cv2.INTER_CUBIC)
        picture(root / "faceexp" / "data" / folder / f"im{name[3:10]}.jpg", copy)
    for i, (split, age, gender, ethnicity) in enumerate(PORTRAITS):
        name = portrait_name(split, age, gender, ethnicity)
        picture(root / "utkface" / "data" / "UTKFace" / "unlabeled" / name, _lit(200, 200, 0.9, i, person=4 + i % 4))
    listed = {**PEOPLE, "000099.jpg": 31, "000020.jpg": 5}  # the first is missing, the second shows no face
    (root / "celeba").mkdir()
    (root / "celeba" / "identity_CelebA.txt").write_text("".join(f"{k} {v}\n" for k, v in listed.items()))
    for i, name in enumerate([*PEOPLE, "100000.jpg"]):  # the last is not listed
        picture(root / "celeba" / "images" / name, _lit(178, 218, 0.9, i))
    picture(root / "celeba" / "images" / "000020.jpg", clips.scenery(1, 178, 218)[0])
    for i, name in enumerate(("Ann_Lee/Ann_Lee_0001", "Ann_Lee/Ann_Lee_0003", "Bo/Bo_0001")):
        picture(root / "lfw" / "data" / f"{name}.jpg", _lit(250, 250, 0.8, i))
    picture(root / "lfw" / "data" / "Bo" / "Bo_0002.jpg", clips.scenery(1, 250, 250)[0])
    pairs = root / "lfwpairs" / "data" / "pairs.txt"
    pairs.parent.mkdir(parents=True)
    pairs.write_text("2\t1\nAnn_Lee\t1\t3\nAnn_Lee\t1\tBo\t1\nBo\t1\t2\nAnn_Lee\t3\tBo\t2\n")
    _expression_sets(root)
    return root


def _expression_sets(root: Path) -> None:
    """Write a few images of RAF-DB, four classes of AffectNet, contempt, SFEW, Java-SED and the frames of KERC."""
    rafdb = root / "rafdb" / "Dataset"
    for split, labels in RAFDB.items():
        (rafdb / "aligned" / split / f"{split}_images").mkdir(parents=True)
        rows = [(f"{split}_{number:04}_aligned.jpg", label) for number, label in enumerate(labels, 1)]
        (rafdb / f"{split}_labels.csv").write_text("image,label\n" + "".join(f"{n},{label}\n" for n, label in rows))
        for number, (name, _) in enumerate(rows):
            picture(rafdb / "aligned" / split / f"{split}_images" / name, close_face(100, number % 8, number))
    folders = ("affectnet4/fear", "affectnet4/happy", "affectnet4/neutral", "affectnet4/sad", "contempt/contempt")
    for number, folder in enumerate(folders):
        for image in range(6):
            picture(root / folder / f"image{image:03}.jpg", close_face(96, image, number))
    for number, name in enumerate(("Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")):
        still = clips.portrait(360, 288, 0.9, 222, 125, number)
        picture(root / "sfew" / "code_v2" / "data" / "Images" / name / f"film_{number}.png", still)
    for name, person in (("01-01-03_01", 1), ("01-01-01_01", 1), ("02-01-06_01", 2), ("06-01-06_01", 3)):
        path = root / "javased" / "dataset-resize" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        clips.write(path, clips.smiling(5, person=person), rate=5)
    for number in range(3):
        picture(root / "kerc" / "frame_img" / f"v1-face_{number}.jpg", clips.portrait(256, 256, 1.0, person=number))


def close_face(side: int, person: int, number: int) -> np.ndarray:
    """Draw a face that fills an image; the light differs by number."""
    return np.uint8(clips.portrait(side, side, side / 160, 222, 116, person) * (1 - 0.05 * number % 0.4))


def films(root: Path) -> Path:
    """Write KERC 2020: a clip of each valence in both parts, two frames each, and one without a face."""
    parts = (("train", "frame_img/v{}-face_{}.jpg"), ("val", "new_Test_img/{}_{}.jpg"))
    for number, (split, name) in enumerate(parts):
        lines = ["video_name,Valence,Arousal,Stress"]
        for clip, valence in enumerate((2, 5, 8), 1 + 4 * number):
            lines.append(f"{split.title()}/{clip:04}.mp4,{valence},5,5")
            for frame in range(2):
                picture(root / name.format(clip, frame), _lit(160, 160, 1.1, clip + frame))
        (root / f"{split}_mean.csv").write_text("\n".join(lines))
    with (root / "val_mean.csv").open("a") as table:
        table.write("\nVal/0009.mp4,8,5,5")
    picture(root / "new_Test_img" / "9_0.jpg", clips.scenery(1, 160, 160)[0])
    return root


def portrait_name(split: int, age: int, gender: int, ethnicity: int) -> str:
    """Make a file name of UTKFace that belongs to a split."""
    names = (f"{age}_{gender}_{ethnicity}_2017{number:013}.jpg.chip.jpg" for number in range(1000))
    return next(name for name in names if min(hashlib.sha256(name.encode()).digest()[0] % 10, 2) == split)


def _ferplus(folder: Path) -> None:
    folder.mkdir(parents=True)
    with (folder / "fer2013new.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["Usage", "Image name", *ferplus.COLUMNS], restval=0)
        writer.writeheader()
        for name, (usage, votes) in VOTES.items():
            writer.writerow({"Usage": usage, "Image name": name, **votes})
            picture(folder / "data" / ferplus.SPLITS[usage] / name, still(int(name[3:10])))


def _lit(width: int, height: int, zoom: float, number: int, person: int = 0) -> np.ndarray:
    view = clips.portrait(width, height, zoom, 222 + number, 125 - number, person)
    return np.uint8(view * (1 - 0.06 * number))


def picture(path: Path, image: np.ndarray) -> None:
    """Write an RGB or grey image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)


def published(folder: Path) -> Path:
    """Write random weights in the layout of the published TensorFlow.js files, and return the manifest."""
    chance = np.random.default_rng(3)
    nodes: list[dict[str, Any]] = []
    tensors: dict[str, np.ndarray] = {}

    def add(name: str, operator: str, inputs: list[str], stride: int = 0) -> str:
        attributes = {"strides": {"list": {"i": ["1", str(stride), str(stride), "1"]}}} if stride else {}
        nodes.append({"name": name, "op": operator, "input": inputs, "attr": attributes})
        return name

    def weight(name: str, *shape: int, scale: float = 1.0) -> str:
        tensors[name] = (chance.normal(0, scale, shape)).astype(np.float16)
        return name

    def clipped(name: str, x: str) -> str:
        six, zero = weight(f"{name}/Cast"), weight(f"{name}/Const_1")
        tensors[six], tensors[zero] = np.float16(6), np.float16(0)
        x = add(f"{name}/Relu", "Relu", [x])
        return add(f"{name}/max", "Maximum", [add(f"{name}/min", "Minimum", [x, six]), zero])

    x = add(
        "conv1_bn/batchnorm_1/mul_1",
        "Conv2D",
        ["input_1", weight("conv1/convolution/merged_input", 3, 3, 3, 32, scale=0.01)],
        2,
    )
    x = clipped("conv1_relu", add("c1", "Add", [x, weight("conv1_bn/batchnorm_1/sub", 32)]))
    channels = 32
    for i, (width, stride) in enumerate(mobilenet.BLOCKS, start=1):
        x = add(
            f"dw{i}",
            "DepthwiseConv2dNative",
            [x, weight(f"conv_dw_{i}/depthwise_kernel", 3, 3, channels, 1, scale=0.4)],
            stride,
        )
        x = add(f"dm{i}", "Mul", [x, weight(f"conv_dw_{i}_bn/batchnorm_1/mul", channels)])
        x = clipped(f"dr{i}", add(f"da{i}", "Add", [x, weight(f"conv_dw_{i}_bn/batchnorm_1/sub", channels)]))
        x = add(
            f"pw{i}",
            "Conv2D",
            [x, weight(f"conv_pw_{i}/convolution/merged_input", 1, 1, channels, width, scale=channels**-0.5)],
            1,
        )
        x = clipped(f"pr{i}", add(f"pa{i}", "Add", [x, weight(f"conv_pw_{i}_bn/batchnorm_1/sub", width)]))
        channels = width
    add("pooled", "Mean", [x, "axes"])
    for name, shape in (("feats", (1024, 256)), ("age_pred", (256, 100)), ("gender_pred", (256, 1))):
        weight(f"{name}/kernel", *shape, scale=0.05)
        weight(f"{name}/bias", shape[1])
    entries = [
        {"name": name, "shape": list(value.shape), "dtype": "float32", "quantization": {"dtype": "float16"}}
        for name, value in tensors.items()
    ]
    (folder / "weights.bin").write_bytes(b"".join(value.tobytes() for value in tensors.values()))
    manifest = {"modelTopology": {"node": nodes}, "weightsManifest": [{"paths": ["weights.bin"], "weights": entries}]}
    (folder / "model.json").write_text(json.dumps(manifest))
    return folder / "model.json"


class Backbone(nn.Module):
    """A strided convolution, batch normalisation, a pointwise convolution, and the mean over the image."""

    def __init__(self) -> None:
        """Initialise with random weights."""
        super().__init__()
        self.convolution = nn.Conv2d(3, WIDTH, 3, 2, 1)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.mixing = nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        return functional.relu6(self.mixing(functional.relu6(self.norm(self.convolution(pictures))))).mean(dim=(2, 3))


def network(seed: int = 0) -> FaceNetwork:
    """Make a network of a few thousand random weights."""
    torch.manual_seed(seed)
    return FaceNetwork(Backbone(), WIDTH)


def recipe(**settings: Any) -> TrainConfig:
    """Make a recipe of a few steps and small batches."""
    small = {
        "size": 16,
        "steps": 6,
        "head_steps": 0,
        "warmup": 1,
        "expression_faces": 5,
        "attribute_faces": 3,
        "identity_faces": 2,
    }
    return TrainConfig.from_dict({**small, **settings})


def faces(count: int, seed: int, *known: str) -> FaceDataset:
    """Make noise faces with the given labels; every class of the votes and of the FER2013 labels occurs."""
    chance = np.random.default_rng(seed)
    votes = np.eye(8, dtype=np.float32)[np.arange(count) % 8] * 0.7
    votes[np.arange(count), (np.arange(count) + 5) % 8] += 0.3
    labels = {
        "votes": votes,
        "first": np.where(np.arange(count) % 8 == 1, -1, np.arange(count) % 8),
        "age": chance.integers(1, 90, count),
        "gender": np.arange(count) % 2,
        "ethnicity": np.arange(count) % 5,
        "person": np.arange(count) // 2,
    }
    crops = chance.integers(0, 256, (count, 36, 36, 3), np.uint8)
    return FaceDataset.from_labels(list(crops), **{name: labels[name] for name in known})


def data(width: int = WIDTH) -> TrainingSets:
    """Make enough faces for `recipe`, with initial embeddings of a width."""
    starting = np.random.default_rng(0).normal(size=(9, width)).astype(np.float32)
    return TrainingSets(
        faces(16, 1, "votes", "first"),
        faces(5, 2, "age", "gender", "ethnicity"),
        faces(4, 3, "person"),
        starting / np.linalg.norm(starting, axis=1, keepdims=True),
        faces(9, 4, "votes", "first"),
        faces(6, 5, "age", "gender", "ethnicity"),
    )
