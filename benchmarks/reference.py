"""Compare the time of fervid on every frame with that of a typical loop, in pairs within one run.

python benchmarks/reference.py CLIP... [--detector blazeface-back | mtcnn] [--no-spinning] [--seconds 4] [--repeat 3]
    [--json FILE]

Requires the extras training and backbones, and facenet-pytorch for mtcnn. The loop reads with OpenCV and detects faces
in every frame, either with the shipped detector (blazeface-back, on the whole frame and its tiles) or with the MTCNN of
facenet-pytorch (default settings, faces with a probability of at least 90 %). It runs every face of 224 pixels
separately through an EfficientNet-B0 in float32 with onnxruntime. The weights are random, which does not affect the
time. The probabilities are averaged over the clip. By default, the threads of torch (detection) and onnxruntime
(classification) compete for the CPUs; `--no-spinning` stops those of onnxruntime from spinning.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
from network import show
from timing import medians, ratios, round_figures, save, time_in_turn

import fervid
from fervid.analysis.detector import Detector
from fervid.core.records import Box, FloatArray, Image
from fervid.models import registry

Finder = Callable[[Image], list[Box]]  # image (h, w, 3) RGB -> boxes of faces
BACKBONE, SIDE, CLASSES = "efficientnet_b0", 224, 8
MIN_PROBABILITY = 0.9  # minimum probability of a face for MTCNN, as in the tutorials
MEAN, DEVIATION = (np.array(values, np.float32) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def export_backbone(folder: Path) -> Path:
    """Export the network with random weights to ONNX."""
    import timm
    import torch

    from fervid.training.torch_to_onnx import export_to_onnx

    path = folder / f"{BACKBONE}.onnx"
    network = timm.create_model(BACKBONE, num_classes=CLASSES)
    path.write_bytes(
        export_to_onnx(network, torch.zeros(1, 3, SIDE, SIDE), "images", ["logits"], {}).SerializeToString()
    )
    return path


def read_frames(path: Path, seconds: float) -> Iterator[Image]:
    """Read images (h, w, 3) RGB of the first seconds of a clip."""
    capture = cv2.VideoCapture(str(path))
    try:
        while capture.isOpened():
            ok, image = capture.read()
            if not ok or capture.get(cv2.CAP_PROP_POS_MSEC) >= 1000 * seconds:
                return
            yield np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
    finally:
        capture.release()


def make_blazeface() -> Finder:
    """Make a function that detects faces with the shipped detector."""
    found = registry.load_model("blazeface-back", "detector", cv2.getNumberOfCPUs())
    detector = Detector(found.session, found.card)
    return lambda image: [face.box for face in detector.detect(image)]


def make_mtcnn() -> Finder:
    """Make a function that detects faces with MTCNN (Zhang et al., arXiv 1604.02878) and its default settings."""
    from facenet_pytorch import MTCNN

    model = MTCNN(device="cpu")

    def detect(image: Image) -> list[Box]:
        boxes, scores = model.detect(image)
        return (
            []
            if boxes is None
            else [tuple(box) for box, one in zip(boxes, scores, strict=True) if one >= MIN_PROBABILITY]
        )

    return detect


FINDERS: dict[str, Callable[[], Finder]] = {"blazeface-back": make_blazeface, "mtcnn": make_mtcnn}


def crop_face(image: Image, box: Box) -> FloatArray:
    """Crop and normalise a face (1, 3, s, s) for the network."""
    height, width = image.shape[:2]
    left, top = (min(max(0, round(low)), side - 1) for low, side in zip(box[:2], (width, height), strict=True))
    right, bottom = (max(round(high), low + 1) for high, low in zip(box[2:], (left, top), strict=True))
    scaled = cv2.resize(image[top:bottom, left:right], (SIDE, SIDE))
    return ((scaled / np.float32(255) - MEAN) / DEVIATION).transpose(2, 0, 1)[None]


def predict(path: Path, seconds: float, detect: Finder, session: onnxruntime.InferenceSession) -> FloatArray | None:
    """Compute the mean probabilities (c,) over the faces of all frames; None without a face."""
    probabilities = []
    for image in read_frames(path, seconds):
        for box in detect(image):
            (logits,) = session.run(None, {"images": crop_face(image, box)})
            odds = np.exp(logits[0] - logits[0].max())
            probabilities.append(odds / odds.sum())
    return np.mean(probabilities, axis=0) if probabilities else None


def open_session(network: Path, *, spinning: bool) -> onnxruntime.InferenceSession:
    """Open the network, with or without threads that spin while they wait, the default of onnxruntime."""
    settings = onnxruntime.SessionOptions()
    settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    return onnxruntime.InferenceSession(network, settings)


def measure(
    path: Path, seconds: float, detector: str, session: onnxruntime.InferenceSession, repeat: int
) -> dict[str, Any]:
    """Make the row of one clip."""
    detect = FINDERS[detector]()
    ours = fervid.load_classifier(options=fervid.Options(fervid.Sampling(fps=None, end=seconds)))
    predict(path, min(seconds, 0.2), detect, session)  # warm-up
    result = ours.classify_or_error(path)
    rows = time_in_turn(
        {
            "reference": lambda: predict(path, seconds, detect, session),
            "every frame": lambda: ours.classify_or_error(path),
        },
        repeat,
    )
    return {
        "clip": path.name,
        "detector": detector,
        "frames": sum(1 for _ in read_frames(path, seconds)),
        "frames of fervid": result.frames_sampled,
        "people": len(result.people),
        **{f"{name}, s": round_figures(spent) for name, spent in medians(rows).items()},
        "times every frame": round_figures(ratios(rows, "every frame")["reference"]),
    }


def main() -> None:
    """Measure each clip and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--detector", choices=FINDERS, default="blazeface-back", help="detector of the loop")
    parser.add_argument("--no-spinning", action="store_true")
    parser.add_argument("--seconds", type=float, default=4, help="seconds of each clip; the loop is slow")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(export_backbone(Path(folder)), spinning=not arguments.no_spinning)
        rows = [
            measure(path, arguments.seconds, arguments.detector, session, arguments.repeat) for path in arguments.clips
        ]
    show(rows, None)
    save({"repeat": arguments.repeat, "seconds": arguments.seconds, "clips": rows}, arguments.json)


if __name__ == "__main__":
    main()
